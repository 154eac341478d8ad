//! STATUS: whether pods could be attached by this configuration at all.
//!
//! A runtime that hears "no" makes the whole node not ready. So an absent bridge, module or agent is no reason here:
//! the ADD that needs it says so.

use crate::cni::Call;
use crate::store::{Dirs, NodeConfig};
use crate::types::{Code, Failure, Outcome};

use super::{Type, WireConf, ipam};

pub fn status(call: &Call, ty: Type, dirs: &Dirs, node: &Outcome<NodeConfig>) -> Outcome<()> {
    WireConf::parse(call, ty)?;
    // Each ADD would fail by it.
    node.as_ref().map_err(Clone::clone)?;
    ipam::status(call, dirs).map_err(|f| match f.code {
        Code::PluginMissing => Failure { code: Code::NotReady, ..f },
        _ => f,
    })?;
    journal_is_writable(dirs)
}

pub fn journal_is_writable(dirs: &Dirs) -> Outcome<()> {
    dirs.must_have_room_to_run()
}
