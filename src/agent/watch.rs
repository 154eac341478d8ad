//! Keeps [`Known`] true: NADs and this node's pods, each by a list and then one watch after the other.
//!
//! ```text
//! list ──→ watch ──(ended by the server, or silent)──→ watch from there
//!   ↑        └──(expired)──→ list                        any error: not running, pause, list again
//! ```
//! What a change means to the copies on disk is the business of `copies`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::context::Context;
use super::copies;
use super::known::{Pod, name_of};
use super::metrics::Family;
use crate::api::{Api, Change, Collection, Limits, Listed, Watch};
use crate::nad::Nad;
use crate::protocol::Name;
use crate::types::{Code, Failure, Outcome};

/// kube-apiserver sends a bookmark each minute: who is silent for longer may have forgotten us.
pub const SILENCE: Duration = Duration::from_secs(90);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

const RUNS: Family = Family::gauge("trestle_watch_running", "Whether the watch of a kind of object runs.");
const KNOWN: Family = Family::gauge("trestle_watched_objects", "Objects known by a watch.");

/// For a list: it may be of thousands.
const LIMITS: Limits =
    Limits { connect: Duration::from_secs(3), request: Duration::from_secs(30), total: Duration::from_secs(60) };

/// What is done with the objects of one kind.
trait Follower {
    const KIND: &'static str;
    fn put(&mut self, name: Name, object: &Value);
    fn gone(&mut self, name: &Name);
    /// A list has ended, and these are all.
    fn only(&mut self, names: &BTreeSet<Name>);
    fn running(&mut self, runs: bool);
    fn count(&self) -> usize;
}

pub async fn nads(ctx: Context) -> Outcome<()> {
    follow(&ctx, &Collection::nads(), &mut Nads { ctx: ctx.clone() }).await
}

pub async fn pods(ctx: Context) -> Outcome<()> {
    let collection = Collection::pods_of(&ctx.node)?;
    follow(&ctx, &collection, &mut Pods { ctx: ctx.clone() }).await
}

struct Nads {
    ctx: Context,
}

impl Follower for Nads {
    const KIND: &'static str = "nads";

    fn put(&mut self, name: Name, object: &Value) {
        match Nad::from_object(object) {
            Ok(nad) => {
                copies::write(&self.ctx, &nad);
                self.ctx.known.nads.put(name, nad);
            }
            // Who asks for it reads the object, and is told what is wrong with it.
            Err(failure) => {
                tracing::warn!(%failure, "left out");
                self.gone(&name);
            }
        }
    }

    fn gone(&mut self, name: &Name) {
        self.ctx.known.nads.remove(name);
        copies::forget(&self.ctx, name);
    }

    fn only(&mut self, names: &BTreeSet<Name>) {
        self.ctx.known.nads.keep_only(names);
        copies::keep_only(&self.ctx, names);
    }

    fn running(&mut self, runs: bool) {
        self.ctx.known.nads.set_running(runs);
        if runs {
            copies::vouch(&self.ctx);
        }
    }

    fn count(&self) -> usize {
        self.ctx.known.nads.len()
    }
}

struct Pods {
    ctx: Context,
}

impl Follower for Pods {
    const KIND: &'static str = "pods";

    fn put(&mut self, name: Name, object: &Value) {
        if let Some((_, pod)) = Pod::of_object(object) {
            self.ctx.known.pods.put(name, pod);
        }
    }

    fn gone(&mut self, name: &Name) {
        self.ctx.known.pods.remove(name);
    }

    fn only(&mut self, names: &BTreeSet<Name>) {
        self.ctx.known.pods.keep_only(names);
    }

    fn running(&mut self, runs: bool) {
        self.ctx.known.pods.set_running(runs);
    }

    fn count(&self) -> usize {
        self.ctx.known.pods.len()
    }
}

/// Where a follower stands.
struct Place {
    /// "0": whatever the server has at hand.
    version: String,
    listed: bool,
}

async fn follow<F: Follower>(ctx: &Context, of: &Collection, follower: &mut F) -> Outcome<()> {
    let api = ctx.api(LIMITS)?;
    let mut place = Place { version: "0".into(), listed: false };
    let mut pause = FIRST_PAUSE;
    loop {
        let began = Instant::now();
        let round = tokio::select! {
            round = once(ctx, &api, of, follower, &mut place) => round,
            () = ctx.ended() => return Ok(()),
        };
        match round {
            Ok(()) if began.elapsed() > FIRST_PAUSE => {
                pause = FIRST_PAUSE;
                continue;
            }
            // A server that ends each watch at once is not to be asked in a circle.
            Ok(()) => tracing::debug!(kind = F::KIND, "the watch ended at once"),
            Err(failure) => {
                tracing::warn!(kind = F::KIND, %failure, pause = pause.as_secs_f32(), "not watched");
                stands(ctx, follower, false);
                // Else it would count as true while what was missed is still coming.
                place.listed = false;
            }
        }
        tokio::select! {
            () = sleep(jittered(pause)) => {}
            () = ctx.ended() => return Ok(()),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One list if need be, and one watch.
async fn once<F: Follower>(
    ctx: &Context,
    api: &Api,
    of: &Collection,
    follower: &mut F,
    place: &mut Place,
) -> Outcome<()> {
    if !place.listed {
        list(api, of, follower, place).await?;
    }
    let Some(mut watch) = api.watch(of, &place.version).await? else {
        place.listed = false;
        return Ok(());
    };
    stands(ctx, follower, true);
    let ended = changes(ctx, &mut watch, follower, place).await;
    watch.version().clone_into(&mut place.version);
    ended
}

async fn list<F: Follower>(api: &Api, of: &Collection, follower: &mut F, place: &mut Place) -> Outcome<()> {
    let mut names = BTreeSet::new();
    // Comes for the first one when the answer is whole: there never is half a list.
    let mut each = |object: Value| {
        if let Some(name) = name_of(&object) {
            names.insert(name.clone());
            follower.put(name, &object);
        }
    };
    let listed = match api.list(of, &place.version, &mut each).await {
        Ok(Listed::Whole(version)) => version,
        Ok(Listed::Expired) => {
            place.version = if place.version == "0" { String::new() } else { "0".into() };
            return Err(Failure::new(Code::ApiUnreachable, format!("{}: that version is not known any more", F::KIND)));
        }
        Err(failure) => {
            place.version = "0".into();
            return Err(failure);
        }
    };
    follower.only(&names);
    (place.version, place.listed) = (listed, true);
    Ok(())
}

async fn changes<F: Follower>(ctx: &Context, watch: &mut Watch, follower: &mut F, place: &mut Place) -> Outcome<()> {
    loop {
        let Ok(change) = timeout(SILENCE, watch.next()).await else { return Ok(()) };
        match change? {
            None => return Ok(()),
            Some(Change::Alive) => {}
            Some(Change::Expired) => {
                place.listed = false;
                return Ok(());
            }
            Some(Change::Is(object)) => {
                if let Some(name) = name_of(&object) {
                    follower.put(name, &object);
                }
            }
            Some(Change::Gone(object)) => {
                if let Some(name) = name_of(&object) {
                    follower.gone(&name);
                }
            }
        }
        ctx.metrics.set(&KNOWN, &[("kind", F::KIND)], follower.count() as f64);
    }
}

fn stands<F: Follower>(ctx: &Context, follower: &mut F, runs: bool) {
    follower.running(runs);
    ctx.metrics.working(F::KIND, runs);
    ctx.metrics.set(&RUNS, &[("kind", F::KIND)], if runs { 1.0 } else { 0.0 });
    ctx.metrics.set(&KNOWN, &[("kind", F::KIND)], follower.count() as f64);
}

/// Between three quarters and five quarters of it: a thousand nodes do not come back together.
pub fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness they come together, and that is all.
    let _ = getrandom::fill(&mut random);
    pause * (192 + u32::from(random[0]) / 2) / 256
}
