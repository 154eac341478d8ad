//! CHECK: passes while all is as it was, and finds each thing that somebody has changed.

use serde_json::json;

use super::machine::{POD_LINK, TAP, both, machine};
use super::*;
use crate::types::Code;

/// Words of what is found, the change, and the way back.
type Change<'a> = (&'a str, &'a dyn Fn(), &'a dyn Fn());

/// Each change is found, and undone again for the next.
fn finds_each(at: &At<'_>, result: &AddResult, changes: &[Change<'_>]) {
    for (words, change, back) in changes {
        at.check(result).unwrap();
        change();
        let found = at.check(result).expect_err(words).to_string();
        assert!(found.contains(words), "{words:?} is not in {found}");
        back();
    }
    at.check(result).unwrap();
}

#[test]
fn a_wire_on_a_bridge() {
    let node = Node::new();
    let pod = node.pod("web");
    let mut ipam = node.host_local(json!({"subnet": "10.1.2.0/24"}));
    ipam["routes"] = json!([{"dst": "10.9.0.0/16"}]);
    let at = node.at(&pod).with(json!({"macspoofchk": true, "ipam": ipam, "mac": "02:00:5e:10:00:01"}));
    let result = at.add().unwrap();
    let port = "trca4978b4555";
    let on_node = |script: &str| drop(node.sh(&script.replace("PORT", port)));
    let in_pod = |script: &str| drop(pod.sh(script));
    let (lease, aside) = (node.store("lan").join("10.1.2.2"), node.tmp.path().join("aside"));
    finds_each(
        &at,
        &result,
        &[
            ("is no port of bridge br0", &|| on_node("ip link set PORT nomaster"), &|| {
                on_node("ip link set PORT master br0")
            }),
            ("down", &|| on_node("ip link set PORT down"), &|| on_node("ip link set PORT up")),
            ("bridge br0 or its port", &|| on_node("ip link set br0 down"), &|| on_node("ip link set br0 up")),
            ("hairpin mode", &|| on_node("bridge link set dev PORT hairpin on"), &|| {
                on_node("bridge link set dev PORT hairpin off");
            }),
            ("isolation", &|| on_node("bridge link set dev PORT isolated on"), &|| {
                on_node("bridge link set dev PORT isolated off");
            }),
            ("disabled", &|| on_node("bridge link set dev PORT state 0"), &|| {
                on_node("bridge link set dev PORT state 3")
            }),
            ("net1 is down", &|| in_pod("ip link set net1 down"), &|| {
                in_pod("ip link set net1 up; ip route add 10.9.0.0/16 via 10.1.2.1");
            }),
            ("another MAC", &|| in_pod("ip link set net1 address 02:00:5e:10:00:02"), &|| {
                in_pod("ip link set net1 address 02:00:5e:10:00:01");
            }),
            ("has no address 10.1.2.2/24", &|| in_pod("ip addr del 10.1.2.2/24 dev net1"), &|| {
                in_pod("ip addr add 10.1.2.2/24 dev net1; ip route add 10.9.0.0/16 via 10.1.2.1");
            }),
            ("route to 10.9.0.0/16", &|| in_pod("ip route del 10.9.0.0/16"), &|| {
                in_pod("ip route add 10.9.0.0/16 via 10.1.2.1");
            }),
            ("no route to 10.1.2.0/24", &|| in_pod("ip route del 10.1.2.0/24"), &|| {
                in_pod("ip route add 10.1.2.0/24 dev net1; ip route replace 10.9.0.0/16 via 10.1.2.1");
            }),
            ("is called", &|| in_pod("ip link set net1 down; ip link set net1 name lan0"), &|| {
                in_pod("ip link set lan0 name net1; ip link set net1 up; ip route add 10.9.0.0/16 via 10.1.2.1");
            }),
            ("no address in", &|| std::fs::rename(&lease, &aside).unwrap(), &|| {
                std::fs::rename(&aside, &lease).unwrap();
            }),
        ],
    );
    node.sh("nft flush chain bridge nat cni-br-iface-c1-net1-mac");
    assert!(at.finds(&result).contains("filter against spoofed MAC addresses of net1 is gone"));
    node.sh(&format!("ip link del {port}"));
    assert!(at.finds(&result).contains("net1 is gone"));
    at.del().unwrap();
    assert_eq!((node.entries(), node.taken("lan").len()), (0, 0));
}

#[test]
fn the_filters_of_a_drop_in() {
    let node = Node::without_bridge();
    let pod = node.pod("web");
    let both = json!({"type": "bridge", "isGateway": true, "ipMasq": true, "macspoofchk": true});
    let at = node.at(&pod).drop_in(Type::Bridge).with(both);
    let result = at.add().unwrap();
    at.check(&result).unwrap();
    node.sh("nft flush chain inet cni_plugins_masquerade masq_checks");
    assert!(at.finds(&result).contains("the masquerade of net1 is gone"));
    node.sh("nft delete table bridge nat");
    assert!(at.finds(&result).contains("the filter against spoofed MAC addresses of net1 is gone"));
    at.del().unwrap();
}

#[test]
fn a_bridge_that_was_made_anew() {
    let node = Node::new();
    let pod = node.pod("web");
    let at = node.at(&pod);
    let result = at.add().unwrap();
    node.sh("ip link del br0");
    assert!(at.finds(&result).contains("bridge br0 is gone"));
    node.sh("ip link add br0 type bridge; ip link set br0 up");
    assert!(at.finds(&result).contains("is no port of bridge br0"));
    node.sh("ip link set trca4978b4555 master br0");
    at.check(&result).unwrap();
}

#[test]
fn a_wire_on_a_macvlan() {
    let node = Node::without_bridge();
    let pod = node.pod("web");
    let at = node.at(&pod).with(json!({"master": "eno1", "mac": "02:00:5e:10:00:01"}));
    let result = at.add().unwrap();
    at.check(&result).unwrap();
    pod.sh("ip link set net1 type macvlan mode vepa");
    assert!(at.finds(&result).contains("no macvlan of mode bridge"));
    pod.sh("ip link set net1 type macvlan mode bridge; ip link set net1 down");
    assert!(at.finds(&result).contains("net1 is down"));
    pod.sh("ip link del net1");
    assert!(at.finds(&result).contains("net1 is gone"));
    at.del().unwrap();
}

#[test]
fn a_bind_step() {
    let (node, pod) = machine();
    let (link, tap) = (POD_LINK, TAP);
    // Without an address to be given: the filters around one are another test's.
    let [wire, bind] = both(&node, &pod);
    wire.with(json!({"ipam": null})).add().unwrap();
    let nothing = bind.add().unwrap();
    let run = |script: String| drop(pod.sh(&script));
    let redirect = |from: &str, to: &str| {
        format!(
            "tc qdisc add dev {from} ingress; tc filter add dev {from} parent ffff: u32 match u32 0 0 action mirred egress redirect dev {to}"
        )
    };
    let anew = || {
        run(format!(
            "ip link del {tap}; ip tuntap add {tap} mode tap user 107 group 107; ip link set {tap} up; tc qdisc del dev {link} ingress"
        ));
        run(redirect(link, tap) + "; " + &redirect(tap, link));
    };
    finds_each(
        &bind,
        &nothing,
        &[
            ("is down: the guest has no traffic", &|| run(format!("ip link set {tap} down")), &|| {
                run(format!("ip link set {tap} up"))
            }),
            ("the redirect from", &|| run(format!("tc qdisc del dev {link} ingress")), &|| run(redirect(link, tap))),
            ("the redirect from", &|| run(format!("tc qdisc del dev {tap} ingress")), &|| run(redirect(tap, link))),
            (
                "owner",
                &|| run(format!("ip tuntap del {tap} mode tap; ip tuntap add {tap} mode tap user 0 group 107")),
                &anew,
            ),
            (
                "multi_queue true",
                &|| run(format!("ip link del {tap}; ip tuntap add {tap} mode tap user 107 group 107 multi_queue")),
                &anew,
            ),
            (
                "is not a tap",
                &|| run(format!("ip link set {tap} name tapx; ip tuntap add {tap} mode tun user 107 group 107")),
                &|| {
                    run(format!("ip link del {tap}; ip link set tapx name {tap}"));
                },
            ),
        ],
    );
    pod.sh(&format!("ip link del {tap}"));
    assert!(bind.finds(&nothing).contains("is gone"));
    bind.del().unwrap();
    assert!(bind.finds(&nothing).contains("the journal has no such entry"));
}

#[test]
fn without_the_journal_the_result_tells() {
    let node = Node::new();
    let pod = node.pod("web");
    let at = node.at(&pod);
    let result = at.add().unwrap();
    std::fs::remove_dir_all(node.dirs.run.join("journal")).unwrap();
    at.check(&result).unwrap();
    node.sh("ip link set trca4978b4555 nomaster");
    assert!(at.finds(&result).contains("no port of bridge br0 leads to net1"));
    node.sh("ip link set trca4978b4555 master br0");
    let other = node.pod("other");
    let elsewhere = At { netns: other.path.to_str().unwrap().into(), ..at.clone() };
    let found = elsewhere.finds(&result);
    assert!(found.contains("no interface net1 in this namespace"), "{found}");
    let none = at.verb("CHECK", async |job| super::super::check(job, Type::Trestle).await).unwrap_err();
    assert_eq!(none.code, Code::Config, "{none}");
    at.del().unwrap();
    assert_eq!((node.links(), node.taken("lan").len()), (vec!["eno1".to_owned(), "br0".to_owned()], 0));
}

#[test]
fn another_namespace_under_the_same_path() {
    let node = Node::new();
    let pod = node.pod("web");
    let at = node.at(&pod);
    let result = at.add().unwrap();
    pod.vanish();
    let _new = node.pod("web");
    assert!(at.finds(&result).contains("another network namespace"));
}
