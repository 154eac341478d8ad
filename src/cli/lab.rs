//! `trestle lab` on the command line.

use std::ffi::OsString;
use std::io::{IsTerminal, Write};

use clap::{Args, Subcommand, ValueEnum};

use super::{DONE, FAILED, INCOMPLETE, print};
use crate::lab::{self, GuestKind, Look, Place, Report, Verdict};

/// Show all of it on this machine, in network namespaces, without Kubernetes
///
/// Builds a node with a bridge, a LAN and a neighbour on it; attaches a plain pod by bridge, one by macvlan, and a virtual
/// machine's pod, whose guest is a small TCP/IP stack or a real Linux; pings across; shows that a virtual machine on macvlan
/// is refused; and takes everything down again. Needs root, or a user that may make user namespaces.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = false,
    after_help = "Exit code: 0 every ping came through and the refusal came; 1 something failed; 2 the command line is wrong; 3 \
                  nothing failed, but this machine or user could not show everything."
)]
pub struct LabArgs {
    #[command(subcommand)]
    action: Option<Action>,
    /// What stands behind the virtual machine's tap
    #[arg(long, global = true, value_enum, default_value = "stack")]
    guest: GuestName,
    /// How to print what happened
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build it and leave it standing
    Up,
    /// Take away the one that stands
    Down,
    /// Open a shell in the one that stands, or run a command there
    Shell {
        #[arg(value_enum, default_value = "node")]
        place: PlaceName,
        #[arg(last = true)]
        command: Vec<OsString>,
    },
    #[command(hide = true)]
    Keep,
    #[command(hide = true)]
    Guest { spec: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum GuestName {
    /// A TCP/IP stack in a process of the lab
    Stack,
    /// A real Linux under QEMU, by software emulation
    Qemu,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// [`Place`] as the command line has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PlaceName(Place);

impl ValueEnum for PlaceName {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [PlaceName; Place::ALL.len()] = {
            let mut all = [PlaceName(Place::Node); Place::ALL.len()];
            let mut n = 0;
            while n < all.len() {
                all[n] = PlaceName(Place::ALL[n]);
                n += 1;
            }
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.0.namespace()))
    }
}

pub fn run(args: LabArgs) -> anyhow::Result<u8> {
    let guest = match args.guest {
        GuestName::Stack => GuestKind::Stack,
        GuestName::Qemu => GuestKind::Qemu,
    };
    match args.action {
        None => told(&lab::run(guest)?, args.output),
        Some(Action::Up) => {
            let code = told(&lab::up(guest)?, args.output)?;
            if args.output == Output::Table {
                print(LOOK_AROUND)?;
            }
            Ok(code)
        }
        Some(Action::Down) => down(args.output),
        Some(Action::Shell { place, command }) => {
            if command.is_empty() && std::io::stdin().is_terminal() {
                writeln!(std::io::stderr(), "A shell in {} of the lab; `exit` leaves it.", place.0.namespace())?;
            }
            lab::shell(place.0, &command).map(|()| DONE)
        }
        Some(Action::Keep) => lab::keep(guest).map(|()| DONE),
        Some(Action::Guest { spec }) => lab::guest(&spec).map(|()| DONE),
    }
}

const LOOK_AROUND: &str = "\
It stands. To look around:
  trestle lab shell node                        a shell on the node; also: lan, neighbour, pod, mac-pod, vm
  trestle lab shell node -- bridge link         the bridge's ports
  trestle lab shell vm -- tc -s filter show dev pod094a367b026 ingress
  trestle lab shell neighbour -- ip neighbour   whom the neighbour knows
  trestle lab down                              take it away";

fn down(output: Output) -> anyhow::Result<u8> {
    match lab::down()? {
        Some(report) => told(&report, output),
        None => {
            match output {
                Output::Table => print("No lab is up.")?,
                Output::Json => print(&Report::default().json().to_string())?,
            }
            Ok(DONE)
        }
    }
}

fn told(report: &Report, output: Output) -> anyhow::Result<u8> {
    let mut out = std::io::stdout();
    match output {
        Output::Json => writeln!(out, "{:#}", report.json())?,
        Output::Table => {
            let look = Look::of(&|key| std::env::var(key).ok(), out.is_terminal());
            report.write(&mut out, look)?;
        }
    }
    Ok(match report.verdict() {
        Verdict::Ok => DONE,
        Verdict::Failed => FAILED,
        Verdict::Incomplete => INCOMPLETE,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Whole {
        #[command(flatten)]
        lab: LabArgs,
    }

    fn parsed(line: &[&str]) -> LabArgs {
        Whole::try_parse_from(["lab"].iter().chain(line)).unwrap().lab
    }

    #[test]
    fn options_stand_before_or_after_the_action() {
        let args = parsed(&[]);
        assert!(args.action.is_none() && args.guest == GuestName::Stack && args.output == Output::Table);
        for line in [&["--guest", "qemu", "-o", "json", "up"][..], &["up", "--guest=qemu", "--output", "json"]] {
            let args = parsed(line);
            assert!(matches!(args.action, Some(Action::Up)));
            assert!(args.guest == GuestName::Qemu && args.output == Output::Json, "{line:?}");
        }
    }

    #[test]
    fn a_shell_has_a_place_and_perhaps_a_command() {
        let shell = |line: &[&str]| match parsed(line).action {
            Some(Action::Shell { place, command }) => (place.0, command),
            other => panic!("{other:?}"),
        };
        assert_eq!(shell(&["shell"]), (Place::Node, vec![]));
        assert_eq!(shell(&["shell", "mac-pod"]), (Place::MacPod, vec![]));
        assert_eq!(shell(&["shell", "vm", "--", "ip", "-d", "link"]).1, ["ip", "-d", "link"]);
        assert!(Whole::try_parse_from(["lab", "shell", "moon"]).is_err());
    }
}
