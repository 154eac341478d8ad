//! The machines that the journal has with an address to be given, for whoever answers their DHCP.
//!
//! Reads files alone: neither the links nor what the machines ask are looked at here.

use crate::ipam::dhcp::Job;
use crate::net::Namespace;
use crate::store::{Dirs, Entry, Journal, LeaseRecord, Leases};
use crate::types::{ContainerId, IfName, Outcome, PodRef, Role};

use super::dhcp::is_of_this_boot;
use super::record::{self, Bind, Guest};

/// One of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Served {
    pub container: ContainerId,
    /// Of the bind step's entry.
    pub ifname: IfName,
    pub pod: Option<PodRef>,
    /// As the machine's specification calls it.
    pub network: String,
    /// Number of the link in the pod, whose other end the guest is answered at.
    pub link: u32,
    pub guest: Guest,
    pub terms: Terms,
}

/// What the address rests on.
#[derive(Debug, Clone, PartialEq)]
pub enum Terms {
    /// `guest.given`, for as long as the machine lives.
    Given,
    /// A lease that a keeper renews; it tells what is given.
    Lease(Box<LeaseRecord<Job>>),
    /// A lease whose record is not there (any more): nothing can be said to the guest.
    NoLease,
}

/// All of this boot and this node. An entry that cannot be read is a failure beside the others.
pub fn guests(dirs: &Dirs, host: &Namespace) -> Outcome<Vec<Outcome<Served>>> {
    let served = |entry: Outcome<Entry>| entry.and_then(|e| served(&e, dirs, host)).transpose();
    Ok(Journal(dirs).all()?.into_iter().filter_map(served).collect())
}

/// `None`: an entry of another kind, of another boot or node, or a machine that is given nothing.
pub fn served(entry: &Entry, dirs: &Dirs, host: &Namespace) -> Outcome<Option<Served>> {
    if entry.id.role != Role::Bind {
        return Ok(None);
    }
    let bind: Bind = record::read(entry)?;
    let here = bind.place.of_this_boot(dirs) && bind.place.host_ns == host.id()?;
    let Some(guest) = bind.guest.filter(|_| here) else { return Ok(None) };
    let container = &entry.id.container;
    let terms = match &guest.lease {
        None => Terms::Given,
        Some(key) => match Leases::new(dirs).read::<Job>(container, key)?.filter(|r| is_of_this_boot(dirs, r)) {
            Some(record) => Terms::Lease(Box::new(record)),
            None => Terms::NoLease,
        },
    };
    let (container, ifname, link) = (container.clone(), entry.id.ifname.clone(), bind.link);
    Ok(Some(Served { container, ifname, pod: bind.place.pod, network: bind.network, link, guest, terms }))
}
