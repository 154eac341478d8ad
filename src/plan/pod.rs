//! Who a pod is: a virtual machine's or not, which machine's, and the MAC address that follows from it.
//!
//! Pure: what is known of the pod comes in as [`PodFacts`], wherever it was found. Sources: `CONTRACT` of the project,
//! "A VM's network"; KubeVirt's `pkg/virt-controller/services/template.go` for the pod's name.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::types::{IfName, Mac, PodRef};
use crate::vmi::Nics;

/// Begins the name of each pod that KubeVirt starts for a virtual machine.
const LAUNCHER: &str = "virt-launcher-";
/// The API server cuts what stands before the random part of a generated name here.
const GENERATED_BASE: usize = 58;
/// Characters that the API server appends to a generated name.
const RANDOM: usize = 5;

const DOMAIN: &str = "kubevirt.io/domain";
const DEFAULT_NETWORK: &str = "v1.multus-cni.io/default-network";

/// What is known of a pod. `annotations` is `None` where nobody handed them over (a delegate of Multus), which is
/// another thing than a pod without any.
#[derive(Debug, Clone, Default)]
pub struct PodFacts {
    pub pod: Option<PodRef>,
    pub annotations: Option<BTreeMap<String, String>>,
    /// What the machine's description says, where somebody was asked for it.
    pub nics: Option<Nics>,
}

/// What an attachment is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// A network of a plain pod, or the cluster's default network of any pod.
    Pod,
    /// A NIC of a virtual machine; its name where it is known.
    Vm { name: Option<String> },
}

impl Use {
    pub fn is_vm(&self) -> bool {
        matches!(self, Self::Vm { .. })
    }
}

impl PodFacts {
    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// By its name; and by `kubevirt.io/domain` too where annotations are known.
    pub fn is_launcher(&self) -> bool {
        self.pod.as_ref().is_some_and(|p| p.name.starts_with(LAUNCHER))
            && self.annotations.as_ref().is_none_or(|a| a.contains_key(DOMAIN))
    }

    /// The cluster's default network has the name `eth0`; a pod may have another one in its place by annotation.
    /// `None`: the annotations are not known.
    pub fn is_cluster_default(&self, ifname: &IfName) -> Option<bool> {
        if ifname.as_str() != "eth0" {
            return Some(false);
        }
        self.annotations.as_ref().map(|a| !a.contains_key(DEFAULT_NETWORK))
    }

    /// What the attachment `ifname` of this pod is for. `default_unless_known`: what `eth0` is taken for where the
    /// annotations are not known (a drop-in may be the cluster's default network; `type: trestle` is what a pod asked
    /// for).
    pub fn what_for(&self, ifname: &IfName, default_unless_known: bool) -> Use {
        if !self.is_launcher() || self.is_cluster_default(ifname).unwrap_or(default_unless_known) {
            return Use::Pod;
        }
        Use::Vm { name: self.vm_name() }
    }

    /// The machine's name: the annotation's where the pod's name agrees with it, else out of the pod's name, where
    /// it is whole up to 43 characters.
    pub fn vm_name(&self) -> Option<String> {
        let pod = &self.pod.as_ref()?.name;
        let base = pod.get(..pod.len().checked_sub(RANDOM)?)?;
        if let Some(domain) = self.annotation(DOMAIN) {
            let full = format!("{LAUNCHER}{domain}-");
            if full.get(..GENERATED_BASE).unwrap_or(&full) == base {
                return Some(domain.to_owned());
            }
        }
        let name = base.strip_prefix(LAUNCHER)?.strip_suffix('-')?;
        if name.is_empty() { None } else { Some(name.to_owned()) }
    }
}

/// First 11 hexadecimal digits of the network name's sha256, as KubeVirt names a network's links.
pub fn network_hash(network: &str) -> String {
    hex(&Sha256::digest(network.as_bytes()))[..11].to_owned()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// MAC of a VM's NIC when nobody asks for one: the same after a restart and on the target of a migration, so that the
/// LAN's DHCP server gives the same address again.
pub fn derived_mac(seed: &str, namespace: &str, vm: &str, ifname: &IfName) -> Mac {
    let name = ifname.as_str();
    let key = name.strip_prefix("pod").filter(|h| h.len() == 11 && h.bytes().all(|b| b.is_ascii_hexdigit()));
    let text = [seed, namespace, vm, key.unwrap_or(name)].join("\0");
    let digest = Sha256::digest(text.as_bytes());
    Mac::local([digest[0], digest[1], digest[2], digest[3], digest[4], digest[5]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(name: &str, annotations: Option<&[(&str, &str)]>) -> PodFacts {
        PodFacts {
            pod: Some(PodRef { namespace: "default".into(), name: name.into(), uid: None }),
            annotations: annotations.map(|a| a.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect()),
            nics: None,
        }
    }

    fn ifname(s: &str) -> IfName {
        s.parse().unwrap()
    }

    #[test]
    fn a_vm_is_known_by_name_and_annotation() {
        let lan = ifname("pod094a367b026");
        let vm = |n: &str| Use::Vm { name: Some(n.into()) };
        assert_eq!(facts("virt-launcher-web-abcde", None).what_for(&lan, true), vm("web"));
        assert_eq!(facts("virt-launcher-web-abcde", Some(&[(DOMAIN, "web")])).what_for(&lan, true), vm("web"));
        assert_eq!(facts("virt-launcher-web-abcde", Some(&[])).what_for(&lan, true), Use::Pod);
        assert_eq!(facts("web-0", Some(&[(DOMAIN, "web")])).what_for(&lan, true), Use::Pod);
        assert_eq!(PodFacts::default().what_for(&lan, true), Use::Pod);
    }

    #[test]
    fn eth0_is_the_clusters_unless_the_pod_replaced_it() {
        let name = "virt-launcher-web-abcde";
        let replaced = [(DOMAIN, "web"), (DEFAULT_NETWORK, "br-lan")];
        assert!(facts(name, Some(&replaced)).what_for(&ifname("eth0"), true).is_vm());
        assert!(!facts(name, Some(&replaced[..1])).what_for(&ifname("eth0"), false).is_vm());
        assert!(!facts(name, None).what_for(&ifname("eth0"), true).is_vm());
        assert!(facts(name, None).what_for(&ifname("eth0"), false).is_vm());
        assert!(facts(name, None).what_for(&ifname("net1"), true).is_vm());
    }

    #[test]
    fn a_cut_name_is_not_taken_for_a_whole_one() {
        let whole = "v".repeat(43);
        assert_eq!(facts(&format!("{LAUNCHER}{whole}-abcde"), None).vm_name(), Some(whole));
        let cut = "v".repeat(44);
        assert_eq!(facts(&format!("{LAUNCHER}{cut}abcde"), None).vm_name(), None);
        let long = "v".repeat(50);
        assert_eq!(facts(&format!("{LAUNCHER}{cut}abcde"), Some(&[(DOMAIN, &long)])).vm_name(), Some(long));
        assert_eq!(facts("virt-launcher-a-abcde", Some(&[(DOMAIN, "b")])).vm_name(), Some("a".into()));
        assert_eq!(facts("virt-launcher--abcde", None).vm_name(), None);
        assert_eq!(facts("x", None).vm_name(), None);
    }

    /// A change here would change every machine's lease.
    #[test]
    fn three_macs_are_pinned() {
        let mac = |seed, ns, vm, i: &str| derived_mac(seed, ns, vm, &ifname(i)).to_string();
        assert_eq!(mac("", "default", "web", "pod094a367b026"), "ba:07:0c:a0:cd:72");
        assert_eq!(
            mac("7b0c7d0e-6a44-4f0e-9d5e-0f5d1d3f8f11", "default", "web", "pod094a367b026"),
            "aa:65:96:37:ae:cd"
        );
        assert_eq!(mac("", "prod", "db-0", "net1"), "26:7c:e0:f3:41:5d");
    }

    #[test]
    fn kubevirts_hash() {
        assert_eq!(network_hash("lan"), "094a367b026");
        assert_eq!(network_hash("dmz"), "a393efd3bab");
    }
}
