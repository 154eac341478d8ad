//! `dhcpOptions` of a machine's NIC. What they are called in a packet is the business of whoever writes one.

use serde_json::Value;

use super::text;
use crate::ipam::dhcp::server::DhcpOptions;

/// `None`: the NIC has none. What KubeVirt's webhook would have refused is left out.
pub(super) fn of(nic: &Value) -> Option<DhcpOptions> {
    let raw = nic.get("dhcpOptions")?;
    let some = |key: &str| text(raw, key).filter(|t| !t.is_empty()).map(str::to_owned);
    let list = |key: &str| raw.get(key).and_then(Value::as_array).into_iter().flatten();
    let private = |option: &Value| {
        let number = option.get("option").and_then(Value::as_u64).filter(|n| (224..=254).contains(n))?;
        Some((u8::try_from(number).ok()?, text(option, "value")?.to_owned()))
    };
    let options = DhcpOptions {
        boot_file_name: some("bootFileName"),
        tftp_server_name: some("tftpServerName"),
        ntp_servers: list("ntpServers").filter_map(|s| s.as_str()?.parse().ok()).collect(),
        private: list("privateOptions").filter_map(private).collect(),
    };
    (options != DhcpOptions::default()).then_some(options)
}
