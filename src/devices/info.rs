//! Device-info files: a device plugin describes its device in one, the pod's CNI plugin may find or write a copy of it
//! under a name that the pod's interface gives it, and the network status shows what is in there.
//!
//! The names are those of network-attachment-definition-client, which device plugins write with.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Places;
use crate::cni::json;
use crate::failpoint;
use crate::types::{Code, ContainerId, Failure, IfName, Outcome};

macro_rules! description {
    ($($(#[$doc:meta])* $type:ident { $($field:ident: $of:ty = $key:literal),* $(,)? })*) => {
        $($(#[$doc])*
        #[derive(Serialize, Deserialize)]
        struct $type {
            $(#[serde(rename = $key, default, skip_serializing_if = "Option::is_none")] $field: Option<$of>,)*
        })*
    };
}

// A wrong type in one member would make the whole network status unreadable to others, so nothing passes unread.
description! {
    /// Version 1.1.0 of the specification.
    DeviceInfo {
        kind: String = "type", version: String = "version", pci: Pci = "pci", vdpa: Vdpa = "vdpa",
        vhost_user: Vhost = "vhost-user", memif: Memif = "memif",
    }
    Pci {
        address: String = "pci-address", vhost_net: String = "vhost-net", rdma: String = "rdma-device",
        function: String = "pf-pci-address", representor: String = "representor-device",
    }
    Vdpa {
        parent: String = "parent-device", driver: String = "driver", path: String = "path",
        address: String = "pci-address", function: String = "pf-pci-address", representor: String = "representor-device",
    }
    Vhost { mode: String = "mode", path: String = "path" }
    Memif { role: String = "role", path: String = "path", mode: String = "mode" }
}

impl Places {
    /// The file of a pod's interface: `runtimeConfig.CNIDeviceInfoFile` of every network with a `deviceID`. The network
    /// is `NAMESPACE/NAME` of its NetworkAttachmentDefinition, or the configuration's own name.
    pub fn info_file(&self, network: &str, container: &ContainerId, ifname: &IfName) -> PathBuf {
        self.info.join("cni").join(plain(&format!("{network}-{container}_{ifname}")))
    }

    /// Hands what the device plugin wrote over to the pod's CNI plugin. `false`: the device plugin wrote nothing.
    pub fn copy_info(&self, resource: &str, device: &str, to: &Path) -> Outcome<bool> {
        let from = self.info.join("dp").join(format!("{}-{}-device.json", plain(resource), plain(device)));
        let Some(info) = read(&from)? else { return Ok(false) };
        let written = serde_json::to_vec(&info).map_err(io::Error::from).and_then(|text| write(to, &text));
        written.map_err(|e| failed("write", to, &e))?;
        failpoint::hit("device info copied");
        Ok(true)
    }
}

/// What the network status shows of the file, if there is one.
pub fn device_info(file: &Path) -> Outcome<Option<Value>> {
    let shown = read(file)?.map(serde_json::to_value).transpose();
    shown.map_err(|e| failed("read", file, &e.into()))
}

/// Removes the pod's file; gone is success.
pub fn forget_info(file: &Path) -> Outcome<()> {
    match fs::remove_file(file) {
        Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(failed("remove", file, &e))
        }
        _ => Ok(()),
    }
}

fn plain(name: &str) -> String {
    name.replace('/', "-")
}

fn read(path: &Path) -> Outcome<Option<DeviceInfo>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(failed("read", path, &e)),
    };
    let info = json::parse(&text).and_then(json::from_value);
    info.map(Some).map_err(|e| {
        Failure::new(Code::Devices, format!("device-info file {}: {e}", path.display()))
            .remedy("the device plugin, or the CNI plugin, wrote it wrongly")
    })
}

/// Under a temporary name first, so that a file of an earlier attempt is replaced and nobody reads a part. Readable by
/// all and writable by nobody, as the device plugins' own are; the original makes the directory without any right.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    let temporary = dir.join(format!(".{}.new", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let write = || -> io::Result<()> {
        OpenOptions::new().write(true).create_new(true).mode(0o444).open(&temporary)?.write_all(text)?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary)))
}

fn failed(act: &str, path: &Path, e: &io::Error) -> Failure {
    Failure::new(Code::Devices, format!("cannot {act} device-info file {}: {e}", path.display()))
        .remedy("the message has the errno")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    fn places() -> (tempfile::TempDir, Places) {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { info: dir.path().join("devinfo"), ..Places::default() };
        (dir, places)
    }

    fn file(places: &Places) -> PathBuf {
        places.info_file("default/sriov", &"c1".parse().unwrap(), &"net1".parse().unwrap())
    }

    fn published(places: &Places, text: &str) {
        fs::create_dir_all(places.info.join("dp")).unwrap();
        fs::write(places.info.join("dp/intel.com-vf-0000:03:02.3-device.json"), text).unwrap();
    }

    #[test]
    fn the_names_are_those_of_the_client_library() {
        let usual = Places::default();
        let path = usual.info_file("default/sriov", &"c1".parse().unwrap(), &"net1".parse().unwrap());
        assert_eq!(path, Path::new("/var/run/k8s.cni.cncf.io/devinfo/cni/default-sriov-c1_net1"));
    }

    #[test]
    fn a_device_plugins_file_is_handed_over_shown_and_removed() {
        let (_dir, places) = places();
        let file = file(&places);
        assert_eq!(device_info(&file).unwrap(), None);
        assert!(!places.copy_info("intel.com/vf", "0000:03:02.3", &file).unwrap() && !file.exists());
        published(
            &places,
            r#"{"type":"pci","version":"1.1.0","PCI":{"pci-address":"0000:03:02.3","new":1},"memif":null}"#,
        );
        assert!(places.copy_info("intel.com/vf", "0000:03:02.3", &file).unwrap());
        let shown = json!({"type": "pci", "version": "1.1.0", "pci": {"pci-address": "0000:03:02.3"}});
        assert_eq!(device_info(&file).unwrap(), Some(shown));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o444, 0o755));
        for _ in 0..2 {
            forget_info(&file).unwrap();
            assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 0);
        }
    }

    #[test]
    fn a_file_of_an_earlier_attempt_is_replaced() {
        let (_dir, places) = places();
        let file = file(&places);
        for kind in ["pci", "vdpa"] {
            published(&places, &format!(r#"{{"type":"{kind}"}}"#));
            assert!(places.copy_info("intel.com/vf", "0000:03:02.3", &file).unwrap());
            assert_eq!(device_info(&file).unwrap(), Some(json!({"type": kind})));
        }
    }

    #[test]
    fn a_file_that_a_plugin_wrote_is_shown_whole() {
        let (dir, _) = places();
        let path = dir.path().join("written");
        let all = json!({
            "type": "vdpa", "version": "1.1.0",
            "pci": {"pci-address": "a", "vhost-net": "b", "rdma-device": "c", "pf-pci-address": "d",
                    "representor-device": "e"},
            "vdpa": {"parent-device": "f", "driver": "g", "path": "h", "pci-address": "i", "pf-pci-address": "j",
                     "representor-device": "k"},
            "vhost-user": {"mode": "client", "path": "l"},
            "memif": {"role": "master", "path": "m", "mode": "ip"},
        });
        fs::write(&path, all.to_string()).unwrap();
        assert_eq!(device_info(&path).unwrap(), Some(all));
    }

    #[test]
    fn a_broken_file_is_a_failure_and_nothing_is_handed_over() {
        let (_dir, places) = places();
        let file = file(&places);
        for text in ["", r#"{"type":"#, "[]", r#"{"type":1}"#, r#"{"pci":"0000:03:02.3"}"#] {
            published(&places, text);
            let failure = places.copy_info("intel.com/vf", "0000:03:02.3", &file).unwrap_err();
            assert!(failure.code == Code::Devices && failure.msg.contains("intel.com-vf-0000:03:02.3"), "{failure}");
            assert!(!file.exists());
        }
        fs::create_dir_all(&file).unwrap();
        assert!(forget_info(&file).is_err() && device_info(&file).is_err());
    }
}
