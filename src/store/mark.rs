//! Marks of deleted containers: an ADD that began before the DEL of its container must not attach anything any more. And
//! marks of refused attachments: what bears their names in the pod or on the node is somebody else's.
//!
//! Runtimes kill a call that takes too long and go on; what they killed may have a child, or a twin that still waits
//! for the lock. A mark is a symbolic link whose target is the boot clock: made by one system call, and it needs no
//! block of a full tmpfs. Marks lie in one directory for each hour, so that old ones go without a look at each.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::file::{full, make_dir, names, parent, unwritable};
use super::host::TICK;
use super::{Journal, file_name};
use crate::failpoint;
use crate::types::{ContainerId, IfName, Outcome};

const HOUR: u64 = 3_600_000_000_000;
/// Directories of the two kinds.
const DELETED: &str = "marks";
const REFUSED: &str = "refused";

impl Journal<'_> {
    /// Says that this container was deleted now. Where the run directory is full or read-only nothing is said, and DEL
    /// goes on: an ADD cannot write its entry there either.
    pub fn mark_deleted(&self, container: &ContainerId) -> Outcome<()> {
        let now = self.0.now();
        let dir = self.hour_of(DELETED, now / HOUR);
        let path = dir.join(file_name(container).as_ref());
        match self.place(&dir, &path, now) {
            Err(e) if !full(&e) => Err(unwritable("write", &path, &e)),
            _ => {
                failpoint::hit("store: container marked as deleted");
                Ok(())
            }
        }
    }

    /// Whether the container was deleted after a process that started then; it is asked only where there is a mark. The
    /// start comes in whole ticks, rounded down (see [`super::process_start`]): an ADD right after the DEL is not taken
    /// for one before it.
    pub fn superseded(&self, container: &ContainerId, process_start: impl Fn() -> u64) -> bool {
        let now = self.0.now();
        let hour = now / HOUR;
        [Some(hour), hour.checked_sub(1)].into_iter().flatten().any(|hour| {
            let target = fs::read_link(self.hour_of(DELETED, hour).join(file_name(container).as_ref()));
            let marked: Option<u64> = target.ok().and_then(|t| t.to_str()?.parse().ok());
            // A mark of the future was left by an earlier boot, in a run directory that is not in memory.
            marked.is_some_and(|marked| marked <= now && process_start().saturating_add(TICK) <= marked)
        })
    }

    /// Says that an ADD of this attachment failed, and that nothing is left of it.
    pub fn mark_refused(&self, container: &ContainerId, ifname: &IfName) -> Outcome<()> {
        let now = self.0.now();
        let dir = self.hour_of(REFUSED, now / HOUR);
        let path = dir.join(refused_name(container, ifname));
        match self.place_first(&dir, &path, now) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(unwritable("write", &path, &e)),
            _ => {
                failpoint::hit("store: attachment marked as refused");
                Ok(())
            }
        }
    }

    /// Whether it was, in this hour or the one before. A runtime's DEL comes right after.
    pub fn was_refused(&self, container: &ContainerId, ifname: &IfName) -> bool {
        let now = self.0.now();
        let hour = now / HOUR;
        [Some(hour), hour.checked_sub(1)].into_iter().flatten().any(|hour| {
            let target = fs::read_link(self.hour_of(REFUSED, hour).join(refused_name(container, ifname)));
            target.ok().and_then(|t| t.to_str()?.parse().ok()).is_some_and(|marked: u64| marked <= now)
        })
    }

    fn hour_of(&self, kind: &str, hour: u64) -> PathBuf {
        self.0.run.join(kind).join(hour.to_string())
    }

    fn place_first(&self, dir: &Path, path: &Path, now: u64) -> io::Result<()> {
        match symlink(now.to_string(), path) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                make_dir(dir)?;
                prune(parent(dir), now / HOUR);
                symlink(now.to_string(), path)
            }
            placed => placed,
        }
    }

    fn place(&self, dir: &Path, path: &Path, now: u64) -> io::Result<()> {
        match self.place_first(dir, path, now) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                let mut temporary = path.as_os_str().to_owned();
                temporary.push(format!("~{}.new", std::process::id()));
                symlink(now.to_string(), &temporary)?;
                fs::rename(temporary, path)
            }
            other => other,
        }
    }
}

/// No id has a `~`.
fn refused_name(container: &ContainerId, ifname: &IfName) -> String {
    format!("{}~{ifname}", file_name(container))
}

/// Once an hour, by whoever makes the hour's directory. What cannot be removed is no reason to fail.
fn prune(dir: &Path, hour: u64) {
    for name in names(dir).unwrap_or_default() {
        let kept = name.parse::<u64>().is_ok_and(|h| h == hour || h + 1 == hour);
        if !kept {
            let _ = fs::remove_dir_all(dir.join(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Dirs;
    use super::*;

    const START: u64 = 100 * HOUR;

    fn at(tmp: &tempfile::TempDir, now: u64) -> Dirs {
        Dirs::new(tmp.path(), tmp.path()).with_clock(now)
    }

    #[test]
    fn an_add_from_before_the_del_is_superseded() {
        let tmp = tempfile::tempdir().unwrap();
        let (c, other): (ContainerId, ContainerId) = ("c1".parse().unwrap(), "c2".parse().unwrap());
        let dirs = at(&tmp, START);
        let journal = Journal(&dirs);
        assert!(!journal.superseded(&c, || START - HOUR), "never deleted");
        journal.mark_deleted(&c).unwrap();
        assert!(journal.superseded(&c, || START - TICK));
        assert!(
            !journal.superseded(&c, || START - TICK + 1),
            "may have started after the mark: ticks are rounded down"
        );
        assert!(!journal.superseded(&c, || START + 5), "the id may be used again");
        assert!(!journal.superseded(&other, || 0));
    }

    #[test]
    fn a_second_del_moves_the_mark() {
        let tmp = tempfile::tempdir().unwrap();
        let c: ContainerId = "c1".parse().unwrap();
        Journal(&at(&tmp, START)).mark_deleted(&c).unwrap();
        let dirs = at(&tmp, START + 3 * TICK);
        assert!(!Journal(&dirs).superseded(&c, || START + TICK));
        Journal(&dirs).mark_deleted(&c).unwrap();
        assert!(Journal(&dirs).superseded(&c, || START + TICK));
        let left: Vec<_> = names(&tmp.path().join("marks/100")).unwrap();
        assert_eq!(left, ["c1"], "no temporary name is left");
    }

    #[test]
    fn marks_live_at_least_an_hour_and_then_go() {
        let tmp = tempfile::tempdir().unwrap();
        let (c, other): (ContainerId, ContainerId) = ("c1".parse().unwrap(), "c2".parse().unwrap());
        Journal(&at(&tmp, START + HOUR - 1)).mark_deleted(&c).unwrap();
        let later = at(&tmp, START + 2 * HOUR - 1);
        Journal(&later).mark_deleted(&other).unwrap();
        assert!(Journal(&later).superseded(&c, || START), "an hour old");
        let late = at(&tmp, START + 2 * HOUR);
        Journal(&late).mark_deleted(&other).unwrap();
        assert!(!Journal(&late).superseded(&c, || START));
        let mut hours = names(&tmp.path().join("marks")).unwrap();
        hours.sort();
        assert_eq!(hours, ["101", "102"]);
    }

    #[test]
    fn a_mark_of_the_future_is_another_boots() {
        let tmp = tempfile::tempdir().unwrap();
        let c: ContainerId = "c1".parse().unwrap();
        Journal(&at(&tmp, START + 10 * TICK)).mark_deleted(&c).unwrap();
        assert!(!Journal(&at(&tmp, START)).superseded(&c, || 0));
    }

    #[test]
    fn a_refused_attachment_is_remembered_for_an_hour_at_least() {
        let tmp = tempfile::tempdir().unwrap();
        let ids = ["c1", &"c".repeat(300)].map(|id| id.parse::<ContainerId>().unwrap());
        let (net1, net2): (IfName, IfName) = ("net1".parse().unwrap(), "net2".parse().unwrap());
        let now = at(&tmp, START + HOUR - 1);
        for id in &ids {
            assert!(!Journal(&now).was_refused(id, &net1));
            Journal(&now).mark_refused(id, &net1).unwrap();
            Journal(&now).mark_refused(id, &net1).unwrap();
            assert!(Journal(&now).was_refused(id, &net1) && !Journal(&now).was_refused(id, &net2));
        }
        let later = at(&tmp, START + 2 * HOUR - 1);
        assert!(Journal(&later).was_refused(&ids[0], &net1) && !Journal(&later).superseded(&ids[0], || 0));
        let late = at(&tmp, START + 2 * HOUR);
        assert!(!Journal(&late).was_refused(&ids[0], &net1));
        Journal(&late).mark_refused(&ids[0], &net2).unwrap();
        assert_eq!(names(&tmp.path().join("refused")).unwrap(), ["102"]);
        assert!(!Journal(&at(&tmp, START)).was_refused(&ids[0], &net2), "another boot's");
    }

    #[test]
    fn this_very_process_is_superseded_by_a_del_after_it() {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(tmp.path(), tmp.path());
        let c: ContainerId = "c1".parse().unwrap();
        std::thread::sleep(std::time::Duration::from_nanos(2 * TICK));
        Journal(&dirs).mark_deleted(&c).unwrap();
        assert!(Journal(&dirs).superseded(&c, super::super::process_start));
        assert!(!Journal(&dirs).superseded(&c, super::super::host::boot_clock));
    }
}
