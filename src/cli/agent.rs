//! `trestle agent`: the node's agent, as a DaemonSet runs it.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use crate::agent::{self, Options, Wanted};
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
    /// Only say what would be repaired, swept or released, and which bridges the Node would be told to have. All else is
    /// done: answers, copies of networks, statuses, Events, leases, guests' DHCP
    #[arg(long)]
    dry_run: bool,
    /// Bridges that the scheduler is told of, by name, `*` and `?` allowed; may be repeated [default: those that pods'
    /// networks may name by node.json]
    #[arg(long = "bridge", value_name = "GLOB")]
    bridges: Vec<String>,
    /// Only bridges that lead out of the node, by a port with a carrier
    #[arg(long)]
    require_uplink: bool,
    /// Where /metrics, /healthz and /readyz are [default: port 9477 of all addresses]
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:9477", hide_default_value = true)]
    metrics: SocketAddr,
    /// No metrics
    #[arg(long, conflicts_with = "metrics")]
    no_metrics: bool,
}

pub fn run(args: AgentArgs) -> anyhow::Result<u8> {
    let dirs = Dirs::from_env(&|key| std::env::var_os(key));
    let node = match args.node.or_else(|| std::env::var("NODE_NAME").ok().filter(|n| !n.is_empty())) {
        Some(node) => node,
        None => nix::unistd::gethostname().context("the host's name")?.to_string_lossy().to_ascii_lowercase(),
    };
    let metrics = (!args.no_metrics).then_some(args.metrics);
    let wanted = Wanted { bridges: args.bridges, require_uplink: args.require_uplink, metrics };
    agent::run(Options { dirs, node, kubeconfig: args.kubeconfig, dry_run: args.dry_run, wanted })?;
    Ok(super::DONE)
}
