//! The bind step: the tap that libvirt opens, what is remembered, and undoing it in any order.

use nix::unistd::{Group, User};
use serde_json::{Value, json};

use super::{LINK, POD, TAP, bind, binding, is_silent, vm, wire};
use crate::harness::{Kind, Lab, Netns, Snapshot, store_files};

/// Owner, group, flags and MTU as libvirt without capabilities needs them.
#[track_caller]
fn is_a_tap(pod: &Netns, name: &str, mtu: u64) {
    let tap = pod.link(name);
    assert_eq!((tap.kind.as_str(), tap.up, tap.mtu), ("tun", true, mtu), "{:?}", tap.raw);
    assert_eq!(tap.data("type"), "tap");
    assert_eq!(tap.data("persist"), true);
    assert_eq!(tap.data("multi_queue"), false);
    // iproute2 prints a name where the machine knows one: whatever was installed first has this number.
    let user = |name: &str| User::from_name(name).unwrap().map(|u| u64::from(u.uid.as_raw()));
    let group = |name: &str| Group::from_name(name).unwrap().map(|g| u64::from(g.gid.as_raw()));
    let (owner, owners) = (tap.data("user"), tap.data("group"));
    assert_eq!(owner.as_u64().or_else(|| user(owner.as_str()?)), Some(107), "{:?}", tap.raw);
    assert_eq!(owners.as_u64().or_else(|| group(owners.as_str()?)), Some(107), "{:?}", tap.raw);
    assert_eq!(pod.sysctl(&format!("ipv6/conf/{name}/disable_ipv6")).as_deref(), Some("1"));
}

#[test]
fn life() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let before = Snapshot::of(&lab, &[&pod]);
    let (mut wire, mut bound) = (vm(&lab, &pod), bind(&lab, &pod));
    wire.add();
    let wired = Snapshot::of(&lab, &[&pod]);
    assert_eq!(pod.addresses(LINK), ["10.1.2.2/24"]);
    let result = bound.add();
    assert_eq!(result["interfaces"].as_array().map_or(0, Vec::len), 0, "no interfaces: {result}");
    assert_eq!(result["ips"].as_array().map_or(0, Vec::len), 0, "no addresses: {result}");
    is_a_tap(&pod, TAP, 1500);
    is_silent(&pod, LINK);
    assert_eq!(pod.addresses(LINK), Vec::<String>::new(), "the guest's address is not the pod's");
    assert!(pod.link(LINK).up);
    assert!(!pod.names().iter().any(|n| n.starts_with("net")), "an ordinal name turns KubeVirt: {:?}", pod.names());
    assert_eq!(store_files(&lab.store()).len(), 1, "the address stays taken");
    wire.check();
    bound.check();

    bound.del();
    assert!(pod.find(TAP).is_none());
    assert_eq!(pod.traffic_control(), Vec::<String>::new());
    assert_eq!(store_files(&lab.store()).len(), 1, "bind releases nothing");
    let _ = wired;
    wire.del();
    before.same(&Snapshot::of(&lab, &[&pod]), "after both DELs");
    bound.del();
    wire.del();
}

/// The addresses that were taken off are in the journal: whoever gives them to the guest finds them there.
#[test]
fn addresses_are_remembered() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    vm(&lab, &pod).add();
    let earlier = lab.journal();
    bind(&lab, &pod).add();
    let entry: Vec<String> = lab
        .journal()
        .iter()
        .filter(|file| !earlier.contains(file))
        .map(|file| std::fs::read_to_string(file).unwrap())
        .collect();
    assert!(entry.iter().any(|text| text.contains("10.1.2.2")), "{entry:?}");
}

/// The wire goes first, as a runtime may choose.
#[test]
fn wire_deleted_first() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let before = Snapshot::of(&lab, &[&pod]);
    let (mut wire, mut bound) = (vm(&lab, &pod), bind(&lab, &pod));
    wire.add();
    bound.add();
    wire.del();
    assert!(pod.find(LINK).is_none());
    assert!(store_files(&lab.store()).is_empty());
    bound.del();
    before.same(&Snapshot::of(&lab, &[&pod]), "after both DELs");
}

#[test]
fn deleted_without_add() {
    let (lab, _lan) = Lab::with_lan();
    let mut pod = lab.pod();
    let before = Snapshot::of(&lab, &[&pod]);
    bind(&lab, &pod).del();
    vm(&lab, &pod).del();
    before.same(&Snapshot::of(&lab, &[&pod]), "after DEL");
    let mut wire = vm(&lab, &pod);
    wire.add();
    bind(&lab, &pod).del();
    wire.check();
    wire.del();
    before.same(&Snapshot::of(&lab, &[&pod]), "after DEL");
    let bound = bind(&lab, &pod);
    pod.remove();
    bound.del();
    bound.without("CNI_NETNS").del();
}

#[test]
fn namespace_gone() {
    let (lab, _lan) = Lab::with_lan();
    let mut pod = lab.pod();
    let (mut wire, mut bound) = (vm(&lab, &pod), bind(&lab, &pod));
    wire.add();
    bound.add();
    pod.remove();
    bound.del();
    wire.clone().without("CNI_NETNS").del();
    wire.del();
    assert!(store_files(&lab.store()).is_empty() && lab.journal().is_empty(), "{:?}", lab.journal());
}

/// A new attachment after DEL, in the same pod.
#[test]
fn bound_again() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let (mut wire, mut bound) = (vm(&lab, &pod), bind(&lab, &pod));
    for _ in 0..2 {
        wire.add();
        bound.add();
        is_a_tap(&pod, TAP, 1500);
        wire.check();
        bound.check();
        bound.del();
        wire.del();
    }
}

#[test]
fn mtu_of_the_pods_link() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    vm(&lab, &pod).with("mtu", json!(1400)).add();
    bind(&lab, &pod).add();
    is_a_tap(&pod, TAP, 1400);
}

/// Two networks of one machine: each has its own.
#[test]
fn two_networks() {
    let (lab, _lan) = Lab::with_lan();
    let _dmz_lan = lab.lan("br-dmz", "up1");
    let pod = lab.pod();
    let (mut lan, mut dmz) = (vm(&lab, &pod), vm(&lab, &pod).ifname("poda393efd3bab"));
    dmz = dmz.with("bridge", json!("br-dmz")).with("name", json!("dmz"));
    let mut bind_lan = bind(&lab, &pod);
    let mut bind_dmz = lab.trestle(binding("dmz")).pod(&pod).of_pod("default", POD).ifname("net4");
    for call in [&mut lan, &mut dmz, &mut bind_lan, &mut bind_dmz] {
        call.add();
    }
    is_a_tap(&pod, TAP, 1500);
    is_a_tap(&pod, "tapa393efd3bab", 1500);
    bind_lan.del();
    assert!(pod.find(TAP).is_none() && pod.find("tapa393efd3bab").is_some());
    bind_dmz.check();
    dmz.check();
    dmz.del();
    lan.del();
    bind_dmz.del();
    assert_eq!(pod.names(), ["lo"]);
}

/// The pod's default network, when it is a port of ours: KubeVirt's names are `eth0` and `tap0` then.
#[test]
fn primary_network() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let before = Snapshot::of(&lab, &[&pod]);
    let mut wire = vm(&lab, &pod).ifname("eth0");
    let mut bound = lab.trestle(binding("default")).pod(&pod).of_pod("default", POD).ifname("net1");
    wire.add();
    bound.add();
    is_a_tap(&pod, "tap0", 1500);
    assert_eq!(pod.addresses("eth0"), Vec::<String>::new());
    wire.check();
    bound.check();
    bound.del();
    wire.del();
    before.same(&Snapshot::of(&lab, &[&pod]), "after both DELs");
}

/// Whoever made the link: the bind step works on the reference plugin's veth too, and makes it silent.
#[test]
fn link_of_another_plugin() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut conf: Value = wire(&lab);
    conf["type"] = json!("bridge");
    let mut foreign = lab.call(Kind::Reference, conf).pod(&pod).of_pod("default", POD).ifname(LINK);
    foreign.add();
    let mut bound = bind(&lab, &pod);
    bound.add();
    is_a_tap(&pod, TAP, 1500);
    assert_eq!(pod.sysctl(&format!("ipv6/conf/{LINK}/disable_ipv6")).as_deref(), Some("1"));
    assert_eq!(pod.addresses(LINK), Vec::<String>::new());
    bound.check();
    bound.del();
    foreign.del();
    assert_eq!(pod.names(), ["lo"]);
}

/// CHECK of the bind step after somebody changed the tap.
#[test]
fn check_notices() {
    type Change = fn(&Netns);
    let changes: [(&str, Change); 6] = [
        ("tap gone", |pod| drop(pod.run(&format!("ip link del {TAP}")))),
        ("tap down", |pod| drop(pod.run(&format!("ip link set {TAP} down")))),
        ("filters of the link gone", |pod| drop(pod.run(&format!("tc qdisc del dev {LINK} ingress")))),
        ("filters of the tap gone", |pod| drop(pod.run(&format!("tc qdisc del dev {TAP} ingress")))),
        ("another link in the tap's place", |pod| {
            pod.run(&format!("ip link del {TAP}"));
            pod.run(&format!("ip link add {TAP} type bridge"));
        }),
        ("owner", |pod| {
            pod.run(&format!("ip link del {TAP}"));
            pod.run(&format!("ip tuntap add {TAP} mode tap"));
            pod.run(&format!("ip link set {TAP} up"));
        }),
    ];
    for (what, change) in changes {
        let (lab, _lan) = Lab::with_lan();
        let pod = lab.pod();
        let (mut wire, mut bound) = (vm(&lab, &pod), bind(&lab, &pod));
        wire.add();
        bound.add();
        bound.check();
        change(&pod);
        let reply = bound.run("CHECK");
        assert!(!reply.status.success(), "CHECK after: {what}");
        assert_eq!(reply.error().code, 101, "{what}");
        bound.del();
        wire.del();
        assert!(pod.find(LINK).is_none(), "{what}");
    }
}
