//! A machine's lease: the same for each of its pods, and asked for without a frame that has the guest's MAC as its source.

use serde_json::json;

use super::{Server, address, conf, exchange, records};
use crate::harness::{Call, Lab, Netns, Sniffer, eventually};
use crate::machine::{LINK, POD};

fn wire<'l>(lab: &'l Lab, pod: &Netns, name: &str) -> Call<'l> {
    lab.trestle(conf()).pod(pod).of_pod("default", name).ifname(LINK)
}

#[test]
fn each_pod_of_a_machine_gets_the_same_address() {
    let (lab, lan) = Lab::with_lan();
    let server = Server::start(&lab, &lan, &[]);
    let mut seen = Vec::new();
    for name in [POD, "virt-launcher-testvm-fghij", "virt-launcher-other-fghij"] {
        let pod = lab.pod();
        let mut call = wire(&lab, &pod, name);
        let result = call.add();
        assert_eq!(address(&pod, LINK).unwrap().0, result["ips"][0]["address"].as_str().unwrap());
        seen.push(server.leased().last().unwrap().clone());
        if name == POD {
            // Restarted: the next one comes after its DEL. The server remembers whom it gave the address.
            call.del();
            eventually("the server has its address back", || server.leased().is_empty());
        }
    }
    assert_eq!(seen[0], seen[1]);
    assert!(seen[0].client_id.starts_with("ff:") && seen[0].name == "testvm", "{seen:?}");
    assert_ne!(seen[0].address, seen[2].address);
}

#[test]
fn no_frame_has_the_guests_mac() {
    let (lab, lan) = Lab::with_lan();
    let _server = Server::start(&lab, &lan, &[]);
    let pod = lab.pod();
    let sniffer = Sniffer::new(&lan);
    let mut call = wire(&lab, &pod, POD);
    call.add();
    let guest = pod.link(LINK).mac;
    let mut job = records(&lab)[0]["job"].clone();
    for kind in ["Renew", "Rebind"] {
        job["step"] = json!({kind: records(&lab)[0]["job"]["step"]["Renew"]});
        let answer = exchange(&lab, &job);
        assert_eq!(answer["Bound"]["address"], "198.51.100.10", "{kind}: {answer}");
    }
    call.del();
    let frames = sniffer.listen(std::time::Duration::from_millis(500));
    let incoming: Vec<String> = frames.iter().filter(|f| !f.outgoing).map(|f| f.source()).collect();
    assert!(incoming.iter().any(|mac| mac.starts_with("fe:")), "the questions came: {incoming:?}");
    assert!(!incoming.contains(&guest), "{guest} was seen on the LAN");
}

#[test]
fn a_guard_against_other_macs_is_told() {
    let (lab, lan) = Lab::with_lan();
    let _server = Server::start(&lab, &lan, &[]);
    let pod = lab.pod();
    let e = wire(&lab, &pod, POD).with("macspoofchk", json!(true)).fails("ADD");
    e.is(7, "TR0106", &["macspoofchk"]);
    assert!(lab.journal().is_empty() && records(&lab).is_empty());
}
