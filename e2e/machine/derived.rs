//! The MAC that survives restart and migration: sha256(seed, 0, namespace, 0, VM, 0, key).

use serde_json::json;
use sha2::{Digest, Sha256};

use super::{LINK, annotated, vm};
use crate::harness::{Call, Lab, Netns};

fn derived(seed: &str, namespace: &str, vm: &str, key: &str) -> String {
    let digest = Sha256::digest([seed, namespace, vm, key].join("\0"));
    let mut bytes: Vec<u8> = digest[..6].to_vec();
    bytes[0] = bytes[0] & !1 | 2;
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}

#[track_caller]
fn mac(pod: &Netns, mut call: Call, link: &str) -> String {
    call.add();
    let mac = pod.link(link).mac;
    call.check();
    call.del();
    mac
}

/// A change of these would change the lease of every machine there is.
#[test]
fn pinned() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    assert_eq!(mac(&pod, vm(&lab, &pod), LINK), "e2:0d:93:fe:8e:cd");
    let db = vm(&lab, &pod).of_pod("prod", "virt-launcher-db-0-x7f2q").ifname("net1");
    assert_eq!(mac(&pod, db, "net1"), "26:7c:e0:f3:41:5d");
    lab.node_json(r#"{"seed": "6f1d2c4e-0000-4000-8000-000000000001"}"#);
    assert_eq!(mac(&pod, vm(&lab, &pod), LINK), "12:ab:60:ae:22:9d");
}

#[test]
fn by_rule() {
    let (lab, _lan) = Lab::with_lan();
    lab.node_json(r#"{"seed": "s"}"#);
    let pod = lab.pod();
    for (namespace, name, link, key) in [
        ("default", "testvm", LINK, "094a367b026"),
        ("default", "testvm", "poda393efd3bab", "a393efd3bab"),
        ("default", "testvm", "eth0", "eth0"),
        ("default", "testvm", "net3", "net3"),
        ("a", "b-c", LINK, "094a367b026"),
        ("default", &"n".repeat(43), LINK, "094a367b026"),
    ] {
        let call = vm(&lab, &pod).of_pod(namespace, &format!("virt-launcher-{name}-abcde")).ifname(link);
        assert_eq!(mac(&pod, call, link), derived("s", namespace, name, key), "{namespace}/{name} {link}");
    }
}

/// The same for another pod of the same machine: a restart, the target of a migration.
#[test]
fn survives_the_pod() {
    let (lab, _lan) = Lab::with_lan();
    let (one, two) = (lab.pod(), lab.pod());
    let first = mac(&one, vm(&lab, &one), LINK);
    let second = mac(&two, vm(&lab, &two).of_pod("default", "virt-launcher-testvm-zzzzz"), LINK);
    assert_eq!(first, second);
}

/// Whoever asks for a MAC gets it.
#[test]
fn asked_for() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let call = vm(&lab, &pod).args(
        "IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=virt-launcher-testvm-abcde;MAC=02:00:5e:10:00:01",
    );
    assert_eq!(mac(&pod, call, LINK), "02:00:5e:10:00:01");
}

/// A long name comes shortened and is not known from the pod's: a random MAC, and the log says so.
#[test]
fn shortened_name() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    // The API server cuts `virt-launcher-NAME-` at 58 letters before it adds five.
    let long = "n".repeat(50);
    let name = format!("{}abcde", &format!("virt-launcher-{long}-")[..58]);
    let call = vm(&lab, &pod).of_pod("default", &name);
    let one = call.run("ADD");
    one.ok();
    let first = pod.link(LINK).mac;
    assert!(one.stderr.to_lowercase().contains("mac"), "the log tells of the random MAC: {}", one.stderr);
    call.del();
    call.run("ADD").ok();
    assert_ne!(first, pod.link(LINK).mac);
    call.del();
    // The annotation knows the whole name, where it agrees with the pod's.
    let annotations = json!({"kubevirt.io/domain": long});
    assert_eq!(mac(&pod, annotated(call, annotations), LINK), derived("", "default", &long, "094a367b026"));
}

/// An annotation that does not agree with the pod's name is not believed.
#[test]
fn annotation_of_another_machine() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let call = annotated(vm(&lab, &pod), json!({"kubevirt.io/domain": "other"}));
    assert_ne!(mac(&pod, call, LINK), derived("", "default", "other", "094a367b026"));
}
