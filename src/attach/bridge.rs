//! A veth whose host's end is a port of a bridge.

use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use nix::errno::Errno;

use crate::cni::{AddResult, Interface};
use crate::failpoint::hit;
use crate::ipam::Lease;
use crate::net::{Link, LinkChange, LinkKind, NetResult, Netlink, PortState, PortVlan, Veth, nft, sysctl};
use crate::plan::{BridgeWire, Form, MakeBridge, Masquerade, PortVlans, Verify, conf};
use crate::types::{Code, Failure, Mac, Outcome, VlanId};

use super::ipam::Ipam;
use super::record::WireLink;
use super::undo::packet_filter;
use super::wire::{PodEnd, Work, made, vanished};
use super::{address, facts, gateway};

/// A port without carrier stays disabled; the kernel enables it within microseconds after the pod's end is up.
const PORT_WAIT: Duration = Duration::from_secs(2);
/// Index of the pod's end among the result's interfaces.
const POD: u32 = 2;

pub fn record(plan: &BridgeWire) -> WireLink {
    WireLink::Bridge {
        bridge: plan.bridge.clone(),
        host: plan.host.clone(),
        host_index: None,
        native: plan.vlan.native,
        tagged: plan.vlan.tagged.clone(),
        keep_default: plan.vlan.keep_default,
        hairpin: plan.hairpin,
        isolated: plan.isolated,
    }
}

pub async fn carry_out(work: &mut Work<'_>, plan: &BridgeWire) -> Outcome<AddResult> {
    let before = match &plan.make {
        Some(make) => make_bridge(work, plan, make).await?,
        None => work.bridge.clone().ok_or_else(|| vanished(plan.bridge.as_str()))?,
    };
    let (host, pod_index) = create(work, plan, &before).await?;
    let pod_mac = pod_mac(work, plan, pod_index).await?;
    guard_port(work, plan, &host, pod_mac).await?;

    let sides = work.sides;
    let target = address::Target {
        settings: &sides.pod_settings,
        links: &sides.pod_links,
        index: pod_index,
        ifname: work.job.ifname,
    };
    let patience = ready_to_ask(work, plan, &target, host.index).await?;
    let end = PodEnd { index: pod_index, mac: pod_mac, mtu: plan.pod_mtu.map(|mtu| mtu.get()) };
    let mut lease = work.lease(POD, plan.form, end, patience)?;
    if let Some(gateway) = &plan.gateway {
        gateway::complete(&mut lease, gateway);
    }
    let routes = address::configure(&target, plan.form, &lease, !plan.leave_down).await?;
    lease.routes = routes;

    let mut extra = None;
    if let Some(wanted) = &plan.gateway {
        extra = gateway::set_up(work, plan, wanted, &before, &lease).await?;
    }
    if !lease.ips.is_empty() {
        masquerade(work, plan, &lease)?;
    }
    let port = verify(work, plan, host.index).await?;
    let bridge = after(work, plan, before, &port).await?;
    let mut interfaces = interfaces(work, plan, [&bridge, &port], pod_mac);
    for told in interfaces.iter_mut().filter_map(|i| i.mtu.as_mut()) {
        *told = address::narrowed(*told, &lease, plan.form);
    }
    interfaces.extend(extra);
    Ok(AddResult { interfaces, ips: lease.ips, routes: lease.routes, dns: lease.dns })
}

fn masquerade(work: &mut Work<'_>, plan: &BridgeWire, lease: &Lease) -> Outcome<()> {
    match &plan.masquerade {
        Masquerade::Off => Ok(()),
        Masquerade::Unknown(backend) => {
            Err(conf::config("ipMasqBackend", format_args!("{backend:?} is neither iptables nor nftables")))
        }
        Masquerade::On => {
            let addresses: Vec<IpNetwork> = lease.ips.iter().map(|ip| ip.address).collect();
            work.record.masqueraded.clone_from(&addresses);
            work.remember()?;
            nft::add_masquerade(&work.masquerade(&addresses)).map_err(packet_filter)?;
            hit("masquerade");
            Ok(())
        }
    }
}

/// The bridge as it is before the port comes.
async fn make_bridge(work: &Work<'_>, plan: &BridgeWire, make: &MakeBridge) -> Outcome<Link> {
    let links = &work.sides.host_links;
    let bridge = match &work.bridge {
        Some(bridge) => bridge.clone(),
        None => {
            match links.create_bridge(&plan.bridge, make.mtu, make.vlan_filtering).await {
                // Another ADD was faster.
                Err(e) if e.is(Errno::EEXIST) => {}
                other => other?,
            }
            hit("bridge");
            made(links, plan.bridge.as_str()).await?
        }
    };
    sysctl::write_if_there(&["net", "ipv6", "conf", plan.bridge.as_str(), "accept_ra"], "0")?;
    let promisc = make.promisc && !bridge.promisc;
    if promisc || !bridge.up {
        let change = LinkChange { up: Some(true), promisc: promisc.then_some(true), ..LinkChange::default() };
        links.set_link(bridge.index, &change).await?;
        hit("bridge up");
    }
    Ok(bridge)
}

/// Makes both ends in one message; the host's is up, the pod's is not. Their numbers go into the journal.
async fn create(work: &mut Work<'_>, plan: &BridgeWire, bridge: &Link) -> Outcome<(Link, u32)> {
    let links = &work.sides.host_links;
    let veth = Veth {
        name: &plan.host,
        mac: plan.host_mac,
        mtu: plan.host_mtu,
        master: Some(bridge.index),
        peer: work.job.ifname,
        peer_mac: plan.pod_mac,
        peer_mtu: plan.pod_mtu,
        peer_ns: &work.sides.pod,
    };
    let host = match links.create_veth(&veth).await {
        Err(e) if e.is(Errno::EEXIST) => return Err(facts::taken(work.job, work.sides, &plan.host).await?),
        created => {
            work.made = true;
            created?
        }
    };
    hit("veth");
    let Some(pod_index) = host.lower else {
        return Err(Failure::new(
            Code::Kernel,
            format!("{}: the kernel does not tell its peer (Linux 4.1 or newer does)", plan.host),
        ));
    };
    if let WireLink::Bridge { host_index, .. } = &mut work.record.link {
        *host_index = Some(host.index);
    }
    work.record.pod_index = Some(pod_index);
    if plan.macspoofchk {
        work.record.guarded = pod_mac(work, plan, pod_index).await?;
    }
    work.remember()?;
    Ok((host, pod_index))
}

async fn pod_mac(work: &Work<'_>, plan: &BridgeWire, index: u32) -> Outcome<Option<Mac>> {
    match plan.pod_mac {
        Some(mac) => Ok(Some(mac)),
        None => Ok(work.sides.pod_links.link_at(index).await?.and_then(|l| l.mac)),
    }
}

/// Flags, VLANs and filters of the port, before the pod's end can send anything through it.
async fn guard_port(work: &Work<'_>, plan: &BridgeWire, host: &Link, pod_mac: Option<Mac>) -> Outcome<()> {
    let links = &work.sides.host_links;
    if plan.vlan.any() {
        set_vlans(links, &plan.vlan, host.index).await?;
    }
    if plan.macspoofchk {
        nft::add_spoof_guard(&work.spoof_guard(plan.host.as_str(), pod_mac)).map_err(packet_filter)?;
        hit("spoof guard");
    }
    if plan.form == Form::Vm {
        // Before IPAM: a plugin that is run may set the link up.
        address::fall_silent(&work.sides.pod_settings, work.job.ifname.as_str())?;
        hit("silence");
    }
    match plan.form {
        // The host's own stack has no business on the port; its questions would reach the pod.
        Form::Vm | Form::Lan { .. } => {
            sysctl::write_if_there(&["net", "ipv6", "conf", plan.host.as_str(), "disable_ipv6"], "1")?
        }
        _ => sysctl::write_if_there(&["net", "ipv6", "conf", plan.host.as_str(), "accept_ra"], "0")?,
    };
    let change = LinkChange {
        up: Some(true),
        alias: plan.alias.as_deref(),
        hairpin: plan.hairpin.then_some(true),
        isolated: plan.isolated.then_some(true),
        ..LinkChange::default()
    };
    links.set_link(host.index, &change).await?;
    hit("port up");
    Ok(())
}

/// On a port that has been given none yet but the bridge's default.
pub async fn set_vlans(links: &Netlink, wanted: &PortVlans, port: u32) -> NetResult<()> {
    if !wanted.keep_default {
        for vlan in links.vlans(port).await? {
            links.delete_vlan(port, vlan.vid).await?;
            hit("vlan removed");
        }
    }
    add_vlans(links, wanted.native, &wanted.tagged, port).await
}

pub async fn add_vlans(links: &Netlink, native: Option<VlanId>, tagged: &[VlanId], port: u32) -> NetResult<()> {
    for (from, to) in ranges(tagged) {
        links.add_vlan(port, from, to, false, false).await?;
        hit("vlan");
    }
    // After the tagged ones: as the native VLAN it is also one of theirs, and the last word is its own.
    if let Some(native) = native {
        links.add_vlan(port, native, native, true, true).await?;
        hit("native vlan");
    }
    Ok(())
}

fn ranges(vids: &[VlanId]) -> Vec<(VlanId, VlanId)> {
    let mut ranges: Vec<(VlanId, VlanId)> = Vec::new();
    for v in vids {
        match ranges.last_mut() {
            Some((_, last)) if last.get() + 1 == v.get() => *last = *v,
            _ => ranges.push((*v, *v)),
        }
    }
    ranges
}

/// Where a server will be asked over the wire, it must carry frames before there is an address. Returns how long the bridge
/// will yet keep them back.
async fn ready_to_ask(work: &Work<'_>, plan: &BridgeWire, end: &address::Target<'_>, port: u32) -> Outcome<Duration> {
    if !matches!(work.ipam, Ipam::Dhcp(_)) {
        return Ok(Duration::ZERO);
    }
    if plan.macspoofchk && plan.form == Form::Vm {
        let msg = "macspoofchk with ipam dhcp: a machine's lease is asked for under another MAC address, which the guard drops";
        return Err(
            Failure::new(Code::Conflict, msg).remedy("leave out macspoofchk, or ipam: the guest asks by itself then")
        );
    }
    address::wake(end, plan.form).await?;
    if plan.verify == Verify::Nothing {
        return Ok(Duration::ZERO);
    }
    let (link, state) = port_state(work, plan, port).await?;
    Ok(Duration::from_secs(seconds_left(&link, state)))
}

/// Until spanning tree lets a port forward. One that listens has just begun: it will learn for as long again.
fn seconds_left(port: &Link, state: PortState) -> u64 {
    let timer = port.port.map_or(0, |p| p.timer_seconds);
    match state {
        PortState::Listening => 2 * timer,
        PortState::Learning => timer,
        _ => 0,
    }
}

/// Looks at the wire as the kernel has it now: no success is reported for one that cannot carry traffic. Returns the
/// host's end.
async fn verify(work: &Work<'_>, plan: &BridgeWire, port: u32) -> Outcome<Link> {
    if plan.verify == Verify::Nothing {
        return made(&work.sides.host_links, plan.host.as_str()).await;
    }
    let (link, state) = port_state(work, plan, port).await?;
    if let PortState::Listening | PortState::Learning = state {
        let seconds_left = seconds_left(&link, state);
        tracing::warn!(bridge = %plan.bridge, port = %plan.host, ?state, seconds_left, "spanning tree does not let the port forward yet");
    }
    let filtering = matches!(work.bridge, Some(Link { kind: LinkKind::Bridge { vlan_filtering: true }, .. }));
    if plan.verify == Verify::Wire && filtering {
        let there = work.sides.host_links.vlans(port).await?;
        vlans_in_force(plan.host.as_str(), plan.vlan.native, &plan.vlan.tagged, &there)?;
        if there.is_empty() {
            let msg =
                format!("bridge {} gives its ports no VLAN (vlan_default_pvid 0): no frame would pass", plan.bridge);
            return Err(Failure::new(Code::VlanNotInForce, msg).remedy("set vlan or vlanTrunk in the network"));
        }
    }
    Ok(link)
}

/// The bridge as it is with its new port. It need not be asked for where the kernel cannot have changed it: its MTU moves
/// only with a port that has another one (br_mtu_auto_adjust), and its MAC, where nobody chose it, is the lowest of its
/// ports' (br_stp_recalculate_bridge_id). That it is up is what the port's state tells.
async fn after(work: &Work<'_>, plan: &BridgeWire, before: Link, port: &Link) -> Outcome<Link> {
    let had_a_port = before.lower_up;
    // The gateway of a VLAN is a port, too.
    let got_another = plan.gateway.as_ref().is_some_and(|g| g.vlan.is_some());
    if had_a_port && !got_another && port.mtu == before.mtu && before.mac < port.mac && port.port.is_some() {
        return Ok(before);
    }
    let bridge = made(&work.sides.host_links, plan.bridge.as_str()).await?;
    if plan.verify == Verify::Wire {
        untouched(plan, &before, &bridge)?;
    }
    Ok(bridge)
}

/// A port must not change its bridge.
fn untouched(plan: &BridgeWire, before: &Link, after: &Link) -> Outcome<()> {
    if after.mtu != before.mtu {
        let msg =
            format!("bridge {}: its MTU went from {} to {} with the new port", plan.bridge, before.mtu, after.mtu);
        return Err(Failure::new(Code::Differs, msg).remedy("somebody else changes the bridge; try again"));
    }
    if after.mac != before.mac {
        tracing::warn!(bridge = %plan.bridge, before = ?before.mac, after = ?after.mac, "a bridge without a port took the first one's MAC address");
    }
    Ok(())
}

/// Whether the port has the VLANs that it should, and gives frames without a tag to the native one.
pub fn vlans_in_force(port: &str, native: Option<VlanId>, tagged: &[VlanId], there: &[PortVlan]) -> Outcome<()> {
    let missing = |v: &&VlanId| !there.iter().any(|t| t.vid == **v);
    if let Some(v) = native.iter().chain(tagged).find(missing) {
        return Err(Failure::new(Code::VlanNotInForce, format!("VLAN {v} is not on port {port}"))
            .remedy(format!("bridge vlan add dev {port} vid {v}")));
    }
    match native {
        Some(v) if !there.iter().any(|t| t.vid == v && t.pvid && t.untagged) => {
            Err(Failure::new(Code::VlanNotInForce, format!("VLAN {v} is on port {port}, but not for untagged frames"))
                .remedy(format!("bridge vlan add dev {port} vid {v} pvid untagged")))
        }
        _ => Ok(()),
    }
}

async fn port_state(work: &Work<'_>, plan: &BridgeWire, port: u32) -> Outcome<(Link, PortState)> {
    let (start, mut pause) = (Instant::now(), Duration::from_micros(100));
    loop {
        let link = work.sides.host_links.link_at(port).await?.ok_or_else(|| vanished(plan.host.as_str()))?;
        match link.port.as_ref().map_or(PortState::Disabled, |p| p.state) {
            state @ (PortState::Forwarding | PortState::Listening | PortState::Learning) => return Ok((link, state)),
            PortState::Disabled if start.elapsed() < PORT_WAIT => std::thread::sleep(pause),
            state @ (PortState::Disabled | PortState::Blocking) => {
                let msg = format!("port {} of bridge {} is {state:?}, not forwarding", plan.host, plan.bridge);
                return Err(Failure::new(Code::PortState, msg.to_lowercase())
                    .remedy(format!("bridge -d link show dev {}; is {} up?", plan.host, plan.bridge)));
            }
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Bridge, host's end, pod's end, as they are at the end: the bridge takes another MAC with its first port.
fn interfaces(work: &Work<'_>, plan: &BridgeWire, host: [&Link; 2], pod_mac: Option<Mac>) -> Vec<Interface> {
    let text = |mac: Option<Mac>| mac.map(|m| m.to_string());
    let ours = plan.make.is_none();
    let pod = Interface {
        name: work.job.ifname.to_string(),
        mac: text(pod_mac),
        mtu: plan.pod_mtu.filter(|_| ours).map(|m| m.get()),
        sandbox: Some(work.record.place.netns.display().to_string()),
        ..Interface::default()
    };
    let of = |link: &Link| Interface { name: link.name.clone(), mac: text(link.mac), ..Interface::default() };
    host.into_iter().map(of).chain([pod]).collect()
}
