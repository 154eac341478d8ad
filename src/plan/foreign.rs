//! What an attachment that another plugin makes may be: the rules that hold whoever carries a network out.
//!
//! A foreign plugin's keys are its own. Only those of its kind are known: `bridge` and `master` name a link of the node
//! in every plugin of the reference set and in those beside it.

use serde_json::{Map, Value};

use super::rules::{may_have_bridge, may_have_master};
use super::{Allow, Asker};
use crate::cni::json;
use crate::types::{Code, Failure, Outcome};

/// Refuses what no plugin can do for a virtual machine, and links that the pod's NAD may not name.
pub fn foreign(asker: &Asker<'_>, plugin: &str, conf: &Map<String, Value>, allow: &Allow) -> Outcome<()> {
    if matches!(plugin, "ipvlan" | "macvlan") && asker.facts.what_for(asker.ifname, true).is_vm() {
        let why = "its parent drops frames to the guest's own MAC address";
        let (network, who) = (asker.network, asker.who());
        let msg = format!("network {network}: {plugin} cannot carry the virtual machine of {who}: {why}");
        return Err(Failure::new(Code::MacvlanForVm, msg).remedy("use a bridge of the node in the NAD"));
    }
    if !asker.is_bound(false) {
        return Ok(());
    }
    let named = |key: &str| json::get(conf, key).and_then(Value::as_str).filter(|n| !n.is_empty());
    if let Some(bridge) = named("bridge") {
        may_have_bridge(asker, bridge, None, &allow.bridges)?;
    }
    // Only these know the key; to others it must be no way round.
    let in_pod = matches!(plugin, "ipvlan" | "macvlan" | "vlan")
        && json::get(conf, "linkInContainer") == Some(&Value::Bool(true));
    if let Some(master) = named("master").filter(|_| !in_pod) {
        may_have_master(asker, master, None, &allow.masters)?;
    }
    // What the plugin hands on to another one, as flannel does.
    let inner = conf.values().flat_map(|v| match v {
        Value::Array(list) => list.iter().collect(),
        one => vec![one],
    });
    inner.filter_map(Value::as_object).try_for_each(|one| match json::get(one, "type").and_then(Value::as_str) {
        Some(plugin) => foreign(asker, plugin, one, allow),
        None => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::Chooser;
    use crate::plan::testing::Pod;
    use crate::store::Allow as Entry;

    fn asked(pod: &Pod, by: Chooser, plugin: &str, conf: Value, allow: &Allow) -> Outcome<()> {
        foreign(&pod.chosen_by(by), plugin, conf.as_object().unwrap(), allow)
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
