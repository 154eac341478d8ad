//! Names, arguments and values, network by network.

use super::*;
use crate::nad;
use crate::plan::testing::call;

fn known(name: &str, conf: Value, selection: Value) -> Known {
    let text = |key: &str| selection[key].as_str().map(str::to_owned);
    let list = |key: &str| selection[key].as_array().map(|l| l.iter().map(|v| v.as_str().unwrap().to_owned()));
    Known {
        name: name.into(),
        conf: nad::parse(&conf.to_string(), Some("n")).unwrap(),
        selection: selection.is_object().then(|| Selection {
            interface: text("interface"),
            mac: text("mac"),
            ips: list("ips").map(Iterator::collect),
            bandwidth: selection.get("bandwidth").cloned(),
            port_mappings: selection.get("portMappings").cloned(),
            cni_args: selection["cni-args"].as_object().cloned(),
            infiniband_guid: text("infiniband-guid"),
            device_id: text("deviceID"),
            default_route: list("default-route").map(|l| l.map(|g| g.parse().unwrap()).collect()),
            ..Selection::default()
        }),
        master: false,
        chosen: true,
        resource: None,
        device: None,
    }
}

fn master(conf: Value) -> Known {
    Known { master: true, chosen: false, ..known("default-net", conf, Value::Null) }
}

fn settled(runtime: Value, list: Vec<Known>) -> Outcome<Vec<Attached>> {
    settled_for(&PodFacts::default(), runtime, list)
}

fn settled_for(facts: &PodFacts, runtime: Value, list: Vec<Known>) -> Outcome<Vec<Attached>> {
    let call = call(&json!({"name": "m"}), "");
    let (container, master) = ("c1".parse().unwrap(), "eth0".parse().unwrap());
    settle(&call, facts, (&container, &master), runtime.as_object().unwrap(), list)
}

#[test]
fn a_machines_addresses_go_to_the_network_of_their_name() {
    let networks = r#"[{"name":"br-lan","interface":"pod094a367b026"},{"name":"br-dmz","interface":"poda393efd3bab"}]"#;
    let wish = r#"{"lan":["192.0.2.10/24"]}"#;
    let machine = [("kubevirt.io/domain", "db"), (crate::annotation::NETWORKS, networks)];
    let with = |wish: &str| {
        let all = [&machine[..], &[("network.kubevirt.io/addresses", wish)]].concat();
        crate::plan::testing::Pod::new("virt-launcher-db-abcde", "eth0", Some(&all)).facts
    };
    let lan = |ips: Value| known("p/br-lan", able(&["ips"]), json!({"interface": "pod094a367b026", "ips": ips}));
    let dmz = || known("p/br-dmz", able(&["ips"]), json!({"interface": "poda393efd3bab"}));
    let list = |ips| vec![master(able(&["ips"])), lan(ips), dmz()];
    let all = settled_for(&with(wish), json!({}), list(json!(null))).unwrap();
    let asked: Vec<_> = all.iter().map(|a| (a.asked.as_str(), a.runtime.get("ips"))).collect();
    let ips = json!(["192.0.2.10/24"]);
    assert_eq!(asked, [("", None), ("IP=192.0.2.10/24", Some(&ips)), ("", None)]);
    assert_eq!(settled_for(&with(wish), json!({}), list(ips)).unwrap()[1].asked, "IP=192.0.2.10/24", "said twice");
    let two = settled_for(&with(wish), json!({}), list(json!(["192.0.2.11/24"]))).unwrap_err();
    assert!(two.code == Code::Annotation && two.msg.contains("192.0.2.10/24") && two.msg.contains("192.0.2.11/24"));
    let misspelt = settled_for(&with(r#"{"lna":["192.0.2.10/24"]}"#), json!({}), list(json!(null))).unwrap_err();
    assert!(misspelt.code == Code::Annotation && misspelt.msg.contains("\"lna\""), "{misspelt}");
}

fn rec() -> Value {
    json!({"cniVersion": "1.0.0", "name": "n", "type": "rec"})
}

/// `rec` with these capabilities.
fn able(capabilities: &[&str]) -> Value {
    let mut conf = rec();
    conf["capabilities"] = capabilities.iter().map(|c| ((*c).to_owned(), Value::from(true))).collect();
    conf
}

fn names(list: Vec<Known>) -> Outcome<Vec<String>> {
    Ok(settled(json!({}), list)?.iter().map(|a| a.ifname.to_string()).collect())
}

#[test]
fn the_place_in_the_whole_list_names_the_interface() {
    let plain = |n: &str| known(n, rec(), json!({}));
    let asks = |i: &str| known("x", rec(), json!({"interface": i}));
    assert_eq!(names(vec![master(rec()), plain("a"), asks("z1"), plain("b")]).unwrap(), ["eth0", "net1", "z1", "net3"]);
    let renamed = Known { selection: asks("zz0").selection, ..master(rec()) };
    assert_eq!(names(vec![renamed, plain("a")]).unwrap(), ["zz0", "net1"]);
    let empty = known("a", rec(), json!({"interface": ""}));
    assert_eq!(names(vec![master(rec()), empty]).unwrap(), ["eth0", "net1"]);
}

#[test]
fn a_name_twice_is_refused_before_anything_is_made() {
    let plain = || known("ns/b", rec(), json!({}));
    let asks = |i: &str| known("ns/a", rec(), json!({"interface": i}));
    for list in [
        vec![master(rec()), asks("eth0")],
        vec![master(rec()), asks("x0"), asks("x0")],
        vec![master(rec()), asks("net2"), plain()],
    ] {
        let f = names(list).unwrap_err();
        assert!(f.code == Code::NameTaken && f.msg.contains("ns/a"), "{f}");
    }
    for bad in ["abcdefghijklmnop", "a/b", "a b"] {
        let f = names(vec![master(rec()), asks(bad)]).unwrap_err();
        assert!(f.code == Code::Annotation && f.msg.contains(bad) && f.msg.contains("ns/a"), "{f}");
    }
}

#[test]
fn arguments_of_every_delegate() {
    let args = |text: &str| base_args(&Args::new(text));
    assert_eq!(
        args("IgnoreUnknown=1;K8S_POD_NAMESPACE=d;K8S_POD_NAME=p;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u;EXTRA=ab"),
        "IgnoreUnknown=true;K8S_POD_NAMESPACE=d;K8S_POD_NAME=p;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u;EXTRA=ab"
    );
    assert_eq!(
        args(""),
        "IgnoreUnknown=true;K8S_POD_NAMESPACE=;K8S_POD_NAME=;K8S_POD_INFRA_CONTAINER_ID=;K8S_POD_UID="
    );
    assert!(check_args(&Args::new("K8S_POD_NAME=p;K8S_POD_UID=u")).is_ok());
    for bad in ["FOO=bar", "IgnoreUnknown=1;FOO", "IgnoreUnknown=1;EXTRA=a=b"] {
        assert_eq!(check_args(&Args::new(bad)).unwrap_err().code, Code::Environment, "{bad}");
    }
}

#[test]
fn requests_go_to_arguments_always_and_by_capability_where_declared() {
    let asks = json!({"mac": "02-AA-bb-cc-dd-01", "ips": ["10.9.0.7/24", "fd00:9::7/64"]});
    let all = settled(
        json!({}),
        vec![master(rec()), known("a", rec(), asks.clone()), known("b", able(&["mac", "ips"]), asks.clone())],
    )
    .unwrap();
    assert_eq!(
        (all[0].asked.as_str(), all[1].asked.as_str()),
        ("", "MAC=02-AA-bb-cc-dd-01;IP=10.9.0.7/24,fd00:9::7/64")
    );
    assert_eq!(all[2].asked, all[1].asked);
    assert!(all[1].runtime.is_empty());
    assert_eq!(
        Value::Object(all[2].runtime.clone()),
        json!({"ips": ["10.9.0.7/24", "fd00:9::7/64"], "mac": "02-AA-bb-cc-dd-01"})
    );
    // The master has its requests by arguments alone.
    let default = Known { selection: known("d", rec(), asks).selection, ..master(able(&["mac", "ips"])) };
    let all = settled(json!({}), vec![default]).unwrap();
    assert!(all[0].runtime.is_empty() && all[0].asked.starts_with("MAC="));
}

#[test]
fn the_runtimes_values_reach_all_who_declare_them() {
    let runtime = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}],
        "bandwidth": {"ingressRate": 1}, "ips": [], "mac": "02:00:00:00:00:77", "aliases": ["x"],
        "io.kubernetes.cri.pod-annotations": {"a": "b"}});
    let able = able(&["portMappings", "bandwidth", "ips", "mac"]);
    let asks = json!({"mac": "02:00:00:00:00:99", "portMappings": [{"hostPort": 1, "containerPort": 2}]});
    let all = settled(
        runtime.clone(),
        vec![master(able.clone()), known("a", able.clone(), json!({})), known("b", able.clone(), asks)],
    )
    .unwrap();
    let theirs = json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}],
        "bandwidth": {"ingressRate": 1, "ingressBurst": 0, "egressRate": 0, "egressBurst": 0},
        "mac": "02:00:00:00:00:77"});
    assert_eq!(Value::Object(all[0].runtime.clone()), theirs);
    assert_eq!(all[1].runtime, all[0].runtime);
    let mut over = theirs;
    over["portMappings"] = json!([{"hostPort": 1, "containerPort": 2}]);
    over["mac"] = "02:00:00:00:00:99".into();
    assert_eq!(Value::Object(all[2].runtime.clone()), over);
    // One that Multus does not know goes on to who declares it; what is declared as false is not.
    let odd = json!({"name": "n", "type": "rec", "capabilities": {"aliases": true, "mac": false}});
    let all = settled(runtime, vec![master(odd)]).unwrap();
    assert_eq!(Value::Object(all[0].runtime.clone()), json!({"aliases": ["x"]}));
}

#[test]
fn devices_of_kubelet_before_the_annotations() {
    let able = able(&["deviceID", "CNIDeviceInfoFile", "infinibandGUID"]);
    let asks = json!({"deviceID": "0000:03:02.3", "infiniband-guid": "c2:11"});
    let mut of_kubelet = known("default/cap", able.clone(), asks.clone());
    of_kubelet.device = Some("0000:00:00.1".into());
    let all = settled(json!({}), vec![master(able.clone()), known("default/cap", able, asks), of_kubelet]).unwrap();
    assert!(all[0].runtime.is_empty() && all[0].info_file.is_none());
    assert_eq!(all[1].runtime["deviceID"], "0000:03:02.3");
    assert_eq!(all[1].runtime["infinibandGUID"], "c2:11");
    let file = all[1].info_file.as_ref().unwrap().to_str().unwrap();
    assert!(file.ends_with("/cni/default-cap-c1_net1"), "{file}");
    assert_eq!(all[1].runtime["CNIDeviceInfoFile"], file);
    assert!(!all[1].conf.contains_key("deviceID"), "the annotation's is no part of the configuration");
    assert_eq!(all[2].runtime["deviceID"], "0000:00:00.1");
    assert_eq!((&all[2].conf["deviceID"], &all[2].conf["pciBusID"]), (&json!("0000:00:00.1"), &json!("0000:00:00.1")));
}

#[test]
fn cni_args_go_into_the_configuration() {
    let list = json!({"name": "l", "cniVersion": "1.0.0", "plugins": [{"type": "reca"}, {"type": "recb"}]});
    let all = settled(json!({}), vec![master(rec()), known("a", list, json!({"cni-args": {"k": 1}}))]).unwrap();
    for plugin in all[1].conf["plugins"].as_array().unwrap() {
        assert_eq!(plugin["args"]["cni"], json!({"k": 1}));
    }
    let mut odd = rec();
    odd["args"] = "str".into();
    let f = settled(json!({}), vec![master(rec()), known("ns/a", odd, json!({"cni-args": {"k": 1}}))]).unwrap_err();
    assert!(f.msg.contains("ns/a"), "{f}");
}

#[test]
fn one_gateway_for_each_family() {
    let asks = |gws: &[&str]| known("a", rec(), json!({"default-route": gws}));
    for (gateways, good) in [
        (vec![vec!["10.0.0.1", "fd00::1"]], true),
        (vec![vec!["10.0.0.1"], vec!["fd00::1"]], true),
        (vec![vec![], vec!["10.0.0.1"]], true),
        (vec![vec!["10.0.0.1"], vec!["10.1.0.1"]], false),
        (vec![vec!["fd00::1", "fd00::2"]], false),
    ] {
        let list = gateways.iter().map(|g| asks(g));
        let found = names(std::iter::once(master(rec())).chain(list).collect());
        assert_eq!(found.is_ok(), good, "{gateways:?}: {found:?}");
        if let Err(f) = found {
            assert_eq!(f.code, Code::Annotation);
        }
    }
}

#[test]
fn the_bind_step_comes_after_all_wires() {
    let bind = || known("b", json!({"cniVersion": "1.0.0", "name": "b", "type": "trestle"}), json!({}));
    let list = vec![master(rec()), bind(), known("x", rec(), json!({})), known("y", rec(), json!({"interface": "p"}))];
    let all = settled(json!({}), list).unwrap();
    let order: Vec<_> = all.iter().map(|a| (a.name.as_str(), a.ifname.as_str())).collect();
    assert_eq!(
        order,
        [("default-net", "eth0"), ("x", "net2"), ("y", "p"), ("b", "net1")],
        "names as by the annotation"
    );
}

#[test]
fn the_bind_step_is_known() {
    let of = |conf: Value| settled(json!({}), vec![master(rec()), known("a", conf, json!({}))]).unwrap()[1].bind;
    assert!(of(json!({"type": "trestle", "name": "b"})));
    assert!(of(json!({"name": "b", "plugins": [{"Type": "x", "type": "trestle"}]})));
    assert!(!of(json!({"type": "trestle", "bridge": "br-lan"})));
    assert!(!of(json!({"type": "trestle", "Master": "eno1"})));
    assert!(!of(rec()));
}
