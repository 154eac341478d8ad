//! Ranges of addresses and the order in which they are given away: pure, no file.
//!
//! A range set gives one address. It goes round: after the last one given away comes the next, so that an address that
//! was just freed is used again as late as possible.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use serde::Deserialize;

use crate::cni::{parse_address, parse_prefix};

/// A range as it is configured.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RawRange {
    pub subnet: Option<String>,
    pub range_start: Option<String>,
    pub range_end: Option<String>,
    pub gateway: Option<String>,
}

/// Part of a subnet that may be given away; the gateway is passed over, wherever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    subnet: IpNetwork,
    start: IpAddr,
    end: IpAddr,
    gateway: IpAddr,
}

/// One or more ranges of one family that do not overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSet(Vec<Range>);

impl Range {
    pub fn new(raw: &RawRange) -> Result<Self, String> {
        let subnet = subnet(raw.subnet.as_deref().unwrap_or_default())?;
        let first = next(subnet.network());
        let within = |key: &str, given: &Option<String>, default: IpAddr| match address(key, given)? {
            Some(ip) if subnet.contains(ip) => Ok(ip),
            Some(ip) => Err(format!("{key} {ip} is not in {subnet}")),
            None => Ok(default),
        };
        let start = within("rangeStart", &raw.range_start, first)?;
        let end = within("rangeEnd", &raw.range_end, last(&subnet))?;
        if start > end {
            return Err(format!("rangeEnd {end} is before the range's start {start}"));
        }
        Ok(Self { gateway: address("gateway", &raw.gateway)?.unwrap_or(first), subnet, start, end })
    }

    pub fn contains(&self, ip: IpAddr) -> bool {
        // Comparing across families would be an order of its own: IPv4 first.
        ip.is_ipv4() == self.start.is_ipv4() && self.start <= ip && ip <= self.end
    }

    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// An address of the range with the subnet's prefix length.
    pub fn with_prefix(&self, ip: IpAddr) -> IpNetwork {
        // Both of one family, so the length fits; were it not so, the address alone is still true.
        IpNetwork::new(ip, self.subnet.prefix()).unwrap_or(IpNetwork::from(ip))
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.start) || other.contains(self.start)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

fn subnet(text: &str) -> Result<IpNetwork, String> {
    if text.is_empty() {
        return Err("it has no \"subnet\"".into());
    }
    let net = parse_prefix(text)
        .filter(|net| net.is_ipv6() || !text.contains(':'))
        .ok_or_else(|| format!("subnet {text:?} is no network like 192.0.2.0/24 or 2001:db8::/64"))?;
    let bits = if net.is_ipv4() { 32 } else { 128 };
    if net.prefix() + 2 > bits {
        return Err(format!("subnet {net} is too small to give addresses from"));
    }
    if net.ip() != net.network() {
        return Err(format!("subnet {net} has host bits set; the network is {}/{}", net.network(), net.prefix()));
    }
    Ok(net)
}

fn address(key: &str, given: &Option<String>) -> Result<Option<IpAddr>, String> {
    match given.as_deref() {
        None | Some("") => Ok(None),
        Some(text) => match parse_address(text) {
            Some(ip) => Ok(Some(ip)),
            None => Err(format!("{key} {text:?} is no IP address")),
        },
    }
}

/// The address after this one; the highest of all comes round to the lowest.
fn next(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits().wrapping_add(1)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits().wrapping_add(1)).into(),
    }
}

/// The last address to give away: IPv4 leaves out the broadcast address.
fn last(subnet: &IpNetwork) -> IpAddr {
    match subnet {
        IpNetwork::V4(net) => Ipv4Addr::from_bits(net.broadcast().to_bits() - 1).into(),
        IpNetwork::V6(net) => net.broadcast().into(),
    }
}

impl RangeSet {
    pub fn new(raw: &[RawRange]) -> Result<Self, String> {
        let ranges: Vec<Range> = raw.iter().map(Range::new).collect::<Result<_, _>>()?;
        let Some(first) = ranges.first() else { return Err("it is empty".into()) };
        if ranges.iter().any(|r| r.start.is_ipv4() != first.start.is_ipv4()) {
            return Err("IPv4 and IPv6 are mixed".into());
        }
        for (i, a) in ranges.iter().enumerate() {
            if let Some(b) = ranges[i + 1..].iter().find(|b| a.overlaps(b)) {
                return Err(format!("{a} and {b} overlap"));
            }
        }
        Ok(Self(ranges))
    }

    pub fn is_ipv4(&self) -> bool {
        self.0.iter().all(|r| r.start.is_ipv4())
    }

    pub fn range_of(&self, ip: IpAddr) -> Option<&Range> {
        self.0.iter().find(|r| r.contains(ip))
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|a| other.0.iter().any(|b| a.overlaps(b)))
    }

    /// All addresses but the gateways, once each, beginning after the last one that was given away. One that is in no
    /// range (any more) counts as none.
    pub fn candidates(&self, last: Option<IpAddr>) -> Candidates<'_> {
        let at = last.and_then(|ip| Some((self.0.iter().position(|r| r.contains(ip))?, ip)));
        Candidates { ranges: &self.0, at, first: None }
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            write!(f, "{}{range}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

pub struct Candidates<'a> {
    ranges: &'a [Range],
    /// Range and address that came last.
    at: Option<(usize, IpAddr)>,
    /// Where it began: there it ends.
    first: Option<IpAddr>,
}

impl<'a> Iterator for Candidates<'a> {
    type Item = (IpAddr, &'a Range);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (index, ip) = match self.at {
                None => (0, self.ranges[0].start),
                Some((i, ip)) if ip == self.ranges[i].end => {
                    let following = (i + 1) % self.ranges.len();
                    (following, self.ranges[following].start)
                }
                Some((i, ip)) => (i, next(ip)),
            };
            if self.first == Some(ip) {
                return None;
            }
            self.first.get_or_insert(ip);
            self.at = Some((index, ip));
            let range = &self.ranges[index];
            if ip != range.gateway {
                return Some((ip, range));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(v: Value) -> Result<RangeSet, String> {
        let raw: Vec<RawRange> = serde_json::from_value(v).unwrap();
        RangeSet::new(&raw)
    }

    fn order(set: &RangeSet, last: &str) -> Vec<String> {
        set.candidates(last.parse().ok()).map(|(ip, _)| ip.to_string()).take(20).collect()
    }

    #[test]
    fn defaults_leave_out_network_broadcast_and_gateway() {
        let v4 = set(json!([{"subnet": "10.1.2.0/29"}])).unwrap();
        assert_eq!(order(&v4, ""), ["10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.5", "10.1.2.6"]);
        assert_eq!(v4.to_string(), "10.1.2.1-10.1.2.6");
        let v6 = set(json!([{"subnet": "2001:db8::/126"}])).unwrap();
        assert_eq!(order(&v6, ""), ["2001:db8::2", "2001:db8::3"]);
        assert_eq!(v6.range_of("2001:db8::3".parse().unwrap()).unwrap().gateway().to_string(), "2001:db8::1");
    }

    #[test]
    fn goes_round_from_the_last_one() {
        let s = set(json!([{"subnet": "10.1.2.0/29", "gateway": "10.1.2.4"}])).unwrap();
        assert_eq!(order(&s, "10.1.2.3"), ["10.1.2.5", "10.1.2.6", "10.1.2.1", "10.1.2.2", "10.1.2.3"]);
        assert_eq!(order(&s, "10.1.2.6"), ["10.1.2.1", "10.1.2.2", "10.1.2.3", "10.1.2.5", "10.1.2.6"]);
        assert_eq!(order(&s, "10.9.9.9"), order(&s, ""));
        assert_eq!(order(&s, "10.1.2.7"), order(&s, ""), "the broadcast address is in no range");
    }

    #[test]
    fn two_ranges_are_one_round() {
        let s = set(json!([
            {"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.10", "rangeEnd": "10.1.2.11"},
            {"subnet": "172.16.0.0/24", "rangeStart": "172.16.0.10", "rangeEnd": "172.16.0.12", "gateway": "172.16.0.11"},
        ]))
        .unwrap();
        assert_eq!(order(&s, "10.1.2.11"), ["172.16.0.10", "172.16.0.12", "10.1.2.10", "10.1.2.11"]);
        assert_eq!(s.to_string(), "10.1.2.10-10.1.2.11,172.16.0.10-172.16.0.12");
    }

    #[test]
    fn a_range_of_nothing_but_its_gateway_ends() {
        let only = json!([{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.1", "rangeEnd": "10.1.2.1"}]);
        assert!(order(&set(only.clone()).unwrap(), "").is_empty());
        assert!(order(&set(only).unwrap(), "10.1.2.1").is_empty());
    }

    #[test]
    fn carries_over_bytes_and_the_end_of_the_address_space() {
        let s = set(json!([{"subnet": "10.1.0.0/16", "rangeStart": "10.1.0.254", "rangeEnd": "10.1.1.1"}])).unwrap();
        assert_eq!(order(&s, ""), ["10.1.0.254", "10.1.0.255", "10.1.1.0", "10.1.1.1"]);
        let top = set(json!([{"subnet": "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126"}])).unwrap();
        assert_eq!(order(&top, "").len(), 2);
        let all = set(json!([{"subnet": "0.0.0.0/0"}])).unwrap();
        assert_eq!(order(&all, "255.255.255.253")[..2], ["255.255.255.254", "0.0.0.2"]);
    }

    #[test]
    fn mistakes_are_named() {
        for (raw, part) in [
            (json!([]), "empty"),
            (json!([{}]), "no \"subnet\""),
            (json!([{"rangeStart": "10.1.2.3"}]), "no \"subnet\""),
            (json!([{"subnet": "10.1.2.0"}]), "no network"),
            (json!([{"subnet": "10.1.2.3/24"}]), "host bits set; the network is 10.1.2.0/24"),
            (json!([{"subnet": "2001:db8::1/64"}]), "host bits"),
            (json!([{"subnet": "::ffff:10.1.2.0/120"}]), "no network"),
            (json!([{"subnet": "10.1.2.0/31"}]), "too small"),
            (json!([{"subnet": "10.1.2.0/32"}]), "too small"),
            (json!([{"subnet": "2001:db8::/127"}]), "too small"),
            (json!([{"subnet": "10.1.2.0/24", "rangeStart": "10.1.3.5"}]), "rangeStart 10.1.3.5 is not in"),
            (json!([{"subnet": "10.1.2.0/24", "rangeEnd": "2001:db8::5"}]), "rangeEnd 2001:db8::5 is not in"),
            (json!([{"subnet": "10.1.2.0/24", "rangeStart": "10.1.2.50", "rangeEnd": "10.1.2.40"}]), "before"),
            (json!([{"subnet": "10.1.2.0/24", "rangeStart": "x"}]), "rangeStart \"x\""),
            (json!([{"subnet": "10.1.2.0/24", "gateway": "x"}]), "gateway \"x\""),
            (json!([{"subnet": "10.1.2.0/24"}, {"subnet": "2001:db8::/64"}]), "mixed"),
            (json!([{"subnet": "10.1.2.0/24"}, {"subnet": "10.1.2.0/28"}]), "overlap"),
        ] {
            let error = set(raw.clone()).unwrap_err();
            assert!(error.contains(part), "{raw}: {error}");
        }
        assert!(set(json!([{"subnet": "10.1.2.0/24", "gateway": "10.9.9.9", "rangeStart": ""}])).is_ok());
    }
}
