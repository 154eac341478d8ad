//! What a bind step has made inside a machine's pod, held against the kernel, and put back: the two redirects between the
//! pod's link and the tap, and before the one to the tap the filter of the LAN's DHCP answers.
//!
//! ```text
//! agent ─ Round ─→ `trestle dhcp mend` ─ mend() ─→ one Finding for each     (a child, which enters namespaces, and ends)
//! ```
//! A namespace is the pod's by its identity, a link by its number in it. A tap that is gone is left: it is its maker's
//! label that lets QEMU have one. Who looks, and when, is not known here.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::failpoint::hit;
use crate::net::{Hook, LinkKind, Namespace, NetError, NetResult, Netlink, Sieve};
use crate::store::{ContainerLock, Dirs, Entry, Journal};
use crate::types::{AttachmentId, Outcome, PodRef, Role};

use super::record::{self, Bind};

/// Kind of the qdisc that the bind step has made on either link.
const INGRESS: &str = "ingress";

/// A machine's interface whose bind step came to its end, by its entry.
pub struct Joined {
    pub entry: Entry,
    pub pod: Option<PodRef>,
    pub network: String,
    /// Of the pod's namespace, as the node sees it.
    pub netns: PathBuf,
}

/// All that the journal has of this boot and this node.
pub fn joined(entries: &[Entry], dirs: &Dirs, host: &Namespace) -> Outcome<Vec<Joined>> {
    let here = host.id()?;
    let mut found = Vec::new();
    for entry in entries.iter().filter(|e| e.id.role == Role::Bind) {
        // One that cannot be read is told by whoever looks at the host's end.
        let Ok(bind) = record::read::<Bind>(entry) else { continue };
        let ours = bind.place.of_this_boot(dirs) && bind.place.host_ns == here;
        if ours && bind.ingress && bind.tap_index.is_some() {
            let (entry, pod, network, netns) = (entry.clone(), bind.place.pod, bind.network, bind.place.netns);
            found.push(Joined { entry, pod, network, netns });
        }
    }
    Ok(found)
}

/// What a child is to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Everything is said and nothing done.
    pub dry_run: bool,
    /// Each with the path by which its pod's namespace is seen from here.
    pub of: Vec<(AttachmentId, PathBuf)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub done: bool,
    /// For a person.
    pub text: String,
}

/// One for each, in their order; none where all is well, somebody is at work on the container, or nothing is there.
pub async fn mend(round: &Round, dirs: &Dirs) -> Vec<Option<Finding>> {
    let mut findings = Vec::with_capacity(round.of.len());
    for (id, netns) in &round.of {
        findings.push(one(id, netns, dirs, round.dry_run).await.unwrap_or_else(|failure| {
            Some(Finding { done: false, text: format!("what joins it to its tap cannot be put right: {failure}") })
        }));
    }
    findings
}

async fn one(id: &AttachmentId, netns: &Path, dirs: &Dirs, dry_run: bool) -> Outcome<Option<Finding>> {
    let Some(_lock) = ContainerLock::try_lock(dirs, &id.container)? else { return Ok(None) };
    let Some(entry) = Journal(dirs).read(id)? else { return Ok(None) };
    let bind: Bind = record::read(&entry)?;
    // Gone, or not to be seen: either is the sweep's business.
    let Ok(pod) = Namespace::open(netns) else { return Ok(None) };
    if !bind.place.is_in(&pod, dirs)? {
        return Ok(None);
    }
    let missing = match put_right(&pod.netlink()?, &bind, dry_run).await {
        // The link went meanwhile.
        Err(e) if e.is(Errno::ENODEV) => return Ok(None),
        missing => missing?,
    };
    let text = if dry_run { "would be put back" } else { "was put back: somebody had taken it away" };
    let finding = |all: Vec<&str>| Finding { done: !dry_run, text: format!("{} {text}", all.join(", and ")) };
    Ok(Some(missing).filter(|all| !all.is_empty()).map(finding))
}

/// One direction, from the ingress of a link.
struct Way {
    from: u32,
    to: u32,
    sieve: Option<Sieve>,
    text: &'static str,
}

/// Returns what was missing.
async fn put_right(links: &Netlink, bind: &Bind, dry_run: bool) -> NetResult<Vec<&'static str>> {
    let Some(tap) = bind.tap_index else { return Ok(Vec::new()) };
    let (link, there) = (links.link_at(bind.link).await?, links.link_at(tap).await?);
    if link.is_none() || !there.is_some_and(|t| matches!(t.kind, LinkKind::Tun { .. })) {
        return Ok(Vec::new());
    }
    let sieve = bind.guest.as_ref().map(|guest| guest.at_pod());
    let ways = [
        Way { from: bind.link, to: tap, sieve, text: "the redirect to its tap" },
        Way { from: tap, to: bind.link, sieve: None, text: "the redirect from its tap" },
    ];
    let mut missing = Vec::new();
    for way in &ways {
        missing.extend(way.put_right(links, dry_run).await?);
    }
    Ok(missing)
}

impl Way {
    async fn put_right(&self, links: &Netlink, dry_run: bool) -> NetResult<Vec<&'static str>> {
        let kind = links.ingress_kind(self.from).await?;
        let sieved = match &self.sieve {
            Some(sieve) => links.has_sieve(self.from, Hook::Ingress, sieve).await?,
            None => true,
        };
        let leads = kind.is_some() && links.ingress_filters(self.from).await?.contains(&Some(self.to));
        let all = [(sieved, "the filter that keeps the LAN's DHCP from it"), (leads, self.text)];
        let missing = all.into_iter().filter_map(|(there, text)| (!there).then_some(text)).collect::<Vec<_>>();
        if !missing.is_empty() && !dry_run {
            self.carry_out(links, kind.as_deref(), sieved, leads).await?;
        }
        Ok(missing)
    }

    /// The filter first: no answer of the LAN's comes by a redirect without it.
    async fn carry_out(&self, links: &Netlink, kind: Option<&str>, sieved: bool, leads: bool) -> NetResult<()> {
        match kind {
            Some(INGRESS) => {}
            Some(other) => {
                let object = format!("of link {}: a qdisc {other} of somebody else's is there", self.from);
                return Err(NetError::new("put back the filters", object, Errno::EEXIST));
            }
            None => {
                links.make_ingress(self.from).await?;
                hit("ingress qdisc back");
            }
        }
        if let Some(sieve) = self.sieve.filter(|_| !sieved) {
            links.put_sieve(self.from, Hook::Ingress, &sieve).await?;
            hit("LAN's answers kept away again");
        }
        if !leads {
            links.add_redirect(self.from, self.to).await?;
            hit("redirect back");
        }
        Ok(())
    }
}
