//! GC: what it takes and, more important, what it leaves.

use std::time::Duration;

use serde_json::{Value, json};

use super::{release, slow, waits_in_ipam};
use crate::attachment::{nic, plain, vm, wire};
use crate::harness::{Call, Lab, Snapshot, store_files};
use crate::machine::bind;

/// GC of the call's network, with the attachments that the runtime still knows.
fn gc<'l>(call: &Call<'l>, valid: Value) -> Call<'l> {
    let call = call.clone().with("cniVersion", json!("1.1.0")).with("cni.dev/valid-attachments", valid);
    // STATUS and GC need no more than these.
    call.without("CNI_CONTAINERID").without("CNI_NETNS").without("CNI_IFNAME").without("CNI_ARGS")
}

fn collect(call: &Call, valid: Value) {
    // What is younger than the GC call is left, and calls are told apart by the kernel's tick.
    std::thread::sleep(Duration::from_millis(25));
    gc(call, valid).run("GC").nothing();
}

#[test]
fn takes_what_is_not_listed() {
    let (lab, _lan) = Lab::with_lan();
    let (kept, lost) = (lab.pod(), lab.pod());
    let mut keep = plain(&lab, &kept).id("kept");
    keep.add();
    let before = Snapshot::of(&lab, &[&kept, &lost]);
    let mut lose = plain(&lab, &lost).id("lost").with("macspoofchk", json!(true));
    lose.add();
    collect(&keep, json!([{"containerID": "kept", "ifname": "net1"}]));
    before.same(&Snapshot::of(&lab, &[&kept, &lost]), "after GC");
    keep.check();
    lose.del();
    keep.del();
}

#[test]
fn each_form() {
    let (lab, _lan) = Lab::with_lan();
    let _far = nic(&lab, "nic0");
    let pod = lab.pod();
    let before = Snapshot::of(&lab, &[&pod]);
    let mut fallback = plain(&lab, &pod).with("bridge", json!("br9")).with("master", json!("nic0"));
    fallback.add();
    collect(&fallback, json!([]));
    before.same(&Snapshot::of(&lab, &[&pod]), "macvlan");
    let (mut wire, mut bound) = (vm(&lab, &pod), bind(&lab, &pod));
    wire.add();
    bound.add();
    collect(&bound, json!([]));
    collect(&wire, json!([]));
    before.same(&Snapshot::of(&lab, &[&pod]), "a machine's");
}

/// A drop-in's GC works for what ours attached, too.
#[test]
fn drop_in() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let before = Snapshot::of(&lab, &[&pod]);
    let mut conf = wire(&lab);
    conf["type"] = json!("bridge");
    let mut call = lab.trestle(conf).pod(&pod);
    call.add();
    collect(&call, json!([]));
    before.same(&Snapshot::of(&lab, &[&pod]), "after GC");
}

/// An entry of the same container, but of an interface that is not listed.
#[test]
fn other_interface_of_a_listed_container() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let (mut one, mut two) = (plain(&lab, &pod).id("c"), plain(&lab, &pod).id("c").ifname("net2"));
    one.add();
    two.add();
    collect(&one, json!([{"containerID": "c", "ifname": "net1"}]));
    assert!(pod.find("net1").is_some() && pod.find("net2").is_none());
    one.check();
}

/// No list at all, or one that says nothing: nobody knows what is valid, so nothing is collected.
#[test]
fn missing_list() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut call = plain(&lab, &pod);
    call.add();
    collect(&call, Value::Null);
    let nothing = gc(&call, json!([])).with("cni.dev/valid-attachments", Value::Null);
    let mut text = nothing.conf().clone();
    text["cni.dev/valid-attachments"] = Value::Null;
    nothing.stdin(text.to_string()).run("GC").nothing();
    call.check();
    call.del();
}

/// Two networks, as two runtimes on one node have them: each collects its own.
#[test]
fn two_networks() {
    let (lab, _lan) = Lab::with_lan();
    let (first, second) = (lab.pod(), lab.pod());
    let mut one = plain(&lab, &first).id("of-the-first-runtime");
    let mut two = plain(&lab, &second).id("of-the-second-runtime").with("name", json!("podman"));
    one.add();
    two.add();
    collect(&one, json!([]));
    two.check();
    assert!(first.find("net1").is_none());
    collect(&two, json!([{"containerID": "of-the-second-runtime", "ifname": "net1"}]));
    two.check();
    collect(&two, json!([]));
    assert!(second.find("net1").is_none());
    assert!(store_files(&lab.store()).is_empty());
}

/// Addresses that the original host-local reserved are not ours to collect.
#[test]
fn addresses_of_others() {
    let (lab, _lan) = Lab::with_lan();
    let (pod, foreign) = (lab.pod(), lab.pod());
    let conf = json!({"cniVersion": "1.0.0", "name": "lan", "type": "host-local", "ipam": wire(&lab)["ipam"]});
    lab.call(crate::harness::Kind::Reference, conf).pod(&foreign).id("foreign").add();
    let mut call = plain(&lab, &pod);
    call.add();
    assert_eq!(store_files(&lab.store()).len(), 2);
    collect(&call, json!([]));
    assert_eq!(store_files(&lab.store()).into_values().collect::<Vec<_>>(), ["foreign\r\neth0"]);
}

/// An ADD at work holds its container's lock: its entry is left, and the ADD comes to its end.
#[test]
fn during_add() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut call = slow(&lab, plain(&lab, &pod));
    let add = call.start("ADD");
    waits_in_ipam(&lab);
    collect(&call, json!([]));
    release(&lab);
    call = call.prev(Some(add.wait().ok()));
    assert_eq!(pod.addresses("net1"), ["10.1.2.9/24"]);
    call.check();
    call.del();
}

/// The runtime made its list, then attached a pod, and its GC comes late: what is younger than the call is left.
#[test]
fn younger_entries() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut call = plain(&lab, &pod);
    let late = gc(&call, json!([])).hold("GC");
    std::thread::sleep(Duration::from_millis(50));
    call.add();
    late.wait().nothing();
    call.check();
    collect(&call, json!([]));
    assert!(pod.find("net1").is_none());
}

/// A pod whose namespace has gone: its address and rules go.
#[test]
fn namespace_gone() {
    let (lab, _lan) = Lab::with_lan();
    let mut pod = lab.pod();
    let mut call = plain(&lab, &pod).with("macspoofchk", json!(true));
    call.add();
    pod.remove();
    collect(&call, json!([]));
    assert!(store_files(&lab.store()).is_empty() && lab.journal().is_empty());
    assert_eq!(lab.node.filters(), Vec::<String>::new());
}

/// A torn entry does not hide the others from GC.
#[test]
fn torn_entry() {
    let (lab, _lan) = Lab::with_lan();
    let (one, two) = (lab.pod(), lab.pod());
    let (mut first, mut second) = (plain(&lab, &one), plain(&lab, &two));
    first.add();
    let torn = lab.journal();
    second.add();
    std::fs::write(&torn[0], "{\"version\": 1, \"conta").unwrap();
    std::thread::sleep(Duration::from_millis(25));
    let reply = gc(&first, json!([])).run("GC");
    assert!(two.find("net1").is_none(), "the sound one is collected: {reply:?}");
    let text = format!("{}{}", reply.stdout, reply.stderr);
    assert!(text.contains(torn[0].file_name().unwrap().to_str().unwrap()), "the torn one is named: {text}");
}
