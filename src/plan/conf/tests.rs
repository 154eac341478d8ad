//! `type: trestle`: each key, who wins, and what is refused in which words.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::plan::testing::call;

fn attachment(more: Value) -> Outcome<Attachment> {
    with_args(more, "")
}

fn with_args(more: Value, args: &str) -> Outcome<Attachment> {
    let mut conf = json!({"cniVersion": "1.1.0", "name": "lan", "type": "trestle", "bridge": "br-lan"});
    for (key, value) in more.as_object().unwrap() {
        conf[key] = value.clone();
    }
    match parse(&call(&conf, args))? {
        Conf::Attachment(a) => Ok(*a),
        Conf::Bind(b) => panic!("taken for a bind step of {b:?}"),
    }
}

fn refused(more: Value) -> Failure {
    attachment(more.clone()).expect_err(&more.to_string())
}

#[test]
fn what_is_not_said_is_off() {
    let a = attachment(json!({})).unwrap();
    assert_eq!(a.bridge.unwrap().as_str(), "br-lan");
    assert_eq!((a.master, a.mode, a.mtu, a.mac), (None, MacvlanMode::Bridge, None, None));
    assert_eq!((a.ipam, a.bare_ips, a.vlan, a.trunk), (None, false, None, vec![]));
    assert!(!(a.preserve_default_vlan || a.port_isolation || a.hairpin || a.macspoofchk || a.accept_ra));
    assert!(a.dns.is_empty());
}

#[test]
fn every_key_is_read_in_any_case() {
    for (i, fold) in [str::to_owned as fn(&str) -> String, str::to_uppercase, str::to_lowercase].into_iter().enumerate()
    {
        let said = json!({
            "bridge": "br0", "master": "eno1", "mode": "private", "mtu": 1400, "mac": "02:00:00:00:00:01",
            "ipam": {"type": "static"}, "vlan": 5, "vlanTrunk": [{"minID": 7, "maxID": 9}, {"id": 8}, {"id": 3}],
            "preserveDefaultVlan": true, "portIsolation": true, "hairpinMode": true, "macspoofchk": true,
            "acceptRA": true, "dns": {"nameservers": ["192.0.2.1"]},
        });
        let mut conf: Map<String, Value> =
            said.as_object().unwrap().iter().map(|(k, v)| (fold(k), v.clone())).collect();
        conf.insert("name".into(), "lan".into());
        let Ok(Conf::Attachment(a)) = parse(&call(&Value::Object(conf), "")) else { panic!("case {i}") };
        assert_eq!((a.bridge.unwrap().as_str(), a.master.unwrap().as_str()), ("br0", "eno1"));
        assert_eq!((a.mode, a.mtu.unwrap().get(), a.vlan.unwrap().get()), (MacvlanMode::Private, 1400, 5));
        assert_eq!(a.mac.unwrap().to_string(), "02:00:00:00:00:01");
        assert_eq!(a.trunk.iter().map(|v| v.get()).collect::<Vec<_>>(), [3, 7, 8, 9], "each once, in order");
        assert!(a.preserve_default_vlan && a.port_isolation && a.hairpin && a.macspoofchk && a.accept_ra);
        assert_eq!((a.ipam.unwrap().len(), a.dns.nameservers.len()), (1, 1));
    }
}

#[test]
fn zero_null_and_empty_mean_nothing() {
    let a =
        attachment(json!({"mtu": 0, "vlan": 0, "mac": "", "mode": "", "master": null, "vlanTrunk": null, "ipam": {}}));
    let a = a.unwrap();
    assert_eq!((a.mtu, a.vlan, a.mac, a.mode, a.master), (None, None, None, MacvlanMode::Bridge, None));
    assert!(a.trunk.is_empty() && a.ipam.is_none());
    for section in [json!({"type": ""}), json!({"type": 7}), json!({"ranges": []})] {
        let refused = attachment(json!({"ipam": section})).unwrap_err();
        assert_eq!(refused.code, Code::Config);
        assert!(refused.msg.contains("ipam.type"), "a section without a type would leave the pod without an address");
    }
}

#[test]
fn keys_that_others_add_are_always_accepted() {
    attachment(json!({
        "capabilities": {"mac": true}, "args": {"cni": {}}, "runtimeConfig": {"io.kubernetes.cri.pod-annotations": {}},
        "prevResult": {}, "deviceID": "0000:00:00.0", "pciBusID": "x", "cni.dev/valid-attachments": [], "CNI.DEV/x": 1,
    }))
    .unwrap();
}

#[test]
fn unknown_keys_are_named_with_the_nearest_known_one() {
    for (key, near) in [
        ("brigde", "bridge"),
        ("macSpoofCheck", "macspoofchk"),
        ("vlan_trunk", "vlanTrunk"),
        ("hairpin_mode", "hairpinMode"),
        ("acceptRa2", "acceptRA"),
        ("runtimeconf", "runtimeConfig"),
    ] {
        let failure = refused(json!({key: 1}));
        assert_eq!((failure.code, failure.code.cni()), (Code::UnknownKey, 7));
        assert!(failure.msg.starts_with(&format!("{key}: ")), "{failure}");
        assert_eq!(failure.remedy, format!("did you mean {near}?"));
    }
    let failure = refused(json!({"isGateway": true}));
    assert!(failure.remedy.starts_with("known keys: bridge, master,"), "{failure}");
    let failure = refused(json!({"vlann": 1, "colour": 2, "mtuu": 3}));
    assert!(failure.msg.starts_with("vlann, colour, mtuu: "), "all at once: {failure}");
    assert_eq!(failure.remedy, "did you mean vlan by vlann? did you mean mtu by mtuu?");
}

#[test]
fn bad_values_name_their_key() {
    for (conf, words) in [
        (json!({"bridge": ""}), "network lan: bridge: interface name \"\""),
        (json!({"bridge": "a/b"}), "bridge: interface name \"a/b\""),
        (json!({"bridge": "sixteen-letters!"}), "bridge: interface name"),
        (json!({"bridge": 7}), "bridge: expected a string"),
        (json!({"master": " eno1"}), "master: interface name"),
        (json!({"mode": "source"}), "mode: \"source\" is not one of bridge, private, vepa, passthru"),
        (json!({"mtu": 67}), "mtu: "),
        (json!({"mtu": -1}), "mtu: "),
        (json!({"mtu": 65536}), "mtu: "),
        (json!({"mtu": "1500"}), "mtu: expected"),
        (json!({"mtu": 1e99}), "mtu: "),
        (json!({"mac": "01:00:5e:00:00:01"}), "mac: "),
        (json!({"mac": "zz"}), "mac: "),
        (json!({"runtimeConfig": {"mac": "00:00:00:00:00:00"}}), "runtimeConfig.mac: "),
        (json!({"args": {"cni": {"mac": "x"}}}), "args.cni.mac: "),
        (json!({"args": {"cni": {"mac": 1}}}), "args.cni.mac: expected"),
        (json!({"args": 1}), "args: expected"),
        (json!({"vlan": 4095}), "vlan: "),
        (json!({"vlan": -1}), "vlan: VLAN -1 is not within 1 to 4094"),
        (json!({"vlan": true}), "vlan: expected"),
        (json!({"vlanTrunk": {}}), "vlanTrunk: expected"),
        (json!({"vlanTrunk": [{"minID": 5}]}), "vlanTrunk[0].maxID: missing beside minID"),
        (json!({"vlanTrunk": [{"id": 1}, {"maxID": 5}]}), "vlanTrunk[1].minID: missing beside maxID"),
        (json!({"vlanTrunk": [{"minID": 9, "maxID": 5}]}), "vlanTrunk[0].maxID: 5 is smaller than minID 9"),
        (json!({"vlanTrunk": [{"minID": 0, "maxID": 5}]}), "vlanTrunk[0].minID: "),
        (json!({"vlanTrunk": [{"id": 5000}]}), "vlanTrunk[0].id: "),
        (json!({"vlanTrunk": [{}]}), "vlanTrunk[0]: has neither id nor minID and maxID"),
        (json!({"portIsolation": "yes"}), "portIsolation: expected"),
        (json!({"macspoofchk": 1}), "macspoofchk: expected"),
        (json!({"ipam": "host-local"}), "ipam: expected"),
        (json!({"dns": []}), "dns: expected"),
        (json!({"runtimeConfig": {"ips": "10.0.0.1"}}), "runtimeConfig.ips: expected"),
    ] {
        let failure = refused(conf.clone());
        assert_eq!(failure.code, Code::Config, "{conf}: {failure}");
        assert!(failure.msg.contains(words), "{words:?} is not in {failure}");
    }
    for (args, words) in [("MAC=x", "CNI_ARGS MAC: "), ("FOO=1", "unknown keys FOO"), ("odd", "\"odd\" is no pair")] {
        let failure = with_args(json!({}), args).unwrap_err();
        assert!(failure.msg.contains(words), "{failure}");
    }
    with_args(json!({}), "IgnoreUnknown=1;FOO=1;K8S_POD_NAME=web;K8S_POD_UID=1").unwrap();
    with_args(json!({}), "K8S_POD_NAMESPACE=a;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=1").unwrap();
}

#[test]
fn the_mac_is_the_runtimes_before_the_pods_before_the_arguments_before_the_networks() {
    let of = |n: u8| format!("02:00:00:00:00:0{n}");
    let conf = |runtime: Option<u8>, args: Option<u8>, own: Option<u8>| json!({"runtimeConfig": {"mac": runtime.map(of)}, "args": {"cni": {"mac": args.map(of)}}, "mac": own.map(of)});
    for (runtime, args, env, own, want) in [
        (Some(1), Some(2), Some(3), Some(4), 1),
        (None, Some(2), Some(3), Some(4), 2),
        (None, None, Some(3), Some(4), 3),
        (None, None, None, Some(4), 4),
    ] {
        let env = env.map_or(String::new(), |n| format!("MAC={}", of(n)));
        let a = with_args(conf(runtime, args, own), &env).unwrap();
        assert_eq!(a.mac.unwrap().to_string(), of(want));
    }
    assert_eq!(
        with_args(json!({"runtimeConfig": {"mac": ""}, "args": {"cni": {"mac": ""}}}), "MAC=").unwrap().mac,
        None
    );
}

#[test]
fn addresses_without_ipam_are_noticed_wherever_they_are_asked_for() {
    let bare = |conf, args| with_args(conf, args).unwrap().bare_ips;
    assert!(bare(json!({"runtimeConfig": {"ips": ["10.0.0.1/24"]}}), ""));
    assert!(bare(json!({"args": {"cni": {"ips": ["10.0.0.1/24"]}}}), ""));
    assert!(bare(json!({"ipam": {}}), "IP=10.0.0.1/24"));
    assert!(!bare(json!({}), "IP="));
    assert!(!bare(json!({"ipam": {"type": "host-local"}}), "IP=10.0.0.1"));
}

#[test]
fn one_row_of_the_table_and_not_two() {
    let parse = |conf: Value| parse(&call(&conf, ""));
    let bind = json!({"name": "b", "args": {"cni": {"logicNetworkName": "lan"}}});
    let Ok(Conf::Bind(b)) = parse(bind.clone()) else { panic!("no bind step") };
    assert_eq!(b.network, "lan");
    let Ok(Conf::Bind(_)) = parse(json!({"name": "b", "bridge": null, "ARGS": {"CNI": {"LogicNetworkName": "x"}}}))
    else {
        panic!("null is absent, and case does not count")
    };
    for (conf, code, words) in [
        (json!({"name": "b", "delegates": [], "bridge": "br0"}), Code::Conflict, "delegates and bridge"),
        (json!({"name": "b", "clusterNetwork": "x", "master": "eno1"}), Code::Conflict, "clusterNetwork and master"),
        (json!({"name": "b", "clusterNetwork": "x"}), Code::Config, "clusterNetwork"),
        (json!({"name": "b"}), Code::Config, "bridge: missing"),
        (json!({"name": "b", "args": {"cni": {"logicNetworkName": ""}}}), Code::Config, "bridge: missing"),
        (json!({"name": "b", "runtimeConfig": {"logicNetworkName": "lan"}}), Code::Config, "bridge: missing"),
        (json!({"name": "b", "args": {"cni": {"logicNetworkName": 3}}}), Code::Config, "args.cni.logicNetworkName"),
        (json!({"name": "b", "vlan": 5}), Code::Conflict, "vlan"),
        (json!({"name": "b", "ipam": {}, "args": {"cni": {"logicNetworkName": "lan"}}}), Code::Conflict, "ipam"),
        (
            json!({"name": "b", "bridge": "br0", "args": {"cni": {"logicNetworkName": "lan"}}}),
            Code::Conflict,
            "bridge and args.cni.logicNetworkName",
        ),
    ] {
        let failure = parse(conf.clone()).expect_err(&conf.to_string());
        assert_eq!((failure.code, failure.code.cni()), (code, 7), "{conf}: {failure}");
        assert!(failure.msg.contains(words), "{failure}");
    }
}

#[test]
fn a_networks_own_dns_stands_for_ipams() {
    let dns = |server: &str| Dns { nameservers: vec![server.into()], ..Dns::default() };
    assert_eq!(dns_or(&Dns::default(), &dns("a")), dns("a"));
    assert_eq!(dns_or(&Dns { domain: Some("b".into()), ..Dns::default() }, &dns("a")).nameservers.len(), 0);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-10i64..5000).prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let key = prop_oneof![
            ".{0,6}",
            prop::sample::select(vec!["cni", "mac", "ips", "id", "minID", "maxID", "type"]).prop_map(String::from)
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4).prop_map(|kv| Value::Object(kv.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever is written, and however: a value or one failure, and a failure of these.
    #[test]
    fn no_configuration_makes_it_panic(
        pairs in prop::collection::vec(
            (prop::sample::select([ATTACHMENT, ALWAYS, META, &["x"]].concat()), any_json()),
            0..6,
        ),
        args in ".{0,40}",
    ) {
        let mut conf: Map<String, Value> = pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        conf.insert("name".into(), "lan".into());
        conf.insert("cniVersion".into(), "1.1.0".into());
        let call = call(&Value::Object(conf), &args.replace('\0', ""));
        if let Err(f) = parse(&call) {
            let known = [Code::Config, Code::UnknownKey, Code::Conflict, Code::Environment].contains(&f.code);
            prop_assert!(known && !f.msg.is_empty(), "{}", f);
        }
        let _ = crate::plan::dropin::bridge(&call);
        let _ = crate::plan::dropin::macvlan(&call);
        let _ = crate::plan::dropin::undo_bridge(&call);
    }
}
