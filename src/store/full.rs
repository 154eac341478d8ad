//! Tests on a run directory that is full or read-only: a tiny tmpfs of its own, in a mount namespace of the test's
//! thread, so that nobody else sees it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use super::{ContainerLock, Dirs, Journal};
use crate::types::{AttachmentId, Code, ContainerId, NetworkName, Role};

/// Runs `f` on a thread that sees a tmpfs with these options at the path. Needs root, and fails without.
pub fn on_tmpfs<T: Send>(options: &str, f: impl FnOnce(&Path) -> T + Send) -> T {
    let tmp = tempfile::tempdir().unwrap();
    let at = tmp.path();
    std::thread::scope(|s| {
        let thread = s.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("these tests need root");
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
            mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
            f(at)
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Of the mount that `on_tmpfs` made.
pub fn make_read_only(at: &Path) {
    mount(None::<&str>, at, None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>).unwrap();
}

/// Leaves no block free; inodes there are.
pub fn fill(at: &Path) {
    let file = at.join("ballast");
    fs::write(&file, vec![0; 1 << 20]).unwrap_err();
}

fn key(container: &str) -> AttachmentId {
    AttachmentId { container: container.parse().unwrap(), ifname: "eth0".parse().unwrap(), role: Role::Wire }
}

fn net() -> NetworkName {
    "lan".parse().unwrap()
}

const WAIT: Duration = Duration::from_secs(1);

#[test]
fn full_an_add_fails_before_it_changes_anything_and_del_works() {
    on_tmpfs("size=64k", |at| {
        let dirs = Dirs::new(at, "/nonexistent");
        let journal = Journal(&dirs);
        journal.write(&key("old"), &net(), &1).unwrap();
        fill(at);
        let refused = journal.write(&key("new"), &net(), &json!({"a": "b"})).unwrap_err();
        assert_eq!((refused.code, refused.code.cni()), (Code::JournalUnwritable, 11));
        assert!(refused.msg.contains("new/eth0.wire.json"), "{refused}");
        assert_eq!(journal.all().unwrap().len(), 1, "nothing is left of the one that failed");
        let rewritten = journal.write(&key("old"), &net(), &2).unwrap_err();
        assert_eq!(rewritten.code, Code::JournalUnwritable);
        assert_eq!(
            journal.read(&key("old")).unwrap().unwrap().record.parse::<u32>().unwrap(),
            1,
            "the old entry stands"
        );

        let old: ContainerId = "old".parse().unwrap();
        let lock = ContainerLock::for_undo(&dirs, &old, WAIT).unwrap();
        assert!(lock.is_some(), "a lock needs an inode and no block");
        journal.mark_deleted(&old).unwrap();
        assert!(journal.superseded(&old, || 0), "a mark needs no block");
        journal.remove(&key("old")).unwrap();
        assert_eq!(journal.all().unwrap().len(), 0);
    });
}

#[test]
fn without_inodes_del_works_without_lock_and_mark() {
    on_tmpfs("size=64k,nr_inodes=6", |at| {
        let dirs = Dirs::new(at, "/nonexistent");
        let journal = Journal(&dirs);
        journal.write(&key("old"), &net(), &1).unwrap();
        for i in 0.. {
            if fs::write(at.join(format!("ballast{i}")), "").is_err() {
                break;
            }
        }
        let old: ContainerId = "old".parse().unwrap();
        let refused = ContainerLock::lock(&dirs, &old, WAIT).unwrap_err();
        assert_eq!(refused.code, Code::JournalUnwritable);
        assert!(ContainerLock::for_undo(&dirs, &old, WAIT).unwrap().is_none());
        journal.mark_deleted(&old).unwrap();
        assert!(!journal.superseded(&old, || 0));
        journal.remove(&key("old")).unwrap();
    });
}

#[test]
fn read_only_entries_are_read_and_nothing_else_fails_hard() {
    on_tmpfs("size=64k", |at| {
        let dirs = Dirs::new(at, "/nonexistent");
        let journal = Journal(&dirs);
        journal.write(&key("old"), &net(), &1).unwrap();
        make_read_only(at);
        assert_eq!(journal.write(&key("new"), &net(), &1).unwrap_err().code, Code::JournalUnwritable);
        let old: ContainerId = "old".parse().unwrap();
        assert!(ContainerLock::for_undo(&dirs, &old, WAIT).unwrap().is_none());
        journal.mark_deleted(&old).unwrap();
        assert_eq!(journal.of_container(&old).unwrap().len(), 1);
    });
}
