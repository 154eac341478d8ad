//! What is remembered of a guest over a restart of the agent: what its machine's owner has set, and which addresses people
//! were told of. `<run>/guests/`, one file for each; whatever is lost of it is asked for, or told, again.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::gift::Wanted;
use crate::store::{Dirs, failed, read_file, remove_file, write_whole};
use crate::types::{Code, ContainerId, IfName, Outcome};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Notes {
    /// None: nobody has answered yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Wanted>,
    /// As they were told.
    pub told: Vec<String>,
}

impl Notes {
    /// What cannot be read is as good as nothing.
    pub fn read(dirs: &Dirs, container: &ContainerId, ifname: &IfName) -> Self {
        let bytes = read_file(&path(dirs, container, ifname)).ok().flatten().unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    pub fn write(&self, dirs: &Dirs, container: &ContainerId, ifname: &IfName) -> Outcome<()> {
        let path = path(dirs, container, ifname);
        let written = serde_json::to_vec(self).map_err(io::Error::other).and_then(|bytes| write_whole(&path, &bytes));
        written.map_err(|e| failed(Code::Io, "write", &path, &e))
    }

    pub fn remove(dirs: &Dirs, container: &ContainerId, ifname: &IfName) -> Outcome<()> {
        let path = path(dirs, container, ifname);
        remove_file(&path).map(drop).map_err(|e| failed(Code::Io, "remove", &path, &e))
    }
}

/// Removes the notes of all but these: an agent that was not there has missed that they went.
pub fn sweep<'a>(dirs: &Dirs, living: impl Iterator<Item = (&'a ContainerId, &'a IfName)>) {
    let living: Vec<PathBuf> = living.map(|(container, ifname)| path(dirs, container, ifname)).collect();
    let Ok(there) = std::fs::read_dir(folder(dirs)) else { return };
    for path in there.flatten().map(|entry| entry.path()).filter(|path| !living.contains(path)) {
        if let Err(failure) = remove_file(&path) {
            tracing::debug!(path = %path.display(), %failure, "a note of a guest that is gone stays");
        }
    }
}

fn folder(dirs: &Dirs) -> PathBuf {
    dirs.run.join("guests")
}

/// An id may be too long for a file name.
fn path(dirs: &Dirs, container: &ContainerId, ifname: &IfName) -> PathBuf {
    let digest = Sha256::digest(format!("{container}\0{ifname}"));
    let name: String = digest.iter().take(16).map(|b| format!("{b:02x}")).collect();
    folder(dirs).join(format!("{name}.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_until_the_guest_goes() {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(tmp.path().join("run"), tmp.path().join("state"));
        let (a, b): (ContainerId, ContainerId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let net1: IfName = "net1".parse().unwrap();
        assert_eq!(Notes::read(&dirs, &a, &net1), Notes::default());
        let notes = Notes { wanted: Some(Wanted::default()), told: vec!["192.0.2.10/24".into()] };
        for id in [&a, &b] {
            notes.write(&dirs, id, &net1).unwrap();
            assert_eq!(Notes::read(&dirs, id, &net1), notes);
        }
        sweep(&dirs, [(&a, &net1)].into_iter());
        assert_eq!(Notes::read(&dirs, &b, &net1), Notes::default());
        assert_eq!(Notes::read(&dirs, &a, &net1), notes);
        std::fs::write(path(&dirs, &a, &net1), "{torn").unwrap();
        assert_eq!(Notes::read(&dirs, &a, &net1), Notes::default());
        for _ in 0..2 {
            Notes::remove(&dirs, &a, &net1).unwrap();
        }
    }
}
