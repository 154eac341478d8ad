//! One lock per container, so that ADD, DEL, CHECK and a sweep of one pod never work at the same time.
//!
//! The lock is a flock on a file under the run directory, which its holder removes at the end. Who has waited may so
//! hold the lock of a file that nobody else can find any more; therefore the inode of the descriptor is compared with
//! the one at the path, and the wait goes on if they differ. A process that is killed loses its lock with its
//! descriptors. The lock is taken at the outermost level only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::file::{make_dir, parent, unwritable};
use super::{Dirs, file_name};
use crate::types::{Code, ContainerId, Failure, Outcome};

/// Held until it is dropped.
#[derive(Debug)]
pub struct ContainerLock {
    path: PathBuf,
    file: Flock<File>,
}

impl ContainerLock {
    /// Waits at most so long. A run directory that is full or read-only gives `JournalUnwritable`.
    pub fn lock(dirs: &Dirs, container: &ContainerId, wait: Duration) -> Outcome<Self> {
        // flock(2) itself has no limit but a signal, and signals belong to the process: so the lock is asked for again
        // and again, often at first, as most calls last a few milliseconds.
        let deadline = Instant::now() + wait;
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(lock) = Self::try_lock(dirs, container)? {
                return Ok(lock);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seconds = wait.as_secs_f32();
                return Err(Failure::new(
                    Code::Locked,
                    format!("container {container} is locked by another call, also after {seconds:.1} s"),
                )
                .remedy("the runtime tries again; if it never ends, look for a hanging CNI plugin process"));
            }
            sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// `None`: somebody else holds it.
    pub fn try_lock(dirs: &Dirs, container: &ContainerId) -> Outcome<Option<Self>> {
        let path = dirs.run.join("locks").join(file_name(container).as_ref());
        loop {
            match attempt(&path).map_err(|e| unwritable("lock", &path, &e))? {
                Attempt::Held(file) => return Ok(Some(Self { path, file })),
                Attempt::Busy => return Ok(None),
                Attempt::Replaced => {}
            }
        }
    }

    /// For DEL and GC, which work also where nothing can be written: `None` if no lock can be made for want of space.
    /// No ADD of this container is under way then, for it would hold a file that is there already.
    pub fn for_undo(dirs: &Dirs, container: &ContainerId, wait: Duration) -> Outcome<Option<Self>> {
        match Self::lock(dirs, container, wait) {
            Err(e) if e.code == Code::JournalUnwritable => Ok(None),
            other => other.map(Some),
        }
    }
}

impl Drop for ContainerLock {
    fn drop(&mut self) {
        // Still locked here: the descriptor is closed after this. If the file cannot be removed, the next holder will.
        // A file that was put in the place of ours is another holder's.
        if at_path(&self.file, &self.path).unwrap_or(false) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

enum Attempt {
    Held(Flock<File>),
    Busy,
    /// The lock was got, but of a file that is not (or no more) the one at the path.
    Replaced,
}

fn attempt(path: &Path) -> io::Result<Attempt> {
    let file = match open(path, 0o600) {
        Err(e) if e.kind() == ErrorKind::NotFound => make_dir(parent(path)).and_then(|()| open(path, 0o600))?,
        other => other?,
    };
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) if at_path(&file, path)? => Ok(Attempt::Held(file)),
        Ok(_) => Ok(Attempt::Replaced),
        Err((_, Errno::EWOULDBLOCK | Errno::EINTR)) => Ok(Attempt::Busy),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// Waits without a limit for the lock of a file, which is made with this mode if it is not there, and is never
/// removed by us: the way of the address store, whose lock others take too.
pub fn hold(path: &Path, mode: u32) -> io::Result<Flock<File>> {
    loop {
        match Flock::lock(open(path, mode)?, FlockArg::LockExclusive) {
            Ok(file) if at_path(&file, path)? => return Ok(file),
            Ok(_) | Err((_, Errno::EINTR)) => {}
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}

/// The right of one process on this node to do something, as long as it lives. Its file is never removed by us.
#[derive(Debug)]
pub struct Sole {
    path: PathBuf,
    file: Flock<File>,
}

impl Sole {
    /// Who has the right of this name keeps the node's leases; in its stamp stands when they were last looked at.
    pub const KEEPER: &str = "keeper.lock";

    /// By the name of a file in the run directory. `None`: another process has it.
    pub fn try_take(dirs: &Dirs, name: &str) -> Outcome<Option<Self>> {
        let path = dirs.run.join(name);
        match attempt(&path).map_err(|e| unwritable("lock", &path, &e))? {
            Attempt::Held(file) => Ok(Some(Self { path, file })),
            Attempt::Busy | Attempt::Replaced => Ok(None),
        }
    }

    /// Whether some process has it. Where that cannot be told, nobody has.
    pub fn is_taken(dirs: &Dirs, name: &str) -> bool {
        let Ok(file) = File::open(dirs.run.join(name)) else { return false };
        // Shared, and given up at once: who waits for it tries again.
        matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, Errno::EWOULDBLOCK)))
    }

    /// Notes in the file that the process still did its work at this time of the boot clock, for whoever has the right next.
    /// It lies in the file's time, which needs no room on the disk.
    pub fn stamp(&self, now: Duration) {
        if let Err(failure) = self.file.set_modified(SystemTime::UNIX_EPOCH + now) {
            tracing::debug!(path = %self.path.display(), %failure, "not stamped");
        }
    }

    /// What was noted last; None: nobody ever did, in this boot.
    pub fn stamped(&self, now: Duration) -> Option<Duration> {
        let modified = self.file.metadata().and_then(|m| m.modified()).ok()?;
        // A file that has just been made has the node's own time, which is later than any boot clock's.
        modified.duration_since(SystemTime::UNIX_EPOCH).ok().filter(|at| *at <= now)
    }

    /// False where the file was removed or replaced: another process may have the right by now.
    pub fn in_force(&self) -> bool {
        at_path(&self.file, &self.path).unwrap_or(false)
    }
}

/// Read-only, so that a lock file that exists is opened on a read-only file system too.
fn open(path: &Path, mode: u32) -> io::Result<File> {
    // std wants write access together with create; flock(2) and open(2) do not.
    let flags = nix::fcntl::OFlag::O_CREAT.bits();
    OpenOptions::new().read(true).custom_flags(flags).mode(mode).open(path)
}

fn at_path(file: &File, path: &Path) -> io::Result<bool> {
    let mine = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((mine.dev(), mine.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_tells_whether_it_is_taken_and_until_when_it_was_used() {
        let tmp = tempfile::tempdir().unwrap();
        let (dirs, _) = dirs(&tmp);
        let s = Duration::from_secs;
        assert!(!Sole::is_taken(&dirs, "right"), "no file");
        let sole = Sole::try_take(&dirs, "right").unwrap().unwrap();
        assert!(Sole::is_taken(&dirs, "right"));
        assert_eq!(sole.stamped(s(1000)), None, "its time is the node's");
        sole.stamp(s(900));
        assert_eq!((sole.stamped(s(1000)), sole.stamped(s(800))), (Some(s(900)), None));
        drop(sole);
        assert!(!Sole::is_taken(&dirs, "right"));
        assert_eq!(Sole::try_take(&dirs, "right").unwrap().unwrap().stamped(s(1000)), Some(s(900)));
    }
    use std::sync::atomic::{AtomicU32, Ordering};

    fn dirs(tmp: &tempfile::TempDir) -> (Dirs, ContainerId) {
        (Dirs::new(tmp.path().join("run"), tmp.path().join("state")), "c1".parse().unwrap())
    }

    fn lock_file(dirs: &Dirs) -> PathBuf {
        dirs.run.join("locks/c1")
    }

    #[test]
    fn second_taker_waits_a_bounded_time() {
        let tmp = tempfile::tempdir().unwrap();
        let (dirs, c) = dirs(&tmp);
        let held = ContainerLock::lock(&dirs, &c, Duration::ZERO).unwrap();
        assert!(ContainerLock::try_lock(&dirs, &c).unwrap().is_none());
        let begin = Instant::now();
        let refused = ContainerLock::lock(&dirs, &c, Duration::from_millis(50)).unwrap_err();
        assert_eq!(refused.code, Code::Locked);
        assert!(refused.msg.contains("c1") && begin.elapsed() >= Duration::from_millis(50));
        let other: ContainerId = "c2".parse().unwrap();
        assert!(ContainerLock::try_lock(&dirs, &other).unwrap().is_some(), "another container is free");
        drop(held);
        assert!(!lock_file(&dirs).exists(), "the holder removes the file");
        assert!(ContainerLock::try_lock(&dirs, &c).unwrap().is_some());
    }

    #[test]
    fn only_one_at_a_time() {
        let tmp = tempfile::tempdir().unwrap();
        let (dirs, c) = dirs(&tmp);
        let (inside, done) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    for _ in 0..20 {
                        let _lock = ContainerLock::lock(&dirs, &c, Duration::from_secs(60)).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold the lock");
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(done.into_inner(), 160);
    }

    #[test]
    fn a_file_replaced_while_waiting_is_noticed() {
        let tmp = tempfile::tempdir().unwrap();
        let (dirs, c) = dirs(&tmp);
        let first = ContainerLock::lock(&dirs, &c, Duration::ZERO).unwrap();
        std::thread::scope(|s| {
            let waiting = s.spawn(|| ContainerLock::lock(&dirs, &c, Duration::from_secs(60)).unwrap());
            sleep(Duration::from_millis(20));
            // Somebody wipes the directory and another process locks the new file, while the first one still holds.
            fs::remove_file(lock_file(&dirs)).unwrap();
            let second = ContainerLock::try_lock(&dirs, &c).unwrap();
            sleep(Duration::from_millis(20));
            assert!(second.is_some() != waiting.is_finished(), "exactly one got the lock of the new file");
            drop(first);
            assert!(lock_file(&dirs).exists(), "the late holder leaves the new file alone");
            drop(second);
            let third = waiting.join().unwrap();
            assert!(at_path(&third.file, &lock_file(&dirs)).unwrap());
        });
    }

    #[test]
    fn a_right_is_one_processs_until_its_file_is_replaced() {
        let tmp = tempfile::tempdir().unwrap();
        let (dirs, _) = dirs(&tmp);
        let first = Sole::try_take(&dirs, "duty").unwrap().unwrap();
        assert!(first.in_force() && Sole::try_take(&dirs, "duty").unwrap().is_none());
        assert!(Sole::try_take(&dirs, "other").unwrap().is_some());
        fs::remove_file(dirs.run.join("duty")).unwrap();
        assert!(!first.in_force());
        let second = Sole::try_take(&dirs, "duty").unwrap().unwrap();
        assert!(second.in_force() && !first.in_force());
        drop(second);
        assert!(Sole::try_take(&dirs, "duty").unwrap().is_some());
    }

    #[test]
    fn a_lock_on_an_orphaned_inode_is_not_the_lock() {
        let tmp = tempfile::tempdir().unwrap();
        let (dirs, c) = dirs(&tmp);
        drop(ContainerLock::lock(&dirs, &c, Duration::ZERO).unwrap());
        let path = lock_file(&dirs);
        let orphan = open(&path, 0o600).unwrap();
        fs::remove_file(&path).unwrap();
        let held = Flock::lock(orphan, FlockArg::LockExclusiveNonblock).unwrap();
        assert!(!at_path(&held, &path).unwrap());
        assert!(ContainerLock::try_lock(&dirs, &c).unwrap().is_some(), "the path is free");
    }
}
