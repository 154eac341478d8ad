//! How often attachments were mended, and what was told of each, so that it is told once. A later writing of an entry is
//! another attachment. What is amiss, and how often is enough, is not known here.

use std::collections::{HashMap, HashSet};

use super::{Kind, Said};
use crate::store::Entry;
use crate::types::{AttachmentId, PodRef};

/// Whose attachment it is, and the name that people know it by.
pub struct Subject<'a> {
    pub entry: &'a Entry,
    pub pod: &'a Option<PodRef>,
    pub kind: Kind,
    pub name: &'a str,
}

impl Subject<'_> {
    pub fn say(&self, text: &str, done: bool) -> Said {
        let text = format!("{}: {text}", self.name);
        Said { pod: self.pod.clone(), kind: self.kind, done, text, quiet: false }
    }
}

#[derive(Default)]
pub struct Told(HashMap<AttachmentId, Mended>);

#[derive(Default)]
pub struct Mended {
    /// Of which writing of the entry.
    written: u64,
    pub times: u32,
    last: Option<String>,
}

impl Told {
    /// All others are forgotten.
    pub fn keep<'e>(&mut self, entries: impl Iterator<Item = &'e Entry>) {
        if !self.0.is_empty() {
            let there: HashSet<_> = entries.map(|e| &e.id).collect();
            self.0.retain(|id, _| there.contains(id));
        }
    }

    pub fn of(&mut self, entry: &Entry) -> &mut Mended {
        let mended = self.0.entry(entry.id.clone()).or_default();
        if mended.written != entry.written {
            *mended = Mended { written: entry.written, ..Mended::default() };
        }
        mended
    }

    /// All is well with it: what befalls it from now on is told again.
    pub fn sound(&mut self, entry: &Entry) {
        if let Some(mended) = self.0.get_mut(&entry.id) {
            mended.last = None;
        }
    }

    /// What is not done; `None` where the same was told last.
    pub fn once(&mut self, subject: &Subject<'_>, text: String) -> Option<Said> {
        let mended = self.of(subject.entry);
        if mended.last.as_ref() == Some(&text) {
            return None;
        }
        let said = subject.say(&text, false);
        mended.last = Some(text);
        Some(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Dirs, Journal};
    use crate::types::Role;

    fn entry(written: u64) -> Entry {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(tmp.path().join("run"), tmp.path().join("state")).with_clock(written);
        let id = AttachmentId { container: "c1".parse().unwrap(), ifname: "net1".parse().unwrap(), role: Role::Wire };
        Journal(&dirs).write(&id, &"lan".parse().unwrap(), &0).unwrap();
        Journal(&dirs).read(&id).unwrap().unwrap()
    }

    fn subject(entry: &Entry) -> Subject<'_> {
        Subject { entry, pod: &None, kind: Kind::Port, name: "net1" }
    }

    #[test]
    fn the_same_is_told_once_until_all_was_well_or_the_entry_is_another() {
        let (entry, later) = (entry(1), entry(2));
        let mut told = Told::default();
        let tells = |told: &mut Told, e: &Entry, text: &str| told.once(&subject(e), text.into()).map(|s| s.text);
        assert_eq!(tells(&mut told, &entry, "off").as_deref(), Some("net1: off"));
        assert_eq!(tells(&mut told, &entry, "off"), None);
        assert!(tells(&mut told, &entry, "down").is_some() && tells(&mut told, &entry, "off").is_some());
        told.of(&entry).times = 3;
        told.sound(&entry);
        assert!(tells(&mut told, &entry, "off").is_some());
        assert_eq!(told.of(&entry).times, 3, "how often it was mended is not forgotten with it");
        assert!(tells(&mut told, &later, "off").is_some());
        assert_eq!(told.of(&later).times, 0);
    }

    #[test]
    fn what_is_kept_is_what_is_there() {
        let entry = entry(1);
        let mut told = Told::default();
        told.of(&entry).times = 3;
        told.keep([&entry].into_iter());
        assert_eq!(told.of(&entry).times, 3);
        told.keep([].into_iter());
        assert!(told.0.is_empty());
    }
}
