//! Ports that another program took off their bridge, or whose VLANs or flags it took away: put right, five times at most;
//! then somebody means it, and it is only told.

use std::collections::{BTreeSet, HashMap};

use super::{Kind, Said, Tools};
use crate::attach::{self, PodPort};
use crate::plan::Verdict;
use crate::store::Entry;
use crate::types::{AttachmentId, Outcome};

const MOST: u32 = 5;

#[derive(Default)]
pub struct Ports {
    mended: HashMap<AttachmentId, Mended>,
    /// Indices of the ports, as of the last look.
    pub indices: BTreeSet<u32>,
    /// Names of their bridges.
    pub bridges: BTreeSet<String>,
    /// Indices of all bridges, as of the last look that had a port to look at.
    pub seen: BTreeSet<u32>,
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

impl Ports {
    pub async fn round(&mut self, tools: &Tools<'_>, entries: &[Entry]) -> Outcome<Vec<Said>> {
        let ports = attach::ports(entries, tools.dirs, tools.host)?;
        self.indices = ports.iter().map(|p| p.index).collect();
        self.bridges = ports.iter().map(|p| p.bridge.clone()).collect();
        self.again = false;
        self.mended.retain(|id, _| ports.iter().any(|p| p.entry.id == *id));
        if ports.is_empty() {
            return Ok(Vec::new());
        }
        let node = attach::Node::look(tools.links).await?;
        self.seen = node.bridges().collect();
        let mut said = Vec::new();
        for port in &ports {
            match port.look(&node) {
                Verdict::Sound => {
                    if let Some(mended) = self.mended.get_mut(&port.entry.id) {
                        mended.told = None;
                    }
                }
                Verdict::Leave(why) => {
                    said.extend(self.once(port, format!("its port is off its bridge or down: {why}")))
                }
                Verdict::Mend(mend) if tools.dry_run => {
                    said.extend(self.once(port, format!("its port on {} would be {}", port.bridge, mend.text())));
                }
                Verdict::Mend(_) => said.extend(self.mend(tools, port).await),
            }
        }
        Ok(said)
    }

    fn of(&mut self, port: &PodPort) -> &mut Mended {
        let mended = self.mended.entry(port.entry.id.clone()).or_default();
        if mended.written != port.entry.written {
            *mended = Mended { written: port.entry.written, ..Mended::default() };
        }
        mended
    }

    /// What is told and not done.
    fn once(&mut self, port: &PodPort, text: String) -> Option<Said> {
        let mended = self.of(port);
        if mended.told.as_ref() == Some(&text) {
            return None;
        }
        mended.told = Some(text.clone());
        Some(say(port, text, false))
    }

    async fn mend(&mut self, tools: &Tools<'_>, port: &PodPort) -> Option<Said> {
        if self.of(port).times >= MOST {
            let text = format!(
                "its port on {} was put right {MOST} times, and is changed again and again: left as it is",
                port.bridge
            );
            return self.once(port, text);
        }
        match port.mend(tools.dirs, tools.links).await {
            Ok(None) => {
                self.again = true;
                None
            }
            Ok(Some(mend)) => {
                self.of(port).times += 1;
                Some(say(port, format!("its port on {} was {}", port.bridge, mend.text()), true))
            }
            Err(failure) => {
                self.of(port).times += 1;
                self.once(port, format!("its port on {} cannot be put right: {failure}", port.bridge))
            }
        }
    }
}

fn say(port: &PodPort, text: String, done: bool) -> Said {
    Said {
        pod: port.pod.clone(),
        kind: Kind::Port,
        done,
        text: format!("{}: {text}", port.entry.id.ifname),
        quiet: false,
    }
}
