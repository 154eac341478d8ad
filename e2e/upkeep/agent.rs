//! `trestle agent` beside pods that run, without an API server: what others do to the node's links and rules is put right.

use std::process::{Child, Command};
use std::time::Duration;

use serde_json::json;

use crate::attachment::{plain, vm, wire};
use crate::harness::{Call, Lab, eventually, reached, unreached};

/// Killed with the test.
struct Agent(Child);

impl Agent {
    fn start(lab: &Lab) -> Self {
        let kubeconfig = lab.file("kubeconfig");
        let nobody = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": "http://127.0.0.1:9"}}], "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(&kubeconfig, nobody.to_string()).unwrap();
        let log = std::fs::File::create(lab.file("agent.log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_trestle"));
        command.args(["agent", "--node", "n1", "--no-metrics", "--kubeconfig", &kubeconfig]).stderr(log);
        command.env("TRESTLE_RUN_DIR", lab.run_dir()).env("TRESTLE_STATE_DIR", lab.state_dir());
        let agent = Self(lab.node.inside(move || command.spawn().unwrap()));
        eventually("the agent is at work", || lab.run_dir().join("agent.sock").exists());
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CHECK passes; what the agent does, it does in its own time.
fn sound(call: &Call) -> bool {
    call.run("CHECK").status.success()
}

/// `restart network`, or somebody who builds the bridge again: pods that run get their ports back by the bridge's name.
#[test]
fn a_bridge_made_anew_under_running_pods() {
    let (lab, lan) = Lab::with_lan();
    lan.run("ip addr add 10.1.2.250/24 dev lan0");
    let (one, machine, drop_in) = (lab.pod(), lab.pod(), lab.pod());
    let mut plain = plain(&lab, &one).with("portIsolation", json!(true)).with("hairpinMode", json!(true));
    let result = plain.add();
    let address = result["ips"][0]["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
    let mut machine = vm(&lab, &machine).id("machine");
    machine.add();
    let mut conf = wire(&lab);
    conf["type"] = json!("bridge");
    let mut drop_in = lab.trestle(conf).pod(&drop_in).of_pod("default", "web-2").id("drop-in");
    drop_in.add();
    reached(&one, &lan, "10.1.2.250");
    let _agent = Agent::start(&lab);

    for round in 0..2 {
        lab.node.run("ip link del br-lan");
        unreached(&one, &lan, "10.1.2.250");
        // Not at once: for a while the node has no such bridge.
        std::thread::sleep(Duration::from_millis(300));
        lab.node.run("ip link add br-lan type bridge");
        lab.node.run("ip link set up0 master br-lan");
        lab.node.run("ip link set br-lan up");
        for (call, who) in [(&plain, "plain"), (&machine, "machine"), (&drop_in, "drop-in")] {
            eventually(&format!("{who} is sound again, round {round}"), || sound(call));
        }
        reached(&one, &lan, "10.1.2.250");
        reached(&lan, &one, &address);
    }
    assert!(lab.node.try_run("ip link show br-lan").status.success());
    for call in [&plain, &machine, &drop_in] {
        call.del();
    }
    assert!(lab.journal().is_empty() && !lab.node.links().iter().any(|l| l.name.starts_with("tr")));
}

/// A firewall that is loaded anew: the guard against forged MACs is back before anybody asks.
#[test]
fn rules_that_a_firewall_flushed() {
    let (lab, lan) = Lab::with_lan();
    lan.run("ip addr add 10.1.2.250/24 dev lan0");
    let pod = lab.pod();
    let mut call = plain(&lab, &pod).with("macspoofchk", json!(true));
    call.add();
    let _agent = Agent::start(&lab);
    lab.node.run("nft flush ruleset");
    eventually("the guard is back", || sound(&call));
    reached(&pod, &lan, "10.1.2.250");
    pod.run("ip link set net1 address 0a:00:00:00:00:99");
    unreached(&pod, &lan, "10.1.2.250");
    call.del();
    assert_eq!(lab.node.filters(), Vec::<String>::new());
}
