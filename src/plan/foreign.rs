//! What an attachment that another plugin makes may be: the rules that hold whoever carries a network out.
//!
//! A foreign plugin's keys are its own. Only those of its kind are known: `bridge` and `master` name a link of the node
//! in every plugin of the reference set and in those beside it, `deviceID` and `pciBusID` a device; `host-device` and
//! `bond` have more ways to take a link away. To which links they lead is looked up by others, in between.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::rules::{may_have_bridge, may_have_master};
use super::{Allow, Asker};
use crate::cni::json;
use crate::net::Link;
use crate::types::{Code, Failure, Outcome};

/// How a configuration leads to links of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lead {
    /// A link's name, or another name of its.
    Name(String),
    /// That of the default route.
    DefaultRoute,
    /// Those with this MAC address.
    Mac(String),
    /// Those whose names are in these directories.
    Directories(Vec<PathBuf>),
}

/// A link of the node that a network wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub lead: Lead,
    /// As the configuration has it.
    text: String,
    bridge: bool,
}

impl Claim {
    fn new(lead: Lead, text: &str) -> Self {
        Self { lead, text: text.into(), bridge: false }
    }

    fn master(name: &str) -> Self {
        Self::new(Lead::Name(name.into()), name)
    }

    fn bridge(name: &str) -> Self {
        Self { bridge: true, ..Self::master(name) }
    }
}

/// A link that was found; and the one that a link upon it would share with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub link: Link,
    pub lower: Option<Link>,
}

/// Refuses what no plugin can do for a virtual machine. The answer is what the pod's NAD must be allowed to have.
/// `device`: the one that kubelet gave the pod, which nobody chose.
pub fn foreign(
    asker: &Asker<'_>,
    plugin: &str,
    conf: &Map<String, Value>,
    device: Option<&str>,
) -> Outcome<Vec<Claim>> {
    if matches!(plugin, "ipvlan" | "macvlan") && asker.facts.what_for(asker.ifname, true).is_vm() {
        let why = "its parent drops frames to the guest's own MAC address";
        let (network, who) = (asker.network, asker.who());
        let msg = format!("network {network}: {plugin} cannot carry the virtual machine of {who}: {why}");
        return Err(Failure::new(Code::MacvlanForVm, msg).remedy("use a bridge of the node in the NAD"));
    }
    if !asker.is_bound(false) {
        return Ok(Vec::new());
    }
    let mut claims = claims(plugin, conf);
    claims.extend(devices(plugin, conf, device));
    // What the plugin hands on to another one, as flannel does: to `bridge` where it names none.
    let inner = conf.values().flat_map(|v| match v {
        Value::Array(list) => list.iter().collect(),
        one => vec![one],
    });
    for one in inner.filter_map(Value::as_object) {
        claims.extend(foreign(asker, text(one, "type").unwrap_or_default(), one, device)?);
    }
    Ok(claims)
}

fn text<'a>(conf: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    json::get(conf, key).and_then(Value::as_str).filter(|n| !n.is_empty())
}

fn claims(plugin: &str, conf: &Map<String, Value>) -> Vec<Claim> {
    let on = |key: &str| json::get(conf, key) == Some(&Value::Bool(true));
    let mut claims: Vec<Claim> = text(conf, "bridge").map(Claim::bridge).into_iter().collect();
    // Only these know the key; to others it must be no way round.
    let in_pod = matches!(plugin, "ipvlan" | "macvlan" | "vlan") && on("linkInContainer");
    match text(conf, "master") {
        _ if in_pod => {}
        Some(master) => claims.push(Claim::master(master)),
        None if plugin == "macvlan" => claims.push(by_default()),
        None if plugin == "ipvlan" => claims.extend(behind(conf)),
        None => {}
    }
    if plugin == "bond" && !on("linksInContainer") {
        let links = json::get(conf, "links").and_then(Value::as_array).into_iter().flatten();
        claims.extend(links.filter_map(|l| text(l.as_object()?, "name")).map(Claim::master));
    }
    claims
}

fn by_default() -> Claim {
    Claim::new(Lead::DefaultRoute, "of the default route")
}

/// Without a master `ipvlan` takes the only interface of the result before it for one; behind another result it fails.
fn behind(conf: &Map<String, Value>) -> Option<Claim> {
    let Some(prev) = json::get(conf, "prevResult").and_then(Value::as_object) else { return Some(by_default()) };
    match &json::get(prev, "interfaces")?.as_array()?[..] {
        [one] => text(one.as_object()?, "name").map(Claim::master),
        _ => None,
    }
}

/// Devices, as `host-device` and the plugins for SR-IOV find them.
fn devices(plugin: &str, conf: &Map<String, Value>, given: Option<&str>) -> Vec<Claim> {
    let given_at_run = json::get(conf, "runtimeConfig").and_then(Value::as_object).and_then(|r| text(r, "deviceID"));
    let ids = [text(conf, "deviceID"), text(conf, "pciBusID"), given_at_run];
    let ids = ids.into_iter().flatten().filter(|id| Some(*id) != given);
    let mut claims: Vec<Claim> = ids.map(|id| Claim::new(Lead::Directories(of_device(id)), id)).collect();
    if plugin == "host-device" {
        claims.extend(text(conf, "device").map(Claim::master));
        claims.extend(text(conf, "hwaddr").map(|mac| Claim::new(Lead::Mac(mac.into()), mac)));
        let path = text(conf, "kernelpath");
        claims.extend(path.map(|path| Claim::new(Lead::Directories(vec![Path::new(path).join("net")]), path)));
    }
    claims
}

/// Of a virtio device the links are a level below; there is one such level, and its number nobody knows.
fn of_device(id: &str) -> Vec<PathBuf> {
    let at = |bus: &str| Path::new("/sys/bus").join(bus).join("devices").join(id.trim_start_matches('/'));
    vec![at("pci").join("net"), at("pci").join("virtio*/net"), at("auxiliary").join("net")]
}

/// `found`: all links that the claim leads to. Where there is none, its text stands for one: who allows a device by its
/// number, or all of them, allows that one.
pub fn may_have(asker: &Asker<'_>, claim: &Claim, found: &[Found], allow: &Allow) -> Outcome<()> {
    let by_name = matches!(claim.lead, Lead::Name(_));
    if claim.bridge {
        return may_have_bridge(asker, &claim.text, found.first().map(|f| &f.link), &allow.bridges);
    }
    if by_name || (found.is_empty() && claim.lead != Lead::DefaultRoute) {
        let first = found.first();
        return may_have_master(
            asker,
            &claim.text,
            first.map(|f| &f.link),
            first.and_then(|f| f.lower.as_ref()),
            allow,
        );
    }
    found.iter().try_for_each(|f| may_have_master(asker, &f.link.name, Some(&f.link), f.lower.as_ref(), allow))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::net::LinkKind;
    use crate::plan::Chooser;
    use crate::plan::testing::{Pod, bridge, link};
    use crate::store::Allow as Entry;

    fn asked(pod: &Pod, by: Chooser, plugin: &str, conf: Value, allow: &Allow) -> Outcome<()> {
        // Of a node whose links have these names.
        let known = [("eno9", link(9, "eno9", LinkKind::Hardware)), ("far", bridge(8, "br-storage"))];
        let found = |claim: &Claim| match &claim.lead {
            Lead::Name(name) => {
                known.iter().filter(|(n, l)| n == name || l.name == *name).map(|(_, l)| l.clone()).collect()
            }
            Lead::DefaultRoute => vec![known[0].1.clone()],
            Lead::Mac(_) => vec![known[0].1.clone(), known[1].1.clone()],
            Lead::Directories(_) => Vec::new(),
        };
        let asker = pod.chosen_by(by);
        foreign(&asker, plugin, conf.as_object().unwrap(), Some("0000:03:00.1"))?.iter().try_for_each(|claim| {
            let found: Vec<Found> = found(claim).into_iter().map(|link| Found { link, lower: None }).collect();
            may_have(&asker, claim, &found, allow)
        })
    }

    /// Ways that have nothing of `bridge` or `master` in them, or lead further than their word says.
    #[test]
    fn no_way_leads_around_the_lists() {
        let only = |glob: &str| Some(vec![Entry { glob: glob.into(), namespaces: None }]);
        let allow = Allow { bridges: only("br-lan"), masters: only("*") };
        let masters = Allow { bridges: None, masters: only("eno1") };
        let pod = Pod::plain();
        let by_pod = |plugin: &str, conf: Value, allow: &Allow| asked(&pod, Chooser::Pod, plugin, conf, allow);
        for (plugin, conf) in [
            ("vlan", json!({"master": "br-storage"})),
            ("ipvlan", json!({"master": "far"})),
            ("ipvlan", json!({"prevResult": {"interfaces": [{"name": "far"}]}})),
            ("flannel", json!({"delegate": {"bridge": "br-storage"}})),
            ("multus", json!({"delegates": [{"plugins": [{"type": "x", "master": "far"}]}]})),
            ("bond", json!({"links": [{"name": "eno1"}, {"name": "far"}]})),
            ("host-device", json!({"device": "br-storage"})),
            ("host-device", json!({"hwaddr": "02:00:00:00:00:01"})),
        ] {
            assert_eq!(by_pod(plugin, conf.clone(), &allow).unwrap_err().code, Code::BridgeNotAllowed, "{conf}");
        }
        for (plugin, conf, name) in [
            ("ipvlan", json!({}), "eno9"),
            ("macvlan", json!({"master": ""}), "eno9"),
            ("ipvlan", json!({"prevResult": {"interfaces": [{"name": "eno9"}]}}), "eno9"),
            ("flannel", json!({"delegate": {"type": "macvlan"}}), "eno9"),
            ("host-device", json!({"device": "eno9"}), "eno9"),
            ("host-device", json!({"hwaddr": "02:00:00:00:00:01"}), "eno9"),
            ("host-device", json!({"pciBusID": "0000:03:00.0"}), "0000:03:00.0"),
            ("host-device", json!({"runtimeConfig": {"deviceID": "0000:03:00.0"}}), "0000:03:00.0"),
            ("host-device", json!({"kernelpath": "/sys/devices/x"}), "/sys/devices/x"),
            ("sriov", json!({"deviceID": "0000:03:00.0"}), "0000:03:00.0"),
        ] {
            let failure = by_pod(plugin, conf.clone(), &masters).expect_err(&conf.to_string());
            assert_eq!(failure.msg, format!("network lan: master {name} is not allowed for pod default/web"), "{conf}");
            assert_eq!(by_pod(plugin, conf.clone(), &Allow::default()), Ok(()), "{conf}");
        }
        for (plugin, conf) in [
            ("ipvlan", json!({"linkInContainer": true})),
            ("ipvlan", json!({"prevResult": {"interfaces": [{"name": "eno9"}, {"name": "b"}]}})),
            ("bond", json!({"links": [{"name": "net1"}], "linksInContainer": true})),
            ("host-device", json!({"pciBusID": "0000:03:00.1", "deviceID": "0000:03:00.1"})),
            ("host-device", json!({"device": "eno1"})),
            ("tuning", json!({"device": "eno9", "links": [{"name": "eno9"}]})),
        ] {
            by_pod(plugin, conf.clone(), &masters).unwrap_or_else(|e| panic!("{conf}: {e}"));
        }
    }

    #[test]
    fn the_administrators_lists_bind_what_pods_ask_for() {
        let only = |glob: &str| Some(vec![Entry { glob: glob.into(), namespaces: None }]);
        let allow = Allow { bridges: only("br-*"), masters: only("eno1") };
        let pod = Pod::plain();
        let by_pod = |plugin: &str, conf: Value| asked(&pod, Chooser::Pod, plugin, conf, &allow);
        for (plugin, conf) in [
            ("ovs", json!({"bridge": "br-lan"})),
            ("vlan", json!({"Master": "eno1", "vlanId": 5})),
            ("ptp", json!({})),
            ("ipvlan", json!({"master": "eth0", "linkInContainer": true})),
            ("tuning", json!({"master": "", "bridge": null})),
        ] {
            by_pod(plugin, conf.clone()).unwrap_or_else(|e| panic!("{conf}: {e}"));
        }
        for (plugin, conf) in [
            ("flannel", json!({"delegate": {"type": "macvlan", "master": "eno2"}})),
            ("multus", json!({"delegates": [{"type": "x"}, {"plugins": [], "type": "y", "Master": "eno2"}]})),
            ("ipoib", json!({"master": "eno2", "linkInContainer": true})),
        ] {
            assert_eq!(by_pod(plugin, conf.clone()).unwrap_err().code, Code::MasterNotAllowed, "{conf}");
        }
        let bridge = by_pod("ovs", json!({"BRIDGE": "storage"})).unwrap_err();
        assert_eq!(bridge.code, Code::BridgeNotAllowed);
        assert_eq!(bridge.msg, "network lan: bridge storage is not allowed for pod default/web");
        let master = json!({"master": "eno2", "linkInContainer": "true"});
        assert_eq!(by_pod("ipvlan", master.clone()).unwrap_err().code, Code::MasterNotAllowed);
        for by in [Chooser::Administrator, Chooser::Unknown] {
            asked(&pod, by, "ipvlan", master.clone(), &allow).unwrap();
        }
        let by_default = asked(&pod, Chooser::Pod, "ovs", json!({"bridge": "docker0"}), &Allow::default());
        assert_eq!(by_default.unwrap_err().code, Code::BridgeNotAllowed);
    }

    #[test]
    fn ipvlan_carries_no_machine() {
        let refused = |pod: &Pod, plugin| asked(pod, Chooser::Pod, plugin, json!({}), &Allow::default()).err();
        let failure = refused(&Pod::machine(), "ipvlan").unwrap();
        assert_eq!(failure.code, Code::MacvlanForVm);
        assert!(failure.msg.contains("ipvlan cannot carry the virtual machine of pod default/virt-launcher-db-abcde"));
        assert_eq!((refused(&Pod::machine(), "sriov"), refused(&Pod::plain(), "ipvlan")), (None, None));
        let primary = Pod::new("virt-launcher-db-abcde", "eth0", Some(&[("kubevirt.io/domain", "db")]));
        assert_eq!(refused(&primary, "ipvlan"), None, "the cluster's default network is masqueraded");
    }
}
