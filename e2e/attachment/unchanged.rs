//! The node's bridge stays as its owner made it.

use serde_json::json;

use super::{nic, plain, vm};
use crate::harness::{Call, Lab, Netns, Snapshot};

fn forwarding(lab: &Lab) -> [Option<String>; 3] {
    ["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/default/accept_ra"].map(|key| lab.node.sysctl(key))
}

/// MAC, MTU, flags, addresses and sysctls of the bridge and its uplink before ADD, after it and after DEL.
#[track_caller]
fn leaves(lab: &Lab, links: &[&str], mut call: Call) {
    let look = || links.iter().map(|link| Snapshot::of_link(&lab.node, link)).collect::<Vec<_>>();
    let (before, switches) = (look(), forwarding(lab));
    let same = |when: &str| {
        for (one, other) in before.iter().zip(look()) {
            one.same(&other, when);
        }
        assert_eq!(switches, forwarding(lab), "{when}");
    };
    call.add();
    same("after ADD");
    call.check();
    call.del();
    same("after DEL");
}

fn calls<'l>(lab: &'l Lab, pod: &Netns) -> [Call<'l>; 5] {
    [
        plain(lab, pod),
        vm(lab, pod),
        plain(lab, pod).with("mtu", json!(1400)),
        plain(lab, pod).with("macspoofchk", json!(true)).with("portIsolation", json!(true)),
        plain(lab, pod).with("hairpinMode", json!(true)).with("ipam", json!(null)),
    ]
}

#[test]
fn bridge_with_an_uplink() {
    let (lab, _lan) = Lab::with_lan();
    lab.node.run("ip addr add 10.1.2.254/24 dev br-lan");
    lab.node.run("ip addr add 2001:db8:42::fe/64 dev br-lan nodad");
    let pod = lab.pod();
    for call in calls(&lab, &pod) {
        leaves(&lab, &["br-lan", "up0"], call);
    }
}

/// Its MAC was set by hand, its MTU is larger than usual.
#[test]
fn bridge_set_by_hand() {
    let (lab, _lan) = Lab::with_lan();
    lab.node.run("ip link set up0 mtu 9000");
    lab.node.run("ip link set br-lan mtu 4000");
    lab.node.run("ip link set br-lan address 0a:00:00:00:00:77");
    let pod = lab.pod();
    for call in calls(&lab, &pod) {
        leaves(&lab, &["br-lan", "up0"], call);
    }
}

#[test]
fn master_of_the_fallback() {
    let lab = Lab::new();
    let _far = nic(&lab, "nic0");
    lab.node.run("ip addr add 10.1.2.254/24 dev nic0");
    let pod = lab.pod();
    // Promiscuity and the like: while the macvlan is there the kernel counts it; after DEL all is as before.
    let before = Snapshot::of_link(&lab.node, "nic0");
    let mut call = plain(&lab, &pod).with("master", json!("nic0"));
    call.add();
    assert_eq!(lab.node.addresses("nic0"), ["10.1.2.254/24"]);
    call.del();
    before.same(&Snapshot::of_link(&lab.node, "nic0"), "after DEL");
}
