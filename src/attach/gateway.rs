//! What the drop-in `bridge` does beyond the wire: the pods' gateway on the bridge (`isGateway`, `isDefaultGateway`).
//! `type: trestle` never comes here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use crate::cni::{Interface, IpConfig, Route};
use crate::failpoint::hit;
use crate::ipam::Lease;
use crate::net::{Link, LinkChange, NetResult, Netlink, NewAddress, Veth, sysctl};
use crate::plan::{BridgeWire, Gateway, conf, hex};
use crate::types::{Code, Failure, IfName, Mtu, Outcome, VlanId};

use super::address::{broadcast, network};
use super::wire::{Work, made};

/// Fills in gateways that IPAM left open, and the default route of each family.
pub fn complete(lease: &mut Lease, wanted: &Gateway) {
    let mut done = [false, false];
    for ip in &mut lease.ips {
        if ip.gateway.is_none() {
            ip.gateway = first_host(ip.address);
        }
        let v6 = ip.address.is_ipv6();
        if !wanted.default_route || done[usize::from(v6)] {
            continue;
        }
        done[usize::from(v6)] = true;
        let is_default = |r: &Route| r.dst.prefix() == 0 && r.dst.is_ipv6() == v6 && r.gw.is_some();
        if !lease.routes.iter().any(is_default) {
            let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            lease.routes.extend(IpNetwork::new(any, 0).ok().map(|dst| Route::new(dst, ip.gateway)));
        }
    }
}

/// The first address after the subnet's own.
fn first_host(address: IpNetwork) -> Option<IpAddr> {
    match address {
        IpNetwork::V4(n) => u32::from(n.network()).checked_add(1).map(|a| IpAddr::V4(a.into())),
        IpNetwork::V6(n) => u128::from(n.network()).checked_add(1).map(|a| IpAddr::V6(a.into())),
    }
}

/// Addresses on the bridge, or on an interface of the VLAN, and forwarding. Returns the VLAN's interface, which belongs
/// into the result.
pub async fn set_up(
    work: &Work<'_>,
    plan: &BridgeWire,
    wanted: &Gateway,
    bridge: &Link,
    lease: &Lease,
) -> Outcome<Option<Interface>> {
    let links = &work.sides.host_links;
    let target = match wanted.vlan {
        Some(vid) => Some(vlan_interface(work, plan, bridge, vid).await?),
        None => None,
    };
    let on = target.as_ref().unwrap_or(bridge);
    for ip in &lease.ips {
        let Some(gateway) = gateway_address(ip) else { continue };
        ensure_address(links, on, gateway, wanted.force_address).await?;
    }
    for (v6, key) in
        [(false, &["net", "ipv4", "ip_forward"][..]), (true, &["net", "ipv6", "conf", "all", "forwarding"][..])]
    {
        if lease.ips.iter().any(|ip| ip.address.is_ipv6() == v6) {
            sysctl::write(key, "1")?;
        }
    }
    Ok(target.map(|l| Interface { name: l.name, mac: l.mac.map(|m| m.to_string()), ..Interface::default() }))
}

fn gateway_address(ip: &IpConfig) -> Option<IpNetwork> {
    IpNetwork::new(ip.gateway?, ip.address.prefix()).ok()
}

async fn ensure_address(links: &Netlink, on: &Link, wanted: IpNetwork, force: bool) -> Outcome<()> {
    for there in links.addresses(on.index).await? {
        if there.net == wanted {
            return Ok(());
        }
        let same_family = there.net.is_ipv6() == wanted.is_ipv6();
        // More than one IPv6 address is usual; only overlapping subnets contradict.
        let overlap = network(there.net).contains(wanted.ip()) || network(wanted).contains(there.net.ip());
        if !same_family || (wanted.is_ipv6() && !overlap) {
            continue;
        }
        if !force {
            return Err(Failure::new(
                Code::GatewayAddress,
                format!("{} has the address {}, not the gateway's {wanted}", on.name, there.net),
            )
            .remedy("set forceAddress, or use the address that is there"));
        }
        links.delete_address(on.index, &there.net).await?;
        hit("gateway address removed");
    }
    match links
        .add_address(
            on.index,
            &NewAddress {
                net: wanted,
                broadcast: broadcast(wanted),
                nodad: false,
                routeless: false,
                valid_seconds: None,
            },
        )
        .await
    {
        Err(e) if e.is(nix::errno::Errno::EEXIST) => {}
        other => other?,
    }
    hit("gateway address");
    // An address that is set is kept; else the bridge takes its lowest port's, and the pods lose their gateway.
    // A bridge without a port has no address at all (00:...) until the port that has just come gave it one.
    let named = on.mac.and_then(|m| m.unicast().ok());
    let pinned = match named {
        Some(mac) => Some(mac),
        None => links.link_at(on.index).await?.and_then(|l| l.mac),
    };
    if let Some(mac) = pinned {
        links.set_link(on.index, &LinkChange { mac: Some(mac), ..LinkChange::default() }).await?;
        hit("gateway mac");
    }
    Ok(())
}

/// `BRIDGE.VID`: a veth of which both ends stay on the node, one of them a port of the bridge in that VLAN.
async fn vlan_interface(work: &Work<'_>, plan: &BridgeWire, bridge: &Link, vid: VlanId) -> Outcome<Link> {
    let links = &work.sides.host_links;
    let name: IfName = format!("{}.{vid}", plan.bridge).parse().map_err(|e| conf::config("vlan", e))?;
    if let Some(link) = links.link(name.as_str()).await? {
        return Ok(link);
    }
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|e| Failure::new(Code::Io, format!("random bytes: {e}")))?;
    let port: IfName = format!("veth{}", hex(&random)).parse().map_err(|e| conf::config("vlan", e))?;
    let mtu = Mtu::try_from(i64::from(bridge.mtu)).ok();
    let veth = Veth {
        name: &port,
        mac: None,
        mtu,
        master: Some(bridge.index),
        peer: &name,
        peer_mac: None,
        peer_mtu: mtu,
        peer_ns: &work.sides.host,
    };
    let port = links.create_veth(&veth).await?;
    hit("vlan interface");
    if !plan.vlan.keep_default {
        for vlan in links.vlans(port.index).await? {
            links.delete_vlan(port.index, vlan.vid).await?;
        }
    }
    links.add_vlan(port.index, vid, vid, true, true).await?;
    up(links, port.index).await?;
    let link = made(links, name.as_str()).await?;
    up(links, link.index).await?;
    Ok(link)
}

async fn up(links: &Netlink, index: u32) -> NetResult<()> {
    links.set_link(index, &LinkChange { up: Some(true), ..LinkChange::default() }).await
}
