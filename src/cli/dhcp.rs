//! `trestle dhcp` on the command line, and what `dhcp`, installed under the reference plugin's name, is asked for: the
//! daemon, and what a keeper of leases runs as a child.

use std::io::{Read, Write};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{DONE, dhcp_daemon};
use crate::attach;
use crate::ipam::dhcp::Job;
use crate::store::Dirs;

/// A job is one link and one client; nothing of it is long.
const LONGEST: u64 = 1 << 20;

/// What belongs to addresses that a DHCP server lends
#[derive(Debug, Args)]
pub struct DhcpArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Daemon(dhcp_daemon::DaemonArgs),
    /// One exchange with a server, for a keeper: a job in JSON on standard input, the answer on standard output
    #[command(hide = true)]
    Exchange,
    /// What joins machines to their taps, looked at and put back for the agent: in and out as above
    #[command(hide = true)]
    Mend,
}

impl DhcpArgs {
    /// Whether it stays for long, and so tells what it does.
    pub fn stays(&self) -> bool {
        matches!(self.action, Action::Daemon(_))
    }
}

pub fn run(args: DhcpArgs) -> anyhow::Result<u8> {
    match args.action {
        Action::Daemon(args) => dhcp_daemon::run(args),
        Action::Exchange => errand(async |job: Job, dirs| Ok(attach::dhcp::exchange(&job, &dirs).await?)),
        Action::Mend => errand(async |round: attach::Round, dirs| Ok(attach::mend(&round, &dirs).await)),
    }
}

/// What a child is started for: the job in JSON on standard input, the answer on standard output.
fn errand<J: DeserializeOwned, A: Serialize>(
    carry_out: impl AsyncFnOnce(J, Dirs) -> anyhow::Result<A>,
) -> anyhow::Result<u8> {
    let mut text = String::new();
    std::io::stdin().take(LONGEST).read_to_string(&mut text).context("read the job")?;
    let job: J = serde_json::from_str(&text).context("the job on standard input")?;
    let dirs = Dirs::from_env(&|key| std::env::var_os(key));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let answer = runtime.block_on(carry_out(job, dirs))?;
    let mut out = std::io::stdout();
    serde_json::to_writer(&mut out, &answer)?;
    out.write_all(b"\n")?;
    Ok(DONE)
}
