//! One exchange with a server, as one process hands it to another: what to do for which link, and what came of it.
//!
//! A lease's record on disk has such a job in it: the step that is to be done next. Whoever has read it knows all that
//! keeping the lease needs.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Identity, Lease, Wish};
use crate::cni;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub netns: PathBuf,
    /// Of the namespace: at the path may be another one by now. 0 where the kernel has none (before Linux 5.14).
    pub cookie: u64,
    /// Of the link inside, which may have another name by now.
    pub index: u32,
    pub ifname: String,
    pub identity: Identity,
    pub wish: Wish,
    pub step: Step,
    /// Give up after.
    pub seconds: u32,
    /// The routes that belong to the address, where ADD has put both on the link: what comes back there after the lease
    /// ran out. None: others did, or a guest has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<cni::Route>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    First,
    Renew(Lease),
    Rebind(Lease),
    Reboot(Ipv4Addr),
    Release(Lease),
    /// It has run out: the address comes off the link.
    Drop(Lease),
}

impl Job {
    /// The lease that the step is about.
    pub fn held(&self) -> Option<&Lease> {
        match &self.step {
            Step::Renew(lease) | Step::Rebind(lease) | Step::Release(lease) | Step::Drop(lease) => Some(lease),
            Step::First | Step::Reboot(_) => None,
        }
    }

    /// The same link and client, and something else to do.
    pub fn with(&self, step: Step, seconds: u32) -> Self {
        Self { step, seconds, ..self.clone() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Bound(Lease),
    /// By the server, which says why.
    Refused(String),
    Silent,
    /// The namespace or the link is no longer there.
    Gone,
}
