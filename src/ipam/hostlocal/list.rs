//! Our own list of the addresses that we gave away, beside the store and outside of it: the reference plugin neither
//! sees nor needs it.
//!
//! `<state>/host-local/<network>-<hash of the store's path>/<address>_<machine>_<boot>_<owner>`, the last three hashed.
//! Such an entry is a hard link to the store's own file wherever that is possible. So without opening anything, the
//! same inode number in both directories says: this one is ours, unchanged, and whose it is. And as names and links
//! are what a file system keeps in order, a power cut leaves no address in the store that is not on the list. Where a
//! link is not possible (another file system) the entry is a copy, and its name ends in `_copy`. The symbolic link `store`
//! beside them leads to the store.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::failpoint;
use crate::store::{Dirs, failed, remove_file};
use crate::types::{Code, NetworkName, Outcome};

/// Name of the link to the store; no address is called so.
pub const STORE: &str = "store";

/// Whose an address is and when it was given away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    ThisBoot,
    EarlierBoot,
    /// The list was made on another machine and came here in an image or on a shared disk.
    OtherMachine,
}

#[derive(Debug, Clone)]
pub struct Item {
    pub address: IpAddr,
    pub origin: Origin,
    pub owner: String,
    pub copy: bool,
    pub inode: u64,
    pub path: PathBuf,
}

pub struct List {
    pub dir: PathBuf,
    machine: String,
    boot: String,
    pub items: Vec<Item>,
}

impl List {
    /// `store`: the directory of the address files, free of symbolic links. No list is an empty list.
    pub fn read(dirs: &Dirs, network: &NetworkName, store: &Path) -> Outcome<Self> {
        let dir = folder(dirs).join(directory_name(network.as_str(), store));
        let (machine, boot) = (hash_of(&dirs.machine_id(), 4), hash_of(&dirs.boot_id()?, 8));
        let mut list = Self { dir, machine, boot, items: Vec::new() };
        list.fill().map_err(|e| failed(Code::IpamStore, "list", &list.dir, &e))?;
        Ok(list)
    }

    fn fill(&mut self) -> io::Result<()> {
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            // A name that is not of ours is left alone.
            if let Some(item) = name.to_str().and_then(|n| self.item(n, entry.ino())) {
                self.items.push(item);
            }
        }
        Ok(())
    }

    fn item(&self, name: &str, inode: u64) -> Option<Item> {
        let mut parts = name.split('_');
        let (address, machine, boot, owner) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let origin = match (machine == self.machine, boot == self.boot) {
            (true, true) => Origin::ThisBoot,
            (true, false) => Origin::EarlierBoot,
            (false, _) => Origin::OtherMachine,
        };
        Some(Item {
            address: address.parse().ok()?,
            origin,
            owner: owner.into(),
            copy: parts.next() == Some("copy"),
            inode,
            path: self.dir.join(name),
        })
    }

    /// How many are of an earlier boot.
    pub fn outlived(&self) -> usize {
        self.items.iter().filter(|item| item.origin == Origin::EarlierBoot).count()
    }

    /// Where the entry of an address that is given away now would be.
    pub fn path_for(&self, address: IpAddr, content: &str) -> PathBuf {
        self.dir.join(format!("{address}_{}_{}_{}", self.machine, self.boot, owner(content)))
    }

    /// Takes the entries off that the closure names; what cannot be removed stays, and is reported.
    pub fn remove(&mut self, which: impl Fn(&Item) -> bool) -> Outcome<()> {
        let mut result = Ok(());
        self.items.retain(|item| {
            if !which(item) {
                return true;
            }
            match remove_file(&item.path) {
                Ok(_) => {
                    failpoint::hit("host-local: taken off the list");
                    false
                }
                Err(e) => {
                    result = Err(failed(Code::IpamStore, "remove", &item.path, &e));
                    true
                }
            }
        });
        result
    }
}

/// Where all lists are.
pub fn folder(dirs: &Dirs) -> PathBuf {
    dirs.state.join("host-local")
}

pub fn directory_name(network: &str, store: &Path) -> String {
    let hash = hash(store.as_os_str().as_encoded_bytes(), 6);
    format!("{}-{hash}", &network[..network.len().min(100)])
}

impl Item {
    /// Whether the store's file of this address is still the one that we made: the same file, or the same content
    /// where the entry is a copy. One that lost its content is ours too: a power cut may keep a name and a size of
    /// zero, and nobody else could have put it there under our inode or our entry.
    pub fn holds(&self, store: &Path) -> io::Result<bool> {
        let there = store.join(self.address.to_string());
        if !self.copy && !same_file(&self.path, &there)? {
            return Ok(false);
        }
        match fs::read(&there) {
            Ok(content) => Ok(content.is_empty() || owner_of(&content) == self.owner),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// The owner as the list has it: a hash of what is in the file.
pub fn owner(content: &str) -> String {
    owner_of(content.as_bytes())
}

fn owner_of(content: &[u8]) -> String {
    hash(content, 8)
}

fn hash_of(text: &str, bytes: usize) -> String {
    hash(text.as_bytes(), bytes)
}

fn hash(bytes: &[u8], length: usize) -> String {
    Sha256::digest(bytes).iter().take(length).map(|b| format!("{b:02x}")).collect()
}

pub fn same_file(a: &Path, b: &Path) -> io::Result<bool> {
    let of = |path: &Path| match fs::symlink_metadata(path) {
        Ok(m) => Ok(Some((m.dev(), m.ino()))),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    };
    let first = of(a)?;
    Ok(first.is_some() && first == of(b)?)
}
