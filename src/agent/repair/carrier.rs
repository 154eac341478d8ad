//! What pods should know of their way out of the node, where there is nothing to mend. A cable that was pulled: the
//! master of a macvlan, or all uplinks of a bridge, have lost their carrier; told once for each loss. A macvlan in the
//! place of a bridge that is missing; told here where another meta plugin called for it, as ours has told its pods itself.

use std::collections::{BTreeSet, HashSet};

use super::told::{Subject, Told};
use super::{Kind, Said, Tools};
use crate::attach;
use crate::store::Entry;
use crate::types::{Outcome, Role};

#[derive(Default)]
pub struct Carriers {
    lost: Told,
    fallback: Told,
    begun: bool,
    /// Indices of the links that lead out, as of the last look.
    pub indices: BTreeSet<u32>,
    /// How many attachments are a macvlan in a bridge's place.
    pub fallbacks: usize,
}

impl Carriers {
    pub async fn round(&mut self, tools: &Tools<'_>, entries: &[Entry]) -> Outcome<Vec<Said>> {
        let outlets = attach::outlets(entries, tools.dirs, tools.host)?;
        let ours: HashSet<_> = entries.iter().filter(|e| e.id.role == Role::Meta).map(|e| &e.id.container).collect();
        let all = if outlets.is_empty() { Vec::new() } else { tools.links.links().await? };
        self.indices = outlets.iter().flat_map(|o| o.links(&all)).map(|l| l.index).collect();
        self.fallbacks = outlets.iter().filter(|o| o.fallback.is_some()).count();
        for told in [&mut self.lost, &mut self.fallback] {
            told.keep(outlets.iter().map(|o| &o.entry));
        }
        let mut said = Vec::new();
        for outlet in &outlets {
            let id = &outlet.entry.id;
            let about = |kind| Subject { entry: &outlet.entry, pod: &outlet.pod, kind, name: id.ifname.as_str() };
            if let Some(text) = outlet.fallback.clone().filter(|_| !ours.contains(&id.container)) {
                said.extend(self.fallback.once(&about(Kind::Fallback), text));
            }
            match outlet.cut(&all) {
                Some(text) => said.extend(self.lost.once(&about(Kind::Carrier), text)),
                None => self.lost.sound(&outlet.entry),
            }
        }
        // An agent that begins does not know whether the one before it has told.
        if !std::mem::replace(&mut self.begun, true) {
            said.clear();
        }
        Ok(said)
    }
}
