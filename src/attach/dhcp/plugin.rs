//! `dhcp` as a plugin of its own, which another main plugin runs for the address: what it answers to each verb. It asks no
//! daemon; a keeper renews what its ADD has got.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::Value;

use super::section::{Dhcp, Target};
use super::{is_of_this_boot, release};
use crate::cni::{AddResult, Call, Verb, valid_attachments};
use crate::ipam::dhcp::{Job, Lease};
use crate::net::{LinkChange, Namespace};
use crate::plan::PodFacts;
use crate::store::{Dirs, LeaseRecord, Leases};
use crate::types::{Code, ContainerId, Failure, IfName, Outcome};

pub async fn plugin(call: &Call, dirs: &Dirs, facts: &PodFacts) -> Outcome<Option<Value>> {
    match call.verb {
        Verb::Gc => gc(call, dirs).await?,
        Verb::Status => Dhcp::parse(&call.conf, &call.args).and_then(|_| dirs.must_have_room())?,
        Verb::Version => {}
        Verb::Add | Verb::Check | Verb::Del => {
            let (Some(container), Some(ifname)) = (&call.container, &call.ifname) else {
                return Err(Failure::new(Code::Environment, "CNI_CONTAINERID or CNI_IFNAME not set"));
            };
            match call.verb {
                Verb::Add => return add(call, dirs, facts, container, ifname).await.map(Some),
                Verb::Check => check(call, dirs, container, ifname)?,
                _ => release(dirs, container, ifname).await?,
            }
        }
    }
    Ok(None)
}

async fn add(call: &Call, dirs: &Dirs, facts: &PodFacts, container: &ContainerId, ifname: &IfName) -> Outcome<Value> {
    let section = Dhcp::parse(&call.conf, &call.args)?;
    let Some(netns) = &call.netns else { return Err(Failure::new(Code::Environment, "CNI_NETNS not set")) };
    let namespace = Namespace::open(netns)?;
    // As the reference, which keeps one lease for each: another ADD hears of it without a packet.
    if let Some(lease) = running(call, dirs, &namespace, container, ifname)? {
        return printed(section.result(&lease), call);
    }
    let links = namespace.netlink()?;
    let Some(link) = links.link(ifname.as_str()).await? else {
        return Err(Failure::new(Code::NamespaceGone, format!("{}: no interface {ifname}", netns.display()))
            .remedy("dhcp gives an address to an interface that another plugin has made"));
    };
    if !link.up {
        links.set_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() }).await?;
    }
    let lease = section.acquire(&Target {
        dirs,
        facts,
        container,
        ifname,
        network: call.name.as_str(),
        netns,
        namespace: &namespace,
        index: link.index,
        mac: link.mac,
        mtu: None,
        vm: facts.what_for(ifname, true).is_vm(),
        sets: false,
        patience: Duration::ZERO,
    })?;
    let result = printed(lease, call);
    if result.is_err() {
        release(dirs, container, ifname).await?;
    }
    result
}

fn printed(lease: crate::ipam::Lease, call: &Call) -> Outcome<Value> {
    AddResult { ips: lease.ips, routes: lease.routes, dns: lease.dns, ..AddResult::default() }.to_json(call.version)
}

/// The lease of an earlier ADD of this very attachment, unless it has run out.
fn running(
    call: &Call,
    dirs: &Dirs,
    namespace: &Namespace,
    container: &ContainerId,
    ifname: &IfName,
) -> Outcome<Option<Lease>> {
    let record = match Leases::new(dirs).read::<Job>(container, ifname) {
        Err(broken) => {
            tracing::warn!(failure = %broken, "a new lease takes its place");
            return Ok(None);
        }
        Ok(record) => record.filter(|r| r.network == call.name.as_str() && is_of_this_boot(dirs, r)),
    };
    let Some(record) = record else { return Ok(None) };
    let here = namespace.id()?.cookie().is_none_or(|cookie| cookie == record.job.cookie);
    Ok(record.job.held().filter(|lease| here && runs(dirs, &record, lease)).cloned())
}

fn runs<J>(dirs: &Dirs, record: &LeaseRecord<J>, lease: &Lease) -> bool {
    let age = (dirs.now() / 1_000_000).saturating_sub(record.got_at) / 1000;
    lease.seconds == Lease::FOR_EVER || age < u64::from(lease.seconds)
}

/// Whether there is a lease; that its address is on the link is checked by whoever put it there.
pub fn check(call: &Call, dirs: &Dirs, container: &ContainerId, ifname: &IfName) -> Outcome<()> {
    Dhcp::parse(&call.conf, &call.args)?;
    let record = Leases::new(dirs).read::<Job>(container, ifname)?;
    match record.filter(|r| r.network == call.name.as_str() && is_of_this_boot(dirs, r)) {
        Some(_) => Ok(()),
        None => Err(Failure::new(Code::IpamMissing, format!("network {}: {ifname} has no lease", call.name))
            .remedy("re-create the pod")),
    }
}

/// Of the same network, those that the runtime does not name any more. A missing list collects nothing.
async fn gc(call: &Call, dirs: &Dirs) -> Outcome<()> {
    let Some(valid) = valid_attachments(&call.conf)? else { return Ok(()) };
    let valid: HashSet<(&str, &str)> = valid.iter().map(|(c, i)| (c.as_str(), i.as_str())).collect();
    let began = dirs.now() / 1_000_000;
    let mut failures = Vec::new();
    for record in Leases::new(dirs).all::<Job>()? {
        let record = match record {
            Ok(record) => record,
            Err(broken) => {
                tracing::error!(failure = %broken, "a lease's record is left as it is");
                continue;
            }
        };
        let named = valid.contains(&(record.container.as_str(), record.ifname.as_str()));
        let younger = is_of_this_boot(dirs, &record) && record.made >= began;
        // What the wires' journal has is collected with its wire.
        if named || younger || record.network != call.name.as_str() || record.job.routes.is_some() {
            continue;
        }
        failures.extend(release(dirs, &record.container, &record.ifname).await.err());
    }
    Failure::first_of(failures)
}
