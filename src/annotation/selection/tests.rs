//! The cases of both forms, most of them as they were run through Multus 4.3.0; those where it crashes or looks too late
//! are marked.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn one(text: &str) -> Selection {
    match &selections(text, "default").unwrap_or_else(|f| panic!("{text}: {f}"))[..] {
        [one] => one.clone(),
        more => panic!("{text}: {more:?}"),
    }
}

fn told(text: &str) -> String {
    let f = selections(text, "default").expect_err(text);
    assert_eq!((f.code, f.remedy.is_empty()), (Code::Annotation, false), "{f}");
    f.msg.strip_prefix("annotation k8s.v1.cni.cncf.io/networks: ").expect(&f.msg).to_owned()
}

fn named(namespace: &str, name: &str, interface: &str) -> Selection {
    let interface = Some(interface.to_owned()).filter(|i| !i.is_empty());
    Selection { namespace: namespace.into(), name: name.into(), interface, ..Selection::default() }
}

#[test]
fn names() {
    for (text, want) in [
        ("a", vec![named("default", "a", "")]),
        ("other/c", vec![named("other", "c", "")]),
        ("a@if0", vec![named("default", "a", "if0")]),
        ("other/c@eth7", vec![named("other", "c", "eth7")]),
        ("a,b", vec![named("default", "a", ""), named("default", "b", "")]),
        ("  a ,  b@x1 ", vec![named("default", "a", ""), named("default", "b", "x1")]),
        ("other / c", vec![named("other", "c", "")]),
        ("a @ x2", vec![named("default", "a", "x2")]),
        ("a,a,a", vec![named("default", "a", ""); 3]),
        ("a@ETH_5.6", vec![named("default", "a", "ETH_5.6")]),
        ("a\n", vec![named("default", "a", "")]),
        ("/a@", vec![named("default", "a", "")]),
        ("null", vec![named("default", "null", "")]),
        ("", vec![]),
    ] {
        assert_eq!(selections(text, "default"), Ok(want), "{text:?}");
    }
}

#[test]
fn names_that_are_none() {
    for (text, why) in [
        ("x/y/z", r#""x/y/z": more than one '/'"#),
        ("a,a@b@c", r#""a@b@c": more than one '@'"#),
        ("Abc", r#""Abc": name "Abc" must have lower case"#),
        ("-a", r#""-a": name "-a" must"#),
        ("a-", r#""a-": name"#),
        ("A/b", r#""A/b": namespace "A" must"#),
        ("a.b", r#""a.b": name "a.b" has a dot"#),
        ("a@abcdefghijklmnop", r#""a@abcdefghijklmnop": interface name "abcdefghijklmnop" is longer than 15 bytes"#),
        ("a@x y", r#""a@x y": interface name "x y" has a blank"#),
        ("a@x:y", r#""a@x:y": interface name "x:y" has a blank, '/' or ':'"#),
        ("a@..", r#""a@..": interface name ".." is"#),
        ("@x", r#""@x": missing"#),
        ("x/", r#""x/": missing"#),
        ("a,", r#""a," has an empty item"#),
        (",a", r#"",a" has an empty item"#),
        ("  ", r#""" has an empty item"#),
    ] {
        let said = told(text);
        assert!(said.starts_with(why), "{text:?}: {said}");
    }
}

#[test]
fn every_key_of_the_json_form() {
    let all = one(r#"[{"name": "cap", "namespace": "prod", "interface": "all0", "interfaceRequest": "old",
        "mac": "02-AA-bb-cc-dd-01", "ips": ["10.9.0.8/24", "fd00:9::7"], "infiniband-guid": "c2:11:22:33:44:55:66:77",
        "bandwidth": {"egressRate": 3, "ingressRate": 1, "x": 1}, "deviceID": "0000:03:02.3",
        "portMappings": [{"containerPort": 80, "hostPort": 8080}, {"hostPort": 53, "containerPort": 53, "hostIP": "127.0.0.1",
        "protocol": "udp"}], "cni-args": {"k": [1, {"z": null}], "big": 9007199254740993},
        "default-route": ["10.9.0.1", "fd00:9::1"], "ipam-claim-reference": "x", "foo": {"bar": 1}}]"#);
    let want = Selection {
        name: "cap".into(),
        namespace: "prod".into(),
        interface: Some("all0".into()),
        mac: Some("02-AA-bb-cc-dd-01".into()),
        ips: Some(vec!["10.9.0.8/24".into(), "fd00:9::7".into()]),
        bandwidth: Some(json!({"ingressRate": 1, "ingressBurst": 0, "egressRate": 3, "egressBurst": 0})),
        port_mappings: Some(json!([{"hostPort": 8080, "containerPort": 80},
            {"hostPort": 53, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1"}])),
        cni_args: json!({"k": [1, {"z": null}], "big": 9007199254740993u64}).as_object().cloned(),
        infiniband_guid: Some("c2:11:22:33:44:55:66:77".into()),
        device_id: Some("0000:03:02.3".into()),
        default_route: Some(vec!["10.9.0.1".parse().unwrap(), "fd00:9::1".parse().unwrap()]),
    };
    assert_eq!(all, want);
    let text = serde_json::to_string(&[&want]).unwrap();
    assert!(text.contains(r#""hostPort":8080,"containerPort":80}"#) && text.contains("9007199254740993"), "{text}");
    assert_eq!(serde_json::from_str::<Vec<Selection>>(&text).unwrap(), [want], "and as a record of ours");
}

#[test]
fn json_is_gos() {
    for (text, want) in [
        (r#"[{"NAME": "a", "Interface": "cc0"}]"#, named("default", "a", "cc0")),
        (r#"[{"name": "b", "name": "a"}]"#, named("default", "a", "")),
        (" \n [ {\t\"name\":\n\"a\" } ]  ", named("default", "a", "")),
        (r#"[{"name": "\u0061", "interface": "\u0065th9"}]"#, named("default", "a", "eth9")),
        (r#"[{"name": "a", "interfaceRequest": "old0"}]"#, named("default", "a", "old0")),
        (r#"[{"name": "a", "interfaceRequest": "not/looked/at", "interface": "new0"}]"#, named("default", "a", "new0")),
        (r#"[{"name": "a", "namespace": ""}]"#, named("default", "a", "")),
        (r#"[{"name": "my.net", "namespace": "other"}]"#, named("other", "my.net", "")),
        (
            r#"[{"name": "a", "namespace": null, "interface": null, "mac": null, "ips": null, "bandwidth": null,
            "portMappings": null, "cni-args": null, "default-route": null, "deviceID": null}]"#,
            named("default", "a", ""),
        ),
        (r#"[{"name": "a", "portMappings": [], "mac": "", "deviceID": ""}]"#, named("default", "a", "")),
    ] {
        assert_eq!(one(text), want, "{text}");
    }
    assert_eq!(selections("[]", "default"), Ok(vec![]));
    assert_eq!(one(r#"[{"name": "a", "default-route": []}]"#).default_route, Some(vec![]), "another thing than none");
    assert_eq!(one(r#"[{"name": "a", "ips": []}]"#).ips, Some(vec![]), "plugins are told");
    assert_eq!(one(r#"[{"name": "a", "cni-args": {}}]"#).cni_args, Some(Map::new()));
    let kubevirt = r#"[{"name":"br-lan","namespace":"default","interface":"pod094a367b026"}]"#;
    assert_eq!(one(kubevirt), named("default", "br-lan", "pod094a367b026"));
}

#[test]
fn json_that_asks_for_nothing_sensible() {
    for (text, why) in [
        (r#"{"name": "a"}"#, "expected a list, found an object"),
        (r#""a""#, r#"expected a list, found "a""#),
        (r#"[{"name": "a""#, "not JSON, though it has one of"),
        (r#"[{"name": "a"}] x"#, "not JSON"),
        (r#"a,[b]"#, "not JSON"),
        (r#"[{"name": 5}]"#, "[0].name: expected a string, found 5"),
        (r#"[{"name": "a", "ips": "10.0.0.1"}]"#, r#"[0].ips: expected a list, found "10.0.0.1""#),
        (r#"[{"name": "a", "ips": ["10.0.0.300"]}]"#, r#"[0].ips[0]: "10.0.0.300" is no IP address"#),
        (r#"[{"name": "a", "ips": ["::1", "10.0.0.3/33"]}]"#, r#"[0].ips[1]: "10.0.0.3/33" is no IP address"#),
        (r#"[{"name": "a", "ips": ["::1", null]}]"#, "[0].ips[1]: expected a string, found null"),
        (r#"[{"name": "a", "ips": ["1.1.1.1;X=y"]}]"#, "[0].ips[0]: "),
        (r#"[{"name": "a", "mac": "02:xx"}]"#, r#"[0].mac: "02:xx" is no hardware address"#),
        (r#"[{"name": "a", "infiniband-guid": "zz"}]"#, r#"[0].infiniband-guid: "zz" is no hardware address"#),
        (r#"[{"name": "a", "default-route": ["1.2.3"]}]"#, r#"[0].default-route[0]: "1.2.3" is no IP address"#),
        (r#"[{"name": "a", "default-route": [""]}]"#, r#"[0].default-route[0]: "" is no IP address"#),
        (r#"[{"name": "a", "default-route": "1.2.3.4"}]"#, "[0].default-route: expected a list"),
        (r#"[{"name": "a", "cni-args": [1]}]"#, "[0].cni-args: expected an object, found a list"),
        (r#"[{"name": "a"}, {"interface": "x"}]"#, "[1].name: missing"),
        (r#"[{"name": "a", "bandwidth": {"ingressRate": "5"}}]"#, "[0].bandwidth.ingressRate: expected a whole number"),
        (r#"[{"name": "a", "portMappings": [null]}]"#, "[0].portMappings[0]: expected an object, found null"),
        (r#"[{"name": "a", "portMappings": [{"hostPort": 1.5}]}]"#, "[0].portMappings[0].hostPort: expected a whole"),
        (r#"[[{"name": "a"}]]"#, "[0]: expected an object, found a list"),
        (r#"[{"name": "../x"}]"#, r#"[0].name: name "../x" must"#),
        (r#"[{"name": "a..b"}]"#, r#"[0].name: name "a..b" must"#),
        (r#"[{"name": "a", "namespace": "../../x"}]"#, r#"[0].namespace: namespace "../../x" must"#),
        // Multus: crashes.
        ("[null]", "[0]: expected an object, found null"),
        // Multus: found when the networks before it are attached.
        (
            r#"[{"name": "a", "interface": "abcdefghijklmnop"}]"#,
            r#"[0].interface: interface name "abcdefghijklmnop" is longer than 15 bytes"#,
        ),
        (
            r#"[{"name": "a", "interface": "a/b"}]"#,
            r#"[0].interface: interface name "a/b" has a blank, '/' or ':' in it"#,
        ),
        (r#"[{"name": "a", "interfaceRequest": "a b"}]"#, r#"[0].interfaceRequest: interface name "a b" has"#),
    ] {
        let said = told(text);
        assert!(said.starts_with(why), "{text}: {said}");
    }
}

#[test]
fn a_mistake_is_quoted_and_short() {
    let said =
        told(r#"[{"name": "a"}, {"name": "b" "interface": "eth1"}, {"name": "c", "interface": "this goes on"}]"#);
    assert!(said.contains(r#"near …" \"a\"}, {\"name\": \"b\" \"interface\": "#), "{said}");
    let said = told(&format!("[\"{}", "\u{e9}".repeat(5000)));
    assert!(said.len() < 300, "{said}");
    for long in ["a".repeat(9000), format!("a@{}", "b".repeat(9000)), format!("A/{}", "/".repeat(9000))] {
        assert!(told(&long).len() < 600, "{}", told(&long));
    }
    for key in ["name", "namespace", "interface", "mac", "infiniband-guid"] {
        let said = told(&format!(r#"[{{"{key}": "{}"}}]"#, "X".repeat(9000)));
        assert!(said.len() < 300, "{said}");
    }
}

#[test]
fn the_default_network() {
    let found = |text: &str| default_network(text, "kube-system");
    assert_eq!(found("d"), Ok(named("kube-system", "d", "")));
    assert_eq!(found("other/c"), Ok(named("other", "c", "")));
    assert_eq!(found("d@zz0"), Ok(named("kube-system", "d", "zz0")));
    assert_eq!(found(r#"[{"name": "d"}]"#), Ok(named("kube-system", "d", "")));
    for (text, why) in [
        ("d,d", r#""d,d" names 2 networks"#),
        // Multus: crashes.
        ("[]", r#""[]" names 0 networks"#),
        ("", r#""" has an empty item"#),
        ("D!", r#""D!": name "D!" must"#),
        ("[null]", "[0]: expected an object"),
    ] {
        let f = found(text).expect_err(text);
        assert!(f.code == Code::Annotation && !f.remedy.is_empty(), "{f}");
        assert!(f.msg.starts_with(&format!("annotation v1.multus-cni.io/default-network: {why}")), "{text}: {f}");
    }
}

fn texts() -> impl Strategy<Value = Selection> {
    let interface = "[a-zA-Z0-9_.-]{1,15}".prop_filter("reserved", |s| s != "." && s != "..");
    ("[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", "[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", option::of(interface))
        .prop_map(|(namespace, name, interface)| Selection { namespace, name, interface, ..Selection::default() })
}

fn anything() -> impl Strategy<Value = Selection> {
    let ip = || any::<IpAddr>().prop_map(|ip| ip.to_canonical());
    let ips = (ip(), option::of(0..=32u8)).prop_map(|(ip, length)| match length {
        Some(l) => format!("{ip}/{l}"),
        None => ip.to_string(),
    });
    let address = any::<[u8; 8]>().prop_map(|b| b.map(|b| format!("{b:02x}")).join(":"));
    let args = proptest::collection::btree_map("[a-zA-Z]{1,8}", any::<i64>().prop_map(Value::from), 0..4);
    let bandwidth = any::<[i64; 4]>()
        .prop_map(|[a, b, c, d]| json!({"ingressRate": a, "ingressBurst": b, "egressRate": c, "egressBurst": d}));
    let port = (any::<u16>(), any::<u16>()).prop_map(|(h, c)| json!({"hostPort": h, "containerPort": c}));
    let ports = vec(port, 1..4).prop_map(Value::Array);
    (
        texts(),
        vec(ips, 0..4),
        option::of(address),
        option::of(args.prop_map(|m| m.into_iter().collect())),
        option::of(bandwidth),
        option::of(ports),
        option::of(vec(ip(), 0..3)),
        option::of(".{1,9}"),
    )
        .prop_map(|(base, ips, mac, cni_args, bandwidth, port_mappings, default_route, device_id)| Selection {
            ips: Some(ips),
            infiniband_guid: mac.clone(),
            mac,
            cni_args,
            bandwidth,
            port_mappings,
            default_route,
            device_id,
            ..base
        })
}

proptest! {
    #[test]
    fn no_text_ends_the_program(text in ".{0,80}") {
        let _ = (selections(&text, "default"), default_network(&text, "kube-system"));
    }

    #[test]
    fn no_text_that_is_nearly_right_ends_the_program(
        parts in vec(proptest::sample::select(vec![
            "a", "/", "@", ",", " ", "[", "]", "{", "}", "\"", ":", "name", "interface", "\"name\":\"a\"", "ips", "null",
            "default-route", "mac", "\u{e9}", "\\u00", "1e999", "-", ".",
        ]), 0..24)
    ) {
        let text = parts.concat();
        for found in [selections(&text, "default"), default_network(&text, "x").map(|one| vec![one])] {
            for one in found.unwrap_or_default() {
                prop_assert!(!one.name.is_empty() && !one.name.contains(['/', '\\']), "{text:?}: {one:?}");
                prop_assert!(!one.namespace.is_empty() && !one.namespace.contains(['/', '.']), "{text:?}: {one:?}");
                prop_assert!(one.interface.is_none_or(|i| i.parse::<IfName>().is_ok()), "{text:?}");
            }
        }
    }

    #[test]
    fn printed_names_are_read_again(all in vec(texts(), 1..5), blanks in "[ \t\n]{0,3}") {
        let one = |s: &Selection| {
            let interface = s.interface.as_ref().map_or(String::new(), |i| format!("{blanks}@{blanks}{i}"));
            format!("{blanks}{}{blanks}/{blanks}{}{interface}{blanks}", s.namespace, s.name)
        };
        let text = all.iter().map(one).collect::<Vec<_>>().join(",");
        prop_assert_eq!(selections(&text, "default"), Ok(all), "{}", text);
    }

    #[test]
    fn printed_json_is_read_again(all in vec(anything(), 0..4)) {
        let text = serde_json::to_string_pretty(&all).unwrap();
        prop_assert_eq!(selections(&text, "default"), Ok(all), "{}", text);
    }
}
