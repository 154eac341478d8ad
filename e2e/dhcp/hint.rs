//! Which address is asked for: that of the boot before, or one that the pod names; and what else of a lease is heeded.

use std::time::Duration;

use serde_json::json;

use super::{Lends, Program, Server, address, conf, plain, records};
use crate::harness::{Call, Lab, Netns, Seen, Sniffer};
use crate::machine::{LINK, POD};

const DISCOVER: u8 = 1;
const REQUEST: u8 = 3;

/// It is authoritative, and refuses an address that it does not know. Kea is silent then.
const PROGRAM: Program = Program::Dnsmasq;

fn machine<'l>(lab: &'l Lab, pod: &Netns, id: &str) -> Call<'l> {
    lab.trestle(conf()).pod(pod).of_pod("default", POD).ifname(LINK).id(id)
}

/// Kinds of the DHCP questions among the frames that came in. Option 53 comes right after the magic cookie or later, but no
/// other option of ours has its three bytes.
fn questions(frames: &[Seen]) -> Vec<u8> {
    const COOKIE: [u8; 4] = [99, 130, 83, 99];
    let kind = |bytes: &[u8]| {
        let options = bytes.windows(4).position(|w| w == COOKIE)? + 4;
        let at = bytes[options..].windows(2).position(|w| w == [53, 1])?;
        bytes.get(options + at + 2).copied()
    };
    let asked = |f: &&Seen| !f.outgoing && f.bytes.get(34..38) == Some(&[0, 68, 0, 67][..]);
    frames.iter().filter(asked).filter_map(|f| kind(&f.bytes)).collect()
}

/// An ADD whose pod went with the node's boot.
fn in_the_boot_before<'l>(lab: &'l Lab, call: impl FnOnce(&Netns) -> Call<'l>) {
    let mut pod = lab.pod();
    call(&pod).add();
    pod.remove();
    lab.reboot();
    std::fs::remove_dir_all(lab.run_dir()).unwrap();
}

#[test]
fn a_machine_asks_for_the_lease_of_the_boot_before() {
    let (lab, lan, server) = Server::with_lan(PROGRAM, &Lends::default());
    in_the_boot_before(&lab, |pod| machine(&lab, pod, "before"));
    let pod = lab.pod();
    let sniffer = Sniffer::new(&lan);
    let mut call = machine(&lab, &pod, "after");
    call.add();
    let asked = questions(&sniffer.listen(Duration::from_millis(300)));
    assert!(asked[0] == REQUEST && !asked.contains(&DISCOVER), "{asked:?}");
    assert_eq!(address(&pod, LINK).unwrap().0, "198.51.100.10/24");
    let kept = records(&lab);
    assert!(kept.len() == 1 && kept[0]["container"] == "after", "{kept:?}");
    call.del();
    drop(server);
    // A plain pod is another client each time.
    let _server = Server::of(PROGRAM, &lab, &lan, &Lends::default());
    in_the_boot_before(&lab, |pod| plain(&lab, pod).id("one"));
    let two = lab.pod();
    sniffer.listen(Duration::from_millis(100));
    plain(&lab, &two).id("two").add();
    assert_eq!(questions(&sniffer.listen(Duration::from_millis(300)))[0], DISCOVER);
}

#[test]
fn a_server_that_knows_nothing_of_it_gives_another() {
    let (lab, lan, server) = Server::with_lan(PROGRAM, &Lends::default());
    in_the_boot_before(&lab, |pod| machine(&lab, pod, "before"));
    drop(server);
    // An authoritative one refuses an address of no range of its own.
    let server = Server::of(PROGRAM, &lab, &lan, &Lends::default().pool(30, 40));
    let pod = lab.pod();
    machine(&lab, &pod, "after").add();
    assert_eq!(address(&pod, LINK).unwrap().0, "198.51.100.30/24");
    assert_eq!((records(&lab).len(), server.leased().len()), (1, 1));
}

#[test]
fn an_address_that_is_asked_for_or_none() {
    let (lab, _lan, server) = Server::with_lan(PROGRAM, &Lends::default());
    let (one, two) = (lab.pod(), lab.pod());
    let asking = |pod: &Netns, id: &str, ip: &str| plain(&lab, pod).id(id).with("runtimeConfig", json!({"ips": [ip]}));
    let mut first = asking(&one, "one", "198.51.100.15/24");
    assert_eq!(first.add()["ips"][0]["address"], "198.51.100.15/24");
    assert_eq!(address(&one, "net1").unwrap().0, "198.51.100.15/24");
    // It is the first one's.
    let e = asking(&two, "two", "198.51.100.15").fails("ADD");
    e.is(100, "TR0503", &["198.51.100.1", "198.51.100.15", "net1"]);
    assert_eq!((records(&lab).len(), server.leased().len()), (1, 1), "what came instead was given back");
    let e = asking(&two, "two", "2001:db8::1/64").fails("ADD");
    e.is(7, "TR0501", &["2001:db8::1/64"]);
    first.del();
}

#[test]
fn a_smaller_mtu_of_the_server_holds_for_the_pod() {
    let (lab, lan, server) = Server::with_lan(PROGRAM, &Lends::default().option(26, 1300u16.to_be_bytes()));
    let (pod, machine_pod, other) = (lab.pod(), lab.pod(), lab.pod());
    let mut call = plain(&lab, &pod);
    let result = call.add();
    assert_eq!(pod.link("net1").mtu, 1300);
    assert_eq!(lab.node.link("br-lan").mtu, 1500, "the bridge's never moves");
    let inside = crate::attachment::in_sandbox(&result);
    assert!(inside["mtu"].is_null() || inside["mtu"] == 1300, "{inside}");
    call.check();
    machine(&lab, &machine_pod, "machine").add();
    assert_eq!(machine_pod.link(LINK).mtu, 1500, "a guest hears it by its own DHCP");
    drop(server);
    let _server = Server::of(PROGRAM, &lab, &lan, &Lends::default().option(26, 9000u16.to_be_bytes()));
    plain(&lab, &other).id("other").add();
    assert_eq!(other.link("net1").mtu, 1500, "never larger");
}
