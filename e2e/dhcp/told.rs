//! A pod of the meta plugin whose lease nobody keeps, and an API server that is told so.

use std::collections::HashMap;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::api::{Request, Server as Api};
use super::{Lends, Program, Server, address};
use crate::harness::{Call, Kind, Lab, Netns, eventually};

/// The node's API server, with one pod that asks for one network.
fn api(lab: &Lab, network: &Value) -> Api {
    let meta = |name: &str| json!({"namespace": "default", "name": name, "uid": "u", "resourceVersion": "1"});
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta("web-1")});
    pod["metadata"]["annotations"] = json!({"k8s.v1.cni.cncf.io/networks": "lan"});
    let nad = json!({
        "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition", "metadata": meta("lan"),
        "spec": {"config": network.to_string()},
    });
    let objects = HashMap::from([
        ("/api/v1/namespaces/default/pods/web-1".to_owned(), pod),
        ("/apis/k8s.cni.cncf.io/v1/namespaces/default/network-attachment-definitions/lan".to_owned(), nad),
    ]);
    lab.node.inside(move || Api::start(objects).unwrap())
}

/// The call for a pod, whose default network is a bridge with an address of host-local.
fn pod<'l>(lab: &'l Lab, api: &Api, pod: &Netns) -> Call<'l> {
    let kubeconfig = lab.file("kubeconfig");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}], "users": [{"name": "u", "user": {}}],
        "clusters": [{"name": "k", "cluster": {"server": format!("http://127.0.0.1:{}", api.port)}}],
    });
    std::fs::write(&kubeconfig, text.to_string()).unwrap();
    let ipam = json!({"type": "host-local", "subnet": "10.1.2.0/24", "dataDir": lab.store()});
    let first = json!({"cniVersion": "1.0.0", "name": "first", "type": "bridge", "bridge": "cni0", "ipam": ipam});
    let conf = json!({
        "cniVersion": "1.0.0", "name": "meta", "type": "trestle", "kubeconfig": kubeconfig, "delegates": [first],
        "cniDir": lab.file("cni"),
    });
    lab.trestle(conf).pod(pod).of_pod("default", "web-1")
}

fn lines(asked: &[Request]) -> Vec<String> {
    asked.iter().map(|r| format!("{} {}", r.method, r.path.rsplit('/').next().unwrap())).collect()
}

#[test]
fn without_agent_and_daemon_the_pod_hears_until_when_its_lease_runs() {
    let (lab, lan) = Lab::with_lan();
    let _server = Server::of(Program::Dnsmasq, &lab, &lan, &Lends { seconds: 600, ..Lends::default() });
    let (api, one) = (api(&lab, &super::conf()), lab.pod());
    let mut call = pod(&lab, &api, &one);
    let before = jiff::Timestamp::now();
    call.add();
    let asked = api.take();
    assert_eq!(lines(&asked), ["GET web-1", "GET lan", "PATCH status", "POST events"]);
    let event: Value = serde_json::from_slice(&asked[3].body).unwrap();
    assert_eq!((&event["reason"], &event["type"]), (&json!("LeaseUnkept"), &json!("Warning")));
    assert_eq!((&event["involvedObject"]["kind"], &event["involvedObject"]["uid"]), (&json!("Pod"), &json!("u")));
    let message = event["message"].as_str().unwrap();
    let rest = message.strip_prefix("net1 of network lan: lease without keeper until ").expect(message);
    let (until, rest) = rest.split_once("Z: ").expect(message);
    let until: jiff::Timestamp = format!("{until}Z").parse().unwrap();
    let seconds = until.as_second() - before.as_second();
    assert!((570..=660).contains(&seconds), "{message}, {seconds} s after ADD began");
    let (net, _) = address(&one, "net1").unwrap();
    assert_eq!(rest.split(' ').next(), net.split('/').next(), "{message}");
    call.check();
    call.del();
    assert!(api.take().is_empty(), "nothing is asked or told by CHECK and DEL");
}

#[test]
fn a_lease_that_is_kept_and_an_address_without_a_lease_cost_no_request() {
    let (lab, lan) = Lab::with_lan();
    let _server = Server::of(Program::Dnsmasq, &lab, &lan, &Lends::default());
    let fixed = json!({"type": "static", "addresses": [{"address": "198.51.100.99/24"}]});
    let mut other = super::conf();
    other["ipam"] = fixed;
    let (two, without) = (lab.pod(), api(&lab, &other));
    let mut call = pod(&lab, &without, &two);
    call.add();
    assert_eq!(lines(&without.take()), ["GET web-1", "GET lan", "PATCH status"]);
    call.del();

    let mut command = Command::new(Kind::Trestle.dir().join("dhcp"));
    command.args(["daemon", "-socketpath", &lab.file("dhcp.sock")]).stderr(Stdio::null());
    command.env("TRESTLE_RUN_DIR", lab.run_dir()).env("TRESTLE_STATE_DIR", lab.state_dir());
    let mut daemon = lab.node.inside(move || command.spawn().unwrap());
    eventually("a keeper is at work", || lab.run_dir().join("keeper.lock").exists());
    let (one, kept) = (lab.pod(), api(&lab, &super::conf()));
    let mut call = pod(&lab, &kept, &one);
    call.add();
    let asked = lines(&kept.take());
    call.del();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!(asked, ["GET web-1", "GET lan", "PATCH status"]);
}
