//! Values of `type: trestle`: wrong types, out of range, malformed, contradicting.

use serde_json::{Value, json};

use super::{Table, changed, plain_wire};
use crate::harness::Lab;
use crate::machine::bind;

/// Every row: a member, a value that it cannot have, and the word that the message must say.
fn check(rows: Vec<(&str, Value, &str)>, code: u64) {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let table = Table::new(&lab, &pod);
    let call = plain_wire(&lab, &pod);
    for (path, value, word) in rows {
        table.refused(&changed(&call, path, value), "ADD", code, &[word]);
    }
    table.end();
}

#[test]
fn links() {
    let long = "sixteen-letters-";
    check(
        vec![
            ("bridge", json!(7), "bridge"),
            ("bridge", json!(["br-lan"]), "bridge"),
            ("bridge", json!({"name": "br-lan"}), "bridge"),
            ("bridge", json!("a/b"), "bridge"),
            ("bridge", json!("a b"), "bridge"),
            ("bridge", json!(".."), "bridge"),
            ("bridge", json!(long), "bridge"),
            ("master", json!(true), "master"),
            ("master", json!(long), "master"),
            ("master", json!("x\ny"), "master"),
            ("mode", json!("tunnel"), "mode"),
            ("mode", json!(1), "mode"),
        ],
        7,
    );
}

#[test]
fn numbers() {
    check(
        vec![
            ("mtu", json!("1500"), "mtu"),
            ("mtu", json!(-1), "mtu"),
            ("mtu", json!(1500.5), "mtu"),
            ("mtu", json!(1e300), "mtu"),
            ("mtu", json!(u64::MAX), "mtu"),
            ("mtu", json!(20), "mtu"),
            ("mtu", json!(70000), "mtu"),
            ("vlan", json!("7"), "vlan"),
            ("vlan", json!(-1), "vlan"),
            ("vlan", json!(4095), "vlan"),
            ("vlan", json!(1u64 << 40), "vlan"),
            ("vlanTrunk", json!("7"), "vlanTrunk"),
            ("vlanTrunk", json!(7), "vlanTrunk"),
            ("vlanTrunk", json!([7]), "vlanTrunk"),
            ("vlanTrunk", json!([{"id": 0}]), "vlanTrunk"),
            ("vlanTrunk", json!([{"id": 4095}]), "vlanTrunk"),
            ("vlanTrunk", json!([{"minID": 9, "maxID": 3}]), "vlanTrunk"),
            ("vlanTrunk", json!([{"minID": 9}]), "maxID"),
            ("vlanTrunk", json!([{"maxID": 9}]), "minID"),
            ("vlanTrunk", json!([{"id": 5}, {}]), "vlanTrunk"),
        ],
        7,
    );
}

#[test]
fn switches() {
    let keys = ["preserveDefaultVlan", "portIsolation", "hairpinMode", "macspoofchk", "acceptRA"];
    let rows =
        keys.iter().flat_map(|key| [(*key, json!("yes"), *key), (*key, json!(1), *key), (*key, json!([]), *key)]);
    check(rows.collect(), 7);
}

#[test]
fn macs() {
    check(
        vec![
            ("mac", json!("zz"), "mac"),
            ("mac", json!(7), "mac"),
            ("mac", json!("0a:58:0a:01:02"), "mac"),
            ("mac", json!("01:00:5e:00:00:01"), "mac"),
            ("mac", json!("00:00:00:00:00:00"), "mac"),
            ("runtimeConfig/mac", json!("zz"), "runtimeConfig.mac"),
            ("runtimeConfig/mac", json!({}), "runtimeConfig.mac"),
            ("runtimeConfig/mac", json!("ff:ff:ff:ff:ff:ff"), "runtimeConfig.mac"),
            ("args/cni/mac", json!("0a:58:0a:01:02:03:04:05"), "args.cni.mac"),
            ("args/cni", json!("x"), "args.cni"),
            ("args", json!([]), "args"),
            ("runtimeConfig", json!("x"), "runtimeConfig"),
        ],
        7,
    );
}

#[test]
fn addresses_and_names() {
    check(
        vec![
            ("runtimeConfig/ips", json!("10.1.2.9"), "runtimeConfig.ips"),
            ("runtimeConfig/ips", json!([7]), "runtimeConfig.ips"),
            ("runtimeConfig/ips", json!(["10.1.2.300"]), "10.1.2.300"),
            ("args/cni/ips", json!(["x"]), "x"),
            ("dns", json!("192.0.2.53"), "dns"),
            ("dns/nameservers", json!("192.0.2.53"), "dns.nameservers"),
            ("dns/search", json!([1]), "dns.search"),
        ],
        7,
    );
}

#[test]
fn ipam() {
    check(
        vec![
            ("ipam", json!("host-local"), "ipam"),
            ("ipam", json!([]), "ipam"),
            ("ipam/type", json!("../host-local"), "ipam.type"),
            ("ipam/ranges", json!([]), "range"),
            ("ipam/ranges", json!([[]]), "range"),
            ("ipam/ranges", json!("10.1.2.0/24"), "ranges"),
            ("ipam/ranges", json!([[{"subnet": "10.1.2.0"}]]), "subnet"),
            ("ipam/ranges", json!([[{"subnet": "10.1.2.0/33"}]]), "subnet"),
            ("ipam/ranges", json!([[{"subnet": "10.1.2.0/31"}]]), "10.1.2.0/31"),
            ("ipam/ranges", json!([[{"subnet": "10.1.2.0/24", "rangeStart": "10.9.9.9"}]]), "10.9.9.9"),
            ("ipam/ranges", json!([[{"subnet": "10.1.2.0/24", "gateway": "x"}]]), "gateway"),
            ("ipam/ranges", json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.2.0/25"}]]), "overlap"),
            ("ipam/dataDir", json!(7), "dataDir"),
            ("ipam/routes", json!([{"dst": "192.0.2.0"}]), "dst"),
            ("ipam/routes", json!([{"dst": "192.0.2.0/24", "gw": "x"}]), "gw"),
            ("ipam", json!({"type": "static", "addresses": [{"address": "10.1.2.9"}]}), "10.1.2.9"),
            ("ipam", json!({"type": "static", "addresses": "10.1.2.9/24"}), "addresses"),
            ("ipam", json!({"type": "static", "addresses": [{"address": "10.1.2.9/24", "gateway": "x"}]}), "gateway"),
        ],
        7,
    );
}

/// Ranges without a type: the pod would come up without an address, and nobody would know why.
#[test]
fn ipam_without_type() {
    let ranges = json!({"ranges": [[{"subnet": "10.1.2.0/24"}]]});
    check(vec![("ipam", ranges, "ipam.type"), ("ipam/type", json!(7), "ipam.type")], 7);
}

/// An IPAM plugin that nobody has, and one without an address.
#[test]
fn ipam_without_a_plugin_or_an_address() {
    check(vec![("ipam/type", json!("no-such-plugin"), "no-such-plugin")], 5);
    check(vec![("ipam", json!({"type": "static"}), "address")], 100);
}

/// The pod's annotations are a map of texts.
#[test]
fn annotations() {
    let key = "io.kubernetes.cri.pod-annotations";
    let path = format!("runtimeConfig/{key}");
    check(vec![(&path, json!("x"), key), (&path, json!(["x"]), key), (&path, json!({"a": 7}), key)], 7);
}

/// CHECK with a previous result that is none. (Ours has its journal and can do without any.)
#[test]
fn previous_result() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut call = plain_wire(&lab, &pod);
    call.add();
    let table = Table::new(&lab, &pod);
    let none = call.clone().prev(None);
    for bad in [
        json!("x"),
        json!([]),
        json!({"cniVersion": "1.0.0", "ips": "10.1.2.2/24"}),
        json!({"cniVersion": "1.0.0", "ips": [{"address": "10.1.2.2"}]}),
        json!({"cniVersion": "1.0.0", "interfaces": [{"name": 7}]}),
    ] {
        table.refused(&none.clone().with("prevResult", bad), "CHECK", 7, &["prevResult"]);
    }
    table.refused(&none.with("prevResult", json!({"cniVersion": "9.9.9"})), "CHECK", 1, &["prevResult", "9.9.9"]);
    call.check();
    table.end();
}

/// GC's list decides what lives: a malformed one collects nothing.
#[test]
fn list_of_gc() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut call = plain_wire(&lab, &pod).with("cniVersion", json!("1.1.0"));
    call.add();
    let table = Table::new(&lab, &pod);
    std::thread::sleep(std::time::Duration::from_millis(25));
    for bad in [
        json!("x"),
        json!({}),
        json!(["x"]),
        json!([{}]),
        json!([{"containerID": 7, "ifname": "net1"}]),
        json!([{"containerID": "x"}]),
        json!([{"containerID": "../x", "ifname": "net1"}]),
    ] {
        let gc = call.clone().with("cni.dev/valid-attachments", bad);
        table.refused(&gc, "GC", 7, &["valid-attachments"]);
    }
    call.check();
    table.end();
}

/// Values of the bind step.
#[test]
fn bind_step() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let table = Table::new(&lab, &pod);
    let call = bind(&lab, &pod);
    for (path, value, word) in [
        ("args/cni/logicNetworkName", json!(7), "logicNetworkName"),
        ("args/cni/logicNetworkName", json!(["lan"]), "logicNetworkName"),
        ("args/cni", json!("lan"), "args.cni"),
        ("mtu", json!(1400), "mtu"),
        ("ipam", json!({"type": "static"}), "ipam"),
    ] {
        table.refused(&changed(&call, path, value), "ADD", 7, &[word]);
    }
    table.end();
}
