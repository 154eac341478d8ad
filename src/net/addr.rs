//! Addresses of a link.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::Ask;
use super::{NetResult, Netlink};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Address and prefix length, host bits kept.
    pub net: IpNetwork,
    pub broadcast: Option<Ipv4Addr>,
    /// IPv6: duplicate address detection is not through yet.
    pub tentative: bool,
    pub dadfailed: bool,
    pub link_local: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct NewAddress {
    pub net: IpNetwork,
    pub broadcast: Option<Ipv4Addr>,
    /// IPv6: usable at once, and no frame is sent to ask whether somebody has it.
    pub nodad: bool,
    /// The kernel makes no route to its subnet.
    pub routeless: bool,
    /// None: for ever.
    pub valid_seconds: Option<u32>,
}

impl Netlink {
    pub async fn addresses(&self, index: u32) -> NetResult<Vec<Address>> {
        let mut query = AddressMessage::default();
        query.header.index = index;
        let ask = Ask::new("list addresses", format!("of link {index}"));
        let found = self.dump(ask, RouteNetlinkMessage::GetAddress(query)).await?;
        Ok(found.into_iter().filter_map(|m| address(m, index)).collect())
    }

    pub async fn add_address(&self, index: u32, a: &NewAddress) -> NetResult<()> {
        self.new_address("add address", index, a, NLM_F_CREATE | NLM_F_EXCL).await
    }

    /// As [`Netlink::add_address`], or gives the one that is there the time that is asked for, and changes nothing else.
    pub async fn set_address(&self, index: u32, a: &NewAddress) -> NetResult<()> {
        self.new_address("set address", index, a, NLM_F_CREATE | NLM_F_REPLACE).await
    }

    async fn new_address(&self, op: &'static str, index: u32, a: &NewAddress, flags: u16) -> NetResult<()> {
        let mut m = request(index, &a.net);
        m.attributes.extend(a.broadcast.map(AddressAttribute::Broadcast));
        if a.nodad {
            m.header.flags |= AddressHeaderFlags::Nodad;
        }
        if a.routeless {
            // No place in the header's byte; the attribute counts instead of that.
            let in_header = AddressFlags::from_bits_retain(m.header.flags.bits().into());
            m.attributes.push(AddressAttribute::Flags(in_header | AddressFlags::Noprefixroute));
        }
        if let Some(seconds) = a.valid_seconds {
            let mut times = CacheInfo::default();
            (times.ifa_valid, times.ifa_preferred) = (seconds, seconds);
            m.attributes.push(AddressAttribute::CacheInfo(times));
        }
        let ask = Ask::new(op, format!("{} to link {index}", a.net));
        self.change(ask, RouteNetlinkMessage::NewAddress(m), flags).await.map(drop)
    }

    pub async fn delete_address(&self, index: u32, a: &IpNetwork) -> NetResult<()> {
        let ask = Ask::new("delete address", format!("{a} of link {index}"));
        self.change(ask, RouteNetlinkMessage::DelAddress(request(index, a)), 0).await.map(drop)
    }
}

fn request(index: u32, net: &IpNetwork) -> AddressMessage {
    let mut m = AddressMessage::default();
    m.header.family = if net.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    m.header.prefix_len = net.prefix();
    m.header.index = index;
    // IPv4 wants both, and they differ only on point-to-point links; for IPv6 the first alone would do.
    m.attributes = vec![AddressAttribute::Address(net.ip()), AddressAttribute::Local(net.ip())];
    m
}

fn address(m: RouteNetlinkMessage, index: u32) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(m) = m else { return None };
    // Kernels before 4.20 list all links' addresses.
    if m.header.index != index {
        return None;
    }
    let (mut local, mut peer, mut broadcast) = (None, None, None);
    let mut flags = AddressFlags::from_bits_retain(m.header.flags.bits().into());
    for a in m.attributes {
        match a {
            AddressAttribute::Local(ip) => local = Some(ip),
            AddressAttribute::Address(ip) => peer = Some(ip),
            AddressAttribute::Broadcast(ip) => broadcast = Some(ip),
            AddressAttribute::Flags(f) => flags = f,
            _ => {}
        }
    }
    let ip = local.or(peer)?;
    Some(Address {
        net: IpNetwork::new(ip, m.header.prefix_len).ok()?,
        broadcast,
        tentative: flags.contains(AddressFlags::Tentative),
        dadfailed: flags.contains(AddressFlags::Dadfailed),
        link_local: match ip {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        },
    })
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;
    use crate::net::testing::{Bench, block_on};

    fn new(net: &str) -> NewAddress {
        NewAddress { net: net.parse().unwrap(), broadcast: None, nodad: true, routeless: false, valid_seconds: None }
    }

    async fn listed(net: &Netlink, index: u32, ip: &str) -> Option<Address> {
        let ip: IpAddr = ip.parse().unwrap();
        net.addresses(index).await.unwrap().into_iter().find(|a| a.net.ip() == ip)
    }

    #[test]
    fn addresses_come_back_as_they_were_added() {
        block_on(async {
            let b = Bench::new();
            let pod = b.pair().await.1.index;
            let broadcast = Some("10.1.2.255".parse().unwrap());
            b.pod.add_address(pod, &NewAddress { broadcast, ..new("10.1.2.3/24") }).await.unwrap();
            b.pod.add_address(pod, &NewAddress { valid_seconds: Some(60), ..new("10.9.0.1/32") }).await.unwrap();
            b.pod.add_address(pod, &new("2001:db8::5/64")).await.unwrap();
            let v4 = listed(&b.pod, pod, "10.1.2.3").await.unwrap();
            assert_eq!((v4.net.to_string().as_str(), v4.broadcast), ("10.1.2.3/24", broadcast));
            assert!(!v4.tentative && !v4.link_local);
            let v6 = listed(&b.pod, pod, "2001:db8::5").await.unwrap();
            assert_eq!(v6.net.to_string(), "2001:db8::5/64");
            assert!(!v6.tentative && !v6.dadfailed, "{v6:?}");
            assert!(listed(&b.pod, pod, "10.9.0.1").await.is_some());
            assert!(b.pod.addresses(pod).await.unwrap().iter().any(|a| a.link_local), "IPv6 makes one");
            let lo = b.pod.link("lo").await.unwrap().unwrap().index;
            assert_eq!(b.pod.addresses(lo).await.unwrap(), [], "another link's addresses do not count");
        });
    }

    #[test]
    fn an_address_without_a_route_to_its_subnet() {
        block_on(async {
            let b = Bench::new();
            let pod = b.pair().await.1.index;
            for (net, v6) in [("10.1.2.3/24", false), ("2001:db8::5/64", true)] {
                let subnet: IpNetwork = net.parse().unwrap();
                let routed = async || b.pod.routes(v6).await.unwrap().iter().any(|r| subnet.contains(r.dst.network()));
                b.pod.add_address(pod, &NewAddress { routeless: true, ..new(net) }).await.unwrap();
                let there = listed(&b.pod, pod, &subnet.ip().to_string()).await.unwrap();
                assert!(!there.tentative && there.net == subnet, "the other flags are kept: {there:?}");
                assert!(!routed().await, "{net}");
                b.pod.delete_address(pod, &subnet).await.unwrap();
                b.pod.add_address(pod, &new(net)).await.unwrap();
                assert!(routed().await, "{net}");
            }
        });
    }

    #[test]
    fn an_address_that_is_asked_about_is_tentative() {
        block_on(async {
            let b = Bench::new();
            let pod = b.pair().await.1.index;
            b.pod.add_address(pod, &NewAddress { nodad: false, ..new("2001:db8::6/64") }).await.unwrap();
            assert!(listed(&b.pod, pod, "2001:db8::6").await.unwrap().tentative);
        });
    }

    #[test]
    fn taken_gone_and_no_link_are_told_apart() {
        block_on(async {
            let b = Bench::new();
            let pod = b.pair().await.1.index;
            let a = new("10.1.2.3/24");
            b.pod.add_address(pod, &a).await.unwrap();
            let taken = b.pod.add_address(pod, &a).await.unwrap_err();
            assert!(taken.is(Errno::EEXIST) && taken.to_string().contains("10.1.2.3/24"), "{taken}");
            b.pod.delete_address(pod, &a.net).await.unwrap();
            assert!(listed(&b.pod, pod, "10.1.2.3").await.is_none());
            let gone = b.pod.delete_address(pod, &a.net).await.unwrap_err();
            assert!(gone.gone() && gone.is(Errno::EADDRNOTAVAIL), "{gone}");
            assert!(b.pod.add_address(99, &a).await.unwrap_err().is(Errno::ENODEV));
            assert!(b.pod.addresses(99).await.unwrap_err().gone());
        });
    }
}
