//! The rule of the house: which wire a pod gets, or which refusal.

use serde_json::json;

use super::{in_sandbox, nic, node_name, plain, vm};
use crate::harness::{Call, Lab, Netns, Snapshot, reached};

/// The call must fail so, and nothing of it may be left.
#[track_caller]
fn refused(lab: &Lab, pod: &Netns, call: &Call, code: u64, stable: &str, words: &[&str]) {
    let before = Snapshot::of(lab, &[pod]);
    let error = call.fails("ADD");
    error.is(code, stable, words);
    assert_eq!(error.version.as_deref(), call.conf()["cniVersion"].as_str(), "{error:?}");
    assert!(!error.details.is_empty(), "a remedy: {error:?}");
    before.same(&Snapshot::of(lab, &[pod]), "after the refusal");
    call.del();
}

#[track_caller]
fn gets_a_port(lab: &Lab, pod: &Netns, mut call: Call, ifname: &str) {
    let before = Snapshot::of(lab, &[pod]);
    let result = call.add();
    assert_eq!(in_sandbox(&result)["name"], ifname);
    assert_eq!(pod.link(ifname).kind, "veth");
    let port = lab.node.other_end(pod, ifname);
    assert_eq!(port.master.as_deref(), Some("br-lan"));
    assert!(port.up && pod.link(ifname).up);
    call.check();
    call.del();
    before.same(&Snapshot::of(lab, &[pod]), "after DEL");
    call.del();
}

#[test]
fn bridge_is_there() {
    let (lab, _lan) = Lab::with_lan();
    let _far = nic(&lab, "nic0");
    let pod = lab.pod();
    gets_a_port(&lab, &pod, plain(&lab, &pod), "net1");
    gets_a_port(&lab, &pod, plain(&lab, &pod).with("master", json!("nic0")), "net1");
    gets_a_port(&lab, &pod, vm(&lab, &pod), "pod094a367b026");
    gets_a_port(&lab, &pod, vm(&lab, &pod).with("master", json!("nic0")), "pod094a367b026");
}

/// A master that is not there does not matter where the bridge is.
#[test]
fn bridge_is_there_and_master_is_not() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    gets_a_port(&lab, &pod, plain(&lab, &pod).with("master", json!("nic7")), "net1");
}

/// A plain pod is a member of the LAN: frames go both ways.
#[test]
fn plain_pod_reaches_the_lan() {
    let (lab, lan) = Lab::with_lan();
    lan.run("ip addr add 10.1.2.200/24 dev lan0");
    let pod = lab.pod();
    let mut call = plain(&lab, &pod);
    call.add();
    reached(&pod, &lan, "10.1.2.200");
    reached(&lan, &pod, "10.1.2.2");
}

#[test]
fn bridge_is_missing() {
    let (lab, _lan) = Lab::with_lan();
    let _office = lab.lan("office", "up1");
    let pod = lab.pod();
    let node = node_name();
    for call in [plain(&lab, &pod), vm(&lab, &pod)] {
        let call = call.with("bridge", json!("br-lna"));
        refused(&lab, &pod, &call, 11, "TR0301", &["br-lna", &node, "br-lan", "office"]);
    }
    // A VM never falls back.
    let _far = nic(&lab, "nic0");
    let call = vm(&lab, &pod).with("bridge", json!("br-lna")).with("master", json!("nic0"));
    refused(&lab, &pod, &call, 11, "TR0301", &["br-lna", &node, "br-lan"]);
}

/// The name that was probably meant is said.
#[test]
fn nearest_bridge() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let error = plain(&lab, &pod).with("bridge", json!("br-lam")).fails("ADD");
    let text = format!("{} {}", error.msg, error.details);
    assert!(text.contains("did you mean") || text.contains("nearest"), "{error:?}");
}

#[test]
fn vm_with_a_master_only() {
    let (lab, _lan) = Lab::with_lan();
    let _far = nic(&lab, "nic0");
    let pod = lab.pod();
    let call = vm(&lab, &pod).with("bridge", json!(null)).with("master", json!("nic0"));
    refused(&lab, &pod, &call, 100, "TR0201", &["macvlan", "bridge"]);
}

/// The drop-in refuses a VM too, with the code that its original uses for everything.
#[test]
fn vm_with_the_drop_in_macvlan() {
    let (lab, _lan) = Lab::with_lan();
    let _far = nic(&lab, "nic0");
    let pod = lab.pod();
    let call = lab
        .trestle(json!({"cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "master": "nic0"}))
        .pod(&pod)
        .of_pod("default", "virt-launcher-testvm-abcde")
        .ifname("pod094a367b026");
    let before = Snapshot::of(&lab, &[&pod]);
    call.fails("ADD").is(999, "TR0201", &["macvlan"]);
    before.same(&Snapshot::of(&lab, &[&pod]), "after the refusal");
}

#[test]
fn neither_bridge_nor_master_here() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let call = plain(&lab, &pod).with("bridge", json!("br9")).with("master", json!("nic7"));
    refused(&lab, &pod, &call, 11, "TR0308", &["nic7"]);
    let call = plain(&lab, &pod).with("bridge", json!(null)).with("master", json!("nic7"));
    refused(&lab, &pod, &call, 11, "TR0308", &["nic7"]);
}

#[test]
fn master_is_a_port_of_a_bridge() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let call = plain(&lab, &pod).with("bridge", json!("br9")).with("master", json!("up0"));
    refused(&lab, &pod, &call, 100, "TR0309", &["up0", "br-lan"]);
}

#[test]
fn link_of_that_name_is_no_bridge() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let call = plain(&lab, &pod).with("bridge", json!("up0"));
    refused(&lab, &pod, &call, 100, "TR0302", &["up0"]);
    // Not even with a master: the name was meant to be a bridge.
    let _far = nic(&lab, "nic0");
    refused(&lab, &pod, &call.with("master", json!("nic0")), 100, "TR0302", &["up0"]);
}

#[test]
fn bridge_is_down() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    lab.node.run("ip link set br-lan down");
    refused(&lab, &pod, &plain(&lab, &pod), 11, "TR0303", &["br-lan"]);
}

#[test]
fn interface_name_is_taken() {
    let (lab, _lan) = Lab::with_lan();
    let _far = nic(&lab, "nic0");
    let pod = lab.pod();
    pod.run("ip link add net1 type bridge");
    refused(&lab, &pod, &plain(&lab, &pod), 100, "TR0310", &["net1"]);
    let macvlan = plain(&lab, &pod).with("bridge", json!(null)).with("master", json!("nic0"));
    refused(&lab, &pod, &macvlan, 100, "TR0310", &["net1"]);
    assert_eq!(pod.link("net1").kind, "bridge");
}

#[test]
fn namespace_is_not_there() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let file = lab.file("plain-file");
    std::fs::write(&file, "").unwrap();
    for path in [lab.file("no-such-namespace"), file] {
        let call = plain(&lab, &pod).env("CNI_NETNS", &path);
        let before = Snapshot::of(&lab, &[&pod]);
        call.fails("ADD").is(5, "TR0311", &[&path]);
        before.same(&Snapshot::of(&lab, &[&pod]), "after the failure");
    }
    let own = lab.node.netns();
    plain(&lab, &pod).env("CNI_NETNS", &own).fails("ADD").is(8, "TR0108", &[]);
    assert!(lab.node.find("net1").is_none());
}

/// The second ADD of the same container and interface fails, and leaves the first in order.
#[test]
fn attached_already() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut call = plain(&lab, &pod);
    call.add();
    let before = Snapshot::of(&lab, &[&pod]);
    let error = call.fails("ADD");
    assert_eq!(error.code, 100, "{error:?}");
    before.same(&Snapshot::of(&lab, &[&pod]), "after the second ADD");
    call.check();
    call.del();
    call.add();
    call.del();
}

/// IPAM fails after the plan was made: nothing is left of the link, whatever came first.
#[test]
fn addresses_exhausted() {
    let (lab, _lan) = Lab::with_lan();
    let _far = nic(&lab, "nic0");
    let (first, pod) = (lab.pod(), lab.pod());
    let ipam = json!({"type": "host-local", "dataDir": lab.store(), "ranges": [[{"subnet": "10.1.2.0/30"}]]});
    plain(&lab, &first).with("ipam", ipam.clone()).add();
    let call = plain(&lab, &pod).with("ipam", ipam);
    refused(&lab, &pod, &call, 11, "TR0502", &["10.1.2."]);
    let macvlan = call.with("bridge", json!(null)).with("master", json!("nic0"));
    refused(&lab, &pod, &macvlan, 11, "TR0502", &["10.1.2."]);
}
