//! Filters that keep a machine's DHCP apart from its LAN's, where the agent gives it its address.
//!
//! ```text
//! LAN ─ bridge ─ host's end │ ingress: no question of the guest, no ARP for the server's address; but our own client's
//!                           │ egress: no answer that pretends to be ours
//! pod's end, ingress: no answer but ours (the host's end's MAC as its source), then the redirect to the tap
//! ```
//! Who answers sits at the host's end: a packet socket hears a question before the filter, and answers past the other
//! (PACKET_QDISC_BYPASS). Our client hears the LAN's answer at the pod's end in the same way. What is asked and answered
//! is not known here.

use std::net::Ipv4Addr;

use crate::failpoint::hit;
use crate::net::{CLSACT, Hook, Link, LinkKind, Namespace, NetResult, Netlink, Sender, Sieve};
use crate::store::{ContainerLock, Dirs, Entry, Journal};
use crate::types::{Code, Failure, Outcome, PodRef, Role};

use super::dhcp::stranger;
use super::record::{self, Bind, Guest};

/// The server's id of what is given to a guest (DHCP option 54). Link-local: no router carries it anywhere, and no LAN's
/// server has it.
pub const SERVER_ID: Ipv4Addr = Ipv4Addr::new(169, 254, 67, 67);

/// Ports of DHCP.
const SERVER: u16 = 67;
const CLIENT: u16 = 68;

impl Guest {
    fn at_host(&self) -> [(Hook, Sieve); 2] {
        let questions = Sieve { udp_to: SERVER, arp_for: Some(SERVER_ID), from: Sender::AllBut(stranger(self.mac)) };
        let pretended = Sieve { udp_to: CLIENT, arp_for: None, from: Sender::Only(self.host_mac) };
        [(Hook::Ingress, questions), (Hook::Egress, pretended)]
    }

    pub(super) fn at_pod(&self) -> Sieve {
        Sieve { udp_to: CLIENT, arp_for: None, from: Sender::AllBut(self.host_mac) }
    }

    /// Whether this is the host's end, and not a later link of its number.
    fn is_host_end(&self, link: &Link, pod_index: u32) -> bool {
        link.index == self.host_index && link.kind == LinkKind::Veth && link.lower == Some(pod_index)
    }
}

/// Before anything is changed: a link has place for one such qdisc, and at the egress a foreign `ingress` has none.
/// Returns whether a `clsact` must be made.
pub async fn must_make_clsact(links: &Netlink, network: &str, guest: &Guest) -> Outcome<bool> {
    let kind = match links.ingress_kind(guest.host_index).await? {
        None => return Ok(true),
        Some(kind) if kind == CLSACT => return Ok(false),
        Some(kind) => kind,
    };
    let name = links.link_at(guest.host_index).await?.map(|l| l.name).unwrap_or_default();
    let msg = format!(
        "network {network}: {name}, the host's end of the machine's link, has a qdisc {kind} of somebody else's already"
    );
    Err(Failure::new(Code::Kernel, msg).remedy(format!(
        "`tc qdisc show dev {name}`; the machine's DHCP is kept from the LAN there, which a qdisc clsact has place for beside other filters"
    )))
}

/// At the pod's end, whose ingress qdisc is there already.
pub async fn inside(pod_links: &Netlink, link: u32, guest: &Guest) -> NetResult<()> {
    pod_links.put_sieve(link, Hook::Ingress, &guest.at_pod()).await?;
    hit("LAN's answers kept away");
    Ok(())
}

/// At the host's end. `clsact`: it is to be made.
pub async fn outside(links: &Netlink, guest: &Guest, clsact: bool) -> NetResult<()> {
    if clsact {
        // False: another's is there meanwhile, and serves.
        links.make_clsact(guest.host_index).await?;
        hit("clsact");
    }
    for (hook, sieve) in guest.at_host() {
        links.put_sieve(guest.host_index, hook, &sieve).await?;
        hit("filter at the host's end");
    }
    Ok(())
}

/// What is missing, for a person.
pub async fn missing(links: &Netlink, pod_links: &Netlink, bind: &Bind, guest: &Guest) -> Outcome<Option<String>> {
    if links.link_at(guest.host_index).await?.is_none_or(|l| !guest.is_host_end(&l, bind.link)) {
        return Ok(Some(format!("the host's end of link {} is gone", bind.link)));
    }
    if !stands(links, guest).await? {
        return Ok(Some("a filter at the host's end is gone: the guest's DHCP reaches the LAN".into()));
    }
    let inside = pod_links.has_sieve(bind.link, Hook::Ingress, &guest.at_pod()).await?;
    Ok((!inside).then(|| "the filter at the pod's end is gone: the LAN's DHCP reaches the guest".into()))
}

async fn stands(links: &Netlink, guest: &Guest) -> NetResult<bool> {
    for (hook, sieve) in guest.at_host() {
        if !links.has_sieve(guest.host_index, hook, &sieve).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// At the host's end; the pod's end's goes with its qdisc. A link that is gone took them with it. `clsact`: the qdisc is
/// ours, and goes unless somebody uses it.
pub async fn take_away(links: &Netlink, host_index: u32, pod_index: u32, clsact: bool) -> NetResult<()> {
    let there = links.link_at(host_index).await?.filter(|l| l.kind == LinkKind::Veth && l.lower == Some(pod_index));
    if there.is_none() {
        return Ok(());
    }
    for hook in [Hook::Ingress, Hook::Egress] {
        links.take_sieve(host_index, hook).await?;
        hit("filter at the host's end removed");
    }
    if clsact {
        links.clear_clsact(host_index).await?;
        hit("clsact removed");
    }
    Ok(())
}

/// The filters of one machine at the host's end, for whoever keeps them there.
pub struct Fence {
    pub entry: Entry,
    pub pod: Option<PodRef>,
    pub network: String,
    bind: Bind,
    guest: Guest,
}

/// All that the journal has of this boot and this node.
pub fn fences(entries: &[Entry], dirs: &Dirs, host: &Namespace) -> Outcome<Vec<Fence>> {
    let here = host.id()?;
    let mut found = Vec::new();
    for entry in entries.iter().filter(|e| e.id.role == Role::Bind) {
        let bind: Bind = match record::read(entry) {
            Ok(bind) => bind,
            Err(failure) => {
                tracing::error!(%failure, "an entry of the journal is left as it is");
                continue;
            }
        };
        let ours = bind.place.of_this_boot(dirs) && bind.place.host_ns == here;
        if let Some(guest) = bind.guest.clone().filter(|_| ours) {
            let (entry, pod, network) = (entry.clone(), bind.place.pod.clone(), bind.network.clone());
            found.push(Fence { entry, pod, network, bind, guest });
        }
    }
    Ok(found)
}

impl Fence {
    /// Also where the link is gone: its pod goes, too.
    pub async fn is_sound(&self, links: &Netlink) -> NetResult<bool> {
        match links.link_at(self.guest.host_index).await? {
            Some(link) if self.guest.is_host_end(&link, self.bind.link) => match stands(links, &self.guest).await {
                Err(e) if e.gone() => Ok(true),
                stands => stands,
            },
            _ => Ok(true),
        }
    }

    /// Whether something was done; not where somebody is at work on the container, or all is well by now.
    pub async fn mend(&self, dirs: &Dirs, links: &Netlink) -> Outcome<bool> {
        let Some(_lock) = ContainerLock::try_lock(dirs, &self.entry.id.container)? else { return Ok(false) };
        let journal = Journal(dirs);
        if journal.read(&self.entry.id)?.as_ref() != Some(&self.entry) || self.is_sound(links).await? {
            return Ok(false);
        }
        let clsact = must_make_clsact(links, &self.network, &self.guest).await?;
        if clsact && !self.bind.clsact {
            // The one that was there before us went with its filters: this one is ours to take away.
            let network = self
                .entry
                .network
                .parse()
                .map_err(|e| Failure::new(Code::JournalBroken, format!("{}: {e}", self.entry.id)))?;
            journal.write(&self.entry.id, &network, &Bind { clsact, ..self.bind.clone() })?;
        }
        outside(links, &self.guest, clsact).await?;
        Ok(true)
    }
}
