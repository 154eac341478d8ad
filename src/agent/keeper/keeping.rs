//! The life of one lease, from the record that ADD wrote to the one that DEL removed: one task.
//!
//! What it knows is written to the record after each change; where that cannot be done now it goes on from memory and
//! tries again. It ends where the record is no longer its own. It never judges a pod by anything but the namespace at the
//! recorded path.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::clock::Clock;
use super::queue::Queue;
use super::schedule::{Due, Held, PATIENCE_WITHOUT, pause_without};
use super::{Exchange, Keeper, News, Report};
use crate::ipam::dhcp::{Answer, Job, Lease, Step};
use crate::store::{ContainerLock, LeaseRecord, Leases, wall_clock};
use crate::types::{Code, Failure, Outcome};

/// Between two looks at a namespace that seems to be gone; only then it is.
const GONE_TWICE: Duration = Duration::from_secs(60);
/// Between two looks whether the namespace is there.
const LOOK: Duration = Duration::from_secs(30);
/// Until a record that could not be written is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(10);

pub struct Keeping<E, C, R> {
    keeper: Arc<Keeper<E, C, R>>,
    queue: Arc<Queue>,
    record: LeaseRecord<Job>,
    /// When the last attempt since the lease was got ended without an answer.
    asked: Option<Duration>,
    /// Nobody has kept it for long, and nobody was asked since.
    unkept: bool,
    /// Without a lease: attempts so far.
    tries: u32,
    /// Since when nothing is at the namespace's path.
    missing: Option<Duration>,
    /// Since when an exchange has said that namespace or link are gone: another namespace may be at the path.
    gone: Option<Duration>,
    /// When to write the record again.
    unwritten: Option<Duration>,
}

/// Whether to go on.
#[derive(PartialEq, Eq)]
enum Next {
    On,
    Ended,
}

impl<E: Exchange, C: Clock, R: Report> Keeping<E, C, R> {
    /// `unkept`: nobody has kept it for long.
    pub fn new(keeper: Arc<Keeper<E, C, R>>, queue: Arc<Queue>, mut record: LeaseRecord<Job>, unkept: bool) -> Self {
        let now = millis(keeper.clock.now());
        if record.got_at > now {
            // By a clock that is not this one. The lease is due now: asking costs nothing, and believing could.
            let t1 = record.job.held().map_or(0, |lease| u64::from(lease.t1) * 1000);
            record.got_at = now.saturating_sub(t1);
        }
        Self { keeper, queue, record, asked: None, unkept, tries: 0, missing: None, gone: None, unwritten: None }
    }

    pub async fn run(mut self) {
        loop {
            let next = match self.due() {
                at if at > self.now() => {
                    self.keeper.clock.wait_until(at.min(self.now() + LOOK)).await;
                    self.look().await
                }
                _ if !self.is_there() => self.seems_gone(|this| &mut this.missing),
                _ => self.act().await,
            };
            if next == Next::Ended {
                return;
            }
        }
    }

    fn now(&self) -> Duration {
        self.keeper.clock.now()
    }

    fn held(&self) -> Option<Held<'_>> {
        let since = Duration::from_millis(self.record.got_at);
        self.record.job.held().map(|lease| Held { lease, since, asked: self.asked })
    }

    /// When there is something to do; far away for a lease without an end.
    fn due(&self) -> Duration {
        let at = match self.held() {
            Some(held) if self.unkept && held.due_at_take_up(self.now()).is_some() => Duration::ZERO,
            Some(held) => held.next().unwrap_or(Duration::MAX),
            None => self.asked.map_or(Duration::ZERO, |at| at + pause_without(self.tries)),
        };
        // What seems to be gone is asked again when that can tell something.
        [self.missing, self.gone].into_iter().flatten().fold(at, |at, since| at.max(since + GONE_TWICE))
    }

    /// What is done between: what could not be written, and whether the pod is there.
    async fn look(&mut self) -> Next {
        if self.unwritten.is_some_and(|at| at <= self.now()) && self.write().await == Next::Ended {
            return Next::Ended;
        }
        if !self.is_there() {
            return self.seems_gone(|this| &mut this.missing);
        }
        self.missing = None;
        Next::On
    }

    /// One exchange, and what follows from its answer.
    async fn act(&mut self) -> Next {
        let (keeper, queue) = (Arc::clone(&self.keeper), Arc::clone(&self.queue));
        let network = self.record.network.clone();
        let turn = queue.turn(&network).await;
        // Time has passed in the queue.
        let Some(job) = self.job() else { return Next::On };
        let answer = keeper.exchange.run(&job).await;
        match (&job.step, &answer) {
            (Step::Drop(_), _) => {}
            (_, Ok(Answer::Bound(_) | Answer::Refused(_))) => queue.heard(&network, true),
            (_, Ok(Answer::Silent)) => queue.heard(&network, false),
            (_, Ok(Answer::Gone) | Err(_)) => {}
        }
        let next = self.take(&job.step, answer).await;
        drop(turn);
        next
    }

    /// What to ask for now; None if nothing is due.
    fn job(&self) -> Option<Job> {
        let now = self.now();
        let (step, seconds) = match self.held() {
            Some(held) => {
                let lease = held.lease.clone();
                let at_take_up = held.due_at_take_up(now).filter(|_| self.unkept);
                match at_take_up.or_else(|| held.due(now))? {
                    Due::Renew => (Step::Renew(lease), held.patience(now)),
                    Due::Rebind => (Step::Rebind(lease), held.patience(now)),
                    Due::Reboot => (Step::Reboot(lease.address), PATIENCE_WITHOUT),
                    Due::Expire => (Step::Drop(lease), PATIENCE_WITHOUT),
                }
            }
            None if self.due() > now => return None,
            None => match &self.record.job.step {
                step @ Step::Reboot(_) if self.tries == 0 => (step.clone(), PATIENCE_WITHOUT),
                _ => (Step::First, PATIENCE_WITHOUT),
            },
        };
        let netns = self.netns();
        Some(Job { step, seconds, netns, ..self.record.job.clone() })
    }

    async fn take(&mut self, step: &Step, answer: Outcome<Answer>) -> Next {
        if !matches!(answer, Ok(Answer::Gone)) {
            self.gone = None;
        }
        match answer {
            // Whatever is said of it, and by whatever failure: the kernel's own time of the address has ended as well.
            Ok(Answer::Bound(_) | Answer::Refused(_) | Answer::Silent) | Err(_) if matches!(step, Step::Drop(_)) => {
                self.tell(&News::Lost { refused: false });
                self.without().await
            }
            Ok(Answer::Bound(lease)) => self.bound(lease).await,
            Ok(Answer::Refused(why)) => self.refused(step, why).await,
            Ok(Answer::Silent) => {
                self.tell(&News::Silent);
                self.in_vain()
            }
            Ok(Answer::Gone) => self.seems_gone(|this| &mut this.gone),
            Err(failure) => {
                tracing::warn!(lease = %self.name(), %failure, "the exchange failed");
                self.tell(&News::Failed);
                self.in_vain()
            }
        }
    }

    async fn bound(&mut self, lease: Lease) -> Next {
        let address = lease.address;
        let held = self.record.job.held().map(|old| old.address);
        let before = held.or(self.record.job.before);
        let news = match before {
            Some(before) if before != address => News::Changed { before },
            Some(_) if held.is_some() => News::Renewed,
            _ => News::Got,
        };
        match &news {
            News::Changed { before } => {
                tracing::warn!(lease = %self.name(), %address, %before, "another address than before");
            }
            News::Got => tracing::warn!(lease = %self.name(), %address, "there is an address again"),
            _ => {}
        }
        let amended = self.record.job.held().and_then(|old| lease.amends(old));
        self.record.job = self.record.job.bound(lease);
        self.record.got_at = millis(self.now());
        self.record.got_at_wall = wall_clock();
        (self.asked, self.tries, self.unkept) = (None, 0, false);
        self.tell(&news);
        if let Some(text) = amended {
            tracing::info!(lease = %self.name(), "the server says: {text}");
            self.tell(&News::Amended(text));
        }
        let next = self.write().await;
        if news != News::Renewed && next == Next::On {
            self.keeper.report.held(&self.record);
        }
        next
    }

    /// The address must not be used any more, at once.
    async fn refused(&mut self, step: &Step, why: String) -> Next {
        tracing::warn!(lease = %self.name(), why, "refused");
        self.tell(&News::Refused(why));
        let Some(lease) = self.record.job.held().cloned() else { return self.in_vain() };
        if !matches!(step, Step::First) {
            let (netns, seconds) = (self.netns(), PATIENCE_WITHOUT);
            let drop = Job { step: Step::Drop(lease), seconds, netns, ..self.record.job.clone() };
            if let Err(failure) = self.keeper.exchange.run(&drop).await {
                tracing::warn!(lease = %self.name(), %failure, "the address stays until its time ends");
            }
        }
        self.tell(&News::Lost { refused: true });
        self.without().await
    }

    async fn without(&mut self) -> Next {
        tracing::warn!(lease = %self.name(), "lost; asking for another one");
        let job = &mut self.record.job;
        job.before = job.held().map(|lease| lease.address).or(job.before);
        job.step = Step::First;
        (self.asked, self.tries, self.unkept) = (None, 0, false);
        self.write().await
    }

    fn in_vain(&mut self) -> Next {
        let now = self.now();
        // Its own time comes yet.
        if std::mem::take(&mut self.unkept) && self.held().is_some_and(|held| held.is_young(now)) {
            return Next::On;
        }
        self.asked = Some(self.now());
        self.tries += 1;
        Next::On
    }

    /// A namespace that is not at its path, or is another one, twice: no pod is there whose lease could be kept.
    fn seems_gone(&mut self, which: fn(&mut Self) -> &mut Option<Duration>) -> Next {
        let now = self.now();
        let since = *which(self).get_or_insert(now);
        if now.saturating_sub(since) < GONE_TWICE {
            return Next::On;
        }
        match self.forget() {
            Ok(true) => {
                tracing::warn!(lease = %self.name(), "its pod is gone: no longer kept");
                self.tell(&News::Forgotten);
                return Next::Ended;
            }
            Ok(false) => tracing::debug!(lease = %self.name(), "its pod is gone, and a call is at work for it"),
            Err(failure) => tracing::warn!(lease = %self.name(), %failure, "its pod is gone, and the record stays"),
        }
        *which(self) = Some(now);
        Next::On
    }

    /// False while a call for the container is at work.
    fn forget(&self) -> Outcome<bool> {
        let dirs = &self.keeper.dirs;
        let lock = match ContainerLock::try_lock(dirs, &self.record.container) {
            Ok(None) => return Ok(false),
            Ok(lock) => lock,
            // No lock can be made for want of space, so nobody else has made one.
            Err(e) if e.code == Code::JournalUnwritable => None,
            Err(e) => return Err(e),
        };
        let leases = Leases::new(dirs);
        let mine = leases.read::<Job>(&self.record.container, &self.record.ifname);
        // An unreadable one says nothing for anybody.
        if mine.is_ok_and(|there| there.is_none_or(|there| !there.same_add(&self.record))) {
            return Ok(true);
        }
        let removed = leases.remove(&self.record.container, &self.record.ifname);
        drop(lock);
        removed.map(|()| true)
    }

    /// On a thread of its own, since a disk may take its time, and the other leases do not wait for it.
    async fn write(&mut self) -> Next {
        let (dirs, record) = (self.keeper.dirs.clone(), self.record.clone());
        let written = tokio::task::spawn_blocking(move || Leases::new(&dirs).replace(&record)).await;
        match written.unwrap_or_else(|e| Err(Failure::new(Code::Io, format!("the lease's writer ended: {e}")))) {
            Ok(true) => {
                self.unwritten = None;
                Next::On
            }
            Ok(false) => Next::Ended,
            Err(failure) => {
                if self.unwritten.is_none() {
                    tracing::error!(lease = %self.name(), %failure, "kept in memory alone for now");
                }
                self.unwritten = Some(self.now() + WRITE_AGAIN);
                Next::On
            }
        }
    }

    /// Whether something is at the path of the namespace. Where its directory cannot be seen, nothing is known: the exchange
    /// will tell.
    fn is_there(&self) -> bool {
        let path = self.netns();
        path.exists() || path.parent().is_none_or(|parent| !parent.exists())
    }

    fn netns(&self) -> PathBuf {
        let (root, netns) = (&self.keeper.root, &self.record.job.netns);
        if root.as_os_str().is_empty() {
            return netns.clone();
        }
        root.join(netns.strip_prefix(Path::new("/")).unwrap_or(netns))
    }

    fn tell(&self, news: &News) {
        self.keeper.report.lease(&self.record, news);
    }

    fn name(&self) -> String {
        let LeaseRecord { container, ifname, network, pod, .. } = &self.record;
        let who = pod.as_deref().unwrap_or(container.as_str());
        let address = self.record.job.held().map_or_else(String::new, |lease| format!(" ({})", lease.address));
        format!("{who} {network} {ifname}{address}")
    }
}

fn millis(at: Duration) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(u64::MAX)
}
