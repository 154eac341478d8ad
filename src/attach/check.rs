//! CHECK of a wire: compares what ADD made with what the kernel has now.
//!
//! A drop-in is held against the result that the runtime hands over, as the reference does; `type: trestle` against
//! its record, and against the result where the record is lost. Links are known by number: KubeVirt renames a VM's link
//! and gives it another MAC, and that is in order.

use ipnetwork::IpNetwork;

use crate::cni::{AddResult, Interface, IpConfig, Route};
use crate::ipam::dhcp;
use crate::net::{Link, LinkKind, Netlink, PortState, nft};
use crate::plan::MadePort;
use crate::store::Leases;
use crate::types::{Code, Failure, Outcome, Role};

use super::address::network;
use super::bridge::vlans_in_force;
use super::dhcp::is_of_this_boot;
use super::ipam::Ipam;
use super::record::{self, Bind, Wire, WireLink};
use super::undo::packet_filter;
use super::wire::{end_by_name, made};
use super::{Job, Sides, WireConf, facts};

fn differs(msg: String) -> Failure {
    Failure::new(Code::Differs, msg).remedy("re-create the pod")
}

/// Makes a failure of a condition that does not hold.
fn must(holds: bool, msg: impl FnOnce() -> String) -> Outcome<()> {
    if holds { Ok(()) } else { Err(differs(msg())) }
}

pub async fn wire(job: &Job<'_>, conf: &WireConf) -> Outcome<()> {
    let sides = Sides::open(job)?;
    Ipam::prepare(job, conf)?.check(job)?;
    let entry = job.journal().read(&job.id(Role::Wire))?;
    let record: Option<Wire> = entry.as_ref().map(record::read).transpose()?;
    let prev = job.call.prev_result()?.map(|prev| as_leased(job, prev)).transpose()?;
    if let Some(record) = record.as_ref().filter(|r| r.vm || matches!(conf, WireConf::Trestle(_))) {
        return by_record(job, &sides, record, prev.as_ref()).await;
    }
    let Some(prev) = prev else {
        return Err(Failure::new(Code::Config, "prevResult is missing").remedy("CHECK needs the result of ADD"));
    };
    let pod = by_result(job, &sides, conf, &prev).await?;
    if let Some(record) = &record {
        filters(job, record, &prev.ips)?;
    }
    let vm = job.facts.what_for(job.ifname, !matches!(conf, WireConf::Trestle(_))).is_vm();
    if vm && pod.name != job.ifname.as_str() {
        return Ok(());
    }
    let mut elsewhere = taken_off(job, pod.index)?;
    if vm && sides.pod_links.redirect_target(pod.index).await?.is_some() {
        // A bind step's record is lost too, and what it took off with it.
        elsewhere.extend(prev.ips.iter().map(|ip| ip.address));
    }
    addresses(&sides.pod_links, &pod, &prev.ips, &elsewhere).await?;
    if vm { Ok(()) } else { routes(&sides.pod_links, &of_today(job, prev.routes)?).await }
}

/// A keeper may have got another address than ADD. A machine's is on no link of the pod.
fn as_leased(job: &Job<'_>, prev: AddResult) -> Outcome<AddResult> {
    let record = Leases::new(job.dirs).read::<dhcp::Job>(job.container, job.ifname)?;
    let record = record.filter(|r| is_of_this_boot(job.dirs, r) && !r.job.identity.broadcast);
    Ok(record.and_then(|record| super::dhcp::as_leased(&prev, &record)).unwrap_or(prev))
}

async fn by_record(job: &Job<'_>, sides: &Sides, record: &Wire, prev: Option<&AddResult>) -> Outcome<()> {
    must(record.place.is_in(&sides.pod, job.dirs)?, || "the pod has another network namespace now".into())?;
    let Some(index) = record.pod_index else { return Err(differs("ADD did not come to its end".into())) };
    let pod = sides.pod_links.link_at(index).await?.ok_or_else(|| differs(format!("{} is gone", job.ifname)))?;
    match &record.link {
        WireLink::Bridge { bridge, host_index, host, hairpin, isolated, .. } => {
            must(pod.kind == LinkKind::Veth, || format!("{} is no veth", pod.name))?;
            let port = host_end(sides, host_index.unwrap_or_default(), index)
                .await?
                .ok_or_else(|| differs(format!("{host} is gone")))?;
            let of = made(&sides.host_links, bridge.as_str())
                .await
                .map_err(|_| differs(format!("bridge {bridge} is gone")))?;
            must(port.master == Some(of.index), || format!("{} is no port of bridge {bridge}", port.name))?;
            must(of.up && port.up, || format!("bridge {bridge} or its port {} is down", port.name))?;
            let state = port.port.as_ref().map_or(PortState::Disabled, |p| p.state);
            // Without a carrier (the pod's end is down) the port is disabled, and in order.
            let sound = match state {
                PortState::Forwarding | PortState::Listening | PortState::Learning => true,
                PortState::Disabled => !port.lower_up,
                PortState::Blocking => false,
            };
            must(sound, || format!("port {} of bridge {bridge} is {state:?}", port.name).to_lowercase())?;
            for (flag, wanted, there) in [
                ("hairpin mode", *hairpin, port.port.is_some_and(|p| p.hairpin)),
                ("isolation", *isolated, port.port.is_some_and(|p| p.isolated)),
            ] {
                must(wanted == there, || format!("{flag} of port {} is {there}, not {wanted}", port.name))?;
            }
            if let Some(made) = record.link.made_port() {
                vlans(sides, &port, &of, &made).await?;
            }
        }
        WireLink::Macvlan { master_index, mode, .. } => {
            let is = matches!(&pod.kind, LinkKind::Macvlan { mode: m } if m.to_string() == *mode);
            must(is, || format!("{} is no macvlan of mode {mode}", pod.name))?;
            must(pod.lower == Some(*master_index), || format!("{} hangs on another master", pod.name))?;
        }
    }
    filters(job, record, prev.map_or(&[], |p| &p.ips))?;
    in_pod(job, sides, record, &pod, prev).await
}

/// Rules of the packet filter that ADD has set. A firewall that is loaded anew takes them away without a word.
fn filters(job: &Job<'_>, record: &Wire, ips: &[IpConfig]) -> Outcome<()> {
    let (network, container, ifname) = (job.call.name.as_str(), job.container.as_str(), job.ifname.as_str());
    if record.macspoofchk {
        let host_link = if let WireLink::Bridge { host, .. } = &record.link { host.as_str() } else { "" };
        let there = nft::has_spoof_guard(&nft::SpoofGuard {
            host_link,
            mac: record.guarded.or(record.pod_mac),
            container,
            ifname,
        })
        .map_err(packet_filter)?;
        must(there, || format!("the filter against spoofed MAC addresses of {ifname} is gone"))?;
    }
    if record.masquerade && !ips.is_empty() {
        // The rules are those of ADD, whatever address a lease has given since.
        let of_now: Vec<IpNetwork> = ips.iter().map(|ip| ip.address).collect();
        let addresses = if record.masqueraded.is_empty() { of_now } else { record.masqueraded.clone() };
        let there = nft::has_masquerade(&nft::Masquerade { network, container, ifname, addresses: &addresses })
            .map_err(packet_filter)?;
        must(there, || format!("the masquerade of {ifname} is gone"))?;
    }
    Ok(())
}

/// What KubeVirt may change is not looked at once it has: name, MAC and addresses of a VM's link.
async fn in_pod(job: &Job<'_>, sides: &Sides, record: &Wire, pod: &Link, prev: Option<&AddResult>) -> Outcome<()> {
    if record.vm && pod.name != job.ifname.as_str() {
        return Ok(());
    }
    must(pod.name == job.ifname.as_str(), || format!("{} is called {} now", job.ifname, pod.name))?;
    must(pod.up, || format!("{} is down", pod.name))?;
    if !record.vm {
        must(record.pod_mac.is_none() || pod.mac == record.pod_mac, || {
            format!("{} has another MAC address", pod.name)
        })?;
    }
    let Some(prev) = prev else { return Ok(()) };
    addresses(&sides.pod_links, pod, &prev.ips, &taken_off(job, pod.index)?).await?;
    if record.vm { Ok(()) } else { routes(&sides.pod_links, &of_today(job, prev.routes.clone())?).await }
}

/// Addresses that a bind step has taken off this link, and what their lease gives by now: they count as present.
fn taken_off(job: &Job<'_>, link: u32) -> Outcome<Vec<IpNetwork>> {
    let mut all = Vec::new();
    // One that cannot be read is another attachment's trouble, and told by that one's CHECK.
    for entry in job.journal().of_container(job.container)?.into_iter().flatten() {
        if entry.id.role == Role::Bind {
            let bind: Bind = record::read(&entry)?;
            if bind.link == link {
                all.extend(bind.addresses);
                let key = bind.guest.and_then(|guest| guest.lease);
                let leased = key.map(|key| Leases::new(job.dirs).read::<dhcp::Job>(job.container, &key));
                // Its record is that of CHECK's own IPAM, which tells if it cannot be read.
                all.extend(leased.and_then(|l| l.ok().flatten()?.job.held()?.network()));
            }
        }
    }
    Ok(all)
}

/// Without those that were a lease's, and that a renewal has taken away.
fn of_today(job: &Job<'_>, told: Vec<Route>) -> Outcome<Vec<Route>> {
    let record = Leases::new(job.dirs).read::<dhcp::Job>(job.container, job.ifname)?;
    let Some(now) = record.and_then(|r| r.job.routes) else { return Ok(told) };
    let same = |a: &Route, b: &Route| (network(a.dst), a.gw) == (network(b.dst), b.gw);
    Ok(told.into_iter().filter(|told| now.iter().any(|now| same(told, now))).collect())
}

/// Those that the port was given, and no others.
async fn vlans(sides: &Sides, port: &Link, bridge: &Link, made: &MadePort<'_>) -> Outcome<()> {
    if made.native.is_none() && made.tagged.is_empty() {
        return Ok(());
    }
    let there = sides.host_links.vlans(port.index).await?;
    vlans_in_force(&port.name, made.native, made.tagged, &there)?;
    let filters = bridge.kind == LinkKind::Bridge { vlan_filtering: true };
    match made.foreign(&there).first().filter(|_| filters) {
        None => Ok(()),
        Some(vid) => {
            Err(Failure::new(Code::Differs, format!("VLAN {vid} is on port {}, which was not given it", port.name))
                .remedy(format!("bridge vlan del dev {} vid {vid}", port.name)))
        }
    }
}

/// The host's end whose peer is the pod's link.
async fn host_end(sides: &Sides, index: u32, peer: u32) -> Outcome<Option<Link>> {
    Ok(sides.host_links.link_at(index).await?.filter(|l| l.kind == LinkKind::Veth && l.lower == Some(peer)))
}

/// Returns the pod's link.
async fn by_result(job: &Job<'_>, sides: &Sides, conf: &WireConf, prev: &AddResult) -> Outcome<Link> {
    let sandbox = job.call.netns.as_deref().map(|p| p.display().to_string());
    let here = |i: &&Interface| i.name == job.ifname.as_str() && i.sandbox == sandbox;
    let told = prev
        .interfaces
        .iter()
        .find(here)
        .ok_or_else(|| differs(format!("prevResult has no interface {} in this namespace", job.ifname)))?;
    let pod =
        end_by_name(&sides.pod_links, &told.name).await?.ok_or_else(|| differs(format!("{} is gone", told.name)))?;
    if pod.name == told.name {
        same_mac(&pod, told)?;
    }
    match conf {
        WireConf::Bridge(c) => {
            let promisc = Some(c.promisc);
            // Only a bridge with the pods' gateway has a MAC address of its own; another one takes its lowest port's.
            bridge_by_result(sides, prev, &pod, c.bridge.as_str(), promisc, c.gateway).await?;
        }
        WireConf::Trestle(c) => match &c.bridge {
            Some(bridge) if prev.interfaces.iter().any(|i| i.name == bridge.as_str()) => {
                bridge_by_result(sides, prev, &pod, bridge.as_str(), None, false).await?;
            }
            _ => must(matches!(pod.kind, LinkKind::Macvlan { .. }), || format!("{} is no macvlan", pod.name))?,
        },
        WireConf::Macvlan(c) => {
            let is = matches!(pod.kind, LinkKind::Macvlan { mode } if mode == c.mode);
            must(is, || format!("{} is no macvlan of mode {}", pod.name, c.mode))?;
            must(facts::macvlan_master(c, sides).await?.is_some(), || "the master is gone".into())?;
        }
    }
    Ok(pod)
}

async fn bridge_by_result(
    sides: &Sides,
    prev: &AddResult,
    pod: &Link,
    name: &str,
    promisc: Option<bool>,
    pinned: bool,
) -> Outcome<()> {
    let links = &sides.host_links;
    let host = |i: &&Interface| i.sandbox.is_none();
    let told = prev
        .interfaces
        .iter()
        .filter(host)
        .find(|i| i.name == name)
        .ok_or_else(|| differs(format!("prevResult has no bridge {name}")))?;
    let bridge = links.link(name).await?.ok_or_else(|| differs(format!("bridge {name} is gone")))?;
    must(matches!(bridge.kind, LinkKind::Bridge { .. }), || format!("{name} is no bridge"))?;
    if pinned {
        same_mac(&bridge, told)?;
    }
    must(promisc.is_none_or(|p| p == bridge.promisc), || {
        format!("bridge {name}: promiscuous mode is {}", bridge.promisc)
    })?;
    must(pod.kind == LinkKind::Veth, || format!("{} is no veth", pod.name))?;
    for told in prev.interfaces.iter().filter(host).filter(|i| i.name != name) {
        let Some(link) = links.link(&told.name).await? else { return Err(differs(format!("{} is gone", told.name))) };
        let ends = link.kind == LinkKind::Veth && link.lower == Some(pod.index) && pod.lower == Some(link.index);
        if ends && link.master == Some(bridge.index) {
            return same_mac(&link, told);
        }
    }
    Err(differs(format!("no port of bridge {name} leads to {}", pod.name)))
}

fn same_mac(link: &Link, told: &Interface) -> Outcome<()> {
    let now = link.mac.map(|m| m.to_string());
    let same = told.mac.as_ref().is_none_or(|t| now.as_ref().is_some_and(|n| n.eq_ignore_ascii_case(t)));
    must(same, || format!("{} has the MAC address {}", link.name, now.unwrap_or_default()))
}

async fn addresses(links: &Netlink, pod: &Link, wanted: &[IpConfig], elsewhere: &[IpNetwork]) -> Outcome<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let there = links.addresses(pod.index).await?;
    for ip in wanted.iter().map(|ip| ip.address).filter(|a| !elsewhere.contains(a)) {
        must(there.iter().any(|t| t.net == ip), || format!("{} has no address {ip}", pod.name))?;
        // Its subnet's route went where somebody flushed it; a single address has none.
        let alone = if ip.is_ipv4() { ip.prefix() == 32 } else { ip.prefix() == 128 };
        let reachable = alone || links.routes(ip.is_ipv6()).await?.iter().any(|r| network(r.dst) == network(ip));
        must(reachable, || format!("no route to {}", network(ip)))?;
    }
    Ok(())
}

async fn routes(links: &Netlink, wanted: &[Route]) -> Outcome<()> {
    for v6 in [false, true] {
        let wanted: Vec<&Route> = wanted.iter().filter(|r| r.dst.is_ipv6() == v6).collect();
        if wanted.is_empty() {
            continue;
        }
        let there = links.routes(v6).await?;
        for route in wanted {
            let gateway = route.gw.filter(|g| !g.is_unspecified());
            let found = there.iter().any(|t| {
                network(t.dst) == network(route.dst)
                    && (gateway.is_none() || t.gateway == gateway)
                    && route.table.is_none_or(|table| t.table == Some(table))
            });
            must(found, || format!("the route to {} is gone", route.dst))?;
        }
    }
    Ok(())
}
