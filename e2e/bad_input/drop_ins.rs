//! Values of the drop-in types. Their originals refuse them all, with 999 whatever it is; ours name the key.

use serde_json::{Value, json};

use super::changed;
use crate::attachment::wire;
use crate::harness::{Call, Kind, Lab, Netns, both, store_files};

fn call<'l>(lab: &'l Lab, pod: &Netns, kind: Kind, plugin: &str) -> Call<'l> {
    let mut conf = wire(lab);
    conf["type"] = json!(plugin);
    if plugin == "macvlan" {
        conf["master"] = json!("nic0");
        conf.as_object_mut().unwrap().remove("bridge");
    }
    lab.call(kind, conf).pod(pod)
}

fn check(kind: Kind, plugin: &str, rows: Vec<(&str, Value, &str)>) {
    let (lab, _lan) = Lab::with_lan();
    let _far = crate::attachment::nic(&lab, "nic0");
    let pod = lab.pod();
    for (path, value, word) in rows {
        let what = format!("{plugin} {path} {value}");
        let error = changed(&call(&lab, &pod, kind, plugin), path, value).fails("ADD");
        assert_eq!(error.code, 999, "{what}: {error:?}");
        assert!(store_files(&lab.store()).is_empty(), "{what}");
        if kind == Kind::Trestle {
            error.names(&[word]);
            assert_eq!(pod.names(), ["lo"], "{what}");
            assert!(lab.journal().is_empty(), "{what}");
        }
    }
}

both! {
    fn bridge(kind: Kind) {
        check(kind, "bridge", vec![
            ("mtu", json!("1400"), "mtu"),
            ("mtu", json!(70000), "mtu"),
            ("isGateway", json!("yes"), "isGateway"),
            ("ipMasq", json!(1), "ipMasq"),
            ("bridge", json!(7), "bridge"),
            ("vlan", json!(-1), "vlan"),
            ("vlan", json!(4095), "vlan"),
            ("vlanTrunk", json!([{"minID": 1}]), "maxID"),
            ("vlanTrunk", json!([{"minID": 9, "maxID": 3}]), "vlanTrunk"),
            ("runtimeConfig/mac", json!("0a:58:0a:01:02"), "mac"),
            ("runtimeConfig/mac", json!("01:00:5e:00:00:01"), "mac"),
            ("args/cni/mac", json!("zz"), "mac"),
            ("ipam", json!("host-local"), "ipam"),
            ("ipam", json!({"type": "no-such-plugin"}), "no-such-plugin"),
            ("ipam/ranges", json!([[{"subnet": "x"}]]), "subnet"),
            ("dns", json!("x"), "dns"),
        ]);
    }

    fn bridge_contradictions(kind: Kind) {
        let (lab, _lan) = Lab::with_lan();
        let pod = lab.pod();
        let base = call(&lab, &pod, kind, "bridge");
        let both = base.clone().with("hairpinMode", json!(true)).with("promiscMode", json!(true));
        both.fails("ADD").names(if kind == Kind::Trestle { &["hairpinMode", "promiscMode"] } else { &[] });
        let down = base.with("disableContainerInterface", json!(true));
        down.fails("ADD").names(if kind == Kind::Trestle { &["disableContainerInterface"] } else { &[] });
    }

    fn macvlan(kind: Kind) {
        check(kind, "macvlan", vec![
            ("master", json!(7), "master"),
            ("master", json!("no-such-nic"), "no-such-nic"),
            ("mode", json!("tunnel"), "tunnel"),
            ("mode", json!(1), "mode"),
            ("mtu", json!(-1), "mtu"),
            ("mtu", json!(9000), "mtu"),
            ("mac", json!("zz"), "mac"),
            ("linkInContainer", json!("yes"), "linkInContainer"),
            ("ipam/type", json!(7), "ipam"),
        ]);
    }
}
