//! host-local addresses that this node gave away in an earlier boot: released when the agent begins, as the network that
//! they are of may have no ADD for long, and its range be full.

use super::{Kind, Said, Tools};
use crate::ipam::Outlived;

#[derive(Default)]
pub struct Addresses {
    done: bool,
}

impl Addresses {
    /// Once; again where it failed.
    pub fn round(&mut self, tools: &Tools<'_>) -> Vec<Said> {
        if self.done {
            return Vec::new();
        }
        self.done = true;
        let found = match Outlived::find(tools.dirs) {
            Ok(found) => found,
            Err(failure) => {
                tracing::warn!(%failure, "addresses of an earlier boot are not looked for; tried again");
                self.done = false;
                return Vec::new();
            }
        };
        found.iter().filter_map(|one| self.release(tools, one)).collect()
    }

    fn release(&mut self, tools: &Tools<'_>, one: &Outlived) -> Option<Said> {
        let network = one.location.network.as_str();
        let say = |count: usize, done| {
            let what = if done { "were" } else { "would be" };
            let text = format!("network {network}: {count} addresses of an earlier boot {what} released");
            Some(Said { pod: None, kind: Kind::Address, done, text, quiet: false })
        };
        if tools.dry_run {
            return say(one.addresses, false);
        }
        match one.release(tools.dirs) {
            Ok(0) => None,
            Ok(count) => say(count, true),
            Err(failure) => {
                tracing::warn!(network, %failure, "addresses of an earlier boot stay; tried again");
                self.done = false;
                None
            }
        }
    }
}
