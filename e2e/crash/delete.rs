//! DEL is killed; the runtime calls it again.

use super::cases::{BIND, DHCP, DHCP_MACHINE, DROP_IN_BRIDGE, DROP_IN_MACVLAN, FALLBACK, FOREIGN_IPAM, PORT, WIRE};
use super::{Case, Stage, kill, places};

#[track_caller]
fn each(case: &Case) {
    let counted = Stage::new(case);
    let mut call = (case.call)(&counted);
    call.add();
    let places = places(&call, &counted.lab, "DEL");
    assert!(places.len() >= 3, "DEL passes {} places only: {places:?}", places.len());
    drop(call);
    drop(counted);
    for (place, at) in places.iter().zip(1..) {
        let stage = Stage::new(case);
        let mut call = (case.call)(&stage);
        call.add();
        kill(&call, "DEL", at, place);
        call.del();
        stage.clean(case, &format!("DEL killed at {at} of {}, {place}, then DEL", places.len()));
    }
}

#[test]
fn port() {
    each(&PORT);
}

#[test]
fn fallback() {
    each(&FALLBACK);
}

#[test]
fn wire() {
    each(&WIRE);
}

#[test]
fn bind_step() {
    each(&BIND);
}

#[test]
fn drop_in_bridge() {
    each(&DROP_IN_BRIDGE);
}

#[test]
fn drop_in_macvlan() {
    each(&DROP_IN_MACVLAN);
}

#[test]
fn foreign_ipam() {
    each(&FOREIGN_IPAM);
}

#[test]
fn dhcp() {
    each(&DHCP);
}

#[test]
fn dhcp_machine() {
    each(&DHCP_MACHINE);
}
