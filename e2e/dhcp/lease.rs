//! What an ADD makes of a lease, and what DEL leaves.

use std::time::{Duration, Instant};

use serde_json::json;

use super::server::{Leased, both_servers};
use super::{Client, Lends, Program, SERVER, Server, address, conf, plain, records};
use crate::harness::{Kind, Lab, eventually};

both_servers! {
    fn a_pod_gets_address_route_dns_and_a_time(program: Program) {
        let (lab, lan) = Lab::with_lan();
        let lends = Lends { domain: Some("example.test"), ..Lends::default().option(6, [198, 51, 100, 53]) };
        let server = Server::of(program, &lab, &lan, &lends);
        let pod = lab.pod();
        let mut call = plain(&lab, &pod);
        let start = Instant::now();
        let result = call.add();
        let took = start.elapsed();
        assert!(took < Duration::from_secs(2), "no question was lost on a port that did not forward: {took:?}");
        assert_eq!(result["ips"], json!([{"interface": 2, "address": "198.51.100.10/24", "gateway": SERVER}]));
        assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": SERVER}]));
        assert_eq!(result["dns"], json!({"nameservers": ["198.51.100.53"], "domain": "example.test"}));
        let (net, seconds) = address(&pod, "net1").unwrap();
        assert_eq!(net, "198.51.100.10/24");
        assert!((3590..=3600).contains(&seconds), "valid as long as the lease: {seconds}");
        assert!(pod.run("ip route").contains("default via 198.51.100.1 dev net1"));
        let mac = pod.link("net1").mac;
        let leased = server.leased();
        let client_id: String =
            format!("\0id-{}/lan/net1", pod.name()).bytes().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":");
        let expected = Leased { mac, address: "198.51.100.10".into(), name: "web-1".into(), client_id };
        assert_eq!(leased, [expected]);
        let record = &records(&lab)[0];
        assert_eq!((&record["network"], &record["pod"]), (&json!("lan"), &json!("default/web-1")));
        assert_eq!(record["job"]["step"]["Renew"]["address"], "198.51.100.10");

        call.check();
        call.del();
        eventually("the server has its address back", || server.leased().is_empty());
        assert!(records(&lab).is_empty() && lab.journal().is_empty());
        call.del();
    }

    fn a_reservation_and_classless_routes(program: Program) {
        let (lab, lan) = Lab::with_lan();
        // 0.0.0.0/0 by .9, 10.0.0.0/8 by .8, 172.16.5.0/24 on the link.
        let routes = [0, 198, 51, 100, 9, 8, 10, 198, 51, 100, 8, 24, 172, 16, 5, 0, 0, 0, 0];
        let lends = Lends::default().reserve(Client::Mac("02:00:5e:10:00:07".into()), "198.51.100.17").option(121, routes);
        let _server = Server::of(program, &lab, &lan, &lends);
        let pod = lab.pod();
        let result = plain(&lab, &pod).with("mac", json!("02:00:5e:10:00:07")).add();
        assert_eq!(result["ips"][0]["address"], "198.51.100.17/24");
        let told = pod.run("ip route");
        for line in
            ["default via 198.51.100.9 dev net1", "10.0.0.0/8 via 198.51.100.8", "172.16.5.0/24 dev net1 scope link"]
        {
            assert!(told.contains(line), "{line}: {told}");
        }
    }

    fn options_are_sent_as_the_reference_takes_them(program: Program) {
        let (lab, lan) = Lab::with_lan();
        let router_of = Some(("acme", "198.51.100.77".parse().unwrap()));
        let server = Server::of(program, &lab, &lan, &Lends { router_of, ..Lends::default() });
        let pod = lab.pod();
        let provide = json!([{"option": "vendor-class-identifier", "value": "acme"}, {"option": "12", "fromArg": "K8S_POD_NAMESPACE"}]);
        let ipam = json!({"type": "dhcp", "provide": provide, "priority": 77});
        let result = plain(&lab, &pod).with("ipam", ipam).add();
        assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "198.51.100.77", "priority": 77}]));
        assert_eq!(server.leased()[0].name, "default");
    }

    fn a_failed_add_gives_the_lease_back(program: Program) {
        let (lab, lan) = Lab::with_lan();
        // The kernel refuses this route: its gateway is nobody's neighbour.
        let server = Server::of(program, &lab, &lan, &Lends::default().option(121, [8, 10, 203, 0, 113, 1]));
        let pod = lab.pod();
        plain(&lab, &pod).fails("ADD").is(101, "TR0401", &["10.0.0.0/8"]);
        eventually("the server has its address back", || server.leased().is_empty());
        assert!(records(&lab).is_empty() && lab.journal().is_empty() && pod.find("net1").is_none());
    }

    /// The reference's bridge and macvlan ask the program named dhcp; ours is one too.
    fn another_main_plugin_asks_our_dhcp(program: Program) {
        let (lab, _lan, server) = Server::with_lan(program, &Lends::default());
        let pod = lab.pod();
        let mut main = conf();
        (main["type"], main["ipam"]) = (json!("macvlan"), json!({"type": "dhcp"}));
        main["master"] = json!("up0");
        lab.node.run("ip link set up0 nomaster");
        let mut call = lab.call(Kind::Reference, main).pod(&pod).path(Kind::Trestle.dir().to_str().unwrap());
        let result = call.add();
        assert_eq!(result["ips"][0]["address"], "198.51.100.10/24");
        call.check();
        call.del();
        eventually("the server has its address back", || server.leased().is_empty());
    }
}
