//! Reads the configuration of `host-local`: ranges new and old style, those of the runtime, and the addresses that are
//! asked for in three ways. Refused here is refused before any file is touched.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::StoreLocation;
use super::range::{RangeSet, RawRange};
use crate::cni::{Args, Route, json, parse_address, parse_prefix};
use crate::ipam::{check_families, invalid, sections, strict};
use crate::types::{Failure, NetworkName, Outcome};

pub const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub location: StoreLocation,
    pub sets: Vec<RangeSet>,
    pub routes: Vec<Route>,
    pub resolv_conf: Option<PathBuf>,
    /// Without repetition, in the order: CNI_ARGS, args, runtimeConfig.
    pub requested: Vec<IpAddr>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Raw {
    ipam: RawIpam,
    args: RawArgs,
    runtime_config: RawRuntime,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawIpam {
    // The old style: one range, in the section itself.
    subnet: Option<String>,
    range_start: Option<String>,
    range_end: Option<String>,
    gateway: Option<String>,
    ranges: Vec<Vec<RawRange>>,
    routes: Vec<Route>,
    data_dir: String,
    resolv_conf: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawArgs {
    cni: RawCniArgs,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawCniArgs {
    ips: Vec<Asked>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RawRuntime {
    ip_ranges: Vec<Vec<RawRange>>,
    ips: Vec<Asked>,
}

/// An address that is asked for; a prefix length may follow, and is passed over.
struct Asked(IpAddr);

impl<'de> Deserialize<'de> for Asked {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        asked(&text).map(Self).ok_or_else(|| serde::de::Error::custom(format_args!("{text:?} is no IP address")))
    }
}

fn asked(text: &str) -> Option<IpAddr> {
    if text.contains('/') { parse_prefix(text).map(|net| net.ip()) } else { parse_address(text) }
}

pub fn parse(conf: &Map<String, Value>, args: &Args) -> Outcome<Config> {
    let raw: Raw = json::from_value(sections(conf)?).map_err(|e| invalid(e.to_string()))?;
    let name = json::get(conf, "name").and_then(Value::as_str).unwrap_or_default();
    let network: NetworkName = name.parse().map_err(|e| invalid(format!("{e}")))?;
    let requested = requested(args, &raw)?;
    let sets = sets(&raw)?;
    check_families(conf, sets.iter().map(RangeSet::is_ipv4))?;
    let some = |path: &str| (!path.is_empty()).then(|| PathBuf::from(path));
    Ok(Config {
        location: StoreLocation {
            data_dir: some(&raw.ipam.data_dir).unwrap_or_else(|| DEFAULT_DATA_DIR.into()),
            network,
        },
        sets,
        resolv_conf: some(&raw.ipam.resolv_conf),
        routes: raw.ipam.routes,
        requested,
    })
}

fn requested(args: &Args, raw: &Raw) -> Outcome<Vec<IpAddr>> {
    strict(args, &["IP"])?;
    let mut all = Vec::new();
    if let Some(text) = args.get("IP").filter(|text| !text.is_empty()) {
        all.push(asked(text).ok_or_else(|| invalid(format!("CNI_ARGS: IP is {text:?}, which is no IP address")))?);
    }
    for Asked(ip) in raw.args.cni.ips.iter().chain(&raw.runtime_config.ips) {
        if !all.contains(ip) {
            all.push(*ip);
        }
    }
    Ok(all)
}

/// The runtime's ranges come first, then the old style one, then `ranges`: the number of a set is part of the name of
/// a file in the store.
fn sets(raw: &Raw) -> Outcome<Vec<RangeSet>> {
    let ipam = &raw.ipam;
    let old = RawRange {
        subnet: ipam.subnet.clone(),
        range_start: ipam.range_start.clone(),
        range_end: ipam.range_end.clone(),
        gateway: ipam.gateway.clone(),
    };
    let old = old.subnet.is_some().then(|| vec![old]);
    let sets: Vec<RangeSet> = (raw.runtime_config.ip_ranges.iter())
        .chain(&old)
        .chain(&ipam.ranges)
        .enumerate()
        .map(|(i, set)| RangeSet::new(set).map_err(|why| invalid(format!("range set {i}: {why}"))))
        .collect::<Result<_, Failure>>()?;
    if sets.is_empty() {
        return Err(invalid("no address ranges are configured")
            .remedy("give \"ipam\" a list \"ranges\", like [[{\"subnet\": \"192.0.2.0/24\"}]]"));
    }
    for (i, a) in sets.iter().enumerate() {
        if let Some(j) = sets[i + 1..].iter().position(|b| a.overlaps(b)) {
            return Err(invalid(format!("range sets {i} ({a}) and {} overlap", i + j + 1)));
        }
    }
    Ok(sets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Code;
    use serde_json::json;

    fn read(conf: Value, args: &str) -> Outcome<Config> {
        let Value::Object(mut conf) = conf else { panic!("{conf} is no object") };
        conf.entry("name").or_insert(json!("testnet"));
        conf.entry("cniVersion").or_insert(json!("1.0.0"));
        parse(&conf, &Args::new(args))
    }

    fn v4() -> Value {
        json!({"ranges": [[{"subnet": "10.1.2.0/24"}]]})
    }

    fn sets(conf: Value) -> Vec<String> {
        read(conf, "").unwrap().sets.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn sets_have_their_order() {
        let conf = json!({
            "ipam": {"subnet": "10.2.0.0/24", "rangeStart": "10.2.0.5", "ranges": [[{"subnet": "10.3.0.0/24"}]]},
            "runtimeConfig": {"ipRanges": [[{"subnet": "10.1.0.0/24"}]]},
        });
        assert_eq!(sets(conf), ["10.1.0.1-10.1.0.254", "10.2.0.5-10.2.0.254", "10.3.0.1-10.3.0.254"]);
        assert_eq!(sets(json!({"IPAM": {"Ranges": [[{"SUBNET": "10.1.2.0/30"}]]}})), ["10.1.2.1-10.1.2.2"]);
        let ignored = json!({"ipam": {"gateway": "10.9.9.9", "ranges": [[{"subnet": "10.1.2.0/30"}]]}});
        assert_eq!(sets(ignored).len(), 1, "members of the old style mean nothing without its subnet");
    }

    #[test]
    fn store_and_files() {
        let config = read(json!({"ipam": v4()}), "").unwrap();
        assert_eq!(config.location.directory(), PathBuf::from("/var/lib/cni/networks/testnet"));
        assert_eq!(config.resolv_conf, None);
        let mut ipam = v4();
        ipam["dataDir"] = json!("/d");
        ipam["resolvConf"] = json!("/r");
        let config = read(json!({"ipam": ipam, "name": "Net_1.x-y"}), "").unwrap();
        assert_eq!(config.location.directory(), PathBuf::from("/d/Net_1.x-y"));
        assert_eq!(config.resolv_conf, Some("/r".into()));
    }

    #[test]
    fn addresses_are_asked_for_in_three_ways() {
        let conf = json!({
            "ipam": v4(),
            "args": {"cni": {"ips": ["10.1.2.89/24", "2001:db8::7/64"]}},
            "runtimeConfig": {"ips": ["::ffff:10.1.2.91", "10.1.2.88"], "other": {}},
        });
        let ips: Vec<String> = read(conf, "IgnoreUnknown=1;K8S=x;IP=10.1.2.88/28")
            .unwrap()
            .requested
            .iter()
            .map(|i| i.to_string())
            .collect();
        assert_eq!(ips, ["10.1.2.88", "10.1.2.89", "2001:db8::7", "10.1.2.91"]);
        assert!(read(json!({"ipam": v4()}), "IP=").unwrap().requested.is_empty());
    }

    #[test]
    fn mistakes_have_the_code_and_name_the_place() {
        let ranges = |sets: Value| json!({"ipam": {"ranges": sets}});
        for (conf, args, part) in [
            (json!({"ipam": null}), "", "no \"ipam\" section"),
            (json!({"ipam": {}}), "", "no address ranges"),
            (ranges(json!([[]])), "", "range set 0: it is empty"),
            (
                ranges(json!([[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.0.0/16"}]])),
                "",
                "0 (10.1.2.1-10.1.2.254) and 1",
            ),
            (ranges(json!([[{"subnet": 3}]])), "", "ipam.ranges[0][0].subnet"),
            (json!({"ipam": v4(), "runtimeConfig": {"ipRanges": [[{"subnet": "10.1.2.0/24"}]]}}), "", "overlap"),
            (json!({"ipam": v4(), "runtimeConfig": {"ips": ["nope"]}}), "", "runtimeConfig.ips[0]"),
            (json!({"ipam": v4(), "args": {"cni": {"ips": [""]}}}), "", "args.cni.ips[0]"),
            (json!({"ipam": v4()}), "IP=300.1.2.3", "CNI_ARGS: IP"),
            (json!({"ipam": v4()}), "FOO=1", "FOO"),
            (json!({"ipam": v4(), "name": "a/b"}), "", "a/b"),
            (
                json!({"ipam": {"ranges": [[{"subnet": "10.1.2.0/24"}]], "routes": [{"dst": "10.1.2.3"}]}}),
                "",
                "routes[0].dst",
            ),
        ] {
            let failure = read(conf.clone(), args).unwrap_err();
            assert_eq!(failure.code, Code::IpamConfig, "{conf}");
            assert!(failure.msg.contains(part), "{conf}: {}", failure.msg);
        }
    }

    #[test]
    fn old_versions_have_one_address_of_a_family() {
        let two = |second: &str| json!({"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": second}]]});
        for old in ["0.1.0", "0.2.0", ""] {
            assert!(read(json!({"ipam": two("10.2.0.0/24"), "cniVersion": old}), "").is_err());
            assert!(read(json!({"ipam": two("2001:db8::/64"), "cniVersion": old}), "").is_ok());
        }
        assert!(read(json!({"ipam": two("10.2.0.0/24"), "cniVersion": "0.3.0"}), "").is_ok());
    }
}
