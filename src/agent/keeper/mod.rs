//! Keeps leases: each record on disk has one task here, which waits for the times of RFC 2131 and has the lease renewed.
//!
//! It enters no namespace and speaks no DHCP: an [`Exchange`] does that, in a child of this program. Records come from ADD
//! and go with DEL, by files alone, so a keeper may be killed, replaced or missing at any time: the next one goes on from
//! what lies there. It waits on the boot clock, so neither a suspended node nor a clock that is set misleads it.
//!
//! ```text
//! held ──T1──→ Renew ──silence, half of the rest──→ Renew … ──T2──→ Rebind … ──end──→ Drop ──→ First … ──→ held
//!   │              └─ACK→ held     └─NAK→ Drop ──→ First                    namespace gone, twice ──→ record removed
//!   ├ taken up after its end, or asleep until then: Reboot ─ACK→ held, else Drop ──→ First
//!   └ taken up without a keeper for long: at once Renew, after T2 Reboot ─silence→ held, as it was
//! ```

mod children;
mod clock;
mod keeping;
mod queue;
mod schedule;
pub mod watch;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};

use self::clock::Clock;
use self::keeping::Keeping;
use self::queue::Queue;
use self::watch::Watch;
use crate::ipam::dhcp::{Answer, Job};
use crate::store::{Dirs, LeaseRecord, Leases, Sole, Stamp, make_dir, wall_clock};
use crate::types::{Failure, Outcome};

pub use self::children::Children;
pub use self::clock::BootClock;

/// Events may be lost; so often everything is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// Between two attempts to be the only keeper.
const TURN: Duration = Duration::from_secs(1);
/// How long a record of an earlier boot is worth something: as a hint which address to ask for.
const HINT: u64 = 24 * 3600;
/// A lease without keeper for longer is told.
const UNKEPT: Duration = Duration::from_secs(30);

/// Who carries out one exchange.
pub trait Exchange: Send + Sync + 'static {
    fn run(&self, job: &Job) -> impl Future<Output = Outcome<Answer>> + Send;
}

/// What happened to a lease, for metrics and Events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    Renewed,
    /// Nobody kept it for this time, until now.
    Unkept(Duration),
    /// The pod has an address again: the one that was lost, or nobody knows which that was.
    Got,
    /// It has another one than before.
    Changed {
        before: std::net::Ipv4Addr,
    },
    /// The server says something else beside the address.
    Amended(String),
    /// No server answered.
    Silent,
    /// A server took the address back.
    Refused(String),
    /// The pod has no address now: it was taken back, which [`News::Refused`] has told, or ran out.
    Lost {
        refused: bool,
    },
    /// Its pod is gone without a DEL.
    Forgotten,
    /// The exchange could not be made.
    Failed,
}

/// Who is told. The default is nobody: the log has it anyway.
pub trait Report: Send + Sync + 'static {
    fn lease(&self, _record: &LeaseRecord<Job>, _news: &News) {}
    /// A record that nobody can read, by its file's name, and so a lease that is not kept.
    fn torn(&self, _name: &str, _why: &Failure) {}
    /// What a pod has now, at take-up and after each change.
    fn held(&self, _record: &LeaseRecord<Job>) {}
    /// How many leases are kept.
    fn kept(&self, _count: usize) {}
}

impl Report for () {}

/// What all tasks share.
pub struct Keeper<E, C, R> {
    pub dirs: Dirs,
    pub exchange: E,
    pub clock: C,
    pub report: R,
    /// Where the node's root is, for a keeper that has it elsewhere; empty is `/`.
    pub root: PathBuf,
}

impl Keeper<Children, BootClock, ()> {
    pub fn of_node(dirs: Dirs, root: PathBuf, broadcast: bool) -> Self {
        let exchange = Children::of_this_program(&dirs).by_broadcast(broadcast);
        Self { dirs, exchange, clock: BootClock, report: (), root }
    }
}

/// Keeps all leases of the node; another keeper at work is waited for. Ends only where the lock or the boot is not known
/// any more, and by being dropped: nothing is lost by that.
pub async fn keep<E: Exchange, C: Clock, R: Report>(keeper: Keeper<E, C, R>) -> Outcome<()> {
    let boot = keeper.dirs.boot_id()?;
    let keeper = Arc::new(keeper);
    let dirs = keeper.dirs.clone();
    let sole = alone(&dirs).await;
    let now = keeper.clock.now();
    let kept_until = sole.stamped(now).unwrap_or_default();
    sole.stamp(now);
    let leases = Leases::new(&dirs);
    if let Err(failure) = leases.sweep() {
        tracing::warn!(%failure, "left-overs of killed writers stay");
    }
    let mut book = Book { keeper, queue: Arc::default(), boot, kept_until, entries: HashMap::new() };
    // So that there is something to watch; the first ADD makes it otherwise. Not where the node's place is not to be seen.
    if dirs.state.parent().is_some_and(std::path::Path::exists)
        && let Err(failure) = make_dir(&leases.folder())
    {
        tracing::warn!(folder = %leases.folder().display(), %failure, "new leases are seen somewhat later");
    }
    let mut watch = Watch::new(leases.folder());
    watch.renew();
    book.look_at_all(&leases);
    tracing::info!(leases = book.kept(), "keeping");
    let mut next = Instant::now() + LOOK;
    loop {
        tokio::select! {
            () = sleep_until(next) => {
                if !sole.in_force() {
                    tracing::warn!("the keeper's lock was removed under it: begun again");
                    return Ok(());
                }
                sole.stamp(book.keeper.clock.now());
                watch.renew();
                book.look_at_all(&leases);
                next = Instant::now() + LOOK;
            }
            changed = watch.changed() => match changed {
                Some(names) => {
                    names.iter().for_each(|name| book.look_at(&leases, name));
                    book.keeper.report.kept(book.kept());
                }
                None => book.look_at_all(&leases),
            },
        }
    }
}

async fn alone(dirs: &Dirs) -> Sole {
    let mut said = false;
    loop {
        match Sole::try_take(dirs, Sole::KEEPER) {
            Ok(Some(sole)) => return sole,
            Ok(None) if !said => tracing::info!("another keeper is at work: waiting for its end"),
            Err(failure) if !said => tracing::warn!(%failure, "waiting for a lock that can be made"),
            _ => {}
        }
        said = true;
        sleep(TURN).await;
    }
}

/// Which record has which task.
struct Book<E, C, R> {
    keeper: Arc<Keeper<E, C, R>>,
    queue: Arc<Queue>,
    boot: String,
    /// When the keeper before was last at work.
    kept_until: Duration,
    entries: HashMap<String, Entry>,
}

struct Entry {
    stamp: Stamp,
    kept: Kept,
}

enum Kept {
    Yes(Box<LeaseRecord<()>>, #[expect(dead_code, reason = "the lease is kept until this is dropped")] Task),
    /// It cannot be read, and there is nothing to do until it is written anew.
    Torn,
    /// Of an earlier boot.
    Outlived,
}

/// Ends with its entry: a child at work is killed.
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<E: Exchange, C: Clock, R: Report> Book<E, C, R> {
    fn look_at_all(&mut self, leases: &Leases<'_>) {
        let list = match leases.list() {
            Ok(list) => list,
            // What is kept in memory goes on.
            Err(failure) => return tracing::warn!(%failure, "the leases cannot be listed"),
        };
        let there: HashMap<String, Stamp> = list.into_iter().collect();
        self.entries.retain(|name, _| there.contains_key(name));
        for (name, stamp) in there {
            self.see(leases, name, stamp);
        }
        self.keeper.report.kept(self.kept());
    }

    fn kept(&self) -> usize {
        self.entries.values().filter(|e| matches!(e.kept, Kept::Yes(..))).count()
    }

    fn look_at(&mut self, leases: &Leases<'_>, name: &str) {
        match leases.stamp(name) {
            Some(stamp) => self.see(leases, name.to_owned(), stamp),
            None => drop(self.entries.remove(name)),
        }
    }

    fn see(&mut self, leases: &Leases<'_>, name: String, stamp: Stamp) {
        let known = self.entries.get_mut(&name);
        if known.as_ref().is_some_and(|e| e.stamp == stamp && !matches!(e.kept, Kept::Outlived)) {
            return;
        }
        let (record, by_copy) = match leases.read_kept::<Job>(&name) {
            Ok(Some(found)) => found,
            Ok(None) => return drop(self.entries.remove(&name)),
            Err(failure) => {
                tracing::warn!(%failure, "a lease that cannot be taken up");
                // One that is kept and is torn on the disk goes on: its task writes it anew.
                if known.is_none_or(|e| !matches!(e.kept, Kept::Yes(..))) {
                    self.keeper.report.torn(&name, &failure);
                }
                self.entries.entry(name).or_insert(Entry { stamp, kept: Kept::Torn }).stamp = stamp;
                return;
            }
        };
        if by_copy {
            let written = leases.replace(&record);
            tracing::warn!(name, ?written, "torn, and written anew by its copy");
        }
        if let Some(Entry { stamp: seen, kept: Kept::Yes(of, _) }) = known
            && of.same_add(&record)
        {
            *seen = stamp;
            return;
        }
        let kept = if record.boot == self.boot { self.take_up(record) } else { self.outlived(leases, &record) };
        self.entries.insert(name, Entry { stamp, kept });
    }

    fn take_up(&self, record: LeaseRecord<Job>) -> Kept {
        let since = self.kept_until.max(Duration::from_millis(record.made));
        let unkept = self.keeper.clock.now().saturating_sub(since);
        if unkept > UNKEPT {
            let pod = record.pod.as_deref().unwrap_or(record.container.as_str());
            tracing::warn!(pod, ifname = %record.ifname, seconds = unkept.as_secs(), "lease without keeper until now");
            self.keeper.report.lease(&record, &News::Unkept(unkept));
        }
        self.keeper.report.held(&record);
        let of = Box::new(record.clone().map(drop));
        let (keeper, queue) = (Arc::clone(&self.keeper), Arc::clone(&self.queue));
        let keeping = Keeping::new(keeper, queue, record, unkept > UNKEPT);
        Kept::Yes(of, Task(tokio::spawn(keeping.run()).abort_handle()))
    }

    /// No pod of an earlier boot lives. Its lease is a hint for the next one of the same identity, as long as a server may
    /// remember it; the node's clock is good enough for that.
    fn outlived(&self, leases: &Leases<'_>, record: &LeaseRecord<Job>) -> Kept {
        let seconds = record.job.held().map_or(0, |lease| u64::from(lease.seconds)).min(HINT);
        let age = wall_clock().abs_diff(record.got_at_wall);
        if age >= seconds
            && let Err(failure) = leases.remove(&record.container, &record.ifname)
        {
            tracing::warn!(%failure, "a lease of an earlier boot stays");
        }
        Kept::Outlived
    }
}

#[cfg(test)]
pub mod tests;
