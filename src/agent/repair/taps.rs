//! What joins machines to their taps inside their pods, where another program took it away: put back, each minute, by a
//! child that enters the namespaces; nothing outside tells of a change there.

use std::time::Duration;

use super::told::{Subject, Told};
use super::{Kind, Said, Tools, visible};
use crate::agent::keeper::Children;
use crate::attach::{self, Finding, Joined, Round};
use crate::store::Entry;
use crate::types::Outcome;

/// For all: each takes some milliseconds. Nothing else is mended meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who goes into the pods.
pub trait Visit {
    fn visit(&self, round: &Round) -> impl Future<Output = Outcome<Vec<Option<Finding>>>>;
}

impl Visit for Children {
    async fn visit(&self, round: &Round) -> Outcome<Vec<Option<Finding>>> {
        self.ask("mend", round, PATIENCE).await
    }
}

#[derive(Default)]
pub struct Taps {
    told: Told,
}

impl Taps {
    pub async fn round(&mut self, tools: &Tools<'_>, entries: &[Entry], visit: &impl Visit) -> Outcome<Vec<Said>> {
        let all = attach::joined(entries, tools.dirs, tools.host)?;
        self.told.keep(all.iter().map(|j| &j.entry));
        let seen: Vec<_> = all.iter().filter_map(|j| Some((j, visible(&j.netns)?))).collect();
        if seen.is_empty() {
            return Ok(Vec::new());
        }
        let of = seen.iter().map(|(j, path)| (j.entry.id.clone(), path.clone())).collect();
        let findings = visit.visit(&Round { dry_run: tools.dry_run, of }).await?;
        Ok(seen.into_iter().zip(findings).filter_map(|((joined, _), finding)| self.said(joined, finding)).collect())
    }

    fn said(&mut self, joined: &Joined, finding: Option<Finding>) -> Option<Said> {
        let Joined { entry, pod, network, .. } = joined;
        let subject = Subject { entry, pod, kind: Kind::Tap, name: network };
        match finding {
            None => {
                self.told.sound(entry);
                None
            }
            Some(Finding { done: true, text }) => Some(subject.say(&text, true)),
            Some(Finding { done: false, text }) => self.told.once(&subject, text),
        }
    }
}
