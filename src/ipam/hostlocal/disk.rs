//! The store of `host-local` on disk, file for file as the reference plugin has it, so that both can share it.
//!
//! `<dataDir>/<network>/`: a file for each address, with `<container>\r\n<ifname>` in it (once only the container);
//! `last_reserved_ip.<number of the range set>`; and `lock`, whose flock everybody holds who reads or changes
//! anything. Under that lock nothing of the directory moves, so it is listed once for a call.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, DirEntryExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{Flock, OFlag};

use super::StoreLocation;
use super::list::{self, Item, List, Origin, same_file};
use crate::failpoint;
use crate::ipam::Who;
use crate::store::{Dirs, failed, hold, make_dir, remove_file};
use crate::types::{Code, Failure, Outcome};

/// Under this name a file is written where it cannot be linked into its place; one that is found is a dead one's.
const TEMPORARY: &str = ".trestle.new";
const LAST: &str = "last_reserved_ip.";

/// The store, locked.
pub struct Disk {
    dir: PathBuf,
    list: List,
    files: Vec<Entry>,
    /// Index of the file that has an address for its name.
    by_address: HashMap<IpAddr, usize>,
    /// By this very call.
    given: Vec<IpAddr>,
    /// Store and list are on one device, so that their inode numbers can be compared.
    one_device: bool,
    _lock: Flock<File>,
}

/// A file of the store, also one in a directory below it (the reference walks those too).
struct Entry {
    /// Relative to the store.
    name: OsString,
    /// What the last part of the name says.
    address: Option<IpAddr>,
    inode: u64,
}

/// The files of one owner, by their index.
#[derive(Default)]
struct Owned {
    /// With this container and interface in them.
    exact: Vec<usize>,
    /// With this container alone, as they were written before there were interface names.
    bare: Vec<usize>,
}

impl Disk {
    /// Makes the store if it is not there, as every verb of the reference does.
    pub fn open(location: &StoreLocation, dirs: &Dirs) -> Outcome<Self> {
        let dir = location.directory();
        let mut tries = 0;
        loop {
            // The reference's mode: others may look, addresses are no secret.
            let made = DirBuilder::new().recursive(true).mode(0o755).create(&dir);
            match made.and_then(|()| hold(&dir.join("lock"), 0o750)) {
                Ok(lock) => return Self::locked(&dir, location, dirs, lock),
                // Removed between the two: made again.
                Err(e) if e.kind() == ErrorKind::NotFound && tries < 100 => tries += 1,
                Err(e) => return Err(broken("lock", &dir, &e)),
            }
        }
    }

    /// `None` where there is no such store, and so nothing to release.
    pub fn open_existing(location: &StoreLocation, dirs: &Dirs) -> Outcome<Option<Self>> {
        let dir = location.directory();
        match hold(&dir.join("lock"), 0o750) {
            Ok(lock) => Self::locked(&dir, location, dirs, lock).map(Some),
            Err(e) if is_nowhere(&e) => Ok(None),
            Err(e) => Err(broken("lock", &dir, &e)),
        }
    }

    fn locked(dir: &Path, location: &StoreLocation, dirs: &Dirs, lock: Flock<File>) -> Outcome<Self> {
        let dir = fs::canonicalize(dir).map_err(|e| broken("resolve", dir, &e))?;
        let list = List::read(dirs, &location.network, &dir)?;
        let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
        let one_device = !list.items.is_empty() && device(&dir) == device(&list.dir);
        let (files, by_address, given) = (Vec::new(), HashMap::new(), Vec::new());
        Ok(Self { dir, list, files, by_address, given, one_device, _lock: lock })
    }

    /// Lists the store, for a call that only looks.
    pub fn look(&mut self) -> Outcome<()> {
        self.read_files().map_err(|e| broken("list", &self.dir, &e))
    }

    /// Lists the store, for a call that changes it: first what this machine gave away in an earlier boot is released,
    /// then what is not in the store any more is taken off our list, since others release too, and calls are killed
    /// half way. What cannot be tidied up is tried again by the next call, and is no reason to refuse this one.
    pub fn tidy_and_look(&mut self) -> Outcome<()> {
        told(self.expire().map(drop));
        self.look()?;
        told(self.prune());
        Ok(())
    }

    fn read_files(&mut self) -> io::Result<()> {
        let mut below = vec![OsString::new()];
        while let Some(part) = below.pop() {
            for entry in fs::read_dir(self.dir.join(&part))? {
                let entry = entry?;
                let name = entry.file_name();
                let path = if part.is_empty() { name.clone() } else { Path::new(&part).join(&name).into() };
                if entry.file_type()?.is_dir() {
                    below.push(path);
                } else if part.is_empty() && name == TEMPORARY {
                    let _ = fs::remove_file(self.dir.join(name));
                } else {
                    self.add_file(path, &name, entry.ino(), part.is_empty());
                }
            }
        }
        Ok(())
    }

    fn add_file(&mut self, name: OsString, last_part: &OsStr, inode: u64, top: bool) {
        if last_part == "lock" || last_part.as_encoded_bytes().starts_with(LAST.as_bytes()) {
            return;
        }
        let address = last_part.to_str().and_then(|n| n.parse::<IpAddr>().ok());
        self.by_address.extend(address.filter(|_| top).map(|ip| (ip, self.files.len())));
        self.files.push(Entry { name, address, inode });
    }

    /// Releases what this machine gave away in an earlier boot. Returns how many entries of the list are done with.
    pub fn expire(&mut self) -> Outcome<usize> {
        let before = self.list.items.len();
        self.give_up(|disk, item| {
            if item.origin != Origin::EarlierBoot {
                return Ok(false);
            }
            disk.release_held(item).map(|_| true)
        })?;
        Ok(before - self.list.items.len())
    }

    fn prune(&mut self) -> Outcome<()> {
        self.give_up(|disk, item| {
            if item.origin != Origin::ThisBoot || disk.known(item).is_some() {
                return Ok(false);
            }
            if item.copy {
                return Ok(!disk.by_address.contains_key(&item.address));
            }
            // A directory may show other inode numbers than stat(2) does, on stacked file systems.
            let same = same_file(&item.path, &disk.file_of(item.address));
            same.map(|same| !same).map_err(|e| broken("look at", &item.path, &e))
        })
    }

    /// Takes those entries off the list that the closure says are done with. Goes on after an error.
    fn give_up(&mut self, done: impl Fn(&Self, &Item) -> Outcome<bool>) -> Outcome<()> {
        let mut result = Ok(());
        let mut gone = HashSet::new();
        for item in &self.list.items {
            match done(self, item) {
                Ok(true) => drop(gone.insert(item.path.clone())),
                Ok(false) => {}
                Err(e) => result = Err(e),
            }
        }
        if gone.is_empty() { result } else { result.and(self.list.remove(|item| gone.contains(&item.path))) }
    }

    /// Removes the address file of an entry of our list, if it is still the one that we made.
    fn release_held(&self, item: &Item) -> Outcome<bool> {
        let path = self.file_of(item.address);
        let held = item.holds(&self.dir).map_err(|e| broken("read", &path, &e))?;
        if held {
            remove_file(&path).map_err(|e| broken("remove", &path, &e))?;
            failpoint::hit("host-local: address of the list released");
        }
        Ok(held)
    }

    fn file_of(&self, address: IpAddr) -> PathBuf {
        self.dir.join(address.to_string())
    }

    /// The store's file that is the same one as this entry of our list, by inode number alone.
    fn known(&self, item: &Item) -> Option<usize> {
        let index = *self.by_address.get(&item.address)?;
        (self.one_device && !item.copy && self.files[index].inode == item.inode).then_some(index)
    }

    /// The files of one owner. Only those are opened that our list does not know.
    fn owned_by(&self, who: &Who) -> Owned {
        let exact = content(who);
        let (key, exact, bare) = (list::owner(&exact), exact.trim(), who.container.trim());
        let here = self.list.items.iter().filter(|i| i.origin == Origin::ThisBoot);
        let known: HashMap<usize, &Item> = here.filter_map(|item| Some((self.known(item)?, item))).collect();
        let mut owned = Owned::default();
        for (i, file) in self.files.iter().enumerate() {
            if let Some(item) = known.get(&i) {
                owned.exact.extend((item.owner == key).then_some(i));
                continue;
            }
            match read_owner(&self.dir.join(&file.name)) {
                Ok(Some(text)) if text.trim() == exact => owned.exact.push(i),
                Ok(Some(text)) if text.trim() == bare => owned.bare.push(i),
                Ok(_) => {}
                // Its name keeps its address from being given twice; one bad block must not stop all pods.
                Err(e) => tracing::warn!(file = ?file.name, store = ?self.dir, "address file cannot be read: {e}"),
            }
        }
        owned
    }

    /// The addresses of an owner's files.
    pub fn addresses(&self, who: &Who) -> Vec<IpAddr> {
        let owned = self.owned_by(who);
        owned.exact.iter().chain(&owned.bare).filter_map(|i| self.files[*i].address).collect()
    }

    fn is_taken(&self, address: IpAddr) -> bool {
        self.by_address.contains_key(&address) || self.given.contains(&address)
    }

    /// Where the round of a range set goes on. What cannot be understood begins the round anew.
    pub fn last_reserved(&self, set: usize) -> Option<IpAddr> {
        crate::cni::parse_address(&fs::read_to_string(self.last_path(set)).ok()?)
    }

    /// Gives an address away; `false` if somebody has it. The file is complete before it has its name.
    pub fn reserve(&mut self, address: IpAddr, who: &Who, set: usize) -> Outcome<bool> {
        if self.is_taken(address) {
            return Ok(false);
        }
        let content = content(who);
        let entry = self.list.path_for(address, &content);
        self.write_entry(&entry, &content).map_err(|e| broken("write", &entry, &e))?;
        failpoint::hit("host-local: on the list");
        let placed = self.place(&entry, address, &content);
        if !matches!(placed, Ok(true)) {
            // The list must not say more than the store. If this fails too, `tidy` will do it.
            let _ = remove_file(&entry);
        }
        let path = self.file_of(address);
        if !placed.map_err(|e| broken("write", &path, &e))? {
            return Ok(false);
        }
        failpoint::hit("host-local: address given away");
        self.given.push(address);
        let last = self.last_path(set);
        if let Err(e) = write_over(&last, &address.to_string()) {
            // Nobody knows of the address yet.
            let _ = self.give_back(address, who);
            return Err(broken("write", &last, &e));
        }
        failpoint::hit("host-local: last address written");
        Ok(true)
    }

    fn write_entry(&self, entry: &Path, content: &str) -> io::Result<()> {
        match write_new(entry, content) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                make_dir(&self.list.dir)?;
                // Without it the list still serves every call that has the configuration.
                let _ = symlink(&self.dir, self.list.dir.join(list::STORE));
                write_new(entry, content)
            }
            // Left by a call that was killed: its inode is in nobody's use, or `tidy` had kept the address as taken.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                fs::remove_file(entry)?;
                write_new(entry, content)
            }
            other => other,
        }
    }

    /// Links the entry of the list to the address's name. The kernel refuses that where the name is taken, also by
    /// somebody who does not take the lock.
    fn place(&mut self, entry: &Path, address: IpAddr, content: &str) -> io::Result<bool> {
        let path = self.file_of(address);
        match fs::hard_link(entry, &path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
            // Another file system or mount, or one without hard links.
            Err(e) if cannot_link(&e) => self.place_copy(entry, &path, content),
            Err(e) => Err(e),
        }
    }

    fn place_copy(&mut self, entry: &Path, path: &Path, content: &str) -> io::Result<bool> {
        let mut name = entry.as_os_str().to_owned();
        name.push("_copy");
        fs::rename(entry, &name)?;
        let temporary = self.dir.join(TEMPORARY);
        let placed = write_new(&temporary, content).and_then(|()| match fs::symlink_metadata(path) {
            // Under the lock, which everybody takes who makes such a file, what is not there stays so.
            Err(e) if e.kind() == ErrorKind::NotFound => fs::rename(&temporary, path).map(|()| true),
            Err(e) => Err(e),
            Ok(_) => Ok(false),
        });
        if !matches!(placed, Ok(true)) {
            let _ = fs::remove_file(&temporary);
            let _ = fs::remove_file(&name);
        }
        placed
    }

    /// Takes back what this very call gave away.
    pub fn give_back(&mut self, address: IpAddr, who: &Who) -> Outcome<()> {
        let path = self.file_of(address);
        remove_file(&path).map_err(|e| broken("remove", &path, &e))?;
        failpoint::hit("host-local: address taken back");
        self.given.retain(|given| *given != address);
        let entry = self.list.path_for(address, &content(who));
        let mut copy = entry.clone().into_os_string();
        copy.push("_copy");
        for path in [entry, copy.into()] {
            remove_file(&path).map_err(|e| broken("remove", &path, &e))?;
        }
        Ok(())
    }

    /// Removes all files of an owner, then its entries from our list. Goes on after an error, and reports the last. An
    /// entry that cannot be removed is no error: the address is free, and the next call that can takes the entry off.
    pub fn release(&mut self, who: &Who) -> Outcome<()> {
        let owned = self.owned_by(who);
        let released = if owned.exact.is_empty() { owned.bare } else { owned.exact };
        let mut result = Ok(());
        for i in &released {
            let path = self.dir.join(&self.files[*i].name);
            match remove_file(&path) {
                Ok(_) => failpoint::hit("host-local: address released"),
                Err(e) => result = Err(broken("remove", &path, &e)),
            }
        }
        result?;
        let addresses: Vec<_> = released.iter().filter_map(|i| self.files[*i].address).collect();
        let key = list::owner(&content(who));
        let is_released = |i: &Item| i.origin == Origin::ThisBoot && i.owner == key && addresses.contains(&i.address);
        told(self.list.remove(is_released));
        Ok(())
    }

    /// Releases what is on our list of this boot, and that the closure, given owner and time, says is done with.
    /// Returns how many addresses that were.
    pub fn collect(&mut self, done: impl Fn(&Who, SystemTime) -> bool) -> Outcome<usize> {
        let released = Cell::new(0);
        self.give_up(|disk, item| {
            if item.origin != Origin::ThisBoot {
                return Ok(false);
            }
            let made = fs::metadata(&item.path).and_then(|m| m.modified());
            let made = made.map_err(|e| broken("look at", &item.path, &e))?;
            let text = read_owner(&item.path).map_err(|e| broken("read", &item.path, &e))?.unwrap_or_default();
            let owner = text.split_once("\r\n").map(|(container, ifname)| Who { container, ifname });
            if !owner.is_some_and(|who| done(&who, made)) {
                return Ok(false);
            }
            released.set(released.get() + usize::from(disk.release_held(item)?));
            Ok(true)
        })?;
        Ok(released.get())
    }

    /// Whether the owner has any address.
    pub fn has(&self, who: &Who) -> bool {
        let owned = self.owned_by(who);
        !owned.exact.is_empty() || !owned.bare.is_empty()
    }

    fn last_path(&self, set: usize) -> PathBuf {
        self.dir.join(format!("{LAST}{set}"))
    }
}

/// What the next call tries again is no reason to fail.
fn told(outcome: Outcome<()>) {
    if let Err(failure) = outcome {
        tracing::warn!(code = failure.code.id(), "the address store is not tidied up: {failure}");
    }
}

fn content(who: &Who) -> String {
    format!("{}\r\n{}", who.container.trim(), who.ifname)
}

fn broken(act: &str, path: &Path, e: &io::Error) -> Failure {
    failed(Code::IpamStore, act, path, e)
        .remedy("look at \"dataDir\" of the ipam section, and at its file system's space and mount options")
}

/// Whether nothing is at the path, be it that nothing ever can be: a name too long, links in a circle, a NUL byte (which
/// std refuses without the kernel).
pub fn is_nowhere(e: &io::Error) -> bool {
    use nix::libc::{ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR};
    match e.raw_os_error() {
        Some(errno) => matches!(errno, ENOENT | ENOTDIR | ENAMETOOLONG | ELOOP),
        None => e.kind() == ErrorKind::InvalidInput,
    }
}

fn cannot_link(e: &io::Error) -> bool {
    use nix::errno::Errno;
    let errno = e.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EXDEV | Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EMLINK))
}

fn write_new(path: &Path, content: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content.as_bytes()).inspect_err(|_| {
        let _ = fs::remove_file(path);
    })
}

/// In place, and cut to its length after the write: never empty, and without a second name in a directory that others
/// read. Between the two calls a shorter address has the tail of the longer one, which at worst begins another round.
fn write_over(path: &Path, content: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.write_all(content.as_bytes())?;
    file.set_len(content.len() as u64)
}

/// The first part of a file, as text; more than an owner is long needs not be read. `None`: gone, or nothing to read.
pub fn read_owner(path: &Path) -> io::Result<Option<String>> {
    const LONGEST: u64 = 8192;
    // Not waiting for a writer, should somebody have put a pipe there.
    let flags = OFlag::O_NONBLOCK.bits();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let mut bytes = Vec::new();
    match opened.and_then(|file| file.take(LONGEST).read_to_end(&mut bytes)) {
        Ok(_) => Ok(String::from_utf8(bytes).ok()),
        // A link to nothing or to a directory, a socket.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => Ok(None),
        Err(e) if e.raw_os_error() == Some(nix::libc::ENXIO) => Ok(None),
        Err(e) => Err(e),
    }
}
