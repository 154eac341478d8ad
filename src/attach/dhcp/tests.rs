//! What a section reads as, and what a lease becomes. Exchanges with a real server are e2e's.

use std::os::unix::net::UnixListener;
use std::time::Duration;

use serde_json::{Value, json};

use super::remaining;
use super::section::{Dhcp, is_kept};
use crate::cni::Args;
use crate::ipam::dhcp::{Lease, Route};
use crate::types::Code;

fn parse(ipam: Value) -> crate::types::Outcome<Dhcp> {
    Dhcp::parse(json!({"name": "lan", "ipam": ipam}).as_object().unwrap(), &Args::default())
}

pub fn lease(seconds: u32) -> Lease {
    let route = |dst: &str, gw: Option<&str>| Route { dst: dst.parse().unwrap(), gw: gw.map(|g| g.parse().unwrap()) };
    Lease {
        address: "192.0.2.9".parse().unwrap(),
        prefix: 24,
        mask_given: true,
        server: "192.0.2.1".parse().unwrap(),
        routers: vec!["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()],
        routes: vec![route("0.0.0.0/0", Some("192.0.2.1")), route("198.51.100.0/24", None)],
        dns: vec!["192.0.2.53".parse().unwrap()],
        domain: Some("example.test".into()),
        search: vec!["a.test".into()],
        mtu: None,
        hostname: None,
        seconds,
        t1: 30,
        t2: 52,
    }
}

#[test]
fn a_lease_becomes_the_references_result_and_dns_for_ours_alone() {
    let section = parse(json!({"type": "dhcp", "priority": 7})).unwrap();
    let result = section.result(&lease(60));
    assert_eq!(
        json!({"ips": result.ips, "routes": result.routes}),
        json!({
            "ips": [{"address": "192.0.2.9/24", "gateway": "192.0.2.1"}],
            "routes": [
                {"dst": "0.0.0.0/0", "gw": "192.0.2.1", "priority": 7},
                {"dst": "198.51.100.0/24", "gw": "0.0.0.0", "priority": 7, "scope": 253},
            ],
        })
    );
    assert!(result.dns.is_empty());
    let dns = section.whole().result(&lease(60)).dns;
    assert_eq!(
        serde_json::to_value(dns).unwrap(),
        json!({"nameservers": ["192.0.2.53"], "domain": "example.test", "search": ["a.test"]})
    );
}

#[test]
fn mistakes_of_a_section_are_named() {
    for (ipam, why) in [
        (json!({"type": "dhcp", "priority": -1}), "ipam.priority: -1"),
        (json!({"type": "dhcp", "priority": "high"}), "priority"),
        (json!({"type": "dhcp", "request": [{"option": "nonsense"}]}), "nonsense"),
    ] {
        let e = parse(ipam).unwrap_err();
        assert!(e.code == Code::IpamConfig && e.msg.contains(why), "{e}");
    }
    assert_eq!(parse(json!(null)).unwrap_err().code, Code::IpamConfig);
}

#[test]
fn an_address_lives_as_long_as_its_lease() {
    assert_eq!(remaining(&lease(60), Duration::from_millis(1500)), Some(59));
    assert_eq!(remaining(&lease(2), Duration::from_secs(9)), Some(1), "0 would be for ever gone");
    assert_eq!(remaining(&lease(Lease::FOR_EVER), Duration::from_secs(9)), None);
}

#[test]
fn our_daemon_is_told_from_the_references() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dhcp.sock");
    assert!(!is_kept(&path), "nobody");
    let listener = UnixListener::bind(&path).unwrap();
    assert!(!is_kept(&path), "one that waits for a question");
    // The connection that was given up comes first.
    let serving = std::thread::spawn(move || (0..2).for_each(|_| drop(listener.accept().unwrap())));
    assert!(is_kept(&path));
    serving.join().unwrap();
    assert!(!is_kept(&path), "a stale socket");
}
