//! Type `bridge`: the life of an attachment and what its keys do.

use serde_json::json;

use super::{bridge_conf, host_local, in_sandbox, ips};
use crate::harness::{Kind, Lab, Snapshot, both, eventually, reached, store_files, unreached};

both! {
    /// ADD makes what the result says, CHECK agrees, DEL takes it away, and a second DEL has nothing to do.
    fn life(kind: Kind) {
        let lab = Lab::new();
        let (pod, neighbour) = (lab.pod(), lab.pod());
        let conf = bridge_conf(&lab);
        let mut other = lab.call(kind, conf.clone()).pod(&neighbour);
        other.add();
        let before = Snapshot::of(&lab, &[&pod]);

        let mut call = lab.call(kind, conf).pod(&pod);
        let result = call.add();
        assert_eq!(result["cniVersion"], "1.0.0");
        assert_eq!(ips(&result), ["10.1.2.3/24"]);
        let inside = in_sandbox(&result);
        let link = pod.link("eth0");
        assert_eq!((inside["name"].as_str(), inside["mac"].as_str()), (Some("eth0"), Some(link.mac.as_str())));
        assert_eq!(inside["sandbox"], pod.netns());
        assert!(link.up && link.kind == "veth");
        assert_eq!(pod.addresses("eth0"), ["10.1.2.3/24"]);
        let host_end = lab.node.other_end(&pod, "eth0");
        assert!(host_end.up && host_end.name.starts_with("veth"));
        assert_eq!(host_end.master.as_deref(), Some("br0"));
        let named: Vec<&str> = result["interfaces"].as_array().unwrap().iter().map(|i| i["name"].as_str().unwrap()).collect();
        assert_eq!(named, ["br0", &host_end.name, "eth0"]);
        assert_eq!(result["ips"][0]["interface"], 2);
        let file = store_files(&lab.store())["net/10.1.2.3"].clone();
        assert_eq!(file, format!("id-{}\r\neth0", pod.name()));
        reached(&pod, &neighbour, "10.1.2.2");

        call.check();
        call.del();
        let after = Snapshot::of(&lab, &[&pod]);
        before.same(&after, "after DEL");
        call.del();
        other.check();
        other.del();
        assert!(store_files(&lab.store()).is_empty());
        assert!(lab.node.find("br0").is_some(), "the bridge stays");
    }

    /// `isGateway` gives the bridge the gateway's address and turns forwarding on; `isDefaultGateway` the pod its route.
    fn gateway(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let mut call = lab.call(kind, bridge_conf(&lab)).pod(&pod).with("isDefaultGateway", json!(true));
        let result = call.add();
        assert_eq!(result["ips"][0]["gateway"], "10.1.2.1");
        assert_eq!(lab.node.addresses("br0"), ["10.1.2.1/24"]);
        assert_eq!(lab.node.sysctl("ipv4/ip_forward").as_deref(), Some("1"));
        assert_eq!(pod.routes(), ["default via 10.1.2.1 dev eth0"]);
        let routes = result["routes"].as_array().unwrap();
        assert!(routes.iter().any(|r| r["dst"] == "0.0.0.0/0" && r["gw"] == "10.1.2.1"), "{result}");
        reached(&pod, &lab.node, "10.1.2.1");
        call.check();
        call.del();
    }

    /// The bridge's own MAC is pinned when it is a gateway: later pods do not change it.
    fn gateway_keeps_its_mac(kind: Kind) {
        let lab = Lab::new();
        let pods = [lab.pod(), lab.pod(), lab.pod()];
        let conf = bridge_conf(&lab);
        let mut calls: Vec<_> =
            pods.iter().map(|pod| lab.call(kind, conf.clone()).pod(pod).with("isGateway", json!(true))).collect();
        calls[0].add();
        let mac = lab.node.link("br0").mac;
        for call in &mut calls[1..] {
            call.add();
            assert_eq!(lab.node.link("br0").mac, mac);
        }
        calls[0].del();
        assert_eq!(lab.node.link("br0").mac, mac);
        calls[1].check();
    }

    /// Routes of IPAM, with and without a gateway of their own.
    fn routes(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let mut ipam = host_local(&lab, "10.1.2.0/24");
        ipam["routes"] = json!([{"dst": "192.0.2.0/24"}, {"dst": "198.51.100.0/24", "gw": "10.1.2.77"}]);
        let mut call = lab.call(kind, bridge_conf(&lab)).pod(&pod).with("ipam", ipam);
        let result = call.add();
        assert_eq!(pod.routes(), ["192.0.2.0/24 via 10.1.2.1 dev eth0", "198.51.100.0/24 via 10.1.2.77 dev eth0"]);
        assert_eq!(result["routes"].as_array().unwrap().len(), 2);
        call.check();
        call.del();
    }

    /// IPv6 beside IPv4.
    fn two_families(kind: Kind) {
        let lab = Lab::new();
        let (pod, neighbour) = (lab.pod(), lab.pod());
        let mut ipam = host_local(&lab, "10.1.2.0/24");
        ipam["ranges"] = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:42::/64"}]]);
        let conf = bridge_conf(&lab);
        let mut other = lab.call(kind, conf.clone()).pod(&neighbour).with("ipam", ipam.clone()).with("isGateway", json!(true));
        other.add();
        let mut call = lab.call(kind, conf).pod(&pod).with("ipam", ipam).with("isGateway", json!(true));
        let result = call.add();
        assert_eq!(ips(&result), ["10.1.2.3/24", "2001:db8:42::3/64"]);
        assert_eq!(pod.addresses("eth0"), ["10.1.2.3/24", "2001:db8:42::3/64"]);
        reached(&pod, &neighbour, "2001:db8:42::2");
        reached(&pod, &lab.node, "2001:db8:42::1");
        call.check();
        call.del();
    }

    /// Without `ipam` there is a wire and nothing else.
    fn wire_only(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let mut call = lab.call(kind, bridge_conf(&lab)).pod(&pod).with("ipam", json!(null));
        let result = call.add();
        assert_eq!(ips(&result), Vec::<String>::new());
        assert!(pod.link("eth0").up);
        assert_eq!(pod.addresses("eth0"), Vec::<String>::new());
        call.del();
        assert!(pod.find("eth0").is_none());
    }

    /// runtimeConfig before args.cni before CNI_ARGS.
    fn mac_precedence(kind: Kind) {
        let [first, second, third] = ["0a:58:0a:01:02:03", "0a:58:0a:01:02:04", "0a:58:0a:01:02:05"];
        let lab = Lab::new();
        let cases = [
            (Some(first), Some(second), Some(third), first),
            (None, Some(second), Some(third), second),
            (None, None, Some(third), third),
        ];
        for (runtime, args, environment, expected) in cases {
            let pod = lab.pod();
            let mut call = lab.call(kind, bridge_conf(&lab)).pod(&pod);
            call = runtime.iter().fold(call, |c, mac| c.with("runtimeConfig", json!({"mac": mac})));
            call = args.iter().fold(call, |c, mac| c.with("args", json!({"cni": {"mac": mac}})));
            call = environment.iter().fold(call, |c, mac| c.args(&format!("IgnoreUnknown=1;MAC={mac}")));
            let result = call.add();
            assert_eq!(pod.link("eth0").mac, expected);
            assert_eq!(in_sandbox(&result)["mac"], expected);
            call.check();
            call.del();
        }
    }

    /// `mtu` goes to both ends, and to a bridge that is made.
    fn mtu(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let mut call = lab.call(kind, bridge_conf(&lab)).pod(&pod).with("mtu", json!(1400));
        call.add();
        let host_end = lab.node.other_end(&pod, "eth0");
        assert_eq!((pod.link("eth0").mtu, host_end.mtu, lab.node.link("br0").mtu), (1400, 1400, 1400));
        call.check();
        call.del();
    }

    fn hairpin_and_promiscuous(kind: Kind) {
        let lab = Lab::new();
        let (hairpin, promiscuous, isolated) = (lab.pod(), lab.pod(), lab.pod());
        let conf = bridge_conf(&lab);
        lab.call(kind, conf.clone()).pod(&hairpin).with("hairpinMode", json!(true)).add();
        assert_eq!(lab.node.other_end(&hairpin, "eth0").port("hairpin"), true);
        lab.call(kind, conf.clone()).pod(&isolated).with("portIsolation", json!(true)).add();
        let port = lab.node.other_end(&isolated, "eth0");
        assert_eq!((port.port("hairpin"), port.port("isolated")), (&json!(false), &json!(true)));
        lab.call(kind, conf).pod(&promiscuous).with("promiscMode", json!(true)).add();
        assert!(lab.node.link("br0").raw["flags"].as_array().unwrap().contains(&json!("PROMISC")));
    }

    /// Isolated ports do not reach each other; others they do.
    fn port_isolation(kind: Kind) {
        let lab = Lab::new();
        let (one, two, open) = (lab.pod(), lab.pod(), lab.pod());
        let conf = bridge_conf(&lab);
        for pod in [&one, &two] {
            lab.call(kind, conf.clone()).pod(pod).with("portIsolation", json!(true)).add();
        }
        lab.call(kind, conf).pod(&open).add();
        reached(&one, &open, "10.1.2.4");
        unreached(&one, &two, "10.1.2.3");
    }

    /// The network's `dns` replaces that of IPAM.
    fn dns(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let dns = json!({"nameservers": ["192.0.2.53"], "domain": "example.org", "search": ["a.example.org"]});
        let mut call = lab.call(kind, bridge_conf(&lab)).pod(&pod).with("dns", dns.clone());
        assert_eq!(call.add()["dns"], dns);
    }

    /// The pod's namespace is gone: DEL succeeds, with and without its path, and the address is free again.
    fn namespace_gone(kind: Kind) {
        let lab = Lab::new();
        for without_path in [false, true] {
            let mut pod = lab.pod();
            let mut call = lab.call(kind, bridge_conf(&lab)).pod(&pod);
            call.add();
            let port = lab.node.other_end(&pod, "eth0").name;
            pod.remove();
            let call = if without_path { call.without("CNI_NETNS") } else { call };
            call.del();
            call.del();
            assert!(store_files(&lab.store()).is_empty());
            eventually("the veth goes with the namespace", || lab.node.find(&port).is_none());
        }
    }

    /// A second interface of the same pod on another network; each DEL takes its own.
    fn two_networks(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let first = bridge_conf(&lab);
        let mut second = first.clone();
        second["name"] = json!("net2");
        second["bridge"] = json!("br1");
        let (mut one, mut two) = (lab.call(kind, first).pod(&pod), lab.call(kind, second).pod(&pod).ifname("net1"));
        one.add();
        two.add();
        assert_eq!(store_files(&lab.store()).into_keys().collect::<Vec<_>>(), ["net/10.1.2.2", "net2/10.1.2.2"]);
        one.check();
        two.check();
        one.del();
        two.check();
        assert!(pod.find("eth0").is_none() && pod.find("net1").is_some());
        two.del();
        assert!(store_files(&lab.store()).is_empty());
    }

    /// A bridge that is there already is taken as it is, with its ports and MTU.
    fn existing_bridge(kind: Kind) {
        let (lab, lan) = Lab::with_lan();
        lan.run("ip addr add 10.1.2.200/24 dev lan0");
        let pod = lab.pod();
        let before = lab.node.link("br-lan");
        let mut call = lab.call(kind, bridge_conf(&lab)).pod(&pod).with("bridge", json!("br-lan"));
        call.add();
        reached(&pod, &lan, "10.1.2.200");
        let after = lab.node.link("br-lan");
        assert_eq!((before.mtu, before.index), (after.mtu, after.index));
        call.check();
        call.del();
    }

    /// An interface of that name is there: ADD fails and leaves it alone, and takes no address.
    fn interface_name_taken(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        pod.run("ip link add eth0 type bridge");
        let call = lab.call(kind, bridge_conf(&lab)).pod(&pod);
        assert_eq!(call.fails("ADD").code, 999);
        assert_eq!(pod.link("eth0").kind, "bridge");
        assert!(store_files(&lab.store()).is_empty());
    }
}
