//! From ADD to DEL: a plain pod on a bridge, on a macvlan, and by the drop-ins.

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::net::{LinkKind, MacvlanMode, PortState};
use crate::types::Code;

/// One byte more, and the kernel refuses the whole message (ERANGE).
#[test]
fn an_alias_as_long_as_the_kernel_takes_it() {
    let node = Node::new();
    let pod = node.pod("web");
    let mut at = node.at(&pod);
    for length in [240, 241, 242, 243, 300] {
        at.args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={}", "p".repeat(length));
        at.add().unwrap();
        let alias = node.link("trca4978b4555").alias.unwrap();
        assert_eq!(alias.len(), ("default/ lan".len() + length).min(254), "{alias}");
        at.del().unwrap();
    }
}

#[test]
fn a_plain_pod_on_a_bridge() {
    let node = Node::new();
    let pod = node.pod("web");
    let at = node.at(&pod).with(json!({
        "mtu": 1400, "mac": "02:00:5e:10:00:01", "portIsolation": true, "hairpinMode": true, "dns": {"nameservers": ["10.1.2.1"]},
    }));
    let result = at.add().unwrap();

    let names: Vec<&str> = result.interfaces.iter().map(|i| i.name.as_str()).collect();
    let host = names[1];
    assert_eq!((names[0], names[2], names.len()), ("br0", "net1", 3));
    // sha256 of "c1\0net1"
    assert_eq!(host, "trca4978b4555");
    let sandboxes: Vec<Option<&str>> = result.interfaces.iter().map(|i| i.sandbox.as_deref()).collect();
    assert_eq!(sandboxes, [None, None, pod.path.to_str()]);
    assert_eq!((result.ips[0].address.to_string().as_str(), result.ips[0].interface), ("10.1.2.2/24", Some(2)));
    assert_eq!((result.interfaces[2].mtu, result.dns.nameservers.len()), (Some(1400), 1));

    let (port, there) = (node.link(host), pod.link("net1"));
    assert_eq!(port.master, Some(node.link("br0").index));
    assert_eq!(port.alias.as_deref(), Some("default/web lan"));
    assert_eq!((port.mac.unwrap().bytes()[0], port.mtu, there.mtu), (0xfe, 1500, 1400));
    let flags = port.port.unwrap();
    assert_eq!((flags.state, flags.hairpin, flags.isolated), (PortState::Forwarding, true, true));
    assert_eq!(there.mac.unwrap().to_string(), "02:00:5e:10:00:01");
    assert_eq!(result.interfaces[2].mac.as_deref(), Some("02:00:5e:10:00:01"));
    assert!(there.up && port.up);
    assert_eq!(pod.addresses("net1"), ["10.1.2.2/24"]);
    assert_eq!(pod.sysctl("ipv6/conf/net1/accept_ra_defrtr"), "0", "the LAN's router is not the pod's");
    assert_eq!(pod.sysctl("ipv6/conf/net1/disable_ipv6"), "0", "but its addresses are");
    assert_eq!(node.sh(&format!("cat /proc/sys/net/ipv6/conf/{host}/disable_ipv6")).trim(), "1");

    at.check(&result).unwrap();
    assert_eq!(at.add().unwrap_err().code, Code::AlreadyAttached);
    at.check(&result).unwrap();
    at.del().unwrap();
    assert_eq!((node.links(), pod.links()), (vec!["eno1".to_owned(), "br0".to_owned()], vec![]));
    assert_eq!((node.entries(), node.taken("lan").len()), (0, 0));
    at.del().unwrap();
    at.add().unwrap();
    at.del().unwrap();
}

/// Everything that somebody could see of the bridge and its uplink, and all sysctls that bear their names.
fn portrait(node: &Node) -> Vec<String> {
    let text = node.sh("for l in br0 eno1; do
           ip -d -o link show $l | sed 's/_timer *[0-9.]*//g; s/ timer *[0-9.]*//g' | tr ' ' '\\n'; ip -o addr show $l
           bridge -d link show dev $l || true
           grep -rs . /proc/sys/net/ipv4/conf/$l /proc/sys/net/ipv6/conf/$l || true
         done
         grep -rs . /proc/sys/net/ipv4/conf/all /proc/sys/net/ipv6/conf/all /proc/sys/net/ipv4/ip_forward || true
         nft list ruleset");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn type_trestle_changes_neither_bridge_nor_uplink() {
    let node = Node::new();
    node.sh("ip link set eno1 mtu 1450; ip addr add 192.0.2.1/24 dev br0; sysctl -qw net.ipv4.conf.br0.rp_filter=2");
    let pod = node.pod("web");
    let before = portrait(&node);
    assert!(before.len() > 100 && before.iter().any(|l| l.contains("192.0.2.1/24")), "{before:?}");
    let at = node.at(&pod).with(json!({"mtu": 1300}));
    at.add().unwrap();
    assert_eq!(node.link("trca4978b4555").mtu, 1450, "a port with the smaller MTU would take the bridge down to it");
    let same = |when: &str| {
        let now = portrait(&node);
        let gone: Vec<_> = before.iter().filter(|l| !now.contains(l)).collect();
        let new: Vec<_> = now.iter().filter(|l| !before.contains(l)).collect();
        assert!(gone.is_empty() && new.is_empty(), "{when}: gone {gone:?}, new {new:?}");
    };
    same("while it is attached");
    at.del().unwrap();
    same("after it");
}

#[test]
fn a_bridge_without_a_port_keeps_what_it_can() {
    let node = Node::without_bridge();
    node.sh("ip link add br0 mtu 1400 type bridge; ip link set br0 up");
    let pod = node.pod("web");
    let at = node.at(&pod);
    at.add().unwrap();
    assert_eq!((node.link("br0").mtu, pod.link("net1").mtu), (1400, 1400));
    at.del().unwrap();
}

#[test]
fn names_with_long_pods_and_odd_characters_are_cut_not_refused() {
    let node = Node::new();
    let pod = node.pod("web");
    let mut at = node.at(&pod);
    at.args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={}", "n".repeat(63), "é".repeat(200));
    at.add().unwrap();
    let alias = node.link("trca4978b4555").alias.unwrap();
    assert_eq!(alias.len(), 254, "255 would cut a character: {alias}");
    at.del().unwrap();
}

#[test]
fn macvlan_where_the_bridge_is_missing() {
    let node = Node::without_bridge();
    let pod = node.pod("web");
    let at = node.at(&pod).with(json!({"bridge": "br-lan", "master": "eno1"}));
    let result = at.add().unwrap();
    let names: Vec<_> = result.interfaces.iter().map(|i| (i.name.as_str(), i.sandbox.is_some())).collect();
    assert_eq!(names, [("eno1", false), ("net1", true)], "the first interface tells the fallback");
    assert_eq!(result.ips[0].interface, Some(1));
    let told = || crate::attach::fallback(&node.dirs, &"c1".parse().unwrap(), &"net1".parse().unwrap()).unwrap();
    let words = told().expect("the journal has it, for whoever tells the pod");
    assert!(words.starts_with("no bridge br-lan on "), "{words}");
    assert!(words.ends_with(": macvlan on eno1; the node itself cannot be reached over it"), "{words}");
    let link = pod.link("net1");
    assert_eq!(
        (link.kind, link.lower),
        (LinkKind::Macvlan { mode: MacvlanMode::Bridge }, Some(node.link("eno1").index))
    );
    assert_eq!(pod.addresses("net1"), ["10.1.2.2/24"]);
    at.check(&result).unwrap();
    at.del().unwrap();
    assert_eq!((node.links(), pod.links()), (vec!["eno1".to_owned()], vec![]));
    assert_eq!((node.entries(), node.taken("lan").len()), (0, 0));

    let machine = at.clone().of_vm();
    let refused = machine.add().unwrap_err();
    assert_eq!(refused.code, Code::BridgeMissing, "a machine has no fallback");
    let only_master = node.at(&pod).with(json!({"bridge": null, "master": "eno1", "mode": "private"}));
    let result = only_master.add().unwrap();
    assert_eq!((result.interfaces.len(), told()), (1, None));
    assert_eq!(pod.link("net1").kind, LinkKind::Macvlan { mode: MacvlanMode::Private });
    only_master.check(&result).unwrap();
    only_master.del().unwrap();
    assert_eq!(only_master.of_vm().add().unwrap_err().code, Code::MacvlanForVm);
    assert_eq!(pod.links(), Vec::<String>::new());
}

#[test]
fn a_macvlan_on_a_macvlan_hangs_on_the_link_below() {
    let node = Node::without_bridge();
    node.sh("ip link add shim0 link eno1 type macvlan mode bridge; ip link set shim0 up");
    let pod = node.pod("web");
    let at = node.at(&pod).with(json!({"bridge": null, "master": "shim0"}));
    let result = at.add().unwrap();
    assert_eq!(pod.link("net1").lower, Some(node.link("eno1").index), "the kernel makes it a sibling");
    at.check(&result).unwrap();
    at.del().unwrap();
    assert_eq!(pod.links(), Vec::<String>::new());
}

#[test]
fn the_drop_in_bridge_with_all_that_it_has() {
    let node = Node::without_bridge();
    let pod = node.pod("web");
    let at = node.at(&pod).drop_in(Type::Bridge).with(json!({
        "type": "bridge", "bridge": "cni7", "isDefaultGateway": true, "ipMasq": true, "macspoofchk": true,
    }));
    let result = at.add().unwrap();
    let host = result.interfaces[1].name.clone();
    assert_eq!(host, "vethca4978b4");
    assert_eq!(node.link(&host).alias.as_deref(), Some("default/web lan"));
    assert!(node.sh("ip -o addr show cni7").contains("10.1.2.1/24"), "the bridge is made, and is the gateway");
    assert!(pod.sh("ip route").contains("default via 10.1.2.1 dev net1"));
    assert_eq!(node.sh("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
    let rules = node.sh("nft list ruleset");
    assert!(rules.contains("ip saddr 10.1.2.2") && rules.contains("cni-br-iface-c1-net1"), "{rules}");
    let ear = node.run(|| TcpListener::bind("10.1.2.1:0").unwrap());
    let to = ear.local_addr().unwrap();
    pod.ns.enter(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap()).unwrap();
    at.check(&result).unwrap();
    at.del().unwrap();
    let rules = node.sh("nft list ruleset");
    assert!(!rules.contains("10.1.2.2") && !rules.contains("c1-net1"), "{rules}");
    assert_eq!(node.links(), ["eno1", "cni7"], "the bridge stays, as with the original");
    assert_eq!((node.entries(), node.taken("lan").len(), pod.links().len()), (0, 0, 0));
}

#[test]
fn the_drop_in_macvlan() {
    let node = Node::without_bridge();
    let pod = node.pod("web");
    let at = node.at(&pod).drop_in(Type::Macvlan).with(json!({"type": "macvlan", "bridge": null, "master": "eno1"}));
    let result = at.add().unwrap();
    assert_eq!(result.interfaces.len(), 1);
    at.check(&result).unwrap();
    assert_eq!(at.clone().of_vm().add().unwrap_err().code, Code::MacvlanForVm);
    at.del().unwrap();
    assert_eq!((pod.links().len(), node.taken("lan").len(), node.entries()), (0, 0, 0));
}

#[test]
fn a_second_default_route_is_left_out() {
    let node = Node::new();
    let pod = node.pod("web");
    let ipam = |routes: Value| {
        let mut ipam = node.host_local(json!({"subnet": "10.1.2.0/24"}));
        ipam["routes"] = routes;
        json!({"ipam": ipam})
    };
    let both = json!([{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.1.2.9"}]);
    let at = node.at(&pod).with(ipam(both));
    let first = at.add().unwrap();
    assert_eq!(first.routes.len(), 2);
    assert!(pod.sh("ip route").contains("default via 10.1.2.1 dev net1"));
    let second = At { ifname: "net2", ..at.clone() };
    let second = second.with(ipam(
        json!([{"dst": "0.0.0.0/0"}, {"dst": "0.0.0.0/0", "table": 254}, {"dst": "::/0"}, {"dst": "10.8.0.0/16"}]),
    ));
    let result = second.add().unwrap();
    let told: Vec<String> = result.routes.iter().map(|r| r.dst.to_string()).collect();
    assert_eq!(told, ["::/0", "10.8.0.0/16"], "the result has what was set");
    assert_eq!(pod.sh("ip route").matches("default").count(), 1);
    second.check(&result).unwrap();
    // In a table of its own it is nobody's second.
    let third = At { ifname: "net3", ..at.clone() }.with(ipam(json!([{"dst": "0.0.0.0/0", "table": 77}])));
    third.add().unwrap();
    assert!(pod.sh("ip route show table 77").contains("default"));
    for at in [at, second, third] {
        at.del().unwrap();
    }
    assert_eq!((pod.links().len(), node.taken("lan").len()), (0, 0));
}

#[test]
fn router_advertisements_count_where_they_are_asked_for() {
    let node = Node::new();
    let pod = node.pod("web");
    let at = node.at(&pod).with(json!({"acceptRA": true, "ipam": {}}));
    let result = at.add().unwrap();
    assert_eq!((result.ips.len(), pod.addresses("net1").len()), (0, 0));
    assert_eq!(pod.sysctl("ipv6/conf/net1/accept_ra_defrtr"), "1");
    assert_eq!(pod.sysctl("ipv6/conf/net1/accept_ra"), "2", "also in a pod that forwards");
    at.check(&result).unwrap();
    at.del().unwrap();
}

#[test]
fn addresses_that_are_asked_for_without_ipam() {
    let node = Node::new();
    let pod = node.pod("web");
    let mut at = node.at(&pod).with(json!({"ipam": null, "args": {"cni": {"ips": ["10.7.0.5/24", "2001:db8::5/64"]}}}));
    at.args += ";IP=10.7.0.9/24";
    let result = at.add().unwrap();
    assert_eq!(pod.addresses("net1"), ["10.7.0.5/24", "2001:db8::5/64"]);
    assert!(!pod.sh("ip -o -6 addr show net1 scope global").contains("tentative"));
    at.check(&result).unwrap();
    at.del().unwrap();
    let at = at.with(json!({"args": null}));
    at.add().unwrap();
    assert_eq!(pod.addresses("net1"), ["10.7.0.9/24"]);
    at.del().unwrap();
    let at = node.at(&pod).with(json!({"ipam": node.host_local(json!({"subnet": "10.1.2.0/24"})),
        "runtimeConfig": {"ips": ["10.1.2.70"]}, "args": {"cni": {"ips": ["10.1.2.71"]}}}));
    assert_eq!(at.add().unwrap().ips[0].address.to_string(), "10.1.2.70/24");
    assert_eq!(node.taken("lan"), ["10.1.2.70"]);
    at.del().unwrap();
}

#[test]
fn two_networks_and_two_containers_do_not_touch_each_other() {
    let node = Node::new();
    let (one, two) = (node.pod("one"), node.pod("two"));
    let a = node.at(&one);
    let b = At { ifname: "net2", ..a.clone() }.with(json!({"name": "dmz"}));
    let c = At { container: "c2", ..node.at(&two) };
    let results = [a.add().unwrap(), b.add().unwrap(), c.add().unwrap()];
    assert_eq!((node.entries(), node.taken("lan").len(), node.taken("dmz").len()), (3, 2, 1));
    a.del().unwrap();
    b.check(&results[1]).unwrap();
    c.check(&results[2]).unwrap();
    b.del().unwrap();
    c.del().unwrap();
    assert_eq!((node.entries(), node.links()), (0, vec!["eno1".to_owned(), "br0".to_owned()]));
}
