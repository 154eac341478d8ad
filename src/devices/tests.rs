use crate::net::testing::block_on;
use serde_json::json;

use super::testing::{Does, FakeApi, kubelet, pod};
use super::*;
use crate::types::Code;

/// Pod `u1` has devices b and a of x.io/vf.
fn checkpoint(dir: &std::path::Path) -> Places {
    let places = Places {
        socket: dir.join("kubelet.sock"),
        checkpoint: dir.join("kubelet_internal_checkpoint"),
        info: dir.join("devinfo"),
    };
    let text = json!({"Data": {"PodDeviceEntries": [{"PodUID": "u1", "ContainerName": "c", "ResourceName": "x.io/vf",
        "DeviceIDs": {"0": ["b", "a"]}, "AllocResp": ""}], "RegisteredDevices": {}}, "Checksum": 1});
    std::fs::write(&places.checkpoint, text.to_string()).unwrap();
    places
}

#[test]
fn one_device_for_each_network_in_order_and_then_none() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let (places, pod) = (checkpoint(dir.path()), pod("u1"));
        let mut devices = Devices::<FakeApi>::new(&pod, &places, None);
        for expected in [Some("a"), Some("b"), None, None] {
            assert_eq!(devices.take("x.io/vf").await.unwrap().as_deref(), expected);
        }
        assert_eq!(devices.take("x.io/other").await.unwrap(), None);
    });
}

#[test]
fn nobody_is_asked_before_a_network_needs_a_device() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { socket: dir.path().join("s"), checkpoint: dir.path().join("c"), info: dir.path().into() };
        let (pod, api) = (pod("u1"), FakeApi::default());
        let mut devices = Devices::new(&pod, &places, Some(&api));
        assert_eq!(devices.take("").await.unwrap(), None);
        assert!(api.asked.borrow().is_empty());
        assert_eq!(devices.take("x.io/vf").await.unwrap_err().code, Code::Devices);
    });
}

#[test]
fn the_socket_goes_before_the_checkpoint() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let (places, pod) = (checkpoint(dir.path()), pod("u1"));
        kubelet(dir.path(), vec![Does::Answers(Vec::new())]);
        let mut devices = Devices::<FakeApi>::new(&pod, &places, None);
        assert_eq!(devices.take("x.io/vf").await.unwrap(), None);
    });
}

#[test]
fn claims_are_added_once_for_all_networks() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let (places, pod) = (checkpoint(dir.path()), pod("u1"));
        let attributes = json!({"k8s.cni.cncf.io/deviceID": {"string": "aa"},
                                "k8s.cni.cncf.io/resourceName": {"string": "x.io/vf"}});
        let api = FakeApi::with([
            (
                "pod default/web",
                json!({"metadata": {"uid": "u1"}, "spec": {"nodeName": "n"},
                "status": {"resourceClaimStatuses": [{"name": "r", "resourceClaimName": "k"}]}}),
            ),
            (
                "claim default/k",
                json!({"status": {"allocation": {"devices": {"results": [
                {"request": "r", "driver": "d", "pool": "p", "device": "0"}]}}}}),
            ),
            (
                "slices n d",
                json!([{"spec": {"driver": "d", "pool": {"name": "p"}, "devices": [
                {"name": "0", "attributes": attributes}]}}]),
            ),
        ]);
        let mut devices = Devices::new(&pod, &places, Some(&api));
        for expected in [Some("a"), Some("aa"), Some("b"), None] {
            assert_eq!(devices.take("x.io/vf").await.unwrap().as_deref(), expected);
        }
        assert_eq!(api.asked.borrow().len(), 3);
    });
}
