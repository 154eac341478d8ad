//! What each duty of the agent is given: where the files are, which node this is, where to count, whether to act.
//!
//! Cheap to clone, one for each task. Knows no duty, and no duty learns of another one by it.

use crate::store::Dirs;

use super::metrics::Metrics;

#[derive(Debug, Clone)]
pub struct Context {
    pub dirs: Dirs,
    /// Name of this node's object.
    pub node: String,
    pub metrics: Metrics,
    /// Say what would be repaired, and change nothing.
    pub dry_run: bool,
}
