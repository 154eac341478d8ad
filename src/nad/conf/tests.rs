//! The rules for a configuration; the `cniVersions` of a list have theirs in `version`.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn conf(v: Value) -> Conf {
    parse(&v.to_string(), Some("nad")).unwrap_or_else(|f| panic!("{v}: {f}"))
}

fn list_of(v: Value) -> ConfList {
    match conf(v) {
        Conf::List(l) => l,
        other => panic!("{other:?}"),
    }
}

fn args(v: Value) -> Map<String, Value> {
    v.as_object().cloned().unwrap()
}

fn told(config: &str) -> String {
    let f = parse(config, Some("nad")).expect_err(config);
    assert!(f.code == Code::NadInvalid && !f.remedy.is_empty(), "{f}");
    f.msg
}

#[test]
fn a_plugin() {
    let c = conf(json!({ "cniVersion": "1.0.0", "name": "n", "type": "reca", "k": [1] }));
    assert_eq!((c.name(), c.version(), c.plugins().len()), ("n", "1.0.0", 1));
    assert_eq!(c.plugins()[0]["k"], json!([1]));
    assert_eq!(conf(json!({ "type": "x" })).version(), "");
    let both = conf(json!({ "name": "n", "type": "reca", "plugins": [{ "type": "recb" }] }));
    assert!(matches!(&both, Conf::Plugin(p) if p["type"] == "reca"), "type wins");
    let any_case = parse(r#"{"NAME": "n", "Type": "x", "CNIVERSION": "0.4.0"}"#, None).unwrap();
    assert_eq!((any_case.name(), any_case.version()), ("n", "0.4.0"));
}

#[test]
fn a_name_is_filled_in() {
    for v in [json!({}), json!({ "name": "" }), json!({ "name": null }), json!({ "NAME": "" })] {
        for (key, more) in [("type", json!("x")), ("plugins", json!([{ "type": "x" }]))] {
            let mut v = v.clone();
            v[key] = more;
            let c = conf(v.clone());
            assert_eq!((c.name(), c.to_json()["name"].as_str()), ("nad", Some("nad")), "{v}");
            assert_eq!(parse(&v.to_string(), None).unwrap_err().msg, "name: missing");
        }
    }
    assert_eq!(conf(json!({ "name": "own", "type": "x" })).name(), "own");
    assert_eq!(told(r#"{"name": 3, "type": "x"}"#), "name: expected a string, found 3");
    assert!(told(r#"{"name": "a/b", "type": "x"}"#).starts_with("name: network name \"a/b\": must begin"));
}

#[test]
fn a_list() {
    let l = list_of(json!({ "cniVersion": "0.4.0", "cniVersions": ["0.3.1", "1.0.0", "9.0.0"], "name": "n", "x": 1,
        "disableCheck": true, "disableGC": "TRUE", "loadOnlyInlinedPlugins": "false", "type": "",
        "plugins": [{ "type": "reca", "k": 1 }, { "type": "recb" }] }));
    assert_eq!((l.name.as_str(), l.version.as_str(), l.versions.len(), l.plugins.len()), ("n", "1.0.0", 3, 2));
    assert_eq!((l.disable_check, l.disable_gc, l.load_only_inlined), (true, true, false));
    assert!(l.raw["x"] == 1 && !l.raw.contains_key("plugins"));
    let bare = list_of(json!({ "plugins": [{ "type": "x" }] }));
    assert_eq!(
        (bare.version.as_str(), bare.disable_check, bare.disable_gc, bare.load_only_inlined),
        ("", false, false, false)
    );
    let any_case = list_of(json!({ "Plugins": [{ "TYPE": "x" }], "DISABLECHECK": true }));
    assert!(any_case.disable_check && any_case.plugins.len() == 1);
}

#[test]
fn what_is_no_configuration() {
    for (config, why) in [
        ("{ not json", "\"{ not json\" is not JSON: "),
        ("", "\"\" is not JSON: "),
        ("[]", "expected an object, found a list"),
        ("null", "expected an object, found null"),
        (r#"{"name": "n"}"#, "network \"n\" has neither `type` nor `plugins`"),
        (r#"{"name": "n", "plugins": null}"#, "network \"n\" has neither"),
        (r#"{"type": 3}"#, "type: expected a string, found 3"),
        (r#"{"type": "x", "cniVersion": 1}"#, "cniVersion: expected a string, found 1"),
        (r#"{"plugins": {}}"#, "plugins: expected a list, found an object"),
        (r#"{"plugins": []}"#, "plugins: the list is empty"),
        (r#"{"plugins": [{"type": "a"}, {"a": 1}]}"#, "plugins[1].type: missing"),
        (r#"{"plugins": [{"type": ""}]}"#, "plugins[0].type: missing"),
        (r#"{"plugins": ["a"]}"#, "plugins[0]: expected an object, found \"a\""),
        (r#"{"plugins": [null]}"#, "plugins[0]: expected an object, found null"),
        (
            r#"{"plugins": [{"type": "a"}], "disableCheck": "yes"}"#,
            "disableCheck: expected true or false, found \"yes\"",
        ),
        (r#"{"plugins": [{"type": "a"}], "disableGC": 1}"#, "disableGC: expected true or false, found 1"),
        (r#"{"plugins": [{"type": "a"}], "cniVersions": "1.0.0"}"#, "cniVersions: expected a list"),
        (r#"{"plugins": [{"type": "a"}], "cniVersions": [1]}"#, "cniVersions[0]: expected a string, found 1"),
        (r#"{"plugins": [{"type": "a"}], "cniVersions": ["new"]}"#, "cniVersions: \"new\" is no version"),
    ] {
        let said = told(config);
        assert!(said.starts_with(why), "{config}: {said}");
    }
    assert!(told(&"x".repeat(9000)).len() < 200);
}

#[test]
fn whole_numbers_keep_their_digits() {
    let text =
        r#"{"name":"n","type":"x","big":9007199254740993,"most":18446744073709551615,"least":-9223372036854775808}"#;
    assert_eq!(parse(text, None).unwrap().to_json().to_string(), text);
    let with = parse(text, None).unwrap().with_cni_args(&args(json!({ "id": 9007199254740995u64 }))).unwrap();
    assert!(
        with.to_json().to_string().contains("9007199254740993")
            && with.plugins()[0]["args"]["cni"]["id"] == 9007199254740995u64
    );
}

#[test]
fn cni_args_are_merged() {
    let asked = args(json!({ "k1": "new", "k3": 7 }));
    let merged = |v: Value| conf(v).with_cni_args(&asked).unwrap().plugins()[0]["args"].to_string();
    for (own, want) in [
        (json!(null), r#"{"cni":{"k1":"new","k3":7}}"#),
        (json!({ "other": 1 }), r#"{"other":1,"cni":{"k1":"new","k3":7}}"#),
        (json!({ "cni": null }), r#"{"cni":{"k1":"new","k3":7}}"#),
        (
            json!({ "cni": { "k0": "keep", "k1": "old" }, "other": 1 }),
            r#"{"other":1,"cni":{"k0":"keep","k1":"new","k3":7}}"#,
        ),
        (json!({ "CNI": { "k0": 0 } }), r#"{"cni":{"k0":0,"k1":"new","k3":7}}"#),
        // What a reader of Go's kind takes is the last one.
        (json!({ "cni": { "k1": "old", "K1": "older" } }), r#"{"cni":{"K1":"older","k1":"new","k3":7}}"#),
    ] {
        assert_eq!(merged(json!({ "type": "x", "args": own })), want);
    }
    assert_eq!(merged(json!({ "type": "x", "ARGS": { "cni": { "k0": 0 } } })), r#"{"cni":{"k0":0,"k1":"new","k3":7}}"#);
    let list = conf(json!({ "plugins": [{ "type": "a" }, { "type": "b", "args": { "cni": { "k1": 1 } } }] }));
    for p in list.with_cni_args(&asked).unwrap().plugins() {
        assert_eq!(p["args"]["cni"]["k1"], "new");
    }
    let empty = conf(json!({ "type": "x" })).with_cni_args(&Map::new()).unwrap();
    assert_eq!(empty.plugins()[0]["args"], json!({ "cni": {} }));
}

/// Multus: crashes.
#[test]
fn cni_args_where_there_is_no_place_for_them() {
    let asked = args(json!({ "a": 1 }));
    for (v, why) in [
        (json!({ "type": "x", "args": "str" }), "args: expected an object, found \"str\""),
        (json!({ "type": "x", "args": { "cni": [1] } }), "args.cni: expected an object, found a list"),
        (
            json!({ "plugins": [{ "type": "a" }, { "type": "b", "args": 3 }] }),
            "plugins[1].args: expected an object, found 3",
        ),
    ] {
        let f = conf(v).with_cni_args(&asked).unwrap_err();
        assert!(f.code == Code::NadInvalid && f.msg == why && !f.remedy.is_empty(), "{f}");
    }
}

#[test]
fn a_device_is_in_every_plugin() {
    let c = conf(json!({ "plugins": [{ "type": "a", "DeviceID": "old" }, { "type": "b", "pciBusID": "old" }] }));
    for p in c.with_device("0000:03:02.3").plugins() {
        assert_eq!((&p["deviceID"], &p["pciBusID"], p.len()), (&json!("0000:03:02.3"), &json!("0000:03:02.3"), 3));
    }
    assert_eq!(conf(json!({ "type": "x" })).with_device("d").plugins()[0]["pciBusID"], "d");
}

fn some_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            vec((key(), inner), 0..3).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    let known =
        ["name", "type", "plugins", "Plugins", "cniVersion", "cniVersions", "args", "cni", "disableCheck", "TYPE", "x"];
    proptest::sample::select(known.map(String::from).to_vec())
}

fn nearly() -> impl Strategy<Value = Value> {
    let plugin = vec((key(), some_value()), 0..4).prop_map(|m| {
        let mut o: Map<String, Value> = m.into_iter().collect();
        o.insert("type".into(), "x".into());
        Value::Object(o)
    });
    (vec((key(), some_value()), 0..4), vec(plugin, 0..3), any::<bool>()).prop_map(|(members, plugins, list)| {
        let mut o: Map<String, Value> = members.into_iter().collect();
        if list {
            o.retain(|k, _| !json::same_key(k, "type"));
            o.insert("plugins".into(), plugins.into());
        }
        Value::Object(o)
    })
}

proptest! {
    #[test]
    fn no_text_ends_the_program(text in ".{0,60}") {
        let _ = (parse(&text, Some("n")), parse(&text, None));
    }

    #[test]
    fn what_is_read_is_written_and_read_again(v in nearly(), id in ".{0,6}") {
        let Ok(c) = parse(&v.to_string(), Some("nad")) else { return Ok(()) };
        prop_assert!(c.name().parse::<NetworkName>().is_ok());
        for p in c.plugins() {
            prop_assert!(json::get(p, "type").is_some_and(|t| t.as_str().is_some_and(|t| !t.is_empty())));
        }
        prop_assert_eq!(&parse(&c.to_json().to_string(), None).unwrap(), &c);
        let record = serde_json::to_string(&c).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Conf>(&record).unwrap(), &c, "and as a record of ours");
        prop_assert_eq!(&c.clone().with_device(&id).with_device(&id), &c.clone().with_device(&id));
        let asked = args(json!({ "id": id }));
        if let Ok(with) = c.clone().with_cni_args(&asked) {
            prop_assert!(with.plugins().iter().all(|p| p["args"]["cni"]["id"] == asked["id"]));
            prop_assert_eq!(with.name(), c.name());
        }
    }
}
