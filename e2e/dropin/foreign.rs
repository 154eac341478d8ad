//! IPAM plugins that nobody knows, found in CNI_PATH and run by the protocol.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::{bridge_conf, ips};
use crate::harness::{Kind, Lab, both};

/// A directory with the plugin `ledger`, which writes down how it was called, and answers ADD with `answer`.
fn ledger(lab: &Lab, answer: &str, status: u8) -> String {
    let dir = lab.file("ledger-plugin");
    std::fs::create_dir_all(&dir).unwrap();
    let script = format!(
        r#"#!/bin/sh
cat > {dir}/stdin.$CNI_COMMAND
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_NETNS $CNI_ARGS" >> {dir}/calls
[ "$CNI_COMMAND" = ADD ] && {{ echo '{answer}'; exit {status}; }}
exit 0
"#
    );
    let file = format!("{dir}/ledger");
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    dir
}

const ANSWER: &str = r#"{"cniVersion": "1.0.0", "ips": [{"address": "10.66.0.5/24", "gateway": "10.66.0.1"}], "routes": [{"dst": "192.0.2.0/24"}], "dns": {"nameservers": ["192.0.2.53"]}}"#;

both! {
    /// It gets each verb once, with the runtime's environment and the whole configuration.
    fn life(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let dir = ledger(&lab, ANSWER, 0);
        let mut call = lab.call(kind, bridge_conf(&lab)).pod(&pod).path(&dir).args("IgnoreUnknown=1;K8S_POD_NAME=web");
        call = call.with("ipam", json!({"type": "ledger", "extra": {"a": [1]}})).with("isGateway", json!(true));
        let result = call.add();
        assert_eq!(ips(&result), ["10.66.0.5/24"]);
        assert_eq!(result["dns"], json!({"nameservers": ["192.0.2.53"]}));
        assert_eq!(pod.addresses("eth0"), ["10.66.0.5/24"]);
        assert_eq!(pod.routes(), ["192.0.2.0/24 via 10.66.0.1 dev eth0"]);
        call.check();
        call.del();
        let calls = std::fs::read_to_string(format!("{dir}/calls")).unwrap();
        let id = format!("id-{} eth0 {} IgnoreUnknown=1;K8S_POD_NAME=web", pod.name(), pod.netns());
        assert_eq!(calls.lines().collect::<Vec<_>>(), [format!("ADD {id}"), format!("CHECK {id}"), format!("DEL {id}")]);
        for verb in ["ADD", "CHECK", "DEL"] {
            let text = std::fs::read_to_string(format!("{dir}/stdin.{verb}")).unwrap();
            let seen: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&seen["name"], &seen["type"]), (&json!("net"), &json!("bridge")), "{verb}");
            assert_eq!(seen["ipam"], json!({"type": "ledger", "extra": {"a": [1]}}), "{verb}");
        }
        let checked = std::fs::read_to_string(format!("{dir}/stdin.CHECK")).unwrap();
        assert!(checked.contains("prevResult"));
    }

    /// Its own error comes through with its code.
    fn error_passes_through(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let dir = ledger(&lab, r#"{"cniVersion": "1.0.0", "code": 11, "msg": "the pool is being moved"}"#, 1);
        let call = lab.call(kind, bridge_conf(&lab)).pod(&pod).path(&dir).with("ipam", json!({"type": "ledger"}));
        let error = call.fails("ADD");
        assert_eq!(error.code, 11, "{error:?}");
        error.names(&["the pool is being moved"]);
        if kind == Kind::Trestle {
            assert_eq!(pod.names(), ["lo"], "ours leaves no link");
        }
    }

    /// It succeeds, but its answer is none, or has no address.
    fn useless_answers(kind: Kind) {
        for answer in ["", "{", "[]", r#"{"cniVersion": "1.0.0"}"#, r#"{"cniVersion": "1.0.0", "ips": []}"#, r#"{"cniVersion": "9.9.9", "ips": []}"#] {
            let lab = Lab::new();
            let pod = lab.pod();
            let dir = ledger(&lab, answer, 0);
            let call = lab.call(kind, bridge_conf(&lab)).pod(&pod).path(&dir).with("ipam", json!({"type": "ledger"}));
            call.fails("ADD");
            if kind == Kind::Trestle {
                assert_eq!(pod.names(), ["lo"], "{answer}");
                let calls = std::fs::read_to_string(format!("{dir}/calls")).unwrap();
                assert!(calls.lines().last().unwrap().starts_with("DEL "), "what it may have reserved is released: {calls}");
            }
        }
    }
}
