//! Objects as the API server sends them.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn object(config: &str) -> Value {
    json!({ "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": { "name": "lan", "namespace": "prod", "resourceVersion": "4711", "annotations": { RESOURCE: "x.com/nic" } },
        "spec": { "config": config } })
}

#[test]
fn an_object() {
    let config = r#"{"cniVersion": "1.0.0", "type": "trestle", "bridge": "br-lan"}"#;
    let nad = Nad::from_object(&object(config)).unwrap();
    let want = Nad {
        namespace: "prod".into(),
        name: "lan".into(),
        config: config.into(),
        resource: Some("x.com/nic".into()),
        resource_version: "4711".into(),
    };
    assert_eq!(nad, want);
    let copy = serde_json::to_string(&nad).unwrap();
    assert_eq!(serde_json::from_str::<Nad>(&copy).unwrap(), nad);
    assert_eq!(nad.conf().unwrap().name(), "lan");
}

#[test]
fn an_object_with_little_in_it() {
    for spec in [json!(null), json!({}), json!({ "config": null }), json!({ "config": "" })] {
        let v = json!({ "metadata": { "name": "my.net", "namespace": "prod" }, "spec": spec });
        let nad = Nad::from_object(&v).unwrap();
        assert_eq!((nad.config.as_str(), nad.resource, nad.resource_version.as_str()), ("", None, ""));
    }
    let other_case = json!({ "metadata": { "name": "a", "namespace": "b", "annotations": {
        "k8s.v1.cni.cncf.io/RESOURCEName": "x", "k8s.v1.cni.cncf.io/resourceName": "" } } });
    assert_eq!(Nad::from_object(&other_case).unwrap().resource, None, "keys of annotations are no fields");
}

#[test]
fn what_is_no_object() {
    let with = |path: &str, v: Value| {
        let mut o = object("{}");
        *o.pointer_mut(path).unwrap() = v;
        o
    };
    for (v, why) in [
        (json!(null), "network the object: is no JSON object"),
        (json!({}), "network ?/?: metadata.namespace: \"\" is no name"),
        (json!({ "metadata": [] }), "network the object: metadata: expected an object, found a list"),
        (with("/metadata/name", json!("../x")), "network prod/../x: metadata.name: \"../x\" is no name"),
        (with("/metadata/name", json!(".")), "network prod/.: metadata.name"),
        (with("/metadata/namespace", json!("a/b")), "network a/b/lan: metadata.namespace: \"a/b\" is no name"),
        (with("/metadata/name", json!(3)), "network prod/?: name: expected a string, found 3"),
        (with("/spec", json!("x")), "network prod/lan: spec: expected an object, found \"x\""),
        (
            with("/spec/config", json!({ "type": "x" })),
            "network prod/lan: spec.config: expected a string, found an object",
        ),
        (with("/metadata/annotations", json!([])), "network prod/lan: metadata.annotations: expected an object"),
    ] {
        let f = Nad::from_object(&v).unwrap_err();
        assert!(f.code == Code::NadInvalid && f.msg.starts_with(why) && !f.remedy.is_empty(), "{f}");
    }
    let f = Nad::from_object(&object("{ not json")).unwrap().conf().unwrap_err();
    assert!(f.msg.starts_with("network prod/lan: \"{ not json\" is not JSON: key must be a string"), "{f}");
}

proptest! {
    #[test]
    fn what_is_read_is_safe_in_a_path(name in ".{0,12}", namespace in "[a-z./-]{0,6}", config in ".{0,40}") {
        let v = json!({ "metadata": { "name": name, "namespace": namespace }, "spec": { "config": config } });
        if let Ok(nad) = Nad::from_object(&v) {
            for part in [&nad.name, &nad.namespace] {
                prop_assert!(!part.is_empty() && !part.contains('/') && !part.starts_with('.'));
            }
            let _ = nad.conf();
        }
    }
}
