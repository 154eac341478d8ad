//! Unicast routes of all tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use rtnetlink::packet_core::NLM_F_CREATE;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop, RouteProtocol,
    RouteScope, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::Ask;
use super::{NetResult, Netlink};

/// A route over one link. One of several next hops (ECMP) is listed as a route of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Host bits do not count.
    pub dst: IpNetwork,
    pub gateway: Option<IpAddr>,
    pub link: u32,
    /// None: main, 254. Always Some in a list.
    pub table: Option<u32>,
    pub priority: Option<u32>,
    /// None: universe, 0. Always Some in a list.
    pub scope: Option<u8>,
    pub source: Option<IpAddr>,
    /// IPv4: for packets with exactly this type of service alone; 0 for all.
    pub tos: u8,
    pub mtu: Option<u32>,
    pub advmss: Option<u32>,
    /// The kernel made it, for an address. Only in lists.
    pub kernel: bool,
}

impl Netlink {
    pub async fn routes(&self, v6: bool) -> NetResult<Vec<Route>> {
        let mut query = RouteMessage::default();
        query.header.address_family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        query.header.kind = RouteType::Unicast;
        let ask = Ask::new("list", if v6 { "IPv6 routes" } else { "IPv4 routes" });
        let found = self.dump(ask, RouteNetlinkMessage::GetRoute(query)).await?;
        Ok(found.into_iter().flat_map(routes).collect())
    }

    /// NLM_F_CREATE alone: an IPv4 route that is there already (destination, table, priority) is EEXIST; an IPv6 one
    /// over another gateway joins it as a second next hop.
    pub async fn add_route(&self, r: &Route) -> NetResult<()> {
        let ask = Ask::new("add route", describe(r));
        let message = message(r, RouteProtocol::Boot, RouteScope::Universe);
        self.change(ask, RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE).await.map(drop)
    }

    pub async fn delete_route(&self, r: &Route) -> NetResult<()> {
        let ask = Ask::new("delete route", describe(r));
        // In a request to delete, these two match any.
        let message = message(r, RouteProtocol::Unspec, RouteScope::NoWhere);
        self.change(ask, RouteNetlinkMessage::DelRoute(message), 0).await.map(drop)
    }
}

fn describe(r: &Route) -> String {
    let via = r.gateway.map(|g| format!(" via {g}")).unwrap_or_default();
    format!("{}{via} over link {}", r.dst, r.link)
}

fn message(r: &Route, protocol: RouteProtocol, scope: RouteScope) -> RouteMessage {
    let mut m = RouteMessage::default();
    m.header.address_family = if r.dst.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    m.header.destination_prefix_length = r.dst.prefix();
    m.header.protocol = protocol;
    m.header.scope = r.scope.map_or(scope, RouteScope::from);
    m.header.kind = RouteType::Unicast;
    m.header.tos = r.tos;
    let a = &mut m.attributes;
    // The kernel refuses a destination with host bits.
    if r.dst.prefix() > 0 {
        a.push(RouteAttribute::Destination(r.dst.network().into()));
    }
    a.extend(r.gateway.map(|g| gateway(r.dst, g)));
    a.push(RouteAttribute::Oif(r.link));
    // The header's field has one byte; the attribute is for all numbers.
    a.push(RouteAttribute::Table(r.table.unwrap_or(RouteHeader::RT_TABLE_MAIN.into())));
    a.extend(r.priority.map(RouteAttribute::Priority));
    a.extend(r.source.map(|s| RouteAttribute::PrefSource(s.into())));
    let mut metrics: Vec<_> = r.mtu.map(RouteMetric::Mtu).into_iter().collect();
    metrics.extend(r.advmss.map(RouteMetric::Advmss));
    if !metrics.is_empty() {
        a.push(RouteAttribute::Metrics(metrics));
    }
    m
}

fn gateway(dst: IpNetwork, gateway: IpAddr) -> RouteAttribute {
    match gateway {
        // A gateway of the other family has an attribute of its own (Linux 5.2, IPv4 over an IPv6 gateway).
        IpAddr::V6(g) if dst.is_ipv4() => RouteAttribute::Via(RouteVia::Inet6(g)),
        same => RouteAttribute::Gateway(same.into()),
    }
}

fn routes(m: RouteNetlinkMessage) -> Vec<Route> {
    let RouteNetlinkMessage::NewRoute(m) = m else { return Vec::new() };
    if m.header.kind != RouteType::Unicast || m.header.flags.contains(RouteFlags::Cloned) {
        return Vec::new();
    }
    let any = match m.header.address_family {
        AddressFamily::Inet => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return Vec::new(),
    };
    let Ok(dst) = IpNetwork::new(any, m.header.destination_prefix_length) else { return Vec::new() };
    let mut route = Route {
        dst,
        gateway: None,
        link: 0,
        table: Some(m.header.table.into()),
        priority: None,
        scope: Some(m.header.scope.into()),
        source: None,
        tos: m.header.tos,
        mtu: None,
        advmss: None,
        kernel: m.header.protocol == RouteProtocol::Kernel,
    };
    let mut hops = Vec::new();
    for a in m.attributes {
        match a {
            RouteAttribute::MultiPath(h) => hops = h,
            other => read(&mut route, other),
        }
    }
    if hops.is_empty() {
        return vec![route];
    }
    let over = |hop: RouteNextHop| {
        let mut route = Route { link: hop.interface_index, ..route.clone() };
        hop.attributes.into_iter().for_each(|a| read(&mut route, a));
        route
    };
    hops.into_iter().map(over).collect()
}

fn read(route: &mut Route, a: RouteAttribute) {
    match a {
        RouteAttribute::Destination(d) => {
            if let Some(net) = ip(d).and_then(|ip| IpNetwork::new(ip, route.dst.prefix()).ok()) {
                route.dst = net;
            }
        }
        RouteAttribute::Gateway(g) => route.gateway = ip(g),
        RouteAttribute::Via(RouteVia::Inet6(g)) => route.gateway = Some(g.into()),
        RouteAttribute::Oif(index) => route.link = index,
        RouteAttribute::Table(table) => route.table = Some(table),
        RouteAttribute::Priority(p) => route.priority = Some(p),
        RouteAttribute::PrefSource(s) => route.source = ip(s),
        RouteAttribute::Metrics(metrics) => {
            for m in metrics {
                match m {
                    RouteMetric::Mtu(mtu) => route.mtu = Some(mtu),
                    RouteMetric::Advmss(mss) => route.advmss = Some(mss),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

fn ip(a: RouteAddress) -> Option<IpAddr> {
    match a {
        RouteAddress::Inet(ip) => Some(ip.into()),
        RouteAddress::Inet6(ip) => Some(ip.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;
    use crate::net::NewAddress;
    use crate::net::testing::{Bench, block_on};

    fn route(dst: &str, gateway: Option<&str>, link: u32) -> Route {
        Route {
            dst: dst.parse().unwrap(),
            gateway: gateway.map(|g| g.parse().unwrap()),
            link,
            table: None,
            priority: None,
            scope: None,
            source: None,
            tos: 0,
            mtu: None,
            advmss: None,
            kernel: false,
        }
    }

    /// A pod whose link has an address of each family; index of that link.
    async fn addressed(b: &Bench) -> u32 {
        let index = b.pair().await.1.index;
        for net in ["10.1.0.2/24", "2001:db8:1::2/64"] {
            let net = net.parse().unwrap();
            let a = NewAddress { net, broadcast: None, nodad: true, routeless: false, valid_seconds: None };
            b.pod.add_address(index, &a).await.unwrap();
        }
        index
    }

    async fn to(net: &Netlink, dst: &str) -> Vec<Route> {
        let dst: IpNetwork = dst.parse().unwrap();
        net.routes(dst.is_ipv6()).await.unwrap().into_iter().filter(|r| r.dst == dst).collect()
    }

    #[test]
    fn a_route_comes_back_with_all_it_was_given() {
        block_on(async {
            let b = Bench::new();
            let link = addressed(&b).await;
            let r = Route {
                table: Some(1000),
                priority: Some(50),
                scope: Some(0),
                source: Some("10.1.0.2".parse().unwrap()),
                tos: 0xf8,
                mtu: Some(1300),
                advmss: Some(1200),
                ..route("192.0.2.0/24", Some("10.1.0.1"), link)
            };
            b.pod.add_route(&r).await.unwrap();
            assert_eq!(to(&b.pod, "192.0.2.0/24").await, [r]);
            let direct = Route { scope: Some(253), ..route("198.51.100.0/24", None, link) };
            b.pod.add_route(&direct).await.unwrap();
            assert_eq!(to(&b.pod, "198.51.100.0/24").await, [Route { table: Some(254), ..direct }]);
            let kernels = to(&b.pod, "10.1.0.0/24").await;
            assert!(kernels.len() == 1 && kernels[0].kernel, "{kernels:?}");
        });
    }

    #[test]
    fn the_same_ipv4_route_is_refused_and_host_bits_do_not_count() {
        block_on(async {
            let b = Bench::new();
            let link = addressed(&b).await;
            let r = route("0.0.0.0/0", Some("10.1.0.1"), link);
            b.pod.add_route(&r).await.unwrap();
            assert!(b.pod.add_route(&r).await.unwrap_err().is(Errno::EEXIST));
            assert_eq!(to(&b.pod, "0.0.0.0/0").await.len(), 1);
            b.pod.add_route(&route("10.7.7.7/16", Some("10.1.0.1"), link)).await.unwrap();
            assert_eq!(to(&b.pod, "10.7.0.0/16").await.len(), 1);
        });
    }

    #[test]
    fn ipv6_routes_join_and_each_next_hop_is_listed() {
        block_on(async {
            let b = Bench::new();
            let link = addressed(&b).await;
            for gateway in ["2001:db8:1::1", "2001:db8:1::3"] {
                b.pod.add_route(&route("::/0", Some(gateway), link)).await.unwrap();
            }
            let hops = to(&b.pod, "::/0").await;
            let mut gateways: Vec<_> = hops.iter().filter_map(|r| r.gateway).map(|g| g.to_string()).collect();
            gateways.sort();
            assert_eq!(gateways, ["2001:db8:1::1", "2001:db8:1::3"]);
            assert!(hops.iter().all(|r| r.link == link));
        });
    }

    #[test]
    fn an_ipv4_route_may_go_over_an_ipv6_gateway() {
        block_on(async {
            let b = Bench::new();
            let link = addressed(&b).await;
            b.pod.add_route(&route("0.0.0.0/0", Some("2001:db8:1::1"), link)).await.unwrap();
            assert_eq!(to(&b.pod, "0.0.0.0/0").await[0].gateway, Some("2001:db8:1::1".parse().unwrap()));
        });
    }

    #[test]
    fn a_deleted_route_is_gone_and_the_kernels_words_arrive() {
        block_on(async {
            let b = Bench::new();
            let link = addressed(&b).await;
            let r = Route { table: Some(77), ..route("192.0.2.0/24", Some("10.1.0.1"), link) };
            b.pod.add_route(&r).await.unwrap();
            b.pod.delete_route(&r).await.unwrap();
            assert_eq!(to(&b.pod, "192.0.2.0/24").await, []);
            assert!(b.pod.delete_route(&r).await.unwrap_err().gone());
            let far = b.pod.add_route(&route("192.0.2.0/24", Some("203.0.113.1"), link)).await.unwrap_err();
            assert!(far.is(Errno::ENETUNREACH), "{far}");
            assert_eq!(far.kernel.as_deref(), Some("Nexthop has invalid gateway"));
            assert!(far.to_string().contains("192.0.2.0/24 via 203.0.113.1"), "{far}");
        });
    }
}
