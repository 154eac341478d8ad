//! Names of servers in a root directory with nothing in it, where the C library's getaddrinfo of a static binary finds
//! no module and crashes.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::net::testing::{self as kernel, fresh};

/// What a server called `name` says to a thread whose root is this directory. Needs root, and says so loudly.
fn ask_in(root: &Path, name: &str, fake: &Fake) -> Outcome<Option<Value>> {
    let outside = tempfile::tempdir().unwrap();
    let server = json!({"server": format!("http://{name}:{}", fake.address.port())});
    let limits = Limits { connect: Duration::from_secs(3), request: Duration::from_secs(3), ..Limits::new(None) };
    let api = testing::api(&testing::kubeconfig(outside.path(), &server, &json!({})), limits);
    thread::scope(|scope| {
        let asked = scope.spawn(|| {
            // Root and working directory of this thread alone.
            unshare(CloneFlags::CLONE_FS).unwrap();
            nix::unistd::chroot(root).expect("chroot needs root (CAP_SYS_CHROOT)");
            nix::unistd::chdir("/").unwrap();
            block_on(api.get_pod("prod", "web"))
        });
        asked.join().unwrap()
    })
}

#[test]
fn an_empty_root_knows_addresses_and_localhost_and_refuses_other_names() {
    let root = tempfile::tempdir().unwrap();
    let fake = Fake::new(|_| Reply::Json(200, json!({"ok": true})));
    for name in ["127.0.0.1", "localhost"] {
        assert_eq!(ask_in(root.path(), name, &fake).unwrap().unwrap()["ok"], true, "{name}");
    }
    let failure = ask_in(root.path(), "api.example", &fake).unwrap_err();
    assert_eq!(failure.code, Code::ApiUnreachable);
    assert!(failure.msg.contains("name api.example is not known"), "{failure}");
}

#[test]
fn names_out_of_etc_hosts() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc/hosts"), "# a comment\n127.0.0.1\tcp.example control-plane\n").unwrap();
    let fake = Fake::new(|seen| Reply::Json(200, json!({"host": seen.headers["host"]})));
    for name in ["cp.example", "control-plane"] {
        let host = ask_in(root.path(), name, &fake).unwrap().unwrap()["host"].clone();
        assert_eq!(host, format!("{name}:{}", fake.address.port()));
    }
}

#[test]
fn names_by_the_servers_of_resolv_conf_with_search_domains() {
    let ns = fresh();
    block_on(async { kernel::up(&ns.netlink().unwrap(), "lo").await });
    ns.enter(|| {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        let conf = "search cluster.example\nnameserver 127.0.0.1\noptions ndots:1 timeout:1\n";
        fs::write(root.path().join("etc/resolv.conf"), conf).unwrap();
        let dns = UdpSocket::bind("127.0.0.1:53").unwrap();
        thread::spawn(move || answer(&dns, "api.cluster.example"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Fake::serve(listener, None, |_| Reply::Json(200, json!({"ok": true})));
        for name in ["api.cluster.example", "api"] {
            assert_eq!(ask_in(root.path(), name, &fake).unwrap().unwrap()["ok"], true, "{name}");
        }
        let failure = ask_in(root.path(), "other.cluster.example", &fake).unwrap_err();
        assert!(failure.msg.contains("other.cluster.example"), "{failure}");
    })
    .unwrap();
}

/// A name server that knows one name, at 127.0.0.1 (RFC 1035, 4.1).
fn answer(socket: &UdpSocket, known: &str) {
    let mut question = [0; 512];
    loop {
        let (length, from) = socket.recv_from(&mut question).unwrap();
        let mut name = String::new();
        let mut at = 12;
        while question[at] != 0 {
            let end = at + 1 + usize::from(question[at]);
            name.push_str(std::str::from_utf8(&question[at + 1..end]).unwrap());
            name.push('.');
            at = end;
        }
        let (asked, type_a) = (&question[12..(at + 5).min(length)], question[at + 2] == 1);
        let is_known = name.trim_end_matches('.').eq_ignore_ascii_case(known);
        let mut reply = question[..2].to_vec();
        reply.extend([0x81, if is_known { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(is_known && type_a), 0, 0, 0, 0]);
        reply.extend(asked);
        if is_known && type_a {
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
        }
        socket.send_to(&reply, from).unwrap();
    }
}
