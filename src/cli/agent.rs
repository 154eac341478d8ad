//! `trestle agent`: the node's agent, as a DaemonSet runs it.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::agent::{self, Options};
use crate::store::Dirs;

/// Run the node's agent: it tells the plugin what pods want, and Kubernetes what pods have got
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Name of this node's object [default: $NODE_NAME, else the host's name]
    #[arg(long)]
    node: Option<String>,
    /// How to reach the API server [default: as a pod does, by its service account]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Say what would be repaired, and change nothing
    #[arg(long)]
    dry_run: bool,
}

pub fn run(args: AgentArgs) -> anyhow::Result<u8> {
    let dirs = Dirs::from_env(&|key| std::env::var_os(key));
    let node = match args.node.or_else(|| std::env::var("NODE_NAME").ok().filter(|n| !n.is_empty())) {
        Some(node) => node,
        None => nix::unistd::gethostname().context("the host's name")?.to_string_lossy().to_ascii_lowercase(),
    };
    agent::run(Options { dirs, node, kubeconfig: args.kubeconfig, dry_run: args.dry_run })?;
    Ok(super::DONE)
}
