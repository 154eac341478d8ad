//! `dhcpOptions` of a machine's NIC. What they are called in a packet is the business of whoever writes one.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::text;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DhcpOptions {
    /// Option 67.
    pub boot_file_name: Option<String>,
    /// Option 66: a name or an address.
    pub tftp_server_name: Option<String>,
    /// Option 42.
    pub ntp_servers: Vec<Ipv4Addr>,
    /// By number, 224 to 254.
    pub private: BTreeMap<u8, String>,
}

impl DhcpOptions {
    /// `None`: the NIC has none. What KubeVirt's webhook would have refused is left out.
    pub(super) fn of(nic: &Value) -> Option<Self> {
        let raw = nic.get("dhcpOptions")?;
        let some = |key: &str| text(raw, key).filter(|t| !t.is_empty()).map(str::to_owned);
        let list = |key: &str| raw.get(key).and_then(Value::as_array).into_iter().flatten();
        let private = |option: &Value| {
            let number = option.get("option").and_then(Value::as_u64).filter(|n| (224..=254).contains(n))?;
            Some((u8::try_from(number).ok()?, text(option, "value")?.to_owned()))
        };
        let options = Self {
            boot_file_name: some("bootFileName"),
            tftp_server_name: some("tftpServerName"),
            ntp_servers: list("ntpServers").filter_map(|s| s.as_str()?.parse().ok()).collect(),
            private: list("privateOptions").filter_map(private).collect(),
        };
        (options != Self::default()).then_some(options)
    }
}
