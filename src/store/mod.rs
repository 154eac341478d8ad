//! Files that outlive a call: the journal with its locks and marks under the run directory, leases on disk, and what an
//! administrator says about the node.
//!
//! What a record means is not this room's business: it keeps values, by whom they belong to, whole or not at all. It
//! knows no network, no plan and no Kubernetes. Boot id, clock and both directories come in by [`Dirs`], so that a
//! test needs no global.

mod calls;
mod file;
mod host;
mod journal;
mod lease;
mod lock;
mod mark;
mod node;
mod pending;

#[cfg(test)]
pub mod full;

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::types::{ContainerId, Outcome};

pub use calls::{Heard, calls_socket, tell_call};
pub use file::{failed, make_dir, read_file, remove_file, write_whole};
pub use host::{boot_clock, process_start};
pub use journal::{Entry, Journal};
pub use lease::{LeaseRecord, Leases, Stamp, wall_clock};
pub use lock::{ContainerLock, Sole, hold};
pub use node::{Allow, NodeConfig};
pub use pending::{Owing, Pending};

/// Where the files are, and which machine and boot this is.
#[derive(Debug, Clone)]
pub struct Dirs {
    /// In memory: gone with the boot, never synced.
    pub run: PathBuf,
    /// On disk: what is still true after a power cut.
    pub state: PathBuf,
    host: host::Host,
}

impl Dirs {
    pub fn new(run: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Self {
        Self { run: run.into(), state: state.into(), host: host::Host::default() }
    }

    /// Of STATUS: whether what outlives a boot can be kept.
    pub fn must_have_room(&self) -> Outcome<()> {
        file::must_be_writable(&self.state)
    }

    /// Whether the journal can be.
    pub fn must_have_room_to_run(&self) -> Outcome<()> {
        file::must_be_writable(&self.run)
    }

    /// `TRESTLE_RUN_DIR` and `TRESTLE_STATE_DIR`, empty as good as unset.
    pub fn from_env(env: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let dir = |key, default: &str| match env(key) {
            Some(value) if !value.is_empty() => PathBuf::from(value),
            _ => Path::new(default).into(),
        };
        Self::new(dir("TRESTLE_RUN_DIR", "/run/trestle"), dir("TRESTLE_STATE_DIR", "/var/lib/trestle"))
    }
}

/// The container's name in a file name. Ids are safe as they are, but may be longer than a file name (255 bytes): then
/// their hash takes the place of the rest. No id has a `~`, so the two kinds never meet.
fn file_name(container: &ContainerId) -> Cow<'_, str> {
    const LONGEST: usize = 200;
    let id = container.as_str();
    if id.len() <= LONGEST {
        return id.into();
    }
    let hash: String = Sha256::digest(id).iter().take(16).map(|b| format!("{b:02x}")).collect();
    format!("{}~{hash}", &id[..LONGEST]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_from_the_environment() {
        let dirs = Dirs::from_env(&|key| (key == "TRESTLE_RUN_DIR").then(|| "/elsewhere".into()));
        assert_eq!((dirs.run.to_str(), dirs.state.to_str()), (Some("/elsewhere"), Some("/var/lib/trestle")));
        let empty = Dirs::from_env(&|_| Some("".into()));
        assert_eq!(empty.run, Path::new("/run/trestle"));
    }

    #[test]
    fn long_ids_have_short_names_of_their_own() {
        let a: ContainerId = "a".repeat(300).parse().unwrap();
        let b: ContainerId = format!("{}b", "a".repeat(299)).parse().unwrap();
        assert!(file_name(&a).len() < 240 && file_name(&a) != file_name(&b));
        let plain: ContainerId = "f".repeat(64).parse().unwrap();
        assert_eq!(file_name(&plain), "f".repeat(64));
    }
}
