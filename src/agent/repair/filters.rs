//! Rules of the packet filter that were flushed with others': put back, each time, as a pod without its guard may speak
//! under anybody's MAC. After five times it is not told any more.

use super::told::{Subject, Told};
use super::{Kind, Said, Tools};
use crate::attach::{self, PodRules};
use crate::store::Entry;
use crate::types::Outcome;

const MOST: u32 = 5;

#[derive(Default)]
pub struct Filters {
    told: Told,
    /// How many attachments have such rules, as of the last look.
    pub count: usize,
    /// Somebody was at work on the container of one: it is looked at again soon.
    pub again: bool,
}

impl Filters {
    pub fn round(&mut self, tools: &Tools<'_>, entries: &[Entry]) -> Outcome<Vec<Said>> {
        let all = attach::rules(entries, tools.dirs, tools.host)?;
        self.count = all.len();
        self.again = false;
        self.told.keep(all.iter().map(|r| &r.entry));
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let mut said = Vec::new();
        for (rules, missing) in attach::amiss(&all)? {
            if tools.dry_run {
                said.extend(self.told.once(&subject(rules), format!("its {} would be put back", missing.text())));
                continue;
            }
            match rules.mend(tools.dirs) {
                Ok(None) => self.again = true,
                Ok(Some(missing)) => said.push(self.done(rules, missing)),
                Err(failure) => {
                    let text = format!("its {} cannot be put back: {failure}", missing.text());
                    said.extend(self.told.once(&subject(rules), text));
                }
            }
        }
        Ok(said)
    }

    fn done(&mut self, rules: &PodRules, missing: attach::Missing) -> Said {
        self.told.sound(&rules.entry);
        let mended = self.told.of(&rules.entry);
        mended.times += 1;
        let again = if mended.times > MOST { "; somebody takes it away again and again" } else { "" };
        let text = format!("its {} was put back: somebody had flushed the rules{again}", missing.text());
        Said { quiet: mended.times > MOST + 1, ..subject(rules).say(&text, true) }
    }
}

fn subject(rules: &PodRules) -> Subject<'_> {
    Subject { entry: &rules.entry, pod: &rules.pod, kind: Kind::Filter, name: rules.entry.id.ifname.as_str() }
}
