//! KubeVirt's VirtualMachineInstance, as far as its network goes: which one owns a pod, what its NICs are like, what its
//! guest is to hear by DHCP.
//!
//! Pure: objects of the API server in, values out. The rules are KubeVirt 1.9's: `calcQueuesCapByIface` of
//! `pkg/network/setup/netpod`, `NetworkQueuesCapacity` and `GetCPUTopology` of `pkg/virt-launcher`, `SanitizeHostname`, and
//! `pkg/network/namescheme` for the order of networks. What follows from them is not known here.

mod options;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ipam::dhcp::server::DhcpOptions;

/// No tap has more.
const MOST_QUEUES: u64 = 256;
/// Of a host name: a DNS label.
const LONGEST_LABEL: usize = 63;

/// The instance that a launcher's pod belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub name: String,
    pub uid: String,
}

impl Owner {
    /// By the `metadata` of a pod.
    pub fn of_pod(metadata: &Value) -> Option<Self> {
        let owners = metadata.get("ownerReferences")?.as_array()?;
        let is_vmi = |o: &&Value| {
            text(o, "kind") == Some("VirtualMachineInstance")
                && text(o, "apiVersion").is_some_and(|v| v.starts_with("kubevirt.io/"))
        };
        let vmi = owners.iter().find(is_vmi)?;
        Some(Self { name: text(vmi, "name")?.to_owned(), uid: text(vmi, "uid")?.to_owned() })
    }
}

/// What an instance says of its network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmiFacts {
    pub name: String,
    pub uid: String,
    /// What the guest is to be called.
    pub hostname: String,
    pub nics: Nics,
    /// What its guest is to hear by DHCP, by network; those that are to hear nothing more are not in it.
    #[serde(default)]
    pub options: BTreeMap<String, DhcpOptions>,
}

/// A machine's NICs and networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nics {
    /// By network.
    pub queues: BTreeMap<String, u32>,
    /// Networks beside the pod's own, in the order of the description: by ordinal names the first one is on `net1`.
    #[serde(default)]
    pub secondary: Vec<String>,
    /// The one that stands in the place of the pod's own network.
    #[serde(default)]
    pub primary: Option<String>,
    /// The pod's own network, if the machine has a NIC on that.
    #[serde(default)]
    pub pod: Option<String>,
}

impl Nics {
    /// Those that a NAD describes.
    pub fn networks(&self) -> impl Iterator<Item = &str> {
        self.secondary.iter().chain(&self.primary).map(String::as_str)
    }
}

impl VmiFacts {
    /// `None`: it has no name.
    pub fn of_object(object: &Value) -> Option<Self> {
        let metadata = object.get("metadata")?;
        let name = text(metadata, "name")?;
        let none = Value::Null;
        let spec = object.get("spec").unwrap_or(&none);
        let options = interfaces(spec).filter_map(|(name, nic)| Some((name.to_owned(), options::of(nic)?)));
        Some(Self {
            name: name.to_owned(),
            uid: text(metadata, "uid").unwrap_or_default().to_owned(),
            hostname: hostname(name, spec),
            nics: Nics::of(spec, object.get("status").unwrap_or(&none)),
            options: options.collect(),
        })
    }
}

impl Nics {
    fn of(spec: &Value, status: &Value) -> Self {
        let multiqueue = spec.pointer("/domain/devices/networkInterfaceMultiqueue") == Some(&Value::Bool(true));
        let wanted = if multiqueue { vcpus(spec).clamp(1, MOST_QUEUES) } else { 1 };
        let in_domain = |network: &str| {
            let all = status.get("interfaces").and_then(Value::as_array)?;
            let sources = |i: &Value| text(i, "infoSource").unwrap_or_default().to_owned();
            let seen = |i: &&Value| {
                text(i, "name") == Some(network) && sources(i).split(',').any(|source| source.trim() == "domain")
            };
            Some(all.iter().find(seen)?.get("queueCount").and_then(Value::as_u64).unwrap_or(1))
        };
        let queues = interfaces(spec).filter(|(_, nic)| nic.get("sriov").is_none_or(Value::is_null));
        let queues = queues.map(|(name, nic)| {
            let is_virtio = matches!(text(nic, "model"), None | Some("" | "virtio"));
            let count = in_domain(name).unwrap_or(if is_virtio { wanted } else { 1 });
            (name.to_owned(), u32::try_from(count.clamp(1, MOST_QUEUES)).unwrap_or(1))
        });
        let networks = || spec.get("networks").and_then(Value::as_array).into_iter().flatten();
        let pod = networks().find(|n| n.get("pod").is_some_and(Value::is_object)).and_then(|n| text(n, "name"));
        let multus = networks().filter_map(|n| Some((text(n, "name")?, n.get("multus").filter(|m| m.is_object())?)));
        let is_default = |multus: &Value| multus.get("default") == Some(&Value::Bool(true));
        let (primary, secondary): (Vec<_>, Vec<_>) = multus.partition(|(_, multus)| is_default(multus));
        Self {
            queues: queues.collect(),
            secondary: secondary.into_iter().map(|(name, _)| name.to_owned()).collect(),
            primary: primary.first().map(|(name, _)| (*name).to_owned()),
            pod: pod.map(str::to_owned),
        }
    }
}

fn text<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get(key).and_then(Value::as_str)
}

fn interfaces(spec: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let all = spec.pointer("/domain/devices/interfaces").and_then(Value::as_array).into_iter().flatten();
    all.filter_map(|nic| Some((text(nic, "name")?, nic)))
}

fn hostname(name: &str, spec: &Value) -> String {
    if let Some(own) = text(spec, "hostname").filter(|h| !h.is_empty()) {
        return own.to_owned();
    }
    let first = name.split('.').next().unwrap_or_default();
    first.get(..LONGEST_LABEL).unwrap_or(first).to_owned()
}

fn vcpus(spec: &Value) -> u64 {
    let number = |key: &str| spec.pointer(&format!("/domain/cpu/{key}")).and_then(Value::as_u64).filter(|n| *n != 0);
    let topology = [number("sockets"), number("cores"), number("threads")];
    if topology.iter().all(Option::is_none) {
        let asked = |kind: &str| spec.pointer(&format!("/domain/resources/{kind}/cpu")).and_then(whole);
        return asked("limits").or_else(|| asked("requests")).unwrap_or(1);
    }
    topology.into_iter().fold(1, |all: u64, n| all.saturating_mul(n.unwrap_or(1)))
}

/// A quantity of Kubernetes, rounded up to whole ones; of its suffixes those that a number of CPUs may have.
fn whole(quantity: &Value) -> Option<u64> {
    if let Some(number) = quantity.as_f64() {
        return Some(number.ceil() as u64);
    }
    let text = quantity.as_str()?;
    let (number, unit) = [("n", 1e-9), ("u", 1e-6), ("m", 1e-3), ("k", 1e3)]
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
        .unwrap_or((text, 1.0));
    let number: f64 = number.parse().ok()?;
    // A product in floating point may lie a hair above the whole number that is meant.
    Some((number * unit - 1e-9).ceil().max(0.0) as u64)
}

#[cfg(test)]
mod tests;
