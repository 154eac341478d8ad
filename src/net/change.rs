//! Changing and deleting links, always by index: names change, and another link may have one by now.

use nix::errno::Errno;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoBridgePort, InfoPortData, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use super::netlink::Ask;
use super::{Namespace, NetError, NetResult, Netlink};
use crate::types::{IfName, Mac, Mtu};

/// What is None stays as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkChange<'a> {
    pub up: Option<bool>,
    pub mtu: Option<Mtu>,
    pub mac: Option<Mac>,
    pub name: Option<&'a IfName>,
    /// 0 takes the link out of its bridge.
    pub master: Option<u32>,
    /// Empty takes it away.
    pub alias: Option<&'a str>,
    pub promisc: Option<bool>,
    pub namespace: Option<&'a Namespace>,
    /// Of a bridge's port, like `isolated`.
    pub hairpin: Option<bool>,
    pub isolated: Option<bool>,
    pub arp: Option<bool>,
}

impl Netlink {
    /// One message, in which the kernel does namespace, MAC, MTU, name, alias, master and flags in this order;
    /// it undoes nothing when it refuses a later part.
    ///
    /// Port settings go first, or, if the link becomes a port by the same change, in a second message: they are about
    /// the bridge that the link is on already, and the kernel drops them without a word where it is on none.
    pub async fn set_link(&self, index: u32, change: &LinkChange<'_>) -> NetResult<()> {
        let ask = Ask::new("set link", format!("with index {index}"));
        let mut message = message(index, change);
        let Some(port) = port_settings(change) else {
            return self.change(ask, RouteNetlinkMessage::SetLink(message), 0).await.map(drop);
        };
        if change.master.is_some() {
            self.change(ask.clone(), RouteNetlinkMessage::SetLink(message), 0).await?;
            message = LinkMessage::default();
            message.header.index = index;
        }
        message.attributes.push(port);
        // RTM_SETLINK ignores port settings. Without NLM_F_CREATE, RTM_NEWLINK makes no link.
        self.change(ask, RouteNetlinkMessage::NewLink(message), 0).await.map(drop)
    }

    /// Waits until the kernel has let go of the link (10 to 30 ms). Of a veth pair, delete one end only.
    pub async fn delete_link(&self, index: u32) -> NetResult<()> {
        let ask = Ask::new("delete link", format!("with index {index}"));
        // Index 0 without a name or group is refused by the kernel, with EINVAL; ENODEV says what it means.
        if index == 0 {
            return Err(NetError::new(ask.op, ask.object, Errno::ENODEV));
        }
        let mut m = LinkMessage::default();
        m.header.index = index;
        self.change(ask, RouteNetlinkMessage::DelLink(m), 0).await.map(drop)
    }
}

fn message(index: u32, c: &LinkChange<'_>) -> LinkMessage {
    let mut m = LinkMessage::default();
    m.header.index = index;
    let mut flag = |flag: LinkFlags, on: Option<bool>| {
        if let Some(on) = on {
            m.header.change_mask |= flag;
            m.header.flags.set(flag, on);
        }
    };
    flag(LinkFlags::Up, c.up);
    flag(LinkFlags::Promisc, c.promisc);
    flag(LinkFlags::Noarp, c.arp.map(|on| !on));
    let a = &mut m.attributes;
    a.extend(c.mtu.map(|mtu| LinkAttribute::Mtu(mtu.get())));
    a.extend(c.mac.map(|mac| LinkAttribute::Address(mac.bytes().to_vec())));
    a.extend(c.name.map(|name| LinkAttribute::IfName(name.to_string())));
    a.extend(c.master.map(LinkAttribute::Controller));
    a.extend(c.alias.map(|alias| LinkAttribute::IfAlias(alias.into())));
    a.extend(c.namespace.map(|ns| LinkAttribute::NetNsFd(ns.raw_fd())));
    m
}

fn port_settings(c: &LinkChange<'_>) -> Option<LinkAttribute> {
    let mut port: Vec<_> = c.hairpin.map(InfoBridgePort::HairpinMode).into_iter().collect();
    port.extend(c.isolated.map(InfoBridgePort::Isolated));
    if port.is_empty() {
        return None;
    }
    let data = LinkInfo::PortData(InfoPortData::BridgePort(port));
    Some(LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(InfoPortKind::Bridge), data]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::PortState;
    use crate::net::link::Port;
    use crate::net::testing::{Bench, block_on, found, name, up};

    #[test]
    fn a_change_carries_all_it_is_asked_for() {
        block_on(async {
            let b = Bench::new();
            let (_, pod) = b.pair().await;
            let renamed = name("net1");
            let change = LinkChange {
                up: Some(false),
                mtu: Some(Mtu::try_from(1300).unwrap()),
                mac: Some("02:00:00:00:00:07".parse().unwrap()),
                name: Some(&renamed),
                alias: Some("default/vm lan"),
                promisc: Some(true),
                ..Default::default()
            };
            b.pod.set_link(pod.index, &change).await.unwrap();
            let after = found(&b.pod, "net1").await;
            assert_eq!((after.index, after.up, after.mtu, after.mac), (pod.index, false, 1300, change.mac));
            assert_eq!((after.alias.as_deref(), after.promisc), (Some("default/vm lan"), true));
            let back = LinkChange { alias: Some(""), promisc: Some(false), ..Default::default() };
            b.pod.set_link(pod.index, &back).await.unwrap();
            let after = found(&b.pod, "net1").await;
            assert_eq!((after.alias, after.promisc, after.mtu), (None, false, 1300));
        });
    }

    #[test]
    fn a_link_moves_to_another_namespace_under_another_name() {
        block_on(async {
            let b = Bench::new();
            let (host, _) = b.pair().await;
            let renamed = name("net1");
            let change = LinkChange { namespace: Some(&b.pod_ns), name: Some(&renamed), ..Default::default() };
            b.host.set_link(host.index, &change).await.unwrap();
            assert_eq!(b.host.link("host0").await.unwrap(), None);
            assert_eq!(found(&b.pod, "net1").await.mac, host.mac);
        });
    }

    #[test]
    fn port_settings_hold_on_a_port_and_on_a_link_that_becomes_one() {
        block_on(async {
            let b = Bench::new();
            let (host, _) = b.pair().await;
            b.host.create_bridge(&name("br0"), None, false).await.unwrap();
            up(&b.host, "br0").await;
            let bridge = found(&b.host, "br0").await.index;
            let port =
                |hairpin, isolated| Some(Port { state: PortState::Forwarding, hairpin, isolated, timer_seconds: 0 });
            let both =
                LinkChange { master: Some(bridge), hairpin: Some(true), isolated: Some(true), ..Default::default() };
            b.host.set_link(host.index, &both).await.unwrap();
            let after = found(&b.host, "host0").await;
            assert_eq!((after.master, after.port), (Some(bridge), port(true, true)));
            b.host.set_link(host.index, &LinkChange { hairpin: Some(false), ..Default::default() }).await.unwrap();
            assert_eq!(found(&b.host, "host0").await.port, port(false, true));
            b.host.set_link(host.index, &LinkChange { master: Some(0), ..Default::default() }).await.unwrap();
            let after = found(&b.host, "host0").await;
            assert_eq!((after.master, after.port), (None, None));
        });
    }

    #[test]
    fn arp_can_be_turned_off_and_on() {
        block_on(async {
            let b = Bench::new();
            let (_, pod) = b.pair().await;
            for on in [false, true] {
                b.pod.set_link(pod.index, &LinkChange { arp: Some(on), ..Default::default() }).await.unwrap();
                let mut query = LinkMessage::default();
                query.header.index = pod.index;
                let answer = b.pod.get(Ask::new("get", "flags"), RouteNetlinkMessage::GetLink(query)).await.unwrap();
                let RouteNetlinkMessage::NewLink(m) = answer else { panic!("{answer:?}") };
                assert_eq!(m.header.flags.contains(LinkFlags::Noarp), !on);
                assert!(m.header.flags.contains(LinkFlags::Up), "other flags stay");
            }
        });
    }

    #[test]
    fn what_is_gone_is_told_as_gone() {
        block_on(async {
            let b = Bench::new();
            let (host, _) = b.pair().await;
            b.host.delete_link(host.index).await.unwrap();
            assert_eq!(b.pod.link("pod0").await.unwrap(), None, "the other end goes with it");
            for index in [host.index, 99, 0] {
                let e = b.host.delete_link(index).await.unwrap_err();
                assert!(e.gone(), "{index}: {e}");
            }
            let down = LinkChange { up: Some(false), ..Default::default() };
            assert!(b.host.set_link(host.index, &down).await.unwrap_err().gone());
            assert!(b.host.set_link(host.index, &LinkChange { hairpin: Some(true), ..down }).await.unwrap_err().gone());
        });
    }
}
