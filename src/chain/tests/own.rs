//! Our own plugins in a chain, on the real kernel. Needs root.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::attach::tests::{Node, Pod};
use crate::cni::Version;
use crate::store::{Allow, ContainerLock, Journal};
use crate::types::{Code, ContainerId, Role};

fn bridge(node: &Node) -> Value {
    json!({"type": "bridge", "bridge": "br0", "ipam": node.host_local(json!({"subnet": "10.1.2.0/24"}))})
}

/// What a tuning plugin would say: the result so far.
const TUNING: &str = r#"ADD) ip link set $CNI_IFNAME mtu 1400 2>/dev/null; echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "tuned"}]}';;"#;

/// On this node, in this pod.
fn at<'a>(node: &Node, pod: &Pod, bin: &'a Bin, conf: Conf) -> At<'a> {
    At { dirs: node.dirs.clone(), node: node.settings.clone(), netns: pod.path.clone(), ..At::new(conf, bin) }
}

fn nothing_is_left(node: &Node, pod: &Pod) {
    assert_eq!((node.links(), pod.links()), (vec!["eno1".to_owned(), "br0".into()], Vec::new()));
    assert_eq!((node.taken("n"), node.entries()), (Vec::new(), 0));
}

fn c1() -> ContainerId {
    "c1".parse().unwrap()
}

#[test]
fn a_bridge_in_this_process_and_a_script_behind_it() {
    let node = Node::new();
    let pod = node.pod("web");
    let bin = Bin::new();
    bin.script("tuning", TUNING);
    // A program of that name is not run, whoever put it there.
    bin.failing("bridge", "ADD", 5);
    let at = at(&node, &pod, &bin, list("1.0.0", json!([bridge(&node), {"type": "tuning"}])));
    // The caller's; nothing below waits for it.
    let _lock = ContainerLock::lock(&node.dirs, &c1(), Duration::ZERO).unwrap();
    Journal(&node.dirs).mark_deleted(&c1()).unwrap();

    let done = node.run(|| at.add()).unwrap();
    assert_eq!((bin.log().as_str(), pod.links(), node.entries()), ("ADD.tuning", vec!["net1".to_owned()], 1));
    assert_eq!(done.result.interfaces[0].name, "tuned", "the last one's word");
    let prev = &bin.got("ADD.tuning")["prevResult"];
    assert_eq!((&prev["cniVersion"], &prev["ips"][0]["address"]), (&json!("1.0.0"), &json!("10.1.2.2/24")));
    assert_eq!(prev["interfaces"][2]["sandbox"].as_str(), pod.path.to_str());
    let entry = node.entry("c1", "net1", Role::Wire).unwrap();
    assert_eq!(entry.network, "n");

    node.run(|| at.check(prev)).unwrap();
    assert_eq!(bin.log(), "CHECK.tuning");
    pod.sh("ip link set net1 down");
    let differs = node.run(|| at.check(prev)).unwrap_err();
    assert_eq!((differs.code, bin.log().as_str()), (Code::Differs, ""));

    node.run(|| at.del(Some(&done.raw))).unwrap();
    assert_eq!(bin.log(), "DEL.tuning");
    nothing_is_left(&node, &pod);
    node.run(|| at.del(None)).unwrap();
    nothing_is_left(&node, &pod);
}

#[test]
fn a_chain_that_fails_in_the_middle_leaves_nothing() {
    let node = Node::new();
    let pod = node.pod("web");
    let bin = Bin::new();
    bin.script("tuning", TUNING);
    bin.failing("broken", "ADD", 11);
    let plugins = json!([bridge(&node), {"type": "tuning"}, {"type": "broken"}, {"type": "tuning"}]);
    let at = at(&node, &pod, &bin, list("1.0.0", plugins));
    let failure = node.run(|| at.add()).unwrap_err();
    assert_eq!((failure.foreign, bin.log().as_str()), (Some(11), "ADD.tuning ADD.broken DEL.broken DEL.tuning"));
    nothing_is_left(&node, &pod);

    // One of ours in the middle: it undoes itself, and takes away nothing of somebody else's.
    pod.sh("ip link add net1 type bridge");
    let at = At { conf: list("1.0.0", json!([{"type": "tuning"}, bridge(&node)])), ..at };
    let failure = node.run(|| at.add()).unwrap_err();
    assert_eq!((failure.code, bin.log().as_str()), (Code::NameTaken, "ADD.tuning DEL.tuning"));
    assert_eq!(pod.links(), ["net1"]);
}

#[test]
fn what_a_version_has_no_words_for_is_undone() {
    let node = Node::new();
    let pod = node.pod("web");
    let bin = Bin::new();
    let conf = json!({"cniVersion": "0.2.0", "name": "n", "type": "bridge", "bridge": "br0"});
    let at = at(&node, &pod, &bin, single(conf));
    assert_eq!(node.run(|| at.add()).unwrap_err().code, Code::Version);
    nothing_is_left(&node, &pod);
}

#[test]
fn the_administrators_word_binds_what_pods_choose() {
    let mut node = Node::new();
    node.settings.allow_bridges = Some(vec![Allow { glob: "br-*".into(), namespaces: None }]);
    node.settings.allow_masters = Some(vec![Allow { glob: "eno2".into(), namespaces: None }]);
    node.sh("ip link set eno1 nomaster; ip link property add dev br0 altname br-alias");
    let pod = node.pod("web");
    let bin = Bin::new();
    let conf = |more: Value| {
        let mut conf = json!({"cniVersion": "1.0.0", "name": "n"});
        conf.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        single(conf)
    };
    for (more, code) in [
        (json!({"type": "bridge", "bridge": "br0"}), Code::BridgeNotAllowed),
        (json!({"type": "bridge", "bridge": "br1"}), Code::BridgeNotAllowed),
        (json!({"type": "trestle", "bridge": "br-alias"}), Code::BridgeNotAllowed),
        (json!({"type": "macvlan", "master": "eno1"}), Code::MasterNotAllowed),
        (json!({"type": "trestle", "bridge": "br0"}), Code::BridgeNotAllowed),
    ] {
        let mut at = at(&node, &pod, &bin, conf(more.clone()));
        assert_eq!(node.run(|| at.add()).unwrap_err().code, code, "{more}");
        assert_eq!((pod.links().len(), node.entries()), (0, 0));
        at.chooser = Chooser::Administrator;
        if more["bridge"] != "br-alias" {
            node.run(|| at.add()).unwrap_or_else(|e| panic!("{more}: {e}"));
            node.run(|| at.del(None)).unwrap();
        }
    }
    // The bridge was not made for a pod that may not have it.
    node.sh("ip link del br1");
}

/// Other people's plugins find links in more ways than by `bridge` and `master`.
#[test]
fn the_administrators_word_binds_what_leads_to_a_link() {
    let mut node = Node::new();
    node.settings.allow_bridges = Some(vec![]);
    node.settings.allow_masters = Some(vec![Allow { glob: "br*".into(), namespaces: None }]);
    node.sh("ip link set eno1 nomaster; ip link property add dev br0 altname a-long-name-of-the-bridge");
    node.sh("ip link add mv0 link br0 type macvlan; ip link property add dev mv0 altname brm");
    node.sh("ip link set eno1 address 02:00:00:00:00:07; ip addr add 192.0.2.1/24 dev eno1");
    node.sh("ip route add default via 192.0.2.9");
    let pod = node.pod("web");
    let bin = Bin::new();
    bin.script("ipvlan", TUNING);
    bin.script("host-device", TUNING);
    bin.plugin("one", &json!({"cniVersion": "1.0.0", "interfaces": [{"name": "br0"}]}));
    let mut at = at(&node, &pod, &bin, list("1.0.0", json!([])));
    for (plugins, code, ran) in [
        (json!([{"type": "ipvlan"}]), Code::MasterNotAllowed, ""),
        (json!([{"type": "ipvlan", "master": "br0"}]), Code::BridgeNotAllowed, ""),
        (json!([{"type": "ipvlan", "master": "a-long-name-of-the-bridge"}]), Code::MasterNotAllowed, ""),
        (json!([{"type": "ipvlan", "master": "brm"}]), Code::MasterNotAllowed, ""),
        (json!([{"type": "one"}, {"type": "ipvlan"}]), Code::BridgeNotAllowed, "ADD.one DEL.one"),
        (json!([{"type": "host-device", "device": "eno1"}]), Code::MasterNotAllowed, ""),
        (json!([{"type": "host-device", "hwaddr": "02:00:00:00:00:07"}]), Code::MasterNotAllowed, ""),
        (json!([{"type": "host-device", "pciBusID": "0000:99:00.0"}]), Code::MasterNotAllowed, ""),
        (json!([{"type": "trestle", "master": "br0"}]), Code::BridgeNotAllowed, ""),
        (json!([{"type": "macvlan", "master": "br0"}]), Code::BridgeNotAllowed, ""),
        (json!([{"type": "macvlan"}]), Code::MasterNotAllowed, ""),
    ] {
        at.conf = list("1.0.0", plugins.clone());
        let failure = node.run(|| at.add()).unwrap_err();
        assert_eq!((failure.code, bin.log().as_str()), (code, ran), "{plugins}: {failure}");
        assert_eq!((pod.links().len(), node.entries()), (0, 0), "{plugins}");
    }
    node.settings.allow_masters = Some(vec![Allow { glob: "mv0".into(), namespaces: None }]);
    at.node = node.settings.clone();
    for ty in ["trestle", "macvlan", "ipvlan"] {
        at.conf = list("1.0.0", json!([{"type": ty, "master": "mv0"}]));
        assert_eq!(node.run(|| at.add()).unwrap_err().code, Code::BridgeNotAllowed, "{ty} on a macvlan on the bridge");
    }
    node.settings.allow_masters = None;
    at.node = node.settings.clone();
    at.conf = list("1.0.0", json!([{"type": "host-device", "device": "eno1"}]));
    node.run(|| at.add()).unwrap();
}

/// The pool gives an address that no route can lead over, and takes it back only the second time.
#[test]
fn what_our_own_undo_leaves_is_left_for_del() {
    let node = Node::new();
    let pod = node.pod("web");
    let bin = Bin::new();
    let told = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.9/24"}],
        "routes": [{"dst": "10.7.0.0/16", "gw": "192.0.2.77"}]});
    let back = r#"DEL) [ -e $0.once ] || { touch $0.once; echo '{"code": 11, "msg": "away"}'; exit 1; };;"#;
    bin.script("pool", &format!("ADD) echo '{told}';; {back}"));
    let conf = json!({"type": "bridge", "bridge": "br0", "ipam": {"type": "pool"}});
    let at = at(&node, &pod, &bin, list("1.0.0", json!([conf])));
    let failed = node.run(|| at.call(async |network, place| super::super::add(network, place).await)).unwrap_err();
    assert!(failed.undone && failed.cause.msg.contains("away"), "the list's own undo was the second: {failed:?}");
    assert_eq!(bin.log(), "ADD.pool DEL.pool DEL.pool");
    nothing_is_left(&node, &pod);
    bin.script("pool", &format!("ADD) echo '{told}';; DEL) [ -e $0.works ] || exit 1;;"));
    let failed = node.run(|| at.call(async |network, place| super::super::add(network, place).await)).unwrap_err();
    assert!(!failed.undone && node.entries() == 1, "{failed:?}");
    fs::write(at.path[0].join("pool.works"), "").unwrap();
    node.run(|| at.del(None)).unwrap();
    nothing_is_left(&node, &pod);
}

#[test]
fn addresses_alone() {
    let node = Node::new();
    let pod = node.pod("web");
    let bin = Bin::new();
    let ipam = node.host_local(json!({"subnet": "10.1.2.0/24"}));
    let at = at(&node, &pod, &bin, list("1.1.0", json!([{"type": "host-local", "ipam": ipam}])));
    let done = node.run(|| at.add()).unwrap();
    assert_eq!((done.version, done.result.ips[0].address.to_string()), (Version::V1_1_0, "10.1.2.2/24".into()));
    assert_eq!(node.taken("n"), ["10.1.2.2"]);
    node.run(|| at.check(&done.raw)).unwrap();
    node.run(|| at.gc(&[("c1", "net1")])).unwrap();
    assert_eq!(node.taken("n").len(), 1);
    node.run(|| at.del(None)).unwrap();
    assert_eq!(node.taken("n").len(), 0);
    let fixed = json!({"type": "static", "ipam": {"type": "static", "addresses": [{"address": "10.9.9.9/24"}]}});
    let at = At { conf: list("1.0.0", json!([fixed])), ..at };
    let done = node.run(|| at.add()).unwrap();
    assert_eq!(done.result.ips[0].address.to_string(), "10.9.9.9/24");
    node.run(|| at.check(&done.raw)).unwrap();
    node.run(|| at.del(None)).unwrap();
}

#[test]
fn status_and_gc_of_ours() {
    let node = Node::new();
    let pod = node.pod("web");
    let bin = Bin::new();
    bin.script("tuning", TUNING);
    let mut at = at(&node, &pod, &bin, list("1.1.0", json!([bridge(&node), {"type": "tuning"}])));
    node.run(|| at.status()).unwrap();
    node.run(|| at.add()).unwrap();
    node.run(|| at.gc(&[("c1", "net1")])).unwrap();
    assert_eq!(node.entries(), 1);
    node.run(|| at.gc(&[("c1", "eth0")])).unwrap();
    assert_eq!(bin.log(), "STATUS.tuning ADD.tuning GC.tuning GC.tuning");
    nothing_is_left(&node, &pod);
    for version in ["1.1.0", "1.0.0", ""] {
        at.conf = list(version, json!([{"type": "tuning"}, {"type": "trestle", "bridg": "br0"}]));
        assert_eq!(node.run(|| at.status()).unwrap_err().code, Code::UnknownKey, "{version}");
        assert_eq!(bin.log(), if version == "1.1.0" { "STATUS.tuning" } else { "" });
    }
    at.conf = list("1.2.3", json!([{"type": "bridge"}]));
    assert_eq!(node.run(|| at.status()).unwrap_err().code, Code::Version);
    node.run(|| at.del(None)).expect("what was refused leaves nothing to be undone");
}
