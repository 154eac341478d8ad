//! Marks of deleted containers: an ADD that began before the DEL of its container must not attach anything any more.
//!
//! Runtimes kill a call that takes too long and go on; what they killed may have a child, or a twin that still waits
//! for the lock. A mark is a symbolic link whose target is the boot clock: made by one system call, and it needs no
//! block of a full tmpfs. Marks lie in one directory for each hour, so that old ones go without a look at each.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::file::{full, make_dir, names, unwritable};
use super::host::TICK;
use super::{Journal, file_name};
use crate::failpoint;
use crate::types::{ContainerId, Outcome};

const HOUR: u64 = 3_600_000_000_000;

impl Journal<'_> {
    /// Says that this container was deleted now. Where the run directory is full or read-only nothing is said, and DEL
    /// goes on: an ADD cannot write its entry there either.
    pub fn mark_deleted(&self, container: &ContainerId) -> Outcome<()> {
        let now = self.0.now();
        let dir = self.marks_of(now / HOUR);
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
            let target = fs::read_link(self.marks_of(hour).join(file_name(container).as_ref()));
            let marked: Option<u64> = target.ok().and_then(|t| t.to_str()?.parse().ok());
            // A mark of the future was left by an earlier boot, in a run directory that is not in memory.
            marked.is_some_and(|marked| marked <= now && process_start().saturating_add(TICK) <= marked)
        })
    }

    fn marks_of(&self, hour: u64) -> PathBuf {
        self.0.run.join("marks").join(hour.to_string())
    }

    fn place(&self, dir: &Path, path: &Path, now: u64) -> io::Result<()> {
        let target = now.to_string();
        match symlink(&target, path) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                make_dir(dir)?;
                self.prune(now / HOUR);
                symlink(&target, path)
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                let mut temporary = path.as_os_str().to_owned();
                temporary.push(format!("~{}.new", std::process::id()));
                symlink(&target, &temporary)?;
                fs::rename(&temporary, path)
            }
            other => other,
        }
    }

    /// Once an hour, by whoever makes the hour's directory. What cannot be removed is no reason to fail.
    fn prune(&self, hour: u64) {
        let dir = self.0.run.join("marks");
        for name in names(&dir).unwrap_or_default() {
            let kept = name.parse::<u64>().is_ok_and(|h| h == hour || h + 1 == hour);
            if !kept {
                let _ = fs::remove_dir_all(dir.join(name));
            }
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
