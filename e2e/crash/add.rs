//! ADD is killed; then DEL, or GC, or the pod's namespace goes first.

use std::time::Duration;

use serde_json::json;

use super::cases::{BIND, DHCP, DHCP_MACHINE, DROP_IN_BRIDGE, DROP_IN_MACVLAN, FALLBACK, FOREIGN_IPAM, PORT, WIRE};
use super::{Case, Stage, kill, places};
use crate::harness::{Call, store_files};

/// Kills ADD at each of its places, lets `undo` undo, and looks for what is left.
#[track_caller]
fn each(case: &Case, undo: impl Fn(&Call), name: &str) {
    let counted = Stage::new(case);
    let places = places(&(case.call)(&counted), &counted.lab, "ADD");
    assert!(places.len() >= case.steps, "ADD passes {} places only: {places:?}", places.len());
    drop(counted);
    for (place, at) in places.iter().zip(1..) {
        let stage = Stage::new(case);
        let call = (case.call)(&stage);
        kill(&call, "ADD", at, place);
        undo(&call);
        stage.clean(case, &format!("ADD killed at {at} of {}, {place}, then {name}", places.len()));
        // The same container may be attached anew.
        let mut again = call;
        again.add();
        again.check();
        again.del();
        stage.clean(case, &format!("after another ADD and DEL ({place})"));
    }
}

fn delete(call: &Call) {
    call.del();
    call.del();
}

fn collect(call: &Call) {
    // What is younger than the GC call is left, and calls are told apart by the kernel's tick.
    std::thread::sleep(Duration::from_millis(25));
    let gc = call.clone().with("cniVersion", json!("1.1.0")).with("cni.dev/valid-attachments", json!([]));
    gc.run("GC").nothing();
}

/// The namespace is gone before DEL comes: links go with it, the rest must go by the journal.
#[track_caller]
fn namespace_gone(case: &Case) {
    let counted = Stage::new(case);
    let places = places(&(case.call)(&counted), &counted.lab, "ADD");
    drop(counted);
    for (place, at) in places.iter().zip(1..) {
        let mut stage = Stage::new(case);
        kill(&(case.call)(&stage), "ADD", at, place);
        stage.pod.remove();
        let call = (case.call)(&stage);
        call.without("CNI_NETNS").del();
        let when = format!("ADD killed at {at}, {place}, namespace gone, then DEL");
        assert_eq!(store_files(&stage.lab.store()).len(), 0, "{when}");
        assert_eq!(stage.lab.node.filters(), Vec::<String>::new(), "{when}");
        assert!(stage.lab.journal().is_empty(), "{when}: {:?}", stage.lab.journal());
        assert_eq!(stage.leases(), Vec::<String>::new(), "{when}");
    }
}

macro_rules! rounds {
    ($($name:ident: $case:ident;)+) => {$(
        mod $name {
            use super::*;

            #[test]
            fn then_delete() {
                each(&$case, delete, "DEL");
            }

            #[test]
            fn then_gc() {
                each(&$case, collect, "GC");
            }
        }
    )+};
}

rounds! {
    port: PORT;
    fallback: FALLBACK;
    wire: WIRE;
    bind_step: BIND;
    drop_in_bridge: DROP_IN_BRIDGE;
    drop_in_macvlan: DROP_IN_MACVLAN;
    foreign_ipam: FOREIGN_IPAM;
    dhcp: DHCP;
    dhcp_machine: DHCP_MACHINE;
}

#[test]
fn port_and_namespace_gone() {
    namespace_gone(&PORT);
}

#[test]
fn dhcp_and_namespace_gone() {
    namespace_gone(&DHCP);
}

#[test]
fn drop_in_bridge_and_namespace_gone() {
    namespace_gone(&DROP_IN_BRIDGE);
}
