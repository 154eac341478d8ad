//! In a machine's pod nothing of ours sends a frame: on the target of a migration one alone would pull the LAN's
//! traffic to the wrong node.

use std::time::Duration;

use serde_json::json;

use super::{LINK, POD, TAP, bind, vm, wire};
use crate::harness::{Call, Kind, Lab, Netns, Seen, Sniffer, Tap};

/// As long as the kernel takes for router solicitation, MLD reports and duplicate address detection.
const LONG: Duration = Duration::from_millis(3300);

/// Attaches as `attach` does and listens on all of the node's and the LAN's links: frames whose source is a MAC of the
/// pod, and frames that come out of the pod.
fn heard(lab: &Lab, lan: &Netns, pod: &Netns, attach: impl FnOnce()) -> Vec<Seen> {
    let (node, far) = (Sniffer::new(&lab.node), Sniffer::new(lan));
    attach();
    let mac = pod.link(LINK).mac;
    let host_end = lab.node.other_end(pod, LINK).index;
    let own: Vec<String> = [Some(mac), pod.find(TAP).map(|tap| tap.mac)].into_iter().flatten().collect();
    let (mut near, mut far) = std::thread::scope(|scope| {
        let far = scope.spawn(|| far.listen(LONG));
        (node.listen(LONG), far.join().unwrap())
    });
    near.retain(|seen| own.contains(&seen.source()) || seen.link == host_end && !seen.outgoing);
    far.retain(|seen| own.contains(&seen.source()));
    near.extend(far);
    near
}

#[track_caller]
fn silent(lab: &Lab, lan: &Netns, pod: &Netns, attach: impl FnOnce()) {
    let heard = heard(lab, lan, pod, attach);
    assert!(heard.is_empty(), "frames of the pod: {heard:02x?}");
}

/// What the others' tests are about: the reference plugin's link is heard at once, on the node and on the LAN.
#[test]
fn reference_is_heard() {
    let (lab, lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut conf = wire(&lab);
    conf["type"] = json!("bridge");
    let call = lab.call(Kind::Reference, conf).pod(&pod).of_pod("default", POD).ifname(LINK);
    let heard = heard(&lab, &lan, &pod, || drop(call.clone().add()));
    assert!(heard.iter().any(|seen| seen.source() == pod.link(LINK).mac), "{heard:02x?}");
}

#[test]
fn wire_without_addresses() {
    let (lab, lan) = Lab::with_lan();
    let pod = lab.pod();
    silent(&lab, &lan, &pod, || drop(vm(&lab, &pod).with("ipam", json!(null)).add()));
}

#[test]
fn wire_with_an_address() {
    let (lab, lan) = Lab::with_lan();
    let pod = lab.pod();
    silent(&lab, &lan, &pod, || drop(vm(&lab, &pod).add()));
}

#[test]
fn wire_and_bind() {
    let (lab, lan) = Lab::with_lan();
    let pod = lab.pod();
    silent(&lab, &lan, &pod, || {
        vm(&lab, &pod).add();
        bind(&lab, &pod).add();
    });
}

/// The guest's end opened, as QEMU does before it runs the guest: the tap gets its carrier.
#[test]
fn tap_with_carrier() {
    let (lab, lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut held = None;
    silent(&lab, &lan, &pod, || {
        vm(&lab, &pod).add();
        bind(&lab, &pod).add();
        held = Some(Tap::open(&pod, TAP, false).unwrap());
    });
}

/// Nobody in the pod answers for the address that lies on its link.
#[test]
fn no_answer_to_arp() {
    let (lab, lan) = Lab::with_lan();
    let pod = lab.pod();
    vm(&lab, &pod).add();
    lan.run("ip addr add 10.1.2.200/24 dev lan0");
    let far = Sniffer::new(&lan);
    lan.try_run("ip neigh add 10.1.2.77 lladdr 02:00:00:00:00:07 dev lan0");
    let socket = lan.inside(|| std::net::UdpSocket::bind("10.1.2.200:0").unwrap());
    for _ in 0..3 {
        socket.send_to(b"anybody?", "10.1.2.2:9").unwrap();
        let heard = far.listen(Duration::from_millis(300));
        let mac = pod.link(LINK).mac;
        assert!(heard.iter().all(|seen| seen.source() != mac), "{heard:02x?}");
    }
}

#[test]
fn drop_in_bridge() {
    let (lab, lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut conf = wire(&lab);
    conf["type"] = json!("bridge");
    let call: Call = lab.trestle(conf).pod(&pod).of_pod("default", POD).ifname(LINK);
    silent(&lab, &lan, &pod, || {
        call.clone().add();
        bind(&lab, &pod).add();
    });
}

/// CHECK and DEL do not speak either.
#[test]
fn check_and_delete() {
    let (lab, lan) = Lab::with_lan();
    let pod = lab.pod();
    let (mut wire, mut bound) = (vm(&lab, &pod), bind(&lab, &pod));
    wire.add();
    bound.add();
    let mac = pod.link(LINK).mac;
    let (node, far) = (Sniffer::new(&lab.node), Sniffer::new(&lan));
    wire.check();
    bound.check();
    bound.del();
    let heard = far.listen(Duration::from_millis(1500));
    assert!(heard.iter().chain(&node.listen(Duration::from_millis(100))).all(|seen| seen.source() != mac));
    wire.del();
    assert!(far.listen(Duration::from_millis(300)).iter().all(|seen| seen.source() != mac));
}
