//! What a machine is to be given when it is bound, and where it is answered: out of the journal where the wire is ours,
//! else out of what another plugin left on the link.

use ipnetwork::IpNetwork;

use crate::cni::{AddResult, IpConfig, Route};
use crate::ipam::dhcp;
use crate::net::{Link, LinkKind};
use crate::plan::BindPlan;
use crate::store::Leases;
use crate::types::{IfName, Outcome, Role};

use super::dhcp::is_of_this_boot;
use super::record::{self, Given, Guest, Ipam, Wire};
use super::{Job, Sides};

/// What is known of the addresses before they are taken off.
struct Source {
    wire: Option<IfName>,
    lease: Option<IfName>,
    given: Given,
}

/// `None`: it has no address of ours to be given, or no host's end to be answered at.
pub async fn guest(job: &Job<'_>, sides: &Sides, plan: &BindPlan, addresses: &[IpNetwork]) -> Outcome<Option<Guest>> {
    let Some(link) = sides.pod_links.link_at(plan.link).await? else { return Ok(None) };
    let source = match wire(job, sides, plan.link)? {
        Some((key, wire)) => of_wire(key, wire, addresses),
        None => of_link(job, sides, &link, addresses).await?,
    };
    if source.lease.is_none() && source.given.addresses.is_empty() {
        return Ok(None);
    }
    let host = host_end(sides, &link).await?;
    let (Some(host), Some(mac)) = (&host, link.mac) else {
        tracing::warn!(network = %plan.network, link = %link.name, "no veth of this node: its address cannot be given to the guest");
        return Ok(None);
    };
    let Some(host_mac) = host.mac else { return Ok(None) };
    let Source { wire, lease, given } = source;
    let hostname = job.facts.vm_name();
    Ok(Some(Guest { host_index: host.index, host_mac, mac, mtu: plan.mtu, wire, lease, given, hostname }))
}

/// Key and record of our wire whose end in the pod this is.
fn wire(job: &Job<'_>, sides: &Sides, link: u32) -> Outcome<Option<(IfName, Wire)>> {
    // One that cannot be read is another attachment's trouble.
    for entry in job.journal().of_container(job.container)?.into_iter().flatten() {
        if entry.id.role == Role::Wire {
            let wire: Wire = record::read(&entry)?;
            if wire.pod_index == Some(link) && wire.place.is_in(&sides.pod, job.dirs)? {
                return Ok(Some((entry.id.ifname, wire)));
            }
        }
    }
    Ok(None)
}

/// A wire of an earlier version does not tell what it was given: then it is what lies on the link.
fn of_wire(key: IfName, wire: Wire, addresses: &[IpNetwork]) -> Source {
    let lease = matches!(wire.ipam, Some(Ipam::Dhcp)).then(|| key.clone());
    let given = wire.given.unwrap_or_else(|| on_link(addresses, Vec::new()));
    Source { wire: Some(key), lease, given }
}

/// Another plugin sets addresses and routes as for any pod; its `dhcp` may be ours.
async fn of_link(job: &Job<'_>, sides: &Sides, link: &Link, addresses: &[IpNetwork]) -> Outcome<Source> {
    let routes = sides.pod_links.routes(false).await?.into_iter().filter(|r| r.link == link.index);
    let routes = routes.filter_map(|r| r.gateway.map(|gateway| Route::new(r.dst, Some(gateway))));
    let key = link.name.parse::<IfName>().ok();
    let lease = match &key {
        Some(key) => Leases::new(job.dirs).read::<dhcp::Job>(job.container, key)?,
        None => None,
    };
    let here = lease.is_some_and(|r| is_of_this_boot(job.dirs, &r) && r.job.index == link.index);
    Ok(Source { wire: None, lease: key.filter(|_| here), given: on_link(addresses, routes.collect()) })
}

fn on_link(addresses: &[IpNetwork], routes: Vec<Route>) -> Given {
    let gateway = routes.iter().find(|r| r.dst.prefix() == 0).and_then(|r: &Route| r.gw);
    let ip = |address: &IpNetwork| IpConfig { interface: None, address: *address, gateway };
    let ips = addresses.iter().map(ip).collect();
    Given::of(&AddResult { ips, routes, ..AddResult::default() })
}

/// The veth's other end, if it is in this namespace: each is the other's peer, and the one out there is in the pod's
/// namespace by the number that this one has for it.
async fn host_end(sides: &Sides, link: &Link) -> Outcome<Option<Link>> {
    let (LinkKind::Veth, Some(index), true) = (&link.kind, link.lower, link.lower_nsid.is_some()) else {
        return Ok(None);
    };
    // In this order: the kernel numbers a namespace when it first tells of it.
    let found = sides.host_links.link_at(index).await?;
    let pod = sides.host_links.nsid_of(&sides.pod).await?;
    Ok(found
        .filter(|l| l.kind == LinkKind::Veth && l.lower == Some(link.index) && pod.is_some() && l.lower_nsid == pod))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn what_lies_on_a_link_is_given() {
        let addresses: Vec<IpNetwork> = ["2001:db8::9/64", "192.0.2.9/24"].map(|a| a.parse().unwrap()).into();
        let gateway: IpAddr = "192.0.2.1".parse().unwrap();
        let routes = vec![Route::new("0.0.0.0/0".parse().unwrap(), Some(gateway))];
        let given = on_link(&addresses, routes.clone());
        assert_eq!((given.addresses.len(), given.gateway, given.routes), (1, Some([192, 0, 2, 1].into()), routes));
    }
}
