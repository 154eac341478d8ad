//! A machine's lease after the bind step: kept for the guest, and nothing to it.

use std::time::Duration;

use serde_json::json;

use super::{Lends, Program, Server, address, conf, exchange, records};
use crate::harness::{Seen, Sniffer, Tap, frame};
use crate::machine::{LINK, POD, TAP, bind};

/// Once it is bound the guest has the address, and whoever gives it to the guest sits at the host's end: neither the LAN's
/// DHCP nor that of our own client, which goes on, is anything to the guest; nor is its own to the LAN.
#[test]
fn a_bound_machines_lease_is_renewed_behind_its_back() {
    let (lab, lan, _server) = Server::with_lan(Program::Dnsmasq, &Lends::default());
    let pod = lab.pod();
    let mut call = lab.trestle(conf()).pod(&pod).of_pod("default", POD).ifname(LINK);
    call.add();
    let mut bound = bind(&lab, &pod);
    bound.add();
    let mut guest = Tap::open(&pod, TAP, false).unwrap();
    let (inside, outside) = (Sniffer::new(&pod), Sniffer::new(&lan));
    let mut job = records(&lab)[0]["job"].clone();
    for kind in ["Renew", "Rebind"] {
        job["step"] = json!({kind: records(&lab)[0]["job"]["step"]["Renew"]});
        let answer = exchange(&lab, &job);
        assert_eq!(answer["Bound"]["address"], "198.51.100.10", "{kind}: {answer}");
    }
    assert_eq!(address(&pod, LINK), None, "the guest has it");
    let is = |f: &Seen, port: u8| f.bytes.len() > 42 && f.bytes[12..14] == [8, 0] && f.bytes[36..38] == [0, port];
    let (link, tap) = (pod.link(LINK).index, pod.link(TAP).index);
    let answers: Vec<Seen> = inside.listen(Duration::from_millis(500)).into_iter().filter(|f| is(f, 68)).collect();
    assert!(answers.iter().any(|f| f.link == link), "our client heard the server");
    assert!(answers.iter().all(|f| f.link != tap), "and the guest did not");

    let mac = pod.link(LINK).mac;
    let mut question = frame("ff:ff:ff:ff:ff:ff", &mac, "");
    question[12..14].copy_from_slice(&[8, 0]);
    question[14] = 0x45;
    question[23] = 17;
    question[34..38].copy_from_slice(&[0, 68, 0, 67]);
    guest.send(&question);
    let other = frame("ff:ff:ff:ff:ff:ff", &mac, "anything else");
    guest.send(&other);
    let out = outside.listen(Duration::from_millis(500));
    assert!(out.iter().any(|f| f.bytes == other), "the guest's frames come out");
    assert!(!out.iter().any(|f| f.source() == mac && is(f, 67)), "but for its question");
    bound.check();
    bound.del();
    call.del();
    assert!(lab.journal().is_empty() && lab.node.traffic_control().is_empty());
}
