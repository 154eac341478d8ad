//! Leases on disk: what an address was lent for, to whom and since when, and how it is held.
//!
//! `<state>/leases/<container>~<ifname>.json`, written whole, synced, with a checksum inside, and before it the same once more
//! as `….json.copy`: where the one is torn the other serves. A copy alone is nothing. ADD writes a record before it
//! succeeds, a keeper writes it anew after each renewal, DEL removes it. A keeper's write never brings back what DEL has
//! removed meanwhile, nor overwrites the record of a later ADD. What `job` says is known to its writer only: this room
//! knows no DHCP. Times are of the boot clock, which says something in the same boot alone; the wall clock's is for people.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::file::{failed, names, read_file, remove_file, replace_synced, write_beside, write_synced};
use super::{Dirs, file_name};
use crate::types::{Code, ContainerId, Failure, IfName, Outcome};

/// Written into each record; a higher one is not read.
const VERSION: u32 = 1;
const ENDING: &str = ".json";
/// On top of it.
const COPY: &str = ".copy";
const SUM: &str = "sum";
/// What a killed writer left under a temporary name is swept away when it is so old.
const STALE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeaseRecord<J> {
    pub version: u32,
    pub container: ContainerId,
    pub ifname: IfName,
    /// `name` of the configuration that it was made under.
    pub network: String,
    /// `NAMESPACE/NAME`, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Of that pod: another one of its name may come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    pub boot: String,
    /// Boot clock, in milliseconds, when ADD made the record. It stays through all renewals, and with `boot` it tells two
    /// ADDs of one container and interface apart.
    pub made: u64,
    /// Boot clock, in milliseconds, when the lease was got or last renewed.
    pub got_at: u64,
    /// The same in seconds since 1970, as the node's clock was then.
    pub got_at_wall: u64,
    pub job: J,
}

impl<J> LeaseRecord<J> {
    /// Of a lease that was got now.
    pub fn new(dirs: &Dirs, container: ContainerId, ifname: IfName, network: &str, job: J) -> Outcome<Self> {
        let (boot, now) = (dirs.boot_id()?, dirs.now() / 1_000_000);
        let network = network.into();
        let (made, got_at, got_at_wall) = (now, now, wall_clock());
        Ok(Self {
            version: VERSION,
            container,
            ifname,
            network,
            pod: None,
            pod_uid: None,
            boot,
            made,
            got_at,
            got_at_wall,
            job,
        })
    }

    pub fn map<K>(self, f: impl FnOnce(J) -> K) -> LeaseRecord<K> {
        let Self { version, container, ifname, network, pod, pod_uid, boot, made, got_at, got_at_wall, job } = self;
        LeaseRecord { version, container, ifname, network, pod, pod_uid, boot, made, got_at, got_at_wall, job: f(job) }
    }

    /// Whether both are of the same ADD.
    pub fn same_add<K>(&self, other: &LeaseRecord<K>) -> bool {
        (&self.container, &self.ifname, &self.boot, self.made)
            == (&other.container, &other.ifname, &other.boot, other.made)
    }
}

/// Seconds since 1970. For people and for guesses across boots: it may jump.
pub fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// One version of a file: another one has another inode or time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    modified: (i64, i64),
}

pub struct Leases<'a> {
    dirs: &'a Dirs,
}

impl<'a> Leases<'a> {
    pub fn new(dirs: &'a Dirs) -> Self {
        Self { dirs }
    }

    /// Whole and on the disk, or not there.
    pub fn write<J: Serialize>(&self, record: &LeaseRecord<J>) -> Outcome<()> {
        let path = self.path(&record.container, &record.ifname);
        let bytes = to_bytes(record)?;
        let written = write_beside(&copy_of(&path), &bytes).and_then(|()| write_synced(&path, &bytes));
        if written.is_err() {
            forget_orphan(&path);
        }
        written.map_err(|e| unwritable(&path, &e))
    }

    /// Writes a renewed one. `false`: DEL removed it meanwhile, or a later ADD has its place.
    pub fn replace<J: Serialize>(&self, record: &LeaseRecord<J>) -> Outcome<bool> {
        let path = self.path(&record.container, &record.ifname);
        let bytes = to_bytes(record)?;
        // One that cannot be read is of no use to anybody: written over by what is known here.
        let still = || match read::<Value>(&path) {
            Ok(Some(there)) => there.same_add(record),
            Ok(None) => false,
            Err(_) => true,
        };
        if !still() {
            return Ok(false);
        }
        let replaced = write_beside(&copy_of(&path), &bytes).and_then(|()| replace_synced(&path, &bytes, still));
        if let Ok(false) = replaced {
            forget_orphan(&path);
        }
        replaced.map_err(|e| unwritable(&path, &e))
    }

    /// By a name out of [`Leases::list`]. True: by its copy, as it is torn itself.
    pub fn read_kept<J: DeserializeOwned>(&self, name: &str) -> Outcome<Option<(LeaseRecord<J>, bool)>> {
        read_either(&self.folder().join(name))
    }

    pub fn read<J: DeserializeOwned>(
        &self,
        container: &ContainerId,
        ifname: &IfName,
    ) -> Outcome<Option<LeaseRecord<J>>> {
        Ok(read_either(&self.path(container, ifname))?.map(|(record, _)| record))
    }

    /// By a name out of [`Leases::list`].
    pub fn read_named<J: DeserializeOwned>(&self, name: &str) -> Outcome<Option<LeaseRecord<J>>> {
        Ok(self.read_kept(name)?.map(|(record, _)| record))
    }

    /// Gone is success. Not synced: after a power cut a record that is back is of an earlier boot, and those are not renewed.
    pub fn remove(&self, container: &ContainerId, ifname: &IfName) -> Outcome<()> {
        let path = self.path(container, ifname);
        // The copy goes last: a keeper that writes both now finds that the first is gone.
        for path in [&path, &copy_of(&path)] {
            match remove_file(path) {
                // Whoever reads it again finds that its namespace is gone.
                Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
                other => other.map(drop).map_err(|e| failed(Code::Io, "remove", path, &e))?,
            }
        }
        Ok(())
    }

    /// All there are; a torn one is one failure, the others serve.
    pub fn all<J: DeserializeOwned>(&self) -> Outcome<Vec<Outcome<LeaseRecord<J>>>> {
        let records = names(&self.folder())?.into_iter().filter(|n| n.ends_with(ENDING));
        Ok(records.filter_map(|name| self.read_named(&name).transpose()).collect())
    }

    /// The records' file names, each with the version that lies there. Cheap: nothing is read.
    pub fn list(&self) -> Outcome<Vec<(String, Stamp)>> {
        let records = names(&self.folder())?.into_iter().filter(|n| n.ends_with(ENDING));
        Ok(records.filter_map(|name| self.stamp(&name).map(|stamp| (name, stamp))).collect())
    }

    /// Of one of them; None where it is not there.
    pub fn stamp(&self, name: &str) -> Option<Stamp> {
        let meta = fs::symlink_metadata(self.folder().join(name)).ok()?;
        Some(Stamp { inode: meta.ino(), modified: (meta.mtime(), meta.mtime_nsec()) })
    }

    /// Removes what killed writers left. What is young may be somebody's who is at work.
    pub fn sweep(&self) -> Outcome<()> {
        for name in names(&self.folder())? {
            let path = self.folder().join(&name);
            let of = name.strip_suffix(COPY).map(|of| self.folder().join(of));
            if !name.ends_with(".new") && of.is_none_or(|of| of.exists()) {
                continue;
            }
            let age = fs::symlink_metadata(&path).and_then(|m| m.modified()).map(|at| at.elapsed().unwrap_or_default());
            if age.is_ok_and(|age| age >= STALE) {
                remove_file(&path).map_err(|e| failed(Code::Io, "remove", &path, &e))?;
            }
        }
        Ok(())
    }

    /// Where the records are, for whoever watches it.
    pub fn folder(&self) -> PathBuf {
        self.dirs.state.join("leases")
    }

    /// Neither part has a `~` of its own but that of a shortened id, and an interface's comes last.
    fn path(&self, container: &ContainerId, ifname: &IfName) -> PathBuf {
        self.folder().join(format!("{}~{ifname}{ENDING}", file_name(container)))
    }
}

fn to_bytes<J: Serialize>(record: &LeaseRecord<J>) -> Outcome<Vec<u8>> {
    let whole = || {
        let mut value = serde_json::to_value(record)?;
        let sum = checksum(&value)?;
        if let Some(object) = value.as_object_mut() {
            object.insert(SUM.into(), sum.into());
        }
        let mut bytes = serde_json::to_vec(&value)?;
        bytes.push(b'\n');
        Ok(bytes)
    };
    whole().map_err(|e: serde_json::Error| {
        Failure::new(Code::Io, format!("cannot put the lease of {} into JSON: {e}", record.container))
    })
}

/// Of the value, not of its text: blanks do not count.
fn checksum(value: &Value) -> serde_json::Result<String> {
    let digest = Sha256::digest(serde_json::to_vec(value)?);
    Ok(digest.iter().take(8).map(|b| format!("{b:02x}")).collect())
}

fn copy_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(COPY);
    name.into()
}

/// A copy alone is worth nothing, and takes space that others need.
fn forget_orphan(path: &Path) {
    if !path.exists() {
        // What stays is swept.
        let _ = remove_file(&copy_of(path));
    }
}

/// True: by the copy.
fn read_either<J: DeserializeOwned>(path: &Path) -> Outcome<Option<(LeaseRecord<J>, bool)>> {
    match read(path) {
        Ok(record) => Ok(record.map(|record| (record, false))),
        Err(torn) => match read(&copy_of(path)) {
            Ok(Some(record)) => Ok(Some((record, true))),
            Ok(None) | Err(_) => Err(torn),
        },
    }
}

fn read<J: DeserializeOwned>(path: &Path) -> Outcome<Option<LeaseRecord<J>>> {
    let Some(bytes) = read_file(path).map_err(|e| broken(path, &format!("cannot be read: {e}")))? else {
        return Ok(None);
    };
    parse(&bytes).map(Some).map_err(|why| broken(path, &why))
}

fn parse<J: DeserializeOwned>(bytes: &[u8]) -> Result<LeaseRecord<J>, String> {
    let torn = |e: serde_json::Error| format!("is torn or no lease: {e}");
    let mut value: Value = serde_json::from_slice(bytes).map_err(torn)?;
    match value.get("version").and_then(Value::as_u64) {
        Some(v) if v > VERSION.into() => {
            return Err(format!("has version {v}; this program reads up to {VERSION}"));
        }
        Some(_) => {}
        None => return Err("has no version".into()),
    }
    let sum = value.as_object_mut().and_then(|object| object.shift_remove(SUM));
    if sum != Some(checksum(&value).map_err(torn)?.into()) {
        return Err("is not as it was written: its checksum differs".into());
    }
    serde_json::from_value(value).map_err(torn)
}

fn broken(path: &Path, why: &str) -> Failure {
    Failure::new(Code::JournalBroken, format!("{} {why}", path.display())).remedy(
        "remove the file; its pod keeps the address until the lease ends, and gets a new one when it is re-created",
    )
}

fn unwritable(path: &Path, e: &io::Error) -> Failure {
    failed(Code::JournalUnwritable, "write", path, e).remedy("free space there, or mount it writable")
}

#[cfg(test)]
mod tests;
