//! How many queues the tap gets: `trestle.network/queues` on the pod, by network name.

use serde_json::json;

use super::{TAP, annotated, bind, vm};
use crate::harness::{Lab, Tap};

#[test]
fn queues() {
    let (lab, _lan) = Lab::with_lan();
    let cases = [
        (r#"{"lan": 4}"#, true),
        (r#"{"lan": 2, "dmz": 1}"#, true),
        (r#"{"lan": 1}"#, false),
        (r#"{"dmz": 4}"#, false),
        ("{}", false),
    ];
    for (text, many) in cases {
        let pod = lab.pod();
        vm(&lab, &pod).add();
        let annotations = json!({"kubevirt.io/domain": "testvm", "trestle.network/queues": text});
        let mut bound = annotated(bind(&lab, &pod), annotations);
        bound.add();
        assert_eq!(pod.link(TAP).data("multi_queue"), many, "{text}");
        // The kernel wants opener and tap to agree: what libvirt meets.
        assert!(Tap::open(&pod, TAP, many).is_ok(), "{text}");
        assert!(Tap::open(&pod, TAP, !many).is_err(), "{text}");
        bound.check();
        bound.del();
    }
}

/// Nobody says: one queue, and the log says so.
#[test]
fn unknown() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    vm(&lab, &pod).add();
    let reply = bind(&lab, &pod).run("ADD");
    reply.ok();
    assert_eq!(pod.link(TAP).data("multi_queue"), false);
    assert!(reply.stderr.contains("queue"), "the log tells: {}", reply.stderr);
}

/// CHECK compares the queues.
#[test]
fn check_notices() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    vm(&lab, &pod).add();
    let annotations = json!({"kubevirt.io/domain": "testvm", "trestle.network/queues": r#"{"lan": 4}"#});
    let mut bound = annotated(bind(&lab, &pod), annotations);
    bound.add();
    bound.check();
    pod.run(&format!("ip link del {TAP}"));
    pod.run(&format!("ip tuntap add {TAP} mode tap user 107 group 107"));
    pod.run(&format!("ip link set {TAP} up"));
    assert_eq!(bound.fails("CHECK").code, 101);
    bound.del();
}

#[test]
fn malformed() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    vm(&lab, &pod).add();
    for text in ["{", "[]", r#"{"lan": "many"}"#, r#"{"lan": -1}"#] {
        let annotations = json!({"kubevirt.io/domain": "testvm", "trestle.network/queues": text});
        let error = annotated(bind(&lab, &pod), annotations).fails("ADD");
        assert_eq!(error.code, 7, "{text}: {error:?}");
        error.names(&["trestle.network/queues"]);
        assert!(pod.find(TAP).is_none());
    }
}
