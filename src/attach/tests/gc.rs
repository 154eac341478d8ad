//! GC: what it takes away, and what it leaves alone.

use serde_json::json;

use super::*;
use crate::store::ContainerLock;

const LAN: &str = "lan";

/// GC as the runtime calls it for the network; `valid` is its list, or null.
fn gc(node: &Node, network: &str, valid: Value, started: u64) -> Outcome<()> {
    let conf = json!({"cniVersion": "1.1.0", "name": network, "type": "trestle", "cni.dev/valid-attachments": valid});
    let call = call(&conf, &[("CNI_COMMAND", "GC")]);
    node.run(|| block_on(super::super::gc(&call, &node.dirs, started)))
}

fn now(node: &Node) -> u64 {
    node.dirs.now()
}

#[test]
fn what_the_runtime_does_not_name_goes() {
    let node = Node::new();
    let pods = ["one", "two", "three"].map(|name| node.pod(name));
    let one = At { container: "c1", ..node.at(&pods[0]) };
    let two = At { container: "c2", ..node.at(&pods[1]) }.with(json!({"macspoofchk": true}));
    let dmz = At { container: "c3", ..node.at(&pods[2]) }.with(json!({"name": "dmz"}));
    let results = [one.add().unwrap(), two.add().unwrap(), dmz.add().unwrap()];
    let drop_in = At { ifname: "eth0", container: "c2", ..node.at(&pods[1]) }.drop_in(Type::Bridge);
    drop_in.add().unwrap();

    gc(&node, LAN, json!(null), now(&node)).unwrap();
    gc(&node, "other", json!([]), now(&node)).unwrap();
    assert_eq!(node.entries(), 4, "a missing list, and another network's, collect nothing");
    gc(&node, LAN, json!([{"containerID": "c1", "ifname": "net1"}]), now(&node)).unwrap();
    assert_eq!((node.entries(), node.taken("lan").len(), node.taken("dmz").len()), (2, 1, 1));
    assert_eq!(pods[1].links().len(), 0, "both attachments of the network, whatever their type");
    assert!(!node.sh("nft list ruleset").contains("c2-net1"));
    one.check(&results[0]).unwrap();
    dmz.check(&results[2]).unwrap();
    two.del().unwrap();
}

#[test]
fn the_interface_counts_as_well_as_the_container() {
    let node = Node::new();
    let pod = node.pod("web");
    let (a, b) = (node.at(&pod), At { ifname: "net2", ..node.at(&pod) });
    a.add().unwrap();
    b.add().unwrap();
    gc(&node, LAN, json!([{"containerID": "c1", "ifname": "net2"}]), now(&node)).unwrap();
    assert_eq!(pod.links(), ["net2"]);
}

#[test]
fn what_a_pod_of_the_meta_plugin_owns_is_left_to_that_ones_gc() {
    let node = Node::new();
    let pod = node.pod("web");
    let (a, b) = (node.at(&pod), At { ifname: "net2", ..node.at(&pod) });
    let results = [a.add().unwrap(), b.add().unwrap()];
    let meta = AttachmentId { container: "c1".parse().unwrap(), ifname: "eth0".parse().unwrap(), role: Role::Meta };
    let owns = |ifnames: &[&str]| {
        let networks: Value = ifnames.iter().map(|i| json!({"name": "p/lan", "ifname": i})).collect();
        Journal(&node.dirs).write(&meta, &"kube".parse().unwrap(), &json!({"networks": networks})).unwrap();
    };
    owns(&["net1", "net2"]);
    gc(&node, LAN, json!([]), now(&node)).unwrap();
    a.check(&results[0]).unwrap();
    b.check(&results[1]).unwrap();
    assert_eq!(node.taken("lan").len(), 2);
    std::fs::write(node.dirs.run.join("journal/c1/eth0.meta.json"), "{").unwrap();
    gc(&node, LAN, json!([]), now(&node)).unwrap();
    assert_eq!(pod.links(), ["net1", "net2"], "nobody knows which of them are that pod's");
    owns(&["net2"]);
    gc(&node, LAN, json!([]), now(&node)).unwrap();
    assert_eq!((pod.links(), node.taken("lan").len()), (vec!["net2".to_owned()], 1));
    Journal(&node.dirs).remove(&meta).unwrap();
    gc(&node, LAN, json!([]), now(&node)).unwrap();
    assert_eq!((node.entries(), node.taken("lan").len()), (0, 0));
}

#[test]
fn younger_and_locked_entries_are_left() {
    let node = Node::new();
    let pod = node.pod("web");
    let at = node.at(&pod);
    let before = now(&node);
    let result = at.add().unwrap();
    gc(&node, LAN, json!([]), before).unwrap();
    at.check(&result).unwrap();
    let lock = ContainerLock::try_lock(&node.dirs, &"c1".parse().unwrap()).unwrap().unwrap();
    gc(&node, LAN, json!([]), now(&node)).unwrap();
    assert_eq!(node.entries(), 1);
    drop(lock);
    gc(&node, LAN, json!([]), now(&node)).unwrap();
    assert_eq!((node.entries(), node.taken("lan").len(), pod.links().len()), (0, 0, 0));
}

#[test]
fn pods_that_are_gone_are_collected_and_broken_entries_hide_nothing() {
    let node = Node::new();
    let (one, two) = (node.pod("one"), node.pod("two"));
    let master = At { container: "c2", ..node.at(&two) }.with(json!({"bridge": null, "master": "eno9"}));
    node.sh("ip link add eno9 type veth peer name eno10; ip link set eno9 up");
    node.at(&one).add().unwrap();
    master.add().unwrap();
    std::fs::write(node.dirs.run.join("journal/c1/net7.wire.json"), "{").unwrap();
    one.vanish();
    two.vanish();
    gc(&node, LAN, json!([]), now(&node)).unwrap();
    let left: Vec<_> = Journal(&node.dirs).all().unwrap();
    assert!(left.len() == 1 && left[0].is_err(), "{left:?}");
    assert_eq!(node.taken("lan").len(), 0);
}

#[test]
fn an_entry_of_an_earlier_boot_is_older_than_any_call_and_touches_no_link() {
    let mut node = Node::without_bridge();
    let pod = node.pod("web");
    let at = node.at(&pod).with(json!({"bridge": null, "master": "eno1"}));
    at.add().unwrap();
    // The boot clock begins anew, and so do the cookies: this namespace has the one that the entry names.
    node.dirs = node.dirs.clone().with_boot("another").with_clock(5);
    gc(&node, LAN, json!([]), 7).unwrap();
    assert_eq!((node.entries(), node.taken("lan").len()), (0, 0), "what we recorded is released");
    assert_eq!(pod.links(), ["net1"], "but this link is somebody else's");
}
