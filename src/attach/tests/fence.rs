//! A bound machine's address: what the records say of it, the filters around it, and who takes them away.

use super::machine::{POD_LINK, bind, both, machine, wire};
use super::*;
use crate::attach::{Finding, Round, Served, Terms, guests, mend};
use crate::ipam::dhcp::{Answer, Identity, Step, Wish};
use crate::store::{ContainerLock, LeaseRecord, Leases};
use crate::types::Code;

fn served(node: &Node) -> Vec<Served> {
    guests(&node.dirs, &node.host).unwrap().into_iter().map(Result::unwrap).collect()
}

/// What tc shows of a link's filters and of the qdisc for them.
fn filters(node: &Node, link: &str) -> String {
    node.sh(&format!(
        "tc filter show dev {link} ingress; tc filter show dev {link} egress; tc qdisc show dev {link} | grep ffff: || true"
    ))
}

fn port(node: &Node) -> String {
    node.links().into_iter().find(|l| l.starts_with("tr")).expect("a port of ours")
}

#[test]
fn what_the_wire_was_given_is_served_once_it_is_bound() {
    let (node, pod) = machine();
    let mut ipam = node.host_local(json!({"subnet": "10.1.2.0/24", "gateway": "10.1.2.1"}));
    ipam["routes"] = json!([{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.1.2.9"}]);
    let dns = json!({"nameservers": ["10.1.2.53"], "search": ["lab.test"]});
    let wire = wire(&node, &pod).with(json!({"ipam": ipam, "dns": dns, "mtu": 1400}));
    let result = wire.add().unwrap();
    assert!(served(&node).is_empty(), "KubeVirt's own binding answers its guest by itself");
    let bind = bind(&node, &pod);
    bind.add().unwrap();
    let guests = served(&node);
    let [Served { container, ifname, pod: Some(who), network, link, guest, terms: Terms::Given }] = &guests[..] else {
        panic!("{guests:?}")
    };
    assert_eq!((container.as_str(), ifname.as_str(), network.as_str()), ("c1", "net2", "lan"));
    assert_eq!((who.name.as_str(), guest.hostname.as_deref()), ("virt-launcher-db-abcde", Some("db")));
    assert_eq!(*link, pod.link(POD_LINK).index);
    let host = node.link(&result.interfaces[1].name);
    assert_eq!((guest.host_index, Some(guest.host_mac)), (host.index, host.mac));
    assert_eq!((Some(guest.mac), guest.mtu.get()), (pod.link(POD_LINK).mac, 1400));
    assert_eq!(guest.wire.as_ref().map(|w| w.as_str()), Some(POD_LINK));
    let given = serde_json::to_value(&guest.given).unwrap();
    let wanted = json!({
        "addresses": ["10.1.2.2/24"],
        "gateway": "10.1.2.1",
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}, {"dst": "10.9.0.0/16", "gw": "10.1.2.9"}],
        "dns": dns,
    });
    assert_eq!(given, wanted);
    bind.del().unwrap();
    assert!(served(&node).is_empty());
}

#[test]
fn a_machine_without_ipam_is_left_to_the_lan() {
    let (node, pod) = machine();
    wire(&node, &pod).with(json!({"ipam": null})).add().unwrap();
    bind(&node, &pod).add().unwrap();
    assert!(served(&node).is_empty());
    assert_eq!(filters(&node, &port(&node)), "");
    assert!(!pod.sh(&format!("tc filter show dev {POD_LINK} ingress")).contains("bpf"));
}

#[test]
fn another_plugins_address_is_given_too() {
    let (node, pod) = machine();
    node.sh(&format!(
        "ip link add other type veth peer name {POD_LINK} netns {}; ip link set other master br0 up",
        pod.path.display()
    ));
    pod.sh(&format!(
        "ip link set {POD_LINK} up; ip addr add 10.1.2.7/24 dev {POD_LINK}; ip route add default via 10.1.2.1"
    ));
    let bind = bind(&node, &pod);
    bind.add().unwrap();
    let guests = served(&node);
    let guest = &guests[0].guest;
    assert_eq!((guest.host_index, &guest.wire, &guest.lease), (node.link("other").index, &None, &None));
    let given = serde_json::to_value(&guest.given).unwrap();
    let default = json!([{"dst": "0.0.0.0/0", "gw": "10.1.2.1"}]);
    assert_eq!(given, json!({"addresses": ["10.1.2.7/24"], "gateway": "10.1.2.1", "routes": default}));
    bind.check(&AddResult::default()).unwrap();
    bind.del().unwrap();
    assert_eq!(filters(&node, "other"), "", "nothing of ours stays on a link that stays");
}

#[test]
fn a_guest_that_could_not_hear_of_all_its_addresses_is_refused() {
    let node = Node::new();
    let pod = node.pod("machine");
    let two = json!({"type": "static", "addresses": [{"address": "10.1.2.7/24"}, {"address": "10.1.3.7/24"}]});
    let (wire, bind) = (wire(&node, &pod).with(json!({"ipam": two})), bind(&node, &pod));
    wire.add().unwrap();
    let refused = bind.add().unwrap_err();
    assert!(refused.code == Code::SeveralForGuest && refused.msg.contains("10.1.2.7/24, 10.1.3.7/24"), "{refused}");
    assert_eq!((pod.links(), pod.addresses(POD_LINK).len()), (vec![POD_LINK.to_owned()], 2), "nothing is changed");
    assert_eq!(node.entries(), 1);
}

#[test]
fn check_finds_each_filter_that_is_gone() {
    let node = Node::new();
    for (n, (at_host, change, text)) in [
        (true, "tc filter del dev LINK ingress", "the guest's DHCP reaches the LAN"),
        (true, "tc filter del dev LINK egress", "a filter at the host's end is gone"),
        (true, "tc qdisc del dev LINK clsact", "a filter at the host's end is gone"),
        (false, "tc filter del dev LINK ingress prio 67", "the LAN's DHCP reaches the guest"),
    ]
    .into_iter()
    .enumerate()
    {
        let (pod, container) = (node.pod(&format!("machine{n}")), format!("c{n}"));
        let [wire, bind] = both(&node, &pod).map(|at| At { container: &container, ..at });
        wire.add().unwrap();
        let bound = bind.add().unwrap();
        bind.check(&bound).unwrap();
        if at_host {
            node.sh(&change.replace("LINK", &port(&node)));
        } else {
            pod.sh(&change.replace("LINK", POD_LINK));
        }
        assert!(bind.finds(&bound).contains(text), "{change}: {}", bind.finds(&bound));
        bind.del().unwrap();
        assert_eq!(filters(&node, &port(&node)), "");
        wire.del().unwrap();
    }
    assert_eq!(node.entries(), 0);
}

#[test]
fn somebody_elses_qdisc_at_the_hosts_end() {
    let (node, pod) = machine();
    let [wire, bind] = both(&node, &pod);
    wire.add().unwrap();
    let port = port(&node);
    node.sh(&format!("tc qdisc add dev {port} ingress"));
    let refused = bind.add().unwrap_err();
    assert!(refused.code == Code::Kernel && refused.msg.contains(&port), "{refused}");
    assert_eq!((pod.links(), pod.addresses(POD_LINK).len()), (vec![POD_LINK.to_owned()], 1), "nothing is changed");
    let mark = format!("tc filter add dev {port} ingress prio 1 u32 match u32 0 0 flowid 1:1");
    node.sh(&format!("tc qdisc del dev {port} ingress; tc qdisc add dev {port} clsact; {mark}"));
    let before = filters(&node, &port);
    let bound = bind.add().unwrap();
    assert!(filters(&node, &port).contains("pref 67 bpf"));
    bind.check(&bound).unwrap();
    bind.del().unwrap();
    assert_eq!(filters(&node, &port), before, "what is somebody else's is as it was");
}

fn rounds(node: &Node, path: &std::path::Path, dry_run: bool) -> Option<Finding> {
    let id = AttachmentId { container: "c1".parse().unwrap(), ifname: "net2".parse().unwrap(), role: Role::Bind };
    let round = Round { dry_run, of: vec![(id, path.into())] };
    node.run(|| block_on(mend(&round, &node.dirs))).remove(0)
}

#[test]
fn what_was_made_in_the_pod_is_put_back() {
    let node = Node::new();
    let pod = node.pod("machine");
    wire(&node, &pod).add().unwrap();
    let bind = bind(&node, &pod);
    let bound = bind.add().unwrap();
    assert_eq!(rounds(&node, &pod.path, false), None);
    let other = node.pod("other");
    let (filter, to, from) =
        ("the filter that keeps the LAN's DHCP from it", "the redirect to its tap", "the redirect from its tap");
    for (change, missing) in [
        (format!("tc filter del dev {POD_LINK} ingress prio 67"), vec![filter]),
        (format!("tc filter del dev {POD_LINK} ingress prio 100"), vec![to]),
        (format!("tc filter del dev {POD_LINK} ingress"), vec![filter, to]),
        (format!("tc qdisc del dev {POD_LINK} ingress"), vec![filter, to]),
        ("tc qdisc del dev tap094a367b026 ingress".into(), vec![from]),
        (
            format!("tc qdisc del dev tap094a367b026 ingress; tc qdisc del dev {POD_LINK} ingress"),
            vec![filter, to, from],
        ),
    ] {
        let before = filters_in(&pod);
        pod.sh(&change);
        let broken = filters_in(&pod);
        let would = rounds(&node, &pod.path, true).expect("something is missing");
        assert_eq!((would.done, would.text), (false, format!("{} would be put back", missing.join(", and "))));
        // Somebody is at work on it, and another pod is at the path.
        let lock = ContainerLock::try_lock(&node.dirs, &"c1".parse().unwrap()).unwrap();
        assert_eq!(rounds(&node, &pod.path, false), None);
        drop(lock);
        assert_eq!(rounds(&node, &other.path, false), None);
        assert_eq!(filters_in(&pod), broken);
        let done = rounds(&node, &pod.path, false).unwrap();
        assert!(done.done && done.text.starts_with(&missing.join(", and ")), "{done:?}");
        assert_eq!(rounds(&node, &pod.path, false), None, "{change}");
        assert_eq!(filters_in(&pod), before, "{change}");
        bind.check(&bound).unwrap();
    }
    pod.sh(&format!("tc qdisc del dev {POD_LINK} ingress; tc qdisc add dev {POD_LINK} clsact"));
    let told = rounds(&node, &pod.path, false).unwrap();
    assert!(!told.done && told.text.contains("qdisc clsact of somebody else's"), "{told:?}");
    pod.sh("ip link del tap094a367b026");
    assert_eq!(rounds(&node, &pod.path, false), None, "nobody but its maker makes a tap");
    bind.del().unwrap();
    assert_eq!(rounds(&node, &pod.path, false), None);
}

/// Without numbers that the kernel gives anew; tc names the parent of some alone.
fn filters_in(pod: &Pod) -> String {
    let show = |link: &str| format!("tc filter show dev {link} ingress; tc qdisc show dev {link} | grep ffff: || true");
    let all = pod.sh(&format!("{}; {}", show(POD_LINK), show("tap094a367b026")));
    all.lines().filter(|l| !l.contains("index")).map(|l| l.replace(" parent ffff:", "") + "\n").collect()
}

/// A clsact that was there before us is shared; the one that the agent makes after that has gone is ours.
#[test]
fn a_qdisc_that_the_agent_has_made_goes_with_the_bind_step() {
    let node = Node::new();
    let pod = node.pod("machine");
    node.sh(&format!(
        "ip link add other type veth peer name {POD_LINK} netns {}; ip link set other master br0 up; tc qdisc add dev other clsact",
        pod.path.display()
    ));
    pod.sh(&format!("ip link set {POD_LINK} up; ip addr add 10.1.2.7/24 dev {POD_LINK}"));
    let bind = bind(&node, &pod);
    bind.add().unwrap();
    node.sh("tc qdisc del dev other clsact");
    node.run(|| {
        block_on(async {
            let host = Namespace::own().unwrap();
            let entries: Vec<_> = Journal(&node.dirs).all().unwrap().into_iter().flatten().collect();
            let fence = crate::attach::fences(&entries, &node.dirs, &host).unwrap().remove(0);
            assert!(fence.mend(&node.dirs, &host.netlink().unwrap()).await.unwrap());
        });
    });
    assert!(filters(&node, "other").contains("pref 67 bpf"));
    bind.del().unwrap();
    assert_eq!(filters(&node, "other"), "");
}

/// A runtime deletes in any order, and the journal may be lost.
#[test]
fn filters_go_with_the_wire_or_without_the_journal() {
    let (node, pod) = machine();
    let [wire, bind] = both(&node, &pod);
    wire.add().unwrap();
    bind.add().unwrap();
    wire.del().unwrap();
    bind.del().unwrap();
    assert_eq!(node.entries(), 0);
    wire.add().unwrap();
    bind.add().unwrap();
    std::fs::remove_dir_all(node.dirs.run.join("journal")).unwrap();
    bind.del().unwrap();
    let left = filters(&node, &port(&node));
    assert!(!left.contains("bpf"), "{left}");
    assert_eq!(pod.links(), [POD_LINK]);
}

/// The number of a link that is gone may come back to another one.
#[test]
fn a_later_link_of_the_host_ends_number_is_left_alone() {
    let (node, pod) = machine();
    let [wire, bind] = both(&node, &pod);
    wire.add().unwrap();
    let (port, index) = (port(&node), node.link(&port(&node)).index);
    bind.add().unwrap();
    node.sh(&format!("ip link del {port}; ip link add later index {index} type bridge; tc qdisc add dev later clsact"));
    node.sh("tc filter add dev later ingress prio 67 protocol all bpf da bytecode '1,6 0 0 4294967295,'");
    let before = filters(&node, "later");
    bind.del().unwrap();
    assert_eq!(filters(&node, "later"), before);
}

/// The address is the guest's now.
#[test]
fn a_leases_address_does_not_come_back_to_a_bound_link() {
    let (node, pod) = machine();
    let wire = wire(&node, &pod);
    wire.add().unwrap();
    bind(&node, &pod).add().unwrap();
    let entry = node.entry("c1", "net2", Role::Bind).unwrap();
    let mut record: Value = entry.record.parse().unwrap();
    record["guest"]["lease"] = json!(POD_LINK);
    Journal(&node.dirs).write(&entry.id, &entry.network.parse().unwrap(), &record).unwrap();
    let only = |node: &Node| served(node).remove(0).terms;
    assert_eq!(only(&node), Terms::NoLease);
    let lease: crate::ipam::dhcp::Lease = serde_json::from_value(json!({
        "address": "10.1.2.2", "prefix": 24, "mask_given": true, "server": "10.1.2.1", "routers": [], "routes": [],
        "dns": [], "domain": null, "search": [], "mtu": null, "hostname": null, "seconds": 60, "t1": 30, "t2": 50,
    }))
    .unwrap();
    let link = pod.link(POD_LINK);
    let job = crate::ipam::dhcp::Job {
        netns: pod.path.clone(),
        cookie: 0,
        index: link.index,
        ifname: POD_LINK.into(),
        identity: Identity::of_vm(link.mac.unwrap(), "default", "db", "lan"),
        wish: Wish::default(),
        step: Step::Renew(lease.clone()),
        seconds: 1,
        routes: None,
        follows: None,
        priority: None,
        before: None,
    };
    let record =
        LeaseRecord::new(&node.dirs, "c1".parse().unwrap(), POD_LINK.parse().unwrap(), "lan", job.clone()).unwrap();
    Leases::new(&node.dirs).write(&record).unwrap();
    assert_eq!(only(&node), Terms::Lease(Box::new(record)));
    pod.sh(&format!("ip addr add 10.1.2.2/24 dev {POD_LINK}"));
    node.run(|| block_on(crate::attach::dhcp::keep_for_tests(&job, &lease))).unwrap();
    assert_eq!(pod.addresses(POD_LINK), ["10.1.2.2/24"], "left to whoever put it there");
    pod.sh(&format!("ip addr flush dev {POD_LINK}"));
    node.run(|| block_on(crate::attach::dhcp::keep_for_tests(&job, &lease))).unwrap();
    assert!(pod.addresses(POD_LINK).is_empty());
    let silent = node.run(|| block_on(crate::attach::dhcp::exchange(&job, &node.dirs))).unwrap();
    assert_eq!(silent, Answer::Silent, "no server is here");
}
