//! Bind steps that cannot be done: one clear error, nothing changed.

use serde_json::json;

use super::{LINK, POD, TAP, bind, binding, vm};
use crate::harness::{Call, Lab, Netns, Snapshot};

#[track_caller]
fn refused(lab: &Lab, pod: &Netns, call: &Call, code: u64, stable: &str, words: &[&str]) {
    let before = Snapshot::of(lab, &[pod]);
    call.fails("ADD").is(code, stable, words);
    before.same(&Snapshot::of(lab, &[pod]), "after the refusal");
    call.del();
    before.same(&Snapshot::of(lab, &[pod]), "after DEL");
}

/// Bind before its wire, or for a network that nobody attached.
#[test]
fn link_missing() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    refused(&lab, &pod, &bind(&lab, &pod), 11, "TR0312", &["lan", LINK]);
    let mut wire = vm(&lab, &pod);
    wire.add();
    let other = lab.trestle(binding("storage")).pod(&pod).of_pod("default", POD).ifname("net2");
    refused(&lab, &pod, &other, 11, "TR0312", &["storage"]);
    wire.check();
}

/// The pod's primary link is another plugin's: KubeVirt has bindings for that.
#[test]
fn foreign_primary() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    lab.node.run(&format!("ip link add vethcni0 type veth peer name eth0 netns {}", pod.name()));
    lab.node.run("ip link set vethcni0 up");
    pod.run("ip link set eth0 up");
    pod.run("ip addr add 192.168.1.2/24 dev eth0");
    let call = lab.trestle(binding("default")).pod(&pod).of_pod("default", POD).ifname("net1");
    refused(&lab, &pod, &call, 100, "TR0206", &["masquerade", "managedTap"]);
    assert_eq!(pod.addresses("eth0"), ["192.168.1.2/24"]);
}

#[test]
fn without_a_network() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let call = bind(&lab, &pod);
    for args in [
        json!(null),
        json!({}),
        json!({"cni": {}}),
        json!({"cni": {"logicNetworkName": ""}}),
        json!({"cni": {"logicNetworkName": 7}}),
    ] {
        let call = call.clone().with("args", args);
        refused(&lab, &pod, &call, 7, "TR01", &["logicNetworkName"]);
    }
}

/// Somebody has a link of the tap's name there already.
#[test]
fn tap_name_is_taken() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut wire = vm(&lab, &pod);
    wire.add();
    pod.run(&format!("ip link add {TAP} type bridge"));
    refused(&lab, &pod, &bind(&lab, &pod), 100, "TR0310", &[TAP]);
    assert_eq!(pod.link(TAP).kind, "bridge");
    wire.check();
}

/// Twice: the second is refused, the first goes on.
#[test]
fn bound_already() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let (mut wire, mut bound) = (vm(&lab, &pod), bind(&lab, &pod));
    wire.add();
    bound.add();
    let before = Snapshot::of(&lab, &[&pod]);
    assert_eq!(bound.fails("ADD").code, 100);
    before.same(&Snapshot::of(&lab, &[&pod]), "after the second ADD");
    bound.check();
}

#[test]
fn namespace_is_not_there() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let path = lab.file("no-such-namespace");
    bind(&lab, &pod).env("CNI_NETNS", &path).fails("ADD").is(5, "TR0311", &[&path]);
}

/// The bind step has keys of its own as little as any: unknown ones are refused.
#[test]
fn unknown_key() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    vm(&lab, &pod).add();
    let call = bind(&lab, &pod).with("brige", json!("br-lan"));
    refused(&lab, &pod, &call, 7, "TR0105", &["brige", "bridge"]);
}
