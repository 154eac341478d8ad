//! What every plugin answers to a runtime's mistakes.

use serde_json::json;

use super::bridge_conf;
use crate::harness::{Call, Kind, Lab, both};

const PROGRAMS: [&str; 4] = ["bridge", "macvlan", "host-local", "static"];

/// A call of each plugin that would succeed or at least get past the protocol.
fn each(kind: Kind, lab: &Lab, mut body: impl FnMut(Call, &str)) {
    let pod = lab.pod();
    for program in PROGRAMS {
        let conf = bridge_conf(lab);
        let call = Call::new(lab, kind.dir().join(program), conf).pod(&pod);
        body(call.with("type", json!(program)), program);
    }
}

both! {
    fn missing_variables(kind: Kind) {
        let lab = Lab::new();
        each(kind, &lab, |call, _| {
            for variable in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
                let error = call.clone().without(variable).fails("ADD");
                assert_eq!(error.code, 4, "{error:?}");
                error.names(&[variable]);
                assert_eq!(call.clone().env(variable, "").fails("ADD").code, 4, "an empty one counts as missing");
            }
            let all = call.without("CNI_CONTAINERID").without("CNI_IFNAME").without("CNI_PATH");
            all.fails("ADD").names(&["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]);
        });
    }

    fn bad_variables(kind: Kind) {
        let lab = Lab::new();
        each(kind, &lab, |call, _| {
            for id in ["../x", "a b", "-x", "a/b"] {
                assert_eq!(call.clone().id(id).fails("ADD").code, 4, "container id {id:?}");
            }
            for name in [".", "..", "a/b", "a:b", "a b", "sixteen-letters-"] {
                assert_eq!(call.clone().ifname(name).fails("ADD").code, 4, "interface name {name:?}");
            }
            let error = call.clone().fails("FLY");
            assert_eq!(error.code, 4);
            error.names(&["FLY"]);
        });
    }

    fn bad_input(kind: Kind) {
        let lab = Lab::new();
        each(kind, &lab, |call, program| {
            for (text, code) in [("", 6), ("{", 6), ("[]", 6), ("\"x\"", 6), ("null", 7)] {
                assert_eq!(call.clone().stdin(text).fails("ADD").code, code, "{program} {text:?}");
            }
            assert_eq!(call.clone().with("name", json!(null)).fails("ADD").code, 7);
            assert_eq!(call.clone().with("name", json!("a/b")).fails("ADD").code, 7);
            assert_eq!(call.clone().with("name", json!(7)).fails("ADD").code, 6);
            for version in ["1.0", "2.0.0", "0.5.0", "x"] {
                assert_eq!(call.clone().with("cniVersion", json!(version)).fails("ADD").code, 1, "{program} {version}");
            }
        });
    }

    /// The environment is looked at before standard input.
    fn environment_first(kind: Kind) {
        let lab = Lab::new();
        each(kind, &lab, |call, _| {
            assert_eq!(call.stdin("{").without("CNI_IFNAME").fails("ADD").code, 4);
        });
    }

    /// CNI_ARGS: unknown keys need IgnoreUnknown, each pair one equals sign.
    fn arguments(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let call = lab.call(kind, bridge_conf(&lab)).pod(&pod);
        for bad in ["K8S_POD_NAME=x", "IgnoreUnknown=1;FOO", "IgnoreUnknown=maybe;FOO=1"] {
            assert_eq!(call.clone().args(bad).fails("ADD").code, 999, "{bad}");
        }
        let mut call = call.args("IgnoreUnknown=true;K8S_POD_NAME=x;FOO=bar");
        call.add();
        call.del();
    }

    /// Keys of the configuration match in any case of letters, and the last of two wins.
    fn keys_in_any_case(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let text = format!(
            r#"{{"CNIVERSION": "1.0.0", "Name": "net", "TYPE": "bridge", "bridge": "br7", "BRIDGE": "br0", "ISGATEWAY": true,
                "IPAM": {{"Type": "host-local", "DATADIR": "{}", "Ranges": [[{{"SUBNET": "10.1.2.0/24"}}]]}}}}"#,
            lab.store()
        );
        let call = lab.call(kind, bridge_conf(&lab)).pod(&pod).stdin(text);
        assert_eq!(call.run("ADD").ok()["ips"][0]["address"], "10.1.2.2/24");
        assert_eq!(lab.node.addresses("br0"), ["10.1.2.1/24"]);
        assert!(lab.node.find("br7").is_none());
        call.del();
    }
}
