//! Addresses of an earlier boot in every store that our lists know, for whoever clears up without a call for one network.
//! What is released, and that it still is ours, is the store's own rule.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::StoreLocation;
use super::config::DEFAULT_DATA_DIR;
use super::disk::Disk;
use super::list::{self, List, STORE};
use crate::store::{Dirs, failed};
use crate::types::{Code, NetworkName, Outcome};

/// What this machine gave away in an earlier boot and nobody has released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlived {
    pub location: StoreLocation,
    pub addresses: usize,
}

impl Outlived {
    /// Of all stores; one whose path is not known, or not to be seen from here, is left to the next call of the plugin.
    pub fn find(dirs: &Dirs) -> Outcome<Vec<Self>> {
        let lists = list::folder(dirs);
        let entries = match fs::read_dir(&lists) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|e| failed(Code::IpamStore, "list", &lists, &e))?,
        };
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let Some(store) = store_of(&entry.path()) else { continue };
            let (Some(data_dir), Some(network)) = (store.parent(), name_of(&store)) else { continue };
            let addresses = List::read(dirs, &network, &store)?.outlived();
            if addresses > 0 {
                let location = StoreLocation { data_dir: data_dir.into(), network };
                found.push(Self { location, addresses });
            }
        }
        Ok(found)
    }

    /// Returns how many are done with.
    pub fn release(&self, dirs: &Dirs) -> Outcome<usize> {
        let Some(mut disk) = Disk::open_existing(&self.location, dirs)? else { return Ok(0) };
        disk.expire()
    }
}

fn name_of(store: &Path) -> Option<NetworkName> {
    store.file_name()?.to_str()?.parse().ok()
}

/// The store that a list is of: by the link in it, or, for one that an older version began, the default one if it is that.
pub fn store_of(list: &Path) -> Option<PathBuf> {
    if let Ok(store) = fs::read_link(list.join(STORE)) {
        return Some(store).filter(|store| store.is_dir());
    }
    let (network, _) = list.file_name()?.to_str()?.rsplit_once('-')?;
    let store = fs::canonicalize(Path::new(DEFAULT_DATA_DIR).join(network)).ok()?;
    (list::directory_name(network, &store) == list.file_name()?.to_str()?).then_some(store)
}
