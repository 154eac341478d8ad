use serde_json::json;

use super::*;
use crate::agent::testing::{Cluster, context, pod_object, vmi_object};
use crate::net::testing::block_on;

fn pod(uid: &str) -> PodRef {
    PodRef { namespace: "prod".into(), name: "virt-launcher-db-abcde".into(), uid: Some(uid.into()) }
}

fn launcher(uid: &str, vmi: &str) -> Value {
    let mut object = pod_object("virt-launcher-db-abcde", uid, &json!({}));
    object["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "db", "uid": vmi}]);
    object
}

#[test]
fn a_machine_is_asked_for_once() {
    let tmp = tempfile::tempdir().unwrap();
    let (ctx, cluster) = (context(tmp.path()), Cluster::new(tmp.path()));
    cluster.put_silently(&launcher("u1", "v1"));
    cluster.put_vmi(&vmi_object("db", "v1", 4));
    let facts = block_on(of(&ctx, &pod("u1"))).unwrap();
    assert_eq!((facts.uid.as_str(), facts.nics.queues["lan"]), ("v1", 4));
    assert_eq!(facts.options["lan"].tftp_server_name.as_deref(), Some("192.0.2.9"));
    assert_eq!(block_on(of(&ctx, &pod("u1"))).unwrap(), facts);
    assert_eq!(cluster.asked("GET", "/virtualmachineinstances/db").len(), 1);
    assert!(ctx.known.machines.get("u2").is_none());
}

#[test]
fn another_one_of_its_name_is_none() {
    let tmp = tempfile::tempdir().unwrap();
    let (ctx, cluster) = (context(tmp.path()), Cluster::new(tmp.path()));
    let failure = |uid: &str| block_on(of(&ctx, &pod(uid))).unwrap_err();
    assert!(failure("u1").msg.contains("belongs to no VirtualMachineInstance"), "no pod");
    cluster.put_silently(&launcher("u1", "v1"));
    assert!(failure("u1").msg.contains("prod/db is not there"));
    cluster.put_vmi(&vmi_object("db", "v2", 4));
    let replaced = failure("u1");
    assert!(replaced.code == Code::VmiMissing && replaced.msg.contains("its UID is v2"), "{replaced}");
    assert_eq!(failure("u2").code, Code::VmiMissing, "another pod of that name");
    cluster.fail(Some(503));
    assert_eq!(failure("u1").code, Code::ApiUnreachable);
}
