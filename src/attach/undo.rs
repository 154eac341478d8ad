//! Undoes what a record of the journal tells, whoever asks: a failed ADD, DEL, GC.
//!
//! Goes on after a failure and tells all of them; "already gone" is success. Acts only in the namespaces whose
//! identity the record has. Writes nothing; the entry goes last, and stays if anything failed.

use std::path::Path;

use crate::failpoint::hit;
use crate::net::{Link, LinkKind, Namespace, NetError, NetResult, Netlink, nft};
use crate::store::{Dirs, Entry, Journal};
use crate::types::{AttachmentId, Code, Failure, Outcome, Role};

use super::dhcp;
use super::fence;
use super::ipam;
use super::record::{self, Bind, Place, Wire, WireLink};

pub struct Undo<'a> {
    dirs: &'a Dirs,
    host: &'a Namespace,
    links: &'a Netlink,
    /// Another path to the pod's namespace, where the runtime names one.
    netns: Option<&'a Path>,
}

/// Failures of an undo that goes on.
#[derive(Default)]
struct Failures(Vec<Failure>);

impl Failures {
    fn note<T>(&mut self, done: Result<T, impl Into<Failure>>) {
        self.0.extend(done.err().map(Into::into));
    }

    fn outcome(self) -> Outcome<()> {
        Failure::first_of(self.0)
    }
}

impl<'a> Undo<'a> {
    pub fn new(dirs: &'a Dirs, host: &'a Namespace, links: &'a Netlink) -> Self {
        Self { dirs, host, links, netns: None }
    }

    pub fn with_netns(mut self, netns: Option<&'a Path>) -> Self {
        self.netns = netns;
        self
    }

    pub async fn entry(&self, entry: &Entry) -> Outcome<()> {
        match entry.id.role {
            Role::Wire => self.wire(&entry.id, &entry.network, &record::read(entry)?).await,
            Role::Bind => self.bind(&entry.id, &record::read(entry)?).await,
            // Only later versions of this program write such an entry.
            Role::Ipam => Ok(()),
            // The meta plugin's own: it undoes networks, and we are one of them.
            Role::Meta => Ok(()),
        }
    }

    pub async fn wire(&self, id: &AttachmentId, network: &str, wire: &Wire) -> Outcome<()> {
        let mut failures = Failures::default();
        // The server is told over the link.
        failures.note(self.farewell(id, wire).await);
        let unlinked = self.link(id, wire).await;
        let linked = unlinked.is_err();
        failures.note(unlinked);
        failures.note(self.rules(id, network, wire));
        // A link that is still there has them still: nobody else may get them.
        if !linked {
            failures.note(self.addresses(id, wire));
        }
        failures.outcome()?;
        self.forget(id)
    }

    /// Addresses and filters alone: what a DEL without a namespace does of a drop-in's wire.
    pub async fn all_but_link(&self, id: &AttachmentId, network: &str, wire: &Wire) -> Outcome<()> {
        let mut failures = Failures::default();
        failures.note(self.farewell(id, wire).await);
        failures.note(self.rules(id, network, wire));
        failures.note(self.addresses(id, wire));
        failures.outcome()
    }

    pub async fn bind(&self, id: &AttachmentId, bind: &Bind) -> Outcome<()> {
        let mut failures = Failures::default();
        if let Some(pod) = self.pod(&bind.place) {
            failures.note(tap(&pod, bind).await);
        }
        // After the tap: until then a guest may ask.
        failures.note(self.fence(bind).await);
        failures.outcome()?;
        self.forget(id)
    }

    async fn fence(&self, bind: &Bind) -> NetResult<()> {
        let Some(guest) = &bind.guest else { return Ok(()) };
        if !bind.place.of_this_boot(self.dirs) || self.host.id()? != bind.place.host_ns {
            return Ok(());
        }
        fence::take_away(self.links, guest.host_index, bind.link, bind.clsact).await
    }

    fn forget(&self, id: &AttachmentId) -> Outcome<()> {
        Journal(self.dirs).remove(id)?;
        hit("entry removed");
        Ok(())
    }

    /// The pod's namespace, if it is still the one that the record means.
    pub fn pod(&self, place: &Place) -> Option<Namespace> {
        let paths = [Some(place.netns.as_path()), self.netns];
        paths
            .into_iter()
            .flatten()
            .find_map(|p| Namespace::open(p).ok().filter(|ns| place.is_in(ns, self.dirs).unwrap_or(false)))
    }

    async fn link(&self, id: &AttachmentId, wire: &Wire) -> NetResult<()> {
        match &wire.link {
            WireLink::Bridge { host, host_index, .. }
                if wire.place.of_this_boot(self.dirs) && self.host.id()? == wire.place.host_ns =>
            {
                // One end is enough: the kernel takes the other with it.
                match self.host_end(host.as_str(), *host_index, wire.pod_index).await? {
                    Some(link) => delete(self.links, link.index).await,
                    None => Ok(()),
                }
            }
            // The node itself is another one now, and its links are gone with its namespace.
            WireLink::Bridge { .. } => Ok(()),
            WireLink::Macvlan { master_index, .. } => {
                let Some(pod) = self.pod(&wire.place) else { return Ok(()) };
                let links = pod.netlink()?;
                for link in macvlans(&links, id, wire.pod_index, *master_index).await? {
                    delete(&links, link.index).await?;
                }
                Ok(())
            }
        }
    }

    /// By its name, which is ours alone; by its number where somebody renamed it and its peer is the recorded one.
    async fn host_end(&self, name: &str, index: Option<u32>, peer: Option<u32>) -> NetResult<Option<Link>> {
        let veth = |l: &Link| l.kind == LinkKind::Veth;
        if let Some(link) = self.links.link(name).await?.filter(veth)
            && index.is_none_or(|i| i == link.index)
        {
            return Ok(Some(link));
        }
        match (index, peer) {
            (Some(index), Some(peer)) => {
                Ok(self.links.link_at(index).await?.filter(|l| veth(l) && l.lower == Some(peer)))
            }
            _ => Ok(None),
        }
    }

    fn rules(&self, id: &AttachmentId, network: &str, wire: &Wire) -> Outcome<()> {
        let (container, ifname) = (id.container.as_str(), id.ifname.as_str());
        if wire.macspoofchk {
            nft::remove_spoof_guard(container, ifname).map_err(packet_filter)?;
            hit("spoof guard removed");
        }
        if wire.masquerade {
            nft::remove_masquerade(&nft::Masquerade { network, container, ifname, addresses: &[] })
                .map_err(packet_filter)?;
            hit("masquerade removed");
        }
        Ok(())
    }

    async fn farewell(&self, id: &AttachmentId, wire: &Wire) -> Outcome<()> {
        if let Some(record::Ipam::Dhcp) = wire.ipam {
            dhcp::release(self.dirs, &id.container, &id.ifname).await?;
            hit("lease released");
        }
        Ok(())
    }

    fn addresses(&self, id: &AttachmentId, wire: &Wire) -> Outcome<()> {
        wire.ipam.as_ref().map_or(Ok(()), |i| ipam::release(self.dirs, id, &wire.place, i))
    }
}

/// A failure of the packet filter has a code of its own.
pub fn packet_filter(e: NetError) -> Failure {
    Failure { code: Code::PacketFilter, ..e.into() }
}

/// The attachment's macvlan: by its number, or, where none was written down, by its name and that under which net makes
/// a link whose name the node has too. Whoever was killed in between held the container's lock, so such a name is
/// nobody else's.
async fn macvlans(links: &Netlink, id: &AttachmentId, index: Option<u32>, master: u32) -> NetResult<Vec<Link>> {
    let mut found = match index {
        Some(index) => links.link_at(index).await?.into_iter().collect(),
        None => links.links().await?,
    };
    let ours = |l: &Link| l.lower == Some(master) && (l.name == id.ifname.as_str() || l.name.starts_with("trm"));
    found.retain(|l| matches!(l.kind, LinkKind::Macvlan { .. }) && (index.is_some() || ours(l)));
    Ok(found)
}

async fn tap(pod: &Namespace, bind: &Bind) -> NetResult<()> {
    let links = pod.netlink()?;
    if bind.ingress && ours_at_ingress(&links, bind).await? {
        gone_is_fine(links.clear_ingress(bind.link).await)?;
        hit("redirect removed");
    }
    let found = links.link(bind.tap.as_str()).await?;
    let ours = |l: &Link| matches!(l.kind, LinkKind::Tun { .. }) && bind.tap_index.is_none_or(|i| i == l.index);
    match found.filter(ours) {
        Some(tap) => delete(&links, tap.index).await,
        None => Ok(()),
    }
}

/// Whether what is at the link's ingress is the bind step's: a redirect to its tap, be that gone, or no filter yet. The
/// filter of the LAN's answers comes after the redirect.
/// Between the record and the qdisc somebody else may have put theirs there.
async fn ours_at_ingress(links: &Netlink, bind: &Bind) -> NetResult<bool> {
    let filters = match links.ingress_filters(bind.link).await {
        Err(e) if e.gone() => return Ok(false),
        filters => filters?,
    };
    let to_tap = |to: &u32| *to == 0 || Some(*to) == bind.tap_index;
    Ok(filters.is_empty() || filters.iter().flatten().any(to_tap))
}

/// Deletes a link; gone is success.
pub async fn delete(links: &Netlink, index: u32) -> NetResult<()> {
    gone_is_fine(links.delete_link(index).await)?;
    hit("link removed");
    Ok(())
}

fn gone_is_fine(done: NetResult<()>) -> NetResult<()> {
    match done {
        Err(e) if e.gone() => Ok(()),
        other => other,
    }
}
