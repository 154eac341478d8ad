//! The drop-in types, each behaviour on the reference plugins and on ours.

mod bridge;
mod check;
mod filters;
mod fixed;
mod foreign;
mod hostlocal;
mod macvlan;
mod parallel;
mod protocol;
mod versions;

use serde_json::{Value, json};

use crate::harness::Lab;

/// host-local with one range, on the lab's own store.
fn host_local(lab: &Lab, subnet: &str) -> Value {
    json!({"type": "host-local", "dataDir": lab.store(), "ranges": [[{"subnet": subnet}]]})
}

/// A bridge that the plugin makes, with addresses of host-local.
fn bridge_conf(lab: &Lab) -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": "br0", "ipam": host_local(lab, "10.1.2.0/24")})
}

/// The interface of a result that lies in a pod.
#[track_caller]
fn in_sandbox(result: &Value) -> &Value {
    let interfaces = result["interfaces"].as_array().unwrap();
    let inside: Vec<&Value> =
        interfaces.iter().filter(|i| i["sandbox"].as_str().is_some_and(|s| !s.is_empty())).collect();
    assert_eq!(inside.len(), 1, "one interface with a sandbox: {result}");
    inside[0]
}

/// Addresses of a result, in its order.
fn ips(result: &Value) -> Vec<String> {
    result["ips"].as_array().into_iter().flatten().map(|ip| ip["address"].as_str().unwrap().to_owned()).collect()
}
