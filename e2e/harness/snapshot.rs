//! All that an attachment may leave behind, as one value to compare before and after.

use serde_json::{Value, json};

use super::look::store_files;
use super::{Lab, Netns};

#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot(Value);

impl Snapshot {
    /// Node and pods, the address store, the journal.
    pub fn of(lab: &Lab, pods: &[&Netns]) -> Self {
        let journal: Vec<String> = lab.journal().iter().map(|f| f.display().to_string()).collect();
        let pods: Vec<Value> = pods.iter().map(|pod| namespace(pod)).collect();
        Self(json!({
            "node": namespace(&lab.node), "pods": pods, "store": store_files(&lab.store()), "journal": journal,
        }))
    }

    /// A link with everything that others may rely on: its state, addresses and sysctls.
    pub fn of_link(ns: &Netns, name: &str) -> Self {
        let link = ns.link(name);
        let mut sysctls = Vec::new();
        for family in ["ipv4", "ipv6"] {
            let dir = format!("/proc/sys/net/{family}/conf/{name}");
            ns.inside(|| {
                for file in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                    // One of them is a secret that only shows once it is set.
                    let value = std::fs::read_to_string(file.path()).unwrap_or_default();
                    sysctls.push(format!("{family}/{}={}", file.file_name().display(), value.trim()));
                }
            });
        }
        sysctls.sort();
        let mut data = link.raw["linkinfo"]["info_data"].clone();
        for counter in ["hello_timer", "tcn_timer", "topology_change_timer", "gc_timer", "root_port", "topology_change"]
        {
            data.as_object_mut().and_then(|data| data.remove(counter));
        }
        Self(json!({
            "mac": link.mac, "mtu": link.mtu, "up": link.up, "promiscuity": link.raw["promiscuity"], "data": data,
            "alias": link.alias, "addresses": link.addresses, "sysctls": sysctls,
        }))
    }

    /// Without one of the node's links, and whether the node forwards: what a drop-in makes once and leaves.
    pub fn without_bridge(mut self, name: &str) -> Self {
        self.0["node"]["links"].as_array_mut().unwrap().retain(|link| link["name"] != name);
        self.0["node"]["forwarding"] = Value::Null;
        self
    }

    /// Without the addresses of links of that name in the pods.
    pub fn without_addresses(mut self, name: &str) -> Self {
        for pod in self.0["pods"].as_array_mut().unwrap() {
            for link in pod["links"].as_array_mut().unwrap().iter_mut().filter(|link| link["name"] == name) {
                link["addresses"] = Value::Null;
            }
        }
        self
    }

    /// Fails with the first difference.
    #[track_caller]
    pub fn same(&self, after: &Self, when: &str) {
        if let Some(difference) = first_difference("", &self.0, &after.0) {
            panic!("{when}: {difference}");
        }
    }
}

fn namespace(ns: &Netns) -> Value {
    let links: Vec<Value> = ns
        .links()
        .iter()
        .map(|l| {
            json!({
                "name": l.name, "mac": l.mac, "mtu": l.mtu, "up": l.up, "kind": l.kind, "master": l.master,
                "alias": l.alias, "addresses": l.addresses,
            })
        })
        .collect();
    json!({
        "links": links, "routes": ns.routes(), "filters": ns.filters(), "tc": ns.traffic_control(),
        "forwarding": ns.sysctl("ipv4/ip_forward"),
    })
}

fn first_difference(path: &str, a: &Value, b: &Value) -> Option<String> {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            let keys: std::collections::BTreeSet<&String> = x.keys().chain(y.keys()).collect();
            keys.into_iter().find_map(|k| {
                let at = |m: &serde_json::Map<String, Value>| m.get(k).cloned().unwrap_or(Value::Null);
                first_difference(&format!("{path}.{k}"), &at(x), &at(y))
            })
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).enumerate().find_map(|(i, (p, q))| first_difference(&format!("{path}[{i}]"), p, q))
        }
        _ if a == b => None,
        _ => Some(format!("{path}: was {a}, is {b}")),
    }
}
