//! A machine's pod, and the two calls that Multus makes for KubeVirt in it.

use serde_json::json;

use super::{At, Node, Pod};

/// What KubeVirt calls the links of a network named `lan`.
pub const POD_LINK: &str = "pod094a367b026";
pub const TAP: &str = "tap094a367b026";
/// Of the machine `db` in `default`, without a seed.
pub const DERIVED: &str = "42:22:13:8e:bc:3d";

/// The wire's ADD as Multus makes it for KubeVirt.
pub fn wire<'a>(node: &'a Node, pod: &Pod) -> At<'a> {
    At { ifname: POD_LINK, ..node.at(pod).of_vm() }
}

/// The bind step's: KubeVirt's NAD has neither bridge nor master, and Multus makes up an interface name.
pub fn bind<'a>(node: &'a Node, pod: &Pod) -> At<'a> {
    let args = json!({"cni": {"logicNetworkName": "lan"}});
    At { ifname: "net2", ..node.at(pod).of_vm() }
        .with(json!({"name": "trestle-binding", "bridge": null, "ipam": null, "args": args}))
}

pub fn both<'a>(node: &'a Node, pod: &Pod) -> [At<'a>; 2] {
    [wire(node, pod), bind(node, pod)]
}

pub fn machine() -> (Node, Pod) {
    let node = Node::new();
    let pod = node.pod("machine");
    (node, pod)
}
