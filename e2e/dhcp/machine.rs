//! A machine's lease: the same for each of its pods, and asked for without a frame that has the guest's MAC as its source.

use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use super::server::both_servers;
use super::{Client, Lends, Program, Server, address, conf, exchange, records};
use crate::harness::{Call, Lab, Netns, Sniffer, eventually};
use crate::machine::{LINK, POD};

fn wire<'l>(lab: &'l Lab, pod: &Netns, name: &str) -> Call<'l> {
    lab.trestle(conf()).pod(pod).of_pod("default", name).ifname(LINK)
}

both_servers! {
    /// As in a migration: the first pod lives while the second one asks.
    fn each_pod_of_a_machine_gets_the_same_address(program: Program) {
        let (lab, _lan, server) = Server::with_lan(program, &Lends::default());
        let pods = [lab.pod(), lab.pod(), lab.pod()];
        let names = [POD, "virt-launcher-other-fghij", "virt-launcher-testvm-fghij"];
        let got = [0, 1, 2].map(|i| {
            let result = wire(&lab, &pods[i], names[i]).add();
            let (net, _) = address(&pods[i], LINK).unwrap();
            assert_eq!(result["ips"][0]["address"], net.as_str());
            net
        });
        assert_eq!(got, ["198.51.100.10/24", "198.51.100.11/24", "198.51.100.10/24"]);
        let leased = server.leased();
        let testvm = leased.iter().find(|l| l.name == "testvm").unwrap();
        assert!(leased.len() == 2 && testvm.client_id.starts_with("ff:"), "{leased:?}");
    }

    /// As after a migration: the pod that the machine has left goes, and so does one that it never came to.
    fn a_machine_that_lives_elsewhere_keeps_its_lease(program: Program) {
        let (lab, lan) = Lab::with_lan();
        let server = Server::of(program, &lab, &lan, &Lends::default());
        let (left, lives) = (lab.pod(), lab.pod());
        let [gone, last] = [(&left, "abcde"), (&lives, "fghij")].map(|(pod, end)| {
            let mut call = wire(&lab, pod, &format!("virt-launcher-testvm-{end}"));
            call.add();
            call
        });
        // Here the pod's stack answers for the guest.
        lives.run(&format!("sysctl -qw net.ipv4.conf.{LINK}.arp_ignore=0"));
        gone.del();
        sleep(Duration::from_millis(500));
        assert_eq!(server.leased().len(), 1, "given back under the machine");
        assert_eq!(records(&lab).len(), 1);
        last.del();
        eventually("the server has its address back", || server.leased().is_empty());
    }

    fn no_frame_has_the_guests_mac(program: Program) {
        let (lab, lan, _server) = Server::with_lan(program, &Lends::default());
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
        let frames = sniffer.listen(Duration::from_millis(500));
        let incoming: Vec<String> = frames.iter().filter(|f| !f.outgoing).map(|f| f.source()).collect();
        assert!(incoming.iter().any(|mac| mac.starts_with("fe:")), "the questions came: {incoming:?}");
        assert!(!incoming.contains(&guest), "{guest} was seen on the LAN");
    }

    fn an_address_is_reserved_by_client_id(program: Program) {
        let (lab, lan) = Lab::with_lan();
        let pods = [lab.pod(), lab.pod()];
        let server = Server::of(program, &lab, &lan, &Lends::default());
        let mut first = wire(&lab, &pods[0], POD);
        first.add();
        let id = server.leased()[0].client_id.clone();
        first.del();
        drop(server);
        let reserving = Lends::default().reserve(Client::Id(id.clone()), "198.51.100.19");
        let server = Server::of(program, &lab, &lan, &reserving);
        let result = wire(&lab, &pods[1], "virt-launcher-testvm-zzzzz").add();
        assert_eq!(result["ips"][0]["address"], "198.51.100.19/24");
        assert_eq!(server.leased()[0].client_id, id);
    }
}

#[test]
fn a_guard_against_other_macs_is_told() {
    let (lab, _lan, _server) = Server::with_lan(Program::Dnsmasq, &Lends::default());
    let pod = lab.pod();
    let e = wire(&lab, &pod, POD).with("macspoofchk", json!(true)).fails("ADD");
    e.is(7, "TR0106", &["macspoofchk"]);
    assert!(lab.journal().is_empty() && records(&lab).is_empty());
}
