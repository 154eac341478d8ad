//! STATUS: whether any pod could start. The default network's answer, and what each ADD needs on this node.
//!
//! An absent NAD, bridge or API server of one pod's network is no reason: a runtime that hears "no" makes the whole
//! node not ready.

use crate::attach::journal_is_writable;
use crate::cni::Call;
use crate::store::{Dirs, NodeConfig};
use crate::types::{Code, Failure, Outcome};

use super::networks::master;
use super::outside::{self, World};
use super::record::leaves_state;
use super::{Env, config, gather, plugin_path, ready, run};

pub async fn status(call: &Call, dirs: &Dirs, node: &Outcome<NodeConfig>, env: Env<'_>) -> Outcome<()> {
    let conf = config::read(call)?;
    let node = node.as_ref().map_err(Clone::clone)?;
    ready::now(conf.readiness.as_deref()).map_err(not_ready)?;
    journal_is_writable(dirs)?;
    let wanted = master(&conf);
    let api = outside::open(&conf, node, env).map_err(not_ready)?;
    let world = World::new(call, dirs, api.as_ref());
    let known = gather::look_up(&world, &conf, call.version.as_str(), wanted).await.map_err(not_ready)?;
    let Some(known) = known else { return Ok(()) };
    if leaves_state(&run::to_map(&known.conf)) || world.leaves_statuses().await {
        dirs.must_have_room()?;
    }
    let path = plugin_path(&conf, call);
    let site = run::Site { path: &path, dirs, node, started: None };
    // What it says itself goes to the runtime as it is.
    run::status(&known.conf, &site).await.map_err(|f| if f.code == Code::PluginMissing { not_ready(f) } else { f })
}

fn not_ready(failure: Failure) -> Failure {
    match failure.code {
        Code::MetaConfig | Code::NadInvalid => failure,
        _ => Failure { code: Code::NotReady, ..failure },
    }
}
