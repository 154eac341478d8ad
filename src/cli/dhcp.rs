//! `trestle dhcp` on the command line, and what `dhcp`, installed under the reference plugin's name, is asked for.

use clap::{Args, Subcommand};

use super::dhcp_daemon;

/// What belongs to addresses that a DHCP server lends
#[derive(Debug, Args)]
pub struct DhcpArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Daemon(dhcp_daemon::DaemonArgs),
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
    }
}
