//! Filters that keep machines' DHCP apart from their LAN's, where another program took them away: put back. Nothing in the
//! kernel tells of it, so they are looked at each minute.

use super::told::{Subject, Told};
use super::{Kind, Said, Tools};
use crate::attach::{self, Fence};
use crate::store::Entry;
use crate::types::Outcome;

const FILTERS: &str = "the filters that keep its DHCP from the LAN";

#[derive(Default)]
pub struct Fences {
    told: Told,
}

impl Fences {
    pub async fn round(&mut self, tools: &Tools<'_>, entries: &[Entry]) -> Outcome<Vec<Said>> {
        let fences = attach::fences(entries, tools.dirs, tools.host)?;
        self.told.keep(fences.iter().map(|f| &f.entry));
        let mut said = Vec::new();
        for fence in &fences {
            if fence.is_sound(tools.links).await? {
                self.told.sound(&fence.entry);
                continue;
            }
            if tools.dry_run {
                said.extend(self.told.once(&subject(fence), format!("{FILTERS} are gone")));
                continue;
            }
            match fence.mend(tools.dirs, tools.links).await {
                Ok(false) => {}
                Ok(true) => said.push(subject(fence).say(&format!("{FILTERS} were put back"), true)),
                Err(failure) => {
                    let text = format!("{FILTERS} cannot be put back: {failure}");
                    said.extend(self.told.once(&subject(fence), text));
                }
            }
        }
        Ok(said)
    }
}

fn subject(fence: &Fence) -> Subject<'_> {
    Subject { entry: &fence.entry, pod: &fence.pod, kind: Kind::Fence, name: &fence.network }
}
