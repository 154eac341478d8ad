//! `/run` was wiped under living pods: DEL does what the original does, from standard input and environment.

use serde_json::{Value, json};

use crate::attachment::{nic, plain, vm, wire};
use crate::harness::{Call, Lab, Netns, Snapshot, store_files};
use crate::machine::{POD, bind};

/// Attaches, wipes, deletes, looks.
#[track_caller]
fn undone<'l>(lab: &'l Lab, pod: &Netns, mut call: Call<'l>) {
    let before = Snapshot::of(lab, &[pod]);
    call.add();
    std::fs::remove_dir_all(lab.run_dir()).unwrap();
    call.del();
    before.same(&Snapshot::of(lab, &[pod]), "after DEL without a journal");
    call.del();
}

#[test]
fn port() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    undone(&lab, &pod, plain(&lab, &pod).with("macspoofchk", json!(true)));
}

#[test]
fn fallback() {
    let (lab, _lan) = Lab::with_lan();
    let _far = nic(&lab, "nic0");
    let pod = lab.pod();
    undone(&lab, &pod, plain(&lab, &pod).with("bridge", json!("br9")).with("master", json!("nic0")));
}

#[test]
fn wire_of_a_machine() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    undone(&lab, &pod, vm(&lab, &pod));
}

fn drop_in(lab: &Lab, kind: &str) -> Value {
    let mut conf = wire(lab);
    conf["type"] = json!(kind);
    conf
}

#[test]
fn drop_in_bridge() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let call = lab.trestle(drop_in(&lab, "bridge")).pod(&pod);
    undone(&lab, &pod, call.with("macspoofchk", json!(true)).with("ipMasq", json!(true)));
}

#[test]
fn drop_in_macvlan() {
    let (lab, _lan) = Lab::with_lan();
    let _far = nic(&lab, "nic0");
    let pod = lab.pod();
    let call = lab.trestle(drop_in(&lab, "macvlan")).pod(&pod).with("bridge", json!(null));
    undone(&lab, &pod, call.with("master", json!("nic0")));
}

/// A machine that was bound: both DELs, in either order.
#[test]
fn bound_machine() {
    for bind_first in [true, false] {
        let (lab, _lan) = Lab::with_lan();
        let pod = lab.pod();
        let before = Snapshot::of(&lab, &[&pod]);
        let (mut wire, mut bound) = (vm(&lab, &pod), bind(&lab, &pod));
        wire.add();
        bound.add();
        std::fs::remove_dir_all(lab.run_dir()).unwrap();
        let order = if bind_first { [&bound, &wire] } else { [&wire, &bound] };
        for call in order {
            call.del();
        }
        before.same(&Snapshot::of(&lab, &[&pod]), "after both DELs");
    }
}

/// Without a journal DEL takes a veth or a macvlan of that name, and nothing else: the name may be another's by now.
#[test]
fn other_links_of_that_name() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    pod.run("ip link add net1 type bridge");
    plain(&lab, &pod).del();
    assert_eq!(pod.link("net1").kind, "bridge");
    let machine = lab.pod();
    machine.run("ip tuntap add pod094a367b026 mode tap");
    vm(&lab, &machine).of_pod("default", POD).del();
    assert!(machine.find("pod094a367b026").is_some());
}

/// The next ADD makes the run directory anew, and living pods keep theirs.
#[test]
fn goes_on() {
    let (lab, _lan) = Lab::with_lan();
    let (old, new) = (lab.pod(), lab.pod());
    let (mut one, mut two) = (plain(&lab, &old), plain(&lab, &new));
    one.add();
    std::fs::remove_dir_all(lab.run_dir()).unwrap();
    two.add();
    assert_eq!(store_files(&lab.store()).len(), 2, "a living pod's address is not given away");
    std::thread::sleep(std::time::Duration::from_millis(25));
    let gc = two.clone().with("cniVersion", json!("1.1.0")).with("cni.dev/valid-attachments", json!([]));
    gc.run("GC").nothing();
    assert!(old.find("net1").is_some(), "nobody knows the old one: it is left");
    one.del();
    assert!(store_files(&lab.store()).is_empty());
}
