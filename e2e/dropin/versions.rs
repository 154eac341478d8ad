//! Each version of the protocol: the shape of results, and the verbs that it has.

use serde_json::{Value, json};

use super::{bridge_conf, host_local};
use crate::harness::{Kind, Lab, VERSIONS, both};

/// What each version calls an IPv4 address of a result.
#[track_caller]
fn has_address(result: &Value, version: &str, address: &str) {
    assert_eq!(result["cniVersion"], version);
    if version <= "0.2.0" {
        assert_eq!(result["ip4"]["ip"], address, "{result}");
        assert_eq!(result.get("ips"), None, "{result}");
        return;
    }
    assert_eq!(result["ips"][0]["address"], address, "{result}");
    let tagged = version < "1.0.0";
    assert_eq!(result["ips"][0].get("version"), tagged.then_some(&json!("4")), "{version}: {result}");
}

both! {
    fn bridge_life(kind: Kind) {
        let lab = Lab::new();
        for version in VERSIONS {
            let pod = lab.pod();
            let mut call = lab.call(kind, bridge_conf(&lab)).pod(&pod).with("cniVersion", json!(version));
            let result = call.add();
            has_address(&result, version, &pod.addresses("eth0")[0]);
            assert_eq!(result.get("interfaces").is_some(), version >= "0.3.0");
            if version >= "0.4.0" {
                call.check();
            } else {
                assert_eq!(call.fails("CHECK").code, 1);
            }
            call.del();
            assert!(pod.find("eth0").is_none());
        }
    }

    fn macvlan_life(kind: Kind) {
        let lab = Lab::new();
        lab.node.run("ip link add nic0 type bridge");
        for version in VERSIONS {
            let pod = lab.pod();
            let conf = json!({
                "cniVersion": version, "name": "net", "type": "macvlan", "master": "nic0",
                "ipam": host_local(&lab, "10.1.2.0/24"),
            });
            let mut call = lab.call(kind, conf).pod(&pod);
            has_address(&call.add(), version, &pod.addresses("eth0")[0]);
            if version >= "0.4.0" {
                call.check();
            }
            call.del();
            assert!(pod.find("eth0").is_none());
        }
    }

    fn ipam_results(kind: Kind) {
        let lab = Lab::new();
        for version in VERSIONS {
            let pod = lab.pod();
            let conf = json!({
                "cniVersion": version, "name": version, "type": "host-local", "ipam": host_local(&lab, "10.1.2.0/24"),
            });
            let mut call = lab.call(kind, conf).pod(&pod);
            has_address(&call.add(), version, "10.1.2.2/24");
            call.del();
        }
    }

    /// STATUS and GC came with 1.1.0.
    fn status_and_gc(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        for version in VERSIONS {
            for verb in ["STATUS", "GC"] {
                let call = lab.call(kind, bridge_conf(&lab)).pod(&pod).with("cniVersion", json!(version));
                let call = call.with("cni.dev/valid-attachments", json!([]));
                if version == "1.1.0" {
                    call.run(verb).nothing();
                } else {
                    assert_eq!(call.fails(verb).code, 1, "{verb} {version}");
                }
            }
        }
    }

    /// VERSION lists them all, whatever it is asked with.
    fn version(kind: Kind) {
        let lab = Lab::new();
        for program in ["bridge", "macvlan", "host-local", "static"] {
            let told = lab.call(kind, json!({"cniVersion": "1.0.0", "type": program})).run("VERSION").ok();
            assert_eq!(told["supportedVersions"], json!(VERSIONS), "{program}");
        }
    }

    /// A result of one version is deleted in another, as after an upgrade of the node's configuration.
    fn upgrade(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let mut call = lab.call(kind, bridge_conf(&lab)).pod(&pod).with("cniVersion", json!("0.4.0"));
        call.add();
        call.with("cniVersion", json!("1.1.0")).prev(None).del();
        assert!(pod.find("eth0").is_none());
    }
}
