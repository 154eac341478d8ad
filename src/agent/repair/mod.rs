//! Keeps attachments as they were made, and takes away what nobody needs any more: ports that were thrown off their bridge
//! (`ports`), rules of the packet filter that were flushed (`filters`), filters around machines' DHCP that were removed
//! (`fences`), what joins machines to their taps (`taps`), entries whose container is gone (`sweep`), addresses of an
//! earlier boot (`addresses`). Tells of carriers that were lost, and of macvlans in a bridge's place (`carrier`).
//!
//! ```text
//! kernel's events: links ─→ 200 ms ─→ ports, filters, carriers
//!                  rules ─→ 200 ms ─→ filters, once a second
//! every minute ─→ all of it              each word of it: log, metric, an Event on the pod
//! ```
//! Which port is right, `plan` says; how it is put right and how an entry is undone, `attach` and `meta`, under the
//! container's lock, for which nothing here waits. With `dry_run` all is said and nothing is done.

mod addresses;
mod carrier;
mod fences;
mod filters;
mod ports;
mod sight;
mod sweep;
mod taps;
#[cfg(test)]
mod tests;
mod told;

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

pub use self::sight::{Fate, fate};
pub use self::taps::Visit;

use self::addresses::Addresses;
use self::carrier::Carriers;
use self::fences::Fences;
use self::filters::Filters;
use self::ports::Ports;
use self::sight::visible;
use self::sweep::{APART, Sweep};
use self::taps::Taps;
use super::context::Context;
use super::metrics::Family;
use crate::net::nft::RulesetEvents;
use crate::net::{LinkEvent, LinkEvents, LinkKind, Namespace, Netlink};
use crate::plan;
use crate::store::{Dirs, Entry, Journal};
use crate::types::{Outcome, PodRef, Role};

const SETTLE: Duration = Duration::from_millis(200);
/// Until what a call for the same container kept from being mended is looked at again.
const BUSY: Duration = Duration::from_secs(1);
/// Between two looks at the packet filter: where it has many rules of others, these change often.
const FILTERS_APART: Duration = Duration::from_secs(1);

const REPAIRS: Family =
    Family::counter("trestle_repairs_total", "Repairs, by what and whether it was done or only told.");
const ATTACHMENTS: Family = Family::gauge("trestle_attachments", "Entries of the journal, by role.");
const FALLBACKS: Family =
    Family::gauge("trestle_macvlan_fallbacks", "Attachments that are a macvlan because their bridge is missing.");
const BROKEN: Family = Family::gauge("trestle_journal_broken", "Entries of the journal that cannot be read.");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Port,
    Fence,
    Tap,
    Filter,
    Sweep,
    Address,
    Carrier,
    Fallback,
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Fence => "fence",
            Self::Tap => "tap",
            Self::Filter => "filter",
            Self::Sweep => "sweep",
            Self::Address => "address",
            Self::Carrier => "carrier",
            Self::Fallback => "fallback",
        }
    }

    /// Of an Event.
    pub fn reason(self, done: bool) -> &'static str {
        match (self, done) {
            (Self::Port, true) => "PortRepaired",
            (Self::Port, false) => "PortNotRepaired",
            (Self::Fence, true) => "DhcpFilterRepaired",
            (Self::Fence, false) => "DhcpFilterNotRepaired",
            (Self::Tap, true) => "TapRepaired",
            (Self::Tap, false) => "TapNotRepaired",
            (Self::Filter, true) => "FilterRepaired",
            (Self::Filter, false) => "FilterNotRepaired",
            (Self::Sweep, true) => "Swept",
            (Self::Sweep, false) => "NotSwept",
            // Nobody's pod is told: it is gone with its boot.
            (Self::Address, _) => "AddressReleased",
            (Self::Carrier, _) => "CarrierLost",
            (Self::Fallback, _) => "MacvlanFallback",
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
    /// Counted alone: it was told often enough.
    pub quiet: bool,
}

/// What a repair is done with.
pub struct Tools<'a> {
    pub dirs: &'a Dirs,
    pub host: &'a Namespace,
    pub links: &'a Netlink,
    pub dry_run: bool,
}

/// In the calling thread's namespace. `tell`: makes an Event of it. Ends only by a failure of the kernel's events.
pub async fn run(ctx: &Context, tell: &dyn Fn(&Said), visit: &impl Visit) -> Outcome<()> {
    let host = Namespace::own()?;
    let mut events = Events { links: host.link_events()?, rules: RulesetEvents::open()? };
    let links = host.netlink()?;
    let tools = Tools { dirs: &ctx.dirs, host: &host, links: &links, dry_run: ctx.dry_run };
    let mut work = Repair::new(ctx, tools, tell, visit);
    let mut next = Instant::now();
    let mut woken = Woken::Time;
    loop {
        if woken == Woken::Time {
            next = Instant::now() + APART;
        }
        let done = work.round(woken).await;
        ctx.metrics.working("repair", done.is_ok());
        if let Err(failure) = done {
            tracing::warn!(%failure, "attachments are not looked at; tried again");
        }
        woken = work.wait(&mut events, next).await?;
    }
}

/// What the kernel tells.
struct Events {
    links: LinkEvents,
    rules: Option<RulesetEvents>,
}

impl Events {
    /// Where there are no such rules, they never change.
    async fn rules_changed(rules: &mut Option<RulesetEvents>) -> Outcome<()> {
        match rules {
            Some(rules) => Ok(rules.changed().await?),
            None => std::future::pending().await,
        }
    }
}

/// Why there is something to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    Time,
    Links,
    Rules,
}

struct Repair<'a, V> {
    ctx: &'a Context,
    tools: Tools<'a>,
    tell: &'a dyn Fn(&Said),
    visit: &'a V,
    ports: Ports,
    carriers: Carriers,
    fences: Fences,
    taps: Taps,
    filters: Filters,
    sweep: Sweep,
    addresses: Addresses,
    /// The packet filter is not looked at before then.
    filters_at: Instant,
}

impl<'a, V: Visit> Repair<'a, V> {
    fn new(ctx: &'a Context, tools: Tools<'a>, tell: &'a dyn Fn(&Said), visit: &'a V) -> Self {
        let (ports, filters, fences, sweep) =
            (Ports::default(), Filters::default(), Fences::default(), Sweep::default());
        let (taps, addresses, carriers) = (Taps::default(), Addresses::default(), Carriers::default());
        let filters_at = Instant::now();
        Self { ctx, tools, tell, visit, ports, carriers, fences, taps, filters, sweep, addresses, filters_at }
    }

    async fn round(&mut self, woken: Woken) -> Outcome<()> {
        let entries = self.entries()?;
        if woken == Woken::Time {
            let said = self.sweep.round(&self.tools, &entries).await;
            self.say(&said);
            let said = self.addresses.round(&self.tools);
            self.say(&said);
            let said = self.fences.round(&self.tools, &entries).await?;
            self.say(&said);
        }
        // First, as a port that comes back should find its guard.
        let filters = self.filters.round(&self.tools, &entries);
        self.filters_at = Instant::now() + FILTERS_APART;
        self.say(filters.as_ref().map_or(&[], Vec::as_slice));
        if woken != Woken::Rules {
            let said = self.ports.round(&self.tools, &entries).await?;
            self.say(&said);
            let said = self.carriers.round(&self.tools, &entries).await?;
            self.say(&said);
            self.ctx.metrics.set(&FALLBACKS, &[], self.carriers.fallbacks as f64);
        }
        // Last: a child that cannot be run, or hangs, keeps nothing else from being mended.
        if woken == Woken::Time {
            let said = self.taps.round(&self.tools, &entries, self.visit).await?;
            self.say(&said);
        }
        filters.map(drop)
    }

    /// The readable ones, counted.
    fn entries(&self) -> Outcome<Vec<Entry>> {
        let all = Journal(self.tools.dirs).all()?;
        let broken = all.iter().filter(|e| e.is_err()).count();
        let entries: Vec<Entry> = all.into_iter().flatten().collect();
        for role in [Role::Wire, Role::Bind, Role::Meta] {
            let count = entries.iter().filter(|e| e.id.role == role).count();
            self.ctx.metrics.set(&ATTACHMENTS, &[("role", role.as_str())], count as f64);
        }
        self.ctx.metrics.set(&BROKEN, &[], broken as f64);
        Ok(entries)
    }

    fn say(&self, all: &[Said]) {
        for said in all {
            let outcome = if said.done { "done" } else { "told" };
            self.ctx.metrics.add(&REPAIRS, &[("kind", said.kind.label()), ("outcome", outcome)], 1);
            if !said.quiet {
                let pod = said.pod.as_ref().map(tracing::field::display);
                tracing::info!(pod, done = said.done, "{}", said.text);
                (self.tell)(said);
            }
        }
    }

    /// Until `end`; or until a port or a bridge of one has changed, or the packet filter where that matters, and 200 ms
    /// have passed.
    async fn wait(&self, events: &mut Events, end: Instant) -> Outcome<Woken> {
        let Events { links, rules } = events;
        let again = (self.ports.again || self.filters.again).then(|| Instant::now() + BUSY);
        let again = again.filter(|at| *at < end);
        let mut woken = loop {
            tokio::select! {
                event = links.next() => if self.concerns(&event?) {
                    break Woken::Links;
                },
                changed = Events::rules_changed(rules) => {
                    changed?;
                    if self.filters.count > 0 {
                        break Woken::Rules;
                    }
                }
                () = sleep_until(again.unwrap_or(end)) => {
                    return Ok(if again.is_some() { Woken::Links } else { Woken::Time });
                }
            }
        };
        let mut until = Instant::now() + SETTLE;
        if woken == Woken::Rules {
            until = until.max(self.filters_at);
        }
        loop {
            tokio::select! {
                event = links.next() => if self.concerns(&event?) && woken == Woken::Rules {
                    (woken, until) = (Woken::Links, Instant::now() + SETTLE);
                },
                changed = Events::rules_changed(rules) => changed?,
                () = sleep_until(until) => return Ok(woken),
            }
        }
    }

    /// A port that is new here has its ADD under way, and is nobody's to mend.
    fn concerns(&self, event: &LinkEvent) -> bool {
        match event {
            LinkEvent::Changed(link) => match link.kind {
                // A new one may be that of a port which was made since the last look.
                LinkKind::Bridge { .. } => {
                    self.ports.bridges.contains(&link.name) || !self.ports.seen.contains(&link.index)
                }
                LinkKind::Veth if link.master.is_none() && plan::may_be_host_end(&link.name) => true,
                _ => self.ports.indices.contains(&link.index) || self.carriers.indices.contains(&link.index),
            },
            LinkEvent::Port(index) => self.ports.indices.contains(index),
            // A port that is gone went with its pod.
            LinkEvent::Gone(_) => false,
            LinkEvent::Missed => true,
        }
    }
}
