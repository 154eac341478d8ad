//! What a pod is told of its networks: `k8s.v1.cni.cncf.io/network-status`.
//!
//! Letters, order of keys and blanks are Multus' (network-attachment-definition-client 1.7.6 under Go's `encoding/json`),
//! so that whoever compares the text sees no change, and KubeVirt finds what it looks for.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::ser::{PrettyFormatter, Serializer};

use crate::cni::json;
use crate::cni::{AddResult, Dns, Interface, Route};

/// What one interface of the pod has got.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusEntry {
    /// `NAMESPACE/NAD`, or the name of a configuration that is no object.
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Without prefix lengths.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// Written even where it is empty.
    pub dns: Dns,
    #[serde(rename = "device-info", skip_serializing_if = "Option::is_none")]
    pub device_info: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateway: Vec<String>,
}

/// What an ADD's result says of its network. `default`: it is the pod's default network. `device_info`: what the
/// device plugin or the CNI plugin wrote of the device; one that has not the form of the specification is left out.
///
/// A result with a single interface gives one entry, with all addresses, even if that interface is the host's.
/// Otherwise each interface with a sandbox gives one, none gives none (a bind step has no entry), an address belongs to
/// the interface that it names, and one that names none to the last. Of a default network with several interfaces that
/// one is the default which the first address with a gateway names; where no address does, the first one.
pub fn entries(result: &AddResult, network: &str, default: bool, device_info: Option<&Value>) -> Vec<StatusEntry> {
    let common = StatusEntry {
        name: network.to_owned(),
        default,
        dns: result.dns.clone(),
        device_info: device_info.and_then(written_device),
        gateway: gateways(&result.routes),
        ..StatusEntry::default()
    };
    if let [only] = &result.interfaces[..] {
        let ips = result.ips.iter().map(|ip| ip.address.ip().to_string()).collect();
        let entry = StatusEntry { ips, ..common };
        return vec![if only.sandbox.is_some() { entry.of(only) } else { entry }];
    }
    let by_gateway = first_with_gateway(result);
    let mut found: Vec<(usize, StatusEntry)> = Vec::new();
    for (index, interface) in result.interfaces.iter().enumerate().filter(|(_, i)| i.sandbox.is_some()) {
        let chosen = by_gateway.map_or(found.is_empty(), |chosen| chosen == index);
        found.push((index, StatusEntry { default: default && chosen, ..common.clone() }.of(interface)));
    }
    for ip in &result.ips {
        let owner = match ip.interface {
            Some(index) => found.iter_mut().find(|(i, _)| u32::try_from(*i) == Ok(index)),
            None => found.last_mut(),
        };
        if let Some((_, entry)) = owner {
            entry.ips.push(ip.address.ip().to_string());
        }
    }
    found.into_iter().map(|(_, entry)| entry).collect()
}

/// The interface that the first address with both a gateway and an interface names.
fn first_with_gateway(result: &AddResult) -> Option<usize> {
    let index = result.ips.iter().filter(|ip| ip.gateway.is_some()).find_map(|ip| ip.interface)?;
    usize::try_from(index).ok()
}

impl StatusEntry {
    fn of(mut self, interface: &Interface) -> Self {
        self.interface = Some(interface.name.clone()).filter(|n| !n.is_empty());
        (self.mac, self.mtu) = (interface.mac.clone(), interface.mtu);
        self
    }
}

/// Gateways of default routes. A route without one has nothing to tell here (Multus writes `"<nil>"`).
fn gateways(routes: &[Route]) -> Vec<String> {
    let default = |r: &&Route| r.dst.prefix() == 0 && r.dst.ip().is_unspecified();
    routes.iter().filter(default).filter_map(|r| r.gw).map(|gw| gw.to_string()).collect()
}

/// The annotation's text. Each entry is indented as if it stood alone, and the list is not.
pub fn status_text(entries: &[StatusEntry]) -> String {
    format!("[{}]", entries.iter().map(indented).collect::<Vec<_>>().join(","))
}

fn indented(entry: &StatusEntry) -> String {
    let mut out = Vec::new();
    let mut writer = Serializer::with_formatter(&mut out, PrettyFormatter::with_indent(b"    "));
    // A plain structure with text as keys, written to memory: there is nothing that could fail.
    if entry.serialize(&mut writer).is_err() {
        return "{}".into();
    }
    as_go_escapes(&String::from_utf8_lossy(&out))
}

/// Go writes these five escaped, for texts that end up in a web page. None can stand outside a string.
fn as_go_escapes(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out += &format!("\\u{:04x}", u32::from(c)),
            _ => out.push(c),
        }
    }
    out
}

/// What the specification knows of a device, in its order; everything else is left out.
#[derive(Serialize, Deserialize)]
struct Device {
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pci: Option<Pci>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vdpa: Option<Vdpa>,
    #[serde(rename = "vhost-user", skip_serializing_if = "Option::is_none")]
    vhost_user: Option<VhostUser>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memif: Option<Memif>,
}

macro_rules! texts {
    ($name:ident { $($field:ident)* }) => {
        #[derive(Default, Serialize, Deserialize)]
        #[serde(default, rename_all = "kebab-case")]
        struct $name { $(#[serde(skip_serializing_if = "String::is_empty")] $field: String,)* }
    };
}

texts! { Pci { pci_address vhost_net rdma_device pf_pci_address representor_device } }
texts! { Vdpa { parent_device driver path pci_address pf_pci_address representor_device } }
texts! { VhostUser { mode path } }
texts! { Memif { role path mode } }

fn written_device(v: &Value) -> Option<Value> {
    let device: Device = json::from_value(v.clone()).ok().filter(|_| v.is_object())?;
    serde_json::to_value(device).ok()
}

#[cfg(test)]
mod tests;
