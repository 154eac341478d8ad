//! Type `static`, called by itself and under bridge.

use serde_json::{Value, json};

use super::{bridge_conf, ips};
use crate::harness::{Kind, Lab, Netns, both};

fn conf(addresses: Value) -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "type": "static", "ipam": {"type": "static", "addresses": addresses}})
}

/// Addresses that ADD gives for a configuration and CNI_ARGS.
fn given(lab: &Lab, pod: &Netns, kind: Kind, conf: Value, args: &str) -> Value {
    let mut call = lab.call(kind, conf).pod(pod).args(args);
    let result = call.add();
    call.check();
    call.del();
    result
}

both! {
    fn addresses_gateways_routes_dns(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let mut conf = conf(json!([{"address": "10.1.2.9/24", "gateway": "10.1.2.1"}, {"address": "2001:db8:42::9/64"}]));
        conf["ipam"]["routes"] = json!([{"dst": "192.0.2.0/24", "gw": "10.1.2.1"}]);
        conf["ipam"]["dns"] = json!({"nameservers": ["192.0.2.53"], "search": ["x"]});
        let result = given(&lab, &pod, kind, conf, "IgnoreUnknown=1");
        assert_eq!(ips(&result), ["10.1.2.9/24", "2001:db8:42::9/64"]);
        assert_eq!(result["ips"][0]["gateway"], "10.1.2.1");
        assert!(result["ips"][1].get("gateway").is_none());
        assert_eq!(result["routes"], json!([{"dst": "192.0.2.0/24", "gw": "10.1.2.1"}]));
        assert_eq!(result["dns"], json!({"nameservers": ["192.0.2.53"], "search": ["x"]}));
    }

    /// CNI_ARGS are appended; args.cni replace both; runtimeConfig replaces all.
    fn precedence(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let mut conf = conf(json!([{"address": "10.1.2.9/24"}]));
        let args = "IgnoreUnknown=1;IP=10.1.2.10/24,10.1.3.11/24;GATEWAY=10.1.3.1";
        let result = given(&lab, &pod, kind, conf.clone(), args);
        assert_eq!(ips(&result), ["10.1.2.9/24", "10.1.2.10/24", "10.1.3.11/24"]);
        assert_eq!(result["ips"][2]["gateway"], "10.1.3.1");
        conf["args"] = json!({"cni": {"ips": ["10.1.2.12/24"]}});
        assert_eq!(ips(&given(&lab, &pod, kind, conf.clone(), "IgnoreUnknown=1")), ["10.1.2.12/24"]);
        conf["runtimeConfig"] = json!({"ips": ["10.1.2.13/24", "10.1.2.14/24"]});
        assert_eq!(ips(&given(&lab, &pod, kind, conf, args)), ["10.1.2.13/24", "10.1.2.14/24"]);
    }

    fn under_bridge(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let ipam = json!({"type": "static", "addresses": [{"address": "10.1.2.9/24", "gateway": "10.1.2.1"}]});
        let mut call = lab.call(kind, bridge_conf(&lab)).pod(&pod).with("ipam", ipam).with("isDefaultGateway", json!(true));
        assert_eq!(ips(&call.add()), ["10.1.2.9/24"]);
        assert_eq!(pod.addresses("eth0"), ["10.1.2.9/24"]);
        assert_eq!(pod.routes(), ["default via 10.1.2.1 dev eth0"]);
        call.check();
        call.del();
    }

    fn malformed(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        for bad in ["10.1.2.9", "10.1.2.300/24", "x"] {
            let error = lab.call(kind, conf(json!([{"address": bad}]))).pod(&pod).fails("ADD");
            assert_eq!(error.code, 999);
            error.names(&[bad]);
        }
    }
}
