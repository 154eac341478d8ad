//! MACs, addresses and routes of a plain pod.

use serde_json::{Value, json};

use super::{in_sandbox, plain};
use crate::harness::{Lab, store_files};

const MACS: [&str; 4] = ["0a:58:0a:01:02:03", "0a:58:0a:01:02:04", "0a:58:0a:01:02:05", "0a:58:0a:01:02:06"];

/// runtimeConfig > args.cni > CNI_ARGS > `mac` > random.
#[test]
fn mac_precedence() {
    let (lab, _lan) = Lab::with_lan();
    for asked in 0..5 {
        let pod = lab.pod();
        let mut call = plain(&lab, &pod);
        if asked == 0 {
            call = call.with("runtimeConfig", json!({"mac": MACS[0]}));
        }
        if asked <= 1 {
            call = call.with("args", json!({"cni": {"mac": MACS[1]}}));
        }
        if asked <= 2 {
            call = call.args(&format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1;MAC={}", MACS[2]));
        }
        if asked <= 3 {
            call = call.with("mac", json!(MACS[3]));
        }
        let result = call.add();
        let mac = pod.link("net1").mac;
        assert_eq!(in_sandbox(&result)["mac"], json!(mac));
        assert_eq!(MACS.get(asked).copied().unwrap_or(&mac), mac);
        call.check();
        call.del();
    }
}

/// A plain pod's MAC is another one each time: locally administered, for one station.
#[test]
fn random_mac() {
    let (lab, _lan) = Lab::with_lan();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let pod = lab.pod();
        plain(&lab, &pod).add();
        let mac = pod.link("net1").mac;
        let first = u8::from_str_radix(&mac[..2], 16).unwrap();
        assert_eq!(first & 3, 2, "{mac}");
        assert!(seen.insert(mac));
    }
}

/// Addresses that were asked for: runtimeConfig.ips > args.cni > CNI_ARGS, from host-local's range.
#[test]
fn requested_of_host_local() {
    let (lab, _lan) = Lab::with_lan();
    let arguments = "IgnoreUnknown=1;K8S_POD_NAME=web-1;K8S_POD_NAMESPACE=default;IP=10.1.2.52";
    for (asked, address) in ["10.1.2.50/24", "10.1.2.51/24", "10.1.2.52/24"].iter().enumerate() {
        let pod = lab.pod();
        let mut call = plain(&lab, &pod).args(arguments);
        if asked <= 1 {
            call = call.with("args", json!({"cni": {"ips": ["10.1.2.51"]}}));
        }
        if asked == 0 {
            call = call.with("runtimeConfig", json!({"ips": ["10.1.2.50/24"]}));
        }
        let result = call.add();
        assert_eq!(result["ips"][0]["address"], *address, "{result}");
        assert_eq!(pod.addresses("net1"), [*address]);
        call.check();
        call.del();
    }
}

/// Without `ipam` they are set as static ones.
#[test]
fn requested_without_ipam() {
    let (lab, _lan) = Lab::with_lan();
    let ways: [(&str, Value); 2] = [
        ("runtimeConfig", json!({"ips": ["10.9.0.5/16", "2001:db8:9::5/64"]})),
        ("args", json!({"cni": {"ips": ["10.9.0.5/16", "2001:db8:9::5/64"]}})),
    ];
    for (key, value) in ways {
        let pod = lab.pod();
        let mut call = plain(&lab, &pod).with("ipam", json!(null)).with(key, value);
        let result = call.add();
        assert_eq!(result["ips"].as_array().unwrap().len(), 2, "{result}");
        assert_eq!(pod.addresses("net1"), ["10.9.0.5/16", "2001:db8:9::5/64"]);
        call.check();
        call.del();
    }
    let pod = lab.pod();
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1;IP=10.9.0.6/16";
    plain(&lab, &pod).with("ipam", json!(null)).args(args).add();
    assert_eq!(pod.addresses("net1"), ["10.9.0.6/16"]);
    assert!(store_files(&lab.store()).is_empty());
}

#[test]
fn routes_of_ipam() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut call = plain(&lab, &pod);
    let mut ipam = call.conf()["ipam"].clone();
    ipam["routes"] = json!([{"dst": "192.0.2.0/24"}, {"dst": "0.0.0.0/0"}]);
    call = call.with("ipam", ipam);
    call.add();
    assert_eq!(pod.routes(), ["192.0.2.0/24 via 10.1.2.1 dev net1", "default via 10.1.2.1 dev net1"]);
    call.check();
    call.del();
}

/// A pod that has a default route keeps it; the log says so.
#[test]
fn second_default_route() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    pod.run("ip link add eth0 type veth peer name other0");
    pod.run("ip addr add 192.168.1.2/24 dev eth0");
    pod.run("ip link set eth0 up");
    pod.run("ip route add default via 192.168.1.1 dev eth0");
    let mut call = plain(&lab, &pod);
    let mut ipam = call.conf()["ipam"].clone();
    ipam["routes"] = json!([{"dst": "192.0.2.0/24"}, {"dst": "0.0.0.0/0"}]);
    call = call.with("ipam", ipam);
    let reply = call.run("ADD");
    call = call.prev(Some(reply.ok()));
    assert!(reply.stderr.contains("default"), "the log tells: {}", reply.stderr);
    assert_eq!(pod.routes(), ["192.0.2.0/24 via 10.1.2.1 dev net1", "default via 192.168.1.1 dev eth0"]);
    call.check();
    call.del();
}

/// SLAAC addresses from the LAN, but no default route, unless it is asked for.
#[test]
fn router_advertisements() {
    let (lab, _lan) = Lab::with_lan();
    for (accept, expected) in [(json!(null), "0"), (json!(false), "0"), (json!(true), "1")] {
        let pod = lab.pod();
        plain(&lab, &pod).with("acceptRA", accept).add();
        assert_eq!(pod.sysctl("ipv6/conf/net1/accept_ra_defrtr").as_deref(), Some(expected));
        assert_eq!(pod.sysctl("ipv6/conf/net1/disable_ipv6").as_deref(), Some("0"));
        assert_ne!(pod.sysctl("ipv6/conf/net1/accept_ra").as_deref(), Some("0"));
    }
}

#[test]
fn names_in_the_result() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let dns = json!({"nameservers": ["192.0.2.53"], "search": ["a.example"]});
    let result = plain(&lab, &pod).with("dns", dns.clone()).add();
    assert_eq!(result["dns"], dns);
    let index = result["ips"][0]["interface"].as_u64().unwrap() as usize;
    assert_eq!(result["interfaces"][index]["sandbox"], pod.netns());
    assert_eq!(result["ips"][0]["gateway"], "10.1.2.1");
}
