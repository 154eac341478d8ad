//! What a server gave, out of its ACK. Knows which values make sense; what does not is left out, so that one senseless
//! option costs nothing but itself, while a lease without a usable address or time is none.

use std::net::{IpAddr, Ipv4Addr};

use dhcproto::Decoder;
use ipnetwork::{IpNetwork, Ipv4Network};
use serde::{Deserialize, Serialize};

use super::message::Reply;
use super::options;
use crate::cni;

/// For a server that names no time, as the reference plugin has it.
const DEFAULT_SECONDS: u32 = 3600;
/// Below it no IPv4 link works (RFC 791).
const LEAST_MTU: u16 = 68;
/// RT_SCOPE_LINK.
const LINK: u8 = 253;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub address: Ipv4Addr,
    pub prefix: u8,
    /// Without the server's mask `prefix` is the one of the address' class; the reference plugin refuses such a lease.
    pub mask_given: bool,
    pub server: Ipv4Addr,
    /// Option 3, the first one best.
    pub routers: Vec<Ipv4Addr>,
    /// All routes, the default route too: option 121, else option 33 and the first router (RFC 3442).
    pub routes: Vec<Route>,
    pub dns: Vec<Ipv4Addr>,
    pub domain: Option<String>,
    pub search: Vec<String>,
    pub mtu: Option<u16>,
    pub hostname: Option<String>,
    /// From when the question was sent ([`super::Machine::asked`]); `u32::MAX` is for ever.
    pub seconds: u32,
    /// When the server is asked to renew, and when every server is; never after one another or `seconds`.
    pub t1: u32,
    pub t2: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub dst: Ipv4Network,
    /// None where the server writes 0.0.0.0: the destination is on the link.
    pub gw: Option<Ipv4Addr>,
}

impl Route {
    /// The reference writes a destination that is on the link with a gateway of zeros.
    fn told(&self) -> cni::Route {
        let gateway = IpAddr::V4(self.gw.unwrap_or(Ipv4Addr::UNSPECIFIED));
        let plain = cni::Route::new(IpNetwork::V4(self.dst), Some(gateway));
        cni::Route { scope: self.gw.is_none().then_some(LINK), ..plain }
    }
}

impl Lease {
    pub const FOR_EVER: u32 = u32::MAX;

    /// The same for so long from now, with the usual times in it.
    pub fn for_seconds(self, seconds: u32) -> Self {
        let (t1, t2) = times(seconds, None, None);
        Self { seconds, t1, t2, ..self }
    }

    /// What it says beside the address otherwise than the one before; for a person. A server that tells the same in another
    /// order each time has said nothing new.
    pub fn amends(&self, before: &Self) -> Option<String> {
        let list = |mut all: Vec<String>| {
            all.sort_unstable();
            if all.is_empty() { "none".into() } else { all.join(" and ") }
        };
        let route = |r: &Route| r.gw.map_or_else(|| r.dst.to_string(), |gw| format!("{} by {gw}", r.dst));
        let texts = |all: &[Ipv4Addr]| list(all.iter().map(ToString::to_string).collect());
        let of = |lease: &Self| {
            let names = lease.domain.iter().chain(&lease.search).cloned().collect();
            [
                ("routes", list(lease.routes.iter().map(route).collect())),
                ("DNS", texts(&lease.dns)),
                ("domains", list(names)),
                ("MTU", list(lease.mtu.iter().map(ToString::to_string).collect())),
            ]
        };
        let changed = |((what, now), (_, old)): (&(&str, String), &(&str, String))| {
            (now != old).then(|| format!("{what} {now} instead of {old}"))
        };
        let all: Vec<String> = of(self).iter().zip(&of(before)).filter_map(changed).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }

    /// With the subnet's prefix; `None` where the record was made by nobody in their senses.
    pub fn network(&self) -> Option<IpNetwork> {
        Ipv4Network::new(self.address, self.prefix).ok().map(IpNetwork::V4)
    }

    /// Its routes as a result tells them.
    pub fn as_routes(&self, priority: Option<u32>) -> Vec<cni::Route> {
        self.routes.iter().map(|r| cni::Route { priority, ..r.told() }).collect()
    }

    /// Says what is senseless where it is no lease.
    pub(super) fn of(reply: &Reply, server: Ipv4Addr) -> Result<Self, String> {
        let address = reply.address;
        if !is_host(address) {
            return Err(format!("{address} is no address of a host"));
        }
        let given = reply.option(options::SUBNET_MASK).and_then(mask);
        if let Some(prefix) = given.filter(|p| !is_within(address, *p)) {
            return Err(format!("{address}/{prefix} is an address of the whole network"));
        }
        let seconds = number(reply, options::LEASE_TIME).unwrap_or(DEFAULT_SECONDS);
        if seconds == 0 {
            return Err(format!("{address} is given for 0 seconds"));
        }
        let (t1, t2) = times(seconds, number(reply, options::T1), number(reply, options::T2));
        let routers = addresses(reply, options::ROUTERS);
        Ok(Self {
            address,
            prefix: given.unwrap_or_else(|| class(address)),
            mask_given: given.is_some(),
            server,
            routes: routes(reply, &routers),
            routers,
            dns: addresses(reply, options::DNS),
            domain: reply.option(options::DOMAIN).and_then(name),
            search: reply.option(options::SEARCH).map(search).unwrap_or_default(),
            mtu: reply.option(options::MTU).and_then(mtu),
            hostname: reply.option(options::HOST_NAME).and_then(name),
            seconds,
            t1,
            t2,
        })
    }
}

/// Whether a host can have the address: not 0/8 (RFC 1122: only a source while one has none), loopback, multicast,
/// class E, the limited broadcast.
pub(super) fn is_host(address: Ipv4Addr) -> bool {
    !matches!(address.octets()[0], 0 | 127 | 224..)
}

/// False for a network's own and its broadcast address, where it has these.
fn is_within(address: Ipv4Addr, prefix: u8) -> bool {
    let host = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
    let bits = u32::from(address) & host;
    prefix >= 31 || (bits != 0 && bits != host)
}

/// RFC 2131, 4.4.5: half and seven eighths of the time, unless the server says otherwise in an order that makes sense.
fn times(seconds: u32, t1: Option<u32>, t2: Option<u32>) -> (u32, u32) {
    if seconds == Lease::FOR_EVER {
        return (Lease::FOR_EVER, Lease::FOR_EVER);
    }
    let t2 = t2.filter(|t| (1..seconds).contains(t)).unwrap_or(seconds - seconds.div_ceil(8));
    let t1 = t1.filter(|t| (1..=t2).contains(t)).unwrap_or((seconds / 2).min(t2));
    (t1, t2)
}

fn number(reply: &Reply, code: u8) -> Option<u32> {
    Some(u32::from_be_bytes(reply.option(code)?.try_into().ok()?))
}

/// Ones, then zeros, and some of the former.
fn mask(bytes: &[u8]) -> Option<u8> {
    let bits = u32::from_be_bytes(bytes.try_into().ok()?);
    let prefix = u8::try_from(bits.leading_ones()).ok()?;
    (bits.leading_ones() + bits.trailing_zeros() == 32 && prefix > 0).then_some(prefix)
}

/// The prefix of an address' class (RFC 791), as the options without masks still have it.
fn class(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        ..128 => 8,
        128..192 => 16,
        192.. => 24,
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = Ipv4Addr> {
    bytes.as_chunks::<4>().0.iter().map(|octets| Ipv4Addr::from(*octets))
}

fn addresses(reply: &Reply, code: u8) -> Vec<Ipv4Addr> {
    words(reply.option(code).unwrap_or_default()).filter(|a| is_host(*a)).collect()
}

fn mtu(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.try_into().ok()?)).filter(|m| *m >= LEAST_MTU)
}

fn routes(reply: &Reply, routers: &[Ipv4Addr]) -> Vec<Route> {
    let classless = reply.option(options::CLASSLESS_ROUTES).and_then(classless).unwrap_or_default();
    if !classless.is_empty() {
        return classless;
    }
    let pairs: Vec<Ipv4Addr> = words(reply.option(options::STATIC_ROUTES).unwrap_or_default()).collect();
    let classful = pairs.as_chunks::<2>().0.iter().filter_map(|[dst, gw]| route(*dst, class(*dst), *gw));
    let default = routers.first().and_then(|gw| route(Ipv4Addr::UNSPECIFIED, 0, *gw));
    classful.chain(default).collect()
}

/// RFC 3442: width, the significant bytes of the destination, router. A list that cannot be split is none at all.
fn classless(mut rest: &[u8]) -> Option<Vec<Route>> {
    let mut found = Vec::new();
    while let Some((width, tail)) = rest.split_first() {
        let significant = usize::from(width.div_ceil(8));
        let (head, tail) = tail.split_at_checked(significant)?;
        let (gw, tail) = tail.split_first_chunk::<4>()?;
        let mut dst = [0; 4];
        dst.get_mut(..significant)?.copy_from_slice(head);
        found.extend(route(dst.into(), *width, (*gw).into()));
        rest = tail;
    }
    Some(found)
}

/// None for a route that nobody can want: to the pod's own loopback, or over what is no host.
fn route(dst: Ipv4Addr, prefix: u8, gw: Ipv4Addr) -> Option<Route> {
    let network = Ipv4Network::new(dst, prefix).ok()?;
    let dst = Ipv4Network::new(network.network(), prefix).ok()?;
    let possible = !dst.ip().is_loopback() && (gw.is_unspecified() || is_host(gw));
    possible.then_some(Route { dst, gw: Some(gw).filter(|g| !g.is_unspecified()) })
}

/// A name that may go into a resolver's file and a kernel's host name: some servers end it by a NUL, and what has a
/// line break or a blank in it is no name.
fn name(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end_matches('\0').trim_end_matches('.');
    let label = |l: &str| {
        let inner = l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        inner && (1..=63).contains(&l.len()) && !l.starts_with('-')
    };
    (text.len() <= 253 && text.split('.').all(label)).then(|| text.to_owned())
}

/// RFC 3397: names in DNS' form, with its pointers.
fn search(bytes: &[u8]) -> Vec<String> {
    let names = Decoder::new(bytes).read_domains(bytes.len()).unwrap_or_default();
    names.iter().filter_map(|n| name(n.to_ascii().as_bytes())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes_of(bytes: &[u8]) -> Option<Vec<String>> {
        let text = |r: &Route| format!("{} {}", r.dst, r.gw.map_or("link".into(), |g| g.to_string()));
        Some(classless(bytes)?.iter().map(text).collect())
    }

    /// The table of RFC 3442, and what a server may make of it.
    #[test]
    fn classless_routes() {
        let gw = [192, 0, 2, 9];
        for (descriptor, route) in [
            (&[0][..], "0.0.0.0/0"),
            (&[8, 10], "10.0.0.0/8"),
            (&[24, 10, 0, 0], "10.0.0.0/24"),
            (&[16, 10, 17], "10.17.0.0/16"),
            (&[25, 10, 229, 0, 128], "10.229.0.128/25"),
            (&[32, 10, 198, 122, 47], "10.198.122.47/32"),
            (&[20, 10, 17, 255], "10.17.240.0/20"),
        ] {
            assert_eq!(routes_of(&[descriptor, &gw].concat()).unwrap(), [format!("{route} 192.0.2.9")]);
        }
        assert_eq!(routes_of(&[24, 198, 51, 100, 0, 0, 0, 0]).unwrap(), ["198.51.100.0/24 link"]);
        for senseless in [&[8, 127, 192, 0, 2, 9][..], &[8, 10, 224, 0, 0, 1], &[8, 10, 127, 0, 0, 1]] {
            assert_eq!(routes_of(senseless).unwrap(), [""; 0]);
        }
        for malformed in [&[33, 1, 2, 3, 4, 5, 192, 0, 2, 9][..], &[255], &[8, 10, 192, 0, 2], &[0, 1, 2, 3]] {
            assert_eq!(routes_of(malformed), None, "{malformed:?}");
        }
    }

    #[test]
    fn masks_and_hosts() {
        for (bytes, prefix) in [
            ([255, 255, 255, 0], Some(24)),
            ([255; 4], Some(32)),
            ([128, 0, 0, 0], Some(1)),
            ([0; 4], None),
            ([255, 0, 255, 0], None),
            ([0, 255, 255, 255], None),
        ] {
            assert_eq!(mask(&bytes), prefix, "{bytes:?}");
        }
        assert_eq!(mask(&[255; 8]), None);
        let network: Ipv4Addr = [192, 0, 2, 0].into();
        assert!(!is_within(network, 24) && !is_within([192, 0, 2, 255].into(), 24) && is_within(network, 31));
        assert!(is_within(network, 16) && is_within([192, 0, 2, 255].into(), 32));
        for no in [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]] {
            assert!(!is_host(no.into()), "{no:?}");
        }
        assert!(is_host([169, 254, 1, 1].into()) && is_host([223, 255, 255, 254].into()));
        assert_eq!([[10, 0, 0, 1], [172, 16, 0, 1], [192, 0, 2, 1]].map(|a| class(a.into())), [8, 16, 24]);
    }

    #[test]
    fn times_in_an_order_that_makes_sense() {
        for (seconds, t1, t2, want) in [
            (600, None, None, (300, 525)),
            (1, None, None, (0, 0)),
            (2, None, None, (1, 1)),
            (600, Some(10), Some(20), (10, 20)),
            (600, Some(30), Some(20), (20, 20)),
            (600, Some(0), Some(0), (300, 525)),
            (600, Some(700), Some(800), (300, 525)),
            (600, Some(550), None, (300, 525)),
            (u32::MAX, Some(10), Some(20), (u32::MAX, u32::MAX)),
            (u32::MAX - 1, None, None, (0x7fff_ffff, 0xdfff_fffe)),
        ] {
            assert_eq!(times(seconds, t1, t2), want, "{seconds} {t1:?} {t2:?}");
        }
    }

    #[test]
    fn names() {
        for (bytes, want) in [
            (&b"factory.example"[..], Some("factory.example")),
            (b"a_b-c.example.\0", Some("a_b-c.example")),
            (b"", None),
            (b".", None),
            (b"two words", None),
            (b"evil\nnameserver 192.0.2.66", None),
            (b"a..b", None),
            (b"-rf", None),
            (b"caf\xc3\xa9", None),
            (&[b'a'; 64], None),
        ] {
            assert_eq!(name(bytes).as_deref(), want, "{bytes:?}");
        }
        // RFC 3397's own example, with a pointer; and a pointer to itself.
        let packed = b"\x03eng\x05apple\x03com\0\x09marketing\xc0\x04";
        assert_eq!(search(packed), ["eng.apple.com", "marketing.apple.com"]);
        assert_eq!(search(b"\xc0\0"), [""; 0]);
        assert_eq!(search(b"\x03a b\0\x01c\0"), ["c"]);
    }
}
