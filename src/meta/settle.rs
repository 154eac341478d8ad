//! From networks whose configuration is known to what is made: interface names, CNI_ARGS, values by capability,
//! devices, default routes.
//!
//! Pure, and refuses here what can be refused before anything is made. Multus' rules, but for its faults: two networks
//! never get one interface name, and none is found taken after others were made.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::annotation::Selection;
use crate::cni::{Args, Call, json};
use crate::nad::Conf;
use crate::plan::PodFacts;
use crate::types::{Code, ContainerId, Failure, IfName, Outcome};

use super::record::Attached;
use super::{outside, run};

/// Arguments that a runtime gives about the pod; a plugin that looks for one of them finds it, if empty.
const POD_ARGS: [&str; 4] = ["K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID"];

/// A network that was found.
#[derive(Debug, Clone)]
pub struct Known {
    pub name: String,
    pub conf: Conf,
    pub selection: Option<Selection>,
    pub master: bool,
    pub chosen: bool,
    pub resource: Option<String>,
    /// Of the pod's devices of that resource, the next one.
    pub device: Option<String>,
}

/// The runtime's arguments must be in order; Multus refuses them too.
pub fn check_args(args: &Args) -> Outcome<()> {
    let known: Vec<&str> = POD_ARGS.into_iter().chain(["IP"]).collect();
    args.strict(&known)
}

/// CNI_ARGS of every delegate.
pub fn base_args(args: &Args) -> String {
    let pod = POD_ARGS.map(|key| (key, args.get(key).unwrap_or_default()));
    let more = args.pairs().filter(|(key, _)| *key != "IgnoreUnknown" && !POD_ARGS.contains(key));
    let all = std::iter::once(("IgnoreUnknown", "true")).chain(pod).chain(more);
    all.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(";")
}

/// `container` and `master`: of the call.
pub fn settle(
    call: &Call,
    facts: &PodFacts,
    (container, master): (&ContainerId, &IfName),
    runtime: &Map<String, Value>,
    known: Vec<Known>,
) -> Outcome<Vec<Attached>> {
    one_default_route_each(&known)?;
    let mut settled = Vec::with_capacity(known.len());
    for (index, network) in known.into_iter().enumerate() {
        let ifname = ifname(&network, index, master)?;
        settled.push(attached(facts, (container, ifname), runtime, network)?);
    }
    names_differ(&settled)?;
    // A bind step needs the wire of its network, wherever the pod's annotation has it. Names are given by now.
    settled.sort_by_key(|one| one.bind && !one.master);
    tracing::debug!(networks = settled.len(), verb = %call.verb, "settled");
    Ok(settled)
}

/// The request's name; the master's is the runtime's, the others' follows from the place in the whole list.
fn ifname(network: &Known, index: usize, master: &IfName) -> Outcome<IfName> {
    let request = network.selection.as_ref().and_then(|s| s.interface.as_deref());
    match request.filter(|r| !r.is_empty()) {
        None if network.master => Ok(master.clone()),
        None => parsed(&format!("net{index}"), network),
        Some(text) => parsed(text, network),
    }
}

fn parsed(text: &str, network: &Known) -> Outcome<IfName> {
    text.parse().map_err(|e| Failure::new(Code::Annotation, format!("network {}: {e}", network.name)))
}

fn attached(
    facts: &PodFacts,
    (container, ifname): (&ContainerId, IfName),
    runtime: &Map<String, Value>,
    network: Known,
) -> Outcome<Attached> {
    let Known { name, conf, selection, master, chosen, resource, device } = network;
    let mut selection = selection.unwrap_or_default();
    let bind = is_bind(&conf);
    if !bind && let Some(ips) = facts.addresses(&ifname)? {
        selection.ips = Some(agreed(&name, selection.ips.take(), ips)?);
    }
    let mut given = by_capability(runtime, &selection, device.as_deref(), master);
    let info_file =
        given.get("deviceID").and_then(Value::as_str).map(|_| outside::info_file(&name, container, &ifname));
    if let Some(file) = &info_file {
        given.insert("CNIDeviceInfoFile".into(), file.to_string_lossy().into());
    }
    let mut conf = conf;
    if let Some(id) = &device {
        conf = conf.with_device(id);
    }
    if let Some(args) = &selection.cni_args {
        conf = conf.with_cni_args(args).map_err(|f| f.at(format!("network {name}: cni-args")))?;
    }
    let declared = declared(&conf);
    given.retain(|key, _| declared.contains(key));
    Ok(Attached {
        bind,
        conf: run::to_map(&conf),
        asked: asked(&selection),
        name,
        ifname,
        runtime: given,
        master,
        chosen,
        resource,
        device,
        info_file,
        default_route: selection.default_route,
        result: None,
        link: None,
        undone: false,
    })
}

/// Who asks in two places must ask for the same.
fn agreed(network: &str, own: Option<Vec<String>>, ips: Vec<String>) -> Outcome<Vec<String>> {
    match own.filter(|own| !own.is_empty() && *own != ips) {
        None => Ok(ips),
        Some(own) => {
            let (ips, own) = (ips.join(", "), own.join(", "));
            let msg =
                format!("network {network}: the machine asks for {ips}, and its element of the annotation for {own}");
            Err(Failure::new(Code::Annotation, msg).remedy("ask in one place: network.kubevirt.io/addresses"))
        }
    }
}

fn asked(selection: &Selection) -> String {
    let mac = selection.mac.iter().map(|mac| format!("MAC={mac}"));
    let ips = selection.ips.as_ref().map(|ips| format!("IP={}", ips.join(",")));
    mac.chain(ips).collect::<Vec<_>>().join(";")
}

/// The runtime's values, and over them what the pod asks of this network. Multus gives the runtime's to every network
/// that declares them, and of a request for the master none: people rely on both.
fn by_capability(
    runtime: &Map<String, Value>,
    selection: &Selection,
    device: Option<&str>,
    master: bool,
) -> Map<String, Value> {
    let mut given = runtime.clone();
    if !master {
        let ips = selection.ips.as_ref().filter(|ips| !ips.is_empty());
        let device = device.or(selection.device_id.as_deref());
        let requests = [
            ("portMappings", selection.port_mappings.clone()),
            ("bandwidth", selection.bandwidth.clone()),
            ("ips", ips.map(|ips| json!(ips))),
            ("mac", selection.mac.as_deref().map(Value::from)),
            ("infinibandGUID", selection.infiniband_guid.as_deref().map(Value::from)),
            ("deviceID", device.map(Value::from)),
        ];
        given.extend(requests.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    }
    let known = given.into_iter().filter_map(|(key, value)| Some((tidy(&key, value)?, key)));
    known.map(|(value, key)| (key, value)).collect()
}

/// A value in the form that Multus hands on; nothing for an empty one.
fn tidy(key: &str, value: Value) -> Option<Value> {
    let value = match (key, value) {
        ("portMappings", Value::Array(list)) => list.into_iter().map(port_mapping).collect(),
        ("bandwidth", Value::Object(rates)) => bandwidth(&rates),
        (_, value) => value,
    };
    let empty = match &value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        _ => false,
    };
    (!empty).then_some(value)
}

fn port_mapping(mapping: Value) -> Value {
    let Value::Object(mapping) = mapping else { return mapping };
    let mut out = Map::new();
    for key in ["hostPort", "containerPort"] {
        out.insert(key.into(), json::get(&mapping, key).cloned().unwrap_or(0.into()));
    }
    for key in ["protocol", "hostIP"] {
        if let Some(value) = json::get(&mapping, key).filter(|v| v.as_str() != Some("")) {
            out.insert(key.into(), value.clone());
        }
    }
    out.into()
}

fn bandwidth(rates: &Map<String, Value>) -> Value {
    let keys = ["ingressRate", "ingressBurst", "egressRate", "egressBurst"];
    let rate = |key: &str| (key.to_owned(), json::get(rates, key).cloned().unwrap_or(0.into()));
    keys.into_iter().map(rate).collect::<Map<_, _>>().into()
}

/// Capabilities of any plugin of the network; which plugin gets what, `chain` decides.
fn declared(conf: &Conf) -> BTreeSet<String> {
    let of = |plugin: &Map<String, Value>| json::get(plugin, "capabilities").and_then(Value::as_object).cloned();
    let all = conf.plugins().iter().filter_map(of).flatten();
    all.filter(|(_, on)| *on == Value::Bool(true)).map(|(key, _)| key).collect()
}

/// `type: trestle` with neither bridge nor master; a network of its own kind, as it needs the wire of another one.
fn is_bind(conf: &Conf) -> bool {
    conf.plugins().first().is_some_and(|p| {
        json::get(p, "type").and_then(Value::as_str) == Some("trestle")
            && ["bridge", "master"].iter().all(|key| json::get(p, key).is_none())
    })
}

fn names_differ(all: &[Attached]) -> Outcome<()> {
    for (i, one) in all.iter().enumerate() {
        if let Some(other) = all[..i].iter().find(|o| o.ifname == one.ifname) {
            return Err(Failure::new(
                Code::NameTaken,
                format!("networks {} and {} both get the interface {}", other.name, one.name, one.ifname),
            )
            .remedy("ask for another `interface` in the pod's annotation"));
        }
    }
    Ok(())
}

fn one_default_route_each(known: &[Known]) -> Outcome<()> {
    let of = |k: &Known| k.selection.as_ref().and_then(|s| s.default_route.clone()).unwrap_or_default();
    let all: Vec<IpAddr> = known.iter().flat_map(of).collect();
    let v6 = all.iter().filter(|ip| ip.is_ipv6()).count();
    if v6 <= 1 && all.len() - v6 <= 1 {
        return Ok(());
    }
    let list = all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Err(Failure::new(Code::Annotation, format!("default-route: {list}: more than one gateway for one family"))
        .remedy("name one IPv4 and one IPv6 gateway at most, over all networks of the pod"))
}

#[cfg(test)]
mod tests;
