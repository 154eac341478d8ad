//! Type `macvlan`.

use serde_json::{Value, json};

use super::{host_local, in_sandbox, ips};
use crate::harness::{Kind, Lab, Netns, Snapshot, both, reached, store_files, unreached};

/// A node with the NIC `nic0`, and the namespace at the other end of its cable.
fn with_nic() -> (Lab, Netns) {
    let lab = Lab::new();
    let lan = lab.namespace("lan");
    lab.node.run(&format!("ip link add nic0 type veth peer name lan0 netns {}", lan.name()));
    lab.node.run("ip link set nic0 up");
    lan.run("ip link set lan0 up");
    lan.run("ip addr add 10.1.2.200/24 dev lan0");
    (lab, lan)
}

fn conf(lab: &Lab) -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "type": "macvlan", "master": "nic0", "ipam": host_local(lab, "10.1.2.0/24")})
}

both! {
    fn life(kind: Kind) {
        let (lab, lan) = with_nic();
        let (pod, neighbour) = (lab.pod(), lab.pod());
        lab.call(kind, conf(&lab)).pod(&neighbour).add();
        let before = Snapshot::of(&lab, &[&pod]);
        let mut call = lab.call(kind, conf(&lab)).pod(&pod);
        let result = call.add();
        assert_eq!(ips(&result), ["10.1.2.3/24"]);
        let link = pod.link("eth0");
        assert_eq!((link.kind.as_str(), link.up, link.lower), ("macvlan", true, Some(lab.node.link("nic0").index)));
        assert_eq!(link.data("mode"), "bridge");
        assert_eq!(in_sandbox(&result)["mac"], link.mac);
        assert_eq!((result["interfaces"].as_array().unwrap().len(), &result["ips"][0]["interface"]), (1, &json!(0)));
        reached(&pod, &lan, "10.1.2.200");
        reached(&lan, &pod, "10.1.2.3");
        reached(&pod, &neighbour, "10.1.2.2");
        call.check();
        call.del();
        before.same(&Snapshot::of(&lab, &[&pod]), "after DEL");
        call.del();
    }

    fn modes(kind: Kind) {
        let (lab, _lan) = with_nic();
        for mode in ["bridge", "private", "vepa", "passthru"] {
            let pod = lab.pod();
            let mut call = lab.call(kind, conf(&lab)).pod(&pod).with("mode", json!(mode));
            call.add();
            assert_eq!(pod.link("eth0").data("mode"), mode);
            call.check();
            call.del();
        }
        let pod = lab.pod();
        lab.call(kind, conf(&lab)).pod(&pod).with("mode", json!("tunnel")).fails("ADD").names(&["tunnel"]);
    }

    /// In private mode pods on one master do not reach each other.
    fn private(kind: Kind) {
        let (lab, lan) = with_nic();
        let (one, two) = (lab.pod(), lab.pod());
        for pod in [&one, &two] {
            lab.call(kind, conf(&lab)).pod(pod).with("mode", json!("private")).add();
        }
        reached(&one, &lan, "10.1.2.200");
        unreached(&one, &two, "10.1.2.3");
    }

    /// runtimeConfig before CNI_ARGS before `mac`.
    fn mac_precedence(kind: Kind) {
        let (lab, _lan) = with_nic();
        let [first, second, third] = ["0a:58:0a:01:02:03", "0a:58:0a:01:02:04", "0a:58:0a:01:02:05"];
        for (runtime, environment, expected) in [(Some(first), Some(second), first), (None, Some(second), second), (None, None, third)] {
            let pod = lab.pod();
            let mut call = lab.call(kind, conf(&lab)).pod(&pod).with("mac", json!(third));
            call = runtime.iter().fold(call, |c, mac| c.with("runtimeConfig", json!({"mac": mac})));
            call = environment.iter().fold(call, |c, mac| c.args(&format!("IgnoreUnknown=1;MAC={mac}")));
            let result = call.add();
            assert_eq!((pod.link("eth0").mac.as_str(), &in_sandbox(&result)["mac"]), (expected, &json!(expected)));
            call.check();
            call.del();
        }
    }

    /// Up to the master's MTU; without one, the master's.
    fn mtu(kind: Kind) {
        let (lab, _lan) = with_nic();
        let (small, usual) = (lab.pod(), lab.pod());
        lab.call(kind, conf(&lab)).pod(&small).with("mtu", json!(1300)).add();
        lab.call(kind, conf(&lab)).pod(&usual).add();
        assert_eq!((small.link("eth0").mtu, usual.link("eth0").mtu), (1300, 1500));
        let pod = lab.pod();
        assert_eq!(lab.call(kind, conf(&lab)).pod(&pod).with("mtu", json!(9000)).fails("ADD").code, 999);
        assert_eq!(store_files(&lab.store()).len(), 2);
    }

    /// Without `master`: the link that has the default route.
    fn master_of_default_route(kind: Kind) {
        let (lab, _lan) = with_nic();
        let pod = lab.pod();
        lab.node.run("ip addr add 10.1.2.100/24 dev nic0");
        lab.node.run("ip route add default via 10.1.2.200");
        let mut call = lab.call(kind, conf(&lab)).pod(&pod).with("master", json!(null));
        call.add();
        assert_eq!(pod.link("eth0").lower, Some(lab.node.link("nic0").index));
        call.del();
    }

    /// The master is in the pod itself.
    fn master_in_the_pod(kind: Kind) {
        let (lab, lan) = with_nic();
        let pod = lab.pod();
        lab.node.run(&format!("ip link set nic0 netns {}", pod.name()));
        pod.run("ip link set nic0 up");
        let mut call = lab.call(kind, conf(&lab)).pod(&pod).with("linkInContainer", json!(true));
        call.add();
        assert_eq!(pod.link("eth0").kind, "macvlan");
        reached(&pod, &lan, "10.1.2.200");
        call.check();
        call.del();
        assert!(pod.find("eth0").is_none() && pod.find("nic0").is_some());
    }

    fn wire_only(kind: Kind) {
        let (lab, _lan) = with_nic();
        let pod = lab.pod();
        let mut call = lab.call(kind, conf(&lab)).pod(&pod).with("ipam", json!(null));
        let result = call.add();
        assert!(pod.link("eth0").up && ips(&result).is_empty());
        call.check();
        call.del();
        assert!(pod.find("eth0").is_none());
    }

    fn master_missing(kind: Kind) {
        let (lab, _lan) = with_nic();
        let pod = lab.pod();
        let call = lab.call(kind, conf(&lab)).pod(&pod).with("master", json!("nic7"));
        let error = call.fails("ADD");
        assert_eq!(error.code, 999);
        if kind == Kind::Trestle {
            error.names(&["nic7"]);
        }
        assert!(store_files(&lab.store()).is_empty());
        call.del();
    }

    /// DEL does not need the master; a namespace that is gone is no failure.
    fn delete_without_master_or_namespace(kind: Kind) {
        let (lab, _lan) = with_nic();
        let mut pod = lab.pod();
        let mut call = lab.call(kind, conf(&lab)).pod(&pod);
        call.add();
        lab.node.run("ip link del nic0");
        call.del();
        pod.remove();
        call.del();
        call.without("CNI_NETNS").del();
        assert!(store_files(&lab.store()).is_empty());
    }
}
