//! Who has which address, in every store that this node is known to have: for people who look, without a lock and
//! without a change. Whether an owner still lives is not known here.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::boot::store_of;
use super::config::DEFAULT_DATA_DIR;
use super::disk::read_owner;
use super::list;
use crate::store::{Dirs, failed};
use crate::types::{Code, Outcome};

/// An address, and what its file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub store: PathBuf,
    pub address: IpAddr,
    pub container: String,
    /// Empty in files of a time when only the container was written.
    pub ifname: String,
}

impl Held {
    /// Of the stores at the usual place, whoever made them, and of those that we gave addresses out of.
    pub fn find(dirs: &Dirs) -> Outcome<Vec<Self>> {
        let (usual, ours) = (PathBuf::from(DEFAULT_DATA_DIR), list::folder(dirs));
        let mut stores: BTreeSet<PathBuf> = below(&usual)?.into_iter().filter_map(|p| p.canonicalize().ok()).collect();
        stores.extend(below(&ours)?.iter().filter_map(|one| store_of(one)));
        let mut found = Vec::new();
        for store in &stores {
            let files = below(store)?;
            found.extend(files.iter().filter_map(|file| held(store, file)));
        }
        found.sort_by(|a, b| (&a.store, a.address).cmp(&(&b.store, b.address)));
        Ok(found)
    }
}

/// A file that vanishes meanwhile was released.
fn held(store: &Path, file: &Path) -> Option<Held> {
    let address = file.file_name()?.to_str()?.parse().ok()?;
    let text = read_owner(file).ok()??;
    let mut lines = text.lines().map(str::trim);
    let mut next = || lines.next().unwrap_or_default().to_owned();
    Some(Held { store: store.into(), address, container: next(), ifname: next() })
}

fn below(dir: &Path) -> Outcome<Vec<PathBuf>> {
    match fs::read_dir(dir).and_then(|entries| entries.map(|e| Ok(e?.path())).collect::<io::Result<Vec<_>>>()) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Vec::new()),
        other => other.map_err(|e| failed(Code::IpamStore, "list", dir, &e)),
    }
}
