//! Other people's plugins, as libcni runs them.

use serde_json::{Value, json};

use super::*;
use crate::cni::Version;
use crate::store::Allow;
use crate::types::Code;

fn result(version: &str, ip: &str) -> Value {
    json!({"cniVersion": version, "ips": [{"address": ip}]})
}

/// Three plugins `a`, `b` and `c`, each with an address of its own.
fn three() -> Bin {
    let bin = Bin::new();
    for (name, ip) in [("a", "10.0.0.1/24"), ("b", "10.0.0.2/24"), ("c", "10.0.0.3/24")] {
        bin.plugin(name, &result("1.0.0", ip));
    }
    bin
}

fn abc(version: &str) -> Conf {
    list(version, json!([{"type": "a"}, {"type": "b", "keep": [1]}, {"type": "c"}]))
}

#[test]
fn each_plugin_hears_of_the_one_before() {
    let bin = three();
    let at = At::new(abc("1.0.0"), &bin);
    let done = at.add().unwrap();
    assert_eq!((&done.raw, done.version), (&result("1.0.0", "10.0.0.3/24"), Version::V1_0_0));
    assert_eq!(done.result.ips[0].address.to_string(), "10.0.0.3/24");
    assert_eq!(bin.log(), "ADD.a ADD.b ADD.c");
    assert_eq!(bin.got("ADD.a"), json!({"type": "a", "name": "n", "cniVersion": "1.0.0"}));
    let first = result("1.0.0", "10.0.0.1/24");
    let second = json!({"type": "b", "keep": [1], "name": "n", "cniVersion": "1.0.0", "prevResult": first});
    assert_eq!(bin.got("ADD.b"), second);

    at.check(&done.raw).unwrap();
    assert_eq!(bin.log(), "CHECK.a CHECK.b CHECK.c");
    at.del(Some(&done.raw)).unwrap();
    assert_eq!(bin.log(), "DEL.c DEL.b DEL.a");
    for run in ["CHECK.a", "DEL.a", "DEL.c"] {
        assert_eq!(bin.got(run)["prevResult"], done.raw, "{run}");
    }
    let env = |key: &str| bin.env("DEL.b", key).unwrap();
    assert_eq!(
        (env("CNI_CONTAINERID"), env("CNI_IFNAME"), env("CNI_NETNS")),
        ("c1".into(), "net1".into(), "/nonexistent/netns".into())
    );
    assert_eq!(env("CNI_ARGS"), "IgnoreUnknown=1;K8S_POD_NAME=web");
    at.del(None).unwrap();
    assert_eq!(bin.got("DEL.a").get("prevResult"), None, "nobody has the result");
}

#[test]
fn capabilities_are_each_plugins_own() {
    let bin = three();
    let mut at = At::new(
        list(
            "1.0.0",
            json!([{"type": "a", "capabilities": {"mac": true, "ips": true}},
                {"type": "b", "capabilities": {"mac": false, "bandwidth": true}}, {"type": "c"}]),
        ),
        &bin,
    );
    at.runtime = json!({"mac": "02:00:00:00:00:01", "bandwidth": {"ingressRate": 1}}).as_object().cloned().unwrap();
    at.add().unwrap();
    at.del(None).unwrap();
    for verb in ["ADD", "DEL"] {
        let got = |name: &str| bin.got(&format!("{verb}.{name}")).get("runtimeConfig").cloned();
        assert_eq!(got("a"), Some(json!({"mac": "02:00:00:00:00:01"})));
        assert_eq!((got("b"), got("c")), (Some(json!({"bandwidth": {"ingressRate": 1}})), None));
    }
}

#[test]
fn a_plugin_alone() {
    let bin = three();
    let at = At::new(single(json!({"cniVersion": "0.4.0", "name": "own", "type": "a"})), &bin);
    let done = at.add().unwrap();
    assert_eq!(done.version, Version::V1_0_0, "its own answer's");
    assert_eq!(bin.got("ADD.a"), json!({"cniVersion": "0.4.0", "name": "own", "type": "a"}));
    at.del(Some(&done.raw)).unwrap();
    assert_eq!(bin.got("DEL.a")["prevResult"]["cniVersion"], "0.4.0", "as the network's version has it");
    let at = At::new(single(json!({"name": "own", "type": "b"})), &bin);
    bin.plugin("b", &json!({"ip4": {"ip": "10.0.0.9/24"}}));
    let done = at.add().unwrap();
    assert_eq!((bin.got("ADD.b")["cniVersion"].as_str(), done.version), (Some(""), Version::V0_1_0));
    at.del(Some(&done.raw)).unwrap();
    assert_eq!(bin.got("DEL.b").get("prevResult"), None, "older than 0.4.0");
    assert_eq!(at.check(&done.raw).unwrap_err().code, Code::Version);
}

#[test]
fn what_fails_in_the_middle_leaves_nothing() {
    let bin = three();
    bin.failing("b", "ADD", 11);
    let at = At::new(abc("1.0.0"), &bin);
    let failure = at.add().unwrap_err();
    assert_eq!((failure.foreign, failure.msg.as_str()), (Some(11), "plugin b: b will not"));
    assert_eq!(bin.log(), "ADD.a ADD.b DEL.b DEL.a", "c was never run");
    assert_eq!(bin.got("DEL.b")["prevResult"], result("1.0.0", "10.0.0.1/24"));

    for (answer, said) in [
        ("echo this is no JSON", "result of plugin b: "),
        ("kill -9 $$", "plugin b: signal: 9 (SIGKILL)"),
        ("exit 7", "plugin b: exit status: 7"),
    ] {
        bin.script("b", &format!("ADD) {answer};;"));
        let failure = at.add().unwrap_err();
        assert!(failure.code == Code::PluginFailed && failure.msg.contains(said), "{failure}");
        assert_eq!(bin.log(), "ADD.a ADD.b DEL.b DEL.a", "{answer}");
    }
}

#[test]
fn an_undo_that_fails_goes_on_and_the_first_cause_leads() {
    let bin = three();
    bin.script("b", "ADD) exit 1;; DEL) echo '{\"code\": 5, \"msg\": \"stuck\"}'; exit 1;;");
    let failure = At::new(abc("1.0.0"), &bin).add().unwrap_err();
    assert_eq!(bin.log(), "ADD.a ADD.b DEL.b DEL.a");
    let msg = "plugin b: exit status: 1, without a word; and it could not be undone: plugin b: stuck";
    assert_eq!((failure.msg.as_str(), failure.foreign), (msg, None));
}

#[test]
fn del_goes_on_and_tells_all_of_it() {
    let bin = three();
    bin.failing("c", "DEL", 5);
    bin.failing("a", "DEL", 11);
    let failure = At::new(abc("1.0.0"), &bin).del(None).unwrap_err();
    assert_eq!(bin.log(), "DEL.c DEL.b DEL.a");
    assert_eq!(
        (failure.foreign, failure.msg.as_str()),
        (Some(5), "plugin c: c will not; TR0508: plugin a: a will not")
    );
}

#[test]
fn check_stops_at_the_first_and_may_be_off() {
    let bin = three();
    bin.failing("b", "CHECK", 50);
    let mut at = At::new(abc("0.4.0"), &bin);
    let failure = at.check(&json!(null)).unwrap_err();
    assert_eq!((failure.foreign, bin.log().as_str()), (Some(50), "CHECK.a CHECK.b"));
    assert_eq!(at.check(&json!({"ips": 1})).unwrap_err().code, Code::Config);
    at.conf = abc("0.3.1");
    let old = at.check(&json!(null)).unwrap_err();
    assert_eq!((old.code, old.msg.as_str()), (Code::Version, "network n: cniVersion \"0.3.1\" does not support CHECK"));
    let Conf::List(list) = abc("0.4.0") else { panic!("a list") };
    at.conf = Conf::List(ConfList { disable_check: true, ..list });
    at.check(&json!(null)).unwrap();
    assert_eq!(bin.log(), "");
}

#[test]
fn status_and_gc_from_1_1_0_on() {
    let bin = three();
    let mut at = At::new(abc("1.0.0"), &bin);
    at.status().unwrap();
    at.gc(&[]).unwrap();
    assert_eq!(bin.log(), "");
    at.conf = abc("1.1.0");
    at.status().unwrap();
    assert_eq!(bin.log(), "STATUS.a STATUS.b STATUS.c");
    assert_eq!(bin.got("STATUS.b"), json!({"type": "b", "keep": [1], "name": "n", "cniVersion": "1.1.0"}));
    assert_eq!(bin.env("STATUS.b", "CNI_CONTAINERID").as_deref(), Some(""));
    at.gc(&[("c1", "eth0"), ("c2", "net1")]).unwrap();
    assert_eq!(bin.log(), "GC.a GC.b GC.c");
    let valid = json!([{"containerID": "c1", "ifname": "eth0"}, {"containerID": "c2", "ifname": "net1"}]);
    let got = bin.got("GC.c");
    assert_eq!((&got["cni.dev/valid-attachments"], &got["cni.dev/attachments"]), (&valid, &valid));
    at.gc(&[]).unwrap();
    assert_eq!(bin.got("GC.a")["cni.dev/valid-attachments"], json!([]));
    bin.log();

    bin.script("a", "STATUS) echo '{\"code\": 50, \"msg\": \"not now\"}'; exit 1;; GC) exit 1;;");
    let failure = at.status().unwrap_err();
    assert_eq!(
        (failure.foreign, failure.msg.as_str(), bin.log().as_str()),
        (Some(50), "plugin a: not now", "STATUS.a")
    );
    assert!(at.gc(&[]).unwrap_err().msg.contains("plugin a: exit status: 1"));
    assert_eq!(bin.log(), "GC.a GC.b GC.c", "one's failure does not keep the others from it");
    let Conf::List(list) = abc("1.1.0") else { panic!("a list") };
    at.conf = Conf::List(ConfList { disable_gc: true, ..list });
    at.gc(&[]).unwrap();
    assert_eq!(bin.log(), "");
}

#[test]
fn refused_before_any_plugin_is_run() {
    let bin = three();
    let mut at = At::new(list("1.0.0", json!([{"type": "a"}, {"type": "gone"}])), &bin);
    let refused = |at: &At<'_>| {
        let failure = at.add().unwrap_err();
        assert_eq!(bin.log(), "");
        (failure.code, failure.msg)
    };
    assert_eq!(refused(&at).0, Code::PluginMissing);
    for ty in [json!(""), json!(null), json!(5)] {
        at.conf = list("1.0.0", json!([{"type": "a"}, {"type": ty}]));
        assert_eq!(refused(&at), (Code::Config, "type: missing or empty".into()));
    }
    at.conf = list("1.0.0", json!([{"type": "a"}, {"type": "b", "master": "eno2"}]));
    at.node.allow_masters = Some(vec![Allow { glob: "eno1".into(), namespaces: None }]);
    let not_allowed = "network n: master eno2 is not allowed for pod default/web";
    assert_eq!(refused(&at), (Code::MasterNotAllowed, not_allowed.into()));
    at.chooser = Chooser::Administrator;
    at.add().unwrap();
    assert_eq!(bin.log(), "ADD.a ADD.b");
    at.conf = list("1.0.0", json!([]));
    assert_eq!(refused(&at).0, Code::Config);
}
