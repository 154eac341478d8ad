//! Entries as network-attachment-definition-client 1.7.6 makes them, and the text as Go prints it.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn result(v: Value) -> AddResult {
    json::from_value(v).unwrap()
}

/// Interface, default, addresses of each entry.
fn short(found: &[StatusEntry]) -> Vec<(&str, bool, Vec<&str>)> {
    found
        .iter()
        .map(|e| (e.interface.as_deref().unwrap_or_default(), e.default, e.ips.iter().map(String::as_str).collect()))
        .collect()
}

fn device() -> Value {
    json!({ "version": "1.1.0", "vdpa": {}, "TYPE": "pci",
        "pci": { "rdma-device": "mlx5_0", "pci-address": "0000:03:02.3", "new": 1 }, "later": true })
}

/// Printed by Go from the same values.
const WHOLE: &str = r#"[{
    "name": "prod/lan\u003c\u0026\u003e\u2028\u2029é",
    "interface": "pod094a367b026",
    "ips": [
        "10.2.0.5",
        "fd00:3::5"
    ],
    "mac": "02:00:00:00:00:0a",
    "mtu": 8950,
    "default": true,
    "dns": {
        "nameservers": [
            "1.1.1.1"
        ],
        "domain": "d",
        "search": [
            "s"
        ],
        "options": [
            "o",
            "p"
        ]
    },
    "device-info": {
        "type": "pci",
        "version": "1.1.0",
        "pci": {
            "pci-address": "0000:03:02.3",
            "rdma-device": "mlx5_0"
        },
        "vdpa": {}
    },
    "gateway": [
        "10.2.0.1"
    ]
},{
    "name": "n\t\u0001",
    "dns": {}
}]"#;

#[test]
fn the_text_is_gos_to_the_byte() {
    let full = result(json!({
        "interfaces": [{ "name": "br0" , "mac": "02:00:00:00:00:01" },
            { "name": "pod094a367b026", "mac": "02:00:00:00:00:0a", "mtu": 8950, "sandbox": "/run/netns/x" }],
        "ips": [{ "address": "10.2.0.5/24", "interface": 1, "gateway": "10.2.0.1" },
            { "address": "fd00:3::5/64", "interface": 1 }],
        "routes": [{ "dst": "10.0.0.0/8", "gw": "10.2.0.2" }, { "dst": "0.0.0.0/0", "gw": "10.2.0.1" }, { "dst": "::/0" }],
        "dns": { "nameservers": ["1.1.1.1"], "domain": "d", "search": ["s"], "options": ["o", "p"] } }));
    let mut all = entries(&full, "prod/lan<&>\u{2028}\u{2029}é", true, Some(&device()));
    all.push(StatusEntry { name: "n\t\u{1}".into(), ..StatusEntry::default() });
    assert_eq!(status_text(&all), WHOLE);
    assert_eq!(status_text(&[]), "[]");
    let again: Vec<StatusEntry> = json::from_value(json::parse(WHOLE.as_bytes()).unwrap()).unwrap();
    assert_eq!(again, all);
}

#[test]
fn a_single_interface_has_all_addresses() {
    let only = result(json!({
        "interfaces": [{ "name": "eth0", "sandbox": "/x" }],
        "ips": [{ "address": "10.1.0.5/24" }, { "address": "fd00::5/64", "interface": 7 }],
        "routes": [{ "dst": "::/0", "gw": "fd00::1" }, { "dst": "0.0.0.0/1", "gw": "10.1.0.9" }] }));
    let found = entries(&only, "cbr0", true, None);
    assert_eq!(short(&found), [("eth0", true, vec!["10.1.0.5", "fd00::5"])]);
    assert_eq!(found[0].gateway, ["fd00::1"]);
    let host =
        result(json!({ "interfaces": [{ "name": "veth1", "mac": "m" }], "ips": [{ "address": "10.1.0.5/24" }] }));
    let found = entries(&host, "n", false, None);
    assert_eq!((short(&found), &found[0].mac), (vec![("", false, vec!["10.1.0.5"])], &None));
}

#[test]
fn no_interface_no_entry() {
    assert_eq!(entries(&AddResult::default(), "n", true, None), []);
    assert_eq!(entries(&result(json!({ "ips": [{ "address": "10.2.0.5/24" }] })), "n", false, None), []);
    let hosts = result(
        json!({ "interfaces": [{ "name": "br0" }, { "name": "veth1" }], "ips": [{ "address": "10.2.0.5/24" }] }),
    );
    assert_eq!(entries(&hosts, "n", true, None), []);
}

#[test]
fn several_interfaces_have_an_entry_each() {
    let many = result(json!({
        "interfaces": [{ "name": "br9" }, { "name": "net1", "mac": "02:00:00:00:00:0a", "sandbox": "/x" },
            { "name": "aux0", "mac": "02:00:00:00:00:0b", "sandbox": "/x" }],
        "ips": [{ "address": "10.2.0.5/24", "interface": 1 },
            { "address": "10.2.1.5/24", "interface": 2, "gateway": "10.2.1.1" }, { "address": "10.2.2.5/24" },
            { "address": "10.2.3.5/24", "interface": 0 }, { "address": "10.2.4.5/24", "interface": 9 }],
        "routes": [{ "dst": "0.0.0.0/0", "gw": "10.2.0.1" }], "dns": { "domain": "d" } }));
    let found = entries(&many, "default/a", false, Some(&device()));
    assert_eq!(short(&found), [("net1", false, vec!["10.2.0.5"]), ("aux0", false, vec!["10.2.1.5", "10.2.2.5"])]);
    for e in &found {
        assert_eq!((e.gateway.len(), e.dns.domain.as_deref(), e.device_info.is_some()), (1, Some("d"), true));
    }
    assert_eq!(found[1].mac.as_deref(), Some("02:00:00:00:00:0b"));
}

#[test]
fn who_is_the_default() {
    let with = |ips: Value| {
        let all = result(json!({ "interfaces": [{ "name": "veth1234abcd" }, { "name": "eth0", "sandbox": "/x" },
            { "name": "e2", "sandbox": "/x" }], "ips": ips }));
        let of = |default| entries(&all, "n", default, None).iter().map(|e| e.default).collect::<Vec<_>>();
        assert_eq!(of(false), [false, false]);
        of(true)
    };
    let gateway = |address: &str, index: u32| json!({ "address": address, "interface": index, "gateway": "10.1.1.1" });
    assert_eq!(with(json!([])), [true, false]);
    assert_eq!(with(json!([{ "address": "10.1.0.5/24", "interface": 1 }, gateway("10.1.1.5/24", 2)])), [false, true]);
    assert_eq!(with(json!([gateway("10.1.0.5/24", 1), gateway("10.1.1.5/24", 2)])), [true, false]);
    assert_eq!(with(json!([{ "address": "10.1.0.5/24", "gateway": "10.1.0.1" }])), [true, false]);
    let later = json!([{ "address": "10.1.0.5/24", "gateway": "10.1.0.1" }, gateway("10.1.1.5/24", 2)]);
    assert_eq!(with(later), [false, true]);
    assert_eq!(
        with(json!([gateway("10.1.0.5/24", 0)])),
        [false, false],
        "a gateway on the host's link: none, as in Multus"
    );
}

#[test]
fn devices_have_the_form_of_the_specification() {
    for other in [json!(null), json!([]), json!("pci"), json!({ "pci": "0000:03:02.3" }), json!({ "type": 3 })] {
        assert_eq!(written_device(&other), None, "{other}");
    }
    for (given, written) in [
        (json!({}), "{}"),
        (
            json!({ "memif": { "mode": "ip", "path": "/p", "role": "master" } }),
            r#"{"memif":{"role":"master","path":"/p","mode":"ip"}}"#,
        ),
        (
            json!({ "type": "vhost-user", "vhost-user": { "path": "/s", "mode": "client" } }),
            r#"{"type":"vhost-user","vhost-user":{"mode":"client","path":"/s"}}"#,
        ),
        (
            json!({ "vdpa": { "pci-address": "a", "driver": "vhost", "path": "/dev/vhost-vdpa1", "parent-device": "vdpa1" } }),
            r#"{"vdpa":{"parent-device":"vdpa1","driver":"vhost","path":"/dev/vhost-vdpa1","pci-address":"a"}}"#,
        ),
    ] {
        assert_eq!(written_device(&given).unwrap().to_string(), written);
    }
}

fn some_entry() -> impl Strategy<Value = StatusEntry> {
    let texts = || vec(".{0,12}", 0..3);
    let dns = (texts(), option::of(".{1,9}"), texts(), texts())
        .prop_map(|(nameservers, domain, search, options)| Dns { nameservers, domain, search, options });
    let device = ".{1,9}".prop_map(|s| json!({ "type": "pci", "pci": { "pci-address": s } }));
    (
        ".{0,20}",
        option::of(".{1,15}"),
        texts(),
        option::of(".{1,17}"),
        option::of(1..70000u32),
        any::<bool>(),
        dns,
        (option::of(device), texts()),
    )
        .prop_map(|(name, interface, ips, mac, mtu, default, dns, (device_info, gateway))| StatusEntry {
            name,
            interface,
            ips,
            mac,
            mtu,
            default,
            dns,
            device_info,
            gateway,
        })
}

proptest! {
    #[test]
    fn the_text_is_read_again(all in vec(some_entry(), 0..4)) {
        let text = status_text(&all);
        let raw = text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']);
        prop_assert!(!raw, "{}", text);
        let again: Vec<StatusEntry> = json::from_value(json::parse(text.as_bytes()).unwrap()).unwrap();
        prop_assert_eq!(again, all, "{}", text);
    }

    #[test]
    fn at_most_one_default_and_no_address_twice(
        sandboxes in vec(any::<bool>(), 0..5),
        ips in vec((0..6u32, any::<bool>(), any::<bool>()), 0..6),
        default in any::<bool>(),
    ) {
        let mut all = AddResult::default();
        for (i, inside) in sandboxes.iter().enumerate() {
            let sandbox = inside.then(|| "/x".to_owned());
            all.interfaces.push(Interface { name: format!("i{i}"), sandbox, ..Interface::default() });
        }
        for (i, (index, names_one, gateway)) in ips.into_iter().enumerate() {
            let gateway = gateway.then_some("10.0.0.1");
            let ip = json!({ "address": format!("10.0.0.{}/24", i + 2), "interface": names_one.then_some(index), "gateway": gateway });
            all.ips.push(json::from_value(ip).unwrap());
        }
        let found = entries(&all, "n", default, None);
        prop_assert!(found.iter().filter(|e| e.default).count() <= usize::from(default));
        let mut told: Vec<_> = found.iter().flat_map(|e| &e.ips).collect();
        let count = told.len();
        told.sort();
        told.dedup();
        prop_assert_eq!(told.len(), count);
    }
}
