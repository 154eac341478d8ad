//! Links as the kernel describes them, in plain values; and finding them by name, by index, all of them.
//!
//! Knows RTM_GETLINK and the attributes that matter to an attachment. Making and changing links is next door, in
//! `create` and `change`.

use std::fmt;
use std::str::FromStr;

use nix::errno::Errno;
use rtnetlink::packet_core::{DefaultNla, Nla};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    BridgePortState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoMacVlan, InfoPortData, InfoTun, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};

use super::netlink::{Ask, u32_at};
use super::{Namespace, NetResult, Netlink};
use crate::types::Mac;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// None where the hardware address is not one of six bytes (tun, tunnels, InfiniBand).
    pub mac: Option<Mac>,
    pub mtu: u32,
    /// Set up by an administrator (IFF_UP).
    pub up: bool,
    /// Has a carrier (IFF_LOWER_UP).
    pub lower_up: bool,
    /// Asked for by an administrator; packet sockets and bridges that listen to the link do not count.
    pub promisc: bool,
    pub kind: LinkKind,
    pub master: Option<u32>,
    /// IFLA_LINK: index of a veth's peer or of a macvlan's lower link, in the namespace of `lower_nsid`.
    pub lower: Option<u32>,
    /// None: the lower link is in the same namespace.
    pub lower_nsid: Option<i32>,
    pub alias: Option<String>,
    /// Of a bridge's port.
    pub port: Option<Port>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// No kind: a driver's own device, or the loopback.
    Hardware,
    Bridge {
        vlan_filtering: bool,
    },
    Veth,
    Macvlan {
        mode: MacvlanMode,
    },
    Ipvlan,
    Tun {
        owner: Option<u32>,
        group: Option<u32>,
        tap: bool,
        persist: bool,
        multi_queue: bool,
    },
    Dummy,
    Vlan,
    Other(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacvlanMode {
    Private,
    Vepa,
    Bridge,
    Passthru,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("macvlan mode {0:?} is none of bridge, private, vepa, passthru")]
pub struct UnknownMacvlanMode(String);

impl FromStr for MacvlanMode {
    type Err = UnknownMacvlanMode;
    fn from_str(s: &str) -> Result<Self, UnknownMacvlanMode> {
        match s {
            "private" => Ok(Self::Private),
            "vepa" => Ok(Self::Vepa),
            "bridge" => Ok(Self::Bridge),
            "passthru" => Ok(Self::Passthru),
            _ => Err(UnknownMacvlanMode(s.into())),
        }
    }
}

impl fmt::Display for MacvlanMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Private => "private",
            Self::Vepa => "vepa",
            Self::Bridge => "bridge",
            Self::Passthru => "passthru",
        })
    }
}

/// Of a bridge's port, as STP has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortState {
    Disabled,
    Listening,
    Learning,
    Forwarding,
    Blocking,
}

impl fmt::Display for PortState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disabled => "disabled",
            Self::Listening => "listening",
            Self::Learning => "learning",
            Self::Forwarding => "forwarding",
            Self::Blocking => "blocking",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    pub state: PortState,
    pub hairpin: bool,
    pub isolated: bool,
    /// Spanning tree: whole seconds until the next state.
    pub timer_seconds: u64,
}

impl Netlink {
    pub async fn link(&self, name: &str) -> NetResult<Option<Link>> {
        // The kernel would refuse a longer name with ERANGE; no link can have it.
        if name.is_empty() || name.len() > 15 {
            return Ok(None);
        }
        let mut query = query();
        query.attributes.push(LinkAttribute::IfName(name.into()));
        self.one_link(Ask::new("get link", name), query).await
    }

    /// By its name or another one of its, which may be longer. As far as the first NUL byte, as the kernel reads it.
    pub async fn link_by_any_name(&self, name: &str) -> NetResult<Option<Link>> {
        const ALT_IFNAME: u16 = 53;
        const LONGEST: usize = 127;
        if name.len() <= 15 || name.len() > LONGEST {
            return self.link(name).await;
        }
        let mut query = query();
        let text = name.bytes().chain([0]).collect();
        query.attributes.push(LinkAttribute::Other(DefaultNla::new(ALT_IFNAME, text)));
        match self.one_link(Ask::new("get link", name), query).await {
            // A kernel before 5.5 knows no other names, and takes this for no name at all.
            Err(e) if e.is(Errno::EINVAL) => Ok(None),
            found => found,
        }
    }

    pub async fn link_at(&self, index: u32) -> NetResult<Option<Link>> {
        // Index 0 is no link; with a query for it the kernel would look for a name.
        if index == 0 {
            return Ok(None);
        }
        let mut query = query();
        query.header.index = index;
        self.one_link(Ask::new("get link", format!("with index {index}")), query).await
    }

    async fn one_link(&self, ask: Ask, query: LinkMessage) -> NetResult<Option<Link>> {
        match self.get(ask, RouteNetlinkMessage::GetLink(query)).await {
            Ok(RouteNetlinkMessage::NewLink(m)) => Ok(Some(Link::from(m))),
            Ok(_) => Ok(None),
            Err(e) if e.is(Errno::ENODEV) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The number that a namespace has here, as in [`Link::lower_nsid`]; None: it has none yet.
    pub async fn nsid_of(&self, other: &Namespace) -> NetResult<Option<i32>> {
        let mut query = NsidMessage::default();
        query.attributes.push(NsidAttribute::Fd(other.raw_fd().cast_unsigned()));
        let RouteNetlinkMessage::NewNsId(answer) =
            self.get(Ask::new("get number of", "namespace"), RouteNetlinkMessage::GetNsId(query)).await?
        else {
            return Ok(None);
        };
        let id = |a| if let NsidAttribute::Id(id) = a { Some(id) } else { None };
        Ok(answer.attributes.into_iter().find_map(id).filter(|id| *id >= 0))
    }

    pub async fn links(&self) -> NetResult<Vec<Link>> {
        self.dump_as(Ask::new("list", "links"), RouteNetlinkMessage::GetLink(query()), new_link).await
    }
}

pub(super) fn new_link(m: RouteNetlinkMessage) -> Option<Link> {
    match m {
        RouteNetlinkMessage::NewLink(m) => Some(Link::from(m)),
        _ => None,
    }
}

/// Without the statistics, which are most of an answer.
fn query() -> LinkMessage {
    let mut m = LinkMessage::default();
    m.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    m
}

impl From<LinkMessage> for Link {
    fn from(m: LinkMessage) -> Self {
        let flag = |f| m.header.flags.contains(f);
        let mut link = Link {
            index: m.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            up: flag(LinkFlags::Up),
            lower_up: flag(LinkFlags::LowerUp),
            promisc: flag(LinkFlags::Promisc),
            kind: LinkKind::Hardware,
            master: None,
            lower: None,
            lower_nsid: None,
            alias: None,
            port: None,
        };
        for a in m.attributes {
            match a {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(a) => link.mac = <[u8; 6]>::try_from(a).ok().map(Mac::new),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Controller(index) => link.master = Some(index).filter(|i| *i != 0),
                LinkAttribute::Link(index) => link.lower = Some(index).filter(|i| *i != 0),
                LinkAttribute::LinkNetNsId(id) => link.lower_nsid = Some(id),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::LinkInfo(info) => (link.kind, link.port) = kind_and_port(info),
                _ => {}
            }
        }
        link
    }
}

fn kind_and_port(info: Vec<LinkInfo>) -> (LinkKind, Option<Port>) {
    let (mut kind, mut data, mut port) = (None, None, None);
    for i in info {
        match i {
            LinkInfo::Kind(k) => kind = Some(k),
            LinkInfo::Data(d) => data = Some(d),
            LinkInfo::PortData(InfoPortData::BridgePort(p)) => port = Some(bridge_port(&p)),
            _ => {}
        }
    }
    let kind = match (kind, data) {
        (None, _) => LinkKind::Hardware,
        (Some(InfoKind::Veth), _) => LinkKind::Veth,
        (Some(InfoKind::IpVlan), _) => LinkKind::Ipvlan,
        (Some(InfoKind::Dummy), _) => LinkKind::Dummy,
        (Some(InfoKind::Vlan), _) => LinkKind::Vlan,
        (Some(InfoKind::Bridge), data) => LinkKind::Bridge {
            vlan_filtering: matches!(data, Some(InfoData::Bridge(b)) if b.contains(&InfoBridge::VlanFiltering(true))),
        },
        (Some(InfoKind::MacVlan), Some(InfoData::MacVlan(m))) => macvlan(&m),
        (Some(InfoKind::Tun), Some(InfoData::Tun(t))) => tun(&t),
        (Some(other), _) => LinkKind::Other(other.to_string()),
    };
    (kind, port)
}

fn macvlan(data: &[InfoMacVlan]) -> LinkKind {
    let mode = data.iter().find_map(|d| match d {
        InfoMacVlan::Mode(MacVlanMode::Private) => Some(MacvlanMode::Private),
        InfoMacVlan::Mode(MacVlanMode::Vepa) => Some(MacvlanMode::Vepa),
        InfoMacVlan::Mode(MacVlanMode::Bridge) => Some(MacvlanMode::Bridge),
        InfoMacVlan::Mode(MacVlanMode::Passthrough) => Some(MacvlanMode::Passthru),
        _ => None,
    });
    // "source", the fifth mode, is nobody's configuration here.
    mode.map_or_else(|| LinkKind::Other("macvlan".into()), |mode| LinkKind::Macvlan { mode })
}

/// Attributes `IFLA_TUN_*` (Linux 4.20); the packet library hands them on as bytes.
fn tun(data: &[InfoTun]) -> LinkKind {
    let (mut owner, mut group, mut tap, mut persist, mut multi_queue) = (None, None, false, false, false);
    for d in data {
        let mut value = vec![0; d.value_len()];
        d.emit_value(&mut value);
        let byte = value.first().copied().unwrap_or_default();
        match d.kind() {
            1 => owner = u32_at(&value, 0),
            2 => group = u32_at(&value, 0),
            3 => tap = i32::from(byte) == nix::libc::IFF_TAP,
            6 => persist = byte != 0,
            7 => multi_queue = byte != 0,
            _ => {}
        }
    }
    LinkKind::Tun { owner, group, tap, persist, multi_queue }
}

fn bridge_port(data: &[InfoBridgePort]) -> Port {
    let mut port = Port { state: PortState::Disabled, hairpin: false, isolated: false, timer_seconds: 0 };
    for d in data {
        match d {
            InfoBridgePort::State(s) => port.state = port_state(*s),
            InfoBridgePort::HairpinMode(on) => port.hairpin = *on,
            InfoBridgePort::Isolated(on) => port.isolated = *on,
            // In hundredths of a second (USER_HZ).
            InfoBridgePort::ForwardDelayTimer(ticks) => port.timer_seconds = ticks.div_ceil(100),
            _ => {}
        }
    }
    // Without spanning tree the timer stands at the delay for ever.
    if !matches!(port.state, PortState::Listening | PortState::Learning) {
        port.timer_seconds = 0;
    }
    port
}

fn port_state(s: BridgePortState) -> PortState {
    match s {
        BridgePortState::Listening => PortState::Listening,
        BridgePortState::Learning => PortState::Learning,
        BridgePortState::Forwarding => PortState::Forwarding,
        BridgePortState::Blocking => PortState::Blocking,
        _ => PortState::Disabled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::LinkChange;
    use crate::net::testing::{Bench, Frames, block_on, found, fresh, name, veth};

    #[test]
    fn links_are_found_by_name_and_by_index_and_else_not() {
        block_on(async {
            let b = Bench::new();
            let (host, pod) = b.pair().await;
            assert_eq!(b.host.link_at(host.index).await.unwrap(), Some(host.clone()));
            assert!(host.up && host.lower_up && pod.up);
            for nothing in ["", "nobody", "a-name-that-is-too-long"] {
                assert_eq!(b.host.link(nothing).await.unwrap(), None, "{nothing:?}");
            }
            for nothing in [0, 99] {
                assert_eq!(b.host.link_at(nothing).await.unwrap(), None, "{nothing}");
            }
            let lo = found(&b.host, "lo").await;
            assert_eq!((&lo.kind, lo.master, lo.lower, lo.port), (&LinkKind::Hardware, None, None, None));
            let mut names: Vec<_> = b.host.links().await.unwrap().into_iter().map(|l| l.name).collect();
            names.sort();
            assert_eq!(names, ["host0", "lo"]);
        });
    }

    #[test]
    fn a_carrier_needs_both_ends() {
        block_on(async {
            let b = Bench::new();
            let (_, pod) = b.pair().await;
            b.pod.set_link(pod.index, &LinkChange { up: Some(false), ..Default::default() }).await.unwrap();
            let host = found(&b.host, "host0").await;
            assert!(host.up && !host.lower_up);
        });
    }

    #[test]
    fn promisc_is_what_was_set_and_not_who_listens() {
        block_on(async {
            let b = Bench::new();
            let (host, _) = b.pair().await;
            b.host.create_bridge(&name("br0"), None, false).await.unwrap();
            let bridge = found(&b.host, "br0").await.index;
            // A port is put into promiscuous mode by its bridge, without the flag.
            b.host.set_link(host.index, &LinkChange { master: Some(bridge), ..Default::default() }).await.unwrap();
            let _listener = b.host_ns.enter(|| Frames::on_link(host.index)).unwrap();
            assert!(!found(&b.host, "host0").await.promisc);
            b.host.set_link(bridge, &LinkChange { promisc: Some(true), ..Default::default() }).await.unwrap();
            assert!(found(&b.host, "br0").await.promisc);
        });
    }

    #[test]
    fn lists_of_many_links_are_whole_while_others_come_and_go() {
        let (ns, far) = (fresh(), fresh());
        block_on(async {
            let net = ns.netlink().unwrap();
            for i in 0..100 {
                let (here, there) = (name(&format!("h{i}")), name(&format!("p{i}")));
                net.create_veth(&veth(&here, &there, &far)).await.unwrap();
            }
        });
        let coming_and_going = || async {
            let net = ns.netlink().unwrap();
            for _ in 0..10 {
                net.create_bridge(&name("comes"), None, false).await.unwrap();
                net.delete_link(found(&net, "comes").await.index).await.unwrap();
            }
        };
        std::thread::scope(|scope| {
            let other = scope.spawn(|| block_on(coming_and_going()));
            block_on(async {
                let net = ns.netlink().unwrap();
                while !other.is_finished() {
                    let links = net.links().await.unwrap();
                    assert_eq!(links.iter().filter(|l| l.kind == LinkKind::Veth).count(), 100);
                }
            });
        });
    }

    #[test]
    fn macvlan_modes_have_the_names_of_the_configuration() {
        for mode in ["private", "vepa", "bridge", "passthru"] {
            assert_eq!(mode.parse::<MacvlanMode>().unwrap().to_string(), mode);
        }
        let e = "passthrough".parse::<MacvlanMode>().unwrap_err();
        assert!(e.to_string().contains("passthru"), "{e}");
    }
}
