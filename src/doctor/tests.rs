use super::*;
use crate::ipam::Held;
use crate::ipam::dhcp::{Identity, Job, Lease, Step, Wish};
use crate::plan::testing::bridge;
use crate::store::{LeaseRecord, Leases, Sole};
use crate::types::{Code, Mac};

fn states(findings: &[Finding], about: &str) -> Vec<State> {
    findings.iter().filter(|f| f.about.starts_with(about)).map(|f| f.state).collect()
}

fn dirs(tmp: &tempfile::TempDir) -> Dirs {
    let dirs = Dirs::new(tmp.path().join("run"), tmp.path().join("state"));
    std::fs::create_dir_all(&dirs.run).unwrap();
    std::fs::create_dir_all(&dirs.state).unwrap();
    dirs
}

#[tokio::test]
async fn a_node_without_anything_has_no_trouble() {
    let tmp = tempfile::tempdir().unwrap();
    let rule = BridgeRule { globs: vec!["none-such".into()], ..BridgeRule::default() };
    let findings = examine(&dirs(&tmp), rule).await;
    assert_eq!(worst(&findings), State::Note, "{findings:?}");
    for about in ["node.json", "bridges", "agent", "copies", "statuses", "journal", "leases", "addresses"] {
        assert!(!states(&findings, about).is_empty(), "{about} in {findings:?}");
    }
    assert!(!tmp.path().join("run/keeper.lock").exists(), "a look makes nothing");
}

#[tokio::test]
async fn what_cannot_be_read_is_named_by_its_code() {
    let tmp = tempfile::tempdir().unwrap();
    let dirs = dirs(&tmp);
    std::fs::write(dirs.state.join("node.json"), "{").unwrap();
    std::fs::create_dir_all(dirs.run.join("journal/c1")).unwrap();
    std::fs::write(dirs.run.join("journal/c1/net1.wire.json"), "torn").unwrap();
    let findings = examine(&dirs, BridgeRule::default()).await;
    let codes: Vec<_> = findings.iter().filter_map(|f| f.code).collect();
    assert_eq!(codes, [Code::NodeConfig.id(), Code::JournalBroken.id()]);
    assert_eq!(worst(&findings), State::Trouble);
}

#[test]
fn bridges_by_the_rule_that_the_scheduler_is_told_by() {
    let links = [bridge(1, "br-lan"), crate::net::Link { up: false, ..bridge(2, "br-b") }, bridge(3, "docker0")];
    let findings = node::bridges(&links, &BridgeRule::default());
    assert_eq!(states(&findings, "bridge br-lan"), [State::Ok]);
    assert_eq!(states(&findings, "bridge br-b"), [State::Trouble]);
    assert_eq!(findings.len(), 2);
}

/// Of a lease of 100 s.
fn job() -> Job {
    let hardware = Mac::new([2, 0, 0, 0, 0, 1]);
    let identity = Identity { hardware, client_id: vec![1], broadcast: false };
    let lease = Lease {
        address: [192, 0, 2, 7].into(),
        prefix: 24,
        mask_given: true,
        server: [192, 0, 2, 1].into(),
        routers: vec![],
        routes: vec![],
        dns: vec![],
        domain: None,
        search: vec![],
        mtu: None,
        hostname: None,
        seconds: 100,
        t1: 50,
        t2: 87,
    };
    Job {
        netns: "/proc/self/ns/net".into(),
        cookie: 1,
        index: 2,
        ifname: "net1".into(),
        identity,
        wish: Wish::default(),
        step: Step::Renew(lease),
        seconds: 1,
        routes: None,
        follows: None,
        priority: None,
        before: None,
    }
}

#[test]
fn leases_that_nobody_keeps_and_that_are_overdue() {
    let tmp = tempfile::tempdir().unwrap();
    let dirs = dirs(&tmp);
    let mut record = LeaseRecord::new(&dirs, "c1".parse().unwrap(), "net1".parse().unwrap(), "lan", job()).unwrap();
    record.pod = Some("prod/web".into());
    Leases::new(&dirs).write(&record).unwrap();
    let findings = leases::examine(&dirs);
    assert!(findings[0].text.starts_with("1 lease without a keeper: the first one ends in "), "{findings:?}");

    let _keeper = Sole::try_take(&dirs, Sole::KEEPER).unwrap().unwrap();
    assert_eq!(worst(&leases::examine(&dirs)), State::Ok);
    for (age, words) in [(80, "not renewed yet, ends in 20 s"), (101, "ran out")] {
        record.got_at = (dirs.now() / 1_000_000).checked_sub(age * 1000).expect("this machine was started before");
        Leases::new(&dirs).write(&record).unwrap();
        let findings = leases::examine(&dirs);
        assert!(findings[1].about == "lease of prod/web" && findings[1].text.contains(words), "{findings:?}");
    }
}

#[tokio::test]
async fn an_agent_that_does_not_answer() {
    let tmp = tempfile::tempdir().unwrap();
    let dirs = dirs(&tmp);
    let _deaf = std::os::unix::net::UnixListener::bind(crate::protocol::socket(&dirs)).unwrap();
    let findings = agent::examine(&dirs).await;
    assert_eq!(states(&findings, "agent"), [State::Trouble]);
}

fn held(address: &str, container: &str, ifname: &str) -> Held {
    Held {
        store: "/var/lib/cni/networks/lan".into(),
        address: address.parse().unwrap(),
        container: container.into(),
        ifname: ifname.into(),
    }
}

#[test]
fn addresses_whose_pod_is_not_found_are_named_with_their_files_place() {
    let all = [held("192.0.2.7", "c1", "net1"), held("192.0.2.8", "c2", "net1"), held("192.0.2.9", "c3", "")];
    let findings = addresses::compare(&all, &["c1".to_owned()].into());
    assert_eq!(findings[0], Finding::ok("addresses", "1 of a pod of this node"));
    assert_eq!(findings[1].text, "taken, but no pod of theirs was found: 192.0.2.8 (c2 net1), 192.0.2.9 (c3)");
    assert!(findings[1].remedy.ends_with("/var/lib/cni/networks/lan"), "{findings:?}");
    let many: Vec<_> = (1..=20).map(|i| held(&format!("192.0.2.{i}"), "gone", "net1")).collect();
    assert!(addresses::compare(&many, &Default::default())[1].text.ends_with(", and 12 more"));
}

#[test]
fn a_pod_counts_by_our_journal_or_by_the_runtimes_results() {
    let tmp = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| std::fs::write(tmp.path().join(name), text).unwrap();
    write("lan-c1-net1", r#"{"kind": "cniCacheV1", "containerId": "c1", "netns": "/proc/self/ns/net"}"#.into());
    write("lan-c2-net1", r#"{"kind": "cniCacheV1", "containerId": "c2"}"#.into());
    let gone = tmp.path().join("gone");
    write("lan-c3-net1", format!(r#"{{"containerId": "c3", "netns": "{}"}}"#, gone.display()));
    write("lan-c4-net1", "torn".into());
    assert_eq!(addresses::of_runtime(tmp.path()).into_iter().collect::<Vec<_>>(), ["c1", "c2"]);
    assert!(addresses::of_runtime(&gone).is_empty());
}
