//! The journal: one file for each (container, interface, role), written before the first change to the kernel and
//! removed after the last undo.
//!
//! `<run>/journal/<container>/<ifname>.<role>.json`. In memory, so nothing is synced; a temporary name and a rename
//! keep every file whole. A file that cannot be read is reported by its name and never hides the others. What a record
//! says is known to its writer only. Writers of one container hold its [`super::ContainerLock`].

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::file::{self, failed, names, parent, read_file, unwritable, write_whole};
use super::{ContainerLock, Dirs, file_name};
use crate::types::{AttachmentId, Code, ContainerId, Failure, IfName, NetworkName, Outcome, Role};

/// Written into each entry; a higher one is not read.
const VERSION: u32 = 1;

pub struct Journal<'a>(pub &'a Dirs);

/// An entry as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub id: AttachmentId,
    /// `name` of the configuration that it was made under.
    pub network: String,
    /// Boot clock, in nanoseconds.
    pub written: u64,
    pub version: u32,
    pub record: Record,
}

/// What the writer has put down, in JSON: as values it would take many times the room, and the agent looks at all entries
/// of a node at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record(Box<str>);

impl Record {
    pub fn parse<'a, T: Deserialize<'a>>(&'a self) -> serde_json::Result<T> {
        serde_json::from_str(&self.0)
    }
}

/// The form on disk.
#[derive(Serialize)]
struct Stored<'a, R> {
    version: u32,
    #[serde(flatten)]
    id: &'a AttachmentId,
    network: String,
    written: u64,
    record: R,
}

/// The same, as it is read: what is flattened goes through values.
#[derive(Deserialize)]
struct Found<'a> {
    version: u32,
    container: ContainerId,
    ifname: IfName,
    role: Role,
    network: String,
    written: u64,
    #[serde(borrow)]
    record: &'a RawValue,
}

/// Of a file of whatever version.
#[derive(Deserialize)]
struct Versioned {
    version: Option<Value>,
}

impl Journal<'_> {
    pub fn write(&self, id: &AttachmentId, network: &NetworkName, record: &impl Serialize) -> Outcome<()> {
        let network = network.as_str().into();
        let stored = Stored { version: VERSION, id, network, written: self.0.now(), record };
        let path = self.path(id);
        let mut bytes = serde_json::to_vec(&stored)
            .map_err(|e| Failure::new(Code::Io, format!("cannot put the entry of {id} into JSON: {e}")))?;
        bytes.push(b'\n');
        write_whole(&path, &bytes).map_err(|e| unwritable("write", &path, &e))
    }

    pub fn read(&self, id: &AttachmentId) -> Outcome<Option<Entry>> {
        read(&self.path(id))
    }

    /// The lock of the container of an entry that was read without it. `None`: somebody is at work on it, or what is there
    /// now is another attachment, or none.
    pub fn hold(&self, entry: &Entry) -> Outcome<Option<ContainerLock>> {
        let Some(lock) = ContainerLock::try_lock(self.0, &entry.id.container)? else { return Ok(None) };
        Ok((self.read(&entry.id)?.as_ref() == Some(entry)).then_some(lock))
    }

    /// All entries of a container, the unreadable ones as failures. One directory is listed, not the journal.
    pub fn of_container(&self, container: &ContainerId) -> Outcome<Vec<Outcome<Entry>>> {
        entries(&self.container(container))
    }

    /// Whether a container has an entry of this role, readable or not.
    pub fn has(&self, container: &ContainerId, role: Role) -> Outcome<bool> {
        let ending = format!(".{}.json", role.as_str());
        Ok(names(&self.container(container))?.iter().any(|name| name.ends_with(&ending)))
    }

    /// All entries there are.
    pub fn all(&self) -> Outcome<Vec<Outcome<Entry>>> {
        let root = self.folder();
        let mut all = Vec::new();
        for name in names(&root)? {
            // A container whose directory cannot be listed does not hide the others either.
            match entries(&root.join(name)) {
                Ok(some) => all.extend(some),
                Err(e) => all.push(Err(Failure { code: Code::JournalBroken, ..e })),
            }
        }
        Ok(all)
    }

    /// Needs no space. Gone is success.
    pub fn remove(&self, id: &AttachmentId) -> Outcome<()> {
        let path = self.path(id);
        match file::remove_file(&path) {
            // DEL works also there. What is left names links and addresses that are gone: whoever reads it again finds
            // nothing to undo, and another ADD of this container cannot be written either.
            Err(e) if e.kind() == ErrorKind::ReadOnlyFilesystem => {
                tracing::warn!(entry = %path.display(), "left where it is: the file system is read-only");
                return Ok(());
            }
            other => other.map_err(|e| failed(Code::Io, "remove", &path, &e))?,
        };
        remove_directory(parent(&path))
    }

    /// Where the entries are, in a directory for each container, for whoever watches it.
    pub fn folder(&self) -> PathBuf {
        self.0.run.join("journal")
    }

    fn container(&self, container: &ContainerId) -> PathBuf {
        self.folder().join(file_name(container).as_ref())
    }

    /// An interface name has neither `/` nor more than 15 bytes, and whatever it ends in, `.json` comes after it.
    fn path(&self, id: &AttachmentId) -> PathBuf {
        self.container(&id.container).join(format!("{}.{}.json", id.ifname, id.role.as_str()))
    }
}

fn entries(dir: &Path) -> Outcome<Vec<Outcome<Entry>>> {
    let entry = |name: String| {
        let path = dir.join(&name);
        if name.ends_with(".json") {
            return read(&path).transpose();
        }
        // What a killed writer left is no entry: nothing was done under it yet, or the one before it still stands.
        (!name.ends_with(".new")).then(|| Err(broken(&path, "is no entry of the journal")))
    };
    Ok(names(dir)?.into_iter().filter_map(entry).collect())
}

fn read(path: &Path) -> Outcome<Option<Entry>> {
    let Some(bytes) = read_file(path).map_err(|e| broken(path, &format!("cannot be read: {e}")))? else {
        return Ok(None);
    };
    let Versioned { version } =
        serde_json::from_slice(&bytes).map_err(|e| broken(path, &format!("is torn or not JSON: {e}")))?;
    match version.as_ref().and_then(Value::as_u64) {
        Some(v) if v > VERSION.into() => {
            return Err(broken(path, &format!("has version {v}; this program reads up to {VERSION}"))
                .remedy("a newer trestle wrote it: install that one again, or delete the pod with it first"));
        }
        Some(_) => {}
        None => return Err(broken(path, "has no version")),
    }
    let found: Found<'_> =
        serde_json::from_slice(&bytes).map_err(|e| broken(path, &format!("is not an entry: {e}")))?;
    let Found { version, container, ifname, role, network, written, record } = found;
    let (id, record) = (AttachmentId { container, ifname, role }, Record(record.get().into()));
    Ok(Some(Entry { id, network, written, version, record }))
}

fn broken(path: &Path, why: &str) -> Failure {
    Failure::new(Code::JournalBroken, format!("{} {why}", path.display()))
        .remedy("remove the file once the pod is gone; its links, if any are left, must be removed by hand")
}

/// The container's directory goes with its last entry, and with it what killed writers left there.
fn remove_directory(dir: &Path) -> Outcome<()> {
    let gone = |e: &std::io::Error| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
    match fs::remove_dir(dir) {
        Ok(()) => return Ok(()),
        Err(e) if gone(&e) => return Ok(()),
        Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty => {}
        Err(e) => return Err(failed(Code::Io, "remove", dir, &e)),
    }
    let left = names(dir)?;
    if left.iter().any(|name| !name.ends_with(".new")) {
        return Ok(());
    }
    for name in left {
        let path = dir.join(name);
        file::remove_file(&path).map_err(|e| failed(Code::Io, "remove", &path, &e))?;
    }
    // If somebody wrote an entry meanwhile, the directory stays.
    let _ = fs::remove_dir(dir);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    fn id(container: &str, ifname: &str, role: Role) -> AttachmentId {
        AttachmentId { container: container.parse().unwrap(), ifname: ifname.parse().unwrap(), role }
    }

    fn net() -> NetworkName {
        "lan".parse().unwrap()
    }

    struct Place {
        _tmp: tempfile::TempDir,
        dirs: Dirs,
    }

    fn place() -> Place {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(tmp.path().join("run"), tmp.path().join("state")).with_clock(42);
        Place { _tmp: tmp, dirs }
    }

    #[test]
    fn what_was_written_is_read_back() {
        let p = place();
        let journal = Journal(&p.dirs);
        let key = id("c1", "eth0.5", Role::Wire);
        assert_eq!(journal.read(&key).unwrap(), None);
        journal.write(&key, &net(), &json!({"index": 7})).unwrap();
        journal.write(&id("c1", "eth0.5", Role::Ipam), &net(), &json!(null)).unwrap();
        let entry = journal.read(&key).unwrap().unwrap();
        let record = Record(r#"{"index":7}"#.into());
        assert_eq!(entry, Entry { id: key.clone(), network: "lan".into(), written: 42, version: 1, record });
        journal.write(&key, &net(), &json!({"index": 8})).unwrap();
        let record: Value = journal.read(&key).unwrap().unwrap().record.parse().unwrap();
        assert_eq!(record, json!({"index": 8}));
        assert_eq!(journal.of_container(&key.container).unwrap().len(), 2, "a role is part of the key");
        assert_eq!([Role::Wire, Role::Bind].map(|role| journal.has(&key.container, role).unwrap()), [true, false]);
    }

    #[test]
    fn an_entry_is_held_while_it_is_the_same_and_nobodys() {
        let p = place();
        let journal = Journal(&p.dirs);
        let key = id("c1", "eth0", Role::Wire);
        journal.write(&key, &net(), &1).unwrap();
        let entry = journal.read(&key).unwrap().unwrap();
        let lock = journal.hold(&entry).unwrap();
        assert!(lock.is_some() && journal.hold(&entry).unwrap().is_none(), "it is held already");
        drop(lock);
        journal.write(&key, &net(), &2).unwrap();
        assert!(journal.hold(&entry).unwrap().is_none(), "another attachment's");
        let later = journal.read(&key).unwrap().unwrap();
        journal.remove(&key).unwrap();
        assert!(journal.hold(&later).unwrap().is_none(), "gone");
        assert!(ContainerLock::try_lock(&p.dirs, &key.container).unwrap().is_some(), "the lock is free again");
    }

    #[test]
    fn removal_of_the_last_entry_takes_the_directory() {
        let p = place();
        let journal = Journal(&p.dirs);
        let (wire, bind) = (id("c1", "eth0", Role::Wire), id("c1", "eth0", Role::Bind));
        journal.remove(&wire).unwrap();
        journal.write(&wire, &net(), &1).unwrap();
        journal.write(&bind, &net(), &2).unwrap();
        fs::write(p.dirs.run.join("journal/c1/eth0.wire.json.77.new"), "{").unwrap();
        journal.remove(&wire).unwrap();
        journal.remove(&wire).unwrap();
        assert_eq!(journal.of_container(&wire.container).unwrap().len(), 1);
        journal.remove(&bind).unwrap();
        assert!(!p.dirs.run.join("journal/c1").exists());
        assert!(p.dirs.run.join("journal").exists());
    }

    #[test]
    fn only_root_may_look() {
        let p = place();
        Journal(&p.dirs).write(&id("c1", "eth0", Role::Wire), &net(), &1).unwrap();
        let mode = |path: &str| fs::metadata(p.dirs.run.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(""), mode("journal"), mode("journal/c1")), (0o700, 0o700, 0o700));
        assert_eq!(mode("journal/c1/eth0.wire.json"), 0o600);
    }

    #[test]
    fn broken_entries_are_named_and_hide_nothing() {
        let p = place();
        let journal = Journal(&p.dirs);
        for c in ["c1", "c2"] {
            journal.write(&id(c, "eth0", Role::Wire), &net(), &json!({"of": c})).unwrap();
        }
        let dir = p.dirs.run.join("journal");
        let whole = fs::read(dir.join("c1/eth0.wire.json")).unwrap();
        fs::write(dir.join("c1/a.wire.json"), &whole[..whole.len() / 2]).unwrap();
        fs::write(dir.join("c1/b.wire.json"), "").unwrap();
        fs::write(dir.join("c1/c.wire.json"), r#"{"version": 9}"#).unwrap();
        fs::write(dir.join("c1/d.wire.json"), r#"{"version": 1, "container": "/"}"#).unwrap();
        fs::write(dir.join("c1/e.wire.json"), "{}").unwrap();
        fs::write(dir.join("c1/notes.txt"), "what is this").unwrap();
        fs::write(dir.join("c1/eth0.wire.json.123.new"), "left by a killed writer").unwrap();
        fs::write(dir.join("stray"), "no directory").unwrap();

        let all = journal.all().unwrap();
        let good: Vec<_> = all.iter().filter_map(|e| e.as_ref().ok()).map(|e| e.id.container.as_str()).collect();
        assert!(good.len() == 2 && good.contains(&"c1") && good.contains(&"c2"), "{good:?}");
        let bad: Vec<_> = all.iter().filter_map(|e| e.as_ref().err()).collect();
        assert_eq!(bad.len(), 7);
        assert!(bad.iter().all(|f| f.code == Code::JournalBroken));
        for name in ["c1/a.wire", "c1/b.wire", "c1/c.wire", "c1/d.wire", "c1/e.wire", "c1/notes.txt", "journal/stray"] {
            assert!(bad.iter().any(|f| f.msg.contains(name)), "{name} is not named in {bad:?}");
        }
        assert_eq!(journal.of_container(&"c2".parse().unwrap()).unwrap().len(), 1);
        let torn = journal.read(&id("c1", "a", Role::Wire)).unwrap_err();
        assert_eq!(torn.code, Code::JournalBroken);
    }

    #[test]
    fn a_container_id_longer_than_a_file_name() {
        let p = place();
        let journal = Journal(&p.dirs);
        let key = id(&"x".repeat(4000), "eth0", Role::Wire);
        journal.write(&key, &net(), &1).unwrap();
        assert_eq!(journal.read(&key).unwrap().unwrap().id, key);
        assert_eq!(journal.all().unwrap().len(), 1);
        journal.mark_deleted(&key.container).unwrap();
        assert!(ContainerLock::try_lock(&p.dirs, &key.container).unwrap().is_some());
        journal.remove(&key).unwrap();
        assert!(journal.all().unwrap().is_empty());
    }

    #[test]
    fn writers_of_many_containers_do_not_disturb_each_other() {
        let p = place();
        let journal = Journal(&p.dirs);
        std::thread::scope(|s| {
            for t in 0..6 {
                let journal = &journal;
                s.spawn(move || {
                    for i in 0..30 {
                        let key = id(&format!("c{}", i % 3), &format!("t{t}"), Role::Wire);
                        journal.write(&key, &net(), &i).unwrap();
                        assert_eq!(journal.read(&key).unwrap().unwrap().record.parse::<u32>().unwrap(), i);
                        journal.remove(&key).unwrap();
                    }
                });
            }
        });
        assert!(journal.all().unwrap().is_empty());
    }
}
