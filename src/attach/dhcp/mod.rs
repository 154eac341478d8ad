//! DHCP for an attachment: one exchange with a server over the pod's link, and what follows from it for the link.
//!
//! ```text
//! ADD ── first() ── lease ─→ record on disk ─→ result           (the plugin's own process; it sets the address itself)
//! keeper ─ job ─→ `trestle dhcp exchange` ─ exchange() ─→ answer  (a child that enters the namespace, and ends)
//! DEL ── release() ── RELEASE from the leased address, record removed, and then the link
//! ```
//! An address lives in the kernel as long as its lease: one that nobody renews vanishes, and is nobody's duplicate. When
//! something is due is a keeper's business, what a packet says is `ipam::dhcp`'s.

mod client;
mod plugin;
mod section;
#[cfg(test)]
mod tests;
mod unkept;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use nix::errno::Errno;

use super::address::{broadcast, kernel_route};
use crate::cni::{self, AddResult, IpConfig};
use crate::ipam::dhcp::{Answer, Follows, Job, Lease, Start, Step, Why};
use crate::net::packet::is_gone;
use crate::net::{Link, LinkChange, Namespace, NetResult, Netlink, NewAddress};
use crate::store::{Dirs, LeaseRecord, Leases};
use crate::types::{ContainerId, IfName, Mtu, Outcome};

use client::{Client, End};

pub use client::stranger;
pub use plugin::{check, plugin};
pub use section::{Dhcp, Target};
pub use unkept::Unkept;
#[cfg(test)]
pub use unkept::testing;

/// For a RELEASE: the server's MAC is asked for, and no answer awaited.
const FAREWELL: u32 = 1;

/// Where a job is to be done, if it is still there.
struct There {
    namespace: Namespace,
    links: Netlink,
    link: Link,
}

impl There {
    async fn find(job: &Job) -> Outcome<Option<Self>> {
        let Ok(namespace) = Namespace::open(&job.netns) else { return Ok(None) };
        let now = namespace.id()?.cookie();
        if job.cookie != 0 && now.is_some_and(|now| now != job.cookie) {
            return Ok(None);
        }
        let links = namespace.netlink()?;
        Ok(links.link_at(job.index).await?.map(|link| Self { namespace, links, link }))
    }
}

/// Carries out a job in its namespace, and sets the address of the link accordingly.
pub async fn exchange(job: &Job, dirs: &Dirs) -> Outcome<Answer> {
    let Some(there) = There::find(job).await? else { return Ok(Answer::Gone) };
    let client = match Client::open(&there.namespace, job.index, there.link.mac, (&job.identity, &job.wish), dirs) {
        Err(e) if is_gone(&e) => return Ok(Answer::Gone),
        opened => opened?,
    };
    let start = match &job.step {
        Step::First => Start::Discover,
        Step::Reboot(address) => Start::Reboot(*address),
        Step::Renew(lease) => Start::Renew(lease.clone()),
        Step::Rebind(lease) => Start::Rebind(lease.clone()),
        Step::Release(lease) => return client.release(lease).map(|()| Answer::Silent),
        Step::Drop(lease) => {
            take_off(&there, lease.address).await?;
            return Ok(Answer::Silent);
        }
    };
    let end = match client.run(start, Duration::from_secs(job.seconds.into())) {
        // The link may have gone while it was spoken over.
        Err(_) if There::find(job).await?.is_none() => return Ok(Answer::Gone),
        end => end?,
    };
    match end {
        End::Bound { lease, since } => {
            let age = client.now().saturating_sub(since);
            let is_new = keep(job, &there, &lease, remaining(&lease, age)).await?;
            // As after an ADD: the neighbours may remember somebody who had it before.
            if is_new
                && !job.identity.broadcast
                && let Err(e) = client.announce(lease.address)
            {
                tracing::warn!(error = %e, address = %lease.address, "not announced");
            }
            Ok(Answer::Bound(lease))
        }
        End::Lost(Why::Refused { server, text }) if text.is_empty() => {
            Ok(Answer::Refused(format!("server {server} refuses it")))
        }
        End::Lost(Why::Refused { server, text }) => Ok(Answer::Refused(format!("server {server} refuses it: {text}"))),
        End::Lost(Why::Taken(address)) => Ok(Answer::Refused(format!("another host has {address}"))),
        End::Lost(Why::Silent) | End::Late(_) => Ok(Answer::Silent),
    }
}

/// Seconds that an address may still be used; None: for ever.
fn remaining(lease: &Lease, age: Duration) -> Option<u32> {
    let age = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
    // 0 would be an address that is gone, and the kernel refuses it.
    (lease.seconds != Lease::FOR_EVER).then(|| lease.seconds.saturating_sub(age).max(1))
}

/// Gives the address on the link its new time. Puts it there, with the lease's routes, where ADD had put one, and on a pod's
/// link of whatever plugin in the place of one that was lost; lets routes and MTU follow what the server says now. Never
/// on a machine's link: KubeVirt or the guest has it then. True: it was not there.
async fn keep(job: &Job, there: &There, lease: &Lease, valid: Option<u32>) -> Outcome<bool> {
    let Some(net) = lease.network() else { return Ok(false) };
    let (links, index) = (&there.links, job.index);
    let bound = async || Ok::<_, crate::net::NetError>(links.redirect_target(index).await?.is_some());
    if job.routes.is_none() && bound().await? {
        return Ok(false);
    }
    let on_link = links.addresses(index).await?.iter().any(|a| a.net.ip() == net.ip());
    let lost = matches!(job.step, Step::First | Step::Reboot(_)) && !job.identity.broadcast;
    if !on_link && job.routes.is_none() && !lost {
        return Ok(false);
    }
    let address = NewAddress { net, broadcast: broadcast(net), nodad: false, routeless: false, valid_seconds: valid };
    links.set_address(index, &address).await?;
    // The bind step redirects first and takes the address off then: it may have done both since the look above.
    if job.routes.is_none() && bound().await? {
        take_off(there, lease.address).await?;
        return Ok(false);
    }
    let next = job.bound(lease.clone());
    match follow(links, job, &next, on_link).await {
        // The lease is held all the same, and must not be lost for a route that the kernel does not take.
        Err(e) if on_link => {
            tracing::warn!(ifname = job.ifname, error = %e, "not all that the DHCP server says now is in force")
        }
        followed => followed?,
    }
    Ok(!on_link)
}

/// Takes off the routes that the lease has no more, and sets those that it has not had before; without the address, none of
/// them was left. Then the MTU.
async fn follow(links: &Netlink, job: &Job, next: &Job, on_link: bool) -> NetResult<()> {
    let index = job.index;
    let before: Vec<&cni::Route> = job.routes.iter().flatten().filter(|_| on_link).collect();
    // On another plugin's link only what comes with an address that was lost is ours to set.
    let theirs = next.held().filter(|_| next.routes.is_none() && !on_link).map(|lease| next.routes_of(lease));
    let now: Vec<&cni::Route> = next.routes.iter().chain(&theirs).flatten().collect();
    for route in before.iter().filter(|route| !now.contains(route)) {
        match links.delete_route(&kernel_route(route, route.gw, index)).await {
            // ADD has not set it, or it went with something else.
            Err(e) if e.gone() => {}
            other => other?,
        }
    }
    for route in now.iter().filter(|route| !before.contains(route)) {
        restore(links, index, route).await?;
    }
    resize(links, job, next).await
}

/// The link's MTU, where the server gives another one than before. A smaller one that somebody else has set meanwhile stays.
async fn resize(links: &Netlink, job: &Job, next: &Job) -> NetResult<()> {
    let of = |job: &Job| job.follows.as_ref().and_then(Follows::link_mtu);
    let (Some(before), Some(now)) = (of(job), of(next)) else { return Ok(()) };
    let Some(link) = links.link_at(job.index).await?.filter(|_| before != now) else { return Ok(()) };
    if link.mtu != before && link.mtu <= now {
        return Ok(());
    }
    let Ok(mtu) = Mtu::try_from(i64::from(now)) else { return Ok(()) };
    links.set_link(job.index, &LinkChange { mtu: Some(mtu), ..LinkChange::default() }).await?;
    tracing::info!(link = link.name, before = link.mtu, "the DHCP server gives an MTU of {mtu}");
    Ok(())
}

/// What a renewal does with the link.
#[cfg(test)]
pub async fn keep_for_tests(job: &Job, lease: &Lease) -> Outcome<bool> {
    let there = There::find(job).await?.expect("the link is there");
    keep(job, &there, lease, Some(60)).await
}

/// The result of an ADD as it is with the lease that is held now; `None` where that gave the same address, or there is none.
pub fn as_leased(result: &AddResult, record: &LeaseRecord<Job>) -> Option<AddResult> {
    let job = &record.job;
    let lease = job.held()?;
    let address = lease.network()?;
    let v4: Vec<&IpConfig> = result.ips.iter().filter(|ip| ip.address.is_ipv4()).collect();
    let first = v4.first().filter(|_| v4.iter().all(|ip| ip.address != address))?;
    let gateway = lease.routers.first().map(|g| IpAddr::V4(*g));
    let is_default = |r: &cni::Route| r.dst.is_ipv4() && r.dst.prefix() == 0;
    // None where ADD has set none: the pod has it from elsewhere.
    let default = result.routes.iter().any(is_default);
    let others = |r: &&cni::Route| r.dst.is_ipv6() || r.table.is_some();
    let mut next = result.clone();
    next.ips = std::iter::once(IpConfig { address, gateway, interface: first.interface })
        .chain(result.ips.iter().filter(|ip| ip.address.is_ipv6()).cloned())
        .collect();
    next.routes = job.routes_of(lease).into_iter().filter(|r| default || !is_default(r)).collect();
    next.routes.extend(result.routes.iter().filter(others).cloned());
    Some(next)
}

/// A default route that the pod has from elsewhere meanwhile stays the only one.
async fn restore(links: &Netlink, index: u32, route: &cni::Route) -> NetResult<()> {
    let elsewhere = |r: &crate::net::Route| r.dst.prefix() == 0 && r.link != index;
    if route.dst.prefix() == 0 && links.routes(false).await?.iter().any(elsewhere) {
        return Ok(());
    }
    match links.add_route(&kernel_route(route, route.gw, index)).await {
        Err(e) if e.is(Errno::EEXIST) => Ok(()),
        // A gateway beyond the lease's own subnet; the address itself serves that.
        Err(e) if e.is(Errno::ENETUNREACH) => {
            tracing::warn!(error = %e, "a route of the lease is not set");
            Ok(())
        }
        other => other,
    }
}

async fn take_off(there: &There, address: Ipv4Addr) -> NetResult<()> {
    let all = there.links.addresses(there.link.index).await?;
    for found in all.iter().filter(|a| a.net.ip() == IpAddr::V4(address)) {
        match there.links.delete_address(there.link.index, &found.net).await {
            Err(e) if e.gone() => {}
            other => other?,
        }
    }
    Ok(())
}

/// The server gets the address back, if the link is still there to say so, and the record goes. The latter first: a keeper
/// that looks in between must not ask for the lease again. Only what keeps the record is a failure.
pub async fn release(dirs: &Dirs, container: &ContainerId, ifname: &IfName) -> Outcome<()> {
    let leases = Leases::new(dirs);
    let record = leases.read::<Job>(container, ifname);
    // Also where there is none: an ADD that was killed may have left a part of it.
    leases.remove(container, ifname)?;
    match record {
        Err(failure) => tracing::warn!(%failure, "the lease is left to its end"),
        Ok(Some(record)) if is_of_this_boot(dirs, &record) => farewell(&record.job, dirs).await,
        Ok(_) => {}
    }
    Ok(())
}

async fn farewell(job: &Job, dirs: &Dirs) {
    let Some(lease) = job.held() else { return };
    match exchange(&job.with(Step::Release(lease.clone()), FAREWELL), dirs).await {
        Ok(Answer::Gone) => tracing::info!(address = %lease.address, "the link is gone: the lease is left to its end"),
        Ok(_) => {}
        Err(failure) => tracing::warn!(%failure, address = %lease.address, "the lease is left to its end"),
    }
}

pub fn is_of_this_boot<J>(dirs: &Dirs, record: &LeaseRecord<J>) -> bool {
    dirs.boot_id().is_ok_and(|boot| boot == record.boot)
}
