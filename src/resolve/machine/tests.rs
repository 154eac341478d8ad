use serde_json::json;

use super::*;
use crate::api::testing::{Fake, Reply, short, status};
use crate::net::testing::block_on;
use crate::plan::testing::call;
use crate::protocol::{Told, Trouble, Vmi};
use crate::resolve::testing;

const ARGS: &str = "K8S_POD_NAMESPACE=prod;K8S_POD_NAME=virt-launcher-db-abcde;K8S_POD_UID=u1";

/// Of a pod with a bind step.
fn annotations() -> Value {
    let networks =
        r#"[{"name":"br-lan","interface":"pod094a367b026"},{"name":"b","cni-args":{"logicNetworkName":"lan"}}]"#;
    json!({"kubevirt.io/domain": "db", "k8s.v1.cni.cncf.io/networks": networks})
}

fn object(owner: &str) -> Value {
    let owners = match owner {
        "" => json!([]),
        uid => json!([{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "db", "uid": uid}]),
    };
    json!({"metadata": {"namespace": "prod", "name": "virt-launcher-db-abcde", "uid": "u1",
        "annotations": annotations(), "ownerReferences": owners}})
}

/// An API server with this pod, and the machine `v1` of four processors.
fn server(pod: Value) -> Fake {
    let devices = json!({"networkInterfaceMultiqueue": true, "interfaces": [{"name": "lan"}]});
    let vmi =
        json!({"metadata": {"name": "db", "uid": "v1"}, "spec": {"domain": {"cpu": {"cores": 4}, "devices": devices}}});
    Fake::new(move |seen| match seen.path.as_str() {
        p if p.ends_with("/pods/virt-launcher-db-abcde") => Reply::Json(200, pod.clone()),
        "/apis/kubevirt.io/v1/namespaces/prod/virtualmachineinstances/db" => Reply::Json(200, vmi.clone()),
        _ => status(404, "not found"),
    })
}

/// An agent that knows the pod, and says this of its machine. `None`: nobody listens any more.
fn agent(dirs: &Dirs, vmi: Option<Option<Vmi>>) {
    let pod = PodRef { namespace: "prod".into(), name: "virt-launcher-db-abcde".into(), uid: Some("u1".into()) };
    let annotations = serde_json::from_value(annotations()).unwrap();
    testing::agent(dirs, vmi.map(|vmi| Told { pod, annotations, vmi, networks: vec![] }));
}

fn by_agent(nics: Option<OfNics>) -> Option<Option<Vmi>> {
    Some(Some(Vmi { owner: Owner { name: "db".into(), uid: "v1".into() }, nics }))
}

fn known(queues: u32) -> OfNics {
    OfNics::Known(Nics { queues: [("lan".to_owned(), queues)].into(), ..Nics::default() })
}

fn unreachable() -> OfNics {
    OfNics::Error(Trouble::from(&Failure::new(Code::ApiUnreachable, "asleep")))
}

/// What is found out of the queues of `lan`; `agent`: none was ever on the node, or what it says.
fn queues(agent_says: Option<Option<Option<Vmi>>>, api: Option<Fake>) -> (Outcome<Option<u32>>, Vec<String>) {
    let tmp = tempfile::tempdir().unwrap();
    let dirs = Dirs::new(tmp.path().join("run"), tmp.path().join("state")).with_boot("b1");
    if let Some(says) = agent_says {
        agent(&dirs, says);
    }
    let opened = api.as_ref().map(|fake| fake.api(tmp.path(), short()));
    let runtime = json!({"io.kubernetes.cri.pod-annotations": annotations()});
    let call = call(&json!({"name": "n", "runtimeConfig": runtime}), ARGS);
    let found = block_on(async {
        let sources = Sources::new(&call, &dirs, opened.as_ref());
        let pod = sources.pod(&Wish::default()).await?;
        assert!(pod.facts.needs_nics());
        sources.nics(&pod).await
    });
    let asked = api.map(|fake| fake.lines()).unwrap_or_default();
    (found.map(|nics| nics.and_then(|n| n.queues.get("lan").copied())), asked)
}

#[test]
fn the_agent_goes_first_and_the_api_server_next() {
    let (found, asked) = queues(Some(by_agent(Some(known(2)))), Some(server(object("v1"))));
    assert_eq!((found, asked), (Ok(Some(2)), vec![]));
    for says in [None, Some(None), Some(by_agent(None)), Some(by_agent(Some(unreachable())))] {
        let (found, asked) = queues(says.clone(), Some(server(object("v1"))));
        assert_eq!((found, asked.len()), (Ok(Some(4)), 2), "{says:?}");
    }
}

#[test]
fn a_pod_of_no_machine_has_none() {
    assert_eq!(queues(Some(Some(None)), None).0, Ok(None), "by the agent");
    assert_eq!(queues(None, Some(server(object("")))).0, Ok(None), "by the API server");
    assert_eq!(queues(None, None).0, Ok(None), "nobody is configured");
}

#[test]
fn who_should_know_and_does_not_tell_is_a_failure() {
    assert_eq!(queues(Some(None), None).0.unwrap_err().code, Code::NoSource);
    assert_eq!(queues(Some(by_agent(None)), None).0.unwrap_err().code, Code::NoSource);
    assert_eq!(queues(Some(by_agent(Some(unreachable()))), None).0.unwrap_err().code, Code::ApiUnreachable);
    let gone = OfNics::Error(Trouble::from(&Failure::new(Code::VmiMissing, "gone")));
    let (found, asked) = queues(Some(by_agent(Some(gone))), Some(server(object("v1"))));
    assert_eq!((found.unwrap_err().code, asked), (Code::VmiMissing, vec![]));
    let replaced = queues(None, Some(server(object("v0")))).0.unwrap_err();
    assert!(replaced.code == Code::VmiMissing && replaced.msg.contains("its UID is v1"), "{replaced}");
    let asleep = Fake::new(|_| status(503, "asleep"));
    assert_eq!(queues(None, Some(asleep)).0.unwrap_err().code, Code::ApiUnreachable);
}

/// As Multus runs a plugin: without annotations.
fn of_attachment(agent_says: Option<Option<Option<Vmi>>>, strict: bool) -> Outcome<PodFacts> {
    let tmp = tempfile::tempdir().unwrap();
    let dirs = Dirs::new(tmp.path().join("run"), tmp.path().join("state")).with_boot("b1");
    if let Some(says) = agent_says {
        agent(&dirs, says);
    }
    let call = call(&json!({"name": "n"}), ARGS);
    let facts = super::super::pod_facts(&call).unwrap();
    block_on(attachment_facts(&call, &dirs, facts, strict))
}

#[test]
fn for_an_attachment_the_agent_tells_what_multus_does_not() {
    let facts = of_attachment(Some(by_agent(Some(known(2)))), true).unwrap();
    assert_eq!(facts.queues("lan"), Ok(Some(2)));
    assert_eq!(facts.vm_name().as_deref(), Some("db"));
    let none = of_attachment(None, true).unwrap();
    assert!(none.annotations.is_none() && none.nics.is_none(), "no agent was ever here");
    let failure = of_attachment(Some(None), true).unwrap_err();
    assert!(failure.code == Code::NoSource && failure.msg.contains("virt-launcher-db-abcde"), "{failure}");
    assert!(of_attachment(Some(None), false).unwrap().annotations.is_none());
    assert_eq!(of_attachment(Some(by_agent(Some(unreachable()))), false).unwrap_err().code, Code::ApiUnreachable);
}
