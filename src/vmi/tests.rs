use serde_json::json;

use super::*;

fn vmi(spec: Value, status: Value) -> VmiFacts {
    let metadata = json!({"name": "db.prod", "namespace": "prod", "uid": "v1"});
    VmiFacts::of_object(&json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
}

fn spec(cpu: Value, multiqueue: Value, nics: Value) -> Value {
    json!({"domain": {"cpu": cpu, "devices": {"networkInterfaceMultiqueue": multiqueue, "interfaces": nics}}})
}

fn queues(facts: &VmiFacts, network: &str) -> u32 {
    facts.nics.queues[network]
}

#[test]
fn queues_follow_the_processors_where_multiqueue_is_on() {
    let nics = json!([{"name": "lan"}, {"name": "old", "model": "e1000"}, {"name": "v", "model": "virtio"},
        {"name": "hw", "sriov": {}}]);
    for (cpu, multiqueue, lan) in [
        (json!({"cores": 2, "sockets": 2, "threads": 2}), json!(true), 8),
        (json!({"cores": 4}), json!(true), 4),
        (json!({"cores": 4}), json!(false), 1),
        (json!({"cores": 4}), json!(null), 1),
        (json!({"cores": 1}), json!(true), 1),
        (json!({"cores": 100, "sockets": 100}), json!(true), 256),
        (
            json!({"cores": 4_294_967_295u64, "sockets": 4_294_967_295u64, "threads": 4_294_967_295u64}),
            json!(true),
            256,
        ),
        (json!(null), json!(true), 1),
        (json!({"cores": 0, "sockets": 0}), json!(true), 1),
    ] {
        let facts = vmi(spec(cpu.clone(), multiqueue.clone(), nics.clone()), json!(null));
        assert_eq!(queues(&facts, "lan"), lan, "{cpu} {multiqueue}");
        assert_eq!((queues(&facts, "old"), queues(&facts, "v")), (1, lan), "{cpu} {multiqueue}");
        assert!(!facts.nics.queues.contains_key("hw"));
    }
}

#[test]
fn without_a_topology_it_is_the_resources_processors() {
    let with = |resources: Value| {
        let mut spec = spec(json!({"model": "host-model"}), json!(true), json!([{"name": "lan"}]));
        spec["domain"]["resources"] = resources;
        queues(&vmi(spec, json!(null)), "lan")
    };
    for (text, count) in [("2", 2), ("1500m", 2), ("3000m", 3), ("200m", 1), ("0", 1), ("1e1", 10), ("x", 1), ("", 1)] {
        assert_eq!(with(json!({"requests": {"cpu": text}})), count, "{text}");
    }
    assert_eq!(with(json!({"requests": {"cpu": "2"}, "limits": {"cpu": 4}})), 4);
    assert_eq!(with(json!({"limits": {"memory": "1Gi"}})), 1);
}

#[test]
fn what_the_domain_has_counts_more() {
    let spec = spec(json!({"cores": 4}), json!(true), json!([{"name": "lan"}, {"name": "dmz"}, {"name": "new"}]));
    let status = json!({"interfaces": [
        {"name": "lan", "infoSource": "multus-status", "queueCount": 7},
        {"name": "lan", "infoSource": "domain, guest-agent", "queueCount": 2},
        {"name": "dmz", "infoSource": "multus-status, domain"},
        {"infoSource": "guest-agent", "queueCount": 3},
    ]});
    let facts = vmi(spec, status);
    assert_eq!((queues(&facts, "lan"), queues(&facts, "dmz"), queues(&facts, "new")), (2, 1, 4));
}

#[test]
fn networks_in_their_order() {
    let networks = json!([{"name": "default", "pod": {}}, {"name": "lan", "multus": {"networkName": "br-lan"}},
        {"name": "dmz", "multus": {"networkName": "br-dmz", "default": false}}]);
    let facts = vmi(json!({"networks": networks}), json!(null));
    assert_eq!((facts.nics.secondary, facts.nics.primary), (vec!["lan".into(), "dmz".into()], None));
    assert_eq!(facts.nics.pod.as_deref(), Some("default"));
    let networks = json!([{"name": "lan", "multus": {"networkName": "br-lan", "default": true}}]);
    let facts = vmi(json!({"networks": networks}), json!(null));
    assert_eq!(facts.nics.networks().collect::<Vec<_>>(), ["lan"]);
    assert_eq!(facts.nics.primary.as_deref(), Some("lan"));
}

#[test]
fn what_the_guest_is_to_hear() {
    let options = json!({"bootFileName": "pxe.0", "tftpServerName": "192.0.2.9", "ntpServers": ["192.0.2.1", "x"],
        "privateOptions": [{"option": 240, "value": "a"}, {"option": 60, "value": "no"}, {"option": 254}]});
    let nics = json!([{"name": "lan", "dhcpOptions": options}, {"name": "dmz", "dhcpOptions": {}}, {"name": "x"}]);
    let facts = vmi(spec(json!(null), json!(null), nics), json!(null));
    let want = DhcpOptions {
        boot_file_name: Some("pxe.0".into()),
        tftp_server_name: Some("192.0.2.9".into()),
        ntp_servers: vec![[192, 0, 2, 1].into()],
        private: [(240, "a".to_owned())].into(),
    };
    assert_eq!(facts.options, [("lan".to_owned(), want)].into());
    assert_eq!(facts.hostname, "db", "a label of the name");
    let named = vmi(json!({"hostname": "database"}), json!(null));
    assert_eq!((named.name.as_str(), named.hostname.as_str(), named.uid.as_str()), ("db.prod", "database", "v1"));
    let again: VmiFacts = serde_json::from_value(serde_json::to_value(&facts).unwrap()).unwrap();
    assert_eq!(again, facts);
}

#[test]
fn whatever_is_sent_is_read_without_a_panic() {
    let strange = [json!(null), json!([]), json!("x"), json!(-1), json!({"name": 5}), json!([1, null, {"name": null}])];
    for a in &strange {
        for b in &strange {
            let object = json!({"metadata": {"name": "n"}, "status": {"interfaces": a},
                "spec": {"networks": a, "hostname": b, "domain": {"cpu": a, "resources": b, "devices": {"interfaces": b}}}});
            assert_eq!(VmiFacts::of_object(&object).unwrap().name, "n");
        }
        assert!(VmiFacts::of_object(a).is_none() && Owner::of_pod(a).is_none());
    }
}
