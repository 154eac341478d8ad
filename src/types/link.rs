//! Names and numbers of a network link.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text or a number is not one of this module's values; lower case, names the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLink {
    #[error("interface name {0:?} is empty, \".\" or \"..\"")]
    NameReserved(String),
    #[error("interface name {0:?} is longer than 15 bytes")]
    NameTooLong(String),
    #[error("interface name {0:?} has a blank, '/' or ':' in it")]
    NameCharacter(String),
    #[error("MAC address {0:?} is not six bytes like 02:00:5e:10:00:01")]
    MacSyntax(String),
    #[error("MAC address {0} is a multicast address or all zero")]
    MacNotUnicast(Mac),
    #[error("VLAN {0} is not within 1 to 4094")]
    Vlan(u32),
    #[error("MTU {0} is not within 68 to 65535")]
    Mtu(i64),
}

/// Name of a network interface: 1 to 15 bytes, no blank, no `/`, no `:`, neither `.` nor `..`
/// (`dev_valid_name` in Linux `net/core/dev.c`; `ValidateInterfaceName` of the CNI library).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IfName(String);

impl IfName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = InvalidLink;
    fn from_str(s: &str) -> Result<Self, InvalidLink> {
        if s.is_empty() || s == "." || s == ".." {
            return Err(InvalidLink::NameReserved(s.into()));
        }
        if s.len() > 15 {
            return Err(InvalidLink::NameTooLong(s.into()));
        }
        if s.chars().any(|c| c == '/' || c == ':' || c.is_whitespace()) {
            return Err(InvalidLink::NameCharacter(s.into()));
        }
        Ok(Self(s.into()))
    }
}

impl TryFrom<String> for IfName {
    type Error = InvalidLink;
    fn try_from(s: String) -> Result<Self, InvalidLink> {
        s.parse()
    }
}

impl From<IfName> for String {
    fn from(n: IfName) -> String {
        n.0
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Ethernet address of six bytes. Written in lower case with colons; read with `:`, `-` or in the dotted form
/// (`0a58.0a01.0203`) that Go's `net.ParseMAC` takes too.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    pub const fn new(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    pub fn bytes(self) -> [u8; 6] {
        self.0
    }

    /// The same address, refused where a link cannot have it (multicast bit set, or all zero: the kernel's
    /// `is_valid_ether_addr`).
    pub fn unicast(self) -> Result<Self, InvalidLink> {
        if self.0[0] & 1 == 1 || self.0 == [0; 6] { Err(InvalidLink::MacNotUnicast(self)) } else { Ok(self) }
    }

    /// Made out of any six bytes: locally administered, unicast.
    pub fn local(mut bytes: [u8; 6]) -> Self {
        bytes[0] = (bytes[0] | 0x02) & !0x01;
        Self(bytes)
    }

    /// For the host's end of a veth: first byte `fe`, so that a bridge, which takes its lowest port's address, never
    /// takes this one (as libvirt does for its taps).
    pub fn high(mut bytes: [u8; 6]) -> Self {
        bytes[0] = 0xfe;
        Self(bytes)
    }
}

impl FromStr for Mac {
    type Err = InvalidLink;
    fn from_str(s: &str) -> Result<Self, InvalidLink> {
        let bad = || InvalidLink::MacSyntax(s.into());
        let width = if s.contains('.') { 4 } else { 2 };
        let separator = match width {
            4 => '.',
            _ if s.contains('-') => '-',
            _ => ':',
        };
        let mut bytes = Vec::with_capacity(6);
        for group in s.split(separator) {
            if group.len() != width || !group.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(bad());
            }
            for pair in group.as_bytes().chunks(2) {
                let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
                bytes.push(u8::from_str_radix(pair, 16).map_err(|_| bad())?);
            }
        }
        Ok(Self(bytes.try_into().map_err(|_| bad())?))
    }
}

impl TryFrom<String> for Mac {
    type Error = InvalidLink;
    fn try_from(s: String) -> Result<Self, InvalidLink> {
        s.parse()
    }
}

impl From<Mac> for String {
    fn from(m: Mac) -> String {
        m.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// VLAN identifier, 1 to 4094 (IEEE 802.1Q: 0 and 4095 are reserved).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct VlanId(u16);

impl VlanId {
    /// Which the kernel gives each port of a bridge (`vlan_default_pvid`).
    pub const ONE: Self = Self(1);

    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u32> for VlanId {
    type Error = InvalidLink;
    fn try_from(v: u32) -> Result<Self, InvalidLink> {
        match u16::try_from(v) {
            Ok(id @ 1..=4094) => Ok(Self(id)),
            _ => Err(InvalidLink::Vlan(v)),
        }
    }
}

impl From<VlanId> for u32 {
    fn from(v: VlanId) -> u32 {
        v.0.into()
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// MTU of an Ethernet link in bytes, 68 to 65535 (`ETH_MIN_MTU` and `ETH_MAX_MTU` of Linux `if_ether.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Mtu(u32);

impl Mtu {
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<i64> for Mtu {
    type Error = InvalidLink;
    fn try_from(v: i64) -> Result<Self, InvalidLink> {
        match u32::try_from(v) {
            Ok(m @ 68..=65535) => Ok(Self(m)),
            _ => Err(InvalidLink::Mtu(v)),
        }
    }
}

impl From<Mtu> for i64 {
    fn from(m: Mtu) -> i64 {
        m.0.into()
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_are_the_kernels() {
        for good in ["eth0", "eth0.5-x@y", "abcdefghijklmno", "pod094a367b026"] {
            assert_eq!(good.parse::<IfName>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "abcdefghijklmnop", "a/b", "a:b", "a b", "a\tb"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn mac_forms() {
        let mac: Mac = "0A-58-0a-01-02-ab".parse().unwrap();
        assert_eq!(mac.to_string(), "0a:58:0a:01:02:ab");
        assert_eq!("0a58.0a01.02ab".parse::<Mac>().unwrap(), mac);
        for bad in ["", "zz", "0a:58:0a:01:02", "0a:58:0a:01:02:03:04:05", "0a58:0a01:02ab", "+a:58:0a:01:02:03"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?}");
        }
        assert!("01:00:5e:00:00:01".parse::<Mac>().unwrap().unicast().is_err());
        assert!("00:00:00:00:00:00".parse::<Mac>().unwrap().unicast().is_err());
        assert_eq!(Mac::local([0xff; 6]).bytes()[0], 0xfe);
        assert_eq!(Mac::local([0; 6]).bytes()[0], 0x02);
    }

    #[test]
    fn numbers_keep_their_ranges() {
        assert!(VlanId::try_from(0).is_err() && VlanId::try_from(4095).is_err());
        assert_eq!(VlanId::try_from(4094).unwrap().get(), 4094);
        assert!(Mtu::try_from(67).is_err() && Mtu::try_from(65536).is_err() && Mtu::try_from(-1).is_err());
    }
}
