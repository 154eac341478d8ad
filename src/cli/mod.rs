//! The command line: flags in, text and an exit code out. No rule of the domain lives here.
//!
//! ```text
//! 0  done; for the lab: every ping came through, and the refusal came; for doctor: no trouble
//! 1  something failed; doctor found trouble
//! 2  the command line is wrong
//! 3  the lab left something out that this machine or user cannot show; nothing failed
//! ```

mod agent;
mod dhcp;
mod dhcp_daemon;
mod doctor;
mod lab;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

use clap::{ArgAction, Parser, Subcommand};
use tracing::level_filters::LevelFilter;

/// Puts KubeVirt machines and pods onto the Linux bridges that a node already has.
///
/// Called by a container runtime, without an argument and with CNI_COMMAND set, it is a CNI plugin. With arguments it is
/// this command line.
#[derive(Debug, Parser)]
#[command(name = "trestle", version, disable_help_subcommand = true)]
struct Args {
    /// Tell on standard error what is being done; twice: in detail
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

const DONE: u8 = 0;
const FAILED: u8 = 1;
const WRONG_LINE: u8 = 2;
const INCOMPLETE: u8 = 3;

#[derive(Debug, Subcommand)]
enum Command {
    Agent(agent::AgentArgs),
    Dhcp(dhcp::DhcpArgs),
    Doctor(doctor::DoctorArgs),
    Lab(lab::LabArgs),
    /// Print the version
    Version,
}

/// `args` with the program's name first, as the process got them. Returns the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let args = match Args::try_parse_from(as_ours(args)) {
        Ok(args) => args,
        Err(e) => {
            // Help and version come this way too, for standard output and with 0.
            let _ = e.print();
            return if e.use_stderr() { WRONG_LINE } else { DONE };
        }
    };
    // What stays for long tells what it does.
    let stays = match &args.command {
        Command::Agent(_) => true,
        Command::Dhcp(args) => args.stays(),
        Command::Doctor(_) | Command::Lab(_) | Command::Version => false,
    };
    log(args.verbose.saturating_add(stays.into()));
    let outcome = match args.command {
        Command::Version => print(&format!("trestle {}", env!("CARGO_PKG_VERSION"))).map(|()| DONE),
        Command::Dhcp(args) => dhcp::run(args),
        Command::Agent(args) => agent::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Lab(args) => lab::run(args),
    };
    outcome.unwrap_or_else(|e| {
        // Nowhere is left to say that standard error is closed.
        let _ = writeln!(std::io::stderr(), "trestle: {e:#}");
        FAILED
    })
}

/// Installed as `dhcp`, `dhcp daemon` is what the reference plugin has under these words. What follows on `--` there it never
/// looks at, and clap would take the two dashes away.
fn as_ours(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    if args.first().is_some_and(|program| Path::new(program).file_name() == Some("dhcp".as_ref())) {
        args.insert(1, "dhcp".into());
    }
    if args.get(1..4).is_some_and(|words| words == ["dhcp", "daemon", "--"]) {
        args.truncate(3);
    }
    args
}

fn print(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

fn log(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    // Without colour: asking tracing-subscriber for it is a panic where it is built without its feature `ansi`.
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false);
    // Only a second call could fail.
    let _ = builder.without_time().with_target(false).try_init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_description_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn mistakes_are_told() {
        for bad in [&["trestle"][..], &["trestle", "lub"], &["trestle", "lab", "--guest", "xen"], &["trestle", "-x"]] {
            let e = Args::try_parse_from(bad).unwrap_err();
            assert!(e.use_stderr(), "{bad:?}");
        }
        for good in [&["trestle", "--help"][..], &["trestle", "--version"], &["trestle", "lab", "--help"]] {
            assert!(!Args::try_parse_from(good).unwrap_err().use_stderr(), "{good:?}");
        }
        for daemon in [&["trestle", "dhcp", "daemon"][..], &["/opt/cni/bin/dhcp", "daemon", "-hostprefix", "/host"]] {
            let args = Args::try_parse_from(as_ours(daemon.iter().map(Into::into))).unwrap();
            assert!(matches!(args.command, Command::Dhcp(_)), "{daemon:?}");
        }
        let ended = as_ours(["dhcp", "daemon", "--", "-bogus"].map(OsString::from));
        assert_eq!(ended, ["dhcp", "dhcp", "daemon"]);
        assert!(matches!(Args::try_parse_from(["trestle", "version"]).unwrap().command, Command::Version));
    }
}
