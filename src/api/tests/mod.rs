//! Requests as the server sees them, and what becomes of its answers.

mod names;
mod tls;
mod trouble;
mod watch;

use crate::net::testing::block_on;
use serde_json::json;

use super::testing::{Fake, Reply, short, status};
use super::*;
use crate::types::Code;

const STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

fn pod() -> PodRef {
    PodRef { namespace: "prod".into(), name: "web".into(), uid: Some("u1".into()) }
}

/// A server with these answers, in this order; the last one for ever.
fn script(mut answers: Vec<Reply>) -> Fake {
    answers.reverse();
    let mut next = move || match answers.len() {
        1 => match &answers[0] {
            Reply::Json(code, value) => Reply::Json(*code, value.clone()),
            _ => Reply::Reset,
        },
        _ => answers.pop().unwrap(),
    };
    Fake::new(move |_| next())
}

#[test]
fn objects_are_asked_for_by_their_paths_over_one_connection() {
    let fake = Fake::new(|seen| Reply::Json(200, json!({"path": seen.path, "items": [{"a": 1}]})));
    let tmp = tempfile::tempdir().unwrap();
    let api = fake.api(tmp.path(), short());
    block_on(async {
        let pod = api.get_pod("prod", "web").await.unwrap().unwrap();
        assert_eq!(pod["path"], "/api/v1/namespaces/prod/pods/web");
        api.get_nad("prod", "br-lan.1").await.unwrap().unwrap();
        api.get_claim("prod", "c").await.unwrap().unwrap();
        assert_eq!(api.list_slices("node1", "gpu.example.com").await.unwrap(), [json!({"a": 1})]);
    });
    assert_eq!(
        fake.lines(),
        [
            "GET /api/v1/namespaces/prod/pods/web",
            "GET /apis/k8s.cni.cncf.io/v1/namespaces/prod/network-attachment-definitions/br-lan.1",
            "GET /apis/resource.k8s.io/v1/namespaces/prod/resourceclaims/c",
            "GET /apis/resource.k8s.io/v1/resourceslices?fieldSelector=spec.nodeName%3Dnode1%2Cspec.driver%3Dgpu.example.com",
        ]
    );
    for seen in fake.seen() {
        assert_eq!((seen.connection, seen.headers["accept"].as_str()), (0, "application/json"));
        assert!(seen.headers["user-agent"].starts_with("trestle/"));
        assert!(seen.body.is_empty() && !seen.headers.contains_key("authorization"));
    }
}

#[test]
fn what_is_not_there_is_none_and_is_asked_for_once() {
    let fake = Fake::new(|_| status(404, "not found"));
    let tmp = tempfile::tempdir().unwrap();
    let api = fake.api(tmp.path(), short());
    block_on(async {
        assert_eq!(api.get_pod("prod", "web").await, Ok(None));
        assert_eq!(api.get_nad("prod", "lan").await, Ok(None));
        assert_eq!(api.list_slices("n", "d").await, Ok(vec![]));
    });
    assert_eq!(fake.lines().len(), 3);
}

#[test]
fn a_name_that_no_object_has_is_not_asked_for() {
    let fake = Fake::new(|_| Reply::Json(200, json!({})));
    let tmp = tempfile::tempdir().unwrap();
    let api = fake.api(tmp.path(), short());
    block_on(async {
        for name in ["", ".", "..", "../../secrets/s", "a/b", "a?b", "a%2fb", "A", "a b", "a\n", &"x".repeat(254)] {
            assert_eq!(api.get_nad("prod", name).await, Ok(None), "{name:?}");
            assert_eq!(api.get_nad(name, "lan").await, Ok(None), "{name:?}");
            let pod = PodRef { name: name.into(), ..pod() };
            assert_eq!(api.patch_annotation(&pod, STATUS, "[]").await, Ok(Told::Gone));
        }
        assert_eq!(api.list_slices("n&x=y", "d").await, Ok(vec![]));
    });
    assert!(fake.lines().is_empty());
}

#[test]
fn a_status_is_one_merge_patch_with_the_uid() {
    let fake = Fake::new(|_| Reply::Json(200, json!({"kind": "Pod"})));
    let tmp = tempfile::tempdir().unwrap();
    let api = fake.api(tmp.path(), short());
    block_on(async {
        assert_eq!(api.patch_annotation(&pod(), STATUS, "[{\n}]").await, Ok(Told::Done));
        assert_eq!(api.patch_annotation(&PodRef { uid: None, ..pod() }, STATUS, "x").await, Ok(Told::Done));
    });
    let seen = fake.seen();
    assert_eq!(fake.lines(), ["PATCH /api/v1/namespaces/prod/pods/web/status"; 2]);
    assert_eq!(seen[0].headers["content-type"], "application/merge-patch+json");
    let patch = json!({"metadata": {"annotations": {STATUS: "[{\n}]"}, "uid": "u1"}});
    assert_eq!(seen[0].json(), patch);
    assert!(seen[1].json()["metadata"].get("uid").is_none());
}

#[test]
fn a_status_of_a_pod_that_is_gone_or_replaced_is_no_failure() {
    let told = |answers| {
        let fake = script(answers);
        let tmp = tempfile::tempdir().unwrap();
        let api = fake.api(tmp.path(), short());
        (block_on(api.patch_annotation(&pod(), STATUS, "[]")), fake.lines().len())
    };
    let is = |uid: &str| Reply::Json(200, json!({"metadata": {"uid": uid}}));
    assert_eq!(told(vec![status(404, "pods \"web\" not found")]), (Ok(Told::Gone), 1));
    assert_eq!(told(vec![status(409, "Precondition failed"), is("u2")]), (Ok(Told::Replaced), 2));
    assert_eq!(told(vec![status(422, "field is immutable"), is("u2")]), (Ok(Told::Replaced), 2));
    assert_eq!(told(vec![status(409, "conflict"), status(404, "gone")]), (Ok(Told::Gone), 2));
    assert_eq!(told(vec![status(409, "modified"), is("u1"), is("u1")]), (Ok(Told::Done), 3));
}

#[test]
fn conflicts_end_and_an_invalid_status_is_told() {
    let tmp = tempfile::tempdir().unwrap();
    let fake = Fake::new(|seen| match seen.method.as_str() {
        "GET" => Reply::Json(200, json!({"metadata": {"uid": "u1"}})),
        _ => status(409, "again and again"),
    });
    let failure = block_on(fake.api(tmp.path(), short()).patch_annotation(&pod(), STATUS, "[]")).unwrap_err();
    assert!(failure.code == Code::ApiRefused && failure.msg.contains("again and again"), "{failure}");
    assert_eq!(fake.lines().len(), 20);
    let fake = script(vec![status(422, "annotations: Too long"), Reply::Json(200, json!({"metadata": {"uid": "u1"}}))]);
    let failure = block_on(fake.api(tmp.path(), short()).patch_annotation(&pod(), STATUS, "[]")).unwrap_err();
    assert!(failure.code == Code::ApiRefused && failure.msg.contains("422 annotations: Too long"), "{failure}");
    let unknown = PodRef { uid: None, ..pod() };
    let fake = script(vec![status(409, "x"), Reply::Json(200, json!({}))]);
    assert_eq!(block_on(fake.api(tmp.path(), short()).patch_annotation(&unknown, STATUS, "[]")), Ok(Told::Done));
    assert_eq!(fake.lines().len(), 2, "without a UID there is nothing to look up");
}

#[test]
fn refusals_name_the_object_and_the_servers_own_words() {
    let tmp = tempfile::tempdir().unwrap();
    let refused = |reply| {
        let fake = script(vec![reply, Reply::Json(200, json!({}))]);
        let failure = block_on(fake.api(tmp.path(), short()).get_nad("prod", "lan")).unwrap_err();
        assert_eq!((failure.code, fake.lines().len()), (Code::ApiRefused, 1));
        assert!(failure.msg.contains("get network-attachment-definition prod/lan"), "{failure}");
        failure.to_string()
    };
    let text = refused(status(403, "User \"x\" cannot get resource"));
    assert!(text.contains("403 User \"x\" cannot get resource") && text.contains("give this user the right"), "{text}");
    assert!(refused(Reply::With(401, vec![], "Unauthorized\n".into())).contains("401 Unauthorized"));
    assert!(refused(Reply::With(302, vec![("location", "https://login.example/")], String::new())).contains("302"));
    assert!(refused(Reply::With(200, vec![], "<html>".into())).contains("not JSON"));
}

#[test]
fn who_names_credentials_for_plain_http_is_told_why_they_do_not_help() {
    let tmp = tempfile::tempdir().unwrap();
    let fake = Fake::new(|_| status(401, "Unauthorized"));
    let file = testing::kubeconfig(tmp.path(), &json!({"server": fake.url()}), &json!({"token": "t"}));
    let failure = block_on(testing::api(&file, short()).get_pod("prod", "web")).unwrap_err();
    assert!(failure.remedy.contains("no credentials are sent over plain http"), "{failure}");
    assert!(!fake.seen()[0].headers.contains_key("authorization"));
}

#[test]
fn an_event_is_posted_once_in_the_pods_namespace() {
    let tmp = tempfile::tempdir().unwrap();
    let event = |reply: Reply| {
        let fake = script(vec![reply, status(500, "")]);
        let pod = pod();
        let event = Event {
            about: &pod,
            on: On::Pod,
            reason: "NoNetwork",
            message: "m",
            warning: true,
            component: "trestle",
            once: false,
        };
        let outcome = block_on(fake.api(tmp.path(), short()).event(&event));
        assert_eq!(fake.lines(), ["POST /api/v1/namespaces/prod/events"]);
        assert_eq!(fake.seen()[0].headers["content-type"], "application/json");
        assert_eq!(fake.seen()[0].json()["involvedObject"]["uid"], "u1");
        outcome
    };
    for code in [201, 404, 409] {
        assert_eq!(event(Reply::Json(code, json!({}))), Ok(()), "{code}");
    }
    assert_eq!(event(status(403, "no")).unwrap_err().code, Code::ApiRefused);
    assert_eq!(event(status(422, "no")).unwrap_err().code, Code::ApiRefused);
}
