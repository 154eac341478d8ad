//! The agent: whether it is there, and what waits for it.

use std::time::Instant;

use super::{Finding, count};
use crate::protocol::{self, Untold};
use crate::resolve::{Agent, Copies};
use crate::store::{Dirs, Pending};
use crate::types::Outcome;

pub async fn examine(dirs: &Dirs) -> Vec<Finding> {
    let agent = Agent::new(dirs);
    let begin = Instant::now();
    let answers = agent.answers().await;
    let first = match (agent.is_expected(), answers) {
        (_, true) => Finding::ok("agent", format!("answers, in {:.1} ms", begin.elapsed().as_secs_f64() * 1e3)),
        (true, false) => Finding::trouble("agent", "this node has one, and it does not answer").remedy(format!(
            "its pod's log: kubectl -n trestle-system logs -l app.kubernetes.io/name=trestle-agent; if there is to be none: rm -f {} {}",
            protocol::socket(dirs).display(),
            protocol::mark(dirs).display()
        )),
        (false, false) => Finding::note("agent", "this node has none: the plugin asks elsewhere"),
    };
    let copies = Copies::new(dirs);
    let kept = copies.names().len();
    let text = count(kept, "network is kept on disk", "networks are kept on disk");
    let second = match copies.vouched() {
        true => Finding::ok("copies", format!("{text}, and the agent vouches for what it knows")),
        false if kept == 0 => Finding::ok("copies", "none are kept"),
        false => Finding::note(
            "copies",
            format!("{text}; nobody vouches for them: they serve where the API server does not answer"),
        ),
    };
    vec![first, second, untold(Pending::untold(dirs).all::<Untold>())]
}

fn untold(all: Outcome<Vec<Outcome<Untold>>>) -> Finding {
    let all = match all {
        Ok(all) => all,
        Err(failure) => return Finding::of("statuses", &failure),
    };
    if let Some(Err(failure)) = all.iter().find(|one| one.is_err()) {
        return Finding::of("statuses", failure);
    }
    let names: Vec<String> = all.iter().flatten().map(|u| u.pod.to_string()).collect();
    if names.is_empty() {
        return Finding::ok("statuses", "all pods' network-status has been told");
    }
    Finding::note("statuses", format!("not told to the API server yet: {}", names.join(", ")))
        .remedy("nothing, if this changes within seconds; else look after the agent and the API server")
}
