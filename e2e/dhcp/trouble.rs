//! No server, senseless ones, and an address that somebody has.

use std::time::{Duration, Instant};

use serde_json::json;

use super::server::both_servers;
use super::{Lends, Program, Server, plain, records};
use crate::harness::{Lab, eventually};

#[test]
fn no_server_is_told_in_time_and_nothing_is_left() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let start = Instant::now();
    let e = plain(&lab, &pod).fails("ADD");
    e.is(11, "TR0510", &["network lan", "no DHCP server answered", "tcpdump"]);
    assert!(start.elapsed() < Duration::from_secs(24), "{:?}", start.elapsed());
    assert!(records(&lab).is_empty() && lab.journal().is_empty() && pod.find("net1").is_none());
}

both_servers! {
    fn an_address_that_somebody_has_is_declined(program: Program) {
        let (lab, lan, _server) = Server::with_lan(program, &Lends::default());
        lab.node.run("ip addr add 198.51.100.10/24 dev br-lan");
        let pod = lab.pod();
        let result = plain(&lab, &pod).add();
        assert_eq!(result["ips"][0]["address"], "198.51.100.11/24");
        drop(lan);
    }
}

#[test]
fn a_bad_section_costs_nothing() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    for list in ["provide", "request"] {
        let call =
            plain(&lab, &pod).with("ipam", json!({"type": "dhcp", list: [{"option": "no-such-option", "value": "x"}]}));
        call.fails("ADD").is(7, "TR0501", &["no-such-option"]);
        call.clone().with("cniVersion", json!("1.1.0")).fails("STATUS").is(7, "TR0501", &["no-such-option"]);
        call.del();
    }
    assert!(lab.journal().is_empty());
}

both_servers! {
    fn a_record_that_cannot_be_written_fails_the_add(program: Program) {
        let (lab, _lan, server) = Server::with_lan(program, &Lends::default());
        let pod = lab.pod();
        // A file where the directory should be.
        std::fs::create_dir_all(lab.state_dir()).unwrap();
        std::fs::write(lab.state_dir().join("leases"), "").unwrap();
        plain(&lab, &pod).fails("ADD");
        eventually("the server has its address back", || server.leased().is_empty());
        assert!(pod.find("net1").is_none());
    }
}
