//! Rules of the packet filter that were flushed with others': put back, each time, as a pod without its guard may speak
//! under anybody's MAC. After five times it is not told any more.

use std::collections::HashMap;

use super::{Kind, Said, Tools};
use crate::attach::{self, PodRules};
use crate::store::Entry;
use crate::types::{AttachmentId, Outcome};

const MOST: u32 = 5;

#[derive(Default)]
pub struct Filters {
    mended: HashMap<AttachmentId, Mended>,
    /// How many attachments have such rules, as of the last look.
    pub count: usize,
    /// Somebody was at work on the container of one: it is looked at again soon.
    pub again: bool,
}

#[derive(Default)]
struct Mended {
    /// Of which writing of the entry.
    written: u64,
    times: u32,
    /// What was told last, so that it is told once.
    told: Option<String>,
}

impl Filters {
    pub fn round(&mut self, tools: &Tools<'_>, entries: &[Entry]) -> Outcome<Vec<Said>> {
        let all = attach::rules(entries, tools.dirs, tools.host)?;
        self.count = all.len();
        self.again = false;
        self.mended.retain(|id, _| all.iter().any(|r| r.entry.id == *id));
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let mut said = Vec::new();
        for (rules, missing) in attach::amiss(&all)? {
            if tools.dry_run {
                said.extend(self.once(rules, format!("its {} would be put back", missing.text())));
                continue;
            }
            match rules.mend(tools.dirs) {
                Ok(None) => self.again = true,
                Ok(Some(missing)) => said.push(self.done(rules, missing)),
                Err(failure) => {
                    said.extend(self.once(rules, format!("its {} cannot be put back: {failure}", missing.text())));
                }
            }
        }
        Ok(said)
    }

    fn of(&mut self, rules: &PodRules) -> &mut Mended {
        let mended = self.mended.entry(rules.entry.id.clone()).or_default();
        if mended.written != rules.entry.written {
            *mended = Mended { written: rules.entry.written, ..Mended::default() };
        }
        mended
    }

    fn done(&mut self, rules: &PodRules, missing: attach::Missing) -> Said {
        let mended = self.of(rules);
        mended.times += 1;
        mended.told = None;
        let again = if mended.times > MOST { "; somebody takes it away again and again" } else { "" };
        let text = format!("its {} was put back: somebody had flushed the rules{again}", missing.text());
        Said { quiet: mended.times > MOST + 1, ..say(rules, text, true) }
    }

    /// What is told and not done.
    fn once(&mut self, rules: &PodRules, text: String) -> Option<Said> {
        let mended = self.of(rules);
        if mended.told.as_ref() == Some(&text) {
            return None;
        }
        mended.told = Some(text.clone());
        Some(say(rules, text, false))
    }
}

fn say(rules: &PodRules, text: String, done: bool) -> Said {
    let text = format!("{}: {text}", rules.entry.id.ifname);
    Said { pod: rules.pod.clone(), kind: Kind::Filter, done, text, quiet: false }
}
