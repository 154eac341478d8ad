//! What the plugins whose place the drop-ins take read, refuse and pass over, at ADD and at DEL.

use serde_json::json;

use super::*;
use crate::plan::testing::call;

fn conf(more: Value) -> Value {
    let mut conf = json!({"cniVersion": "1.0.0", "name": "lan", "type": "bridge"});
    for (key, value) in more.as_object().unwrap() {
        conf[key] = value.clone();
    }
    conf
}

fn read_bridge(more: Value) -> Outcome<BridgeConf> {
    bridge(&call(&conf(more), ""))
}

fn read_macvlan(more: Value) -> Outcome<MacvlanConf> {
    macvlan(&call(&conf(more), ""))
}

#[test]
fn a_bridge_that_says_nothing() {
    let b = read_bridge(json!({"whatever": [1], "capabilities": {"mac": true}})).unwrap();
    assert_eq!((b.bridge.as_str(), b.mtu, b.vlan, b.mac), ("cni0", None, None, None));
    assert_eq!((b.masquerade, b.ipam, b.trunk), (Masquerade::Off, None, vec![]));
    assert!(!(b.gateway || b.default_gateway || b.filtering || b.macspoofchk || b.enable_dad || b.leave_down));
}

#[test]
fn every_key_of_the_bridge() {
    let b = read_bridge(json!({
        "BRIDGE": "br0", "isDefaultGateway": true, "forceAddress": true, "ipMasq": true, "mtu": 1400,
        "hairpinMode": true, "vlan": 5, "vlanTrunk": [{"id": 9}, {}, {"minID": 3, "maxID": 4}], "macspoofchk": true,
        "preserveDefaultVlan": true, "enabledad": true, "portIsolation": true, "ipam": {"type": "static"},
        "dns": {"domain": "x"},
    }))
    .unwrap();
    assert_eq!((b.bridge.as_str(), b.mtu.unwrap().get(), b.vlan.unwrap().get()), ("br0", 1400, 5));
    assert!(b.gateway && b.default_gateway && b.force_address && b.hairpin && b.macspoofchk);
    assert!(b.preserve_default_vlan && b.enable_dad && b.port_isolation && b.filtering);
    assert_eq!(b.trunk.iter().map(|v| v.get()).collect::<Vec<_>>(), [3, 4, 9], "an empty item is passed over");
    assert_eq!(b.masquerade, Masquerade::On);
    assert!(read_bridge(json!({"promiscMode": true})).unwrap().promisc);
    assert!(read_bridge(json!({"disableContainerInterface": true})).unwrap().leave_down);
    assert!(read_bridge(json!({"isGateway": true})).unwrap().gateway);
    assert!(read_bridge(json!({"vlanTrunk": []})).unwrap().filtering);
}

#[test]
fn every_key_of_the_macvlan() {
    let m = read_macvlan(json!({
        "master": "eno1", "mode": "vepa", "mtu": 1300, "mac": "02:00:00:00:00:01", "linkInContainer": true,
        "bcqueuelen": 200, "ipam": {"type": "static"},
    }))
    .unwrap();
    assert_eq!((m.master.unwrap().as_str(), m.mode, m.mtu.unwrap().get()), ("eno1", MacvlanMode::Vepa, 1300));
    assert_eq!(
        (m.bc_queue_len, m.in_container, m.mac.unwrap().to_string().as_str()),
        (Some(200), true, "02:00:00:00:00:01")
    );
    let m = read_macvlan(json!({})).unwrap();
    assert_eq!((m.master, m.mode, m.mtu, m.bc_queue_len, m.ipam), (None, MacvlanMode::Bridge, None, None, None));
}

#[test]
fn who_wins_with_the_mac() {
    let (one, two, three, four) = ("02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03", "02:00:00:00:00:04");
    let all = conf(json!({"runtimeConfig": {"mac": one}, "args": {"cni": {"mac": two}}, "mac": four}));
    let env = format!("IgnoreUnknown=1;MAC={three}");
    let of_bridge = |conf: &Value| bridge(&call(conf, &env)).unwrap().mac.unwrap().to_string();
    let of_macvlan = |conf: &Value| macvlan(&call(conf, &env)).unwrap().mac.unwrap().to_string();
    assert_eq!((of_bridge(&all), of_macvlan(&all)), (one.to_owned(), one.to_owned()));
    let no_runtime = conf(json!({"args": {"cni": {"mac": two}}, "mac": four}));
    assert_eq!((of_bridge(&no_runtime), of_macvlan(&no_runtime)), (two.to_owned(), three.to_owned()));
    let own = conf(json!({"mac": four}));
    assert_eq!(bridge(&call(&own, "")).unwrap().mac, None, "bridge has no such key");
    assert_eq!(macvlan(&call(&own, "")).unwrap().mac.unwrap().to_string(), four);
}

#[test]
fn what_the_bridge_refuses() {
    for (more, code, words) in [
        (json!({"hairpinMode": true, "promiscMode": true}), Code::Conflict, "hairpinMode and promiscMode"),
        (
            json!({"disableContainerInterface": true, "ipam": {"type": "static"}}),
            Code::Conflict,
            "disableContainerInterface and ipam",
        ),
        (json!({"bridge": "a b"}), Code::Config, "bridge: "),
        (json!({"bridge": ""}), Code::Config, "bridge: "),
        (json!({"vlan": 4095}), Code::Config, "vlan: 4095 is not within 0 to 4094"),
        (json!({"vlan": -1}), Code::Config, "vlan: -1"),
        (json!({"vlanTrunk": [{"minID": 3}]}), Code::Config, "vlanTrunk[0].maxID"),
        (json!({"mtu": -5}), Code::Config, "mtu: "),
        (json!({"mtu": "big"}), Code::Config, "mtu: expected"),
        (json!({"ipMasq": "yes"}), Code::Config, "ipMasq: expected"),
        (json!({"ipam": {"type": 3}}), Code::Config, "ipam.type: expected"),
        (json!({"runtimeConfig": {"mac": "x"}}), Code::Config, "runtimeConfig.mac: "),
        (json!({"args": {"cni": {"mac": "01:00:5e:00:00:01"}}}), Code::Config, "args.cni.mac: "),
    ] {
        let failure = read_bridge(more.clone()).expect_err(&more.to_string());
        assert_eq!(failure.code, code, "{failure}");
        assert!(failure.msg.contains(words), "{words:?} is not in {failure}");
    }
    let strange = bridge(&call(&conf(json!({})), "FOO=1")).unwrap_err();
    assert_eq!(strange.code, Code::Environment);
    for backend in ["iptables", "nftables", ""] {
        assert_eq!(read_bridge(json!({"ipMasq": true, "ipMasqBackend": backend})).unwrap().masquerade, Masquerade::On);
    }
    let unknown = read_bridge(json!({"ipMasq": true, "ipMasqBackend": "ebtables"})).unwrap();
    assert_eq!(unknown.masquerade, Masquerade::Unknown("ebtables".into()), "refused later, after IPAM");
    assert_eq!(read_bridge(json!({"ipMasqBackend": "ebtables"})).unwrap().masquerade, Masquerade::Off);
}

#[test]
fn what_the_macvlan_refuses() {
    for (more, words) in [
        (json!({"mode": "source"}), "mode: \"source\""),
        (json!({"master": "a/b"}), "master: "),
        (json!({"mtu": 10}), "mtu: "),
        (json!({"mac": "x"}), "mac: "),
        (json!({"bcqueuelen": -1}), "bcqueuelen: "),
    ] {
        let failure = read_macvlan(more.clone()).expect_err(&more.to_string());
        assert!(failure.code == Code::Config && failure.msg.contains(words), "{failure}");
    }
}

/// The reference refuses at DEL what it refuses while it reads, and nothing more.
#[test]
fn what_del_still_reads() {
    let undo = |more: Value, args: &str| undo_bridge(&call(&conf(more), args));
    let ipam = json!({"type": "host-local", "x": 1});
    let all = undo(json!({"ipam": ipam, "ipMasq": true, "macspoofchk": true}), "").unwrap();
    assert_eq!((all.ipam, all.masquerade, all.macspoofchk), (ipam.as_object().cloned(), true, true));
    assert!(!undo(json!({"ipMasq": true}), "").unwrap().masquerade, "without addresses there was none");
    for fine in [
        json!({"bridge": "a b"}),
        json!({"mtu": -5}),
        json!({"hairpinMode": true, "promiscMode": true}),
        json!({"runtimeConfig": {"mac": "x"}}),
        json!({"ipMasq": true, "ipMasqBackend": "ebtables"}),
        json!({"disableContainerInterface": true, "ipam": {"type": "static"}}),
    ] {
        assert!(undo(fine.clone(), "").is_ok(), "{fine}");
    }
    for (bad, args) in [
        (json!({"vlan": -1}), ""),
        (json!({"vlanTrunk": [{"maxID": 3}]}), ""),
        (json!({"mtu": "x"}), ""),
        (json!({"ipam": []}), ""),
        (json!({}), "FOO=1"),
    ] {
        assert!(undo(bad.clone(), args).is_err(), "{bad}");
    }
    let macvlan = |more: Value| undo_macvlan(&call(&conf(more), "FOO=1"));
    assert!(
        macvlan(json!({"mode": "source", "mtu": -1, "mac": "x", "ipam": {"type": "static"}})).unwrap().ipam.is_some()
    );
    macvlan(json!({"mtu": "x"})).unwrap_err();
}
