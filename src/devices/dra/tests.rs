use crate::net::testing::block_on;
use serde_json::json;

use super::*;
use crate::devices::testing::{FakeApi, pod, supply};

/// A pod as the API server of Kubernetes 1.34 has it when kubelet starts its sandbox.
fn web(status: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default", "uid": "u1",
                     "annotations": {"k8s.v1.cni.cncf.io/networks": "sriov"}},
        "spec": {"nodeName": "node1",
                 "containers": [{"name": "c", "image": "i", "resources": {"claims": [{"name": "vfs"}]}}],
                 "resourceClaims": [{"name": "vfs", "resourceClaimTemplateName": "vf-template"}]},
        "status": status,
    })
}

fn by_template() -> Value {
    web(json!({"phase": "Pending", "qosClass": "BestEffort",
               "resourceClaimStatuses": [{"name": "vfs", "resourceClaimName": "web-vfs-x7k2p"}]}))
}

fn result(request: &str, driver: &str, device: &str) -> Value {
    json!({"request": request, "driver": driver, "pool": "node1", "device": device})
}

fn claim(results: Value) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"name": "web-vfs-x7k2p", "namespace": "default", "uid": "r1",
                     "annotations": {"resource.kubernetes.io/pod-claim-name": "vfs"},
                     "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "u1"}]},
        "spec": {"devices": {"requests": [{"name": "vf", "exactly": {
            "deviceClassName": "sriov.example.com", "allocationMode": "ExactCount", "count": 2}}]}},
        "status": {"allocation": {"devices": {"results": results},
                   "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [
                       {"key": "metadata.name", "operator": "In", "values": ["node1"]}]}]}},
                   "reservedFor": [{"resource": "pods", "name": "web", "uid": "u1"}]},
    })
}

fn device(name: &str, id: Option<&str>, resource: Option<&str>) -> Value {
    let mut attributes = json!({"sriov.example.com/vendor": {"string": "8086"}, "numa": {"int": 0}});
    for (key, value) in [(DEVICE_ID, id), (RESOURCE, resource)] {
        if let Some(value) = value {
            attributes[key] = json!({"string": value});
        }
    }
    json!({"name": name, "attributes": attributes, "capacity": {"queues": {"value": "4"}}})
}

fn slice(generation: i64, devices: Value) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice",
        "metadata": {"name": format!("node1-sriov.example.com-{generation}"), "generation": 1},
        "spec": {"driver": "sriov.example.com", "nodeName": "node1",
                 "pool": {"name": "node1", "generation": generation, "resourceSliceCount": 1}, "devices": devices},
    })
}

const SLICES: &str = "slices node1 sriov.example.com";
const CLAIM: &str = "claim default/web-vfs-x7k2p";

fn vfs() -> Value {
    json!([slice(
        1,
        json!([
            device("vf-0", Some("0000:03:02.0"), Some("x.io/vf")),
            device("vf-1", Some("0000:03:02.1"), Some("x.io/vf")),
            device("idless", None, Some("x.io/vf")),
            device("nameless", Some("0000:03:02.2"), None)
        ])
    )])
}

fn added(api: &FakeApi, before: &[(&str, &[&str])]) -> Outcome<Supply> {
    let mut found = supply(before);
    block_on(add(api, &pod("u1"), &mut found)).map(|()| found)
}

#[test]
fn a_claim_from_a_template_adds_to_what_kubelet_gave() {
    let results = json!([result("vf", "sriov.example.com", "vf-1"), result("vf", "sriov.example.com", "vf-0")]);
    let api = FakeApi::with([("pod default/web", by_template()), (CLAIM, claim(results)), (SLICES, vfs())]);
    let found = added(&api, &[("x.io/vf", &["0000:02:00.1"]), ("y.io/nic", &["n"])]).unwrap();
    let all = ["0000:02:00.1", "0000:03:02.0", "0000:03:02.1"];
    assert_eq!(found, supply(&[("x.io/vf", &all), ("y.io/nic", &["n"])]));
    assert_eq!(*api.asked.borrow(), ["pod default/web", CLAIM, SLICES], "each once");
}

#[test]
fn a_claim_that_the_pod_names_itself() {
    let mut object = web(json!({"phase": "Pending"}));
    object["spec"]["resourceClaims"] = json!([{"name": "vfs", "resourceClaimName": "web-vfs-x7k2p"}]);
    let results = json!([result("vf", "sriov.example.com", "vf-1")]);
    let api = FakeApi::with([("pod default/web", object), (CLAIM, claim(results)), (SLICES, vfs())]);
    assert_eq!(added(&api, &[]).unwrap(), supply(&[("x.io/vf", &["0000:03:02.1"])]));
}

#[test]
fn devices_that_are_no_networks_are_passed_over() {
    let results = json!([
        result("gpu", "gpu.example.com", "gpu-0"), result("vf", "sriov.example.com", "idless"),
        result("vf", "sriov.example.com", "nameless"), result("vf", "sriov.example.com", "absent"),
        {"request": "vf", "driver": "sriov.example.com", "pool": "node2", "device": "vf-0"},
    ]);
    let api = FakeApi::with([("pod default/web", by_template()), (CLAIM, claim(results)), (SLICES, vfs())]);
    assert_eq!(added(&api, &[("x.io/vf", &["k"])]).unwrap(), supply(&[("x.io/vf", &["k"])]));
}

#[test]
fn of_two_generations_of_a_pool_the_newer_counts() {
    let old =
        slice(1, json!([device("vf-0", Some("old"), Some("x.io/vf")), device("vf-1", Some("b"), Some("x.io/vf"))]));
    let new = slice(2, json!([device("vf-0", Some("new"), Some("x.io/vf"))]));
    let results = json!([result("vf", "sriov.example.com", "vf-0"), result("vf", "sriov.example.com", "vf-1")]);
    for order in [json!([old, new]), json!([new, old])] {
        let objects = [("pod default/web", by_template()), (CLAIM, claim(results.clone())), (SLICES, order)];
        assert_eq!(added(&FakeApi::with(objects), &[]).unwrap(), supply(&[("x.io/vf", &["b", "new"])]));
    }
}

#[test]
fn nothing_more_is_asked_where_there_are_no_claims() {
    let unneeded = json!({"resourceClaimStatuses": [{"name": "vfs"}], "extendedResourceClaimStatus": null});
    for object in [web(json!({})), web(json!({"resourceClaimStatuses": null})), web(unneeded)] {
        let api = FakeApi::with([("pod default/web", object)]);
        assert_eq!(added(&api, &[]).unwrap(), Supply::new());
        assert_eq!(*api.asked.borrow(), ["pod default/web"]);
    }
}

#[test]
fn a_claim_without_devices_is_a_failure() {
    let mut pending = claim(json!([]));
    pending["status"] = json!({});
    let broken = claim(json!([{"request": "vf", "driver": "d"}]));
    for (objects, word) in [
        (vec![("pod default/web", by_template())], "not there"),
        (vec![("pod default/web", by_template()), (CLAIM, pending)], "no device is allocated"),
        (vec![("pod default/web", by_template()), (CLAIM, broken)], "lacks"),
    ] {
        let failure = added(&FakeApi::with(objects), &[]).unwrap_err();
        assert!(failure.code == Code::Devices && failure.msg.contains(word), "{failure}");
        assert!(failure.msg.contains("default/web-vfs-x7k2p"), "{failure}");
    }
}

#[test]
fn another_pod_of_that_name_gets_nothing() {
    let mut other = by_template();
    other["metadata"]["uid"] = "u2".into();
    let failure = added(&FakeApi::with([("pod default/web", other.clone())]), &[]).unwrap_err();
    assert!(failure.code == Code::PodReplaced && failure.msg.contains("u2"), "{failure}");
    assert_eq!(added(&FakeApi::default(), &[]).unwrap_err().code, Code::PodMissing);
    other["metadata"]["annotations"]["kubernetes.io/config.source"] = "file".into();
    assert_eq!(added(&FakeApi::with([("pod default/web", other)]), &[]).unwrap(), Supply::new());
}

/// As the scheduler of Kubernetes 1.34 writes it for a container with `limits: {x.io/vf: 1}` (feature gate
/// DRAExtendedResource).
fn by_extended_resource() -> Value {
    web(json!({"extendedResourceClaimStatus": {
        "resourceClaimName": "web-vfs-x7k2p",
        "requestMappings": [{"containerName": "c", "resourceName": "x.io/vf", "requestName": "container-0-request-0"}]}}))
}

#[test]
fn an_extended_resource_under_its_own_name() {
    let results = json!([result("container-0-request-0", "sriov.example.com", "vf-1")]);
    let objects = [("pod default/web", by_extended_resource()), (CLAIM, claim(results)), (SLICES, vfs())];
    assert_eq!(added(&FakeApi::with(objects), &[]).unwrap(), supply(&[("x.io/vf", &["0000:03:02.1"])]));
}

#[test]
fn an_extended_resource_is_strict() {
    let request = "container-0-request-0";
    let slices = json!([slice(
        1,
        json!([
            device("other", Some("0000:03:02.9"), Some("x.io/pf")),
            device("idless", None, Some("x.io/vf")),
            device("nameless", Some("0000:03:02.2"), None)
        ])
    )]);
    for (result, word) in [
        (result("container-1-request-0", "sriov.example.com", "other"), request),
        (result(request, "sriov.example.com", "absent"), DEVICE_ID),
        (result(request, "sriov.example.com", "idless"), DEVICE_ID),
        (result(request, "sriov.example.com", "nameless"), RESOURCE),
        (result(request, "sriov.example.com", "other"), "x.io/pf, expected x.io/vf"),
    ] {
        let results = claim(json!([result]));
        let objects = [("pod default/web", by_extended_resource()), (CLAIM, results), (SLICES, slices.clone())];
        let failure = added(&FakeApi::with(objects), &[]).unwrap_err();
        assert!(failure.code == Code::Devices && failure.msg.contains(word), "{word}: {failure}");
    }
}
