//! What a client is given, in the form of options. Knows each option's form, and which values have none.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnetwork::Ipv4Network;
use serde::{Deserialize, Serialize};

use crate::ipam::dhcp::options::{
    BOOT_FILE, BROADCAST, CLASSLESS_ROUTES, DNS, DOMAIN, HOST_NAME, LEASE_TIME, MTU, NTP, ROUTERS, SEARCH, SUBNET_MASK,
    T1, T2, TFTP_SERVER,
};
use crate::ipam::dhcp::{Lease, Route};
use crate::types::Mac;

/// Options for a site's own use (RFC 3942) that KubeVirt lets people set.
const PRIVATE: std::ops::RangeInclusive<u8> = 224..=254;
/// Of the header's field, with the zero that ends it.
const FILE_FIELD: usize = 128;
const LONGEST: usize = 255;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gift {
    pub hardware: Mac,
    /// `server` is who answers, and `seconds`, `t1` and `t2` run from now.
    pub lease: Lease,
    pub options: DhcpOptions,
    /// Of the link to the client: no answer is larger.
    pub link_mtu: u16,
}

/// What a VirtualMachineInstance says under `dhcpOptions` of an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DhcpOptions {
    pub boot_file_name: Option<String>,
    /// A name or an address.
    pub tftp_server_name: Option<String>,
    pub ntp_servers: Vec<Ipv4Addr>,
    /// By number, 224 to 254.
    pub private: BTreeMap<u8, String>,
}

impl Gift {
    /// All that there is to give, none twice and none empty.
    pub fn values(&self) -> Vec<(u8, Vec<u8>)> {
        let l = &self.lease;
        let network = Ipv4Network::new(l.address, l.prefix).ok();
        let default = l.routes.iter().find(|r| r.dst.prefix() == 0).and_then(|r| r.gw);
        let routers: Vec<Ipv4Addr> =
            if l.routers.is_empty() { default.into_iter().collect() } else { l.routers.clone() };
        let broadcast = network.filter(|n| n.prefix() < 31).map(|n| n.broadcast());
        let number = |n: u32| n.to_be_bytes().to_vec();
        let text = |t: &Option<String>| t.clone().unwrap_or_default().into_bytes();
        let mut all = vec![
            (SUBNET_MASK, network.map_or_else(Vec::new, |n| addresses(&[n.mask()]))),
            (CLASSLESS_ROUTES, classless(&l.routes)),
            (ROUTERS, addresses(&routers)),
            (DNS, addresses(&l.dns)),
            (DOMAIN, text(&l.domain)),
            (SEARCH, search(&l.search)),
            (HOST_NAME, text(&l.hostname)),
            (MTU, l.mtu.map_or_else(Vec::new, |mtu| mtu.to_be_bytes().to_vec())),
            (BROADCAST, addresses(broadcast.as_slice())),
            (LEASE_TIME, number(l.seconds)),
            (T1, number(l.t1)),
            (T2, number(l.t2)),
        ];
        all.extend(self.options.values());
        all.retain(|(_, value)| !value.is_empty());
        all
    }
}

impl DhcpOptions {
    fn values(&self) -> Vec<(u8, Vec<u8>)> {
        let text = |t: &str| if t.len() <= LONGEST { t.as_bytes().to_vec() } else { Vec::new() };
        let named = [(TFTP_SERVER, &self.tftp_server_name), (BOOT_FILE, &self.boot_file_name)];
        let named = named.into_iter().map(|(code, value)| (code, text(value.as_deref().unwrap_or_default())));
        let private = self.private.iter().filter(|(code, _)| PRIVATE.contains(code));
        let private = private.map(|(code, value)| (*code, text(value)));
        named.chain([(NTP, addresses(&self.ntp_servers))]).chain(private).collect()
    }

    /// Those that have a value.
    pub fn codes(&self) -> impl Iterator<Item = u8> {
        self.values().into_iter().filter(|(_, value)| !value.is_empty()).map(|(code, _)| code)
    }

    /// `siaddr`: where the boot file is, for firmware that does not look at option 66.
    pub fn next_server(&self) -> Option<Ipv4Addr> {
        self.tftp_server_name.as_ref()?.parse().ok()
    }

    /// `file`: the same for the boot file's name, where it has place there.
    pub fn boot_file_field(&self) -> Option<&[u8]> {
        self.boot_file_name.as_ref().map(String::as_bytes).filter(|name| !name.is_empty() && name.len() < FILE_FIELD)
    }
}

fn addresses(all: &[Ipv4Addr]) -> Vec<u8> {
    all.iter().flat_map(Ipv4Addr::octets).collect()
}

/// RFC 3442. The default route is among them: who reads this option looks at no other one for a router.
fn classless(routes: &[Route]) -> Vec<u8> {
    let descriptor = |r: &Route| {
        let significant = usize::from(r.dst.prefix().div_ceil(8));
        let gw = r.gw.unwrap_or(Ipv4Addr::UNSPECIFIED);
        [&[r.dst.prefix()], &r.dst.network().octets()[..significant], &gw.octets()].concat()
    };
    routes.iter().flat_map(descriptor).collect()
}

/// RFC 3397, without its pointers.
fn search(names: &[String]) -> Vec<u8> {
    let label =
        |l: &str| u8::try_from(l.len()).ok().filter(|n| (1..=63).contains(n)).map(|n| [&[n], l.as_bytes()].concat());
    let name = |n: &String| {
        let labels = n.trim_end_matches('.').split('.').map(label).collect::<Option<Vec<_>>>()?;
        Some([labels.concat(), vec![0]].concat())
    };
    names.iter().filter_map(name).flatten().collect()
}
