//! Watches, answers and statuses together, against an API server that changes, fails and comes back.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::LocalSet;

use super::known::Trust;
use super::testing::{Cluster, context, eventually, nad, nad_object, pod_object, vmi_object};
use super::*;
use crate::nad::Nad;
use crate::plan::testing::call;
use crate::protocol::{Name, Note, Untold};
use crate::resolve::{Copies, Pod, Sources, Wish};
use crate::store::{Journal, Pending, full};
use crate::types::{AttachmentId, PodRef, Role};

const ARGS: &str = "K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web;K8S_POD_UID=u1";

fn asks_for(networks: &str) -> Value {
    json!({"k8s.v1.cni.cncf.io/networks": networks, "of no use": "x"})
}

/// All duties on one thread, while the test talks to them.
fn with_agent(ctx: &Context, test: impl Future<Output = ()>) {
    runtime().unwrap().block_on(async {
        let local = LocalSet::new();
        for duty in DUTIES {
            let ctx = ctx.clone();
            local.spawn_local(async move { again_and_again(duty, &ctx).await });
        }
        local.run_until(test).await;
    });
}

async fn serving(ctx: &Context) {
    eventually("both watches run", || ctx.known.nads.trust() == Trust::True && ctx.known.pods.trust() == Trust::True)
        .await;
    eventually("the socket is there", || crate::protocol::socket(&ctx.dirs).exists()).await;
}

async fn ask(ctx: &Context, args: &str, networks: &[&str]) -> (Outcome<Pod>, Vec<Outcome<Nad>>, Vec<String>) {
    let call = call(&json!({"name": "n"}), args);
    let sources = Sources::new(&call, &ctx.dirs, None);
    let wish = Wish { home: "kube-system".into(), also: vec![name("kube-system", "cbr")] };
    let pod = sources.pod(&wish).await;
    let mut found = Vec::new();
    for one in networks {
        found.push(sources.nad("prod", one).await);
    }
    (pod, found, sources.stale())
}

fn name(namespace: &str, name: &str) -> Name {
    Name { namespace: namespace.into(), name: name.into() }
}

#[test]
fn a_pod_and_its_networks_without_a_question() {
    let tmp = tempfile::tempdir().unwrap();
    let (ctx, cluster) = (context(tmp.path()), Cluster::new(tmp.path()));
    cluster.put_nad(&nad_object("lan", "7"));
    cluster.put_pod(&pod_object("web", "u1", &asks_for("lan")));
    with_agent(&ctx, async {
        serving(&ctx).await;
        let before = cluster.fake.seen().len();
        let (pod, nads, stale) = ask(&ctx, ARGS, &["lan"]).await;
        let pod = pod.unwrap();
        let annotations = pod.facts.annotations.unwrap();
        assert_eq!(annotations.keys().collect::<Vec<_>>(), ["k8s.v1.cni.cncf.io/networks"]);
        assert_eq!(pod.known.unwrap().uid.as_deref(), Some("u1"));
        assert_eq!((nads, stale), (vec![Ok(nad("lan", "7"))], vec![]));
        assert_eq!(cluster.fake.seen().len(), before, "nobody asked the API server");
        let socket = std::fs::metadata(crate::protocol::socket(&ctx.dirs)).unwrap();
        assert_eq!((socket.permissions().mode() & 0o777, socket.uid()), (0o600, 0));
        // Metadata is all that is asked of pods, and only of this node's.
        let list = &cluster.asked("GET", "/api/v1/pods?")[0];
        assert!(list.path.contains("spec.nodeName%3Dnode1&") && list.headers["accept"].contains("PartialObject"));
    });
}

/// Plugins that were stopped in the middle hold their connections.
#[test]
fn who_asks_nothing_makes_room_for_who_asks() {
    let tmp = tempfile::tempdir().unwrap();
    let (ctx, cluster) = (context(tmp.path()), Cluster::new(tmp.path()));
    cluster.put_pod(&pod_object("web", "u1", &json!({})));
    with_agent(&ctx, async {
        serving(&ctx).await;
        let path = crate::protocol::socket(&ctx.dirs);
        let mut silent = Vec::new();
        for _ in 0..300 {
            silent.push(tokio::net::UnixStream::connect(&path).await.unwrap());
        }
        let asked = timeout(Duration::from_secs(20), ask(&ctx, ARGS, &[])).await;
        assert!(asked.expect("not within 20 s").0.is_ok());
        drop(silent);
    });
}

#[test]
fn what_the_watch_has_not_seen_is_fetched() {
    let tmp = tempfile::tempdir().unwrap();
    let (ctx, cluster) = (context(tmp.path()), Cluster::new(tmp.path()));
    cluster.put_nad(&nad_object("lan", "7"));
    with_agent(&ctx, async {
        serving(&ctx).await;
        cluster.put_silently(&pod_object("web", "u1", &asks_for("lan,none")));
        let (pod, nads, _) = ask(&ctx, ARGS, &["lan", "none"]).await;
        assert_eq!(pod.unwrap().known.unwrap().uid.as_deref(), Some("u1"));
        assert_eq!(nads[0], Ok(nad("lan", "7")));
        assert_eq!(nads[1].as_ref().unwrap_err().code, Code::NadMissing);
        assert_eq!(cluster.asked("GET", "/namespaces/kube-system/").len(), 0, "a configuration's need not be objects");
        // Another pod of that name, which the watch does know.
        cluster.put_pod(&pod_object("web", "u2", &asks_for("lan")));
        eventually("it is seen", || ctx.known.pods.len() == 1).await;
        let (replaced, ..) = ask(&ctx, ARGS, &[]).await;
        assert_eq!(replaced.unwrap_err().code, Code::PodReplaced);
        let (gone, ..) = ask(&ctx, "K8S_POD_NAMESPACE=prod;K8S_POD_NAME=gone", &[]).await;
        assert_eq!(gone.unwrap_err().code, Code::PodMissing);
    });
}

#[test]
fn changes_reach_memory_and_copies() {
    let tmp = tempfile::tempdir().unwrap();
    let (ctx, cluster) = (context(tmp.path()), Cluster::new(tmp.path()));
    let lan = nad_object("lan", "7");
    cluster.put_nad(&lan);
    let copies = Copies::new(&ctx.dirs);
    with_agent(&ctx, async {
        serving(&ctx).await;
        eventually("copies are vouched for", || copies.vouched()).await;
        assert_eq!(copies.read("prod", "lan").unwrap().nad, nad("lan", "7"));
        cluster.put_nad(&nad_object("lan", "8"));
        eventually("changed", || copies.read("prod", "lan").is_some_and(|c| c.nad == nad("lan", "8"))).await;
        assert_eq!(ctx.known.nads.get(&name("prod", "lan")), Some(nad("lan", "8")));
        cluster.remove_nad(&lan);
        eventually("gone", || copies.read("prod", "lan").is_none()).await;
        assert_eq!(ctx.known.nads.len(), 0);
        // What happened while the watch was away is found by a list.
        cluster.put_nad(&nad_object("new", "9"));
        eventually("new", || ctx.known.nads.len() == 1).await;
        cluster.expire();
        eventually("listed again", || cluster.asked("GET", "definitions?resourceVersion").len() >= 2).await;
        serving(&ctx).await;
        assert_eq!(ctx.known.nads.get(&name("prod", "new")), Some(nad("new", "9")));
    });
}

#[test]
fn while_the_api_server_fails_old_words_serve_and_say_so() {
    let tmp = tempfile::tempdir().unwrap();
    let (ctx, cluster) = (context(tmp.path()), Cluster::new(tmp.path()));
    cluster.put_nad(&nad_object("lan", "7"));
    cluster.put_pod(&pod_object("web", "u1", &asks_for("lan")));
    with_agent(&ctx, async {
        serving(&ctx).await;
        cluster.fail(Some(503));
        eventually("no watch", || ctx.known.nads.trust() != Trust::True).await;
        let (pod, nads, stale) = ask(&ctx, ARGS, &["lan"]).await;
        assert_eq!(pod.unwrap().known.unwrap().uid.as_deref(), Some("u1"));
        assert_eq!(nads, [Ok(nad("lan", "7"))]);
        assert!(stale[0].contains("network prod/lan") && stale[0].contains("ago"), "{stale:?}");
        cluster.fail(None);
        eventually("watched again", || ctx.known.nads.trust() == Trust::True).await;
        let (_, _, stale) = ask(&ctx, ARGS, &["lan"]).await;
        assert!(stale.is_empty());
    });
}

/// Of the agent before it; a node that was started while the API server is away has nothing else.
#[test]
fn an_agent_begun_without_the_api_server_serves_the_copies() {
    let tmp = tempfile::tempdir().unwrap();
    let (ctx, cluster) = (context(tmp.path()), Cluster::new(tmp.path()));
    Copies::new(&ctx.dirs).write(&nad("lan", "7"));
    cluster.fail(Some(503));
    with_agent(&ctx, async {
        eventually("the socket is there", || crate::protocol::socket(&ctx.dirs).exists()).await;
        assert!(crate::protocol::mark(&ctx.dirs).exists(), "after a boot the node has an agent still");
        let (_, nads, stale) = ask(&ctx, ARGS, &["lan", "other"]).await;
        assert_eq!(nads[0], Ok(nad("lan", "7")));
        assert!(stale.len() == 1 && stale[0].contains("network prod/lan"), "{stale:?}");
        let failure = nads[1].as_ref().unwrap_err();
        assert!(failure.code == Code::ApiUnreachable && failure.msg.contains("503"), "the agent's reason: {failure}");
        assert_eq!(ctx.known.nads.trust(), Trust::Nothing);
    });
}

fn put_down(ctx: &Context, container: &str, pod: &str, status: &str) {
    let pod = PodRef { namespace: "prod".into(), name: pod.into(), uid: Some("u1".into()) };
    let untold = Untold { version: 1, pod, status: status.into(), stale: Vec::new(), notes: Vec::new() };
    Pending::untold(&ctx.dirs).note(&container.parse().unwrap(), &"eth0".parse().unwrap(), &untold).unwrap();
}

/// A pod with one network.
fn journal_has(ctx: &Context, container: &str, pod: &str) {
    let result = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "net1", "sandbox": "/run/netns/x"}],
        "ips": [{"address": "192.0.2.7/24", "interface": 0}]});
    let network = json!({"name": "prod/lan", "ifname": "net1", "conf": {}, "result": result});
    let record = json!({"pod": {"namespace": "prod", "name": pod, "uid": "u1"}, "boot": "b1", "netns": "/run/netns/x",
        "args": "", "path": [], "cni_dir": "/nonexistent/multus", "networks": [network]});
    let (container, ifname) = (container.parse().unwrap(), "eth0".parse().unwrap());
    let id = AttachmentId { container, ifname, role: Role::Meta };
    Journal(&ctx.dirs).write(&id, &"multi".parse().unwrap(), &record).unwrap();
}

/// The state directory is full: what is on it stands, what is not is tried again, and answers come out of memory.
#[test]
fn a_full_disk_loses_nothing_and_is_mended_when_there_is_room() {
    full::on_tmpfs("size=128k", |at| {
        let tmp = tempfile::tempdir().unwrap();
        let cluster = Cluster::new(tmp.path());
        let dirs = Dirs::new(tmp.path().join("run"), at.join("state")).with_boot("b1");
        let ctx = Context { dirs, ..context(tmp.path()) };
        let copies = Copies::new(&ctx.dirs);
        let version = || copies.read("prod", "lan").map(|copy| copy.nad.resource_version);
        cluster.put_nad(&nad_object("lan", "1"));
        cluster.put_pod(&pod_object("web", "u1", &json!({})));
        with_agent(&ctx, async {
            serving(&ctx).await;
            eventually("vouched for", || copies.vouched() && version().as_deref() == Some("1")).await;
            cluster.fail_patches(Some(503));
            put_down(&ctx, "c1", "web", "[]");
            full::fill(at);
            cluster.put_nad(&nad_object("lan", "2"));
            eventually("no longer vouched for", || !copies.vouched()).await;
            assert_eq!((version().as_deref(), untold(&ctx)), (Some("1"), 1), "what was there is whole");
            let known = ctx.known.nads.get(&name("prod", "lan")).unwrap();
            assert_eq!(known.resource_version, "2", "who asks the agent is told what is true");
            let pod = PodRef { namespace: "prod".into(), name: "web".into(), uid: Some("u1".into()) };
            let more = Untold { version: 1, pod, status: "[1]".into(), stale: Vec::new(), notes: Vec::new() };
            let refused = Pending::untold(&ctx.dirs).note(&"c2".parse().unwrap(), &"eth0".parse().unwrap(), &more);
            assert_eq!(refused.unwrap_err().code, Code::JournalUnwritable, "ADD fails, and comes again");
            cluster.fail_patches(None);
            ctx.outbox.knock();
            eventually("told from a full disk", || untold(&ctx) == 0).await;
            std::fs::remove_file(at.join("ballast")).unwrap();
            copies::vouch(&ctx);
            assert!(copies.vouched() && version().as_deref() == Some("2"));
        });
    });
}

fn untold(ctx: &Context) -> usize {
    Pending::untold(&ctx.dirs).all::<Untold>().unwrap().len()
}

#[test]
fn a_status_is_told_once_and_survives_every_trouble() {
    let tmp = tempfile::tempdir().unwrap();
    let (ctx, cluster) = (context(tmp.path()), Cluster::new(tmp.path()));
    cluster.put_pod(&pod_object("web", "u1", &json!({})));
    // Left by an agent that was killed; two of one pod, of which the newer counts; one of a pod that is gone; a torn one.
    put_down(&ctx, "old", "web", "[0]");
    std::thread::sleep(Duration::from_millis(20));
    put_down(&ctx, "c1", "web", "[1]");
    put_down(&ctx, "c2", "gone", "[2]");
    std::fs::write(ctx.dirs.state.join("untold/c3~eth0.json"), "{\"vers").unwrap();
    // A torn one of which the journal has all that is in it.
    journal_has(&ctx, "c5", "db");
    std::fs::write(ctx.dirs.state.join("untold/c5~eth0.json"), "").unwrap();
    cluster.put_pod(&pod_object("db", "u1", &json!({})));
    cluster.fail_patches(Some(503));
    with_agent(&ctx, async {
        serving(&ctx).await;
        eventually("tried", || cluster.asked("PATCH", "/pods/web/status").len() >= 2).await;
        assert!(untold(&ctx) >= 2);
        cluster.fail_patches(Some(403));
        eventually("the API server refuses", || ctx.metrics.text().contains("trestle_statuses_untold 3")).await;
        cluster.fail_patches(None);
        eventually("all are told", || std::fs::read_dir(ctx.dirs.state.join("untold")).unwrap().count() == 0).await;
        let patches = cluster.asked("PATCH", "/pods/web/status");
        assert!(ctx.metrics.text().contains("trestle_statuses_total{outcome=\"lost\"} 1"), "{}", ctx.metrics.text());
        let retold = cluster.asked("PATCH", "/pods/db/status").last().unwrap().json();
        let status =
            retold["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"].as_str().unwrap().to_owned();
        let status: Value = serde_json::from_str(&status).unwrap();
        assert_eq!((&status[0]["name"], &status[0]["ips"][0]), (&json!("prod/lan"), &json!("192.0.2.7")));
        let last = patches.last().unwrap().json();
        assert_eq!(last["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"], "[1]");
        assert!(patches.iter().all(|p| !p.body.contains("[0]")), "an older one of the same pod");
        let before = cluster.asked("PATCH", "").len();
        put_down(&ctx, "c4", "web", "[4]");
        ctx.outbox.knock();
        eventually("told at a knock", || untold(&ctx) == 0).await;
        assert_eq!(cluster.asked("PATCH", "").len(), before + 1, "one patch");
        let pod = PodRef { namespace: "prod".into(), name: "web".into(), uid: Some("u1".into()) };
        let notes = vec![Note { reason: "MacvlanFallback".into(), message: "on eno1".into() }];
        let untold = Untold { version: 1, pod, status: "[5]".into(), stale: Vec::new(), notes };
        Pending::untold(&ctx.dirs).note(&"c5".parse().unwrap(), &"eth0".parse().unwrap(), &untold).unwrap();
        ctx.outbox.knock();
        eventually("its note is an Event", || !cluster.asked("POST", "/events").is_empty()).await;
        let event = cluster.asked("POST", "/events")[0].json();
        assert_eq!((&event["reason"], &event["message"]), (&json!("MacvlanFallback"), &json!("on eno1")));
        for labels in [
            r#"verb="list",resource="pods",outcome="200""#,
            r#"verb="watch",resource="pods",outcome="200""#,
            r#"verb="patch",resource="pods/status",outcome="200""#,
            r#"verb="patch",resource="pods/status",outcome="403""#,
            r#"verb="patch",resource="pods/status",outcome="503""#,
        ] {
            let line = format!("trestle_api_requests_total{{{labels}}} ");
            assert!(ctx.metrics.text().contains(&line), "{line} in {}", ctx.metrics.text());
        }
    });
}

#[test]
fn a_machine_hears_of_it_too() {
    let tmp = tempfile::tempdir().unwrap();
    let (ctx, cluster) = (context(tmp.path()), Cluster::new(tmp.path()));
    let mut pod = pod_object("virt-launcher-db-abcde", "u1", &json!({"kubevirt.io/domain": "db"}));
    pod["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "db", "uid": "v1"}]);
    cluster.put_pod(&pod);
    with_agent(&ctx, async {
        serving(&ctx).await;
        let about = PodRef { namespace: "prod".into(), name: "virt-launcher-db-abcde".into(), uid: Some("u1".into()) };
        tell::complain(&ctx, &about, "NetworkNotAttached", "no bridge");
        eventually("two Events", || cluster.asked("POST", "/events").len() == 2).await;
        let events: Vec<Value> = cluster.asked("POST", "/events").iter().map(|s| s.json()).collect();
        let on = |i: usize| (events[i]["involvedObject"]["kind"].clone(), events[i]["involvedObject"]["uid"].clone());
        assert_eq!(on(0), (json!("VirtualMachineInstance"), json!("v1")));
        assert_eq!(on(1), (json!("Pod"), json!("u1")));
        // One that the watch has not seen: the API server is asked whose it is.
        let mut new = pod.clone();
        (new["metadata"]["name"], new["metadata"]["uid"]) = (json!("virt-launcher-db-fghij"), json!("u2"));
        cluster.put_silently(&new);
        let about = PodRef { name: "virt-launcher-db-fghij".into(), uid: Some("u2".into()), ..about };
        cluster.fail(Some(503));
        tell::complain(&ctx, &about, "NetworkNotAttached", "no bridge");
        sleep(Duration::from_millis(50)).await;
        cluster.fail(None);
        eventually("two more", || cluster.told().len() == 4).await;
        let mut objects = cluster.told().split_off(2);
        objects.sort_unstable();
        assert_eq!(objects, ["Pod virt-launcher-db-fghij", "VirtualMachineInstance db"]);
    });
}

/// A launcher with KubeVirt's binding on `lan`.
fn launcher() -> Value {
    let networks =
        r#"[{"name":"lan","interface":"pod094a367b026"},{"name":"lan","cni-args":{"logicNetworkName":"lan"}}]"#;
    let annotations = json!({"kubevirt.io/domain": "db", "k8s.v1.cni.cncf.io/networks": networks});
    let mut pod = pod_object("virt-launcher-db-abcde", "u1", &annotations);
    pod["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "db", "uid": "v1"}]);
    pod
}

#[test]
fn of_a_machine_is_told_what_its_description_alone_says() {
    let tmp = tempfile::tempdir().unwrap();
    let (ctx, cluster) = (context(tmp.path()), Cluster::new(tmp.path()));
    const VM: &str = "K8S_POD_NAMESPACE=prod;K8S_POD_NAME=virt-launcher-db-abcde;K8S_POD_UID=u1";
    let queues = async |args: &str| {
        let call = call(&json!({"name": "n"}), args);
        let sources = Sources::new(&call, &ctx.dirs, None);
        let pod = sources.pod(&Wish::default()).await?;
        sources.nics(&pod).await.map(|nics| nics.map(|n| n.queues))
    };
    cluster.put_pod(&launcher());
    cluster.put_pod(&pod_object("web", "u1", &asks_for("lan")));
    cluster.put_nad(&nad_object("lan", "7"));
    with_agent(&ctx, async {
        serving(&ctx).await;
        let missing = queues(VM).await.unwrap_err();
        assert!(missing.code == Code::VmiMissing && missing.msg.contains("prod/db"), "{missing}");
        cluster.put_vmi(&vmi_object("db", "v1", 4));
        let before = cluster.asked("GET", "/virtualmachineinstances/").len();
        for _ in 0..3 {
            assert_eq!(queues(VM).await.unwrap(), Some([("lan".to_owned(), 4)].into()));
        }
        assert_eq!(queues(ARGS).await.unwrap(), None, "a plain pod");
        assert_eq!(cluster.asked("GET", "/virtualmachineinstances/").len(), before + 1, "once for the pod");
        // Another pod of it, while the API server is away.
        let mut other = launcher();
        (other["metadata"]["name"], other["metadata"]["uid"]) = (json!("virt-launcher-db-fghij"), json!("u2"));
        cluster.put_pod(&other);
        eventually("it is seen", || ctx.known.pods.len() == 3).await;
        cluster.fail(Some(503));
        let away = queues(&VM.replace("abcde", "fghij").replace("u1", "u2")).await.unwrap_err();
        assert_eq!(away.code, Code::ApiUnreachable, "no guess");
    });
}

#[test]
fn garbage_at_the_socket_harms_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let tmp = tempfile::tempdir().unwrap();
    let (ctx, cluster) = (context(tmp.path()), Cluster::new(tmp.path()));
    cluster.put_pod(&pod_object("web", "u1", &json!({})));
    with_agent(&ctx, async {
        serving(&ctx).await;
        let path = crate::protocol::socket(&ctx.dirs);
        let open = || tokio::net::UnixStream::connect(path.clone());
        let mut idle = open().await.unwrap();
        let mut long = open().await.unwrap();
        // The server may hang up in the middle of it.
        let _ = long.write_all(&vec![b'x'; 200_000]).await;
        let mut wrong = open().await.unwrap();
        wrong.write_all(b"{\"v\":9,\"pod\":{}}\n").await.unwrap();
        let mut answer = vec![0; 200];
        let n = wrong.read(&mut answer).await.unwrap();
        assert!(String::from_utf8_lossy(&answer[..n]).contains("version 9"));
        assert!(ask(&ctx, ARGS, &[]).await.0.is_ok());
        idle.shutdown().await.unwrap();
    });
}

#[test]
fn a_second_agent_waits_and_a_removed_directory_ends_it() {
    let tmp = tempfile::tempdir().unwrap();
    let ctx = context(tmp.path());
    runtime().unwrap().block_on(async {
        let first = Own::take(&ctx.dirs).await.unwrap();
        first.still().unwrap();
        let second = timeout(Duration::from_millis(100), Own::take(&ctx.dirs)).await;
        assert!(second.is_err(), "the first one acts");
        drop(first);
        // The thread of the wait that was given up holds it, and lets go: nobody takes it from there.
        let second = timeout(Duration::from_secs(5), Own::take(&ctx.dirs)).await.unwrap().unwrap();
        std::fs::remove_dir_all(&ctx.dirs.state).unwrap();
        std::fs::create_dir(&ctx.dirs.state).unwrap();
        assert_eq!(second.still().unwrap_err().code, Code::Io);
    });
}

/// A node with 110 pods in a cluster with 1,000 networks; the figures are printed.
#[test]
fn an_answer_comes_in_less_than_a_millisecond() {
    let tmp = tempfile::tempdir().unwrap();
    let (ctx, cluster) = (context(tmp.path()), Cluster::new(tmp.path()));
    (0..1000).for_each(|n| cluster.put_nad(&nad_object(&format!("net{n}"), "7")));
    (0..110).for_each(|n| cluster.put_pod(&pod_object(&format!("web{n}"), "u1", &asks_for("net1,net2"))));
    with_agent(&ctx, async {
        serving(&ctx).await;
        assert_eq!((ctx.known.nads.len(), ctx.known.pods.len()), (1000, 110));
        let before = cluster.fake.seen().len();
        // On a thread and a runtime of its own, as the plugin is.
        let dirs = ctx.dirs.clone();
        let times = tokio::task::spawn_blocking(move || runtime().unwrap().block_on(round_trips(&dirs))).await.unwrap();
        let (median, slow) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let rss: Vec<&str> = status.lines().filter(|l| l.starts_with("VmRSS") || l.starts_with("RssAnon")).collect();
        eprintln!(
            "connect, ask, answer: median {median:?}, 99 of 100 within {slow:?}; with the test's server: {rss:?}"
        );
        assert_eq!(cluster.fake.seen().len(), before, "nobody asked the API server");
        assert!(median < Duration::from_millis(20), "on a busy machine, in a debug build: {median:?}");
    });
}

async fn round_trips(dirs: &Dirs) -> Vec<Duration> {
    let mut times = Vec::new();
    for n in 0..1000 {
        let args = format!("K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web{};K8S_POD_UID=u1", n % 110);
        let call = call(&json!({"name": "n"}), &args);
        let began = std::time::Instant::now();
        let sources = Sources::new(&call, dirs, None);
        sources.pod(&Wish::default()).await.unwrap();
        sources.nad("prod", "net2").await.unwrap();
        times.push(began.elapsed());
    }
    times.sort_unstable();
    times
}
