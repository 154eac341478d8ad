//! `trestle doctor` on the command line.

use std::fmt::Write as _;

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::{DONE, FAILED, print};
use crate::doctor::{self, Finding, State};
use crate::plan::BridgeRule;
use crate::store::Dirs;

/// Say what is wrong on this node, and what to do about it; nothing is changed
///
/// Looks at node.json and the directories, the bridges, the agent and what waits for it, the journal, and DHCP leases. Needs
/// root, and no Kubernetes.
#[derive(Debug, Args)]
#[command(after_help = "Exit code: 0 no trouble; 1 trouble was found; 2 the command line is wrong.")]
pub struct DoctorArgs {
    /// Bridges that count, by name, `*` and `?` allowed; may be repeated [default: those that pods' networks may name by
    /// node.json]
    #[arg(long = "bridge", value_name = "GLOB")]
    bridges: Vec<String>,
    /// Only a bridge that leads out of the node, by a port with a carrier, is healthy
    #[arg(long)]
    require_uplink: bool,
    /// How to print what was found
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

pub fn run(args: DoctorArgs) -> anyhow::Result<u8> {
    let dirs = Dirs::from_env(&|key| std::env::var_os(key));
    let rule = BridgeRule { globs: args.bridges, require_uplink: args.require_uplink, ..BridgeRule::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    let findings = runtime.block_on(doctor::examine(&dirs, rule));
    match args.output {
        Output::Json => print(&format!("{:#}", serde_json::to_value(&findings)?))?,
        Output::Table => print(table(&findings).trim_end())?,
    }
    Ok(if doctor::worst(&findings) == State::Trouble { FAILED } else { DONE })
}

fn table(findings: &[Finding]) -> String {
    let wide = findings.iter().map(|f| f.about.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let state = match finding.state {
            State::Ok => "ok",
            State::Note => "note",
            State::Trouble => "TROUBLE",
        };
        let code = finding.code.map_or_else(String::new, |code| format!("{code}: "));
        // Into a String: cannot fail.
        let _ = writeln!(text, "{state:7}  {:wide$}  {code}{}", finding.about, finding.text);
        if !finding.remedy.is_empty() {
            let _ = writeln!(text, "{:7}  {:wide$}  → {}", "", "", finding.remedy);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_for_people() {
        let of = |state, about: &str, remedy: &str| Finding {
            state,
            about: about.into(),
            text: "as it is".into(),
            code: (state == State::Trouble).then_some("TR0001"),
            remedy: remedy.into(),
        };
        let text = table(&[of(State::Ok, "journal", ""), of(State::Trouble, "bridge br-lan", "mend it")]);
        assert_eq!(
            text,
            "ok       journal        as it is\nTROUBLE  bridge br-lan  TR0001: as it is\n                        → mend it\n"
        );
    }
}
