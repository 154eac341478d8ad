//! A machine's network: silent wire, bind step, and what KubeVirt does to them in between.

use std::time::Duration;

use serde_json::{Value, json};

use super::ear::{Ear, crosses, open};
use super::machine::{DERIVED, POD_LINK, TAP, bind, both, machine, wire};
use super::*;
use crate::net::LinkKind;
use crate::types::Code;

#[test]
fn not_one_frame_comes_from_a_machines_pod() {
    let node = Node::new();
    let mut ear = Ear::on(&node);
    let plain = node.pod("plain");
    let control = node.at(&plain);
    control.add().unwrap();
    assert!(ear.hears(Duration::from_secs(2)).is_some(), "a plain pod announces itself");
    control.del().unwrap();
    while ear.hears(Duration::from_millis(300)).is_some() {}

    let pod = node.pod("machine");
    let [wire, bind] = both(&node, &pod).map(|at| At { container: "c2", ..at });
    wire.add().unwrap();
    assert_eq!(pod.addresses(POD_LINK).len(), 1, "with IPAM the address is on the link");
    assert_eq!(ear.hears(Duration::from_secs(2)), None, "after the wire");
    bind.add().unwrap();
    assert_eq!(ear.hears(Duration::from_secs(2)), None, "after the bind step");
    for link in [POD_LINK, TAP] {
        assert_eq!(pod.sysctl(&format!("ipv6/conf/{link}/disable_ipv6")), "1");
        assert_eq!(pod.sysctl(&format!("ipv4/conf/{link}/arp_notify")), "0");
        assert_eq!(pod.sysctl(&format!("ipv4/conf/{link}/arp_ignore")), "8");
    }
}

#[test]
fn nobody_answers_for_the_guest() {
    let node = Node::new();
    node.sh("ip addr add 10.1.2.200/24 dev br0");
    let pod = node.pod("machine");
    wire(&node, &pod).add().unwrap();
    assert_eq!(pod.addresses(POD_LINK), ["10.1.2.2/24"]);
    node.run(|| {
        let voice = std::net::UdpSocket::bind("10.1.2.200:0").unwrap();
        let _ = voice.send_to(b"?", "10.1.2.2:9");
    });
    std::thread::sleep(Duration::from_millis(300));
    let neighbours = node.sh("ip neigh show 10.1.2.2");
    assert!(!neighbours.contains("lladdr"), "the pod's stack answered a question for the guest: {neighbours}");
}

/// What a process of the pod sends goes where it would go without this network.
#[test]
fn the_pods_own_traffic_does_not_leave_by_the_machines_link() {
    let (node, pod) = machine();
    pod.sh("ip link add eth0 type veth peer name up0; ip link set eth0 up; ip link set up0 up
         ip addr add 10.244.0.5/24 dev eth0; ip route add default via 10.244.0.1");
    let wire = wire(&node, &pod);
    let result = wire.add().unwrap();
    assert_eq!(pod.addresses(POD_LINK), ["10.1.2.2/24"]);
    let mut ear = Ear::on(&node);
    let send = || {
        let voice = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        voice.send_to(b"?", "10.1.2.77:9").unwrap();
    };
    pod.ns.enter(send).unwrap();
    assert_eq!(ear.hears(Duration::from_secs(1)), None);
    assert!(pod.sh("ip route get 10.1.2.77").contains("dev eth0"));
    // What KubeVirt's `bridge: {}` looks for.
    let seen = pod.sh(&format!("ip -4 route show table main dev {POD_LINK}"));
    assert!(seen.starts_with("10.1.2.0/24 ") && seen.trim().lines().count() == 1, "{seen}");
    wire.check(&result).unwrap();
    // The control: with the route that the kernel would have made, the question for 10.1.2.77 is heard.
    pod.sh(&format!("ip route add 10.1.2.0/24 dev {POD_LINK}"));
    pod.ns.enter(send).unwrap();
    assert!(ear.hears(Duration::from_secs(2)).is_some());
    pod.sh(&format!("ip route del 10.1.2.0/24 dev {POD_LINK} tos 0"));
    bind(&node, &pod).add().unwrap();
    assert_eq!(pod.sh(&format!("ip -4 route show table all dev {POD_LINK}")), "", "the bind step takes all of it off");
}

#[test]
fn the_machines_wire_and_its_bind_step() {
    let (node, pod) = machine();
    let [wire, bind] = both(&node, &pod);
    let mut with_routes = node.host_local(json!({"subnet": "10.1.2.0/24"}));
    with_routes["routes"] = json!([{"dst": "0.0.0.0/0"}]);
    let wire = wire.with(json!({"ipam": with_routes}));
    let result = wire.add().unwrap();
    let sandboxes: Vec<&str> =
        result.interfaces.iter().filter(|i| i.sandbox.is_some()).map(|i| i.name.as_str()).collect();
    assert_eq!(sandboxes, [POD_LINK]);
    assert_eq!(result.interfaces[2].mac.as_deref(), Some(DERIVED));
    assert_eq!(pod.link(POD_LINK).mac.unwrap().to_string(), DERIVED);
    assert_eq!(node.link(&result.interfaces[1].name).mac.unwrap().bytes()[0], 0xfe);
    assert_eq!(result.routes.len(), 1, "for the guest");
    assert!(!pod.sh("ip route").contains("default"), "not for the pod");
    wire.check(&result).unwrap();

    assert_eq!(bind.add().unwrap(), AddResult::default());
    assert_eq!(pod.links(), [POD_LINK, TAP], "no link bears the interface's name");
    let tap = pod.link(TAP);
    let expected = LinkKind::Tun { owner: Some(107), group: Some(107), tap: true, persist: true, multi_queue: false };
    assert_eq!((tap.kind.clone(), tap.up, tap.mtu), (expected, true, 1500));
    assert!(pod.addresses(POD_LINK).is_empty());
    let entry = node.entry("c1", "net2", Role::Bind).unwrap();
    let record: Value = entry.record.parse().unwrap();
    assert_eq!(record["addresses"], json!(["10.1.2.2/24"]));
    wire.check(&result).unwrap();
    bind.check(&AddResult::default()).unwrap();
    assert_eq!(bind.add().unwrap_err().code, Code::AlreadyAttached);

    bind.del().unwrap();
    assert_eq!(pod.links(), [POD_LINK]);
    assert!(!pod.sh(&format!("tc qdisc show dev {POD_LINK}")).contains("ingress"));
    assert_eq!(node.taken("lan"), ["10.1.2.2"], "the bind step has no address to release");
    bind.del().unwrap();
    wire.del().unwrap();
    assert_eq!((pod.links().len(), node.taken("lan").len(), node.entries()), (0, 0, 0));
}

#[test]
fn any_order_of_deletion_works_and_one_without_an_add_too() {
    let (node, pod) = machine();
    let [wire, bind] = both(&node, &pod);
    bind.del().unwrap();
    wire.add().unwrap();
    bind.add().unwrap();
    wire.del().unwrap();
    assert_eq!(pod.links(), [TAP]);
    bind.del().unwrap();
    assert_eq!((pod.links().len(), node.taken("lan").len(), node.entries()), (0, 0, 0));
}

#[test]
fn frames_cross_between_bridge_and_tap() {
    let node = Node::new();
    let mut ear = Ear::on(&node);
    let pod = node.pod("machine");
    wire(&node, &pod).with(json!({"ipam": null})).add().unwrap();
    bind(&node, &pod).add().unwrap();
    let tap = pod.ns.enter(|| open(&TAP.parse().unwrap())).unwrap();
    let mut guest = Ear::of(tap);
    assert!(crosses(&mut guest, &mut ear, "hello"), "the guest's frame comes out at the bridge");
    assert!(crosses(&mut ear, &mut guest, "world"), "and the LAN's at the guest");
}

/// As KubeVirt's `bridge: {}` leaves the pod: the veth has another name and MAC, and a link of its own has the name.
/// This kernel has no dummy; another veth stands in for it.
fn as_kubevirt_does(pod: &Pod) {
    pod.sh(&format!(
        "ip link set {POD_LINK} down; ip addr flush dev {POD_LINK}; ip link set {POD_LINK} name 094a367b026-nic
         ip link set 094a367b026-nic address 02:11:22:33:44:55 up
         ip link add k6t-094a367b026 type bridge; ip link set 094a367b026-nic master k6t-094a367b026
         ip link add {POD_LINK} type veth peer name stand-in"
    ));
}

#[test]
fn a_wire_is_known_whatever_kubevirt_calls_it() {
    let (node, pod) = machine();
    let wire = wire(&node, &pod);
    let result = wire.add().unwrap();
    as_kubevirt_does(&pod);
    wire.check(&result).unwrap();
    node.sh(&format!("ip link set {} nomaster", result.interfaces[1].name));
    assert!(wire.finds(&result).contains("is no port of bridge br0"));
    wire.del().unwrap();
    assert_eq!((node.taken("lan").len(), node.entries()), (0, 0));
    assert_eq!(node.links(), ["eno1", "br0"]);
    assert_eq!(pod.links(), ["k6t-094a367b026", "stand-in", POD_LINK], "what is KubeVirt's stays");
}

/// KubeVirt's link under the old name is of another kind, as its dummy is, and has the MAC that ours had.
#[test]
fn check_without_the_journal_finds_the_renamed_link() {
    let node = Node::new();
    for ty in [Type::Trestle, Type::Bridge] {
        let pod = node.pod(&format!("machine{ty:?}"));
        let wire = wire(&node, &pod).drop_in(ty);
        let wire = if ty == Type::Bridge { wire.with(json!({"type": "bridge"})) } else { wire };
        let result = wire.add().unwrap();
        std::fs::remove_dir_all(node.dirs.run.join("journal")).unwrap();
        wire.check(&result).unwrap();
        pod.sh(&format!(
            "ip link set {POD_LINK} down; ip addr flush dev {POD_LINK}; ip link set {POD_LINK} name 094a367b026-nic
             ip link set 094a367b026-nic address 02:11:22:33:44:55 up; ip link add {POD_LINK} address {DERIVED} type bridge"
        ));
        wire.check(&result).unwrap();
        let port = result.interfaces[1].name.clone();
        node.sh(&format!("ip link set {port} nomaster"));
        assert!(wire.finds(&result).contains("no port of bridge br0"));
        node.sh(&format!("ip link del {port}"));
        assert!(wire.finds(&result).contains("no veth"), "what is left is KubeVirt's");
        pod.sh(&format!("ip link del {POD_LINK}"));
        assert!(wire.finds(&result).contains("is gone"));
        wire.del().unwrap();
    }
}

#[test]
fn check_without_the_journal_knows_that_a_bound_link_has_no_address() {
    let (node, pod) = machine();
    let wire = wire(&node, &pod);
    let ipam = node.host_local(json!({"subnet": "10.1.2.0/24"}));
    let wire = wire.with(json!({"ipam": {"routes": [{"dst": "0.0.0.0/0"}], "type": ipam["type"],
        "dataDir": ipam["dataDir"], "ranges": ipam["ranges"]}}));
    let result = wire.add().unwrap();
    assert_eq!(result.routes.len(), 1, "for the guest");
    bind(&node, &pod).add().unwrap();
    std::fs::remove_dir_all(node.dirs.run.join("journal")).unwrap();
    wire.check(&result).unwrap();
    bind(&node, &pod).del().unwrap();
    assert!(wire.finds(&result).contains("has no address 10.1.2.2/24"));
}

#[test]
fn without_the_journal_the_renamed_link_is_found_by_kubevirts_name() {
    let (node, pod) = machine();
    let wire = wire(&node, &pod).drop_in(Type::Bridge).with(json!({"type": "bridge"}));
    wire.add().unwrap();
    pod.sh(&format!("ip link set {POD_LINK} down; ip link set {POD_LINK} name 094a367b026-nic"));
    std::fs::remove_dir_all(node.dirs.run.join("journal")).unwrap();
    wire.del().unwrap();
    assert_eq!((pod.links().len(), node.taken("lan").len()), (0, 0));
}

#[test]
fn a_renamed_wire_is_bound_by_the_journals_number() {
    let (node, pod) = machine();
    wire(&node, &pod).add().unwrap();
    pod.sh(&format!("ip link set {POD_LINK} down; ip link set {POD_LINK} name 094a367b026-nic"));
    let bind = bind(&node, &pod);
    bind.add().unwrap();
    let record: Value = node.entry("c1", "net2", Role::Bind).unwrap().record.parse().unwrap();
    assert_eq!(record["link"], json!(pod.link("094a367b026-nic").index));
    assert!(pod.link("094a367b026-nic").up, "the bind step sets it up");
    bind.check(&AddResult::default()).unwrap();
}

#[test]
fn another_plugins_link_is_bound_as_well() {
    let (node, pod) = machine();
    pod.sh(&format!(
        "ip link add {POD_LINK} mtu 1400 type veth peer name other; ip addr add 10.9.9.9/24 dev {POD_LINK}"
    ));
    let bind = bind(&node, &pod);
    bind.add().unwrap();
    assert_eq!((pod.link(TAP).mtu, pod.addresses(POD_LINK).len()), (1400, 0));
    bind.del().unwrap();
    assert_eq!(pod.links(), ["other", POD_LINK]);
}

#[test]
fn the_primary_link_where_it_is_ours() {
    let (node, pod) = machine();
    let bind = bind(&node, &pod);
    let missing = bind.add().unwrap_err();
    assert_eq!(missing.code, Code::BindLinkMissing);
    pod.sh("ip link add eth0 type veth peer name other");
    let foreign = bind.add().unwrap_err();
    assert_eq!(foreign.code, Code::ForeignPrimary);
    assert!(foreign.remedy.contains("masquerade or managedTap"), "{foreign}");
    pod.sh("ip link del eth0");
    At { ifname: "eth0", ..node.at(&pod).of_vm() }.add().unwrap();
    bind.add().unwrap();
    assert_eq!(pod.links(), ["eth0", "tap0"]);
    bind.del().unwrap();
    assert_eq!(pod.links(), ["eth0"]);
}

#[test]
fn queues_are_as_the_pods_annotation_says() {
    let node = Node::new();
    for (annotation, multi_queue) in [(r#"{"lan": 4}"#, true), (r#"{"lan": 1}"#, false), (r#"{"dmz": 4}"#, false)] {
        let pod = node.pod(&format!("q{annotation}").replace(['{', '}', '"', ':', ' '], ""));
        wire(&node, &pod).add().unwrap();
        let told = json!({"io.kubernetes.cri.pod-annotations": {"kubevirt.io/domain": "db", "trestle.network/queues": annotation}});
        let bind = bind(&node, &pod).with(json!({"runtimeConfig": told}));
        bind.add().unwrap();
        let LinkKind::Tun { multi_queue: made, .. } = pod.link(TAP).kind else { panic!("no tap") };
        assert_eq!(made, multi_queue, "{annotation}");
        bind.del().unwrap();
        wire(&node, &pod).del().unwrap();
    }
}

#[test]
fn a_bind_step_that_fails_leaves_the_pod_as_it_was() {
    let (node, pod) = machine();
    wire(&node, &pod).add().unwrap();
    let bind = bind(&node, &pod);
    pod.sh(&format!("tc qdisc add dev {POD_LINK} ingress"));
    assert_eq!(bind.add().unwrap_err().code, Code::Kernel, "somebody filters there already");
    assert_eq!((pod.links(), pod.addresses(POD_LINK)), (vec![POD_LINK.to_owned()], vec!["10.1.2.2/24".to_owned()]));
    assert!(node.entry("c1", "net2", Role::Bind).is_none());
    assert!(pod.sh(&format!("tc qdisc show dev {POD_LINK}")).contains("ingress"), "what is somebody else's stays");
    pod.sh(&format!("tc qdisc del dev {POD_LINK} ingress"));
    pod.sh(&format!("ip link add {TAP} type veth peer name other"));
    assert_eq!(bind.add().unwrap_err().code, Code::NameTaken);
    assert_eq!(pod.addresses(POD_LINK).len(), 1);
    pod.sh(&format!("ip link del {TAP}; ip tuntap add {TAP} mode tap"));
    assert_eq!(bind.add().unwrap_err().code, Code::NameTaken);
    bind.del().unwrap();
    assert_eq!(pod.link(TAP).name, TAP, "somebody else's tap stays, though it has the name of ours");
}

/// Undo meets an ingress qdisc on the machine's link: whose is it?
#[test]
fn undo_clears_the_redirect_and_no_other_filter() {
    let node = Node::new();
    let there = |pod: &Pod| pod.sh(&format!("tc qdisc show dev {POD_LINK}")).contains("ingress");
    let own = format!("tc qdisc del dev {POD_LINK} ingress; tc qdisc add dev {POD_LINK} ingress");
    let marks = format!("tc filter add dev {POD_LINK} parent ffff: u32 match u32 0 0 flowid 1:1");
    let elsewhere = format!(
        "ip link add other type veth peer name beyond;
         tc filter add dev {POD_LINK} parent ffff: u32 match u32 0 0 action mirred egress redirect dev other"
    );
    for (n, (change, stays)) in [
        ("true".to_owned(), false),
        (format!("ip link del {TAP}"), false),
        // Killed between the qdisc and its filter.
        (own.clone(), false),
        (format!("{own}; {marks}"), true),
        (format!("{own}; {elsewhere}"), true),
    ]
    .into_iter()
    .enumerate()
    {
        let (pod, container) = (node.pod(&format!("machine{n}")), format!("c{n}"));
        let [wire, bind] = both(&node, &pod).map(|at| At { container: &container, ..at });
        wire.add().unwrap();
        bind.add().unwrap();
        assert!(there(&pod));
        pod.sh(&change);
        bind.del().unwrap();
        assert_eq!(there(&pod), stays, "after {change}");
        assert!(!pod.links().contains(&TAP.to_owned()));
        wire.del().unwrap();
    }
}

/// The plugin was killed after the record was written, and before it said that the qdisc is about to be made.
#[test]
fn undo_leaves_an_ingress_that_came_after_the_first_record() {
    let (node, pod) = machine();
    wire(&node, &pod).add().unwrap();
    let bind = bind(&node, &pod);
    bind.add().unwrap();
    let entry = node.entry("c1", "net2", Role::Bind).unwrap();
    let mut record: Value = entry.record.parse().unwrap();
    assert_eq!(record["ingress"], json!(true));
    (record["ingress"], record["tap_index"]) = (json!(false), json!(null));
    Journal(&node.dirs).write(&entry.id, &entry.network.parse().unwrap(), &record).unwrap();
    pod.sh(&format!("tc qdisc del dev {POD_LINK} ingress; tc qdisc add dev {POD_LINK} ingress"));
    bind.del().unwrap();
    assert!(pod.sh(&format!("tc qdisc show dev {POD_LINK}")).contains("ingress"));
    assert_eq!((pod.links(), node.entry("c1", "net2", Role::Bind).is_none()), (vec![POD_LINK.to_owned()], true));
}

#[test]
fn ipv6_from_ipam_is_refused_and_released() {
    let (node, pod) = machine();
    for ty in [Type::Trestle, Type::Bridge] {
        let v6 = node.host_local(json!({"subnet": "2001:db8::/64"}));
        let at = wire(&node, &pod).drop_in(ty).with(json!({"ipam": v6}));
        assert_eq!(at.add().unwrap_err().code, Code::Ipv6ForVm);
        assert_eq!((pod.links().len(), node.taken("lan").len(), node.entries()), (0, 0, 0));
    }
}

#[test]
fn the_drop_in_gives_a_machine_the_silent_form() {
    let node = Node::new();
    let mut ear = Ear::on(&node);
    let pod = node.pod("machine");
    let at = wire(&node, &pod).drop_in(Type::Bridge).with(json!({"type": "bridge"}));
    let result = at.add().unwrap();
    assert_eq!(ear.hears(Duration::from_secs(2)), None);
    assert_eq!(result.interfaces[2].mac.as_deref(), Some(DERIVED));
    assert_eq!(node.link(&result.interfaces[1].name).mac.unwrap().bytes()[0], 0xfe);
    assert_eq!(pod.addresses(POD_LINK), ["10.1.2.2/24"]);
    at.check(&result).unwrap();
    bind(&node, &pod).add().unwrap();
    at.check(&result).unwrap();
    bind(&node, &pod).del().unwrap();
    at.del().unwrap();
    assert_eq!((pod.links().len(), node.taken("lan").len(), node.entries()), (0, 0, 0));
}

#[test]
fn the_cluster_network_of_a_machines_pod_is_a_plain_one() {
    let (node, pod) = machine();
    let told = json!({"io.kubernetes.cri.pod-annotations": {"kubevirt.io/domain": "db"}});
    let at = At { ifname: "eth0", ..node.at(&pod).of_vm() }.with(json!({"runtimeConfig": told}));
    at.add().unwrap();
    assert_eq!(pod.sysctl("ipv4/conf/eth0/arp_notify"), "1");
    at.del().unwrap();
    let replaced = json!({"io.kubernetes.cri.pod-annotations": {"kubevirt.io/domain": "db", "v1.multus-cni.io/default-network": "br-lan"}});
    let at = at.with(json!({"runtimeConfig": replaced}));
    at.add().unwrap();
    assert_eq!(pod.sysctl("ipv4/conf/eth0/arp_notify"), "0");
}
