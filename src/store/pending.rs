//! What is still owed after a reboot: one file for each container, on disk and synced, written once.
//!
//! `<state>/pending/<container>~<ifname>.json`: undoing. The journal under the run directory says more and is gone with the
//! boot; a foreign plugin's DEL, which gives back what it keeps on disk itself, is owed all the same.
//! `<state>/untold/...`: a pod's status that could not be told. What a file says is known to its writer only.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::file::{failed, names, read_file, remove_file, write_synced, write_whole};
use super::{Dirs, file_name};
use crate::types::{AttachmentId, Code, ContainerId, Failure, IfName, Outcome};

const ENDING: &str = ".json";

/// One file, as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owing {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Owing {
    /// Whether it is of this attachment: what is torn does not say so itself.
    pub fn is_of(&self, dirs: &Dirs, id: &AttachmentId) -> bool {
        self.path.file_name() == Pending::untold(dirs).path(&id.container, &id.ifname).file_name()
    }

    /// Removes it, unless it says something else by now.
    pub fn settle(&self) -> Outcome<()> {
        let failed = |e| failed(Code::Io, "remove", &self.path, &e);
        if read_file(&self.path).map_err(failed)?.is_some_and(|now| now == self.bytes) {
            remove_file(&self.path).map_err(failed)?;
        }
        Ok(())
    }
}

pub struct Pending<'a> {
    dirs: &'a Dirs,
    folder: &'static str,
}

impl<'a> Pending<'a> {
    /// Of what must be undone.
    pub fn undo(dirs: &'a Dirs) -> Self {
        Self { dirs, folder: "pending" }
    }

    /// Of what must be told.
    pub fn untold(dirs: &'a Dirs) -> Self {
        Self { dirs, folder: "untold" }
    }

    /// Whole and on the disk, or not there.
    pub fn write(&self, container: &ContainerId, ifname: &IfName, what: &impl Serialize) -> Outcome<()> {
        let path = self.path(container, ifname);
        let bytes = serde_json::to_vec(what)
            .map_err(|e| Failure::new(Code::Io, format!("cannot put what {container} is owed into JSON: {e}")))?;
        write_synced(&path, &bytes).map_err(|e| {
            failed(Code::JournalUnwritable, "write", &path, &e).remedy("free space there, or mount it writable")
        })
    }

    /// Whole or not there, and not yet on the disk: for what is of no use after a power cut, since the pod that it is about
    /// is made anew then.
    pub fn note(&self, container: &ContainerId, ifname: &IfName, what: &impl Serialize) -> Outcome<()> {
        let path = self.path(container, ifname);
        serde_json::to_vec(what).map_err(Into::into).and_then(|bytes| write_whole(&path, &bytes)).map_err(|e| {
            failed(Code::JournalUnwritable, "write", &path, &e).remedy("free space there, or mount it writable")
        })
    }

    pub fn read<T: DeserializeOwned>(&self, container: &ContainerId, ifname: &IfName) -> Outcome<Option<T>> {
        read(&self.path(container, ifname))
    }

    /// Gone is success. What cannot be removed, as the disk is read-only, is found again and undone once more.
    pub fn remove(&self, container: &ContainerId, ifname: &IfName) -> Outcome<()> {
        let path = self.path(container, ifname);
        match remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
            other => other.map(drop).map_err(|e| failed(Code::Io, "remove", &path, &e)),
        }
    }

    /// All there are; the unreadable ones as failures.
    pub fn all<T: DeserializeOwned>(&self) -> Outcome<Vec<Outcome<T>>> {
        let names = names(&self.root())?;
        Ok(names
            .into_iter()
            .filter(|n| n.ends_with(ENDING))
            .filter_map(|n| read(&self.root().join(n)).transpose())
            .collect())
    }

    /// Each with the handle by which it is settled, those first that have waited longest.
    pub fn owing<T: DeserializeOwned>(&self) -> Outcome<Vec<(Owing, Outcome<T>)>> {
        let mut all = Vec::new();
        for name in names(&self.root())?.into_iter().filter(|n| n.ends_with(ENDING)) {
            let path = self.root().join(name);
            let Ok(bytes) = read_file(&path) else { continue };
            let Some(bytes) = bytes else { continue };
            let since = path.metadata().and_then(|m| m.modified()).unwrap_or(std::time::SystemTime::UNIX_EPOCH);
            let what = parse(&path, &bytes);
            all.push((since, Owing { path, bytes }, what));
        }
        all.sort_by_key(|(since, ..)| *since);
        Ok(all.into_iter().map(|(_, owing, what)| (owing, what)).collect())
    }

    fn root(&self) -> PathBuf {
        self.dirs.state.join(self.folder)
    }

    /// Neither part has a `~` of its own but that of a shortened id, and an interface's comes last.
    fn path(&self, container: &ContainerId, ifname: &IfName) -> PathBuf {
        self.root().join(format!("{}~{ifname}{ENDING}", file_name(container)))
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Outcome<Option<T>> {
    let broken = |why: String| Failure::new(Code::JournalBroken, format!("{} {why}", path.display()));
    let Some(bytes) = read_file(path).map_err(|e| broken(format!("cannot be read: {e}")))? else { return Ok(None) };
    parse(path, &bytes).map(Some)
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Outcome<T> {
    serde_json::from_slice(bytes).map_err(|e| {
        Failure::new(Code::JournalBroken, format!("{} is torn, or another program's: {e}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn what_is_written_is_read_by_its_key_alone() {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(tmp.path().join("run"), tmp.path().join("state"));
        let pending = Pending::undo(&dirs);
        let (c, eth0, net1) = ("c1".parse().unwrap(), "eth0".parse().unwrap(), "net1".parse().unwrap());
        assert_eq!(pending.read::<Value>(&c, &eth0).unwrap(), None);
        assert!(pending.all::<Value>().unwrap().is_empty());
        pending.write(&c, &eth0, &json!({"a": 1})).unwrap();
        pending.write(&c, &net1, &json!(2)).unwrap();
        assert_eq!(pending.read::<Value>(&c, &eth0).unwrap(), Some(json!({"a": 1})));
        assert_eq!(pending.all::<Value>().unwrap().len(), 2);
        std::fs::write(pending.path(&c, &eth0), "{").unwrap();
        assert_eq!(pending.read::<Value>(&c, &eth0).unwrap_err().code, Code::JournalBroken);
        pending.remove(&c, &eth0).unwrap();
        pending.remove(&c, &eth0).unwrap();
        assert_eq!(pending.all::<Value>().unwrap().len(), 1);
        assert!(Pending::untold(&dirs).all::<Value>().unwrap().is_empty());
    }

    #[test]
    fn what_is_settled_is_what_was_read() {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(tmp.path().join("run"), tmp.path().join("state"));
        let untold = Pending::untold(&dirs);
        assert!(untold.owing::<Value>().unwrap().is_empty());
        let (c, d, eth0) = ("c1".parse().unwrap(), "c2".parse().unwrap(), "eth0".parse().unwrap());
        untold.note(&d, &eth0, &json!(1)).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        untold.note(&c, &eth0, &json!(2)).unwrap();
        let all = untold.owing::<Value>().unwrap();
        assert_eq!(all.iter().map(|(_, v)| v.clone().unwrap()).collect::<Vec<_>>(), [json!(1), json!(2)]);
        untold.note(&c, &eth0, &json!(3)).unwrap();
        for (owing, _) in &all {
            owing.settle().unwrap();
            owing.settle().unwrap();
        }
        assert_eq!(untold.all::<Value>().unwrap(), [Ok(json!(3))], "written anew meanwhile: still owed");
        std::fs::write(untold.path(&d, &eth0), "{").unwrap();
        assert!(untold.owing::<Value>().unwrap().iter().any(|(_, v)| v.is_err()));
    }

    #[test]
    fn a_disk_that_is_full_is_told_before_anything_is_made() {
        let tmp = tempfile::tempdir().unwrap();
        let state = tmp.path().join("state");
        std::fs::write(&state, "a file in the place of the directory").unwrap();
        let dirs = Dirs::new(tmp.path().join("run"), state);
        let failure = Pending::undo(&dirs).write(&"c".parse().unwrap(), &"eth0".parse().unwrap(), &1).unwrap_err();
        assert_eq!(failure.code, Code::JournalUnwritable);
    }
}
