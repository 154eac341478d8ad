//! ADDs that fail: one clear error each, and nothing left of them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use super::*;
use crate::net::PortState;
use crate::store::{Allow, full};
use crate::types::{Code, Failure};

/// What there is, in node, pod, journal and store.
fn everything(node: &Node, pod: &Pod) -> (Vec<String>, Vec<String>, usize, Vec<String>, String) {
    (node.links(), pod.links(), node.entries(), node.taken("lan"), node.sh("nft list ruleset"))
}

/// The ADD fails so, and leaves everything as it was.
fn fails(at: &At<'_>, pod: &Pod, code: Code, words: &[&str]) -> Failure {
    let before = everything(at.node, pod);
    let failure = at.add().unwrap_err();
    assert_eq!(failure.code, code, "{failure}");
    for word in words {
        assert!(failure.to_string().contains(word), "{word:?} is not in {failure}");
    }
    assert_eq!(everything(at.node, pod), before, "after {failure}");
    at.del().unwrap();
    assert_eq!(everything(at.node, pod), before, "after the DEL that follows {failure}");
    failure
}

#[test]
fn a_bridge_that_cannot_serve() {
    let node = Node::new();
    let pod = node.pod("web");
    let at = node.at(&pod);
    let on = |bridge: &str| at.clone().with(json!({"bridge": bridge}));
    node.sh("ip link add br-lan type bridge; ip link add br-dmz type bridge");
    let host = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let there = format!("no bridge br-lna on {host}; bridges there: br0, br-lan, br-dmz");
    fails(&on("br-lna"), &pod, Code::BridgeMissing, &[&there, "did you mean br-lan?"]);
    fails(&on("br-lna").of_vm(), &pod, Code::BridgeMissing, &["bridges there: br0"]);
    fails(
        &on("br-lan"),
        &pod,
        Code::BridgeDown,
        &["network lan: bridge br-lan on", "is down", "ip link set br-lan up"],
    );
    fails(&on("eno1"), &pod, Code::NotABridge, &["eno1", "br0, br-lan, br-dmz"]);
    fails(&at.clone().with(json!({"mtu": 1501})), &pod, Code::MtuTooLarge, &["network lan: ", "1501", "1500", "br0"]);
    fails(
        &at.clone().with(json!({"vlan": 5})),
        &pod,
        Code::VlanFiltering,
        &["network lan: ", "br0", "vlan_filtering 1"],
    );
}

#[test]
fn a_master_that_cannot_serve() {
    let node = Node::new();
    let pod = node.pod("web");
    let on = |more: Value| node.at(&pod).with(json!({"bridge": null})).with(more);
    fails(&on(json!({"master": "eno2"})), &pod, Code::MasterMissing, &["eno2", "eno1", "did you mean eno1?"]);
    fails(
        &on(json!({"master": "eno1"})),
        &pod,
        Code::MasterBusy,
        &["network lan: ", "port of bridge br0", "EBUSY", "set bridge to br0"],
    );
    node.sh("ip link set eno1 nomaster down");
    fails(&on(json!({"master": "eno1"})), &pod, Code::MasterDown, &["ip link set eno1 up"]);
    node.sh("ip link set eno1 up mtu 1400");
    fails(&on(json!({"master": "eno1", "mtu": 1500})), &pod, Code::MtuTooLarge, &["1400", "eno1"]);
    let fallback = json!({"bridge": "br9", "master": "eno1", "macspoofchk": true});
    fails(&on(fallback), &pod, Code::NotWithMacvlan, &["macspoofchk", "no bridge br9", "br0"]);
    let lo = on(json!({"master": "lo"}));
    for ty in [Type::Trestle, Type::Macvlan] {
        fails(&lo.clone().drop_in(ty), &pod, Code::Config, &["network lan: master lo", "is the loopback"]);
    }
    // What the plan cannot know, the kernel says.
    node.sh("ip tuntap add tun0 mode tun; ip link set tun0 up");
    let failure = fails(&on(json!({"master": "tun0"})), &pod, Code::Kernel, &["create macvlan", "net1"]);
    assert!(failure.msg.contains("EINVAL"), "{failure}");
}

#[test]
fn a_port_that_spanning_tree_lets_listen_is_sound() {
    let node = Node::new();
    let pod = node.pod("web");
    node.sh("ip link set br0 type bridge stp_state 1 forward_delay 400");
    let at = node.at(&pod);
    let result = at.add().unwrap();
    let state = node.link("trca4978b4555").port.unwrap().state;
    assert!(matches!(state, PortState::Listening | PortState::Learning), "{state:?}");
    at.check(&result).unwrap();
    at.del().unwrap();
}

#[test]
fn names_that_are_taken() {
    let node = Node::new();
    let pod = node.pod("web");
    let at = node.at(&pod);
    pod.sh("ip link add net1 type veth peer name other");
    let at_other = At { ifname: "other", ..at.clone() };
    let failure = at.add().unwrap_err();
    assert_eq!(
        (failure.code, failure.msg.as_str()),
        (Code::NameTaken, "network lan: the pod has an interface net1 already")
    );
    assert_eq!(at_other.add().unwrap_err().code, Code::NameTaken);
    assert_eq!((node.entries(), node.taken("lan").len()), (0, 0));
    // Each of them would have been deleted by the DEL that follows.
    for ty in [Type::Trestle, Type::Bridge] {
        fails(&at.clone().drop_in(ty), &pod, Code::NameTaken, &["net1"]);
    }
    fails(&at.clone().with(json!({"vlan": 5000})), &pod, Code::Config, &["vlan"]);
    fails(&at.clone().with(json!({"bridge": "br9"})), &pod, Code::BridgeMissing, &[]);
    node.sh("ip link add eno2 type veth peer name far; ip link set eno2 up; ip link set far up");
    for ty in [Type::Trestle, Type::Macvlan] {
        let on = at.clone().drop_in(ty).with(json!({"bridge": null, "master": "eno2"}));
        fails(&on, &pod, Code::NameTaken, &["net1"]);
    }
    pod.sh("ip link del net1");
    node.sh("ip link add trca4978b4555 type veth peer name trpeer");
    fails(&at, &pod, Code::HostNameTaken, &["trca4978b4555", "delete it"]);
    // What is attached in the end is deleted: by its entry, and by its names where there is no entry and no mark.
    node.sh("ip link del trca4978b4555");
    at.add().unwrap();
    at.del().unwrap();
    assert!(pod.links().is_empty());
    at.add().unwrap();
    std::fs::remove_dir_all(&node.dirs.run).unwrap();
    at.del().unwrap();
    assert!(pod.links().is_empty());
    node.sh("ip link add vethca4978b4 type bridge");
    fails(&at.clone().drop_in(Type::Bridge), &pod, Code::HostNameTaken, &["vethca4978b4"]);
}

/// Up to 0.2.0 a result is addresses; a missing version is 0.1.0.
#[test]
fn a_version_that_cannot_tell_what_would_be_made() {
    let node = Node::new();
    let pod = node.pod("web");
    node.sh("ip link add eno2 type veth peer name far; ip link set eno2 up; ip link set far up");
    for version in [Value::Null, "".into(), "0.1.0".into(), "0.2.0".into()] {
        let at = node.at(&pod).with(json!({"cniVersion": version, "ipam": null}));
        let on = |ty, link: &str| at.clone().drop_in(ty).with(json!({"bridge": null, link: "eno2"}));
        let words = ["cannot tell a result without an address", "0.3.1 or newer"];
        fails(&at, &pod, Code::Version, &words);
        fails(&on(Type::Trestle, "master"), &pod, Code::Version, &words);
        fails(&at.clone().drop_in(Type::Bridge), &pod, Code::Version, &words);
        fails(&on(Type::Macvlan, "master"), &pod, Code::Version, &words);
        let (wire, bind) =
            (machine::wire(&node, &pod), machine::bind(&node, &pod).with(json!({"cniVersion": version})));
        wire.add().unwrap();
        let before = everything(&node, &pod);
        assert_eq!(bind.add().unwrap_err().code, Code::Version);
        assert_eq!((everything(&node, &pod), pod.addresses(wire.ifname).len()), (before, 1));
        wire.del().unwrap();
    }
    let two = json!({"type": "static", "addresses": [{"address": "10.1.2.3/24"}, {"address": "10.1.2.4/24"}]});
    let at = node.at(&pod).with(json!({"cniVersion": "0.2.0", "ipam": two}));
    fails(&at, &pod, Code::IpamConfig, &["no room for more than one address"]);
}

#[test]
fn a_namespace_that_is_gone_or_none() {
    let node = Node::new();
    let pod = node.pod("web");
    let mut at = node.at(&pod);
    at.netns = node.tmp.path().join("never").to_str().unwrap().into();
    fails(&at, &pod, Code::NamespaceGone, &["never", "no such file"]);
    at.netns = "/etc/hostname".into();
    fails(&at, &pod, Code::NamespaceGone, &["/etc/hostname is not a network namespace"]);
}

#[test]
fn ipam_that_fails_after_the_link_was_made() {
    let node = Node::new();
    let pod = node.pod("web");
    let with = |ipam: Value, ty| node.at(&pod).drop_in(ty).with(json!({"ipam": ipam}));
    let small = node.host_local(json!({"subnet": "10.1.2.0/30", "gateway": "10.1.2.2"}));
    let other = At { container: "c9", ..node.at(&pod) }.with(json!({"ipam": small}));
    other.add().unwrap();
    let pod2 = node.pod("two");
    for ty in [Type::Trestle, Type::Bridge] {
        let at = At { netns: pod2.path.to_str().unwrap().into(), ..with(small.clone(), ty) };
        fails(&at, &pod2, Code::IpamExhausted, &["no address is left"]);
    }
    other.del().unwrap();
    fails(&with(json!({"type": "static"}), Type::Trestle), &pod, Code::IpamNothing, &[]);
    // A route over a gateway that no address reaches.
    let mut lost = node.host_local(json!({"subnet": "10.1.2.0/24"}));
    lost["routes"] = json!([{"dst": "10.9.0.0/16", "gw": "192.0.2.1"}]);
    for ty in [Type::Trestle, Type::Bridge] {
        let at = with(lost.clone(), ty).with(json!({"macspoofchk": true}));
        let failure = at.add().unwrap_err();
        assert_eq!(failure.code, Code::Kernel);
        assert!(failure.msg.contains("add route 10.9.0.0/16 via 192.0.2.1"), "{failure}");
        assert_eq!((node.links(), pod.links()), (vec!["eno1".to_owned(), "br0".to_owned()], vec![]));
        assert_eq!((node.entries(), node.taken("lan").len()), (0, 0));
        assert!(!node.sh("nft list ruleset").contains("c1-net1"), "the guard is gone too");
    }
    let macvlan = with(lost, Type::Macvlan).with(json!({"type": "macvlan", "bridge": null, "master": "eno1"}));
    node.sh("ip link set eno1 nomaster");
    fails(&macvlan, &pod, Code::Kernel, &["add route"]);
}

#[test]
fn ipam_that_cannot_be_read_or_run_costs_nothing() {
    let node = Node::new();
    let pod = node.pod("web");
    let with = |ipam: Value| node.at(&pod).with(json!({"ipam": ipam}));
    fails(&with(json!({"type": "host-local"})), &pod, Code::IpamConfig, &["no address ranges"]);
    fails(&with(json!({"type": "host-local", "ranges": [[{"subnet": "x"}]]})), &pod, Code::IpamConfig, &["subnet"]);
    fails(&with(json!({"type": "host-locl"})), &pod, Code::PluginMissing, &["plugin host-locl is not in CNI_PATH"]);
    fails(&with(json!({"type": "../evil"})), &pod, Code::IpamConfig, &["ipam.type"]);
}

/// The ADD failed by it after the journal had been written, and so did the undo and each DEL.
#[test]
fn a_store_that_cannot_be_costs_nothing_and_keeps_no_pod() {
    let node = Node::new();
    let pod = node.pod("web");
    let circle = node.tmp.path().join("circle");
    symlink(&circle, &circle).unwrap();
    let below = |name: &str| node.tmp.path().join(name).to_str().unwrap().to_owned();
    let (long, good) = ("x".repeat(256), below("networks"));
    for (name, dir, word) in [
        ("lan", below("a\0b"), "NUL byte"),
        ("lan", below("circle/x"), "circle/x"),
        ("lan", below("circle"), "circle"),
        ("lan", below(&format!("not/there/{long}/x")), "too long"),
        ("lan", format!("/{}", "x/".repeat(2000)), "too long"),
        (&long, good.clone(), "name: 256 bytes"),
    ] {
        let ipam = json!({"type": "host-local", "subnet": "10.1.2.0/24", "dataDir": dir});
        for ty in [Type::Trestle, Type::Bridge] {
            let at = node.at(&pod).drop_in(ty).with(json!({"name": name, "ipam": ipam}));
            fails(&at, &pod, Code::IpamConfig, &[word]);
            // What an earlier version had begun is undone.
            let good =
                at.clone().with(json!({"name": "lan", "ipam": node.host_local(json!({"subnet": "10.1.2.0/24"}))}));
            good.add().unwrap();
            let id =
                AttachmentId { container: "c1".parse().unwrap(), ifname: "net1".parse().unwrap(), role: Role::Wire };
            let entry = node.entry("c1", "net1", Role::Wire).unwrap();
            let mut record: Value = entry.record.parse().unwrap();
            record["ipam"]["hostlocal"]["dataDir"] = json!(dir);
            record["ipam"]["hostlocal"]["network"] = json!(name);
            Journal(&node.dirs).write(&id, &"lan".parse().unwrap(), &record).unwrap();
            at.del().unwrap();
            assert_eq!((pod.links(), node.entries()), (Vec::new(), 0), "{dir}");
            std::fs::remove_dir_all(node.store("lan")).unwrap();
        }
    }
}

/// A plugin that notes its verbs, and answers what it is told to.
fn plugin(dir: &Path, add: &str) -> String {
    let script = format!(
        "#!/bin/sh\ncat >/dev/null\necho $CNI_COMMAND >>{0}/verbs\ncase $CNI_COMMAND in ADD) {add};; esac\n",
        dir.display()
    );
    std::fs::write(dir.join("my-ipam"), script).unwrap();
    std::fs::set_permissions(dir.join("my-ipam"), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir.to_str().unwrap().into()
}

#[test]
fn a_foreign_ipam_plugins_error_passes_and_it_gets_its_del() {
    let node = Node::new();
    let pod = node.pod("web");
    let bin = tempfile::tempdir().unwrap();
    let mut at = node.at(&pod).with(json!({"ipam": {"type": "my-ipam"}}));
    at.path = plugin(bin.path(), r#"echo '{"code": 11, "msg": "later", "details": "pool empty"}'; exit 1"#);
    let failure = at.add().unwrap_err();
    assert_eq!((failure.code, failure.foreign), (Code::PluginFailed, Some(11)));
    assert_eq!((node.links().len(), pod.links().len(), node.entries()), (2, 0, 0));
    let verbs = || std::fs::read_to_string(bin.path().join("verbs")).unwrap().replace('\n', " ");
    assert_eq!(verbs(), "ADD DEL ");

    plugin(bin.path(), r#"echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.5.5.5/24"}]}'"#);
    at.add().unwrap();
    assert_eq!(pod.addresses("net1"), ["10.5.5.5/24"]);
    // DEL needs neither the NAD nor the path: the journal has both.
    at.path = "/nonexistent/bin".into();
    at.clone().with(json!({"ipam": null})).del().unwrap();
    assert_eq!((verbs().as_str(), node.entries()), ("ADD DEL ADD DEL ", 0));
}

#[test]
fn what_the_administrator_does_not_allow() {
    let mut node = Node::new();
    node.settings.allow_bridges = Some(vec![
        Allow { glob: "br-*".into(), namespaces: None },
        Allow { glob: "br0".into(), namespaces: Some(vec!["ops".into()]) },
    ]);
    node.settings.allow_masters = Some(vec![]);
    let pod = node.pod("web");
    let at = node.at(&pod);
    fails(&at, &pod, Code::BridgeNotAllowed, &["bridge br0", "pod default/web", "allowBridges"]);
    let master = at.clone().with(json!({"bridge": "br-x", "master": "eno1"}));
    fails(&master, &pod, Code::MasterNotAllowed, &["master eno1", "allowMasters"]);
    let mut ops = at.clone();
    ops.args = ops.args.replace("default", "ops");
    ops.add().unwrap();
    ops.del().unwrap();
    at.drop_in(Type::Bridge).add().unwrap();
}

#[test]
fn a_run_directory_that_is_full_or_read_only() {
    full::on_tmpfs("size=64k", |at| {
        let mut node = Node::new();
        node.dirs = Dirs::new(at, node.tmp.path().join("state"));
        let pod = node.pod("web");
        let attachment = node.at(&pod);
        let result = attachment.add().unwrap();
        let second = At { container: "c2", ifname: "net2", ..attachment.clone() };
        full::fill(at);
        fails(&second, &pod, Code::JournalUnwritable, &["free space"]);
        full::make_read_only(at);
        let refused = second.add().unwrap_err();
        assert_eq!((refused.code, refused.code.cni()), (Code::JournalUnwritable, 11));
        assert_eq!((node.links().len(), pod.links().len()), (3, 1));
        drop(result);
    });
    full::on_tmpfs("size=64k", |at| {
        let mut node = Node::new();
        node.dirs = Dirs::new(at, node.tmp.path().join("state"));
        let pod = node.pod("web");
        let attachment = node.at(&pod);
        attachment.add().unwrap();
        full::fill(at);
        attachment.del().unwrap();
        assert_eq!((node.links().len(), pod.links().len(), node.entries(), node.taken("lan").len()), (2, 0, 0, 0));
    });
}

#[test]
fn an_add_that_its_del_overtook() {
    let node = Node::new();
    let pod = node.pod("web");
    let at = node.at(&pod);
    let before = node.dirs.now();
    std::thread::sleep(std::time::Duration::from_millis(30));
    at.del().unwrap();
    let late = At { started: Some(before), ..at.clone() };
    let refused = late.add().unwrap_err();
    assert_eq!((refused.code, refused.code.cni()), (Code::Superseded, 11));
    assert_eq!((node.links().len(), node.entries()), (2, 0));
    at.add().unwrap();
}
