//! MTU: the bridge's own never moves.

use serde_json::json;

use super::{nic, plain, vm};
use crate::harness::{Lab, Snapshot};

#[test]
fn the_bridges_when_none_is_asked_for() {
    let (lab, _lan) = Lab::with_lan();
    lab.node.run("ip link set up0 mtu 9000");
    lab.node.run("ip link set br-lan mtu 9000");
    let pod = lab.pod();
    let mut call = plain(&lab, &pod);
    call.add();
    assert_eq!((pod.link("net1").mtu, lab.node.other_end(&pod, "net1").mtu), (9000, 9000));
    call.del();
    assert_eq!(lab.node.link("br-lan").mtu, 9000);
}

/// A smaller one goes to the pod's end only.
#[test]
fn smaller() {
    let (lab, _lan) = Lab::with_lan();
    for (pod, name, vm_pod) in [(lab.pod(), "net1", false), (lab.pod(), "pod094a367b026", true)] {
        let call = if vm_pod { vm(&lab, &pod) } else { plain(&lab, &pod) };
        let mut call = call.with("mtu", json!(1400));
        call.add();
        assert_eq!(
            (pod.link(name).mtu, lab.node.other_end(&pod, name).mtu, lab.node.link("br-lan").mtu),
            (1400, 1500, 1500)
        );
        call.check();
        call.del();
        assert_eq!(lab.node.link("br-lan").mtu, 1500);
    }
}

#[test]
fn equal() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut call = plain(&lab, &pod).with("mtu", json!(1500));
    call.add();
    assert_eq!(pod.link("net1").mtu, 1500);
    call.del();
}

#[test]
fn larger() {
    let (lab, _lan) = Lab::with_lan();
    let _far = nic(&lab, "nic0");
    let pod = lab.pod();
    let before = Snapshot::of(&lab, &[&pod]);
    let call = plain(&lab, &pod).with("mtu", json!(9000));
    call.fails("ADD").is(100, "TR0307", &["9000", "1500", "br-lan"]);
    let macvlan = call.with("bridge", json!(null)).with("master", json!("nic0"));
    macvlan.fails("ADD").is(100, "TR0307", &["9000", "1500", "nic0"]);
    before.same(&Snapshot::of(&lab, &[&pod]), "after the refusals");
}

#[test]
fn of_the_fallback() {
    let (lab, _lan) = Lab::with_lan();
    let _far = nic(&lab, "nic0");
    lab.node.run("ip link set nic0 mtu 1450");
    let (usual, small) = (lab.pod(), lab.pod());
    let mut one = plain(&lab, &usual).with("bridge", json!("br9")).with("master", json!("nic0"));
    let mut two =
        plain(&lab, &small).with("bridge", json!("br9")).with("master", json!("nic0")).with("mtu", json!(1300));
    one.add();
    two.add();
    assert_eq!((usual.link("net1").mtu, small.link("net1").mtu, lab.node.link("nic0").mtu), (1450, 1300, 1450));
}
