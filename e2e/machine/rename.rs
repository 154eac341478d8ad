//! KubeVirt's own `bridge: {}` on our wire: it renames the link, changes its MAC, and puts another in its place.

use super::{LINK, bind, vm};
use crate::harness::{Call, Lab, Netns, Snapshot, eventually, store_files};

const RENAMED: &str = "094a367b026-nic";

/// What virt-handler does: the addresses go, `pod<H>` becomes `<H>-nic` with another MAC and a port of its bridge, and a
/// dummy takes the old name and MAC. (A bridge stands for the dummy where the kernel has none.)
fn dance(pod: &Netns) {
    let mac = pod.link(LINK).mac;
    for line in [
        format!("ip addr flush dev {LINK}"),
        format!("ip link set {LINK} down"),
        format!("ip link set {LINK} name {RENAMED}"),
        format!("ip link set {RENAMED} address 02:00:00:aa:bb:cc"),
        format!("ip link add {LINK} type bridge"),
        format!("ip link set {LINK} address {mac}"),
        "ip link add k6t-094a367b026 type bridge".to_owned(),
        format!("ip link set {RENAMED} master k6t-094a367b026 up"),
        format!("ip addr add 10.1.2.2/24 dev {LINK}"),
    ] {
        pod.run(&line);
    }
}

fn danced<'l>(lab: &'l Lab, pod: &Netns) -> Call<'l> {
    let mut call = vm(lab, pod);
    call.add();
    dance(pod);
    call
}

/// CHECK looks at host end and bridge, not at names and MACs in the pod.
#[test]
fn check() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let call = danced(&lab, &pod);
    call.check();
    let port = lab.node.other_end(&pod, RENAMED).name;
    lab.node.run(&format!("ip link set {port} nomaster"));
    assert_eq!(call.fails("CHECK").code, 101);
}

/// DEL takes our veth, known by its index, and not the link that has its name now.
#[test]
fn delete() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let port_count = lab.node.links().len();
    let call = danced(&lab, &pod);
    call.del();
    assert!(pod.find(RENAMED).is_none());
    assert_eq!(pod.link(LINK).kind, "bridge", "the other link of that name is not ours");
    assert_eq!(lab.node.links().len(), port_count);
    assert!(store_files(&lab.store()).is_empty() && lab.journal().is_empty());
    call.del();
    assert_eq!(pod.link(LINK).kind, "bridge");
}

/// The journal finds the link for the bind step as well, whatever it is called now.
#[test]
fn bind_finds_the_link() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut wire = vm(&lab, &pod);
    wire.add();
    pod.run(&format!("ip link set {LINK} down"));
    pod.run(&format!("ip link set {LINK} name {RENAMED}"));
    pod.run(&format!("ip link set {RENAMED} up"));
    let mut bound = bind(&lab, &pod);
    bound.add();
    assert_eq!(pod.addresses(RENAMED), Vec::<String>::new());
    let ingress = pod.traffic_control();
    assert!(ingress.iter().any(|line| line.starts_with(RENAMED)), "{ingress:?}");
    bound.check();
    wire.check();
    bound.del();
    wire.del();
    assert_eq!(pod.names(), ["lo"]);
}

/// A pod's namespace that was given away under the same path: the entry is a dead one, and nothing in the new
/// namespace is touched.
#[test]
fn path_used_again() {
    let (lab, _lan) = Lab::with_lan();
    let mut pod = lab.pod();
    let call = {
        let mut call = vm(&lab, &pod).id("one");
        call.add();
        call
    };
    let port = lab.node.other_end(&pod, LINK).name;
    pod.remove();
    eventually("the veth goes with its namespace", || lab.node.find(&port).is_none());
    let pod = Netns::new(pod.name().to_owned());
    let mut other = vm(&lab, &pod).id("two");
    other.add();
    let before = Snapshot::of(&lab, &[&pod]);
    call.del();
    let kept = Snapshot::of(&lab, &[&pod]);
    assert!(pod.find(LINK).is_some(), "the new pod's link stays");
    assert_ne!(before, kept, "the old pod's entry and address are gone");
    other.check();
    other.del();
    assert!(store_files(&lab.store()).is_empty());
}
