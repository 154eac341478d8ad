//! `trestle doctor`: what is wrong on this node, as far as it can be seen from the node itself, and what to do about it.
//!
//! It reads and never changes anything, asks no API server, and may run beside a node at work. Each look gives findings;
//! what a finding means follows from the rules of the rooms below (`plan` says what a healthy bridge is), none is decided
//! here.
//!
//! ```text
//! node      node.json, the directories, bridges
//! agent     who answers at the socket, whether copies are vouched for, statuses that are not told yet
//! entries   journal: what cannot be read, whose pod is gone
//! leases    who keeps them, which are overdue
//! addresses of host-local whose pod is not found
//! ```

mod addresses;
mod agent;
mod entries;
mod leases;
mod node;
#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::plan::BridgeRule;
use crate::store::Dirs;
use crate::types::Failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// To know, not to mend.
    Note,
    Trouble,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub state: State,
    /// What was looked at, in a word or two.
    pub about: String,
    pub text: String,
    /// `TRnnnn`, where the trouble is one of the table's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl Finding {
    fn new(state: State, about: impl Into<String>, text: impl Into<String>) -> Self {
        Self { state, about: about.into(), text: text.into(), code: None, remedy: String::new() }
    }

    fn ok(about: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(State::Ok, about, text)
    }

    fn note(about: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(State::Note, about, text)
    }

    fn trouble(about: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(State::Trouble, about, text)
    }

    fn of(about: impl Into<String>, failure: &Failure) -> Self {
        Self {
            code: Some(failure.code.id()),
            remedy: failure.remedy.clone(),
            ..Self::trouble(about, failure.msg.clone())
        }
    }

    fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { remedy: remedy.into(), ..self }
    }
}

/// All that can be seen, in the order of a reader's questions. `rule`: which bridges count; its list of allowed ones is
/// taken from `node.json`.
pub async fn examine(dirs: &Dirs, rule: BridgeRule) -> Vec<Finding> {
    let mut findings = node::examine(dirs, rule).await;
    findings.extend(agent::examine(dirs).await);
    findings.extend(entries::examine(dirs));
    findings.extend(leases::examine(dirs));
    findings.extend(addresses::examine(dirs));
    findings
}

pub fn worst(findings: &[Finding]) -> State {
    findings.iter().map(|f| f.state).max().unwrap_or(State::Ok)
}

/// "3 entries", "1 entry".
fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}
