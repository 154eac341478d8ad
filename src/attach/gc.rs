//! GC: undoes the attachments of one network that the runtime does not name any more.

use std::collections::HashSet;

use crate::cni::{Call, valid_attachments};
use crate::net::{Namespace, Netlink};
use crate::store::{Dirs, Entry, Journal};
use crate::types::{Code, Outcome};

use super::record::{self, Place};
use super::undo::Undo;

/// Only entries made under the same `name`; those that are locked, or younger than this call, are left. A list that is
/// missing collects nothing.
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
