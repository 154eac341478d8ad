//! The macvlan fallback of plain pods.

use serde_json::json;

use super::{in_sandbox, nic, plain};
use crate::harness::{Lab, Netns, Snapshot, reached, store_files};

fn with_nic() -> (Lab, Netns) {
    let lab = Lab::new();
    let far = nic(&lab, "nic0");
    far.run("ip addr add 10.1.2.200/24 dev far0");
    (lab, far)
}

/// The bridge is not here, the master is: macvlan, and the result says so by its first interface. A NAD that names a
/// master only asks for it: the same wire.
#[test]
fn life() {
    let (lab, far) = with_nic();
    for bridge in [json!("br-lan"), json!(null)] {
        let fallen_back = bridge.is_string();
        let pod = lab.pod();
        let mut call = plain(&lab, &pod).with("bridge", bridge).with("master", json!("nic0"));
        let before = Snapshot::of(&lab, &[&pod]);
        let result = call.add();
        if fallen_back {
            let first = &result["interfaces"][0];
            assert_eq!(first["name"], "nic0", "{result}");
            assert!(first["sandbox"].as_str().is_none_or(str::is_empty), "{result}");
        }
        let inside = in_sandbox(&result);
        let link = pod.link("net1");
        assert_eq!((link.kind.as_str(), link.up), ("macvlan", true));
        assert_eq!((&inside["name"], &inside["mac"]), (&json!("net1"), &json!(link.mac)));
        let index = result["ips"][0]["interface"].as_u64().unwrap() as usize;
        assert_eq!(result["interfaces"][index]["name"], "net1");
        let address = result["ips"][0]["address"].as_str().unwrap().replace("/24", "");
        reached(&pod, &far, "10.1.2.200");
        reached(&far, &pod, &address);
        call.check();
        call.del();
        before.same(&Snapshot::of(&lab, &[&pod]), "after DEL");
        call.del();
    }
}

/// It is told: on standard error, with bridge and master.
#[test]
fn is_told() {
    let (lab, _far) = with_nic();
    let pod = lab.pod();
    let call = plain(&lab, &pod).with("master", json!("nic0"));
    let reply = call.run("ADD");
    reply.ok();
    for word in ["br-lan", "nic0", "macvlan"] {
        assert!(reply.stderr.contains(word), "the log names {word}: {}", reply.stderr);
    }
}

/// A bridge that was made meanwhile does not confuse CHECK and DEL of a macvlan that is there.
#[test]
fn bridge_made_later() {
    let (lab, _far) = with_nic();
    let pod = lab.pod();
    let mut call = plain(&lab, &pod).with("master", json!("nic0"));
    call.add();
    lab.node.run("ip link add br-lan type bridge");
    lab.node.run("ip link set br-lan up");
    call.check();
    call.del();
    assert!(pod.find("net1").is_none() && store_files(&lab.store()).is_empty());
}

#[test]
fn modes() {
    let (lab, _far) = with_nic();
    for mode in ["bridge", "private", "vepa", "passthru"] {
        let pod = lab.pod();
        let mut call = plain(&lab, &pod).with("master", json!("nic0")).with("mode", json!(mode));
        call.add();
        assert_eq!(pod.link("net1").data("mode"), mode);
        call.check();
        call.del();
    }
}

/// What only a bridge's port can have is refused, never dropped. On a bridge the same configuration is fine.
#[test]
fn bridge_options_are_refused() {
    let (lab, _far) = with_nic();
    let pod = lab.pod();
    let options = [
        ("vlan", json!(7)),
        ("vlanTrunk", json!([{"id": 7}])),
        ("portIsolation", json!(true)),
        ("hairpinMode", json!(true)),
        ("macspoofchk", json!(true)),
    ];
    for (key, value) in options {
        for bridge in [json!("br-lan"), json!(null)] {
            let before = Snapshot::of(&lab, &[&pod]);
            let call = plain(&lab, &pod).with("bridge", bridge).with("master", json!("nic0")).with(key, value.clone());
            call.fails("ADD").is(100, "TR0204", &[key]);
            before.same(&Snapshot::of(&lab, &[&pod]), "after the refusal");
        }
    }
    // An option that is off asks for nothing.
    let mut call = plain(&lab, &pod).with("master", json!("nic0")).with("hairpinMode", json!(false));
    call.add();
    call.del();
}

/// The namespace is gone, the master is gone: DEL has only the address to release.
#[test]
fn delete_after_everything_went() {
    let (lab, _far) = with_nic();
    let mut pod = lab.pod();
    let mut call = plain(&lab, &pod).with("master", json!("nic0"));
    call.add();
    lab.node.run("ip link del nic0");
    pod.remove();
    call.del();
    call.without("CNI_NETNS").del();
    assert!(store_files(&lab.store()).is_empty());
    assert!(lab.journal().is_empty(), "{:?}", lab.journal());
}
