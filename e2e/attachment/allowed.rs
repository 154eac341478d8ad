//! `node.json`: which bridges and masters a network may name at all.

use serde_json::json;

use super::{nic, plain, wire};
use crate::harness::{Call, Lab, Netns, Snapshot};

#[track_caller]
fn refused(lab: &Lab, pod: &Netns, call: &Call, stable: &str, name: &str) {
    let before = Snapshot::of(lab, &[pod]);
    call.fails("ADD").is(100, stable, &[name]);
    before.same(&Snapshot::of(lab, &[pod]), "after the refusal");
}

#[track_caller]
fn granted(mut call: Call) {
    call.add();
    call.del();
}

/// Without a `node.json`: everything but what primary networks and the like make for themselves.
#[test]
fn defaults() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let others =
        ["docker0", "virbr0", "cni0", "cni-podman0", "cilium_host", "cali123", "kube-bridge", "flannel.1", "lxcbr0"];
    let mut lans = Vec::new();
    for (name, n) in others.iter().zip(1..) {
        lans.push(lab.lan(name, &format!("x{n}")));
        refused(&lab, &pod, &plain(&lab, &pod).with("bridge", json!(name)), "TR0202", name);
    }
    granted(plain(&lab, &pod));
    for (name, n) in ["virbr9", "ovn-x", "vxlan.calico", "tunl0x", "genev_sys_1", "lxc99"].iter().zip(20..) {
        lab.node.run(&format!("ip link add {name} type veth peer name y{n}"));
        let call = plain(&lab, &pod).with("bridge", json!(null)).with("master", json!(name));
        refused(&lab, &pod, &call, "TR0203", name);
    }
    let _far = nic(&lab, "eno1");
    granted(plain(&lab, &pod).with("bridge", json!(null)).with("master", json!("eno1")));
}

#[test]
fn globs() {
    let (lab, _lan) = Lab::with_lan();
    let _office = lab.lan("office", "up1");
    let _far = [nic(&lab, "eno1"), nic(&lab, "eno2")];
    let pod = lab.pod();
    lab.node_json(r#"{"allowBridges": [{"glob": "br-*"}], "allowMasters": [{"glob": "eno?"}, {"glob": "never"}]}"#);
    granted(plain(&lab, &pod));
    refused(&lab, &pod, &plain(&lab, &pod).with("bridge", json!("office")), "TR0202", "office");
    let master = |name: &str| plain(&lab, &pod).with("bridge", json!(null)).with("master", json!(name));
    granted(master("eno1"));
    refused(&lab, &pod, &master("up1"), "TR0203", "up1");
    lab.node_json(r#"{"allowBridges": [], "allowMasters": [{"glob": "eno1"}]}"#);
    refused(&lab, &pod, &plain(&lab, &pod), "TR0202", "br-lan");
    refused(&lab, &pod, &master("eno2"), "TR0203", "eno2");
    // The fallback's master is bound as well.
    lab.node_json(r#"{"allowMasters": [{"glob": "eno1"}]}"#);
    let fallback = plain(&lab, &pod).with("bridge", json!("br9")).with("master", json!("eno2"));
    refused(&lab, &pod, &fallback, "TR0203", "eno2");
    granted(fallback.with("master", json!("eno1")));
}

/// A list entry may hold for some namespaces only.
#[test]
fn namespaces() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    lab.node_json(r#"{"allowBridges": [{"glob": "br-lan", "namespaces": ["prod", "stage"]}]}"#);
    refused(&lab, &pod, &plain(&lab, &pod), "TR0202", "br-lan");
    granted(plain(&lab, &pod).of_pod("stage", "web-1"));
    // Nobody knows the namespace: then it is none of those.
    refused(&lab, &pod, &lab.trestle(wire(&lab)).pod(&pod), "TR0202", "br-lan");
}

/// DEL and GC do not ask: what was allowed once can be taken down.
#[test]
fn delete_after_the_list_changed() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let before = Snapshot::of(&lab, &[&pod]);
    let mut call = plain(&lab, &pod);
    call.add();
    lab.node_json(r#"{"allowBridges": []}"#);
    call.del();
    call.fails("ADD").is(100, "TR0202", &["br-lan"]);
    lab.node_json("not json");
    call.del();
    before.same(&Snapshot::of(&lab, &[&pod]), "after DEL");
}

#[test]
fn bad_node_json() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let bad = [
        ("{", "node.json"),
        ("[]", "node.json"),
        (r#"{"alowBridges": []}"#, "alowBridges"),
        (r#"{"allowBridges": "br-*"}"#, "allowBridges"),
        (r#"{"allowBridges": [{"namespaces": ["x"]}]}"#, "glob"),
        (r#"{"allowMasters": [{"glob": "x", "namespace": ["x"]}]}"#, "namespace"),
        (r#"{"seed": 7}"#, "seed"),
        (r#"{"logLevel": "loud"}"#, "logLevel"),
    ];
    for (text, word) in bad {
        lab.node_json(text);
        let before = Snapshot::of(&lab, &[&pod]);
        plain(&lab, &pod).fails("ADD").is(7, "TR0109", &["node.json", word]);
        before.same(&Snapshot::of(&lab, &[&pod]), "after the failure");
    }
}
