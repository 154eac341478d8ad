//! Configuration of the drop-in types `bridge` and `macvlan`, as the plugins read it whose place they take
//! (containernetworking/plugins 1.9): unknown keys are ignored, zero values count as absent.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Masquerade;
use super::conf::{RawTrunk, config, mac, trunk};
use crate::cni::{Call, Dns, json};
use crate::net::MacvlanMode;
use crate::types::{Code, Failure, IfName, Mac, Mtu, Outcome, VlanId};

/// CNI_ARGS that `bridge` and `macvlan` take without `IgnoreUnknown`.
const KNOWN_ARGS: &[&str] = &["MAC"];
/// Bridge of a configuration that names none.
const DEFAULT_BRIDGE: &str = "cni0";

#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawBridge {
    bridge: Option<String>,
    is_gateway: bool,
    is_default_gateway: bool,
    force_address: bool,
    ip_masq: bool,
    ip_masq_backend: Option<String>,
    mtu: i64,
    hairpin_mode: bool,
    promisc_mode: bool,
    vlan: i64,
    vlan_trunk: Option<Vec<RawTrunk>>,
    preserve_default_vlan: bool,
    macspoofchk: bool,
    enabledad: bool,
    disable_container_interface: bool,
    port_isolation: bool,
    ipam: RawIpam,
    dns: Dns,
    args: RawArgs,
    runtime_config: RawMac,
}

#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawMacvlan {
    master: String,
    mode: String,
    mtu: i64,
    mac: String,
    link_in_container: bool,
    bcqueuelen: u32,
    ipam: RawIpam,
    dns: Dns,
    runtime_config: RawMac,
}

/// The whole section is kept for the IPAM plugin; only its type is read here.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct RawIpam {
    r#type: String,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct RawArgs {
    cni: RawMac,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct RawMac {
    mac: String,
}

#[derive(Debug, Clone)]
pub struct BridgeConf {
    pub bridge: IfName,
    pub gateway: bool,
    pub default_gateway: bool,
    pub force_address: bool,
    pub masquerade: Masquerade,
    pub mtu: Option<Mtu>,
    pub hairpin: bool,
    pub promisc: bool,
    pub vlan: Option<VlanId>,
    /// `vlanTrunk` is there, be it empty: then a bridge made for it filters VLANs.
    pub filtering: bool,
    pub trunk: Vec<VlanId>,
    pub preserve_default_vlan: bool,
    pub macspoofchk: bool,
    pub enable_dad: bool,
    /// The pod's end stays down, for whoever sets it up later.
    pub leave_down: bool,
    pub port_isolation: bool,
    pub ipam: Option<Map<String, Value>>,
    pub dns: Dns,
    pub mac: Option<Mac>,
}

#[derive(Debug, Clone)]
pub struct MacvlanConf {
    /// Absent: the link of the default route.
    pub master: Option<IfName>,
    pub in_container: bool,
    pub mode: MacvlanMode,
    pub mtu: Option<Mtu>,
    pub bc_queue_len: Option<u32>,
    pub ipam: Option<Map<String, Value>>,
    pub dns: Dns,
    pub mac: Option<Mac>,
}

/// What DEL has to know of a configuration: it must be readable, but ADD's rules do not count.
#[derive(Debug, Clone)]
pub struct UndoConf {
    pub ipam: Option<Map<String, Value>>,
    pub masquerade: bool,
    pub macspoofchk: bool,
}

pub fn undo_bridge(call: &Call) -> Outcome<UndoConf> {
    let loaded = load_bridge(call)?;
    let ipam = ipam(call, &loaded.raw.ipam);
    Ok(UndoConf { masquerade: loaded.raw.ip_masq && ipam.is_some(), macspoofchk: loaded.raw.macspoofchk, ipam })
}

pub fn undo_macvlan(call: &Call) -> Outcome<UndoConf> {
    let raw: RawMacvlan = read(call)?;
    Ok(UndoConf { ipam: ipam(call, &raw.ipam), masquerade: false, macspoofchk: false })
}

/// What the reference refuses already when it reads the configuration, at DEL too.
struct LoadedBridge {
    raw: RawBridge,
    vlan: Option<VlanId>,
    trunk: Vec<VlanId>,
}

fn load_bridge(call: &Call) -> Outcome<LoadedBridge> {
    let raw: RawBridge = read(call)?;
    let vlan = match raw.vlan {
        0 => None,
        v => {
            let vid = u32::try_from(v).ok().and_then(|v| VlanId::try_from(v).ok());
            Some(vid.ok_or_else(|| config("vlan", format_args!("{v} is not within 0 to 4094")))?)
        }
    };
    // The reference takes an item without any member for nothing.
    let given = |i: &&RawTrunk| i.id.is_some() || i.min_id.is_some() || i.max_id.is_some();
    let items: Vec<RawTrunk> = raw.vlan_trunk.iter().flatten().filter(given).cloned().collect();
    let trunk = trunk(&items)?;
    call.args.strict(KNOWN_ARGS)?;
    Ok(LoadedBridge { raw, vlan, trunk })
}

pub fn bridge(call: &Call) -> Outcome<BridgeConf> {
    let LoadedBridge { raw, vlan, trunk } = load_bridge(call)?;
    let filtering = vlan.is_some() || raw.vlan_trunk.is_some();
    if raw.hairpin_mode && raw.promisc_mode {
        return Err(Failure::new(Code::Conflict, "hairpinMode and promiscMode exclude each other"));
    }
    let ipam = ipam(call, &raw.ipam);
    if ipam.is_some() && raw.disable_container_interface {
        return Err(Failure::new(Code::Conflict, "disableContainerInterface and ipam exclude each other"));
    }
    let env = call.args.get("MAC").unwrap_or_default();
    let asked =
        [("runtimeConfig.mac", &*raw.runtime_config.mac), ("args.cni.mac", &*raw.args.cni.mac), ("CNI_ARGS MAC", env)];
    Ok(BridgeConf {
        bridge: raw.bridge.as_deref().unwrap_or(DEFAULT_BRIDGE).parse().map_err(|e| config("bridge", e))?,
        gateway: raw.is_gateway || raw.is_default_gateway,
        default_gateway: raw.is_default_gateway,
        force_address: raw.force_address,
        masquerade: masquerade(&raw),
        mtu: mtu(raw.mtu)?,
        hairpin: raw.hairpin_mode,
        promisc: raw.promisc_mode,
        vlan,
        filtering,
        trunk,
        preserve_default_vlan: raw.preserve_default_vlan,
        macspoofchk: raw.macspoofchk,
        enable_dad: raw.enabledad,
        leave_down: raw.disable_container_interface,
        port_isolation: raw.port_isolation,
        ipam,
        dns: raw.dns,
        mac: first_mac(&asked)?,
    })
}

pub fn macvlan(call: &Call) -> Outcome<MacvlanConf> {
    let raw: RawMacvlan = read(call)?;
    call.args.strict(KNOWN_ARGS)?;
    let env = call.args.get("MAC").unwrap_or_default();
    let asked = [("runtimeConfig.mac", &*raw.runtime_config.mac), ("CNI_ARGS MAC", env), ("mac", &*raw.mac)];
    Ok(MacvlanConf {
        master: match &*raw.master {
            "" => None,
            m => Some(m.parse().map_err(|e| config("master", e))?),
        },
        in_container: raw.link_in_container,
        mode: match &*raw.mode {
            "" => MacvlanMode::Bridge,
            m => m
                .parse()
                .map_err(|_| config("mode", format_args!("{m:?} is not one of bridge, private, vepa, passthru")))?,
        },
        mtu: mtu(raw.mtu)?,
        bc_queue_len: Some(raw.bcqueuelen).filter(|n| *n > 0),
        ipam: ipam(call, &raw.ipam),
        dns: raw.dns,
        mac: first_mac(&asked)?,
    })
}

fn masquerade(raw: &RawBridge) -> Masquerade {
    match raw.ip_masq_backend.as_deref() {
        _ if !raw.ip_masq => Masquerade::Off,
        None | Some("" | "iptables" | "nftables") => Masquerade::On,
        Some(other) => Masquerade::Unknown(other.to_owned()),
    }
}

/// `ipam` of any configuration, where it has a type.
fn ipam(call: &Call, raw: &RawIpam) -> Option<Map<String, Value>> {
    if raw.r#type.is_empty() { None } else { json::get(&call.conf, "ipam")?.as_object().cloned() }
}

fn read<T: serde::de::DeserializeOwned>(call: &Call) -> Outcome<T> {
    json::from_value(Value::Object(call.conf.clone()))
        .map_err(|e| Failure::new(Code::Config, format!("network {}: {e}", call.name)))
}

fn mtu(value: i64) -> Outcome<Option<Mtu>> {
    if value == 0 { Ok(None) } else { Mtu::try_from(value).map(Some).map_err(|e| config("mtu", e)) }
}

fn first_mac(asked: &[(&str, &str)]) -> Outcome<Option<Mac>> {
    asked.iter().find(|(_, text)| !text.is_empty()).map(|(key, text)| mac(key, text)).transpose()
}

#[cfg(test)]
mod tests;
