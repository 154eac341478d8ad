//! Which networks a pod asks for: `k8s.v1.cni.cncf.io/networks` and `v1.multus-cni.io/default-network`.
//!
//! ```text
//! lan, other/storage@stor0                                       names, by commas
//! [{"name": "storage", "namespace": "other", "interface": "x"}]  JSON, with everything else that can be asked
//! ```
//! Both forms are Multus', and so are their rules. Stricter than there: names of the JSON form must be such that an
//! object can have them, and its interface names are looked at here, before the first network is attached.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cni::json::{self, JsonError};
use crate::cni::{parse_address, parse_prefix};
use crate::types::{Code, Failure, IfName, Outcome};

use super::{DEFAULT_NETWORK, NETWORKS, hardware};

/// One network that a pod asks for. Written as JSON it is an element of the annotation again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Raw")]
pub struct Selection {
    pub name: String,
    pub namespace: String,
    /// A valid interface name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Of 6, 8 or 20 bytes, as it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Addresses, with or without a prefix length, as they were written. An empty list is told to plugins too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ips: Option<Vec<String>>,
    /// As a plugin wants it in `runtimeConfig`: all four numbers, no unknown key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Value>,
    /// As a plugin wants it in `runtimeConfig`; never an empty list.
    #[serde(rename = "portMappings", skip_serializing_if = "Option::is_none")]
    pub port_mappings: Option<Value>,
    #[serde(rename = "cni-args", skip_serializing_if = "Option::is_none")]
    pub cni_args: Option<Map<String, Value>>,
    /// As it was written.
    #[serde(rename = "infiniband-guid", skip_serializing_if = "Option::is_none")]
    pub infiniband_guid: Option<String>,
    #[serde(rename = "deviceID", skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// Gateways of default routes. An empty list has a meaning: the default routes that this network's own plugin sets
    /// are the pod's.
    #[serde(rename = "default-route", skip_serializing_if = "Option::is_none")]
    pub default_route: Option<Vec<IpAddr>>,
}

impl Selection {
    /// The machine's network that this element is KubeVirt's binding for.
    pub fn bound_network(&self) -> Option<&str> {
        self.cni_args.as_ref()?.get("logicNetworkName")?.as_str().filter(|name| !name.is_empty())
    }
}

/// The networks that the annotation asks for, in its order; an empty annotation asks for none. `namespace`, the pod's,
/// is where names without one live.
pub fn selections(text: &str, namespace: &str) -> Outcome<Vec<Selection>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    read(text, namespace).map_err(|e| failure(NETWORKS, &e))
}

/// The one network that stands for the cluster's default one. `multus_namespace` is where a name without one lives.
pub fn default_network(text: &str, multus_namespace: &str) -> Outcome<Selection> {
    let mut found = read(text, multus_namespace).map_err(|e| failure(DEFAULT_NETWORK, &e))?;
    match (found.pop(), found.len()) {
        (Some(one), 0) => Ok(one),
        (_, more) => {
            let count = if more == 0 { 0 } else { more + 1 };
            Err(failure(DEFAULT_NETWORK, &JsonError::new(format!("{} names {count} networks", excerpt(text, 0))))
                .remedy("name exactly one network, or remove the annotation"))
        }
    }
}

fn failure(annotation: &str, e: &JsonError) -> Failure {
    Failure::new(Code::Annotation, format!("annotation {annotation}: {e}"))
        .remedy("correct the annotation of the pod, or of what made the pod")
}

fn read(text: &str, namespace: &str) -> Result<Vec<Selection>, JsonError> {
    let mut found = if text.contains(['[', '{', '"']) { read_json(text)? } else { read_names(text)? };
    for one in found.iter_mut().filter(|s| s.namespace.is_empty()) {
        one.namespace = namespace.to_owned();
    }
    Ok(found)
}

fn read_names(text: &str) -> Result<Vec<Selection>, JsonError> {
    let one = |item: &str| {
        let item = item.trim();
        read_name(item).map_err(|why| match (item, text.trim()) {
            ("", whole) => JsonError::new(format!("{} has an empty item", excerpt(whole, 0))),
            (part, _) => JsonError::new(format!("{}: {why}", excerpt(part, 0))),
        })
    };
    text.split(',').map(one).collect()
}

/// `[NAMESPACE/]NAME[@INTERFACE]`, blanks around each part.
fn read_name(item: &str) -> Result<Selection, String> {
    let (namespace, rest) = match item.split('/').collect::<Vec<_>>()[..] {
        [rest] => ("", rest),
        [namespace, rest] => (namespace.trim(), rest),
        _ => return Err("more than one '/'; the form is NAMESPACE/NAME@INTERFACE".into()),
    };
    let (name, interface) = match rest.split('@').collect::<Vec<_>>()[..] {
        [name] => (name.trim(), ""),
        [name, interface] => (name.trim(), interface.trim()),
        _ => return Err("more than one '@'; the form is NAMESPACE/NAME@INTERFACE".into()),
    };
    if name.contains('.') {
        return Err(format!("name {name:?} has a dot, which only the JSON form takes"));
    }
    Ok(Selection {
        name: object_name(name)?,
        namespace: namespace_name(namespace)?,
        interface: interface_name(interface)?,
        ..Selection::default()
    })
}

fn read_json(text: &str) -> Result<Vec<Selection>, JsonError> {
    let document = json::parse(text.as_bytes()).map_err(|e| match position(text) {
        Some(at) => JsonError::new(format!("not JSON, though it has one of [ {{ \": {e}, near {}", excerpt(text, at))),
        None => e,
    })?;
    let Value::Array(list) = document else { return Err(JsonError::mismatch("a list", &document)) };
    let one = |(index, v): (usize, Value)| {
        if v.is_null() {
            return Err(JsonError::mismatch("an object", &v).within(index));
        }
        json::from_value::<Raw>(v).and_then(Selection::try_from).map_err(|e| e.within(index))
    };
    list.into_iter().enumerate().map(one).collect()
}

/// An element as it is written. What the key means to a plugin is looked at in the next step.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Raw {
    name: String,
    namespace: String,
    interface: String,
    #[serde(rename = "interfaceRequest")]
    interface_request: String,
    mac: String,
    ips: Option<Vec<String>>,
    bandwidth: Option<Bandwidth>,
    #[serde(rename = "portMappings")]
    port_mappings: Vec<Option<PortMapping>>,
    cni_args: Option<Map<String, Value>>,
    infiniband_guid: String,
    #[serde(rename = "deviceID")]
    device_id: String,
    default_route: Option<Vec<String>>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Bandwidth {
    ingress_rate: i64,
    ingress_burst: i64,
    egress_rate: i64,
    egress_burst: i64,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PortMapping {
    host_port: i64,
    container_port: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    protocol: String,
    #[serde(rename = "hostIP", skip_serializing_if = "String::is_empty")]
    host_ip: String,
}

impl TryFrom<Raw> for Selection {
    type Error = JsonError;

    fn try_from(raw: Raw) -> Result<Self, JsonError> {
        let under = |key: &'static str| move |why: String| JsonError::new(why).under(key);
        let (key, interface) = match raw.interface.is_empty() {
            true => ("interfaceRequest", &raw.interface_request),
            false => ("interface", &raw.interface),
        };
        for (i, ip) in raw.ips.iter().flatten().enumerate() {
            check_address(ip).map_err(|why| JsonError::new(why).within(i).under("ips"))?;
        }
        Ok(Self {
            name: object_name(&raw.name).map_err(under("name"))?,
            namespace: namespace_name(&raw.namespace).map_err(under("namespace"))?,
            interface: interface_name(interface).map_err(under(key))?,
            mac: hardware_address(raw.mac).map_err(under("mac"))?,
            ips: raw.ips,
            bandwidth: raw.bandwidth.map(as_value),
            port_mappings: port_mappings(raw.port_mappings)?,
            cni_args: raw.cni_args,
            infiniband_guid: hardware_address(raw.infiniband_guid).map_err(under("infiniband-guid"))?,
            device_id: Some(raw.device_id).filter(|id| !id.is_empty()),
            default_route: raw.default_route.map(gateways).transpose()?,
        })
    }
}

fn port_mappings(list: Vec<Option<PortMapping>>) -> Result<Option<Value>, JsonError> {
    if list.is_empty() {
        return Ok(None);
    }
    let one = |(i, m): (usize, Option<PortMapping>)| {
        m.map(as_value).ok_or_else(|| JsonError::mismatch("an object", &Value::Null).within(i).under("portMappings"))
    };
    list.into_iter().enumerate().map(one).collect::<Result<Vec<_>, _>>().map(|l| Some(Value::Array(l)))
}

fn gateways(list: Vec<String>) -> Result<Vec<IpAddr>, JsonError> {
    let one = |(i, text): (usize, &String)| {
        parse_address(text)
            .ok_or_else(|| JsonError::new(format!("{text:?} is no IP address")).within(i).under("default-route"))
    };
    list.iter().enumerate().map(one).collect()
}

/// A plain structure of ours always has a form in JSON.
fn as_value<T: Serialize>(v: T) -> Value {
    serde_json::to_value(v).unwrap_or_default()
}

/// A name that an object of Kubernetes can have (DNS-1123 subdomain). It becomes part of a URL and of a path on disk.
fn object_name(name: &str) -> Result<String, String> {
    match name {
        "" => Err("missing".into()),
        _ if name.len() <= 253 && name.split('.').all(is_label) => Ok(name.to_owned()),
        _ => Err(format!(
            "name {} must have lower case letters, digits and '-', and begin and end with a letter or digit",
            excerpt(name, 0)
        )),
    }
}

/// Empty where the pod's own is meant.
fn namespace_name(name: &str) -> Result<String, String> {
    if name.is_empty() || (name.len() <= 63 && is_label(name)) {
        return Ok(name.to_owned());
    }
    Err(format!(
        "namespace {} must have lower case letters, digits and '-', and begin and end with a letter or digit",
        excerpt(name, 0)
    ))
}

fn is_label(s: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    match s.as_bytes() {
        [] => false,
        [first, .., last] if !plain(*first) || !plain(*last) => false,
        [only] => plain(*only),
        all => all.iter().all(|b| plain(*b) || *b == b'-'),
    }
}

fn interface_name(name: &str) -> Result<Option<String>, String> {
    if name.is_empty() {
        return Ok(None);
    }
    match name.parse::<IfName>() {
        Ok(n) => Ok(Some(n.into())),
        Err(_) if name.len() > 15 => Err(format!("interface name {} is longer than 15 bytes", excerpt(name, 0))),
        Err(e) => Err(e.to_string()),
    }
}

fn hardware_address(text: String) -> Result<Option<String>, String> {
    match text.as_str() {
        "" => Ok(None),
        t if hardware::is_address(t) => Ok(Some(text)),
        t => Err(format!("{} is no hardware address like 02:00:5e:10:00:01", excerpt(t, 0))),
    }
}

fn check_address(text: &str) -> Result<(), String> {
    let fine = if text.contains('/') { parse_prefix(text).is_some() } else { parse_address(text).is_some() };
    if fine { Ok(()) } else { Err(format!("{} is no IP address, with or without a prefix length", excerpt(text, 0))) }
}

/// Where the reader of JSON stopped, in bytes.
fn position(text: &str) -> Option<usize> {
    let e = serde_json::from_str::<serde::de::IgnoredAny>(text).err()?;
    let lines: usize = text.split_inclusive('\n').take(e.line().saturating_sub(1)).map(str::len).sum();
    Some(lines + e.column().saturating_sub(1))
}

/// What stands at a place of the text, quoted and short.
fn excerpt(text: &str, at: usize) -> String {
    const BEFORE: usize = 20;
    const LENGTH: usize = 60;
    let mut from = at.min(text.len()).saturating_sub(BEFORE);
    while !text.is_char_boundary(from) {
        from -= 1;
    }
    let part: String = text[from..].chars().take(LENGTH).collect();
    let before = if from == 0 { "" } else { "…" };
    let after = if from + part.len() == text.len() { "" } else { "…" };
    format!("{before}{part:?}{after}")
}

#[cfg(test)]
mod tests;
