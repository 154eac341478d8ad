//! The type `static`: addresses that the configuration has, or that are asked for in their place. Nothing is kept, so
//! nothing is to be released.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Lease, check_families, invalid, sections, strict};
use crate::cni::{AddResult, Args, Dns, IpConfig, Route, json, parse_address, parse_prefix};
use crate::types::{Code, Failure, Outcome};

#[derive(Debug, Clone, PartialEq)]
pub struct Fixed(Lease);

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Raw {
    ipam: RawIpam,
    args: RawArgs,
    runtime_config: RawAsked,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawIpam {
    addresses: Vec<RawAddress>,
    routes: Vec<Route>,
    dns: Dns,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawAddress {
    address: String,
    gateway: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawArgs {
    cni: RawAsked,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawAsked {
    ips: Vec<String>,
}

impl Fixed {
    pub fn parse(conf: &Map<String, Value>, args: &Args) -> Outcome<Self> {
        let raw: Raw = json::from_value(sections(conf)?).map_err(|e| invalid(e.to_string()))?;
        let from_args = from_cni_args(args)?;
        let asked = if raw.runtime_config.ips.is_empty() { &raw.args.cni.ips } else { &raw.runtime_config.ips };
        // Lists that are asked for replace everything; CNI_ARGS only add to what is configured.
        let ips = if asked.is_empty() {
            configured(&raw.ipam.addresses)?.into_iter().chain(from_args).collect()
        } else {
            asked.iter().map(|text| Ok(plain(network(text, "ips")?))).collect::<Outcome<Vec<_>>>()?
        };
        check_families(conf, ips.iter().map(|ip| ip.address.is_ipv4()))?;
        Ok(Self(Lease { ips, routes: raw.ipam.routes, dns: raw.ipam.dns, valid: None, mtu: None }))
    }

    pub fn add(&self) -> Lease {
        self.0.clone()
    }

    /// An address that is in both must have the same gateway, where the configuration has one.
    pub fn check(&self, prev: Option<&AddResult>) -> Outcome<()> {
        let Some(prev) = prev else {
            return Err(Failure::new(Code::IpamConfig, "CHECK without \"prevResult\"")
                .remedy("the runtime must hand over the result of the ADD"));
        };
        for mine in &self.0.ips {
            let there = prev.ips.iter().find(|there| there.address.ip() == mine.address.ip());
            if let Some(there) = there.filter(|there| mine.gateway.is_some() && there.gateway != mine.gateway) {
                let name = |gw: Option<IpAddr>| gw.map_or("none".into(), |gw| gw.to_string());
                let (ip, now, then) = (mine.address.ip(), name(mine.gateway), name(there.gateway));
                return Err(Failure::new(Code::Differs, format!("gateway of {ip} is {now}, but was {then} at ADD")));
            }
        }
        Ok(())
    }
}

fn plain(address: IpNetwork) -> IpConfig {
    IpConfig { interface: None, address, gateway: None }
}

fn network(text: &str, key: &str) -> Outcome<IpNetwork> {
    parse_prefix(text)
        .ok_or_else(|| invalid(format!("{key}: {text:?} is no address with a prefix length like 192.0.2.9/24")))
}

fn configured(addresses: &[RawAddress]) -> Outcome<Vec<IpConfig>> {
    let read = |(i, raw): (usize, &RawAddress)| {
        let place = format!("ipam.addresses[{i}]");
        let gateway = match raw.gateway.as_deref() {
            None | Some("") => None,
            Some(text) => Some(
                parse_address(text).ok_or_else(|| invalid(format!("{place}.gateway: {text:?} is no IP address")))?,
            ),
        };
        Ok(IpConfig { gateway, ..plain(network(&raw.address, &format!("{place}.address"))?) })
    };
    addresses.iter().enumerate().map(read).collect()
}

/// `IP` and `GATEWAY` are lists with commas. A gateway goes to the addresses of `IP` in whose network it lies, and to
/// none of the configuration: there it can stand beside the address.
fn from_cni_args(args: &Args) -> Outcome<Vec<IpConfig>> {
    strict(args, &["IP", "GATEWAY"])?;
    let items = |key| args.get(key).filter(|v| !v.is_empty()).into_iter().flat_map(|v| v.split(',')).map(str::trim);
    let mut ips = items("IP").map(|text| Ok(plain(network(text, "CNI_ARGS: IP")?))).collect::<Outcome<Vec<_>>>()?;
    for text in items("GATEWAY") {
        let gateway = parse_address(text)
            .ok_or_else(|| invalid(format!("CNI_ARGS: GATEWAY has {text:?}, which is no IP address")))?;
        ips.iter_mut().filter(|ip| ip.address.contains(gateway)).for_each(|ip| ip.gateway = Some(gateway));
    }
    Ok(ips)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(conf: Value, args: &str) -> Outcome<Fixed> {
        let Value::Object(mut conf) = conf else { panic!("{conf} is no object") };
        conf.entry("cniVersion").or_insert(json!("1.0.0"));
        Fixed::parse(&conf, &Args::new(args))
    }

    fn ips(conf: Value, args: &str) -> Vec<String> {
        let show = |ip: IpConfig| format!("{} {}", ip.address, ip.gateway.map_or(String::new(), |g| g.to_string()));
        read(conf, args).unwrap().add().ips.into_iter().map(show).map(|s| s.trim_end().to_owned()).collect()
    }

    fn one() -> Value {
        json!({"addresses": [{"address": "10.10.0.1/24", "gateway": "10.10.0.254"}]})
    }

    #[test]
    fn addresses_of_the_configuration() {
        let conf = json!({"ipam": {
            "addresses": [{"address": "10.10.0.1/24", "gateway": "10.10.0.254"}, {"address": "3ffe:ffff:0:01ff::1/64"}],
            "routes": [{"dst": "3ffe:ffff:0:01ff::1/64"}, {"dst": "0.0.0.0/0", "gw": "10.10.0.254"}],
            "dns": {"nameservers": ["192.0.2.53"], "search": ["x"]},
        }});
        let lease = read(conf, "").unwrap().add();
        assert_eq!(lease.ips[0].address.to_string(), "10.10.0.1/24", "host bits are kept");
        assert_eq!(lease.ips[1].address.to_string(), "3ffe:ffff:0:1ff::1/64");
        assert_eq!((lease.routes.len(), lease.dns.nameservers.len()), (2, 1));
        assert_eq!(read(json!({"ipam": {}}), "").unwrap().add(), Lease::default());
        assert_eq!(ips(json!({"ipam": {"addresses": [{"address": "::ffff:10.10.0.7/120"}]}}), ""), ["10.10.0.7/24"]);
    }

    #[test]
    fn cni_args_add_to_the_configuration() {
        let several =
            "IgnoreUnknown=1;X=1;IP=10.10.0.1/24, 11.11.0.1/24,2001:db8::5/64;GATEWAY=10.10.0.254, 2001:db8::1";
        assert_eq!(
            ips(json!({"ipam": {}}), several),
            ["10.10.0.1/24 10.10.0.254", "11.11.0.1/24", "2001:db8::5/64 2001:db8::1"]
        );
        assert_eq!(ips(json!({"ipam": one()}), "IP=11.11.0.1/24"), ["10.10.0.1/24 10.10.0.254", "11.11.0.1/24"]);
        let bare = json!({"ipam": {"addresses": [{"address": "10.10.0.1/24"}]}});
        assert_eq!(ips(bare, "GATEWAY=10.10.0.254"), ["10.10.0.1/24"]);
        assert_eq!(ips(json!({"ipam": {}}), "IP=10.10.0.1/24;GATEWAY=9.9.9.9"), ["10.10.0.1/24"]);
        assert!(ips(json!({"ipam": {}}), "IP=;GATEWAY=").is_empty());
    }

    #[test]
    fn lists_replace_everything_before_them() {
        let args = json!({"cni": {"ips": ["11.11.0.1/24", "2001:db8::7/64"]}});
        assert_eq!(ips(json!({"ipam": one(), "args": args}), "IP=13.13.0.1/24"), ["11.11.0.1/24", "2001:db8::7/64"]);
        let runtime = json!({"ips": ["12.12.0.1/24"]});
        assert_eq!(ips(json!({"ipam": one(), "args": args, "runtimeConfig": runtime}), ""), ["12.12.0.1/24"]);
    }

    #[test]
    fn mistakes_have_the_code_and_name_the_place() {
        for (conf, args, part) in [
            (json!({}), "", "no \"ipam\""),
            (json!({"ipam": {"addresses": [{"address": "10.10.0.1"}]}}), "", "ipam.addresses[0].address"),
            (json!({"ipam": {"addresses": [{"address": "foo/24"}]}}), "", "ipam.addresses[0].address"),
            (json!({"ipam": {"addresses": [{}]}}), "", "ipam.addresses[0].address"),
            (json!({"ipam": {"addresses": [{"address": "1.2.3.4/8", "gateway": "foo"}]}}), "", "addresses[0].gateway"),
            (json!({"ipam": {"routes": [{"dst": "x"}]}}), "", "ipam.routes[0].dst"),
            (json!({"ipam": {}}), "IP=10.10.0.1", "CNI_ARGS: IP"),
            (json!({"ipam": {}}), "IP=10.10.0.1/24;GATEWAY=x", "GATEWAY"),
            (json!({"ipam": one()}), "FOO=1", "FOO"),
            (json!({"ipam": one(), "args": {"cni": {"ips": ["11.11.0.1"]}}}), "", "11.11.0.1"),
            (json!({"ipam": one(), "runtimeConfig": {"ips": ["12.12.0.1"]}}), "", "12.12.0.1"),
            (json!({"ipam": one(), "cniVersion": "0.2.0"}), "IP=11.11.0.1/24", "0.2.0"),
        ] {
            let failure = read(conf.clone(), args).unwrap_err();
            assert_eq!(failure.code, Code::IpamConfig, "{conf}");
            assert!(failure.msg.contains(part), "{conf}: {}", failure.msg);
        }
    }

    #[test]
    fn check_compares_gateways() {
        let fixed = read(json!({"ipam": one()}), "").unwrap();
        let mut prev = AddResult { ips: fixed.add().ips, ..AddResult::default() };
        fixed.check(Some(&prev)).unwrap();
        prev.ips[0].gateway = None;
        assert_eq!(fixed.check(Some(&prev)).unwrap_err().code, Code::Differs);
        prev.ips.clear();
        fixed.check(Some(&prev)).unwrap();
        assert_eq!(fixed.check(None).unwrap_err().code, Code::IpamConfig);
    }
}
