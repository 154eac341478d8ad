//! Configuration of `type: trestle`: what was written ([`Raw`]) and what it means ([`Attachment`], [`BindConf`]).
//!
//! Keys, precedence and checks: `docs/configuration.md`. Unknown keys are refused by ADD, CHECK and STATUS; DEL and GC
//! never look.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::cni::{Args, Call, Dns, json};
use crate::net::MacvlanMode;
use crate::types::{Code, Failure, IfName, Mac, Mtu, Outcome, VlanId, nearest};

/// Keys that make a configuration an attachment's.
const ATTACHMENT: &[&str] = &[
    "bridge",
    "master",
    "mode",
    "mtu",
    "mac",
    "ipam",
    "vlan",
    "vlanTrunk",
    "preserveDefaultVlan",
    "portIsolation",
    "hairpinMode",
    "macspoofchk",
    "acceptRA",
    "dns",
];
/// Keys that the protocol, Multus or a runtime adds to any configuration.
const ALWAYS: &[&str] =
    &["cniVersion", "name", "type", "args", "capabilities", "runtimeConfig", "prevResult", "deviceID", "pciBusID"];
const META: &[&str] = &["clusterNetwork", "delegates"];

/// CNI_ARGS that a call may have without `IgnoreUnknown`.
const KNOWN_ARGS: &[&str] =
    &["MAC", "IP", "GATEWAY", "K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID"];

#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Raw {
    bridge: Option<String>,
    master: Option<String>,
    mode: Option<String>,
    mtu: Option<i64>,
    mac: Option<String>,
    ipam: Option<Map<String, Value>>,
    vlan: Option<i64>,
    vlan_trunk: Option<Vec<RawTrunk>>,
    preserve_default_vlan: bool,
    port_isolation: bool,
    hairpin_mode: bool,
    macspoofchk: bool,
    #[serde(rename = "acceptRA")]
    accept_ra: bool,
    dns: Dns,
    args: RawArgs,
    runtime_config: RawAsked,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct RawArgs {
    cni: RawAsked,
}

/// What a pod may ask for, in `args.cni` or `runtimeConfig`. KubeVirt names the network in `args.cni` alone.
#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawAsked {
    mac: String,
    ips: Vec<String>,
    logic_network_name: String,
}

/// An item of `vlanTrunk`: a range, a single VID, or both.
#[derive(Debug, Clone, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct RawTrunk {
    #[serde(rename = "minID")]
    pub min_id: Option<i64>,
    #[serde(rename = "maxID")]
    pub max_id: Option<i64>,
    pub id: Option<i64>,
}

/// One attachment, as its configuration and the runtime ask for it.
#[derive(Debug, Clone)]
pub struct Attachment {
    pub bridge: Option<IfName>,
    pub master: Option<IfName>,
    pub mode: MacvlanMode,
    pub mtu: Option<Mtu>,
    pub mac: Option<Mac>,
    /// `ipam` as it stands; an empty one counts as none.
    pub ipam: Option<Map<String, Value>>,
    /// Addresses were asked for, and there is no `ipam`: they are set as static ones.
    pub bare_ips: bool,
    pub vlan: Option<VlanId>,
    pub trunk: Vec<VlanId>,
    pub preserve_default_vlan: bool,
    pub port_isolation: bool,
    pub hairpin: bool,
    pub macspoofchk: bool,
    pub accept_ra: bool,
    pub dns: Dns,
}

/// The bind step of a VM's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindConf {
    /// Name of the network in the VM's specification.
    pub network: String,
}

/// What a configuration of `type: trestle` is.
#[derive(Debug, Clone)]
pub enum Conf {
    Attachment(Box<Attachment>),
    Bind(BindConf),
}

pub fn parse(call: &Call) -> Outcome<Conf> {
    let has = |keys: &[&'static str]| keys.iter().copied().find(|k| json::get(&call.conf, k).is_some());
    let attachment = has(&["bridge", "master"]);
    if let Some(meta) = has(META) {
        return Err(match attachment {
            Some(key) => {
                conflict(format!("{meta} and {key}: a configuration is either the meta plugin's or an attachment's"))
            }
            None => Failure::new(Code::Config, format!("{meta}: a meta plugin's configuration is no network of a pod"))
                .remedy("name `bridge` or `master`, or list the networks themselves"),
        });
    }
    refuse_unknown(&call.conf)?;
    call.args.strict(KNOWN_ARGS)?;
    let raw: Raw = json::from_value(Value::Object(call.conf.clone()))
        .map_err(|e| Failure::new(Code::Config, format!("network {}: {e}", call.name)))?;
    match attachment {
        Some(key) if !raw.args.cni.logic_network_name.is_empty() => Err(conflict(format!(
            "{key} and args.cni.logicNetworkName: a configuration is either an attachment's or the bind step's"
        ))
        .remedy("KubeVirt's binding has a NAD of its own, without bridge and master")),
        Some(_) => raw
            .attachment(&call.args)
            .map(|a| Conf::Attachment(Box::new(a)))
            .map_err(|f| f.at(format!("network {}", call.name))),
        None => raw.bind(call),
    }
}

fn conflict(msg: String) -> Failure {
    Failure::new(Code::Conflict, msg)
}

/// A value that is malformed or out of range.
pub fn config(key: &str, reason: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Config, format!("{key}: {reason}"))
}

/// All of them at once.
fn refuse_unknown(conf: &Map<String, Value>) -> Outcome<()> {
    let known = || ATTACHMENT.iter().chain(ALWAYS).chain(META).copied();
    let is_known =
        |key: &str| known().any(|k| k.eq_ignore_ascii_case(key)) || key.to_ascii_lowercase().starts_with("cni.dev/");
    let unknown: Vec<&str> = conf.keys().map(String::as_str).filter(|key| !is_known(key)).collect();
    let Some(first) = unknown.first() else { return Ok(()) };
    let near = |key: &&str| match nearest(key, known()) {
        Some(k) if unknown.len() == 1 => Some(format!("did you mean {k}?")),
        Some(k) => Some(format!("did you mean {k} by {key}?")),
        None => None,
    };
    let hints: Vec<String> = unknown.iter().filter_map(near).collect();
    let msg = match unknown.len() {
        1 => format!("{first}: type trestle knows no such key"),
        _ => format!("{}: type trestle knows no such keys", unknown.join(", ")),
    };
    Err(Failure::new(Code::UnknownKey, msg).remedy(match hints.len() {
        0 => format!("known keys: {}", ATTACHMENT.join(", ")),
        _ => hints.join(" "),
    }))
}

impl Raw {
    fn bind(self, call: &Call) -> Outcome<Conf> {
        if let Some(key) = ATTACHMENT.iter().find(|k| json::get(&call.conf, k).is_some()) {
            return Err(conflict(format!("{key}: without bridge or master there is nothing to attach"))
                .remedy("set `bridge` to a bridge of the node"));
        }
        let network = self.args.cni.logic_network_name;
        if network.is_empty() {
            return Err(config("bridge", "missing, and so are master and args.cni.logicNetworkName")
                .remedy("set `bridge` to a bridge of the node; only KubeVirt's binding has a NAD without it"));
        }
        Ok(Conf::Bind(BindConf { network }))
    }

    fn attachment(self, args: &Args) -> Outcome<Attachment> {
        let mac = asked_mac(&self.runtime_config, &self.args.cni, args, self.mac.as_deref())?;
        // Without a type the reference takes the section for none, and the pod comes up without an address.
        let ipam = self.ipam.filter(|m| !m.is_empty());
        if let Some(section) = &ipam
            && json::get(section, "type").and_then(Value::as_str).is_none_or(str::is_empty)
        {
            return Err(
                config("ipam.type", "missing, empty or no text").remedy("name an IPAM plugin, or leave ipam out")
            );
        }
        let asked = !self.runtime_config.ips.is_empty()
            || !self.args.cni.ips.is_empty()
            || args.get("IP").is_some_and(|s| !s.is_empty());
        Ok(Attachment {
            bridge: interface("bridge", self.bridge)?,
            master: interface("master", self.master)?,
            mode: match self.mode.as_deref() {
                None | Some("") => MacvlanMode::Bridge,
                Some(m) => m
                    .parse()
                    .map_err(|_| config("mode", format_args!("{m:?} is not one of bridge, private, vepa, passthru")))?,
            },
            mtu: match self.mtu {
                None | Some(0) => None,
                Some(m) => Some(Mtu::try_from(m).map_err(|e| config("mtu", e))?),
            },
            mac,
            bare_ips: ipam.is_none() && asked,
            ipam,
            vlan: match self.vlan {
                None | Some(0) => None,
                Some(v) => Some(vid("vlan", v)?),
            },
            trunk: trunk(self.vlan_trunk.as_deref().unwrap_or_default())?,
            preserve_default_vlan: self.preserve_default_vlan,
            port_isolation: self.port_isolation,
            hairpin: self.hairpin_mode,
            macspoofchk: self.macspoofchk,
            accept_ra: self.accept_ra,
            dns: self.dns,
        })
    }
}

fn interface(key: &str, name: Option<String>) -> Outcome<Option<IfName>> {
    name.map(|n| n.parse().map_err(|e| config(key, e))).transpose()
}

/// runtimeConfig > args.cni > CNI_ARGS > configuration.
fn asked_mac(runtime: &RawAsked, args: &RawAsked, env: &Args, conf: Option<&str>) -> Outcome<Option<Mac>> {
    let env = env.get("MAC");
    let sources = [
        ("runtimeConfig.mac", Some(&*runtime.mac)),
        ("args.cni.mac", Some(&*args.mac)),
        ("CNI_ARGS MAC", env),
        ("mac", conf),
    ];
    for (key, text) in sources {
        if let Some(text) = text.filter(|t| !t.is_empty()) {
            return mac(key, text).map(Some);
        }
    }
    Ok(None)
}

/// A MAC address that a link may have.
pub fn mac(key: &str, text: &str) -> Outcome<Mac> {
    text.parse::<Mac>().and_then(Mac::unicast).map_err(|e| config(key, e))
}

fn vid(key: &str, v: i64) -> Outcome<VlanId> {
    let v = u32::try_from(v).map_err(|_| config(key, format_args!("VLAN {v} is not within 1 to 4094")))?;
    VlanId::try_from(v).map_err(|e| config(key, e))
}

/// The VIDs of a trunk, each once, in order.
pub fn trunk(items: &[RawTrunk]) -> Outcome<Vec<VlanId>> {
    let mut vids = std::collections::BTreeSet::new();
    for (i, item) in items.iter().enumerate() {
        let key = |k: &str| format!("vlanTrunk[{i}].{k}");
        match (item.min_id, item.max_id) {
            (Some(min), Some(max)) => {
                let (min, max) = (vid(&key("minID"), min)?, vid(&key("maxID"), max)?);
                if max < min {
                    return Err(config(&key("maxID"), format_args!("{max} is smaller than minID {min}")));
                }
                for v in min.get()..=max.get() {
                    vids.insert(VlanId::try_from(u32::from(v)).map_err(|e| config(&key("minID"), e))?);
                }
            }
            (None, None) if item.id.is_none() => {
                return Err(config(&format!("vlanTrunk[{i}]"), "has neither id nor minID and maxID"));
            }
            (None, None) => {}
            (Some(_), None) => return Err(config(&key("maxID"), "missing beside minID")),
            (None, Some(_)) => return Err(config(&key("minID"), "missing beside maxID")),
        }
        if let Some(id) = item.id {
            vids.insert(vid(&key("id"), id)?);
        }
    }
    Ok(vids.into_iter().collect())
}

/// A network's own `dns` stands in place of IPAM's, whole.
pub fn dns_or(own: &Dns, ipam: &Dns) -> Dns {
    if own.is_empty() { ipam.clone() } else { own.clone() }
}

#[cfg(test)]
mod tests;
