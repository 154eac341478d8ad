//! `type: trestle` with `bridge` or `master`: the rule of the house, and what the keys of an attachment do.

mod addresses;
mod allowed;
mod fallback;
mod keys;
mod mtu;
mod port;
mod rule;
mod unchanged;

use serde_json::{Value, json};

use crate::harness::{Call, Kind, Lab, Netns};

/// The name of this node, as refusals tell it.
pub fn node_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned()
}

/// One wire on `br-lan`, with an address.
pub fn wire(lab: &Lab) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "lan", "type": "trestle", "bridge": "br-lan",
        "ipam": {"type": "host-local", "dataDir": lab.store(), "ranges": [[{"subnet": "10.1.2.0/24"}]]},
    })
}

/// ADD of the wire for a pod that is no VM's.
pub fn plain<'l>(lab: &'l Lab, pod: &Netns) -> Call<'l> {
    lab.trestle(wire(lab)).pod(pod).of_pod("default", "web-1").ifname("net1")
}

/// ADD of the wire for a virtual machine's pod.
pub fn vm<'l>(lab: &'l Lab, pod: &Netns) -> Call<'l> {
    lab.trestle(wire(lab)).pod(pod).of_pod("default", "virt-launcher-testvm-abcde").ifname("pod094a367b026")
}

/// A NIC of the node that is no bridge's port, and the namespace at the other end of its cable.
pub fn nic(lab: &Lab, name: &str) -> Netns {
    let lan = lab.namespace("far");
    lab.node.run(&format!("ip link add {name} type veth peer name far0 netns {}", lan.name()));
    lab.node.run(&format!("ip link set {name} up"));
    lan.run("ip link set far0 up");
    lan
}

/// Interfaces of a result that lie in a pod.
#[track_caller]
pub fn in_sandbox(result: &Value) -> &Value {
    let interfaces = result["interfaces"].as_array().unwrap();
    let inside: Vec<&Value> =
        interfaces.iter().filter(|i| i["sandbox"].as_str().is_some_and(|s| !s.is_empty())).collect();
    assert_eq!(inside.len(), 1, "one interface with a sandbox: {result}");
    inside[0]
}

/// The program that runs is ours.
pub const OURS: Kind = Kind::Trestle;
