//! Tells the scheduler which bridges this node has: `bridge.network.kubevirt.io/NAME` in the Node's capacity and
//! allocatable, for each healthy one.
//!
//! ```text
//! kernel's events ─→ 200 ms ─→ list ─→ healthy bridges ─┐
//! the Node's watch, every minute ───────────────────────┴→ diff ─→ one patch, or none
//! ```
//! What healthy is, `plan` says; what a patch has to say, `diff`. Links that concern no bridge (pods that come and go)
//! cost neither a list nor a request. Where bridge-marker is at work, nothing is written.

mod diff;
mod node;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep_until};

pub use self::node::{NodeObject, ThisNode};
use super::context::Context;
use super::metrics::Family;
use crate::net::{Link, LinkEvent, LinkEvents, LinkKind, Namespace, Netlink};
use crate::plan::{self, BridgeRule, Health};
use crate::types::Outcome;

/// A bridge that is made comes with several changes; they are looked at together.
const SETTLE: Duration = Duration::from_millis(200);
const RESYNC: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(5);
/// After the second patch that the Node's own change asked for; doubled up to [`RESYNC`] while that goes on: somebody may undo
/// each of them.
const CALM: Duration = Duration::from_millis(250);
/// So often may keys that were taken away come back before somebody else is taken to write them.
const RETURNS: u32 = 2;
/// Then nothing is written for so long.
const STAND_BACK: Duration = Duration::from_secs(600);

const HEALTHY: Family = Family::gauge("trestle_bridge_healthy", "Whether a bridge that counts is healthy.");
const PATCHES: Family = Family::counter("trestle_node_patches_total", "Patches of the Node's bridge resources.");
const MARKER: Family =
    Family::gauge("trestle_bridge_marker", "Whether somebody else writes the Node's bridge resources.");

fn version(node: &Value) -> &str {
    node.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default()
}

/// In the calling thread's namespace. Ends only by a failure of the kernel's events.
pub async fn run(ctx: &Context, rule: BridgeRule, node: &impl NodeObject) -> Outcome<()> {
    let host = Namespace::own()?;
    // Before the first list, so that no change falls in between.
    let mut events = host.link_events()?;
    let mut work = Advertiser { ctx, rule, node, links: host.netlink()?, seen: Seen::default(), told: Told::default() };
    let mut woken = Woken::Time;
    loop {
        let next = match work.round().await {
            Ok(patched) => {
                ctx.metrics.working("advertise", true);
                work.told.mended(patched && woken == Woken::Node);
                RESYNC
            }
            Err(failure) => {
                tracing::warn!(%failure, "the node's bridges are not advertised; tried again");
                ctx.metrics.working("advertise", false);
                RETRY
            }
        };
        woken = work.wait(&mut events, next).await?;
    }
}

/// Why there is something to look at.
#[derive(PartialEq, Eq)]
enum Woken {
    Time,
    Links,
    Node,
}

struct Advertiser<'a, N> {
    ctx: &'a Context,
    rule: BridgeRule,
    node: &'a N,
    links: Netlink,
    seen: Seen,
    told: Told,
}

/// The kernel's side, as it was looked at last.
#[derive(Default)]
struct Seen {
    bridges: Vec<(String, Health)>,
    /// Links that a bridge's health follows from.
    indices: BTreeSet<u32>,
}

impl Seen {
    fn healthy(&self) -> BTreeSet<String> {
        self.bridges.iter().filter(|(_, h)| *h == Health::Healthy).map(|(name, _)| name.clone()).collect()
    }
}

/// The API server's side.
#[derive(Default)]
struct Told {
    /// Version of the node's object.
    version: String,
    removed: BTreeSet<String>,
    returns: u32,
    /// Nothing is written until then.
    stand_back: Option<Instant>,
    /// Why, as it was logged.
    because: Option<String>,
    /// The Node's changes are not looked at before then, and the pause that led there.
    calm: Option<(Instant, Duration)>,
}

impl Told {
    /// `patched`: for the Node's own change.
    fn mended(&mut self, patched: bool) {
        let now = Instant::now();
        if patched {
            // Long ago is another affair.
            let before = self.calm.filter(|(until, _)| *until + RESYNC > now);
            let pause = before.map_or(Duration::ZERO, |(_, pause)| (pause * 2).clamp(CALM, RESYNC));
            self.calm = Some((now + pause, pause));
        }
    }
}

impl<N: NodeObject> Advertiser<'_, N> {
    /// True: there was something to patch.
    async fn round(&mut self) -> Outcome<bool> {
        self.look().await?;
        self.tell().await
    }

    /// True: other bridges are healthy than before.
    async fn look(&mut self) -> Outcome<bool> {
        let links = self.links.links().await?;
        let bridges = plan::bridges(&links, &self.rule);
        let matters = |l: &&Link| self.matters(l);
        self.seen.indices = links.iter().filter(matters).map(|l| l.index).collect();
        for (name, health) in bridges.iter().filter(|b| !self.seen.bridges.contains(b)) {
            match health {
                Health::Healthy => tracing::info!(bridge = name, "the bridge is healthy"),
                Health::Unhealthy(why) => tracing::warn!(bridge = name, why, "the bridge is not healthy"),
            }
        }
        let value = |health: &Health| if *health == Health::Healthy { 1.0 } else { 0.0 };
        let values = bridges.iter().map(|(name, health)| (name.as_str(), value(health)));
        self.ctx.metrics.replace(&HEALTHY, "bridge", values);
        let before = self.seen.healthy();
        self.seen.bridges = bridges;
        Ok(self.seen.healthy() != before)
    }

    async fn tell(&mut self) -> Outcome<bool> {
        // Together, as the API server may be far.
        let (node, marker) = tokio::join!(self.node.get(), self.node.marker());
        let Some(node) = node? else {
            tracing::warn!(node = self.ctx.node, "the API server knows no such node");
            return Ok(false);
        };
        self.told.version = version(&node).to_owned();
        let because = self.somebody_else(&node, marker?);
        self.ctx.metrics.set(&MARKER, &[], if because.is_some() { 1.0 } else { 0.0 });
        if because != self.told.because {
            match &because {
                Some(who) => tracing::warn!(who, "writes the node's bridge resources: trestle writes none"),
                None => tracing::info!("nobody else writes the node's bridge resources any more"),
            }
        }
        self.told.because = because;
        if self.told.because.is_some() {
            return Ok(false);
        }
        let Some(patch) = diff::diff(&self.seen.healthy(), &node) else { return Ok(false) };
        let (added, removed) = (list(&patch.added), list(&patch.removed));
        if self.ctx.dry_run {
            tracing::info!(added, removed, "dry run: the node's bridges would be advertised");
            return Ok(true);
        }
        let done = self.node.patch(&patch.body).await;
        self.ctx.metrics.add(&PATCHES, &[("outcome", if done.is_ok() { "done" } else { "failed" })], 1);
        done?;
        tracing::info!(added, removed, "the node's bridges are advertised");
        self.told.removed.retain(|name| !patch.added.contains(name));
        self.told.removed.extend(patch.removed);
        Ok(true)
    }

    /// Who writes the keys besides us: a bridge-marker's pod, or somebody who puts back what was taken away.
    fn somebody_else(&mut self, node: &Value, marker: Option<String>) -> Option<String> {
        if let Some(pod) = marker {
            return Some(format!("bridge-marker, pod {pod}"));
        }
        let there = diff::advertised(node);
        let wanted = self.seen.healthy();
        let back: BTreeSet<String> =
            self.told.removed.iter().filter(|n| there.contains(*n) && !wanted.contains(*n)).cloned().collect();
        if !back.is_empty() {
            self.told.returns += 1;
            // Counted once for each time that they were taken away.
            self.told.removed.retain(|name| !back.contains(name));
            if self.told.returns >= RETURNS {
                self.told.stand_back = Some(Instant::now() + STAND_BACK);
                self.told.returns = 0;
            }
        }
        let until = self.told.stand_back.filter(|until| Instant::now() < *until);
        until.map(|_| "somebody who puts back what was taken away".into())
    }

    /// Until there is something to be told anew.
    async fn wait(&mut self, events: &mut LinkEvents, most: Duration) -> Outcome<Woken> {
        let end = Instant::now() + most;
        let (node, version, healthy) = (self.node, self.told.version.clone(), self.seen.healthy());
        let calm = self.told.calm.map_or_else(Instant::now, |(until, _)| until);
        let wrong = |node: &Value| diff::diff(&healthy, node).is_some();
        // One wait, however many events are passed over meanwhile.
        let mut changed = std::pin::pin!(async {
            sleep_until(calm).await;
            node.changed(&version, &wrong).await;
        });
        loop {
            let event = tokio::select! {
                event = events.next() => event?,
                () = &mut changed => return Ok(Woken::Node),
                () = sleep_until(end) => return Ok(Woken::Time),
            };
            if !self.concerns(&event) {
                continue;
            }
            settle(events).await?;
            if self.look().await? {
                return Ok(Woken::Links);
            }
        }
    }

    fn matters(&self, link: &Link) -> bool {
        match link.kind {
            LinkKind::Bridge { .. } => true,
            LinkKind::Veth | LinkKind::Tun { .. } => false,
            _ => self.rule.require_uplink && link.master.is_some(),
        }
    }

    fn concerns(&self, event: &LinkEvent) -> bool {
        match event {
            LinkEvent::Changed(link) => self.matters(link) || self.seen.indices.contains(&link.index),
            LinkEvent::Gone(index) | LinkEvent::Port(index) => self.seen.indices.contains(index),
            LinkEvent::Missed => true,
        }
    }
}

/// Lets what belongs together come together; what comes meanwhile is looked at by the same list.
async fn settle(events: &mut LinkEvents) -> Outcome<()> {
    let end = Instant::now() + SETTLE;
    loop {
        tokio::select! {
            event = events.next() => drop(event?),
            () = sleep_until(end) => return Ok(()),
        }
    }
}

fn list(names: &BTreeSet<String>) -> String {
    names.iter().cloned().collect::<Vec<_>>().join(" ")
}
