//! The port on the bridge: its name, its flags, its guard, and what CHECK says when it was changed.

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{plain, vm};
use crate::harness::{Call, Lab, Netns, Snapshot, reached, unreached};

/// `tr` + 11 hex digits of sha256(container id, 0, interface), with the pod's name as alias.
#[test]
fn name_alias_and_mac() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut call = plain(&lab, &pod).id("0123456789abcdef");
    call.add();
    let digest = Sha256::digest(b"0123456789abcdef\0net1");
    let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    let port = lab.node.other_end(&pod, "net1");
    assert_eq!(port.name, format!("tr{}", &hex[..11]));
    assert_eq!(port.alias.as_deref(), Some("default/web-1 lan"));
    assert!(port.mac.starts_with("fe:"), "{}", port.mac);
    assert_eq!(
        (port.port("state"), port.port("hairpin"), port.port("isolated")),
        (&json!("forwarding"), &json!(false), &json!(false))
    );
}

#[test]
fn flags() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut call = plain(&lab, &pod).with("hairpinMode", json!(true)).with("portIsolation", json!(true));
    call.add();
    let port = lab.node.other_end(&pod, "net1");
    assert_eq!((port.port("hairpin"), port.port("isolated")), (&json!(true), &json!(true)));
    call.check();
    call.del();
}

#[test]
fn isolation() {
    let (lab, lan) = Lab::with_lan();
    lan.run("ip addr add 10.1.2.200/24 dev lan0");
    let (one, two) = (lab.pod(), lab.pod());
    for pod in [&one, &two] {
        plain(&lab, pod).with("portIsolation", json!(true)).add();
    }
    reached(&one, &lan, "10.1.2.200");
    unreached(&one, &two, "10.1.2.3");
}

/// `macspoofchk`: a pod that changes its MAC is not heard.
#[test]
fn spoofing() {
    let (lab, lan) = Lab::with_lan();
    lan.run("ip addr add 10.1.2.200/24 dev lan0");
    let pod = lab.pod();
    let before = Snapshot::of(&lab, &[&pod]);
    let mut call = plain(&lab, &pod).with("macspoofchk", json!(true));
    call.add();
    reached(&pod, &lan, "10.1.2.200");
    let mac = pod.link("net1").mac;
    pod.run("ip link set net1 address 0a:00:00:00:00:99");
    unreached(&pod, &lan, "10.1.2.200");
    pod.run(&format!("ip link set net1 address {mac}"));
    call.check();
    call.del();
    before.same(&Snapshot::of(&lab, &[&pod]), "after DEL");
}

/// With STP a new port listens and learns for a while: sound, and the log tells how long.
#[test]
fn spanning_tree() {
    let (lab, _lan) = Lab::with_lan();
    lab.node.run("ip link set br-lan type bridge stp_state 1 forward_delay 400");
    let pod = lab.pod();
    let call = plain(&lab, &pod);
    let reply = call.run("ADD");
    let call = call.prev(Some(reply.ok()));
    let state = lab.node.other_end(&pod, "net1").port("state").clone();
    assert!(["listening", "learning"].contains(&state.as_str().unwrap()), "{state}");
    let log = reply.stderr.to_lowercase();
    assert!(log.contains("listening") || log.contains("learning"), "{log}");
    assert!(log.contains("second"), "the seconds that are left: {log}");
    call.check();
    call.del();
}

/// A bridge that does not filter VLANs ignores them without a word: refused.
#[test]
fn vlan_without_filtering() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let before = Snapshot::of(&lab, &[&pod]);
    for call in [plain(&lab, &pod), vm(&lab, &pod)] {
        call.clone().with("vlan", json!(7)).fails("ADD").is(100, "TR0305", &["br-lan", "vlan_filtering"]);
        let trunk = json!([{"minID": 7, "maxID": 9}]);
        call.with("vlanTrunk", trunk).fails("ADD").is(100, "TR0305", &["br-lan", "vlan_filtering"]);
    }
    before.same(&Snapshot::of(&lab, &[&pod]), "after the refusals");
}

/// CHECK must fail after the change, naming what differs; DEL must leave nothing.
#[track_caller]
fn noticed(change: impl Fn(&Lab, &Netns), words: &[&str]) {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let before = Snapshot::of(&lab, &[&pod]);
    let mut call = flagged(&lab, &pod);
    call.add();
    call.check();
    change(&lab, &pod);
    let error = call.fails("CHECK");
    assert_eq!(error.code, 101, "{error:?}");
    error.names(words);
    call.del();
    let after = Snapshot::of(&lab, &[&pod]);
    before.same(&after, "after DEL");
}

fn flagged<'l>(lab: &'l Lab, pod: &Netns) -> Call<'l> {
    let call = plain(lab, pod).with("hairpinMode", json!(true)).with("macspoofchk", json!(true));
    let mut ipam = call.conf()["ipam"].clone();
    ipam["routes"] = json!([{"dst": "192.0.2.0/24"}]);
    call.with("ipam", ipam)
}

#[test]
fn check_port_taken_off() {
    noticed(
        |lab, pod| {
            let port = lab.node.other_end(pod, "net1").name;
            lab.node.run(&format!("ip link set {port} nomaster"));
        },
        &["br-lan"],
    );
}

#[test]
fn check_port_down() {
    noticed(
        |lab, pod| {
            let port = lab.node.other_end(pod, "net1").name;
            lab.node.run(&format!("ip link set {port} down"));
        },
        &["down"],
    );
}

#[test]
fn check_port_flag() {
    noticed(
        |lab, pod| {
            let port = lab.node.other_end(pod, "net1").name;
            lab.node.run(&format!("ip link set {port} type bridge_slave hairpin off"));
        },
        &["hairpin"],
    );
}

#[test]
fn check_pod_end() {
    noticed(|_, pod| drop(pod.run("ip link set net1 down")), &["net1"]);
    noticed(|_, pod| drop(pod.run("ip link del net1")), &["net1"]);
    noticed(|_, pod| drop(pod.run("ip link set net1 address 0a:00:00:00:00:99")), &["net1"]);
}

#[test]
fn check_addresses_and_routes() {
    noticed(|_, pod| drop(pod.run("ip addr del 10.1.2.2/24 dev net1")), &["10.1.2.2"]);
    noticed(|_, pod| drop(pod.run("ip route del 192.0.2.0/24")), &["192.0.2.0/24"]);
    noticed(|lab, _| std::fs::remove_file(format!("{}/lan/10.1.2.2", lab.store())).unwrap(), &[]);
}

#[test]
fn check_guard() {
    noticed(|lab, _| drop(lab.node.run("nft flush ruleset")), &[]);
}

#[test]
fn check_never_attached() {
    let (lab, _lan) = Lab::with_lan();
    let (pod, other) = (lab.pod(), lab.pod());
    let result = plain(&lab, &other).add();
    plain(&lab, &pod).prev(Some(result)).fails("CHECK");
}
