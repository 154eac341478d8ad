//! Answers guests' DHCP: each machine behind a bind step that the journal has with an address, at the host end of its veth.
//!
//! ```text
//! journal ─(inotify, and every 10 s)─→ one task for each guest ── packet socket on the host end
//!                                       question ─→ journal and lease as they are now ─→ `ipam::dhcp::server` ─→ answer
//! ```
//! Nothing of an answer is kept here: it comes out of the files each time, so an agent that is killed and begun again
//! answers as the one before. No namespace of a pod is entered, and no descriptor of one is held. That the LAN hears
//! nothing of it is the filters' work, which the bind step has set.

mod gift;
mod guest;
mod machine;
mod notes;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use self::guest::{At, GuestTask};
use self::notes::Notes;
use super::context::Context;
use super::keeper::watch::Watch;
use super::metrics::Family;
use crate::attach::{self, Served};
use crate::net::Namespace;
use crate::store::{Journal, make_dir};
use crate::types::{ContainerId, Failure, IfName, Outcome};

pub use self::gift::Wanted;
pub use self::machine::OfMachine;

/// Events may be lost; so often everything is looked at.
const LOOK: Duration = Duration::from_secs(10);

const GUESTS: Family =
    Family::gauge("trestle_guests", "Virtual machines' interfaces that get their address from here.");

/// Who knows what a machine's owner has set.
pub trait Source: Send + Sync + 'static {
    /// Fails where nobody can be asked now; it is asked again then.
    fn wanted(&self, served: &Served) -> impl Future<Output = Outcome<Wanted>> + Send;
}

/// Nothing is set.
#[cfg(test)]
impl Source for () {
    async fn wanted(&self, _: &Served) -> Outcome<Wanted> {
        Ok(Wanted::default())
    }
}

/// In the calling thread's namespace. Ends only by a failure that is no single guest's.
pub async fn run(ctx: &Context, source: impl Source) -> Outcome<()> {
    let host = Arc::new(Namespace::own()?);
    serve(ctx, host, source).await
}

async fn serve(ctx: &Context, host: Arc<Namespace>, source: impl Source) -> Outcome<()> {
    let folder = Journal(&ctx.dirs).folder();
    // So that there is something to watch; the first ADD makes it otherwise.
    if let Err(failure) = make_dir(&folder) {
        tracing::warn!(folder = %folder.display(), %failure, "new guests are seen somewhat later");
    }
    let mut watch = Watch::of_tree(folder);
    watch.renew();
    let mut book = Book { ctx, host, source: Arc::new(source), tasks: HashMap::new(), failures: BTreeSet::new() };
    book.look_at_all();
    notes::sweep(&ctx.dirs, book.tasks.keys().map(|(container, ifname)| (container, ifname)));
    let mut next = Instant::now() + LOOK;
    loop {
        tokio::select! {
            () = sleep_until(next) => {
                watch.renew();
                book.look_at_all();
                next = Instant::now() + LOOK;
            }
            changed = watch.changed() => {
                // First: what a new directory gets after this look is told.
                watch.renew();
                match changed {
                    Some(names) => names.iter().for_each(|name| book.look_at(name)),
                    None => book.look_at_all(),
                }
            }
        }
    }
}

type Key = (ContainerId, IfName);

/// Ends with the value.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Book<'a, S> {
    ctx: &'a Context,
    host: Arc<Namespace>,
    source: Arc<S>,
    tasks: HashMap<Key, (At, Task)>,
    /// What was said at the last look, so that it is not said at each one.
    failures: BTreeSet<String>,
}

impl<S: Source> Book<'_, S> {
    fn look_at_all(&mut self) {
        let all = match attach::guests(&self.ctx.dirs, &self.host) {
            Ok(all) => all,
            Err(failure) => return self.say([failure].into_iter()),
        };
        let (served, failed): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
        self.say(failed.into_iter().filter_map(Result::err));
        self.settle(served.into_iter().flatten().collect(), |_| true);
    }

    /// By the name of a directory in the journal, which is the container's unless that is very long.
    fn look_at(&mut self, name: &str) {
        let Ok(container) = name.parse::<ContainerId>() else { return self.look_at_all() };
        let Ok(entries) = Journal(&self.ctx.dirs).of_container(&container) else { return self.look_at_all() };
        let served = |entry| attach::served(&entry, &self.ctx.dirs, &self.host).ok().flatten();
        let served = entries.into_iter().flatten().filter_map(served).collect();
        self.settle(served, |key| key.0 == container);
    }

    /// Begins and ends tasks, so that of those that are `meant` these are served.
    fn settle(&mut self, served: Vec<Served>, meant: impl Fn(&Key) -> bool) {
        let wanted: HashMap<Key, Served> =
            served.into_iter().map(|s| ((s.container.clone(), s.ifname.clone()), s)).collect();
        let gone: Vec<Key> = self.tasks.keys().filter(|k| meant(k) && !wanted.contains_key(k)).cloned().collect();
        for key in gone {
            self.tasks.remove(&key);
            if let Err(failure) = Notes::remove(&self.ctx.dirs, &key.0, &key.1) {
                tracing::debug!(%failure, "a note of a guest that is gone stays");
            }
        }
        for (key, served) in wanted {
            let at = At::of(&served);
            if self.tasks.get(&key).is_none_or(|(there, _)| *there != at) {
                let task = GuestTask::new(self.ctx, &self.host, &self.source, served);
                self.tasks.insert(key, (at, Task(tokio::spawn(task.run()).abort_handle())));
            }
        }
        self.ctx.metrics.set(&GUESTS, &[], self.tasks.len() as f64);
    }

    fn say(&mut self, failures: impl Iterator<Item = Failure>) {
        let now: BTreeSet<String> = failures.map(|failure| failure.to_string()).collect();
        for failure in now.difference(&self.failures) {
            tracing::warn!(failure, "a guest may have nobody to answer it");
        }
        self.failures = now;
    }
}
