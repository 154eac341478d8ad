//! A macvlan link: what a plain pod gets where the node has no bridge.

use std::time::Duration;

use nix::errno::Errno;

use crate::cni::{AddResult, Dns, Interface};
use crate::failpoint::hit;
use crate::net::Macvlan;
use crate::plan::{Form, MacvlanWire};
use crate::types::Outcome;

use super::address;
use super::carrier::fallback_words;
use super::ipam::Ipam;
use super::wire::{PodEnd, Work, made};

pub async fn carry_out(work: &mut Work<'_>, plan: &MacvlanWire) -> Outcome<AddResult> {
    if let Some(why) = &plan.fallback {
        tracing::warn!(master = %plan.master, "{}", fallback_words(why, &plan.master));
    }
    let sides = work.sides;
    let macvlan = Macvlan {
        name: work.job.ifname,
        lower: plan.master_index,
        mode: plan.mode,
        mac: plan.mac,
        mtu: plan.mtu,
        bc_queue_len: plan.bc_queue_len,
        namespace: &sides.pod,
    };
    let created = if plan.in_container { &sides.pod_links } else { &sides.host_links }.create_macvlan(&macvlan).await;
    // Any other failure may have come after the link was there.
    work.made = !created.as_ref().is_err_and(|e| e.is(Errno::EEXIST));
    created?;
    hit("macvlan");
    let link = made(&sides.pod_links, work.job.ifname.as_str()).await?;
    work.record.pod_index = Some(link.index);
    work.record.pod_mac = link.mac;
    work.remember()?;

    // A fallback is told by the result: its first interface is the node's own, which no NAD with a bridge names.
    let mut interfaces = Vec::new();
    if plan.fallback.is_some() {
        interfaces.push(Interface { name: plan.master.to_string(), ..Interface::default() });
    }
    let target = address::Target {
        settings: &sides.pod_settings,
        links: &sides.pod_links,
        index: link.index,
        ifname: work.job.ifname,
    };
    if let Ipam::Dhcp(_) = work.ipam {
        address::wake(&target, plan.form).await?;
    }
    let interface = u32::from(plan.fallback.is_some());
    let end = PodEnd { index: link.index, mac: link.mac, mtu: Some(link.mtu) };
    let mut lease = work.lease(interface, plan.form, end, Duration::ZERO)?;
    lease.routes = address::configure(&target, plan.form, &lease, true).await?;
    let mtu = address::narrowed(link.mtu, &lease, plan.form);
    interfaces.push(Interface {
        name: link.name,
        mac: link.mac.map(|m| m.to_string()),
        mtu: Some(mtu).filter(|_| plan.form != Form::ReferenceMacvlan),
        sandbox: Some(work.record.place.netns.display().to_string()),
        ..Interface::default()
    });
    // The reference drops what IPAM says of DNS.
    let dns = if plan.form == Form::ReferenceMacvlan { Dns::default() } else { lease.dns };
    Ok(AddResult { interfaces, ips: lease.ips, routes: lease.routes, dns })
}
