//! `ipMasq` and `macspoofchk` of type `bridge`, by what they do to packets and by what is left of them.

use serde_json::{Value, json};

use super::bridge_conf;
use crate::harness::{Kind, Lab, Netns, Snapshot, both, reached, unreached};

/// A neighbour behind the node that knows no way back to the pods.
fn outside(lab: &Lab) -> Netns {
    let outside = lab.namespace("outside");
    lab.node.run(&format!("ip link add up0 type veth peer name out0 netns {}", outside.name()));
    lab.node.run("ip addr add 203.0.113.1/24 dev up0");
    lab.node.run("ip link set up0 up");
    outside.run("ip addr add 203.0.113.2/24 dev out0");
    outside.run("ip link set out0 up");
    outside
}

fn masquerading(kind: Kind, extra: &[(&str, Value)]) {
    let lab = Lab::new();
    let outside = outside(&lab);
    let (pod, neighbour) = (lab.pod(), lab.pod());
    let conf = bridge_conf(&lab);
    let plain = lab.call(kind, conf.clone()).pod(&neighbour).with("isDefaultGateway", json!(true));
    plain.clone().add();
    let before = Snapshot::of(&lab, &[&pod]);
    let mut call = lab.call(kind, conf).pod(&pod).with("isDefaultGateway", json!(true)).with("ipMasq", json!(true));
    for (key, value) in extra {
        call = call.with(key, value.clone());
    }
    call.add();
    assert_eq!(
        reached(&pod, &outside, "203.0.113.2").to_string(),
        "203.0.113.1",
        "the node's address stands for the pod's"
    );
    assert_eq!(reached(&pod, &neighbour, "10.1.2.2").to_string(), "10.1.2.3", "not towards the pod's own network");
    unreached(&outside, &neighbour, "10.1.2.2");
    call.check();
    call.del();
    before.same(&Snapshot::of(&lab, &[&pod]), "after DEL");
    call.del();
}

both! {
    fn masquerade(kind: Kind) {
        masquerading(kind, &[]);
    }

    fn masquerade_by_nftables(kind: Kind) {
        masquerading(kind, &[("ipMasqBackend", json!("nftables"))]);
    }

    /// Two pods, two rules: the DEL of one leaves the other's.
    fn masquerade_of_two_pods(kind: Kind) {
        let lab = Lab::new();
        let outside = outside(&lab);
        let (one, two) = (lab.pod(), lab.pod());
        let conf = bridge_conf(&lab);
        let mut calls: Vec<_> = [&one, &two]
            .iter()
            .map(|pod| lab.call(kind, conf.clone()).pod(pod).with("isDefaultGateway", json!(true)).with("ipMasq", json!(true)))
            .collect();
        for call in &mut calls {
            call.add();
        }
        calls[0].del();
        assert_eq!(reached(&two, &outside, "203.0.113.2").to_string(), "203.0.113.1");
        calls[1].del();
        assert_eq!(lab.node.filters(), Vec::<String>::new());
    }

    /// With `macspoofchk` a pod that changes its MAC is not heard; DEL takes the guard away.
    fn spoofing(kind: Kind) {
        let lab = Lab::new();
        let (pod, neighbour) = (lab.pod(), lab.pod());
        let conf = bridge_conf(&lab);
        lab.call(kind, conf.clone()).pod(&neighbour).add();
        let before = Snapshot::of(&lab, &[&pod]);
        let mut call = lab.call(kind, conf).pod(&pod).with("macspoofchk", json!(true));
        call.add();
        assert!(!lab.node.filters().is_empty());
        reached(&pod, &neighbour, "10.1.2.2");
        let mac = pod.link("eth0").mac;
        pod.run("ip link set eth0 address 0a:00:00:00:00:99");
        unreached(&pod, &neighbour, "10.1.2.2");
        pod.run(&format!("ip link set eth0 address {mac}"));
        reached(&pod, &neighbour, "10.1.2.2");
        call.del();
        before.same(&Snapshot::of(&lab, &[&pod]), "after DEL");
        call.del();
    }

    /// The guard of one pod does not bind another.
    fn spoofing_guards_one_pod(kind: Kind) {
        let lab = Lab::new();
        let (guarded, free, neighbour) = (lab.pod(), lab.pod(), lab.pod());
        let conf = bridge_conf(&lab);
        lab.call(kind, conf.clone()).pod(&neighbour).add();
        let mut first = lab.call(kind, conf.clone()).pod(&guarded).with("macspoofchk", json!(true));
        first.add();
        lab.call(kind, conf.clone()).pod(&free).add();
        free.run("ip link set eth0 address 0a:00:00:00:00:99");
        reached(&free, &neighbour, "10.1.2.2");
        let other = lab.pod();
        let mut second = lab.call(kind, conf).pod(&other).with("macspoofchk", json!(true));
        second.add();
        first.del();
        other.run("ip link set eth0 address 0a:00:00:00:00:98");
        unreached(&other, &neighbour, "10.1.2.2");
        second.del();
        assert_eq!(lab.node.filters(), Vec::<String>::new());
    }
}
