//! Builds what is there before any pod: a LAN with its switch and a neighbour, and a node with a bridge in it.
//!
//! ```text
//! neighbour        lan                 node
//!   eth0 ─────── port3┐
//!                     ├ switch
//!                port1┤ ┄┄┄┄┄┄┄┄┄┄┄┄ eno0 ─ br-lan
//!                port2┘ ┄┄┄┄┄┄┄┄┄┄┄┄ eno1              (no port of a bridge: a macvlan's master must not be)
//! ```
//! Knows links and addresses of the lab; no pod, no plugin.

use std::net::Ipv4Addr;

use anyhow::Context;
use ipnetwork::{IpNetwork, Ipv4Network};

use super::picture::Spot;
use super::world;
use crate::net::{Link, LinkChange, Namespace, Netlink, NewAddress, Veth};
use crate::types::{IfName, Mac};

/// Addresses for documentation (RFC 5737): nobody's LAN.
pub const SUBNET: &str = "192.0.2.0/24";
pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
pub const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
pub const PREFIX: u8 = 24;

pub const BRIDGE: &str = "br-lan";
pub const UPLINK: &str = "eno0";
pub const MASTER: &str = "eno1";
pub const SWITCH: &str = "switch";
pub const CARD: &str = "eth0";
/// Links of the node that are no pod's.
pub const OWN_LINKS: [&str; 4] = ["lo", BRIDGE, UPLINK, MASTER];

/// The three namespaces and a socket in each.
pub struct Lan {
    pub node: Namespace,
    pub neighbour: Namespace,
    pub on_node: Netlink,
    pub on_neighbour: Netlink,
}

impl Lan {
    /// In a world that was just entered. Within a tokio runtime, like [`Lan::open`].
    pub async fn build() -> anyhow::Result<Self> {
        let switch_ns = world::make_namespace("lan")?;
        world::make_namespace("neighbour")?;
        let lan = Self::open()?;
        let on_switch = switch_ns.netlink()?;
        let switch = bridge(&on_switch, SWITCH).await?;
        let br_lan = bridge(&lan.on_node, BRIDGE).await?;
        for (name, mac, port, master) in
            [(UPLINK, mac(0xe0), "port1", Some(br_lan)), (MASTER, mac(0xe1), "port2", None)]
        {
            cable(&lan.on_node, (name, mac), master, (&switch_ns, &on_switch, port)).await?;
            plug(&on_switch, port, switch).await?;
        }
        cable(&on_switch, ("port3", None), Some(switch), (&lan.neighbour, &lan.on_neighbour, CARD)).await?;
        let card = link(&lan.on_neighbour, CARD).await?.index;
        lan.on_neighbour.set_link(card, &LinkChange { mac: mac(9), up: Some(true), ..Default::default() }).await?;
        address(&lan.on_neighbour, card, NEIGHBOUR).await?;
        address(&lan.on_node, br_lan, NODE).await?;
        Ok(lan)
    }

    /// One that stands, in a world that was joined.
    pub fn open() -> anyhow::Result<Self> {
        let node = Namespace::open(&world::netns("node"))?;
        let neighbour = Namespace::open(&world::netns("neighbour"))?;
        let (on_node, on_neighbour) = (node.netlink()?, neighbour.netlink()?);
        Ok(Self { node, neighbour, on_node, on_neighbour })
    }
}

/// A MAC that tells the card: 02:00:5e:00:53:09 is the neighbour's.
fn mac(last: u8) -> Option<Mac> {
    Some(Mac::new([0x02, 0x00, 0x5e, 0x00, 0x53, last]))
}

fn name(text: &str) -> anyhow::Result<IfName> {
    Ok(text.parse()?)
}

async fn bridge(net: &Netlink, bridge: &str) -> anyhow::Result<u32> {
    net.create_bridge(&name(bridge)?, None, false).await?;
    let index = link(net, bridge).await?.index;
    net.set_link(index, &up()).await?;
    Ok(index)
}

/// A veth pair, up at both ends.
async fn cable(
    net: &Netlink,
    (here, mac): (&str, Option<Mac>),
    master: Option<u32>,
    (there_ns, on_there, there): (&Namespace, &Netlink, &str),
) -> anyhow::Result<()> {
    let (here_name, there_name) = (name(here)?, name(there)?);
    let veth = Veth {
        name: &here_name,
        mac,
        mtu: None,
        master,
        peer: &there_name,
        peer_mac: None,
        peer_mtu: None,
        peer_ns: there_ns,
    };
    let index = net.create_veth(&veth).await?.index;
    net.set_link(index, &up()).await?;
    let peer = link(on_there, there).await?.index;
    Ok(on_there.set_link(peer, &up()).await?)
}

async fn plug(net: &Netlink, port: &str, bridge: u32) -> anyhow::Result<()> {
    let index = link(net, port).await?.index;
    Ok(net.set_link(index, &LinkChange { master: Some(bridge), ..Default::default() }).await?)
}

fn up() -> LinkChange<'static> {
    LinkChange { up: Some(true), ..Default::default() }
}

async fn address(net: &Netlink, index: u32, ip: Ipv4Addr) -> anyhow::Result<()> {
    let wanted = IpNetwork::V4(Ipv4Network::new(ip, PREFIX)?);
    let address = NewAddress { net: wanted, broadcast: None, nodad: false, routeless: false, valid_seconds: None };
    Ok(net.add_address(index, &address).await?)
}

pub async fn link(net: &Netlink, name: &str) -> anyhow::Result<Link> {
    net.link(name).await?.with_context(|| format!("there is no link {name}"))
}

/// A link as the picture shows it.
pub async fn spot(net: &Netlink, name: &str) -> anyhow::Result<Spot> {
    let link = link(net, name).await?;
    let addresses = net.addresses(link.index).await?;
    let shown = addresses.iter().filter(|a| !a.link_local).map(|a| a.net.to_string());
    Ok(Spot { name: link.name, mac: link.mac.map(|m| m.to_string()).unwrap_or_default(), addresses: shown.collect() })
}
