//! CHECK after somebody changed what ADD had made.

use serde_json::json;

use super::{bridge_conf, host_local};
use crate::harness::{Call, Kind, Lab, Netns, both};

/// ADD with a route, CHECK, the change, CHECK that must fail, and a DEL that must work all the same.
#[track_caller]
fn noticed(kind: Kind, change: impl Fn(&Lab, &Netns)) {
    let lab = Lab::new();
    let pod = lab.pod();
    let mut ipam = host_local(&lab, "10.1.2.0/24");
    ipam["routes"] = json!([{"dst": "192.0.2.0/24"}]);
    let mut call = lab.call(kind, bridge_conf(&lab)).pod(&pod).with("ipam", ipam).with("isGateway", json!(true));
    call.add();
    call.check();
    change(&lab, &pod);
    call.fails("CHECK");
    call.del();
}

#[track_caller]
fn noticed_on_macvlan(kind: Kind, change: impl Fn(&Lab, &Netns, &mut Call)) {
    let lab = Lab::new();
    lab.node.run("ip link add nic0 type bridge");
    lab.node.run("ip link add nic1 type bridge");
    let pod = lab.pod();
    let conf = json!({
        "cniVersion": "1.0.0", "name": "net", "type": "macvlan", "master": "nic0", "ipam": host_local(&lab, "10.1.2.0/24"),
    });
    let mut call = lab.call(kind, conf).pod(&pod);
    call.add();
    call.check();
    change(&lab, &pod, &mut call);
    call.fails("CHECK");
    call.del();
}

both! {
    fn address_gone(kind: Kind) {
        noticed(kind, |_, pod| drop(pod.run("ip addr flush dev eth0")));
    }

    fn address_changed(kind: Kind) {
        noticed(kind, |_, pod| {
            pod.run("ip addr add 10.1.2.77/24 dev eth0");
            pod.run("ip addr del 10.1.2.2/24 dev eth0");
        });
    }

    fn route_gone(kind: Kind) {
        noticed(kind, |_, pod| drop(pod.run("ip route del 192.0.2.0/24")));
    }

    fn mac_changed(kind: Kind) {
        noticed(kind, |_, pod| drop(pod.run("ip link set eth0 address 0a:00:00:00:00:99")));
    }

    fn link_gone(kind: Kind) {
        noticed(kind, |_, pod| drop(pod.run("ip link del eth0")));
    }

    fn port_taken_off(kind: Kind) {
        noticed(kind, |lab, pod| {
            let port = lab.node.other_end(pod, "eth0").name;
            lab.node.run(&format!("ip link set {port} nomaster"));
        });
    }

    fn port_on_another_bridge(kind: Kind) {
        noticed(kind, |lab, pod| {
            lab.node.run("ip link add br9 type bridge");
            let port = lab.node.other_end(pod, "eth0").name;
            lab.node.run(&format!("ip link set {port} master br9"));
        });
    }

    fn bridge_gone(kind: Kind) {
        noticed(kind, |lab, _| drop(lab.node.run("ip link del br0")));
    }

    fn address_not_in_the_store(kind: Kind) {
        noticed(kind, |lab, _| std::fs::remove_file(format!("{}/net/10.1.2.2", lab.store())).unwrap());
    }

    fn address_of_somebody_else(kind: Kind) {
        noticed(kind, |lab, _| {
            let file = format!("{}/net/10.1.2.2", lab.store());
            std::fs::remove_file(&file).unwrap();
            std::fs::write(file, "other\r\neth0").unwrap();
        });
    }

    fn macvlan_link_replaced(kind: Kind) {
        noticed_on_macvlan(kind, |_, pod, _| {
            pod.run("ip link del eth0");
            pod.run("ip link add eth0 type bridge");
        });
    }

    fn macvlan_mode_changed(kind: Kind) {
        noticed_on_macvlan(kind, |_, _, call| *call = call.clone().with("mode", json!("private")));
    }

    fn macvlan_address_gone(kind: Kind) {
        noticed_on_macvlan(kind, |_, pod, _| drop(pod.run("ip addr flush dev eth0")));
    }

    fn macvlan_mac_changed(kind: Kind) {
        noticed_on_macvlan(kind, |_, pod, _| drop(pod.run("ip link set eth0 address 0a:00:00:00:00:99")));
    }

    fn without_previous_result(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let mut call = lab.call(kind, bridge_conf(&lab)).pod(&pod);
        call.add();
        call.prev(None).fails("CHECK");
    }
}
