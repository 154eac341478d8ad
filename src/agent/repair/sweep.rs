//! Entries of the journal whose container is gone: undone, as no runtime asks for it. Runtimes that were killed, or whose
//! own records were wiped, leave such entries, and with them addresses that nobody gets again.
//!
//! An entry that needs a plugin which is not here (an agent's image has none but this program) is left to the runtime's
//! DEL, and told once.
//!
//! Gone is what was seen to be gone twice, a minute apart; the lock must be free and the entry still the same. Not the API
//! server's word, nor anybody's list, makes it gone.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use super::sight::{Fate, fate};
use super::{Kind, Said, Tools};
use crate::attach;
use crate::meta;
use crate::store::Entry;
use crate::types::{AttachmentId, Code, Outcome, PodRef, Role};

/// Between the two looks.
pub const APART: Duration = Duration::from_secs(60);
/// Rounds come by a timer that may be a little early.
const TOLERANCE: Duration = Duration::from_secs(2);
/// After a failure, doubled up to an hour.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

#[derive(Default)]
pub struct Sweep {
    /// Seen to be gone: which entry, and since when on the boot clock.
    suspects: HashMap<AttachmentId, Suspect>,
    /// An entry that nobody can read, told once.
    told: HashSet<AttachmentId>,
    /// Told and left as they are: a plugin that they need is not here, or this is a dry run.
    left: HashSet<AttachmentId>,
}

struct Suspect {
    written: u64,
    since: Duration,
    tries: u32,
    not_before: Duration,
}

/// Of which pod, where, in which boot.
struct Origin {
    pod: Option<PodRef>,
    fate: Fate,
}

impl Sweep {
    /// One look at all entries; what was done, for people.
    pub async fn round(&mut self, tools: &Tools<'_>, entries: &[Entry]) -> Vec<Said> {
        let now = Duration::from_nanos(tools.dirs.now());
        let mut said = Vec::new();
        let mut ordered: Vec<&Entry> = entries.iter().collect();
        // The pod's own entry undoes its networks in their order, and theirs with them.
        ordered.sort_by_key(|e| (e.id.role != Role::Meta, e.id.clone()));
        let there: HashSet<&AttachmentId> = entries.iter().map(|e| &e.id).collect();
        self.suspects.retain(|id, _| there.contains(id));
        self.left.retain(|id| there.contains(id));
        for entry in ordered {
            let origin = match origin(entry, tools) {
                Ok(Some(origin)) => origin,
                Ok(None) => continue,
                Err(failure) => {
                    if self.told.insert(entry.id.clone()) {
                        tracing::error!(%failure, "an entry of the journal is left as it is");
                    }
                    continue;
                }
            };
            if origin.fate != Fate::Gone {
                self.left.remove(&entry.id);
            }
            if !self.left.contains(&entry.id) && self.is_due(entry, origin.fate, now) {
                said.extend(self.take(tools, entry, origin.pod, now).await);
            }
        }
        said
    }

    /// Whether it was gone before, long enough ago.
    fn is_due(&mut self, entry: &Entry, fate: Fate, now: Duration) -> bool {
        if fate != Fate::Gone {
            self.suspects.remove(&entry.id);
            return false;
        }
        let new = || Suspect { written: entry.written, since: now, tries: 0, not_before: Duration::ZERO };
        let suspect = self.suspects.entry(entry.id.clone()).or_insert_with(new);
        if suspect.written != entry.written {
            *suspect = new();
        }
        now.saturating_sub(suspect.since) + TOLERANCE >= APART && now >= suspect.not_before
    }

    async fn take(&mut self, tools: &Tools<'_>, entry: &Entry, pod: Option<PodRef>, now: Duration) -> Option<Said> {
        let say = |text: String, done| Some(Said { pod: pod.clone(), kind: Kind::Sweep, done, text, quiet: false });
        if tools.dry_run {
            self.left.insert(entry.id.clone());
            return say(format!("{} would be undone: its container is gone", entry.id), false);
        }
        let taken = match entry.id.role {
            Role::Meta => meta::take(tools.dirs, entry).await,
            _ => attach::take(tools.dirs, tools.host, tools.links, entry).await,
        };
        match taken {
            // Somebody is at work on it, or it went with its pod's own entry.
            Ok(false) => None,
            Ok(true) => {
                self.suspects.remove(&entry.id);
                say(format!("{} was undone: its container is gone, and no runtime asked for it", entry.id), true)
            }
            Err(failure) if failure.code == Code::PluginMissing => {
                self.left.insert(entry.id.clone());
                say(format!("{} is left to the runtime: its container is gone, but {}", entry.id, failure.msg), false)
            }
            Err(failure) => {
                let suspect = self.suspects.get_mut(&entry.id)?;
                let pause = FIRST_PAUSE.saturating_mul(1 << suspect.tries.min(6)).min(LONGEST_PAUSE);
                suspect.not_before = now + pause;
                suspect.tries += 1;
                tracing::warn!(attachment = %entry.id, %failure, again = pause.as_secs(), "its container is gone, and it cannot be undone");
                None
            }
        }
    }
}

/// `None`: of a role that is undone with another.
fn origin(entry: &Entry, tools: &Tools<'_>) -> Outcome<Option<Origin>> {
    let this_boot = |boot: &str| boot.is_empty() || tools.dirs.boot_id().map_or(true, |now| now == boot);
    let seen = |path: PathBuf, boot: &str, id| if this_boot(boot) { fate(&path, id) } else { Fate::Gone };
    if entry.id.role == Role::Meta {
        let place = meta::place(entry)?;
        let fate = seen(place.netns, &place.boot, place.pod_ns.as_ref());
        return Ok(Some(Origin { pod: place.pod, fate }));
    }
    let Some(place) = attach::place(entry)? else { return Ok(None) };
    let fate = seen(place.netns, &place.boot, Some(&place.pod_ns));
    Ok(Some(Origin { pod: place.pod, fate }))
}
