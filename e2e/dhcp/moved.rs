//! A lease that is lost, and another network's that comes in its place: the pod has the new address and can use it, whoever
//! made its link.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{Lends, Program, Server, address, plain, records};
use crate::harness::{Background, Call, Kind, Lab, Netns, eventually};

fn daemon(lab: &Lab) -> Background {
    let mut command = Command::new(Kind::Trestle.dir().join("dhcp"));
    command.args(["daemon", "-socketpath", &lab.file("dhcp.sock")]);
    command.env("TRESTLE_RUN_DIR", lab.run_dir()).env("TRESTLE_STATE_DIR", lab.state_dir());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Background(lab.node.inside(move || command.spawn().unwrap()))
}

fn there(lab: &Lab, lan: &Netns) -> Server {
    lan.run("ip addr flush dev lan0");
    let pool = ([192, 0, 2, 50].into(), [192, 0, 2, 60].into());
    let lends = Lends { server: [192, 0, 2, 1].into(), pool, ..Lends::default() };
    Server::of(Program::Kea, lab, lan, &lends)
}

/// Until the pod has its address in the other network, with the default route; the LAN has heard of it.
fn moved(lab: &Lab, lan: &Netns, pod: &Netns, call: &mut Call<'_>) {
    lan.set_sysctl("ipv4/conf/lan0/arp_accept", "1");
    let first = Server::of(Program::Kea, lab, lan, &Lends { seconds: 6, ..Lends::default() });
    let _daemon = daemon(lab);
    assert_eq!(call.add()["ips"][0]["address"], "198.51.100.10/24");
    assert!(pod.run("ip route").contains("default via 198.51.100.1 dev net1"));
    drop(first);
    let _second = there(lab, lan);
    let here = || address(pod, "net1").is_some_and(|(net, _)| net == "192.0.2.50/24");
    eventually("the pod has an address of the other network", here);
    eventually("and its default route", || pod.run("ip route").contains("default via 192.0.2.1 dev net1"));
    // It has asked nobody yet: a lease of an hour is renewed later.
    eventually("the LAN has heard who has it", || lan.run("ip neigh show dev lan0").contains("192.0.2.50 lladdr"));
    eventually("it is written down", || records(lab)[0]["job"]["step"]["Renew"]["address"] == "192.0.2.50");
}

#[test]
fn to_another_network() {
    let (lab, lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut call = plain(&lab, &pod);
    moved(&lab, &lan, &pod, &mut call);
    assert_eq!(records(&lab)[0]["pod_uid"], "u", "another pod of its name may come");
    // The result of ADD is what the runtime has.
    call.check();
    pod.run("ip addr flush dev net1");
    call.fails("CHECK").names(&["192.0.2.50/24"]);
    call.del();
}

/// The reference's `bridge` puts the address on the link, and never again.
#[test]
fn on_a_link_of_another_plugin() {
    let (lab, lan) = Lab::with_lan();
    let pod = lab.pod();
    let conf: Value = json!({"cniVersion": "1.0.0", "name": "lan", "type": "bridge", "bridge": "br-lan",
        "ipam": {"type": "dhcp", "daemonSocketPath": lab.file("dhcp.sock")}});
    let mut call = lab.call(Kind::Reference, conf).pod(&pod).ifname("net1").path(Kind::Trestle.dir().to_str().unwrap());
    moved(&lab, &lan, &pod, &mut call);
    call.del();
    assert!(records(&lab).is_empty());
}
