//! Filters that keep machines' DHCP apart from their LAN's, where another program took them away: put back. Nothing in the
//! kernel tells of it, so they are looked at each minute.

use std::collections::HashMap;

use super::{Kind, Said, Tools};
use crate::attach::{self, Fence};
use crate::store::Entry;
use crate::types::{AttachmentId, Outcome};

#[derive(Default)]
pub struct Fences {
    /// What was told last of a machine's, so that it is told once.
    told: HashMap<AttachmentId, String>,
}

impl Fences {
    pub async fn round(&mut self, tools: &Tools<'_>, entries: &[Entry]) -> Outcome<Vec<Said>> {
        let fences = attach::fences(entries, tools.dirs, tools.host)?;
        self.told.retain(|id, _| fences.iter().any(|f| f.entry.id == *id));
        let mut said = Vec::new();
        for fence in &fences {
            if fence.is_sound(tools.links).await? {
                self.told.remove(&fence.entry.id);
                continue;
            }
            if tools.dry_run {
                said.extend(self.once(fence, "the filters that keep its DHCP from the LAN are gone".into()));
                continue;
            }
            match fence.mend(tools.dirs, tools.links).await {
                Ok(false) => {}
                Ok(true) => {
                    let text = "the filters that keep its DHCP from the LAN were put back";
                    said.push(say(fence, text.into(), true));
                }
                Err(failure) => {
                    said.extend(self.once(
                        fence,
                        format!("the filters that keep its DHCP from the LAN cannot be put back: {failure}"),
                    ))
                }
            }
        }
        Ok(said)
    }

    fn once(&mut self, fence: &Fence, text: String) -> Option<Said> {
        let before = self.told.insert(fence.entry.id.clone(), text.clone());
        (before.as_ref() != Some(&text)).then(|| say(fence, text, false))
    }
}

fn say(fence: &Fence, text: String, done: bool) -> Said {
    Said { pod: fence.pod.clone(), kind: Kind::Fence, done, quiet: false, text: format!("{}: {text}", fence.network) }
}
