//! Keeps attachments as they were made, and takes away what nobody needs any more: ports that were thrown off their bridge
//! (`ports`), filters around machines' DHCP that were removed (`fences`), entries whose container is gone (`sweep`).
//!
//! ```text
//! kernel's events ─→ 200 ms ─→ ports
//! every minute ─→ ports, fences, sweep           each word of it: log, metric, an Event on the pod
//! ```
//! Which port is right, `plan` says; how it is put right and how an entry is undone, `attach` and `meta`, under the
//! container's lock, for which nothing here waits. With `dry_run` all is said and nothing is done.

mod fences;
mod ports;
mod sight;
mod sweep;
#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

pub use self::sight::{Fate, fate};

use self::fences::Fences;
use self::ports::Ports;
use self::sweep::{APART, Sweep};
use super::context::Context;
use super::metrics::Family;
use crate::net::{LinkEvent, LinkEvents, LinkKind, Namespace, Netlink};
use crate::store::{Dirs, Entry, Journal};
use crate::types::{Outcome, PodRef, Role};

const SETTLE: Duration = Duration::from_millis(200);

const REPAIRS: Family =
    Family::counter("trestle_repairs_total", "Repairs, by what and whether it was done or only told.");
const ATTACHMENTS: Family = Family::gauge("trestle_attachments", "Entries of the journal, by role.");
const BROKEN: Family = Family::gauge("trestle_journal_broken", "Entries of the journal that cannot be read.");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Port,
    Fence,
    Sweep,
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Fence => "fence",
            Self::Sweep => "sweep",
        }
    }

    /// Of an Event.
    pub fn reason(self, done: bool) -> &'static str {
        match (self, done) {
            (Self::Port, true) => "PortRepaired",
            (Self::Port, false) => "PortNotRepaired",
            (Self::Fence, true) => "DhcpFilterRepaired",
            (Self::Fence, false) => "DhcpFilterNotRepaired",
            (Self::Sweep, _) => "Swept",
        }
    }
}

/// One repair, or what was left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub pod: Option<PodRef>,
    pub kind: Kind,
    pub done: bool,
    pub text: String,
}

/// What a repair is done with.
pub struct Tools<'a> {
    pub dirs: &'a Dirs,
    pub host: &'a Namespace,
    pub links: &'a Netlink,
    pub dry_run: bool,
}

/// In the calling thread's namespace. `tell`: makes an Event of it. Ends only by a failure of the kernel's events.
pub async fn run(ctx: &Context, tell: &dyn Fn(&Said)) -> Outcome<()> {
    let host = Namespace::own()?;
    let mut events = host.link_events()?;
    let links = host.netlink()?;
    let tools = Tools { dirs: &ctx.dirs, host: &host, links: &links, dry_run: ctx.dry_run };
    let mut work =
        Repair { ctx, tools, tell, ports: Ports::default(), fences: Fences::default(), sweep: Sweep::default() };
    let mut next = Instant::now();
    loop {
        let sweeps = Instant::now() >= next;
        if sweeps {
            next = Instant::now() + APART;
        }
        let done = work.round(sweeps).await;
        ctx.metrics.working("repair", done.is_ok());
        if let Err(failure) = done {
            tracing::warn!(%failure, "attachments are not looked at; tried again");
        }
        work.wait(&mut events, next).await?;
    }
}

struct Repair<'a> {
    ctx: &'a Context,
    tools: Tools<'a>,
    tell: &'a dyn Fn(&Said),
    ports: Ports,
    fences: Fences,
    sweep: Sweep,
}

impl Repair<'_> {
    async fn round(&mut self, sweeps: bool) -> Outcome<()> {
        let entries = self.entries()?;
        if sweeps {
            let said = self.sweep.round(&self.tools, &entries).await;
            self.say(&said);
            let said = self.fences.round(&self.tools, &entries).await?;
            self.say(&said);
        }
        let said = self.ports.round(&self.tools, &entries).await?;
        self.say(&said);
        Ok(())
    }

    /// The readable ones, counted.
    fn entries(&self) -> Outcome<Vec<Entry>> {
        let all = Journal(self.tools.dirs).all()?;
        let broken = all.iter().filter(|e| e.is_err()).count();
        let entries: Vec<Entry> = all.into_iter().flatten().collect();
        for role in [Role::Wire, Role::Bind, Role::Ipam, Role::Meta] {
            let count = entries.iter().filter(|e| e.id.role == role).count();
            self.ctx.metrics.set(&ATTACHMENTS, &[("role", role.as_str())], count as f64);
        }
        self.ctx.metrics.set(&BROKEN, &[], broken as f64);
        Ok(entries)
    }

    fn say(&self, all: &[Said]) {
        for said in all {
            let pod = said.pod.as_ref().map(tracing::field::display);
            tracing::info!(pod, done = said.done, "{}", said.text);
            let outcome = if said.done { "done" } else { "told" };
            self.ctx.metrics.add(&REPAIRS, &[("kind", said.kind.label()), ("outcome", outcome)], 1);
            (self.tell)(said);
        }
    }

    /// Until `end`, or until a port or a bridge of one has changed and 200 ms have passed.
    async fn wait(&self, events: &mut LinkEvents, end: Instant) -> Outcome<()> {
        loop {
            let event = tokio::select! {
                event = events.next() => event?,
                () = sleep_until(end) => return Ok(()),
            };
            if self.concerns(&event) {
                break;
            }
        }
        let settled = Instant::now() + SETTLE;
        loop {
            tokio::select! {
                event = events.next() => drop(event?),
                () = sleep_until(settled) => return Ok(()),
            }
        }
    }

    /// A port that is new here has its ADD under way, and is nobody's to mend.
    fn concerns(&self, event: &LinkEvent) -> bool {
        match event {
            LinkEvent::Changed(link) => match link.kind {
                LinkKind::Bridge { .. } => self.ports.bridges.contains(&link.name),
                _ => self.ports.indices.contains(&link.index),
            },
            LinkEvent::Port(index) => self.ports.indices.contains(index),
            // A port that is gone went with its pod.
            LinkEvent::Gone(_) => false,
            LinkEvent::Missed => true,
        }
    }
}
