//! Making links: each in one message, so that nothing half-made is left when the kernel refuses, nor at a kill -9.

use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoMacVlan, InfoVeth, LinkAttribute, LinkInfo, LinkMessage, MacVlanMode,
};

use super::link::new_link;
use super::netlink::Ask;
use super::{Link, LinkChange, MacvlanMode, Namespace, NetError, NetResult, Netlink};
use crate::types::{IfName, Mac, Mtu};

/// A pair: `name` here, `peer` in `peer_ns`.
#[derive(Debug, Clone, Copy)]
pub struct Veth<'a> {
    pub name: &'a IfName,
    pub mac: Option<Mac>,
    pub mtu: Option<Mtu>,
    pub master: Option<u32>,
    pub peer: &'a IfName,
    pub peer_mac: Option<Mac>,
    pub peer_mtu: Option<Mtu>,
    pub peer_ns: &'a Namespace,
}

/// `lower` is in the namespace of the socket, the new link in `namespace`.
#[derive(Debug, Clone, Copy)]
pub struct Macvlan<'a> {
    pub name: &'a IfName,
    pub lower: u32,
    pub mode: MacvlanMode,
    pub mac: Option<Mac>,
    pub mtu: Option<Mtu>,
    pub bc_queue_len: Option<u32>,
    pub namespace: &'a Namespace,
}

impl Netlink {
    /// Returns this namespace's end, with its peer's index. EEXIST: `name` is taken here, or `peer` in its namespace. Both ends
    /// are down afterwards: the kernel refuses to make a peer that is up (ENOTCONN).
    pub async fn create_veth(&self, v: &Veth<'_>) -> NetResult<Link> {
        let mut peer = LinkMessage::default();
        peer.attributes = vec![LinkAttribute::IfName(v.peer.to_string()), LinkAttribute::NetNsFd(v.peer_ns.raw_fd())];
        peer.attributes.extend(settings(v.peer_mac, v.peer_mtu));
        let mut m = LinkMessage::default();
        m.attributes = vec![LinkAttribute::IfName(v.name.to_string())];
        m.attributes.extend(settings(v.mac, v.mtu));
        m.attributes.extend(v.master.map(LinkAttribute::Controller));
        m.attributes.push(info(InfoKind::Veth, Some(InfoData::Veth(InfoVeth::Peer(peer)))));
        let ask = Ask::new("create veth", format!("{} with peer {}", v.name, v.peer));
        // Linux 6.2 echoes the new link; before, it has to be asked for.
        let echo = self.create(ask.clone(), m, NLM_F_ECHO).await?;
        let whole = |l: &Link| l.name == v.name.as_str() && l.lower.is_some();
        match echo.into_iter().filter_map(new_link).find(whole) {
            Some(link) => Ok(link),
            None => self.made(&ask, v.name).await,
        }
    }

    pub async fn create_macvlan(&self, m: &Macvlan<'_>) -> NetResult<()> {
        match self.new_macvlan(m, m.name).await {
            // Before Linux 6.15 the kernel looks for the name in the namespace of the socket, not of the new link:
            // a pod's `eth0` is refused because the node has one.
            Err(e) if e.is(Errno::EEXIST) && self.link(m.name.as_str()).await?.is_some() => {
                self.macvlan_by_detour(m).await
            }
            other => other,
        }
    }

    /// Made under a name that is nobody's, then renamed where it is.
    async fn macvlan_by_detour(&self, m: &Macvlan<'_>) -> NetResult<()> {
        let ask = Ask::new("create macvlan", m.name.as_str());
        let inside = m.namespace.netlink()?;
        if inside.link(m.name.as_str()).await?.is_some() {
            return Err(NetError::new(ask.op, ask.object, Errno::EEXIST));
        }
        let interim = interim_name(&ask)?;
        self.new_macvlan(m, &interim).await?;
        let index = inside.made(&ask, &interim).await?.index;
        let renamed = inside.set_link(index, &LinkChange { name: Some(m.name), ..Default::default() }).await;
        if renamed.is_err() {
            let _ = inside.delete_link(index).await;
        }
        renamed
    }

    async fn new_macvlan(&self, v: &Macvlan<'_>, name: &IfName) -> NetResult<()> {
        let mode = match v.mode {
            MacvlanMode::Private => MacVlanMode::Private,
            MacvlanMode::Vepa => MacVlanMode::Vepa,
            MacvlanMode::Bridge => MacVlanMode::Bridge,
            MacvlanMode::Passthru => MacVlanMode::Passthrough,
        };
        let mut data = vec![InfoMacVlan::Mode(mode)];
        data.extend(v.bc_queue_len.map(InfoMacVlan::BcQueueLen));
        let mut m = LinkMessage::default();
        m.attributes = vec![
            LinkAttribute::IfName(name.to_string()),
            LinkAttribute::Link(v.lower),
            LinkAttribute::NetNsFd(v.namespace.raw_fd()),
        ];
        m.attributes.extend(settings(v.mac, v.mtu));
        m.attributes.push(info(InfoKind::MacVlan, Some(InfoData::MacVlan(data))));
        let ask = Ask::new("create macvlan", format!("{name} on link {}", v.lower));
        self.create(ask, m, 0).await.map(drop)
    }

    pub async fn create_bridge(&self, name: &IfName, mtu: Option<Mtu>, vlan_filtering: bool) -> NetResult<()> {
        let mut m = LinkMessage::default();
        m.attributes = vec![LinkAttribute::IfName(name.to_string())];
        m.attributes.extend(settings(None, mtu));
        // Said only when wanted: a kernel without VLAN filtering refuses the attribute even where it says "off".
        let data = vlan_filtering.then(|| InfoData::Bridge(vec![InfoBridge::VlanFiltering(true)]));
        m.attributes.push(info(InfoKind::Bridge, data));
        self.create(Ask::new("create bridge", name.as_str()), m, 0).await.map(drop)
    }

    async fn create(&self, ask: Ask, m: LinkMessage, flags: u16) -> NetResult<Vec<RouteNetlinkMessage>> {
        // NLM_F_EXCL always: without it a link that has the name already would be changed instead.
        self.change(ask, RouteNetlinkMessage::NewLink(m), NLM_F_CREATE | NLM_F_EXCL | flags).await
    }

    async fn made(&self, ask: &Ask, name: &IfName) -> NetResult<Link> {
        self.link(name.as_str()).await?.ok_or_else(|| NetError::new(ask.op, ask.object.clone(), Errno::ENODEV))
    }
}

fn settings(mac: Option<Mac>, mtu: Option<Mtu>) -> impl Iterator<Item = LinkAttribute> {
    let mac = mac.map(|m| LinkAttribute::Address(m.bytes().to_vec()));
    let mtu = mtu.map(|m| LinkAttribute::Mtu(m.get()));
    mac.into_iter().chain(mtu)
}

fn info(kind: InfoKind, data: Option<InfoData>) -> LinkAttribute {
    let mut info = vec![LinkInfo::Kind(kind)];
    info.extend(data.map(LinkInfo::Data));
    LinkAttribute::LinkInfo(info)
}

fn interim_name(ask: &Ask) -> NetResult<IfName> {
    let random = getrandom::u32().map_err(|_| NetError::new(ask.op, ask.object.clone(), Errno::EIO))?;
    format!("trm{random:08x}").parse().map_err(|_| NetError::new(ask.op, ask.object.clone(), Errno::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::LinkKind;
    use crate::net::testing::{Bench, block_on, found, name, veth};

    fn mac(s: &str) -> Mac {
        s.parse().unwrap()
    }

    fn mtu(n: i64) -> Mtu {
        Mtu::try_from(n).unwrap()
    }

    async fn names(net: &Netlink) -> Vec<String> {
        net.links().await.unwrap().into_iter().map(|l| l.name).collect()
    }

    #[test]
    fn a_veth_is_made_whole_by_one_message() {
        block_on(async {
            let b = Bench::new();
            b.host.create_bridge(&name("br0"), Some(mtu(1400)), false).await.unwrap();
            let bridge = found(&b.host, "br0").await;
            assert_eq!(
                (&bridge.kind, bridge.mtu, bridge.up),
                (&LinkKind::Bridge { vlan_filtering: false }, 1400, false)
            );
            let (here, there) = (name("tr0123456789abc"), name("net1"));
            let v = Veth {
                mac: Some(mac("fe:00:00:00:00:01")),
                mtu: Some(mtu(1400)),
                master: Some(bridge.index),
                peer_mac: Some(mac("02:00:00:00:00:02")),
                peer_mtu: Some(mtu(1300)),
                ..veth(&here, &there, &b.pod_ns)
            };
            let made = b.host.create_veth(&v).await.unwrap();
            let here = found(&b.host, here.as_str()).await;
            let there = found(&b.pod, "net1").await;
            assert_eq!((here.index, here.mac, here.mtu), (made.index, v.mac, 1400));
            assert_eq!(made.lower, Some(there.index), "the kernel tells the peer at once");
            assert_eq!((there.mac, there.mtu), (v.peer_mac, 1300));
            assert_eq!((here.kind, here.master, here.lower), (LinkKind::Veth, Some(bridge.index), Some(there.index)));
            assert_eq!((there.kind, there.lower), (LinkKind::Veth, Some(here.index)));
            assert!(here.lower_nsid.is_some() && there.lower_nsid.is_some());
            // The pod's smaller MTU did not reach the bridge.
            assert_eq!(found(&b.host, "br0").await.mtu, 1400);
        });
    }

    #[test]
    fn a_veth_that_fails_leaves_nothing_at_either_end() {
        block_on(async {
            let b = Bench::new();
            b.pair().await;
            let (before_host, before_pod) = (names(&b.host).await, names(&b.pod).await);
            let (host0, pod0, new, other) = (name("host0"), name("pod0"), name("new0"), name("new1"));
            let no_bridge = found(&b.host, "lo").await.index;
            for (v, errno) in [
                (veth(&new, &pod0, &b.pod_ns), Errno::EEXIST),
                (veth(&host0, &other, &b.pod_ns), Errno::EEXIST),
                (Veth { master: Some(no_bridge), ..veth(&new, &other, &b.pod_ns) }, Errno::EOPNOTSUPP),
                (Veth { master: Some(99), ..veth(&new, &other, &b.pod_ns) }, Errno::EINVAL),
                (Veth { mac: Some(mac("01:00:5e:00:00:01")), ..veth(&new, &other, &b.pod_ns) }, Errno::EADDRNOTAVAIL),
                (
                    Veth { peer_mac: Some(mac("ff:ff:ff:ff:ff:ff")), ..veth(&new, &other, &b.pod_ns) },
                    Errno::EADDRNOTAVAIL,
                ),
            ] {
                let e = b.host.create_veth(&v).await.unwrap_err();
                assert!(e.is(errno), "{e}");
                assert_eq!(names(&b.host).await, before_host, "{e}");
                assert_eq!(names(&b.pod).await, before_pod, "{e}");
            }
        });
    }

    #[test]
    fn a_macvlan_is_made_in_the_pod_in_every_mode() {
        block_on(async {
            let b = Bench::new();
            let (lower, _) = b.pair().await;
            for (i, mode) in [MacvlanMode::Private, MacvlanMode::Vepa, MacvlanMode::Bridge].into_iter().enumerate() {
                let m = Macvlan {
                    name: &name(&format!("net{i}")),
                    lower: lower.index,
                    mode,
                    mac: Some(Mac::local([2, 0, 0, 0, 1, i as u8])),
                    mtu: Some(mtu(1400)),
                    bc_queue_len: Some(500),
                    namespace: &b.pod_ns,
                };
                b.host.create_macvlan(&m).await.unwrap();
                let link = found(&b.pod, m.name.as_str()).await;
                assert_eq!((link.kind, link.mac, link.mtu), (LinkKind::Macvlan { mode }, m.mac, 1400));
                assert_eq!((link.lower, link.lower_nsid.is_some(), link.up), (Some(lower.index), true, false));
                b.pod.delete_link(link.index).await.unwrap();
            }
            let passthru = Macvlan {
                name: &name("net9"),
                lower: lower.index,
                mode: MacvlanMode::Passthru,
                mac: None,
                mtu: None,
                bc_queue_len: None,
                namespace: &b.pod_ns,
            };
            b.host.create_macvlan(&passthru).await.unwrap();
            let link = found(&b.pod, "net9").await;
            assert_eq!(link.kind, LinkKind::Macvlan { mode: MacvlanMode::Passthru });
            assert_eq!(link.mac, lower.mac, "it has its lower link's address");
            assert_eq!(names(&b.host).await, ["lo", "host0"]);
        });
    }

    #[test]
    fn a_macvlan_may_have_a_name_that_the_host_has() {
        block_on(async {
            let b = Bench::new();
            let (lower, _) = b.pair().await;
            let host0 = name("host0");
            let mut m = Macvlan {
                name: &host0,
                lower: lower.index,
                mode: MacvlanMode::Bridge,
                mac: None,
                mtu: None,
                bc_queue_len: None,
                namespace: &b.pod_ns,
            };
            b.host.create_macvlan(&m).await.unwrap();
            let first = found(&b.pod, "host0").await;
            assert_eq!(found(&b.host, "host0").await, lower);
            // Taken in the pod: refused, whichever way it goes.
            assert!(b.host.create_macvlan(&m).await.unwrap_err().is(Errno::EEXIST));
            assert!(b.host.macvlan_by_detour(&m).await.unwrap_err().is(Errno::EEXIST));
            assert_eq!(found(&b.pod, "host0").await, first);
            // What kernels before 6.15 need.
            let net1 = name("net1");
            m.name = &net1;
            b.host.macvlan_by_detour(&m).await.unwrap();
            let mut there = names(&b.pod).await;
            there.sort();
            assert_eq!(there, ["host0", "lo", "net1", "pod0"]);
        });
    }

    #[test]
    fn a_bridge_that_is_there_is_not_changed() {
        block_on(async {
            let b = Bench::new();
            b.host.create_bridge(&name("br0"), Some(mtu(1400)), false).await.unwrap();
            let e = b.host.create_bridge(&name("br0"), Some(mtu(1300)), false).await.unwrap_err();
            assert!(e.is(Errno::EEXIST), "{e}");
            assert_eq!(found(&b.host, "br0").await.mtu, 1400);
        });
    }
}
