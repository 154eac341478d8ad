//! Pods that the reference plugins attached, deleted and checked by ours, as after the plugins were replaced.

use serde_json::{Value, json};

use crate::attachment::{nic, wire};
use crate::harness::{Call, Kind, Lab, Netns, Snapshot, reached, store_files};

fn bridge(lab: &Lab) -> Value {
    json!({"cniVersion": "1.0.0", "name": "lan", "type": "bridge", "bridge": "br0", "ipam": wire(lab)["ipam"]})
}

/// The same call, by our program.
fn by_ours<'l>(call: &Call<'l>) -> Call<'l> {
    let kind = call.conf()["type"].as_str().unwrap();
    call.clone().by(Kind::Trestle.dir().join(kind))
}

/// Attached by the reference; checked and deleted by ours, and nothing is left.
#[track_caller]
fn taken_over(lab: &Lab, pod: &Netns, mut call: Call) {
    let before = Snapshot::of(lab, &[pod]).without_bridge("br0");
    call.add();
    let ours = by_ours(&call);
    ours.check();
    ours.del();
    before.same(&Snapshot::of(lab, &[pod]).without_bridge("br0"), "after our DEL");
    ours.del();
}

#[test]
fn of_bridge() {
    for extra in [
        json!({}),
        json!({"isGateway": true}),
        json!({"isDefaultGateway": true, "ipMasq": true}),
        json!({"isDefaultGateway": true, "ipMasq": true, "ipMasqBackend": "nftables"}),
        json!({"macspoofchk": true}),
        json!({"hairpinMode": true, "mtu": 1400}),
        json!({"isGateway": true, "ipMasq": true, "macspoofchk": true, "portIsolation": true}),
    ] {
        // A node for each: the reference cannot pin the MAC of a bridge that has lost its last port.
        let lab = Lab::new();
        let pod = lab.pod();
        let mut call = lab.call(Kind::Reference, bridge(&lab)).pod(&pod);
        for (key, value) in extra.as_object().unwrap() {
            call = call.with(key, value.clone());
        }
        taken_over(&lab, &pod, call);
    }
}

#[test]
fn of_macvlan() {
    let lab = Lab::new();
    let _far = nic(&lab, "nic0");
    let pod = lab.pod();
    let conf =
        json!({"cniVersion": "1.0.0", "name": "lan", "type": "macvlan", "master": "nic0", "ipam": wire(&lab)["ipam"]});
    taken_over(&lab, &pod, lab.call(Kind::Reference, conf).pod(&pod));
}

#[test]
fn of_ipam() {
    let lab = Lab::new();
    let pod = lab.pod();
    let conf = json!({"cniVersion": "1.0.0", "name": "lan", "type": "host-local", "ipam": wire(&lab)["ipam"]});
    taken_over(&lab, &pod, lab.call(Kind::Reference, conf).pod(&pod));
    assert!(store_files(&lab.store()).is_empty());
}

/// The reference leaks its rules where the namespace is gone; ours finds them by their names.
#[test]
fn namespace_gone() {
    for backend in ["iptables", "nftables"] {
        let lab = Lab::new();
        let mut pod = lab.pod();
        let mut call = lab
            .call(Kind::Reference, bridge(&lab))
            .pod(&pod)
            .with("isDefaultGateway", json!(true))
            .with("ipMasq", json!(true))
            .with("ipMasqBackend", json!(backend))
            .with("macspoofchk", json!(true));
        call.add();
        assert!(!lab.node.filters().is_empty());
        pod.remove();
        by_ours(&call).without("CNI_NETNS").del();
        assert_eq!(lab.node.filters(), Vec::<String>::new(), "{backend}");
        assert!(store_files(&lab.store()).is_empty());
    }
}

/// Old and new pods side by side on one bridge and one store; a neighbour's rules stay.
#[test]
fn side_by_side() {
    let lab = Lab::new();
    let (old, kept, new) = (lab.pod(), lab.pod(), lab.pod());
    let call = |kind, pod: &Netns| {
        lab.call(kind, bridge(&lab)).pod(pod).with("isDefaultGateway", json!(true)).with("ipMasq", json!(true))
    };
    let (mut first, mut second, mut third) =
        (call(Kind::Reference, &old), call(Kind::Reference, &kept), call(Kind::Trestle, &new));
    first.add();
    second.add();
    third.add();
    assert_eq!(store_files(&lab.store()).len(), 3);
    reached(&new, &old, "10.1.2.2");
    by_ours(&first).del();
    second.check();
    assert!(!lab.node.filters().is_empty(), "the neighbour's rules stay");
    third.check();
    third.del();
    by_ours(&second).del();
    assert_eq!(lab.node.filters(), Vec::<String>::new());
}

/// And back: what ours attached, the reference deletes, as far as it can know.
#[test]
fn given_back() {
    let lab = Lab::new();
    let pod = lab.pod();
    let before = Snapshot::of(&lab, &[&pod]).without_bridge("br0");
    let mut call = lab.call(Kind::Trestle, bridge(&lab)).pod(&pod).with("isGateway", json!(true));
    call.add();
    let theirs = call.clone().by(Kind::Reference.dir().join("bridge"));
    theirs.check();
    theirs.del();
    assert!(pod.find("eth0").is_none() && store_files(&lab.store()).is_empty());
    // Our journal has a dead entry now; our DEL or GC clears it.
    call.del();
    before.same(&Snapshot::of(&lab, &[&pod]).without_bridge("br0"), "after both DELs");
}

/// A bridge has no MAC once its last port has gone. The reference cannot make it a gateway then; ours can.
#[test]
fn bridge_without_ports() {
    let lab = Lab::new();
    let (first, second) = (lab.pod(), lab.pod());
    let mut call = lab.call(Kind::Reference, bridge(&lab)).pod(&first);
    call.add();
    call.del();
    assert_eq!(lab.node.link("br0").mac, "00:00:00:00:00:00");
    let mut gateway = lab.call(Kind::Trestle, bridge(&lab)).pod(&second).with("isGateway", json!(true));
    gateway.add();
    let mac = lab.node.link("br0").mac;
    reached(&second, &lab.node, "10.1.2.1");
    gateway.check();
    let third = lab.pod();
    lab.call(Kind::Trestle, bridge(&lab)).pod(&third).with("isGateway", json!(true)).add();
    assert_eq!(lab.node.link("br0").mac, mac, "pinned");
}
