//! The meta plugin, in Multus' place: one pod's call, its networks in order.
//!
//! ```text
//! config ─→ networks ─→ gather ─→ settle ─→ record ─→ run, one by one ─→ routes ─→ network-status
//!   (keys)   (which)     (NADs,    (names,    (journal)    └─ on failure, DEL or GC: undo, from the record
//!                        files)    values)
//! ```
//! Knows which networks a pod gets, in which order, under which names; keeps one entry of the journal per pod. Does not
//! know how a network is made (`chain`), how an API server or kubelet is asked (`resolve`, `devices`, `api`), nor the
//! annotations' and NADs' syntax. `networks` and `settle` are pure; `outside` and `run` are the only files that call
//! those rooms.

mod add;
mod check;
mod config;
mod del;
mod files;
mod gather;
mod gc;
mod legacy;
mod networks;
mod outside;
mod readdress;
mod ready;
mod record;
mod retold;
mod routes;
mod run;
mod settle;
mod status;
#[cfg(test)]
mod tests;
mod undo;
mod words;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cni::Call;
use crate::plan::PodFacts;
use crate::store::{ContainerLock, Dirs, NodeConfig};
use crate::types::{AttachmentId, ContainerId, IfName, Outcome};

use config::MetaConf;

pub use add::add;
pub use check::check;
pub use config::is_meta;
pub use del::del;
pub use gc::{gc, take};
pub use readdress::{Followed, readdress};
pub use record::place;
pub use retold::status_of;
pub use status::status;
pub use words::wishes;

/// How long a call waits for another one of the same container.
const LOCK_WAIT: Duration = Duration::from_secs(20);

/// The environment, for what names an API server.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// One call about a pod.
pub struct Job<'a> {
    pub call: &'a Call,
    pub dirs: &'a Dirs,
    pub node: &'a NodeConfig,
    pub env: Env<'a>,
    pub container: &'a ContainerId,
    pub ifname: &'a IfName,
    /// When the call began, on the boot clock in nanoseconds, if that is not when this process started.
    pub started: Option<u64>,
}

impl Job<'_> {
    /// The pod's networks, as nobody knows them yet: see [`run::Pod::by`].
    fn at<'b>(&'b self, facts: &'b PodFacts) -> run::Pod<'b> {
        run::Pod {
            site: run::Site { path: &[], dirs: self.dirs, node: self.node, started: self.started },
            container: self.container,
            netns: self.call.netns.as_deref(),
            facts,
            args: "",
            version: self.call.version.as_str(),
        }
    }

    fn cache<'b>(&'b self, dir: &'b Path) -> legacy::Cache<'b> {
        legacy::Cache { dir, container: self.container, master: self.ifname }
    }

    fn id(&self) -> AttachmentId {
        record::key(self.container, self.ifname)
    }

    fn lock(&self) -> Outcome<ContainerLock> {
        ContainerLock::lock(self.dirs, self.container, LOCK_WAIT)
    }
}

/// `binDir` comes before the runtime's own path.
fn plugin_path(conf: &MetaConf, call: &Call) -> Vec<PathBuf> {
    let mut path = vec![conf.bin_dir.clone()];
    path.extend(call.path.iter().filter(|p| **p != conf.bin_dir).cloned());
    path
}
