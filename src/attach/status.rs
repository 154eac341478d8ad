//! STATUS: whether pods could be attached by this configuration at all.
//!
//! A runtime that hears "no" makes the whole node not ready. So an absent bridge, module or agent is no reason here:
//! the ADD that needs it says so.

use std::fs;

use crate::cni::Call;
use crate::store::{Dirs, NodeConfig, make_dir};
use crate::types::{Code, Failure, Outcome};

use super::{Type, WireConf, ipam};

pub fn status(call: &Call, ty: Type, dirs: &Dirs, node: &Outcome<NodeConfig>) -> Outcome<()> {
    WireConf::parse(call, ty)?;
    // Each ADD would fail by it.
    node.as_ref().map_err(Clone::clone)?;
    ipam::status(call).map_err(|f| match f.code {
        Code::PluginMissing => Failure { code: Code::NotReady, ..f },
        _ => f,
    })?;
    journal_is_writable(dirs)
}

/// By writing: a file system that is full or read-only shows itself in no other way.
pub fn journal_is_writable(dirs: &Dirs) -> Outcome<()> {
    let probe = dirs.run.join(format!("status.{}", std::process::id()));
    let written = make_dir(&dirs.run).and_then(|()| fs::write(&probe, b"?"));
    // Also what was made and could not be filled.
    let _ = fs::remove_file(&probe);
    written.map_err(|e| {
        Failure::new(Code::NotReady, format!("nothing can be written in {}: {e}", dirs.run.display()))
            .remedy("free space there, or mount it writable")
    })
}
