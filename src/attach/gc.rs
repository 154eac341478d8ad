//! GC: undoes the attachments of one network that the runtime does not name any more.

use std::collections::HashSet;

use serde::Deserialize;

use crate::cni::{Call, valid_attachments};
use crate::net::{Namespace, Netlink};
use crate::store::{Dirs, Entry, Journal};
use crate::types::{Code, IfName, Outcome, Role};

use super::record::{self, Place};
use super::undo::Undo;

/// What is needed here of the meta plugin's record.
#[derive(Deserialize)]
struct Pod {
    networks: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    ifname: IfName,
}

/// Only entries made under the same `name`; those that are locked, younger than this call, or part of a pod of the meta
/// plugin, are left. A list that is missing collects nothing.
pub async fn gc(call: &Call, dirs: &Dirs, started: u64) -> Outcome<()> {
    let Some(valid) = valid_attachments(&call.conf)? else { return Ok(()) };
    let valid: HashSet<(&str, &str)> = valid.iter().map(|(c, i)| (c.as_str(), i.as_str())).collect();
    let host = Namespace::own()?;
    let links = host.netlink()?;
    let mut failed = None;
    for entry in Journal(dirs).all()? {
        let entry = match entry {
            Ok(entry) => entry,
            Err(broken) => {
                tracing::error!(failure = %broken, "an entry of the journal is left as it is");
                continue;
            }
        };
        let key = (entry.id.container.as_str(), entry.id.ifname.as_str());
        if entry.network != call.name.as_str() || valid.contains(&key) || is_younger(dirs, &entry, started) {
            continue;
        }
        match owned_by_pod(dirs, &entry) {
            Ok(false) => {}
            Ok(true) => continue,
            Err(failure) => {
                failed = Some(failure);
                continue;
            }
        }
        match collect(dirs, &host, &links, &entry).await {
            Err(broken) if broken.code == Code::JournalBroken => {
                tracing::error!(failure = %broken, "an entry of the journal is left as it is");
            }
            Err(failure) => {
                tracing::error!(attachment = %entry.id, %failure, "the attachment could not be collected");
                failed = Some(failure);
            }
            Ok(()) => {}
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Whether the entry is part of a pod that the meta plugin attached: it came by a call under another name, and goes
/// by one. Where the pod's entry cannot be read, all of the container may be.
fn owned_by_pod(dirs: &Dirs, entry: &Entry) -> Outcome<bool> {
    let journal = Journal(dirs);
    if !journal.has(&entry.id.container, Role::Meta)? {
        return Ok(false);
    }
    let all = journal.of_container(&entry.id.container)?;
    let metas: Vec<Option<Pod>> = all
        .iter()
        .filter(|e| e.as_ref().map_or(true, |e| e.id.role == Role::Meta))
        .map(|e| e.as_ref().ok().and_then(|e| e.record.parse().ok()))
        .collect();
    let has = |pod: &Pod| pod.networks.iter().any(|one| one.ifname == entry.id.ifname);
    Ok(metas.is_empty() || metas.iter().any(|pod| pod.as_ref().is_none_or(has)))
}

/// The clock begins anew with each boot, and whatever an earlier one has left is older.
fn is_younger(dirs: &Dirs, entry: &Entry, started: u64) -> bool {
    entry.written >= started && record::read::<Place>(entry).is_ok_and(|place| place.of_this_boot(dirs))
}

async fn collect(dirs: &Dirs, host: &Namespace, links: &Netlink, entry: &Entry) -> Outcome<()> {
    if take(dirs, host, links, entry).await? {
        tracing::info!(attachment = %entry.id, network = %entry.network, "collected: the runtime does not name it any more");
    }
    Ok(())
}

/// Undoes an attachment that nobody needs any more, unless somebody is at work on it, or the entry is another one's by now:
/// then `false`.
pub async fn take(dirs: &Dirs, host: &Namespace, links: &Netlink, entry: &Entry) -> Outcome<bool> {
    let Some(_lock) = Journal(dirs).hold(entry)? else { return Ok(false) };
    Undo::new(dirs, host, links).entry(entry).await.map(|()| true)
}
