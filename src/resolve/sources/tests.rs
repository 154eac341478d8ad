//! Who is asked, in which order, and what counts.

use crate::net::testing::block_on;
use std::fs;

use serde_json::json;

use super::*;
use crate::api::testing::{Fake, Reply, short, status};
use crate::plan::testing::call;

const ARGS: &str = "K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web;K8S_POD_UID=u1";

struct Desk {
    tmp: tempfile::TempDir,
    dirs: Dirs,
}

impl Desk {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(tmp.path().join("run"), tmp.path().join("state")).with_boot("b1").with_clock(u64::MAX);
        Self { tmp, dirs }
    }

    fn api(&self, fake: &Fake) -> Api {
        fake.api(self.tmp.path(), short())
    }

    /// The agent lives.
    fn vouch(&self) {
        fs::create_dir_all(&self.dirs.run).unwrap();
        fs::write(self.dirs.run.join("alive"), "b1").unwrap();
    }

    fn pod(&self, runtime: &Value, args: &str, api: Option<&Api>) -> Outcome<Pod> {
        let call = call(&json!({"name": "n", "runtimeConfig": runtime}), args);
        block_on(Sources::new(&call, &self.dirs, api).pod(&Wish::default()))
    }

    fn nad(&self, api: Option<&Api>) -> (Outcome<Nad>, Vec<String>) {
        let call = call(&json!({"name": "n"}), ARGS);
        let sources = Sources::new(&call, &self.dirs, api);
        (block_on(sources.nad("prod", "lan")), sources.stale())
    }

    fn copy(&self) -> std::path::PathBuf {
        self.dirs.state.join("nads/prod/lan.json")
    }
}

fn object(annotations: &Value, uid: &str) -> Value {
    json!({"metadata": {"namespace": "prod", "name": "web", "uid": uid, "annotations": annotations,
        "managedFields": [{"x": 1}]}})
}

fn lan(config: &str) -> Value {
    json!({"metadata": {"namespace": "prod", "name": "lan", "resourceVersion": "7"}, "spec": {"config": config}})
}

fn known(pod: &Pod) -> Option<&str> {
    pod.known.as_ref().and_then(|p| p.uid.as_deref())
}

#[test]
fn annotations_of_the_runtime_ask_nobody() {
    let (desk, fake) = (Desk::new(), Fake::new(|_| status(500, "not asked")));
    let api = desk.api(&fake);
    let told = |a: Value| json!({"io.kubernetes.cri.pod-annotations": a});
    let pod = desk.pod(&told(json!({"a": "b"})), ARGS, Some(&api)).unwrap();
    assert_eq!((pod.facts.annotations.as_ref().unwrap()["a"].as_str(), known(&pod)), ("b", Some("u1")));
    assert_eq!(desk.pod(&told(json!({})), ARGS, None).unwrap().facts.annotations.unwrap().len(), 0);
    let file = desk.pod(&told(json!({"kubernetes.io/config.source": "file"})), ARGS, Some(&api)).unwrap();
    assert_eq!((known(&file), file.facts.pod.as_ref().unwrap().uid.as_deref()), (None, Some("u1")));
    assert!(file.known.is_some(), "a status is told by name");
    assert!(fake.lines().is_empty());
}

#[test]
fn who_names_no_pod_of_kubernetes_is_not_asked_about() {
    let desk = Desk::new();
    for args in ["", "K8S_POD_NAME=web", "K8S_POD_NAMESPACE=prod"] {
        let pod = desk.pod(&json!({}), args, None).unwrap();
        assert!(pod.known.is_none() && pod.facts.annotations.is_none());
    }
    let failure = desk.pod(&json!({}), ARGS, None).unwrap_err();
    assert!(failure.code == Code::NoSource && failure.msg.contains("prod/web"), "{failure}");
}

#[test]
fn the_api_server_is_asked_once_and_its_uid_counts() {
    let desk = Desk::new();
    let ask = |annotations: Value, uid: &'static str, args| {
        let fake = Fake::new(move |_| Reply::Json(200, object(&annotations, uid)));
        let pod = desk.pod(&json!({}), args, Some(&desk.api(&fake)));
        assert_eq!(fake.lines(), ["GET /api/v1/namespaces/prod/pods/web"]);
        pod
    };
    let pod = ask(json!({"a": "b"}), "u1", ARGS).unwrap();
    assert_eq!(pod.facts.annotations.as_ref().unwrap()["a"], "b");
    let object = pod.object.as_ref().unwrap();
    assert!(object["metadata"]["uid"] == "u1" && object["metadata"].get("managedFields").is_none());
    assert_eq!(ask(json!(null), "u1", ARGS).unwrap().facts.annotations.unwrap().len(), 0);
    let replaced = ask(json!({}), "u2", ARGS).unwrap_err();
    assert!(replaced.code == Code::PodReplaced && replaced.msg.contains("u2"), "{replaced}");
    let file = ask(json!({"kubernetes.io/config.source": "file"}), "mirror", ARGS).unwrap();
    assert_eq!((known(&file), file.facts.pod.as_ref().unwrap().uid.as_deref()), (Some("mirror"), Some("u1")));
    assert_eq!(ask(json!({"kubernetes.io/config.source": "api"}), "u2", ARGS).unwrap_err().code, Code::PodReplaced);
    let silent = ask(json!({}), "u3", "K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web").unwrap();
    assert_eq!((known(&silent), silent.facts.pod.as_ref().unwrap().uid.as_deref()), (Some("u3"), Some("u3")));
}

#[test]
fn a_pod_that_is_gone_and_a_server_that_does_not_answer() {
    let desk = Desk::new();
    for (code, becomes) in [(404, Code::PodMissing), (403, Code::ApiRefused), (500, Code::ApiUnreachable)] {
        let fake = Fake::new(move |_| status(code, "x"));
        let failure = desk.pod(&json!({}), ARGS, Some(&desk.api(&fake))).unwrap_err();
        assert_eq!(failure.code, becomes);
        assert_eq!(failure.code.cni(), 11);
        assert!(failure.msg.contains("prod/web"), "{failure}");
    }
}

#[test]
fn a_nad_costs_one_request_and_leaves_a_copy() {
    let desk = Desk::new();
    let fake = Fake::new(|_| Reply::Json(200, lan("{}")));
    for _ in 0..2 {
        let (nad, stale) = desk.nad(Some(&desk.api(&fake)));
        assert_eq!((nad.unwrap().config.as_str(), stale.len()), ("{}", 0));
    }
    assert_eq!(fake.lines().len(), 2, "nobody vouches: asked each time");
    assert!(desk.copy().exists());
    desk.vouch();
    assert_eq!(desk.nad(Some(&desk.api(&fake))).0.unwrap().name, "lan");
    assert_eq!(desk.nad(None).0.unwrap().name, "lan");
    assert_eq!(fake.lines().len(), 2, "vouched for: nobody is asked");
}

#[test]
fn where_the_agent_vouches_but_has_no_copy_the_server_is_asked() {
    let desk = Desk::new();
    desk.vouch();
    let fake = Fake::new(|_| Reply::Json(200, lan("{}")));
    assert!(desk.nad(Some(&desk.api(&fake))).0.is_ok());
    assert_eq!(fake.lines().len(), 1);
}

#[test]
fn a_stale_copy_serves_only_while_the_server_does_not_answer() {
    let desk = Desk::new();
    let good = Fake::new(|_| Reply::Json(200, lan("{}")));
    desk.nad(Some(&desk.api(&good))).0.unwrap();
    let broken = Fake::new(|_| status(503, "starting"));
    let (nad, stale) = desk.nad(Some(&desk.api(&broken)));
    assert_eq!(nad.unwrap().config, "{}");
    assert!(stale[0].contains("network prod/lan") && stale[0].contains(" s ago"), "{stale:?}");
    let forbidding = Fake::new(|_| status(403, "no"));
    assert_eq!(desk.nad(Some(&desk.api(&forbidding))).0.unwrap_err().code, Code::ApiRefused);
    assert_eq!(desk.nad(None).0.unwrap_err().code, Code::NoSource, "without a server nobody knows how old it is");
    let gone = Fake::new(|_| status(404, "no"));
    let failure = desk.nad(Some(&desk.api(&gone))).0.unwrap_err();
    assert!(failure.code == Code::NadMissing && failure.msg.contains("prod/lan"), "{failure}");
    assert!(!desk.copy().exists(), "what is gone has no copy");
    let failure = desk.nad(Some(&desk.api(&broken))).0.unwrap_err();
    assert!(failure.code == Code::ApiUnreachable && failure.msg.contains("network prod/lan"), "{failure}");
}

#[test]
fn ages_for_people() {
    let at = |s| rounded(Duration::from_secs(s));
    assert_eq!([at(0), at(119), at(120), at(7200), at(172_800)], ["0 s", "119 s", "2 min", "2 h", "2 days"]);
}
