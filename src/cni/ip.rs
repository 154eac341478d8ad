//! Addresses as Go's `net` reads them: an IPv4 address in IPv6 clothes is an IPv4 address.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::de::{Deserialize, Deserializer, Error};

/// `10.1.2.3` or `2001:db8::3`; no zone, no leading zeros.
pub fn parse_address(s: &str) -> Option<IpAddr> {
    s.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// `10.1.2.3/24`, host bits kept. Unlike `IpNetwork`'s own reading: the prefix length is needed, and is no mask.
pub fn parse_prefix(s: &str) -> Option<IpNetwork> {
    let (address, length) = s.split_once('/')?;
    let raw: IpAddr = address.parse().ok()?;
    if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let length: u8 = length.parse().ok().filter(|l| *l <= if raw.is_ipv4() { 32 } else { 128 })?;
    let ip = raw.to_canonical();
    // Go prints an IPv6 mask beside an IPv4 address by the mask's last four bytes.
    let length = if raw.is_ipv6() && ip.is_ipv4() { length.saturating_sub(96) } else { length };
    IpNetwork::new(ip, length).ok()
}

/// For `#[serde(deserialize_with)]` of an address with prefix length.
pub(super) fn prefix<'de, D: Deserializer<'de>>(d: D) -> Result<IpNetwork, D::Error> {
    let text = String::deserialize(d)?;
    parse_prefix(&text).ok_or_else(|| {
        D::Error::custom(format_args!(
            "{text:?} is no address with a prefix length like 192.0.2.1/24 or 2001:db8::1/64"
        ))
    })
}

/// For `#[serde(deserialize_with)]` of an address that may be missing or empty.
pub(super) fn address<'de, D: Deserializer<'de>>(d: D) -> Result<Option<IpAddr>, D::Error> {
    match Option::<String>::deserialize(d)? {
        Some(text) if !text.is_empty() => match parse_address(&text) {
            Some(ip) => Ok(Some(ip)),
            None => Err(D::Error::custom(format_args!("{text:?} is no IP address"))),
        },
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `types.ParseCIDR` of the reference library reads and prints, seen by running it.
    #[test]
    fn prefixes_are_read_as_in_go() {
        for (text, printed) in [
            ("10.1.2.3/24", "10.1.2.3/24"),
            ("10.1.2.3/024", "10.1.2.3/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8:0:0:1:0:0:1/64", "2001:db8::1:0:0:1/64"),
            ("1:2:3:4:5:6:7::/64", "1:2:3:4:5:6:7:0/64"),
            ("::1.2.3.4/96", "::102:304/96"),
            ("::ffff:10.10.0.7/120", "10.10.0.7/24"),
            ("::ffff:10.10.0.7/64", "10.10.0.7/0"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            assert_eq!(parse_prefix(text).map(|p| p.to_string()).as_deref(), Some(printed), "{text}");
        }
        for bad in [
            "",
            "10.1.2.3",
            "10.1.2.3/",
            "10.1.2.3/33",
            "10.1.2.3/+4",
            "10.1.2.3/-1",
            "10.1.2.3/255.255.255.0",
            "10.1.2.3/99999999999999999999",
            "10.1.2.3/24/24",
            " 10.1.2.3/24",
            "10.1.2.3/24 ",
            "10.1.2.03/24",
            "10.1.2/24",
            "::1/129",
            "fe80::1%eth0/64",
            "/24",
            "x/24",
        ] {
            assert_eq!(parse_prefix(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn addresses_are_read_as_in_go() {
        assert_eq!(parse_address("::ffff:10.10.0.7"), parse_address("10.10.0.7"));
        assert!(parse_address("10.10.0.7").is_some_and(|ip| ip.is_ipv4()));
        for bad in ["", "10.1.2.03", "fe80::1%eth0", "10.1.2.3/24", " ::1", "256.0.0.1"] {
            assert_eq!(parse_address(bad), None, "{bad:?}");
        }
    }
}
