//! Ports that another program took off their bridge, or whose VLANs or flags it took away: put right, five times at most;
//! then somebody means it, and it is only told.

use std::collections::BTreeSet;

use super::told::{Subject, Told};
use super::{Kind, Said, Tools};
use crate::attach::{self, PodPort};
use crate::plan::Verdict;
use crate::store::Entry;
use crate::types::Outcome;

const MOST: u32 = 5;

#[derive(Default)]
pub struct Ports {
    told: Told,
    /// Indices of the ports, as of the last look.
    pub indices: BTreeSet<u32>,
    /// Names of their bridges.
    pub bridges: BTreeSet<String>,
    /// Indices of all bridges, as of the last look that had a port to look at.
    pub seen: BTreeSet<u32>,
    /// Somebody was at work on the container of one: it is looked at again soon.
    pub again: bool,
}

impl Ports {
    pub async fn round(&mut self, tools: &Tools<'_>, entries: &[Entry]) -> Outcome<Vec<Said>> {
        let ports = attach::ports(entries, tools.dirs, tools.host)?;
        self.indices = ports.iter().map(|p| p.index).collect();
        self.bridges = ports.iter().map(|p| p.bridge.clone()).collect();
        self.again = false;
        self.told.keep(ports.iter().map(|p| &p.entry));
        if ports.is_empty() {
            return Ok(Vec::new());
        }
        let node = attach::Node::look(tools.links).await?;
        self.seen = node.bridges().collect();
        let mut said = Vec::new();
        for port in &ports {
            match port.look(&node) {
                Verdict::Sound => self.told.sound(&port.entry),
                Verdict::Leave(why) => {
                    let text = format!("its port is off its bridge or down: {why}");
                    said.extend(self.told.once(&subject(port), text));
                }
                Verdict::Mend(mend) if tools.dry_run => {
                    let text = format!("its port on {} would be {}", port.bridge, mend.text());
                    said.extend(self.told.once(&subject(port), text));
                }
                Verdict::Mend(_) => said.extend(self.mend(tools, port).await),
            }
        }
        Ok(said)
    }

    async fn mend(&mut self, tools: &Tools<'_>, port: &PodPort) -> Option<Said> {
        if self.told.of(&port.entry).times >= MOST {
            let text = format!(
                "its port on {} was put right {MOST} times, and is changed again and again: left as it is",
                port.bridge
            );
            return self.told.once(&subject(port), text);
        }
        match port.mend(tools.dirs, tools.links).await {
            Ok(None) => {
                self.again = true;
                None
            }
            Ok(Some(mend)) => {
                self.told.of(&port.entry).times += 1;
                Some(subject(port).say(&format!("its port on {} was {}", port.bridge, mend.text()), true))
            }
            Err(failure) => {
                self.told.of(&port.entry).times += 1;
                self.told.once(&subject(port), format!("its port on {} cannot be put right: {failure}", port.bridge))
            }
        }
    }
}

fn subject(port: &PodPort) -> Subject<'_> {
    Subject { entry: &port.entry, pod: &port.pod, kind: Kind::Port, name: port.entry.id.ifname.as_str() }
}
