//! DEL: by the journal, without it, and with one that cannot be read.

use std::os::unix::fs::symlink;

use serde_json::json;

use super::machine::{POD_LINK, TAP};
use super::*;
use crate::types::Code;

fn nothing_is_left(node: &Node, pod: &Pod) {
    assert_eq!((node.links(), pod.links()), (vec!["eno1".to_owned(), "br0".to_owned()], vec![]));
    assert_eq!((node.entries(), node.taken("lan").len()), (0, 0));
    assert!(!node.sh("nft list ruleset").contains("net1"));
}

/// All kinds: by type and what they hang on.
fn kinds<'a>(node: &'a Node, pod: &Pod) -> Vec<At<'a>> {
    node.sh("ip link add eno9 type veth peer name eno10; ip link set eno9 up");
    let guarded = json!({"macspoofchk": true});
    let masqueraded = json!({"type": "bridge", "ipMasq": true, "macspoofchk": true});
    let on_master = json!({"bridge": null, "master": "eno9"});
    vec![
        node.at(pod).with(guarded),
        node.at(pod).with(on_master.clone()),
        node.at(pod).drop_in(Type::Bridge).with(masqueraded),
        node.at(pod).drop_in(Type::Macvlan).with(on_master).with(json!({"type": "macvlan"})),
    ]
}

fn left(node: &Node, pod: &Pod) -> (usize, usize, usize, usize, bool) {
    let rules = node.sh("nft list ruleset");
    let links = node.links().iter().filter(|n| n.starts_with("tr") || n.starts_with("veth")).count();
    (links, pod.links().len(), node.entries(), node.taken("lan").len(), rules.contains("net1"))
}

const NOTHING: (usize, usize, usize, usize, bool) = (0, 0, 0, 0, false);

#[test]
fn the_journal_alone_is_enough() {
    let node = Node::new();
    let pod = node.pod("web");
    for at in kinds(&node, &pod).into_iter().filter(|at| at.ty == Type::Trestle) {
        at.add().unwrap();
        let mut bare = at.clone();
        bare.conf =
            json!({"cniVersion": "1.1.0", "name": "lan", "type": "trestle", "nonsense": 1, "bridge": 7, "ipam": []});
        bare.args = "no pair".into();
        bare.netns = String::new();
        bare.del().unwrap();
        assert_eq!(left(&node, &pod), NOTHING, "{}", at.conf);
    }
}

#[test]
fn without_the_journal_by_configuration_and_names() {
    let node = Node::new();
    let pod = node.pod("web");
    for at in kinds(&node, &pod) {
        at.add().unwrap();
        std::fs::remove_dir_all(&node.dirs.run).unwrap();
        at.del().unwrap();
        assert_eq!(left(&node, &pod), NOTHING, "{}", at.conf);
    }
}

#[test]
fn an_entry_that_cannot_be_read_is_as_good_as_none_and_goes() {
    let node = Node::new();
    let pod = node.pod("web");
    for at in kinds(&node, &pod) {
        for torn in [
            "",
            "{\"version\": 1",
            "{\"version\": 99}",
            r#"{"version": 1, "container": "c1", "ifname": "net1", "role": "wire", "network": "lan", "written": 1, "record": {}}"#,
        ] {
            at.add().unwrap();
            std::fs::write(node.dirs.run.join("journal/c1/net1.wire.json"), torn).unwrap();
            at.del().unwrap();
            assert_eq!(left(&node, &pod), NOTHING, "{torn:?} {}", at.conf);
        }
    }
    let at = bind_step(&node, &pod);
    at.add().unwrap();
    std::fs::write(node.dirs.run.join("journal/c1/net2.bind.json"), "").unwrap();
    at.del().unwrap();
    assert_eq!((pod.links(), node.entries()), (vec![POD_LINK.to_owned()], 1), "tap and entry of the bind step");
}

/// A bind step, its wire made.
fn bind_step<'a>(node: &'a Node, pod: &Pod) -> At<'a> {
    machine::wire(node, pod).add().unwrap();
    machine::bind(node, pod)
}

#[test]
fn the_namespace_is_gone_or_not_named() {
    let node = Node::new();
    for (i, way) in ["gone", "gone and not named", "not named"].into_iter().enumerate() {
        let pod = node.pod(&format!("pod{i}"));
        for at in [
            node.at(&pod).with(json!({"macspoofchk": true})),
            node.at(&pod).drop_in(Type::Bridge).with(json!({"ipMasq": true, "container": 1})),
        ] {
            let at = At { ifname: if at.ty == Type::Trestle { "net1" } else { "net2" }, ..at };
            at.add().unwrap();
        }
        let ends =
            (At { ifname: "net1", ..node.at(&pod) }, At { ifname: "net2", ..node.at(&pod) }.drop_in(Type::Bridge));
        let gone = way.starts_with("gone");
        let pod = if gone {
            pod.vanish();
            None
        } else {
            Some(pod)
        };
        for mut at in [ends.0, ends.1] {
            if way.ends_with("not named") {
                at.netns = String::new();
            }
            at.del().unwrap();
        }
        assert_eq!(node.taken("lan").len(), 0, "{way}");
        let rules = node.sh("nft list ruleset");
        assert!(!rules.contains("net1") && !rules.contains("net2"), "{way}: {rules}");
        match pod {
            None => assert_eq!((node.links().len(), node.entries()), (2, 0), "{way}"),
            // As with the original; the entry stays for whoever comes with the namespace.
            Some(pod) => {
                assert_eq!((pod.links(), node.entries()), (vec!["net2".to_owned()], 1), "{way}");
                At { ifname: "net2", ..node.at(&pod) }.drop_in(Type::Bridge).del().unwrap();
                nothing_is_left(&node, &pod);
            }
        }
    }
}

#[test]
fn a_dead_entry_is_undone_without_touching_the_namespace_that_has_its_path() {
    let node = Node::without_bridge();
    let first = node.pod("web");
    let at = node.at(&first).with(json!({"bridge": null, "master": "eno1"}));
    at.add().unwrap();
    let old = node.tmp.path().join("old");
    std::fs::rename(&first.path, &old).unwrap();
    let second = node.pod("web");
    // A macvlan of the same number as the dead one.
    let index = first.link("net1").index;
    node.sh(&format!("ip link add link eno1 index {index} name mv0 netns {} type macvlan", second.path.display()));
    second.sh("ip link add net1 type veth peer name other");
    let refused = at.add().unwrap_err();
    assert_eq!(refused.code, Code::NameTaken, "the dead entry does not stand in the way: {refused}");
    assert_eq!((node.entries(), node.taken("lan").len()), (0, 0), "and is released");
    assert_eq!((second.link("mv0").index, second.links().len()), (index, 3));
    second.sh("ip link del net1");
    let result = at.add().unwrap();
    at.check(&result).unwrap();
    at.del().unwrap();
    assert_eq!(second.links(), ["mv0"]);
}

#[test]
fn a_dead_entry_of_the_bind_step() {
    let node = Node::new();
    let first = node.pod("web");
    let bind = bind_step(&node, &first);
    bind.add().unwrap();
    first.vanish();
    let second = node.pod("web");
    let bind = bind_step(&node, &second);
    bind.add().unwrap();
    assert_eq!(second.links(), [POD_LINK, TAP]);
    assert_eq!((node.entries(), node.taken("lan").len()), (2, 1));
}

#[test]
fn a_host_end_that_was_renamed_is_known_by_number_and_peer() {
    let node = Node::new();
    let pod = node.pod("web");
    let at = node.at(&pod);
    at.add().unwrap();
    node.sh("ip link set trca4978b4555 down; ip link set trca4978b4555 name lan-web");
    at.del().unwrap();
    nothing_is_left(&node, &pod);
    // A number that another link has by now is not the attachment's.
    at.add().unwrap();
    let index = node.link("trca4978b4555").index;
    node.sh(&format!("ip link del trca4978b4555; ip link add other index {index} type veth peer name other1"));
    at.del().unwrap();
    assert_eq!(node.links(), ["eno1", "br0", "other", "other1"]);
    // Nor is one that was made under its name.
    at.add().unwrap();
    node.sh("ip link del trca4978b4555; ip link add trca4978b4555 type veth peer name other2");
    at.del().unwrap();
    assert_eq!((node.links().len(), node.entries()), (6, 0));
}

#[test]
fn another_path_to_the_namespace() {
    let node = Node::without_bridge();
    let pod = node.pod("web");
    let mut at = node.at(&pod).with(json!({"bridge": null, "master": "eno1"}));
    at.add().unwrap();
    let moved = node.tmp.path().join("moved");
    symlink(std::fs::read_link(&pod.path).unwrap(), &moved).unwrap();
    std::fs::remove_file(&pod.path).unwrap();
    at.netns = moved.to_str().unwrap().into();
    at.del().unwrap();
    assert_eq!((pod.links().len(), node.entries()), (0, 0));
}

#[test]
fn what_a_drop_in_refuses_at_del() {
    let node = Node::new();
    let pod = node.pod("web");
    let at = node.at(&pod).drop_in(Type::Bridge);
    at.add().unwrap();
    for (bad, code) in
        [(json!({"vlan": -1}), Code::Config), (json!({"ipam": {"type": "no-such-ipam"}}), Code::PluginMissing)]
    {
        assert_eq!(at.clone().with(bad).del().unwrap_err().code, code);
    }
    let mut file = at.clone();
    file.netns = "/etc/hostname".into();
    assert_eq!(file.del().unwrap_err().code, Code::NamespaceGone);
    assert_eq!((pod.links().len(), node.taken("lan").len(), node.entries()), (1, 1, 1));
    at.del().unwrap();
    nothing_is_left(&node, &pod);
}

#[test]
fn a_foreign_plugin_that_is_gone_keeps_the_entry_and_the_pod_is_not_held_without_one() {
    let node = Node::new();
    let pod = node.pod("web");
    let at = node.at(&pod).with(json!({"ipam": {"type": "gone-ipam"}}));
    at.del().unwrap();
    let bin = tempfile::tempdir().unwrap();
    let plugin = bin.path().join("gone-ipam");
    std::fs::write(
        &plugin,
        "#!/bin/sh\ncat >/dev/null; echo '{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.5.5.5/24\"}]}'\n",
    )
    .unwrap();
    std::fs::set_permissions(&plugin, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let at = At { path: bin.path().to_str().unwrap().into(), ..at };
    at.add().unwrap();
    std::fs::rename(&plugin, bin.path().join("off")).unwrap();
    assert_eq!(at.del().unwrap_err().code, Code::PluginMissing);
    assert_eq!((pod.links().len(), node.entries()), (0, 1), "the link is gone, the address is still to be released");
    std::fs::rename(bin.path().join("off"), &plugin).unwrap();
    at.del().unwrap();
    nothing_is_left(&node, &pod);
}
