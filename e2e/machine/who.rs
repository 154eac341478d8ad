//! Which pods are virtual machines': by name, and by annotation where annotations are known.

use serde_json::{Value, json};

use super::{LINK, POD, annotated, is_silent, plain, vm};
use crate::attachment::nic;
use crate::harness::{Lab, Netns};

fn has_ipv6(pod: &Netns, link: &str) -> bool {
    pod.sysctl(&format!("ipv6/conf/{link}/disable_ipv6")).as_deref() == Some("0")
}

#[test]
fn by_name() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut call = vm(&lab, &pod);
    call.add();
    is_silent(&pod, LINK);
    assert!(lab.node.other_end(&pod, LINK).mac.starts_with("fe:"));
    call.check();
    call.del();
}

/// Whatever the interface is called: KubeVirt's older ordinals, the pod's default network.
#[test]
fn by_any_interface_name() {
    let (lab, _lan) = Lab::with_lan();
    for name in ["net1", "eth0", "lan"] {
        let pod = lab.pod();
        vm(&lab, &pod).ifname(name).add();
        is_silent(&pod, name);
    }
}

#[test]
fn plain_pods_are_not() {
    let (lab, _lan) = Lab::with_lan();
    for name in ["web-1", "my-virt-launcher-x-abcde", "virt-launcher", "virt-handler-abcde"] {
        let pod = lab.pod();
        plain(&lab, &pod).of_pod("default", name).add();
        assert!(has_ipv6(&pod, "net1"), "{name}");
    }
    // Without CNI_ARGS nobody is.
    let pod = lab.pod();
    plain(&lab, &pod).without("CNI_ARGS").add();
    assert!(has_ipv6(&pod, "net1"));
}

#[test]
fn by_annotation() {
    let (lab, _lan) = Lab::with_lan();
    let machine = json!({"kubevirt.io/domain": "testvm"});
    let pod = lab.pod();
    annotated(vm(&lab, &pod), machine.clone()).add();
    is_silent(&pod, LINK);
    // The annotation alone, on a pod of another name, makes no machine of it.
    let pod = lab.pod();
    annotated(plain(&lab, &pod), machine).add();
    assert!(has_ipv6(&pod, "net1"));
}

/// The annotations are known and name no machine: somebody called an ordinary pod so.
#[test]
fn annotations_without_the_domain() {
    let (lab, _lan) = Lab::with_lan();
    for annotations in [json!({}), json!({"k8s.v1.cni.cncf.io/networks": "br-lan"})] {
        let pod = lab.pod();
        annotated(plain(&lab, &pod).of_pod("default", POD), annotations).add();
        assert!(has_ipv6(&pod, "net1"));
    }
}

/// A name is enough to refuse macvlan: nobody need know the annotations for it.
#[test]
fn name_is_enough_to_refuse_macvlan() {
    let lab = Lab::new();
    let _far = nic(&lab, "nic0");
    let pod = lab.pod();
    let call = vm(&lab, &pod).with("bridge", json!(null)).with("master", json!("nic0"));
    for call in [call.clone(), annotated(call, json!({"kubevirt.io/domain": "testvm"}))] {
        call.fails("ADD").is(100, "TR0201", &["macvlan"]);
    }
    assert!(pod.find(LINK).is_none());
}

/// The drop-in `bridge` gives a machine's pod the same form: the NADs that people have today gain from it.
#[test]
fn drop_in_bridge() {
    let (lab, _lan) = Lab::with_lan();
    let conf =
        |ipam: Value| json!({"cniVersion": "1.0.0", "name": "lan", "type": "bridge", "bridge": "br-lan", "ipam": ipam});
    for ipam in [json!({}), super::wire(&lab)["ipam"].clone()] {
        let pod = lab.pod();
        let mut call = lab.trestle(conf(ipam)).pod(&pod).of_pod("default", POD).ifname(LINK);
        call.add();
        is_silent(&pod, LINK);
        assert_eq!(pod.link(LINK).mac, "e2:0d:93:fe:8e:cd");
        let port = lab.node.other_end(&pod, LINK);
        assert!(port.name.starts_with("veth") && port.mac.starts_with("fe:"), "{port:?}");
        call.check();
        call.del();
        assert!(pod.find(LINK).is_none());
    }
}

/// IPv6 of IPAM is refused for a machine until it is whole, and nothing is left of the try.
#[test]
fn ipv6_of_ipam() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let before = crate::harness::Snapshot::of(&lab, &[&pod]);
    let ipam = json!({"type": "host-local", "dataDir": lab.store(),
        "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:42::/64"}]]});
    vm(&lab, &pod).with("ipam", ipam).fails("ADD").is(100, "TR0205", &["IPv6"]);
    let asked = vm(&lab, &pod).with("ipam", json!(null)).with("runtimeConfig", json!({"ips": ["2001:db8:42::5/64"]}));
    asked.fails("ADD").is(100, "TR0205", &["IPv6"]);
    before.same(&crate::harness::Snapshot::of(&lab, &[&pod]), "after the refusals");
}

/// A machine's routes are not programmed in its pod; the result has them.
#[test]
fn routes() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut ipam = super::wire(&lab)["ipam"].clone();
    ipam["routes"] = json!([{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24"}]);
    let mut call = vm(&lab, &pod).with("ipam", ipam);
    let result = call.add();
    assert_eq!(result["routes"].as_array().unwrap().len(), 2);
    assert_eq!(pod.routes(), Vec::<String>::new());
    call.check();
    call.del();
}

/// The wire alone carries the address, as KubeVirt's own `bridge: {}` wants it.
#[test]
fn address_stays_on_the_link() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let result = vm(&lab, &pod).add();
    assert_eq!(result["ips"][0]["address"], "10.1.2.2/24");
    assert_eq!(pod.addresses(LINK), ["10.1.2.2/24"]);
    assert_eq!(super::in_sandbox(&result)["name"], LINK);
}
