//! The lab's pods: what a runtime and Multus would ask for each of them.
//!
//! Knows configurations, not what becomes of them.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::lan::{BRIDGE, MASTER, PREFIX, SUBNET};
use super::runtime::{Attachment, VERSION, address_dir};

/// KubeVirt's names for a network called `lan`: `pod`, or `tap`, and the first 11 hex digits of sha256("lan").
pub const VM_LINK: &str = "pod094a367b026";
pub const VM_TAP: &str = "tap094a367b026";
pub const PLAIN: &str = "pod";
pub const FALLBACK: &str = "mac-pod";
pub const VM: &str = "vm";
pub const REFUSED: &str = "macvlan-vm";
/// A bridge that this node does not have.
pub const ABSENT: &str = "br-office";
pub const FALLBACK_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 60);

fn attachment(what: String, place: &str, pod: &str, ifname: &str, conf: Value) -> Attachment {
    Attachment { what, place: place.into(), pod: pod.into(), ifname: ifname.into(), conf, result: None }
}

/// On the bridge, with an address of the node's own store.
pub fn plain() -> Attachment {
    let ranges = json!([[{"subnet": SUBNET, "rangeStart": "192.0.2.100", "rangeEnd": "192.0.2.149"}]]);
    let conf = json!({
        "cniVersion": VERSION, "name": "shop-lan", "type": "trestle", "bridge": BRIDGE,
        "ipam": {"type": "host-local", "ranges": ranges, "dataDir": address_dir()},
    });
    attachment(format!("plain pod, bridge {BRIDGE}"), PLAIN, "shop-0", "net1", conf)
}

/// The same kind of network on a node that lacks the bridge.
pub fn fallback() -> Attachment {
    let address = format!("{FALLBACK_ADDRESS}/{PREFIX}");
    let conf = json!({
        "cniVersion": VERSION, "name": "office-lan", "type": "trestle", "bridge": ABSENT, "master": MASTER,
        "ipam": {"type": "static", "addresses": [{"address": address}]},
    });
    attachment(format!("plain pod, no bridge {ABSENT} here: macvlan on {MASTER}"), FALLBACK, "cron-0", "net1", conf)
}

/// The wire of a virtual machine's card.
pub fn wire() -> Attachment {
    let conf = json!({"cniVersion": VERSION, "name": "lan", "type": "trestle", "bridge": BRIDGE});
    attachment(format!("VM's wire, {VM_LINK} on bridge {BRIDGE}"), VM, "virt-launcher-demo-abcde", VM_LINK, conf)
}

/// What KubeVirt's binding `trestle` adds to it.
pub fn bind() -> Attachment {
    let conf = json!({
        "cniVersion": VERSION, "name": "trestle-binding", "type": "trestle",
        "args": {"cni": {"logicNetworkName": "lan"}},
    });
    attachment(format!("VM's bind step, {VM_TAP} for uid 107"), VM, "virt-launcher-demo-abcde", "net2", conf)
}

/// What must not be: nothing would come back to the guest.
pub fn refused() -> Attachment {
    let conf = json!({"cniVersion": VERSION, "name": "lan", "type": "trestle", "master": MASTER});
    attachment(format!("VM by macvlan on {MASTER}"), REFUSED, "virt-launcher-other-fghij", VM_LINK, conf)
}
