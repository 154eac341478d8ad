//! The rule of the house, row by row, and what belongs to it.

use serde_json::{Value, json};

use super::*;
use crate::net::MacvlanMode;
use crate::plan::allow::{Allow, AllowList};
use crate::plan::conf::{self, Conf};
use crate::plan::dropin;
use crate::plan::testing::{Pod, bridge as bridge_link, call, link, node, port};
use crate::plan::uplink::Port;
use crate::store::Allow as Entry;
use crate::vmi::Nics;

fn attachment(more: Value) -> Attachment {
    let mut conf = json!({"cniVersion": "1.1.0", "name": "lan", "type": "trestle"});
    for (key, value) in more.as_object().unwrap() {
        conf[key] = value.clone();
    }
    match conf::parse(&call(&conf, "")).unwrap() {
        Conf::Attachment(a) => *a,
        Conf::Bind(_) => panic!("{conf} is a bind step"),
    }
}

/// The node as `attach` would find it for this configuration.
fn facts(conf: &Attachment) -> NodeFacts {
    let mut facts = node();
    let find =
        |name: &Option<IfName>| name.as_ref().and_then(|n| facts.links.iter().find(|l| l.name == n.as_str()).cloned());
    (facts.bridge, facts.master) = (find(&conf.bridge), find(&conf.master));
    facts
}

fn decide(pod: &Pod, more: Value) -> Outcome<Plan> {
    let conf = attachment(more);
    trestle(&pod.asks(), &conf, &facts(&conf))
}

fn bridge_wire(pod: &Pod, more: Value) -> BridgeWire {
    match decide(pod, more.clone()) {
        Ok(Plan::Bridge(wire)) => wire,
        other => panic!("{more}: {other:?}"),
    }
}

fn macvlan_wire(pod: &Pod, more: Value) -> MacvlanWire {
    match decide(pod, more.clone()) {
        Ok(Plan::Macvlan(wire)) => wire,
        other => panic!("{more}: {other:?}"),
    }
}

fn refused(pod: &Pod, more: Value, code: Code, words: &[&str]) {
    let failure = decide(pod, more.clone()).expect_err(&more.to_string());
    says(&failure, code, words);
}

fn says(failure: &Failure, code: Code, words: &[&str]) {
    assert_eq!(failure.code, code, "{failure}");
    for word in words {
        assert!(failure.to_string().contains(word), "{word:?} is not in {failure}");
    }
}

const BRIDGES: &str = "br-lan, br-dmz";

#[test]
fn the_rule_of_the_house() {
    let (plain, machine) = (Pod::plain(), Pod::machine());
    // The pod is a machine's.
    assert_eq!(bridge_wire(&machine, json!({"bridge": "br-lan"})).form, Form::Vm);
    assert_eq!(bridge_wire(&machine, json!({"bridge": "br-lan", "master": "eno1"})).form, Form::Vm);
    let missing = ["network lan", "no bridge br-lna on node1", BRIDGES, "did you mean br-lan?"];
    refused(&machine, json!({"bridge": "br-lna"}), Code::BridgeMissing, &missing);
    refused(&machine, json!({"bridge": "br-lna", "master": "eno1"}), Code::BridgeMissing, &missing);
    let never =
        ["network lan", "macvlan cannot carry the virtual machine of pod default/virt-launcher-db-abcde", BRIDGES];
    refused(&machine, json!({"master": "eno1"}), Code::MacvlanForVm, &never);
    refused(&machine, json!({"master": "no-such-link"}), Code::MacvlanForVm, &never);
    // A plain pod's.
    let wire = bridge_wire(&plain, json!({"bridge": "br-lan", "master": "eno1"}));
    assert_eq!((wire.bridge.as_str(), wire.form), ("br-lan", Form::Lan { accept_ra: false }));
    let wire = macvlan_wire(&plain, json!({"bridge": "br-x", "master": "eno1", "mode": "vepa"}));
    assert_eq!((wire.master.as_str(), wire.master_index, wire.mode), ("eno1", 2, MacvlanMode::Vepa));
    assert_eq!(wire.fallback.as_deref(), Some("no bridge br-x on node1"));
    assert_eq!(macvlan_wire(&plain, json!({"master": "eno1"})).fallback, None);
    refused(&plain, json!({"bridge": "br-lna"}), Code::BridgeMissing, &missing);
    refused(&plain, json!({"bridge": "zzz"}), Code::BridgeMissing, &["make zzz on node1, or run the pod where it is"]);
}

#[test]
fn links_that_cannot_serve() {
    let pod = Pod::plain();
    let with = |change: &dyn Fn(&mut NodeFacts), more: Value| {
        let conf = attachment(more);
        let mut facts = facts(&conf);
        change(&mut facts);
        trestle(&pod.asks(), &conf, &facts).unwrap_err()
    };
    refused(&pod, json!({"bridge": "eno1"}), Code::NotABridge, &["eno1 on node1 is not a bridge", BRIDGES]);
    let down = |f: &mut NodeFacts| f.bridge.iter_mut().chain(&mut f.master).for_each(|l| l.up = false);
    says(
        &with(&down, json!({"bridge": "br-lan"})),
        Code::BridgeDown,
        &["bridge br-lan on node1 is down", "ip link set br-lan up"],
    );
    says(
        &with(&down, json!({"master": "eno1"})),
        Code::MasterDown,
        &["master eno1 on node1 is down", "ip link set eno1 up"],
    );
    let busy = |f: &mut NodeFacts| f.master_of = Some("br-lan".into());
    says(
        &with(&busy, json!({"master": "eno1"})),
        Code::MasterBusy,
        &["eno1", "port of bridge br-lan", "set bridge to br-lan"],
    );
    refused(
        &pod,
        json!({"master": "eno2"}),
        Code::MasterMissing,
        &["no interface eno2 on node1", "eno1, br-lan, br-dmz", "did you mean eno1?"],
    );
    let empty = |f: &mut NodeFacts| *f = NodeFacts { node: "node1".into(), ..NodeFacts::default() };
    says(&with(&empty, json!({"bridge": "br-lan"})), Code::BridgeMissing, &["bridges there: none"]);
    says(&with(&empty, json!({"master": "eno1"})), Code::MasterMissing, &["there are: none", "correct master"]);
}

#[test]
fn mtus() {
    let pod = Pod::plain();
    let mtu = |m: Option<Mtu>| m.unwrap().get();
    let wire = bridge_wire(&pod, json!({"bridge": "br-lan"}));
    assert_eq!((mtu(wire.host_mtu), mtu(wire.pod_mtu)), (1500, 1500), "without one: the bridge's");
    let wire = bridge_wire(&pod, json!({"bridge": "br-lan", "mtu": 1400}));
    assert_eq!((mtu(wire.host_mtu), mtu(wire.pod_mtu)), (1500, 1400), "a smaller one is the pod's alone");
    refused(&pod, json!({"bridge": "br-lan", "mtu": 1501}), Code::MtuTooLarge, &["mtu: 1501", "1500 of bridge br-lan"]);
    assert_eq!(mtu(macvlan_wire(&pod, json!({"master": "eno1"})).mtu), 1500);
    assert_eq!(mtu(macvlan_wire(&pod, json!({"master": "eno1", "mtu": 1300})).mtu), 1300);
    refused(&pod, json!({"master": "eno1", "mtu": 9000}), Code::MtuTooLarge, &["mtu: 9000", "1500 of master eno1"]);
}

#[test]
fn what_a_macvlan_cannot_give_is_refused_never_dropped() {
    let pod = Pod::plain();
    for option in [
        json!({"vlan": 5}),
        json!({"vlanTrunk": [{"id": 5}]}),
        json!({"preserveDefaultVlan": true}),
        json!({"portIsolation": true}),
        json!({"hairpinMode": true}),
        json!({"macspoofchk": true}),
    ] {
        let key = option.as_object().unwrap().keys().next().unwrap().clone();
        let with = |mut more: Value| {
            more[&key] = option[&key].clone();
            more
        };
        let words =
            [&*format!("{key} cannot be had with macvlan"), "no bridge br-x on node1", "make bridge br-x", BRIDGES];
        refused(&pod, with(json!({"bridge": "br-x", "master": "eno1"})), Code::NotWithMacvlan, &words);
        let words = [&*format!("{key} cannot be had with macvlan"), "the network names no bridge", "set bridge"];
        refused(&pod, with(json!({"master": "eno1"})), Code::NotWithMacvlan, &words);
    }
    let harmless = json!({"bridge": "br-x", "master": "eno1", "vlan": 0, "vlanTrunk": [], "macspoofchk": false});
    macvlan_wire(&pod, harmless);
}

/// A bridge that filters VLANs, with these ports.
fn with_ports(more: Value, ports: Vec<Port>) -> Outcome<Plan> {
    let conf = attachment(more);
    let filtering = Link { kind: LinkKind::Bridge { vlan_filtering: true }, ..bridge_link(3, "br-lan") };
    let facts = NodeFacts { bridge: Some(filtering), ports, ..node() };
    trestle(&Pod::plain().asks(), &conf, &facts)
}

#[test]
fn vlans() {
    let pod = Pod::plain();
    let off = ["bridge br-lan on node1 does not filter VLANs", "ip link set br-lan type bridge vlan_filtering 1"];
    refused(&pod, json!({"bridge": "br-lan", "vlan": 100}), Code::VlanFiltering, &off);
    refused(&pod, json!({"bridge": "br-lan", "vlanTrunk": [{"id": 5}]}), Code::VlanFiltering, &off);

    let uplink = |vids: &[u32]| port(link(2, "eno1", LinkKind::Hardware), vids);
    let bond = |vids: &[u32]| port(link(9, "bond0", LinkKind::Other("bond".into())), vids);
    let pods = port(link(5, "veth1", LinkKind::Veth), &[100]);
    let asked = || json!({"bridge": "br-lan", "vlan": 100, "vlanTrunk": [{"minID": 200, "maxID": 202}, {"id": 7}]});
    let missing = with_ports(asked(), vec![pods.clone(), uplink(&[1, 201])]).unwrap_err();
    let commands = "bridge vlan add dev eno1 vid 100; bridge vlan add dev eno1 vid 7; bridge vlan add dev eno1 vid 200; bridge vlan add dev eno1 vid 202";
    says(&missing, Code::VlanUplink, &["no uplink of bridge br-lan on node1 carries VLAN 100, 7, 200, 202", commands]);
    with_ports(asked(), vec![uplink(&[7, 100]), bond(&[200, 201, 202])]).expect("each VLAN leaves by some uplink");
    let Ok(Plan::Bridge(wire)) = with_ports(asked(), vec![pods]) else { panic!("an island is allowed") };
    let vids: Vec<u16> = wire.vlan.tagged.iter().map(|v| v.get()).collect();
    assert_eq!((wire.vlan.native.unwrap().get(), vids, wire.vlan.keep_default), (100, vec![7, 200, 201, 202], false));
    let Ok(Plan::Bridge(wire)) =
        with_ports(json!({"bridge": "br-lan", "vlanTrunk": [{"id": 7}], "preserveDefaultVlan": true}), vec![])
    else {
        panic!("a trunk")
    };
    assert_eq!((wire.vlan.native, wire.vlan.keep_default), (None, true), "no native VLAN but the kept one");
}

#[test]
fn the_administrators_word() {
    let entry = |glob: &str, namespaces: Option<&[&str]>| Entry {
        glob: glob.into(),
        namespaces: namespaces.map(|l| l.iter().map(|s| (*s).to_owned()).collect()),
    };
    let with = |pod: &Pod, more: Value, bridges: AllowList, masters: AllowList| {
        let conf = attachment(more);
        let facts = NodeFacts { allow: Allow { bridges, masters }, ..facts(&conf) };
        trestle(&pod.asks(), &conf, &facts)
    };
    let (plain, lan) = (Pod::plain(), json!({"bridge": "br-lan", "master": "eno1"}));
    let other = Some(vec![entry("br-dmz", None)]);
    let words = ["network lan: bridge br-lan is not allowed for pod default/web", "allowBridges in node.json"];
    says(&with(&plain, lan.clone(), other.clone(), None).unwrap_err(), Code::BridgeNotAllowed, &words);
    // Before anybody learns whether it is there, and for machines as well.
    says(
        &with(&plain, json!({"bridge": "br-x", "master": "eno1"}), other.clone(), None).unwrap_err(),
        Code::BridgeNotAllowed,
        &["br-x"],
    );
    says(
        &with(&Pod::machine(), lan.clone(), other.clone(), None).unwrap_err(),
        Code::BridgeNotAllowed,
        &["virt-launcher-db"],
    );
    for (namespaces, allowed) in [(&["default"][..], true), (&["def*"], true), (&["prod"], false), (&[], false)] {
        let list = Some(vec![entry("br-*", Some(namespaces))]);
        assert_eq!(with(&plain, lan.clone(), list, None).is_ok(), allowed, "{namespaces:?}");
    }
    let words = ["network lan: master eno1 is not allowed for pod default/web", "allowMasters"];
    says(&with(&plain, json!({"master": "eno1"}), None, Some(vec![])).unwrap_err(), Code::MasterNotAllowed, &words);
    for name in ["docker0", "cni0", "cilium_host", "virbr0", "kube-bridge"] {
        refused(&plain, json!({"bridge": name}), Code::BridgeNotAllowed, &[name]);
        refused(&plain, json!({"master": name}), Code::MasterNotAllowed, &[name]);
    }
    // The cluster's default network is nobody's wish but the administrator's.
    let default = Pod::new("web", "eth0", Some(&[]));
    let cni0 = json!({"bridge": "cni0"});
    says(&with(&default, cni0.clone(), None, None).unwrap_err(), Code::BridgeMissing, &["cni0"]);
    let asked_for = Pod::new("web", "eth0", Some(&[("v1.multus-cni.io/default-network", "br-lan")]));
    says(&with(&asked_for, cni0.clone(), None, None).unwrap_err(), Code::BridgeNotAllowed, &["cni0"]);
    says(&with(&Pod::new("web", "eth0", None), cni0, None, None).unwrap_err(), Code::BridgeNotAllowed, &["cni0"]);
}

#[test]
fn eth0_of_a_machines_pod() {
    let lan = || json!({"bridge": "br-lan"});
    let form = |annotations: Option<&[(&str, &str)]>| {
        bridge_wire(&Pod::new("virt-launcher-db-abcde", "eth0", annotations), lan()).form
    };
    let domain = ("kubevirt.io/domain", "db");
    assert_eq!(form(None), Form::Vm, "`type: trestle` is what a pod asked for");
    assert_eq!(form(Some(&[domain])), Form::Lan { accept_ra: false }, "the cluster's default network");
    assert_eq!(form(Some(&[domain, ("v1.multus-cni.io/default-network", "br-lan")])), Form::Vm);
    assert_eq!(form(Some(&[])), Form::Lan { accept_ra: false }, "no machine's");
    // By whatever name else it is a machine's NIC.
    for name in ["net1", "pod094a367b026", "lan"] {
        assert_eq!(bridge_wire(&Pod::new("virt-launcher-db-abcde", name, Some(&[domain])), lan()).form, Form::Vm);
    }
}

#[test]
fn a_name_alone_is_enough_to_know_a_machine() {
    let mut nameless = Pod::machine();
    nameless.facts.pod.as_mut().unwrap().namespace.clear();
    refused(
        &nameless,
        json!({"master": "eno1"}),
        Code::MacvlanForVm,
        &["the virtual machine of pod virt-launcher-db-abcde"],
    );
    let wire = bridge_wire(&nameless, json!({"bridge": "br-lan"}));
    assert_eq!(
        (wire.pod_mac, wire.alias.as_deref()),
        (Some(Mac::local([0x10; 6])), Some("virt-launcher-db-abcde lan"))
    );
}

#[test]
fn names_aliases_and_macs() {
    let wire = bridge_wire(&Pod::plain(), json!({"bridge": "br-lan"}));
    // Digits of sha256("c1\0net1").
    assert_eq!((wire.host.as_str(), wire.alias.as_deref()), ("trca4978b4555", Some("default/web lan")));
    assert_eq!((wire.host_mac, wire.pod_mac), (Some(Mac::high([0x20; 6])), Some(Mac::local([0x10; 6]))));
    assert_eq!(wire.host_mac.unwrap().bytes()[0], 0xfe);
    let asked = json!({"bridge": "br-lan", "mac": "02:00:00:00:00:07"});
    for pod in [Pod::plain(), Pod::machine()] {
        assert_eq!(bridge_wire(&pod, asked.clone()).pod_mac.unwrap().to_string(), "02:00:00:00:00:07");
    }
    let derived = bridge_wire(&Pod::machine(), json!({"bridge": "br-lan"})).pod_mac;
    assert_eq!(derived, Some(derived_mac("", "default", "db", &"pod094a367b026".parse().unwrap())));
    let unnamed = Pod::new(&format!("virt-launcher-{}abcde", "v".repeat(44)), "net1", None);
    assert_eq!(bridge_wire(&unnamed, json!({"bridge": "br-lan"})).pod_mac, Some(Mac::local([0x10; 6])));
    let mut stranger = Pod::plain();
    stranger.facts.pod = None;
    assert_eq!(bridge_wire(&stranger, json!({"bridge": "br-lan"})).alias, None);
}

#[test]
fn an_alias_is_as_long_as_the_kernel_takes_it() {
    for (name, length) in [("x".repeat(300), 254), ("é".repeat(200), 254), ("𝄞".repeat(100), 252), ("x".into(), 13)]
    {
        let alias = bridge_wire(&Pod::new(&name, "net1", None), json!({"bridge": "br-lan"})).alias.unwrap();
        assert_eq!(alias.len(), length, "{alias}");
        assert!(alias.starts_with("default/"));
    }
}

#[test]
fn a_guard_never_follows_a_random_mac() {
    let guarded = || json!({"bridge": "br-lan", "macspoofchk": true});
    let unnamed = Pod::new(&format!("virt-launcher-{}abcde", "v".repeat(44)), "net1", None);
    refused(
        &unnamed,
        guarded(),
        Code::GuardWithoutMac,
        &["network lan: macspoofchk", "pod default/virt-launcher-vvv", "macAddress"],
    );
    let mut asked = guarded();
    asked["mac"] = json!("02:00:00:00:00:07");
    assert!(bridge_wire(&unnamed, asked).macspoofchk);
    assert!(bridge_wire(&Pod::machine(), guarded()).macspoofchk, "a derived one is the same on each node");
    assert!(bridge_wire(&Pod::plain(), guarded()).macspoofchk, "a plain pod does not migrate");
}

#[test]
fn options_reach_the_plan() {
    let said =
        json!({"bridge": "br-lan", "hairpinMode": true, "portIsolation": true, "macspoofchk": true, "acceptRA": true});
    let wire = bridge_wire(&Pod::plain(), said);
    assert!(wire.hairpin && wire.isolated && wire.macspoofchk && !wire.leave_down);
    assert_eq!((wire.form, wire.verify), (Form::Lan { accept_ra: true }, Verify::Wire));
    assert_eq!(
        (wire.make, wire.gateway, wire.masquerade),
        (None, None, Masquerade::Off),
        "never makes or changes a bridge"
    );
    assert_eq!(
        macvlan_wire(&Pod::plain(), json!({"master": "eno1", "acceptRA": true})).form,
        Form::Lan { accept_ra: true }
    );
}

fn drop_in(pod: &Pod, more: Value, facts: &NodeFacts) -> Outcome<Plan> {
    let mut conf = json!({"cniVersion": "1.0.0", "name": "lan", "type": "bridge"});
    for (key, value) in more.as_object().unwrap() {
        conf[key] = value.clone();
    }
    bridge(&pod.asks(), &dropin::bridge(&call(&conf, "")).unwrap(), facts)
}

#[test]
fn the_drop_in_bridge() {
    let facts = node();
    let wire = |pod: &Pod, more: Value| match drop_in(pod, more, &facts) {
        Ok(Plan::Bridge(wire)) => wire,
        other => panic!("{other:?}"),
    };
    let plain = wire(&Pod::plain(), json!({"mtu": 1400, "isGateway": true, "ipMasq": true, "vlan": 3}));
    assert_eq!((plain.host.as_str(), plain.alias.as_deref()), ("vethca4978b4", Some("default/web lan")));
    assert_eq!((plain.host_mac, plain.host_mtu, plain.pod_mtu), (None, plain.pod_mtu, Mtu::try_from(1400).ok()));
    assert_eq!((plain.form, plain.masquerade), (Form::ReferenceBridge { enable_dad: false }, Masquerade::On));
    assert_eq!(plain.make.unwrap().mtu.unwrap().get(), 1400);
    assert_eq!(plain.gateway.unwrap().vlan.unwrap().get(), 3);
    assert_eq!(plain.verify, Verify::Port);
    let trunk = wire(&Pod::plain(), json!({"vlanTrunk": [{"id": 9}]}));
    assert_eq!(trunk.vlan.native, Some(VlanId::ONE), "unlike type trestle's");
    let machine = wire(&Pod::machine(), json!({}));
    assert_eq!((machine.form, machine.host_mac.unwrap().bytes()[0]), (Form::Vm, 0xfe));
    assert_eq!(machine.pod_mac, Some(derived_mac("", "default", "db", &"pod094a367b026".parse().unwrap())));
    let as_default = wire(&Pod::new("virt-launcher-db-abcde", "eth0", None), json!({}));
    assert_eq!(as_default.form, Form::ReferenceBridge { enable_dad: false }, "it may be the cluster's default network");
    let down = wire(&Pod::plain(), json!({"disableContainerInterface": true}));
    assert_eq!((down.leave_down, down.verify), (true, Verify::Nothing));
    let taken = NodeFacts { bridge: Some(link(7, "cni0", LinkKind::Veth)), ..node() };
    says(&drop_in(&Pod::plain(), json!({}), &taken).unwrap_err(), Code::NotABridge, &["cni0 on node1 is not a bridge"]);
}

#[test]
fn the_drop_in_macvlan() {
    let decide = |pod: &Pod, more: Value, master: Option<Link>| {
        let mut conf = json!({"cniVersion": "1.0.0", "name": "lan", "type": "macvlan"});
        for (key, value) in more.as_object().unwrap() {
            conf[key] = value.clone();
        }
        let facts = NodeFacts { master, ..node() };
        macvlan(&pod.asks(), &dropin::macvlan(&call(&conf, "")).unwrap(), &facts)
    };
    let eno1 = || Some(link(2, "eno1", LinkKind::Hardware));
    let Ok(Plan::Macvlan(wire)) = decide(&Pod::plain(), json!({"master": "eno1"}), eno1()) else {
        panic!("no macvlan")
    };
    assert_eq!((wire.master_index, wire.mtu, wire.mac, wire.form), (2, None, None, Form::ReferenceMacvlan));
    let never = ["macvlan cannot carry the virtual machine", BRIDGES];
    says(&decide(&Pod::machine(), json!({}), eno1()).unwrap_err(), Code::MacvlanForVm, &never);
    says(
        &decide(&Pod::plain(), json!({"master": "eno9"}), None).unwrap_err(),
        Code::MasterMissing,
        &["no interface eno9"],
    );
    says(&decide(&Pod::plain(), json!({}), None).unwrap_err(), Code::MasterMissing, &["no default route"]);
    says(&decide(&Pod::plain(), json!({"mtu": 1501}), eno1()).unwrap_err(), Code::MtuTooLarge, &["1501", "eno1"]);
    decide(&Pod::plain(), json!({"mtu": 1500}), eno1()).unwrap();
}

#[test]
fn a_macvlans_sibling_hangs_on_the_link_below() {
    let shim = Link { lower: Some(2), ..link(8, "shim0", LinkKind::Macvlan { mode: MacvlanMode::Bridge }) };
    let conf = attachment(json!({"master": "shim0"}));
    let index = |master: Link| {
        let facts = NodeFacts { master: Some(master), ..node() };
        match trestle(&Pod::plain().asks(), &conf, &facts) {
            Ok(Plan::Macvlan(wire)) => wire.master_index,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(index(shim.clone()), 2);
    assert_eq!(index(Link { lower_nsid: Some(0), ..shim }), 8, "a number of another namespace says nothing here");
}

#[test]
fn where_the_bind_step_finds_its_link() {
    let pod = Pod::machine();
    let conf = BindConf { network: "lan".into() };
    let named = link(4, "pod094a367b026", LinkKind::Veth);
    let renamed = Link { mtu: 1400, ..link(5, "094a367b026-nic", LinkKind::Veth) };
    let eth0 = link(6, "eth0", LinkKind::Veth);
    let decide = |facts: BindFacts| bind(&pod.asks(), &conf, &facts);
    let all =
        BindFacts { by_name: Some(named), by_journal: Some(renamed.clone()), primary: Some((eth0.clone(), true)) };
    let plan = decide(all.clone()).unwrap();
    assert_eq!((plan.link, plan.tap.as_str(), plan.mtu.get(), plan.multi_queue), (4, "tap094a367b026", 1500, false));
    let plan = decide(BindFacts { by_name: None, ..all.clone() }).unwrap();
    assert_eq!((plan.link, plan.tap.as_str(), plan.mtu.get()), (5, "tap094a367b026", 1400));
    let plan = decide(BindFacts { primary: Some((eth0.clone(), true)), ..BindFacts::default() }).unwrap();
    assert_eq!((plan.link, plan.tap.as_str()), (6, "tap0"));
    let foreign = decide(BindFacts { primary: Some((eth0, false)), ..BindFacts::default() }).unwrap_err();
    says(
        &foreign,
        Code::ForeignPrimary,
        &["network lan", "pod default/virt-launcher-db-abcde", "eth0", "masquerade or managedTap"],
    );
    says(&decide(BindFacts::default()).unwrap_err(), Code::BindLinkMissing, &["no link pod094a367b026"]);
    for (annotation, queues) in [(r#"{"lan":2}"#, Some(true)), (r#"{"lan":1}"#, Some(false)), (r#"{"lan":0}"#, None)] {
        let pod = Pod::new("virt-launcher-db-abcde", "net2", Some(&[("trestle.network/queues", annotation)]));
        assert_eq!(bind(&pod.asks(), &conf, &all).ok().map(|p| p.multi_queue), queues, "{annotation}");
    }
}

#[test]
fn the_pods_own_link_is_for_the_pods_own_network_alone() {
    let facts = BindFacts { primary: Some((link(6, "eth0", LinkKind::Veth), true)), ..BindFacts::default() };
    let decide = |networks: &str, nics: Option<Nics>| {
        let annotations = [("kubevirt.io/domain", "db"), (crate::annotation::NETWORKS, networks)];
        let mut pod = Pod::new("virt-launcher-db-abcde", "net2", Some(&annotations));
        pod.facts.nics = nics;
        bind(&pod.asks(), &BindConf { network: "lan".into() }, &facts).map(|plan| plan.tap.as_str().to_owned())
    };
    let (wire, none) = (r#"[{"name":"br","interface":"pod094a367b026"}]"#, "[]");
    let lan = || Some("lan".to_owned());
    let nics = |pod, primary, secondary: &[&str]| {
        Some(Nics { pod, primary, secondary: secondary.iter().map(|s| (*s).to_owned()).collect(), ..Nics::default() })
    };
    for (networks, nics) in [(none, None), (none, nics(lan(), None, &["dmz"])), (none, nics(None, lan(), &["dmz"]))] {
        assert_eq!(decide(networks, nics), Ok("tap0".into()));
    }
    let misspelt = nics(Some("default".into()), None, &["lan0"]);
    for (networks, nics) in
        [(wire, None), (wire, nics(lan(), None, &[])), (none, nics(None, None, &["lan"])), (none, misspelt)]
    {
        let refused = decide(networks, nics).unwrap_err();
        says(&refused, Code::BindLinkMissing, &["network lan", "no link pod094a367b026"]);
    }
}

#[test]
fn a_guest_gets_no_ipv6_from_ipam() {
    let pod = Pod::machine();
    let of = |ips: &[&str]| vm_addresses(&pod.asks(), ips.iter().map(|ip| ip.parse().unwrap()));
    of(&[]).unwrap();
    of(&["10.0.0.1/24", "10.0.1.1/24"]).unwrap();
    says(
        &of(&["10.0.0.1/24", "2001:db8::1/64"]).unwrap_err(),
        Code::Ipv6ForVm,
        &["2001:db8::1/64", "network lan", "SLAAC"],
    );
}

#[test]
fn a_guest_gets_one_address() {
    let pod = Pod::machine();
    let of = |ips: &[&str]| {
        let ips: Vec<Ipv4Network> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        guest_addresses(&pod.asks(), "lan", &ips)
    };
    of(&[]).unwrap();
    of(&["10.0.0.1/24"]).unwrap();
    let said = of(&["10.0.0.1/24", "10.0.1.1/24"]).unwrap_err();
    says(&said, Code::SeveralForGuest, &["10.0.0.1/24, 10.0.1.1/24", "network lan", "cloud-init"]);
}
