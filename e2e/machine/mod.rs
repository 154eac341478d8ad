//! A virtual machine's network: who is one, its wire, the bind step, silence, and what KubeVirt does to it all.

mod annotations;
mod bind;
mod bind_refused;
mod derived;
mod redirect;
mod rename;
mod silence;
mod who;

use serde_json::{Value, json};

pub use crate::attachment::{in_sandbox, plain, vm, wire};
use crate::harness::{Call, Lab, Netns};

/// The pod of the machine `testvm`.
pub const POD: &str = "virt-launcher-testvm-abcde";
/// What KubeVirt calls the link of the network `lan`, and its tap.
pub const LINK: &str = "pod094a367b026";
pub const TAP: &str = "tap094a367b026";

/// The configuration of the bind step for one network of the machine.
pub fn binding(network: &str) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "trestle-binding", "type": "trestle",
        "args": {"cni": {"logicNetworkName": network}},
    })
}

/// The bind step of the network `lan`; Multus gives it the next ordinal name.
pub fn bind<'l>(lab: &'l Lab, pod: &Netns) -> Call<'l> {
    lab.trestle(binding("lan")).pod(pod).of_pod("default", POD).ifname("net2")
}

/// What a runtime hands over where the configuration asks for the pod's annotations.
pub fn annotated<'l>(call: Call<'l>, annotations: Value) -> Call<'l> {
    call.with("capabilities", json!({"io.kubernetes.cri.pod-annotations": true}))
        .with("runtimeConfig", json!({"io.kubernetes.cri.pod-annotations": annotations}))
}

/// The link has the form of a machine's wire.
#[track_caller]
pub fn is_silent(pod: &Netns, link: &str) {
    assert_eq!(pod.sysctl(&format!("ipv6/conf/{link}/disable_ipv6")).as_deref(), Some("1"), "no IPv6 on {link}");
    assert_eq!(pod.sysctl(&format!("ipv4/conf/{link}/arp_ignore")).as_deref(), Some("8"), "arp_ignore of {link}");
    assert_eq!(pod.sysctl(&format!("ipv4/conf/{link}/arp_notify")).as_deref(), Some("0"), "arp_notify of {link}");
}
