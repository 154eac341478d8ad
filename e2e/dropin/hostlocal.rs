//! Type `host-local`, called by itself: which address, and what the store holds on disk.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::{host_local, ips};
use crate::harness::{Call, Kind, Lab, Netns, both, store_files};

fn call<'l>(lab: &'l Lab, pod: &Netns, kind: Kind, ipam: Value) -> Call<'l> {
    lab.call(kind, json!({"cniVersion": "1.0.0", "name": "net", "type": "host-local", "ipam": ipam})).pod(pod)
}

/// The address that ADD gives to a container.
fn given(call: &Call, id: &str) -> String {
    ips(&call.clone().id(id).run("ADD").ok())[0].clone()
}

both! {
    /// Names, contents and modes of the files: an administrator's scripts read them.
    fn on_disk(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let mut ipam = host_local(&lab, "10.1.2.0/24");
        ipam["ranges"] = json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:42::/64"}]]);
        let mut call = call(&lab, &pod, kind, ipam).id("abc").ifname("net1");
        call.add();
        let dir = format!("{}/net", lab.store());
        let read = |name: &str| std::fs::read_to_string(format!("{dir}/{name}")).unwrap();
        assert_eq!(read("10.1.2.2"), "abc\r\nnet1");
        assert_eq!(read("2001:db8:42::2"), "abc\r\nnet1");
        assert_eq!(read("last_reserved_ip.0"), "10.1.2.2");
        assert_eq!(read("last_reserved_ip.1"), "2001:db8:42::2");
        let mode = |name: &str| std::fs::metadata(format!("{dir}/{name}")).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("10.1.2.2"), mode("lock")), (0o600, 0o750));
        call.check();
        call.del();
        let mut left: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|f| f.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
        call.del();
    }

    /// One after the other, also after a DEL: an address rests as long as it can.
    fn round_robin(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let call = call(&lab, &pod, kind, host_local(&lab, "10.1.2.0/29"));
        assert_eq!(given(&call, "a"), "10.1.2.2/29");
        assert_eq!(given(&call, "b"), "10.1.2.3/29");
        call.clone().id("a").del();
        for (id, address) in [("c", "10.1.2.4/29"), ("d", "10.1.2.5/29"), ("e", "10.1.2.6/29"), ("f", "10.1.2.2/29")] {
            assert_eq!(given(&call, id), address);
        }
        call.clone().id("g").fails("ADD");
        call.clone().id("e").del();
        assert_eq!(given(&call, "g"), "10.1.2.6/29");
    }

    /// Bounds and gateway of a range; the gateway is not given away.
    fn bounds(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let mut ipam = host_local(&lab, "10.1.2.0/24");
        ipam["ranges"] = json!([[{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.10", "rangeEnd": "10.1.2.12", "gateway": "10.1.2.11"}]]);
        let call = call(&lab, &pod, kind, ipam);
        let first = call.clone().id("a").run("ADD").ok();
        assert_eq!((ips(&first)[0].as_str(), &first["ips"][0]["gateway"]), ("10.1.2.10/24", &json!("10.1.2.11")));
        assert_eq!(given(&call, "b"), "10.1.2.12/24");
        call.clone().id("c").fails("ADD");
    }

    /// A set of several ranges: the next when one is full.
    fn several_ranges(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let mut ipam = host_local(&lab, "10.1.2.0/30");
        ipam["ranges"] = json!([[{"subnet": "10.1.2.0/30"}, {"subnet": "10.7.0.0/29"}]]);
        let call = call(&lab, &pod, kind, ipam);
        assert_eq!([given(&call, "a"), given(&call, "b"), given(&call, "c")], ["10.1.2.2/30", "10.7.0.2/29", "10.7.0.3/29"]);
    }

    /// An address that was asked for, by each of the three ways.
    fn requested(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let call = call(&lab, &pod, kind, host_local(&lab, "10.1.2.0/24"));
        let ways = [
            call.clone().args("IgnoreUnknown=1;IP=10.1.2.50"),
            call.clone().with("args", json!({"cni": {"ips": ["10.1.2.51"]}})),
            call.clone().with("runtimeConfig", json!({"ips": ["10.1.2.52/24"]})),
        ];
        for (way, address) in ways.iter().zip(["10.1.2.50/24", "10.1.2.51/24", "10.1.2.52/24"]) {
            assert_eq!(given(way, address.split('/').next().unwrap()), address);
        }
        ways[0].clone().id("other").fails("ADD");
        call.clone().id("x").args("IgnoreUnknown=1;IP=10.1.2.1").fails("ADD");
        call.clone().id("x").args("IgnoreUnknown=1;IP=192.0.2.1").fails("ADD").names(&["192.0.2.1"]);
        assert_eq!(store_files(&lab.store()).len(), 3);
    }

    /// The same container and interface once; another interface of it has an address of its own.
    fn same_container(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let call = call(&lab, &pod, kind, host_local(&lab, "10.1.2.0/24")).id("abc");
        call.run("ADD").ok();
        call.fails("ADD").names(&["abc"]);
        call.clone().ifname("net1").run("ADD").ok();
        call.del();
        assert_eq!(store_files(&lab.store()).into_values().collect::<Vec<_>>(), ["abc\r\nnet1"]);
        call.ifname("net1").check();
    }

    /// Networks of other names do not see each other's addresses.
    fn networks_are_apart(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let first = call(&lab, &pod, kind, host_local(&lab, "10.1.2.0/24"));
        let second = first.clone().with("name", json!("net2"));
        assert_eq!(given(&first, "abc"), "10.1.2.2/24");
        assert_eq!(given(&second, "abc"), "10.1.2.2/24");
        first.clone().id("abc").del();
        second.clone().id("abc").check();
    }

    /// An entry of the old format, the bare container id, is found by CHECK and DEL.
    fn old_format(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let dir = format!("{}/net", lab.store());
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(format!("{dir}/10.1.2.9"), "abc").unwrap();
        let call = call(&lab, &pod, kind, host_local(&lab, "10.1.2.0/24")).id("abc");
        call.check();
        call.del();
        assert!(store_files(&lab.store()).is_empty());
    }

    /// A file with the last address that cannot be read starts the range anew.
    fn last_address_unreadable(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let call = call(&lab, &pod, kind, host_local(&lab, "10.1.2.0/24"));
        given(&call, "a");
        call.clone().id("a").del();
        std::fs::write(format!("{}/net/last_reserved_ip.0", lab.store()), "rubbish").unwrap();
        assert_eq!(given(&call, "b"), "10.1.2.2/24");
    }

    fn check_without_address(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        call(&lab, &pod, kind, host_local(&lab, "10.1.2.0/24")).fails("CHECK");
    }

    fn bad_ranges(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let bad = [
            json!([]),
            json!([[]]),
            json!([[{"subnet": "10.1.2.0/31"}]]),
            json!([[{"subnet": "10.1.2.0"}]]),
            json!([[{"subnet": "10.1.2.0/24", "rangeStart": "10.9.9.9"}]]),
            json!([[{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.9", "rangeEnd": "10.1.2.3"}]]),
            json!([[{"subnet": "10.1.2.0/24"}, {"subnet": "2001:db8::/64"}]]),
            json!([[{"subnet": "10.1.2.0/24"}, {"subnet": "10.1.2.128/25"}]]),
        ];
        for ranges in bad {
            let mut ipam = host_local(&lab, "10.1.2.0/24");
            ipam["ranges"] = ranges.clone();
            assert_eq!(call(&lab, &pod, kind, ipam).fails("ADD").code, 999, "{ranges}");
        }
        assert!(store_files(&lab.store()).is_empty());
    }

    /// Routes and the file of name servers go into the result.
    fn routes_and_resolv_conf(kind: Kind) {
        let lab = Lab::new();
        let pod = lab.pod();
        let mut ipam = host_local(&lab, "10.1.2.0/24");
        ipam["routes"] = json!([{"dst": "0.0.0.0/0"}]);
        ipam["resolvConf"] = json!(lab.file("resolv.conf"));
        std::fs::write(lab.file("resolv.conf"), "nameserver 192.0.2.53\nsearch a.example b.example\ndomain example\n").unwrap();
        let result = call(&lab, &pod, kind, ipam).add();
        assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0"}]));
        let dns = json!({"nameservers": ["192.0.2.53"], "domain": "example", "search": ["a.example", "b.example"]});
        assert_eq!(result["dns"], dns);
    }
}
