//! `default-route`: the pod's default routes lead over the network that the pod names, and over no other.
//!
//! For each family with such a network its gateway is set, and default routes over other links are taken away, whoever
//! made them. A family that nobody asks for stays as it is. Multus means to do this, but in 4.3.0 the old route stays
//! and the new one is lost. Results follow, so that CHECK holds; who asks for `[]` keeps its own.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use nix::errno::Errno;

use crate::cni::{self, AddResult};
use crate::net::{Namespace, Netlink, Route};
use crate::types::{Code, Failure, IfName, Outcome};

const MAIN: u32 = 254;

/// What one network has to do with default routes.
#[derive(Debug, Clone)]
pub struct Party<'a> {
    pub ifname: &'a IfName,
    pub asked: Option<&'a [IpAddr]>,
    pub result: AddResult,
}

/// Who has the default route of a family: place in the list, gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub index: usize,
    pub gateway: IpAddr,
}

fn is_default(dst: &IpNetwork, v6: bool) -> bool {
    dst.prefix() == 0 && dst.is_ipv6() == v6
}

/// Pure. A gateway that is named comes before one that a network has itself.
pub fn owner(parties: &[Party<'_>], v6: bool) -> Option<Owner> {
    let named = |p: &Party<'_>| p.asked.and_then(|a| a.iter().copied().find(|ip| ip.is_ipv6() == v6));
    let own = |p: &Party<'_>| p.asked.filter(|a| a.is_empty()).and_then(|_| own_gateway(&p.result, v6));
    let find = |of: &dyn Fn(&Party<'_>) -> Option<IpAddr>| {
        parties.iter().enumerate().find_map(|(index, p)| of(p).map(|gateway| Owner { index, gateway }))
    };
    find(&named).or_else(|| find(&own))
}

/// A route without a gateway means that of an address.
fn own_gateway(result: &AddResult, v6: bool) -> Option<IpAddr> {
    let route = result.routes.iter().find(|r| is_default(&r.dst, v6))?;
    let of_address = || result.ips.iter().filter_map(|ip| ip.gateway).find(|g| g.is_ipv6() == v6);
    route.gw.or_else(of_address)
}

/// Pure: the results as they are afterwards.
pub fn follow(parties: &mut [Party<'_>], owner: Owner) {
    let v6 = owner.gateway.is_ipv6();
    for (index, party) in parties.iter_mut().enumerate() {
        if index == owner.index {
            party.result.routes.retain(|r| !is_default(&r.dst, v6) || r.gw.is_none_or(|gw| gw == owner.gateway));
            if !party.result.routes.iter().any(|r| is_default(&r.dst, v6)) {
                party.result.routes.push(cni::Route::new(default(v6), Some(owner.gateway)));
            }
        } else {
            party.result.routes.retain(|r| !is_default(&r.dst, v6));
        }
    }
}

fn default(v6: bool) -> IpNetwork {
    let ip: IpAddr = if v6 { std::net::Ipv6Addr::UNSPECIFIED.into() } else { std::net::Ipv4Addr::UNSPECIFIED.into() };
    IpNetwork::from(ip).with_prefix_zero()
}

trait PrefixZero {
    fn with_prefix_zero(self) -> Self;
}

impl PrefixZero for IpNetwork {
    /// 0 is a prefix of either family.
    fn with_prefix_zero(self) -> Self {
        Self::new(self.ip(), 0).unwrap_or(self)
    }
}

/// `true` if anything was asked, and the results have changed.
pub async fn settle(pod: &Namespace, parties: &mut [Party<'_>]) -> Outcome<bool> {
    let owners: Vec<Owner> = [false, true].into_iter().filter_map(|v6| owner(parties, v6)).collect();
    if owners.is_empty() {
        return Ok(false);
    }
    let links = pod.netlink()?;
    for owner in owners {
        lead(&links, parties[owner.index].ifname, owner.gateway).await?;
        follow(parties, owner);
    }
    Ok(true)
}

/// The old ones go first: IPv4 takes no second route of the same metric, and IPv6 would join the two. If the new one is
/// refused then, the pod as a whole is undone.
async fn lead(links: &Netlink, over: &IfName, gateway: IpAddr) -> Outcome<()> {
    let v6 = gateway.is_ipv6();
    let at = |f: Failure| f.at(format!("default-route {gateway} over {over}"));
    let link = links.link(over.as_str()).await.map_err(|e| at(e.into()))?;
    let Some(link) = link else {
        return Err(at(Failure::new(Code::Annotation, "the network has made no such interface")));
    };
    let wanted = Route { link: link.index, gateway: Some(gateway), ..blank(v6) };
    let is_wanted = |r: &Route| r.link == link.index && r.gateway == Some(gateway);
    let mut there = false;
    for route in links.routes(v6).await.map_err(|e| at(e.into()))? {
        if !is_default(&route.dst, v6) || route.table != Some(MAIN) {
            continue;
        }
        if is_wanted(&route) {
            there = true;
            continue;
        }
        match links.delete_route(&route).await {
            Err(e) if !e.gone() => return Err(at(e.into())),
            _ => {}
        }
    }
    if there {
        return Ok(());
    }
    match links.add_route(&wanted).await {
        Err(e) if e.is(Errno::ENETUNREACH) || e.is(Errno::EHOSTUNREACH) => Err(Failure::new(
            Code::Annotation,
            format!("default-route {gateway} over {over}: the gateway is on no network of that interface"),
        )
        .remedy("name a gateway out of the network's own range")),
        other => other.map_err(|e| at(e.into())),
    }
}

fn blank(v6: bool) -> Route {
    Route {
        dst: default(v6),
        gateway: None,
        link: 0,
        table: None,
        priority: None,
        scope: None,
        source: None,
        mtu: None,
        advmss: None,
        tos: 0,
        kernel: false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::net::NewAddress;
    use crate::net::testing::{Bench, block_on, name};

    fn result(v: Value) -> AddResult {
        AddResult::from_json(v).unwrap()
    }

    fn routed(gw: &str) -> AddResult {
        let dst = if gw.contains(':') { "::/0" } else { "0.0.0.0/0" };
        result(json!({"cniVersion": "1.0.0", "routes": [{"dst": dst, "gw": gw}, {"dst": "10.99.0.0/16"}]}))
    }

    fn gateways(text: &[&str]) -> Vec<IpAddr> {
        text.iter().map(|g| g.parse().unwrap()).collect()
    }

    #[test]
    fn who_has_it() {
        let (eth0, net1) = (name("eth0"), name("net1"));
        let of = |asked: Option<&[IpAddr]>, theirs: AddResult| {
            let parties = [
                Party { ifname: &eth0, asked: None, result: routed("10.20.0.1") },
                Party { ifname: &net1, asked, result: theirs },
            ];
            [false, true].map(|v6| owner(&parties, v6).map(|o| (o.index, o.gateway.to_string())))
        };
        let none = AddResult::default;
        assert_eq!(of(None, routed("10.21.0.1")), [None, None]);
        let both = gateways(&["fd00::1", "10.21.0.1"]);
        assert_eq!(of(Some(&both), none()), [Some((1, "10.21.0.1".into())), Some((1, "fd00::1".into()))]);
        assert_eq!(of(Some(&[]), routed("10.21.0.9")), [Some((1, "10.21.0.9".into())), None]);
        assert_eq!(of(Some(&[]), none()), [None, None]);
        let by_address = json!({"cniVersion": "1.0.0", "routes": [{"dst": "::/0"}],
            "ips": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}, {"address": "fd00::5/64", "gateway": "fd00::7"}]});
        assert_eq!(of(Some(&[]), result(by_address)), [None, Some((1, "fd00::7".into()))]);
    }

    #[test]
    fn results_follow_what_was_done() {
        let (eth0, net1) = (name("eth0"), name("net1"));
        let asked = gateways(&["10.21.0.1"]);
        let mut parties = [
            Party { ifname: &eth0, asked: None, result: routed("10.20.0.1") },
            Party { ifname: &net1, asked: Some(&asked), result: AddResult::default() },
        ];
        let owner = owner(&parties, false).unwrap();
        follow(&mut parties, owner);
        let routes = |p: &Party<'_>| p.result.routes.iter().map(|r| r.dst.to_string()).collect::<Vec<_>>();
        assert_eq!(routes(&parties[0]), ["10.99.0.0/16"]);
        assert_eq!(routes(&parties[1]), ["0.0.0.0/0"]);
        follow(&mut parties, owner);
        assert_eq!(parties[1].result.routes.len(), 1, "no second one");
    }

    async fn addressed(links: &Netlink, link: u32, net: &str) {
        let net = net.parse().unwrap();
        links
            .add_address(link, &NewAddress { net, broadcast: None, nodad: true, valid_seconds: None, routeless: false })
            .await
            .unwrap();
    }

    async fn defaults(links: &Netlink, v6: bool) -> Vec<(u32, String)> {
        let all = links.routes(v6).await.unwrap().into_iter().filter(|r| is_default(&r.dst, v6));
        all.map(|r| (r.link, r.gateway.unwrap().to_string())).collect()
    }

    #[test]
    fn the_kernels_default_route_moves() {
        block_on(async {
            let b = Bench::new();
            let old = b.pair().await.1.index;
            for net in ["10.1.0.2/24", "10.2.0.2/24", "2001:db8:1::2/64"] {
                addressed(&b.pod, old, net).await;
            }
            let before = [blank(false), blank(true)];
            for (route, gateway) in before.into_iter().zip(["10.1.0.1", "2001:db8:1::1"]) {
                let gateway = Some(gateway.parse().unwrap());
                b.pod.add_route(&Route { link: old, gateway, ..route }).await.unwrap();
            }
            // Both parties are one link here: what counts is that the other gateway's route goes.
            let ifname = name("pod0");
            let asked = gateways(&["10.2.0.1"]);
            let mut parties = [Party { ifname: &ifname, asked: Some(&asked), result: routed("10.1.0.1") }];
            assert!(settle(&b.pod_ns, &mut parties).await.unwrap());
            assert_eq!(defaults(&b.pod, false).await, [(old, "10.2.0.1".to_owned())]);
            assert_eq!(defaults(&b.pod, true).await.len(), 1, "nobody asked for the other family's");
            assert!(settle(&b.pod_ns, &mut parties).await.unwrap(), "a second time changes nothing");
            assert_eq!(defaults(&b.pod, false).await.len(), 1);
            let six = gateways(&["2001:db8:1::9"]);
            parties[0].asked = Some(&six);
            settle(&b.pod_ns, &mut parties).await.unwrap();
            assert_eq!(defaults(&b.pod, true).await, [(old, "2001:db8:1::9".to_owned())]);
        });
    }

    #[test]
    fn a_gateway_out_of_reach_and_a_link_that_is_not_there() {
        block_on(async {
            let b = Bench::new();
            let link = b.pair().await.1.index;
            addressed(&b.pod, link, "10.1.0.2/24").await;
            let asked = gateways(&["172.31.0.1"]);
            for (ifname, part) in [("pod0", "172.31.0.1 over pod0"), ("none0", "no such interface")] {
                let ifname = name(ifname);
                let mut parties = [Party { ifname: &ifname, asked: Some(&asked), result: AddResult::default() }];
                let failure = settle(&b.pod_ns, &mut parties).await.unwrap_err();
                assert!(failure.code == Code::Annotation && failure.msg.contains(part), "{failure}");
            }
            let ifname = name("pod0");
            let mut nothing = [Party { ifname: &ifname, asked: None, result: routed("10.1.0.1") }];
            assert!(!settle(&b.pod_ns, &mut nothing).await.unwrap());
        });
    }
}
