//! Servers that fail, fall silent, or are not there.

use std::net::TcpListener;
use std::time::Instant;

use super::*;

fn get(api: &Api) -> Outcome<Option<Value>> {
    block_on(api.get_pod("prod", "web"))
}

#[test]
fn a_server_that_fails_for_a_while_is_asked_again() {
    let tmp = tempfile::tempdir().unwrap();
    for first in [status(500, "etcd"), status(503, "starting"), status(429, "busy"), Reply::Reset] {
        let fake = script(vec![first, Reply::Json(200, json!({"ok": true}))]);
        let began = Instant::now();
        assert_eq!(get(&fake.api(tmp.path(), short())).unwrap().unwrap()["ok"], true);
        assert_eq!(fake.lines().len(), 2);
        assert!(began.elapsed() >= Duration::from_millis(250));
    }
}

#[test]
fn a_busy_server_says_for_how_long() {
    let tmp = tempfile::tempdir().unwrap();
    let wait = |code, after| {
        let busy = Reply::With(code, vec![("retry-after", after)], String::new());
        let fake = script(vec![busy, Reply::Json(200, json!({}))]);
        let began = Instant::now();
        (get(&fake.api(tmp.path(), short())).map(|_| ()), began.elapsed())
    };
    let (outcome, time) = wait(429, "1");
    assert!(outcome.is_ok() && time >= Duration::from_secs(1), "{time:?}");
    let (outcome, time) = wait(503, "1");
    assert!(outcome.is_ok() && time < Duration::from_secs(1), "{time:?}");
    let (outcome, time) = wait(429, "3600");
    assert!(outcome.unwrap_err().code == Code::ApiUnreachable && time < Duration::from_secs(1), "told at once");
}

#[test]
fn no_answer_ends_with_the_deadline_and_says_what_happened() {
    let tmp = tempfile::tempdir().unwrap();
    let silent = Fake::new(|_| Reply::Silence(Duration::from_secs(5)));
    let broken = Fake::new(|_| status(500, "etcdserver: no leader"));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = testing::kubeconfig(tmp.path(), &json!({"server": format!("http://{closed}")}), &json!({}));
    let nobody = testing::api(&nobody, short());
    let (silent, broken) = (silent.api(tmp.path(), short()), broken.api(tmp.path(), short()));
    for (api, why) in [(silent, "no answer within 0.7 s"), (broken, "500 etcdserver: no leader"), (nobody, "refused")] {
        let began = Instant::now();
        let failure = get(&api).unwrap_err();
        let time = began.elapsed();
        assert_eq!(failure.code, Code::ApiUnreachable);
        assert!(failure.msg.contains(why) && failure.msg.contains("get pod prod/web"), "{failure}");
        assert!(time >= Duration::from_millis(700) && time < Duration::from_millis(1700), "{why}: {time:?}");
        let began = Instant::now();
        let failure = get(&api).unwrap_err();
        assert!(failure.code == Code::ApiUnreachable && began.elapsed() < Duration::from_millis(600), "{failure}");
    }
}

/// Each try by itself, whatever comes of it.
#[test]
fn requests_are_told_to_who_counts() {
    let tmp = tempfile::tempdir().unwrap();
    let fake = script(vec![
        Reply::Reset,
        status(503, "not now"),
        Reply::Json(200, json!({})),
        status(404, "no"),
        Reply::Silence(Duration::from_secs(5)),
        Reply::Reset,
    ]);
    let heard = std::sync::Arc::new(Mutex::new(Vec::new()));
    let into = heard.clone();
    let count = move |a: &Asked<'_>| into.lock().unwrap().push(format!("{} {} {}", a.verb, a.resource, a.outcome));
    let api = fake.api(tmp.path(), short()).lasting().counted(std::sync::Arc::new(count));
    block_on(async {
        api.get_pod("prod", "web").await.unwrap();
        api.get_pod("prod", "web").await.unwrap();
        assert!(api.watch(&Collection::nads(), "0").await.is_err());
    });
    let pod = |outcome: &str| format!("get pods {outcome}");
    let watch = "watch network-attachment-definitions timeout".to_owned();
    assert_eq!(*heard.lock().unwrap(), [pod("unreachable"), pod("503"), pod("200"), pod("404"), watch]);
}

#[test]
fn a_server_that_takes_no_connection_is_given_up_within_its_own_limit() {
    let tmp = tempfile::tempdir().unwrap();
    // A full backlog: the kernel drops further SYNs.
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Stream,
        nix::sys::socket::SockFlag::empty(),
        None,
    )
    .unwrap();
    let any = nix::sys::socket::SockaddrIn::new(127, 0, 0, 1, 0);
    nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &any).unwrap();
    nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let _full: Vec<_> = (0..2)
        .filter_map(|_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok())
        .collect();
    let file = testing::kubeconfig(tmp.path(), &json!({"server": format!("http://{address}")}), &json!({}));
    let failure = get(&testing::api(&file, short())).unwrap_err();
    assert_eq!(failure.code, Code::ApiUnreachable);
    assert!(failure.msg.contains("no connection within 0.5 s"), "{failure}");
}

#[test]
fn time_between_questions_does_not_count() {
    let tmp = tempfile::tempdir().unwrap();
    let fake = Fake::new(|_| Reply::Json(200, json!({})));
    let api = fake.api(tmp.path(), short());
    block_on(async {
        api.get_pod("prod", "web").await.unwrap();
        tokio::time::sleep(Duration::from_millis(1400)).await;
        api.get_pod("prod", "web").await.unwrap();
    });
    assert_eq!(fake.seen()[1].connection, 0);
}

#[test]
fn nothing_is_sent_before_it_is_asked() {
    let tmp = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let server = json!({"server": format!("https://{}", listener.local_addr().unwrap())});
    let exec = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "touch",
        "args": [tmp.path().join("ran")]}});
    let _api = testing::api(&testing::kubeconfig(tmp.path(), &server, &exec), short());
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert!(!tmp.path().join("ran").exists());
}

#[test]
fn the_limits_of_a_call() {
    let s = Duration::from_secs;
    assert_eq!(Limits::new(None), Limits { connect: s(3), request: s(5), total: s(7) });
    assert_eq!(Limits::new(Some(s(4))), Limits { connect: s(3), request: s(4), total: s(4) });
    assert_eq!(Limits::new(Some(s(30))), Limits { connect: s(3), request: s(5), total: s(30) });
}
