//! What an ADD tells the runtime, in the form of the newest specification. Other rooms know no other form.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::de::Deserializer;
use serde::{Deserialize, Serialize};

use super::ip;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AddResult {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpConfig>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    #[serde(skip_serializing_if = "Dns::is_empty")]
    pub dns: Dns,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Interface {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "unless_empty")]
    pub mac: Option<String>,
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "unless_zero")]
    pub mtu: Option<u32>,
    /// Path of the network namespace; none on the host.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "unless_empty")]
    pub sandbox: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "unless_empty")]
    pub socket_path: Option<String>,
    #[serde(rename = "pciID", skip_serializing_if = "Option::is_none", deserialize_with = "unless_empty")]
    pub pci_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// Index into `interfaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<u32>,
    #[serde(deserialize_with = "ip::prefix")]
    pub address: IpNetwork,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "ip::address")]
    pub gateway: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    #[serde(deserialize_with = "ip::prefix")]
    pub dst: IpNetwork,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "ip::address")]
    pub gw: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "unless_zero")]
    pub mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "unless_zero")]
    pub advmss: Option<u32>,
    #[serde(default, skip_serializing_if = "is_zero", deserialize_with = "unless_zero")]
    pub priority: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "unless_empty")]
    pub domain: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    pub fn is_empty(&self) -> bool {
        self.nameservers.is_empty() && self.domain.is_none() && self.search.is_empty() && self.options.is_empty()
    }
}

impl Route {
    /// A route without any of the finer settings.
    pub fn new(dst: IpNetwork, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

fn is_zero(n: &Option<u32>) -> bool {
    n.unwrap_or(0) == 0
}

/// The reference writes no zero and so cannot tell it from absence.
fn unless_zero<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    Ok(Option::<u32>::deserialize(d)?.filter(|n| *n != 0))
}

fn unless_empty<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(d)?.filter(|s| !s.is_empty()))
}
