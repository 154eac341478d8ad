//! Results of older versions, converted where they are read and written.
//!
//! What an older version cannot hold is left out as the reference library does; where it would have to drop an
//! address, it is an error instead.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::types::{Code, Failure, Outcome};

use super::json::{self, JsonError};
use super::version::UnknownVersion;
use super::{AddResult, Dns, IpConfig, Route, Version, ip};

/// 0.1.0 and 0.2.0: one address of each family, no interfaces.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Old {
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<OldIp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<OldIp>,
    dns: Dns,
}

#[derive(Serialize, Deserialize)]
struct OldIp {
    #[serde(deserialize_with = "ip::prefix")]
    ip: IpNetwork,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "ip::address")]
    gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
}

impl AddResult {
    /// The result as that version writes it.
    pub fn to_json(&self, v: Version) -> Outcome<Value> {
        let body = if v <= Version::V0_2_0 { value(&self.to_old(v)?) } else { self.to_listed(v) };
        let mut out = Map::new();
        out.insert("cniVersion".into(), v.as_str().into());
        if let Value::Object(members) = body {
            out.extend(members);
        }
        Ok(Value::Object(out))
    }

    /// Whether that version has words for the result: what [`Self::to_json`] fails at, and nothing else.
    pub fn must_fit(&self, v: Version) -> Outcome<()> {
        if v <= Version::V0_2_0 { self.to_old(v).map(drop) } else { Ok(()) }
    }

    /// Reads a result by its own `cniVersion`; one without is 0.1.0.
    pub fn from_json(v: Value) -> Outcome<Self> {
        Self::from_json_or(v, Version::V0_1_0)
    }

    /// Reads a result by its own `cniVersion`, and one without as the given version. A plugin that was asked in one
    /// version may leave it out of its answer.
    pub fn from_json_or(v: Value, unsaid: Version) -> Outcome<Self> {
        Self::read(v, Some(unsaid)).map(|(result, _)| result)
    }

    /// The same, with the version it was in; an error where it tells none and nobody else does.
    pub fn read(v: Value, unsaid: Option<Version>) -> Outcome<(Self, Version)> {
        let bad = |msg: String| {
            Failure::new(Code::Version, format!("result: {msg}")).remedy(format!("supported are {}", Version::list()))
        };
        let version = match (own_version(&v)?, unsaid) {
            (Some(text), _) => text.parse().map_err(|e: UnknownVersion| bad(e.to_string()))?,
            (None, Some(unsaid)) => unsaid,
            (None, None) => return Err(bad("no cniVersion".into())),
        };
        let old = version <= Version::V0_2_0;
        let result = if old { json::from_value::<Old>(v)?.into() } else { json::from_value(v)? };
        Ok((result, version))
    }

    /// What is left of the result once it has passed through that version.
    pub fn through(&self, v: Version) -> Outcome<Self> {
        Self::from_json(self.to_json(v)?)
    }

    /// From 0.3.0 on. The finer settings of routes are written in all of these, as the reference does.
    fn to_listed(&self, v: Version) -> Value {
        let mut r = self.clone();
        if v < Version::V1_1_0 {
            for i in &mut r.interfaces {
                (i.mtu, i.socket_path, i.pci_id) = (None, None, None);
            }
        }
        let mut out = value(&r);
        if v < Version::V1_0_0 {
            for ip in out.get_mut("ips").and_then(Value::as_array_mut).into_iter().flatten() {
                let family = if ip["address"].as_str().is_some_and(|a| a.contains(':')) { "6" } else { "4" };
                ip["version"] = family.into();
            }
            if r.dns.is_empty() {
                out["dns"] = Map::new().into();
            }
        }
        out
    }

    fn to_old(&self, v: Version) -> Outcome<Old> {
        let mut old = Old { dns: self.dns.clone(), ..Old::default() };
        for ip in &self.ips {
            let slot = if ip.address.is_ipv4() { &mut old.ip4 } else { &mut old.ip6 };
            if slot.is_some() {
                return Err(too_old(v, "more than one address of a family"));
            }
            *slot = Some(OldIp { ip: ip.address, gateway: ip.gateway, routes: Vec::new() });
        }
        if old.ip4.is_none() && old.ip6.is_none() {
            return Err(too_old(v, "a result without an address"));
        }
        for route in &self.routes {
            let slot = if route.dst.is_ipv4() { &mut old.ip4 } else { &mut old.ip6 };
            if let Some(ip) = slot {
                ip.routes.push(Route::new(route.dst, route.gw));
            }
        }
        Ok(old)
    }
}

impl From<Old> for AddResult {
    fn from(old: Old) -> Self {
        let mut r = AddResult { dns: old.dns, ..AddResult::default() };
        for ip in [old.ip4, old.ip6].into_iter().flatten() {
            r.ips.push(IpConfig { interface: None, address: ip.ip, gateway: ip.gateway });
            r.routes.extend(ip.routes);
        }
        r
    }
}

fn own_version(v: &Value) -> Result<Option<&str>, JsonError> {
    let object = match v {
        Value::Object(o) => o,
        Value::Null => return Ok(None),
        other => return Err(JsonError::mismatch("an object", other)),
    };
    match json::get(object, "cniVersion") {
        None => Ok(None),
        Some(Value::String(s)) => Ok(Some(s.as_str()).filter(|s| !s.is_empty())),
        Some(other) => Err(JsonError::mismatch("a string", other).under("cniVersion")),
    }
}

fn too_old(v: Version, what: &str) -> Failure {
    Failure::new(Code::Version, format!("cniVersion {v} cannot tell {what}")).remedy("set cniVersion to 0.3.1 or newer")
}

fn value(x: &impl Serialize) -> Value {
    serde_json::to_value(x).expect("strings, numbers and lists of them have a JSON form")
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use proptest::sample::select;
    use serde_json::json;

    use super::*;
    use crate::cni::Interface;

    /// A result with every member, and what the reference library prints for it (seen by running it).
    fn full() -> Value {
        json!({ "cniVersion": "1.1.0",
            "interfaces": [{ "name": "eth0", "mac": "0a:58:0a:01:02:03", "mtu": 1500, "sandbox": "/run/netns/x" },
                           { "name": "br0" }],
            "ips": [{ "interface": 0, "address": "10.1.2.3/24", "gateway": "10.1.2.1" },
                    { "address": "2001:db8::3/64", "gateway": "2001:db8::1" }],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0", "gw": "2001:db8::1" },
                       { "dst": "192.0.2.0/24", "gw": "10.1.2.9", "mtu": 1400, "advmss": 1300, "priority": 5,
                         "table": 0, "scope": 253 }],
            "dns": { "nameservers": ["192.0.2.53"], "domain": "d", "search": ["a", "b"], "options": ["o"] } })
    }

    fn printed(from: Value, v: Version) -> Outcome<Value> {
        AddResult::from_json(from)?.to_json(v)
    }

    #[test]
    fn the_newest_form_is_kept() {
        assert_eq!(printed(full(), Version::V1_1_0), Ok(full()));
    }

    #[test]
    fn from_0_3_0_on_only_small_things_differ() {
        let mut want = full();
        want["cniVersion"] = "1.0.0".into();
        want["interfaces"][0].as_object_mut().unwrap().shift_remove("mtu");
        assert_eq!(printed(full(), Version::V1_0_0), Ok(want.clone()));
        (want["ips"][0]["version"], want["ips"][1]["version"]) = ("4".into(), "6".into());
        for v in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0] {
            want["cniVersion"] = v.as_str().into();
            assert_eq!(printed(full(), v), Ok(want.clone()));
        }
    }

    #[test]
    fn up_to_0_2_0_there_is_one_address_of_a_family() {
        for v in [Version::V0_1_0, Version::V0_2_0] {
            let want = json!({ "cniVersion": v.as_str(),
                "ip4": { "ip": "10.1.2.3/24", "gateway": "10.1.2.1",
                         "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "192.0.2.0/24", "gw": "10.1.2.9" }] },
                "ip6": { "ip": "2001:db8::3/64", "gateway": "2001:db8::1",
                         "routes": [{ "dst": "::/0", "gw": "2001:db8::1" }] },
                "dns": { "nameservers": ["192.0.2.53"], "domain": "d", "search": ["a", "b"], "options": ["o"] } });
            assert_eq!(printed(full(), v), Ok(want.clone()));
            let two =
                json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.1.2.3/24" }, { "address": "10.1.2.4/24" }] });
            let f = printed(two, v).unwrap_err();
            assert_eq!(f.msg, format!("cniVersion {v} cannot tell more than one address of a family"));
            let f = printed(json!({ "cniVersion": "1.0.0" }), v).unwrap_err();
            assert_eq!(
                (f.code, f.msg),
                (Code::Version, format!("cniVersion {v} cannot tell a result without an address"))
            );
            // A family without an address loses its routes.
            let v6 = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "2001:db8::3/64" }],
                "routes": [{ "dst": "0.0.0.0/0" }] });
            assert_eq!(
                printed(v6, v),
                Ok(json!({ "cniVersion": v.as_str(), "ip6": { "ip": "2001:db8::3/64" }, "dns": {} }))
            );
        }
    }

    #[test]
    fn empty_members() {
        let empty = AddResult::default();
        assert_eq!(empty.to_json(Version::V1_1_0).unwrap().to_string(), r#"{"cniVersion":"1.1.0"}"#);
        assert_eq!(empty.to_json(Version::V1_0_0).unwrap().to_string(), r#"{"cniVersion":"1.0.0"}"#);
        assert_eq!(empty.to_json(Version::V0_4_0).unwrap().to_string(), r#"{"cniVersion":"0.4.0","dns":{}}"#);
        let odd = json!({ "cniVersion": "1.1.0", "ips": null, "dns": null,
            "routes": [{ "dst": "10.0.0.1/8", "gw": "", "mtu": 0, "priority": 0, "table": 0, "scope": 0 }],
            "interfaces": [{ "name": "e", "mac": "", "mtu": 0, "sandbox": "" }] });
        let want = json!({ "cniVersion": "1.1.0", "interfaces": [{ "name": "e" }],
            "routes": [{ "dst": "10.0.0.1/8", "table": 0, "scope": 0 }] });
        assert_eq!(printed(odd, Version::V1_1_0), Ok(want));
    }

    #[test]
    fn foreign_results_are_read_by_their_version() {
        let old = json!({ "IP4": { "Ip": "10.1.2.3/24", "routes": [{ "dst": "0.0.0.0/0" }] }, "ip6": null });
        let read = AddResult::from_json(old.clone()).unwrap();
        assert_eq!((read.ips.len(), read.routes.len()), (1, 1));
        assert_eq!(AddResult::from_json_or(old, Version::V0_2_0), Ok(read));
        let new = json!({ "ips": [{ "address": "::ffff:10.1.2.3/120", "version": "4" }] });
        let read = AddResult::from_json_or(new.clone(), Version::V1_0_0).unwrap();
        assert_eq!(read.ips[0].address.to_string(), "10.1.2.3/24");
        // Without a version it would be read as 0.1.0, which knows no `ips`.
        assert_eq!(AddResult::from_json(new), Ok(AddResult::default()));
        assert_eq!(AddResult::from_json(Value::Null), Ok(AddResult::default()));
    }

    #[test]
    fn mistakes_in_results() {
        for (v, why) in [
            (json!({ "cniVersion": "1.2.0" }), "result: cniVersion \"1.2.0\" is not supported"),
            (json!({ "cniVersion": 1 }), "cniVersion: expected a string, found 1"),
            (json!([]), "expected an object, found a list"),
            (json!({ "cniVersion": "1.0.0", "ips": [{ "address": 3 }] }), "ips[0].address: expected a string, found 3"),
            (json!({ "cniVersion": "1.0.0", "ips": [{}] }), "ips[0].address: missing"),
            (
                json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.1.2.3/24", "gateway": "x" }] }),
                "ips[0].gateway: \"x\" is no IP address",
            ),
            (
                json!({ "cniVersion": "1.0.0", "routes": [{ "dst": "10.0.0.0" }] }),
                "routes[0].dst: \"10.0.0.0\" is no address with a prefix length",
            ),
            (json!({ "ip4": { "ip": "10.0.0.1" } }), "ip4.ip: \"10.0.0.1\" is no address with a prefix length"),
        ] {
            let f = AddResult::from_json(v).unwrap_err();
            assert!(f.msg.starts_with(why), "{f}");
        }
    }

    fn word() -> impl Strategy<Value = String> {
        "[a-z0-9./:]{1,9}"
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(|b| IpAddr::from(b).to_canonical())
        ]
    }

    fn prefix() -> impl Strategy<Value = IpNetwork> {
        (address(), 0..=128u8).prop_map(|(ip, n)| {
            IpNetwork::new(ip, if ip.is_ipv4() { n % 33 } else { n }).expect("the length fits the family")
        })
    }

    fn interface() -> impl Strategy<Value = Interface> {
        let some = || option::of(word());
        (word(), some(), option::of(1..u32::MAX), some(), some(), some()).prop_map(
            |(name, mac, mtu, sandbox, socket_path, pci_id)| Interface { name, mac, mtu, sandbox, socket_path, pci_id },
        )
    }

    fn ip() -> impl Strategy<Value = IpConfig> {
        (any::<Option<u32>>(), prefix(), option::of(address())).prop_map(|(interface, address, gateway)| IpConfig {
            interface,
            address,
            gateway,
        })
    }

    fn route() -> impl Strategy<Value = Route> {
        let number = || option::of(1..u32::MAX);
        let fine = (number(), number(), number(), any::<Option<u32>>(), any::<Option<u8>>());
        (prefix(), option::of(address()), fine).prop_map(|(dst, gw, (mtu, advmss, priority, table, scope))| Route {
            dst,
            gw,
            mtu,
            advmss,
            priority,
            table,
            scope,
        })
    }

    fn result() -> impl Strategy<Value = AddResult> {
        let words = || vec(word(), 0..3);
        let dns = (words(), option::of(word()), words(), words())
            .prop_map(|(nameservers, domain, search, options)| Dns { nameservers, domain, search, options });
        (vec(interface(), 0..3), vec(ip(), 0..4), vec(route(), 0..4), dns)
            .prop_map(|(interfaces, ips, routes, dns)| AddResult { interfaces, ips, routes, dns })
    }

    /// What a version can hold, told without its JSON; `None` where it cannot hold the addresses.
    fn held(mut r: AddResult, v: Version) -> Option<AddResult> {
        if v < Version::V1_1_0 {
            r.interfaces.iter_mut().for_each(|i| (i.mtu, i.socket_path, i.pci_id) = (None, None, None));
        }
        if v > Version::V0_2_0 {
            return Some(r);
        }
        r.interfaces.clear();
        let mut kept = AddResult { dns: r.dns, ..AddResult::default() };
        for v4 in [true, false] {
            let ips: Vec<_> = r.ips.iter().filter(|i| i.address.is_ipv4() == v4).collect();
            match ips[..] {
                [] => continue,
                [ip] => kept.ips.push(IpConfig { interface: None, ..ip.clone() }),
                _ => return None,
            }
            let routes = r.routes.iter().filter(|r| r.dst.is_ipv4() == v4);
            kept.routes.extend(routes.map(|r| Route::new(r.dst, r.gw)));
        }
        (!kept.ips.is_empty()).then_some(kept)
    }

    /// JSON of any shape, often with the names that results have.
    fn any_json() -> impl Strategy<Value = Value> {
        let key = prop_oneof![
            select(vec!["cniVersion", "ips", "ip4", "ip6", "ip", "address", "gateway", "routes", "dst", "dns", "mtu"])
                .prop_map(String::from),
            any::<String>()
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            select(vec!["0.1.0", "0.4.0", "1.1.0", "10.1.2.3/24", "::1/64", ""]).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 5, move |inner| {
            prop_oneof![
                vec(inner.clone(), 0..5).prop_map(Value::from),
                vec((key.clone(), inner), 0..5).prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_round_trip_keeps_what_the_version_can_hold(r in result(), v in select(Version::ALL.to_vec())) {
            match held(r.clone(), v) {
                Some(want) => {
                    let text = r.to_json(v).unwrap().to_string();
                    let back = AddResult::from_json(json::parse(text.as_bytes()).unwrap()).unwrap();
                    prop_assert_eq!(&back, &want, "{}", text);
                    prop_assert_eq!(back.to_json(v).unwrap().to_string(), text, "a second trip changes nothing");
                }
                None => prop_assert_eq!(r.through(v).unwrap_err().code, Code::Version),
            }
        }

        #[test]
        fn the_struct_itself_is_the_newest_form(r in result()) {
            prop_assert_eq!(&serde_json::from_value::<AddResult>(serde_json::to_value(&r).unwrap()).unwrap(), &r);
        }

        #[test]
        fn no_json_makes_it_panic(v in any_json(), unsaid in select(Version::ALL.to_vec())) {
            if let Ok(r) = AddResult::from_json_or(v, unsaid) {
                prop_assert!(Version::ALL.iter().all(|v| r.to_json(*v).is_ok() || *v <= Version::V0_2_0));
            }
        }
    }
}
