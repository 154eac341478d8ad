//! Frames between guest and LAN, byte for byte, through tap, redirect, veth and bridge.

use std::time::Duration;

use super::{LINK, TAP, bind, vm};
use crate::harness::{Lab, Netns, Tap, frame};

const SOON: Duration = Duration::from_millis(200);
const NEVER: Duration = Duration::from_millis(700);
const PRINTER: &str = "02:11:22:33:44:55";
const ALL: &str = "ff:ff:ff:ff:ff:ff";

/// Sends until it arrives, as a tap drops what comes in the first moments of its carrier; what arrived, byte for byte.
#[track_caller]
fn passes(from: &mut Tap, to: &mut Tap, frame: &[u8], text: &str) {
    for _ in 0..25 {
        from.send(frame);
        if let Some(arrived) = to.find(text, SOON) {
            assert_eq!(arrived, frame);
            return;
        }
    }
    panic!("does not pass: {text}");
}

/// A LAN whose cable ends in this test: what is sent here arrives at the bridge's uplink.
fn cable(lab: &Lab) -> Tap {
    let cable = Tap::open(&lab.node, "cable0", false).unwrap();
    lab.node.run("ip link set cable0 master br-lan up");
    cable
}

/// A machine's pod on the wire, bound, with the guest's end open.
fn guest(lab: &Lab, pod: &Netns) -> (Tap, String) {
    vm(lab, pod).add();
    bind(lab, pod).add();
    let mac = pod.link(LINK).mac;
    (Tap::open(pod, TAP, false).unwrap(), mac)
}

#[test]
fn both_ways() {
    let (lab, _lan) = Lab::with_lan();
    let mut cable = cable(&lab);
    let pod = lab.pod();
    let (mut guest, mac) = guest(&lab, &pod);
    passes(&mut guest, &mut cable, &frame(ALL, &mac, "who has the printer?"), "who has the printer?");
    passes(&mut cable, &mut guest, &frame(&mac, PRINTER, "I do"), "I do");
    let long = "x".repeat(1486);
    passes(&mut guest, &mut cable, &frame(PRINTER, &mac, &long), &long);
    passes(&mut cable, &mut guest, &frame(&mac, PRINTER, &long), &long);
}

/// Groups and MACs that are not the link's own reach the guest too: it may bridge inside.
#[test]
fn groups_and_other_macs() {
    let (lab, _lan) = Lab::with_lan();
    let mut cable = cable(&lab);
    let pod = lab.pod();
    let (mut guest, _) = guest(&lab, &pod);
    for (to, text) in [(ALL, "everybody"), ("33:33:00:00:00:01", "all nodes"), ("01:00:5e:00:00:fb", "all names")] {
        passes(&mut cable, &mut guest, &frame(to, PRINTER, text), text);
    }
    let inner = "02:99:00:00:00:01";
    passes(&mut guest, &mut cable, &frame(PRINTER, inner, "from inside the guest"), "from inside the guest");
    passes(&mut cable, &mut guest, &frame(inner, PRINTER, "to inside the guest"), "to inside the guest");
}

/// Two machines on one bridge: each hears what is for it, and what is for all.
#[test]
fn two_guests() {
    let (lab, _lan) = Lab::with_lan();
    let (one, two) = (lab.pod(), lab.pod());
    let (mut first, first_mac) = guest(&lab, &one);
    vm(&lab, &two).of_pod("default", "virt-launcher-other-abcde").add();
    bind(&lab, &two).of_pod("default", "virt-launcher-other-abcde").add();
    let second_mac = two.link(LINK).mac;
    assert_ne!(first_mac, second_mac);
    let mut second = Tap::open(&two, TAP, false).unwrap();
    passes(&mut first, &mut second, &frame(ALL, &first_mac, "hello all"), "hello all");
    passes(&mut second, &mut first, &frame(&first_mac, &second_mac, "hello you"), "hello you");
}

/// DEL while QEMU still holds the tap open: it goes all the same, and nothing passes any more.
#[test]
fn cut_by_delete() {
    let (lab, _lan) = Lab::with_lan();
    let mut cable = cable(&lab);
    let pod = lab.pod();
    vm(&lab, &pod).add();
    let mut bound = bind(&lab, &pod);
    bound.add();
    let mac = pod.link(LINK).mac;
    let mut guest = Tap::open(&pod, TAP, false).unwrap();
    passes(&mut guest, &mut cable, &frame(ALL, &mac, "here"), "here");
    bound.del();
    assert!(pod.find(TAP).is_none());
    assert!(guest.try_send(&frame(ALL, &mac, "still here")).is_err());
    assert!(cable.find("still here", NEVER).is_none());
}

/// `macspoofchk` lets the guest's own MAC pass, the derived one, and no other.
#[test]
fn spoof_guard() {
    let (lab, _lan) = Lab::with_lan();
    let mut cable = cable(&lab);
    let pod = lab.pod();
    vm(&lab, &pod).with("macspoofchk", serde_json::json!(true)).add();
    bind(&lab, &pod).add();
    let mac = pod.link(LINK).mac;
    assert_eq!(mac, "e2:0d:93:fe:8e:cd");
    let mut guest = Tap::open(&pod, TAP, false).unwrap();
    passes(&mut guest, &mut cable, &frame(ALL, &mac, "myself"), "myself");
    guest.send(&frame(ALL, "02:66:66:66:66:66", "somebody else"));
    assert!(cable.find("somebody else", NEVER).is_none());
    passes(&mut cable, &mut guest, &frame(&mac, PRINTER, "answer"), "answer");
}
