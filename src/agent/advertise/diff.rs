//! What of a Node's object must change so that it names the healthy bridges. Pure.
//!
//! A key is `1k` in capacity and allocatable, or in neither: 0 would make kubelet refuse pods that run, at its next
//! restart. Then kubelet itself sets to 0 what it does not know, which is mended. Another amount was somebody's choice.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

pub const PREFIX: &str = "bridge.network.kubevirt.io/";
/// As bridge-marker has it: more pods than a node takes.
const AMOUNT: &str = "1k";
const SECTIONS: [&str; 2] = ["capacity", "allocatable"];

/// A merge patch of the node's status, and what it does, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    pub body: Value,
    pub added: BTreeSet<String>,
    pub removed: BTreeSet<String>,
}

/// Names of the bridges that the node's object has now, with an amount that is not 0.
pub fn advertised(node: &Value) -> BTreeSet<String> {
    let all = SECTIONS.iter().flat_map(|section| keys(node, section));
    all.filter(|(_, amount)| !is_zero(amount)).map(|(name, _)| name.to_owned()).collect()
}

/// `None`: it is as it should be.
pub fn diff(wanted: &BTreeSet<String>, node: &Value) -> Option<Patch> {
    let mut status = Map::new();
    let (mut added, mut removed) = (BTreeSet::new(), BTreeSet::new());
    for section in SECTIONS {
        let mut change = Map::new();
        for name in wanted {
            if keys(node, section).find(|(n, _)| n == name).is_none_or(|(_, v)| is_zero(v)) {
                change.insert(format!("{PREFIX}{name}"), json!(AMOUNT));
                added.insert(name.clone());
            }
        }
        for (name, _) in keys(node, section).filter(|(n, _)| !wanted.contains(*n)) {
            change.insert(format!("{PREFIX}{name}"), Value::Null);
            removed.insert(name.to_owned());
        }
        if !change.is_empty() {
            status.insert(section.into(), change.into());
        }
    }
    let body = json!({"status": status});
    (!added.is_empty() || !removed.is_empty()).then_some(Patch { body, added, removed })
}

fn keys<'a>(node: &'a Value, section: &'static str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let map = node.get("status").and_then(|s| s.get(section)).and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value)))
}

/// A quantity, which may be written with a suffix (`0`, `0k`, `0.0`).
fn is_zero(quantity: &Value) -> bool {
    match quantity {
        Value::String(text) => {
            !text.bytes().take_while(|b| !matches!(b, b'e' | b'E')).any(|b| (b'1'..=b'9').contains(&b))
        }
        other => other.as_f64() == Some(0.0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(capacity: Value, allocatable: Value) -> Value {
        json!({"metadata": {"name": "n1"}, "status": {"capacity": capacity, "allocatable": allocatable}})
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    /// What an API server makes of a merge patch.
    fn apply(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else { return *target = patch.clone() };
        if !target.is_object() {
            *target = json!({});
        }
        for (key, value) in patch {
            if value.is_null() {
                target.as_object_mut().unwrap().remove(key);
            } else {
                apply(&mut target[key], value);
            }
        }
    }

    #[test]
    fn both_sections_get_the_key_and_nothing_else_is_touched() {
        let there = node(json!({"cpu": "4"}), json!({"cpu": "3"}));
        let patch = diff(&set(&["br-lan"]), &there).unwrap();
        let key = json!({"bridge.network.kubevirt.io/br-lan": "1k"});
        assert_eq!(patch.body, json!({"status": {"capacity": key, "allocatable": key}}));
        assert_eq!((patch.added, patch.removed), (set(&["br-lan"]), set(&[])));
        assert_eq!(diff(&set(&[]), &there), None);
        assert_eq!(diff(&set(&[]), &json!({})), None, "a node that has just registered");
    }

    #[test]
    fn an_unhealthy_bridge_loses_its_key_and_never_gets_0() {
        let both = json!({"bridge.network.kubevirt.io/br-lan": "1k"});
        let patch = diff(&set(&[]), &node(both.clone(), both.clone())).unwrap();
        let gone = json!({"bridge.network.kubevirt.io/br-lan": null});
        assert_eq!(patch.body, json!({"status": {"capacity": gone, "allocatable": gone}}));
        assert_eq!(diff(&set(&["br-lan"]), &node(both.clone(), both)), None);
    }

    #[test]
    fn what_kubelet_set_to_zero_is_mended_and_other_amounts_stay() {
        for (amount, mended) in
            [(json!("0"), true), (json!("0k"), true), (json!(0), true), (json!("500"), false), (json!("1e3"), false)]
        {
            let there = json!({"bridge.network.kubevirt.io/br-lan": amount});
            let patch = diff(&set(&["br-lan"]), &node(there.clone(), there.clone()));
            assert_eq!(patch.is_some(), mended, "{there}");
            assert_eq!(advertised(&node(there.clone(), json!({}))).len(), usize::from(!mended), "{there}");
        }
        let half = node(json!({"bridge.network.kubevirt.io/br-lan": "1k"}), json!({}));
        let patch = diff(&set(&["br-lan"]), &half).unwrap();
        assert_eq!(patch.body, json!({"status": {"allocatable": {"bridge.network.kubevirt.io/br-lan": "1k"}}}));
    }

    proptest! {
        #[test]
        fn one_patch_is_enough(
            wanted in prop::collection::btree_set("[a-c]", 0..4),
            capacity in prop::collection::btree_map("[a-d]", prop_oneof!["0", "1k", "7"], 0..4),
            allocatable in prop::collection::btree_map("[a-d]", prop_oneof!["0", "1k", "7"], 0..4),
        ) {
            let of = |map: std::collections::BTreeMap<String, String>| {
                let mut section: Map<String, Value> = map.into_iter().map(|(k, v)| (format!("{PREFIX}{k}"), json!(v))).collect();
                section.insert("cpu".into(), json!("4"));
                Value::Object(section)
            };
            let mut node = node(of(capacity), of(allocatable));
            if let Some(patch) = diff(&wanted, &node) {
                apply(&mut node, &patch.body);
            }
            prop_assert_eq!(diff(&wanted, &node), None);
            prop_assert_eq!(advertised(&node), wanted);
            prop_assert!(SECTIONS.iter().all(|s| node["status"][*s]["cpu"] == "4"));
        }
    }
}
