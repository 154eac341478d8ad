//! The file in which kubelet's device manager remembers what it gave to whom, across its own restarts.
//!
//! Not an interface that anybody promised, so it is read only where there is no socket; the checksum is Go's print of
//! a Go struct, and is not looked at.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::{Supply, put};
use crate::types::{Code, Failure, Outcome, PodRef};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    data: Data,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    // Go writes null for an empty list.
    pod_device_entries: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    resource_name: String,
    #[serde(rename = "DeviceIDs", default)]
    device_ids: Option<Ids>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    ByNumaNode(BTreeMap<String, Option<Vec<String>>>),
    /// Before Kubernetes 1.20.
    Plain(Vec<String>),
}

impl Ids {
    fn all(self) -> Vec<String> {
        match self {
            Self::ByNumaNode(nodes) => nodes.into_values().flatten().flatten().collect(),
            Self::Plain(ids) => ids,
        }
    }
}

/// By UID: the file knows no names.
pub(super) fn read(path: &Path, pod: &PodRef) -> Outcome<Supply> {
    let failed = |why: String| {
        Failure::new(Code::Devices, format!("kubelet's checkpoint {}: {why}", path.display())).remedy(
            "kubelet's pod-resources socket is not there, and the checkpoint takes its place: look after kubelet",
        )
    };
    let Some(uid) = pod.uid.as_deref().filter(|uid| !uid.is_empty()) else {
        return Err(failed(format!("it goes by UIDs, and the runtime did not give that of pod {pod}")));
    };
    let bytes = fs::read(path).map_err(|e| failed(e.to_string()))?;
    let file: File = serde_json::from_slice(&bytes).map_err(|e| failed(e.to_string()))?;
    let mut supply = Supply::new();
    for entry in file.data.pod_device_entries.unwrap_or_default() {
        if entry.pod_uid == uid {
            put(&mut supply, &entry.resource_name, entry.device_ids.map(Ids::all).unwrap_or_default());
        }
    }
    Ok(supply)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::devices::testing::{pod, supply};

    /// As kubelet 1.34 writes it: one container beside two, one of them on two NUMA nodes.
    const TEXT: &str = r#"{"Data":{"PodDeviceEntries":[
        {"PodUID":"u1","ContainerName":"a","ResourceName":"x.io/vf","DeviceIDs":{"1":["0000:03:02.7"],"0":["0000:03:02.3"]},"AllocResp":"CgA="},
        {"PodUID":"u2","ContainerName":"a","ResourceName":"x.io/vf","DeviceIDs":{"0":["0000:03:02.1"]},"AllocResp":""},
        {"PodUID":"u1","ContainerName":"b","ResourceName":"x.io/vf","DeviceIDs":{"-1":["0000:03:02.2","0000:03:02.3"]},"AllocResp":""},
        {"PodUID":"u1","ContainerName":"b","ResourceName":"x.io/gpu","DeviceIDs":{"0":null},"AllocResp":""},
        {"PodUID":"u3","ContainerName":"b","ResourceName":"x.io/vf","DeviceIDs":["old"],"AllocResp":""}],
        "RegisteredDevices":{"x.io/vf":["0000:03:02.1"]}},"Checksum":1957216364}"#;

    fn written(text: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubelet_internal_checkpoint");
        fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn the_devices_of_one_pod_by_uid() {
        let (_dir, path) = written(TEXT.as_bytes());
        let vfs = ["0000:03:02.2", "0000:03:02.3", "0000:03:02.7"];
        assert_eq!(read(&path, &pod("u1")).unwrap(), supply(&[("x.io/vf", &vfs), ("x.io/gpu", &[])]));
        assert_eq!(read(&path, &pod("u3")).unwrap(), supply(&[("x.io/vf", &["old"])]));
        assert_eq!(read(&path, &pod("another")).unwrap(), Supply::new());
        let (_dir, empty) = written(br#"{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{}},"Checksum":1}"#);
        assert_eq!(read(&empty, &pod("u1")).unwrap(), Supply::new());
    }

    #[test]
    fn what_cannot_be_read_is_a_failure_that_names_the_file() {
        let (dir, path) = written(b"");
        let nameless = PodRef { uid: None, ..pod("u1") };
        let absent = dir.path().join("absent");
        for (path, pod) in [(&path, pod("u1")), (&absent, pod("u1")), (&path, nameless), (&path, pod(""))] {
            let failure = read(path, &pod).unwrap_err();
            assert!(failure.code == Code::Devices && failure.msg.contains(path.to_str().unwrap()), "{failure}");
        }
    }

    proptest! {
        #[test]
        fn a_torn_file_is_a_failure(len in 0..TEXT.len()) {
            let (_dir, path) = written(&TEXT.as_bytes()[..len]);
            prop_assert_eq!(read(&path, &pod("u1")).unwrap_err().code, Code::Devices);
        }
    }
}
