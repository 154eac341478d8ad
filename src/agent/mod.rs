//! The node's agent: what must live longer than a call of the plugin.
//!
//! One duty each on a thread and a runtime of its own, so that none waits for another one's disk; [`DUTIES`] and
//! [`NODE_DUTIES`] are the list.
//! A duty that fails is begun again, and the others go on. Everything here may be missing for a while without a pod that
//! runs noticing. One agent acts for a node: a second one, in an upgrade's overlap, waits until the first is gone.

mod advertise;
mod answers;
mod context;
mod copies;
mod duties;
mod facts;
mod guests;
pub mod keeper;
mod known;
mod metrics;
mod outbox;
mod readdressed;
mod repair;
mod tell;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod vmi;
mod watch;

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::fcntl::Flock;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch as turned};
use tokio::time::{interval, sleep, timeout};

use self::context::Context;
pub use self::duties::Wanted;
pub use self::repair::{Fate, fate};
use crate::net::memory;
use crate::store::{Dirs, failed, hold, make_dir};
use crate::types::{Code, Failure, Outcome};

/// How often it is looked whether this agent's directories are still its own, and memory is given back: of lists of all
/// networks, pods, links, of which little is kept.
const LOOK: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A wait for another agent that is longer is told.
const SOON: Duration = Duration::from_secs(1);
/// For duties to come to an end; whatever they do is safe to be cut off.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the command line says.
pub struct Options {
    pub dirs: Dirs,
    pub node: String,
    pub kubeconfig: Option<PathBuf>,
    /// Of what `repair` and `advertise` do.
    pub dry_run: bool,
    pub wanted: Wanted,
}

type Work = Pin<Box<dyn Future<Output = Outcome<()>>>>;

/// Runs until the agent ends.
struct Duty {
    name: &'static str,
    run: fn(Context) -> Work,
}

/// Of the API server's watches, and for the plugin.
const DUTIES: &[Duty] = &[
    Duty { name: "nads", run: |ctx| Box::pin(watch::nads(ctx)) },
    Duty { name: "pods", run: |ctx| Box::pin(watch::pods(ctx)) },
    Duty { name: "copies", run: |ctx| Box::pin(copies::run(ctx)) },
    Duty { name: "answers", run: |ctx| Box::pin(answers::run(ctx)) },
    Duty { name: "tell", run: |ctx| Box::pin(tell::run(ctx)) },
];

/// Of the node itself.
const NODE_DUTIES: &[Duty] = &[
    Duty { name: "advertise", run: |ctx| Box::pin(duties::advertise(ctx)) },
    Duty { name: "repair", run: |ctx| Box::pin(duties::repair(ctx)) },
    Duty { name: "leases", run: |ctx| Box::pin(duties::leases(ctx)) },
    Duty { name: "guests", run: |ctx| Box::pin(duties::guests(ctx)) },
    Duty { name: "calls", run: |ctx| Box::pin(duties::calls(ctx)) },
    Duty { name: "metrics", run: |ctx| Box::pin(duties::metrics(ctx)) },
];

/// Those without which no pod is served: `/readyz` waits for them.
const EXPECTED: [&str; 4] = ["nads", "pods", "answers", "tell"];

pub fn run(options: Options) -> Outcome<()> {
    let runtime = runtime()?;
    runtime.block_on(supervise(options))
}

async fn supervise(options: Options) -> Outcome<()> {
    let (turn, end) = turned::channel(false);
    let mut term = signals(SignalKind::terminate())?;
    let mut int = signals(SignalKind::interrupt())?;
    let own = tokio::select! {
        own = Own::take(&options.dirs) => own?,
        _ = term.recv() => return Ok(()),
        _ = int.recv() => return Ok(()),
    };
    let ctx = Context {
        dirs: options.dirs,
        node: options.node,
        metrics: metrics::Metrics::default(),
        dry_run: options.dry_run,
        kubeconfig: options.kubeconfig,
        wanted: options.wanted,
        known: Arc::default(),
        outbox: Arc::default(),
        end,
    };
    // What nobody can mend while it runs is told at once.
    ctx.api(crate::api::Limits::new(None))?;
    for duty in EXPECTED {
        ctx.metrics.expect(duty);
    }
    let threads = DUTIES.iter().chain(NODE_DUTIES).map(|duty| start(duty, &ctx)).collect::<Outcome<Vec<_>>>()?;
    tracing::info!(node = ctx.node, "the agent is at work");
    let mut look = interval(LOOK);
    let ended = loop {
        tokio::select! {
            _ = look.tick() => {
                if let Err(failure) = own.still() {
                    break Err(failure);
                }
                memory::give_back();
            }
            _ = term.recv() => break Ok(()),
            _ = int.recv() => break Ok(()),
        }
    };
    // Without a receiver there is nobody left to end.
    let _ = turn.send(true);
    wait(threads).await;
    tracing::info!("the agent has ended");
    ended
}

fn signals(kind: SignalKind) -> Outcome<tokio::signal::unix::Signal> {
    signal(kind).map_err(|e| Failure::new(Code::Io, format!("signals cannot be waited for: {e}")))
}

fn runtime() -> Outcome<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Code::Io, format!("the asynchronous runtime cannot start: {e}")))
}

fn start(duty: &'static Duty, ctx: &Context) -> Outcome<JoinHandle<()>> {
    let ctx = ctx.clone();
    let work = move || match runtime() {
        Ok(runtime) => runtime.block_on(again_and_again(duty, &ctx)),
        Err(failure) => tracing::error!(duty = duty.name, %failure, "never began"),
    };
    std::thread::Builder::new()
        .name(duty.name.into())
        .spawn(work)
        .map_err(|e| Failure::new(Code::Io, format!("no thread for {}: {e}", duty.name)))
}

async fn again_and_again(duty: &Duty, ctx: &Context) {
    let mut pause = FIRST_PAUSE;
    loop {
        match (duty.run)(ctx.clone()).await {
            Ok(()) => return,
            Err(failure) => {
                tracing::error!(duty = duty.name, %failure, pause = pause.as_secs(), "failed, and is begun again");
                ctx.metrics.working(duty.name, false);
            }
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = ctx.ended() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn wait(threads: Vec<JoinHandle<()>>) {
    let all = async {
        while threads.iter().any(|t| !t.is_finished()) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    if timeout(PATIENCE, all).await.is_err() {
        tracing::warn!("cut off at its work");
    }
}

/// This agent's right to act, and the directories in which it does.
struct Own {
    lock: Flock<File>,
    lock_path: PathBuf,
    /// Kept open: else a directory in its place could get its number.
    state: File,
    state_path: PathBuf,
}

impl Own {
    /// Waits until no other agent holds it.
    async fn take(dirs: &Dirs) -> Outcome<Self> {
        let lock_path = dirs.run.join("agent.lock");
        for dir in [&dirs.run, &dirs.state] {
            make_dir(dir).map_err(|e| failed(Code::JournalUnwritable, "make", dir, &e))?;
        }
        let (done, mut taken) = oneshot::channel();
        let path = lock_path.clone();
        // flock(2) cannot be waited for in another way; a process that ends takes this thread along.
        std::thread::spawn(move || done.send(hold(&path, 0o600)));
        let taken = match timeout(SOON, &mut taken).await {
            Ok(taken) => taken,
            Err(_) => {
                tracing::info!(lock = %lock_path.display(), "another agent acts: nothing is done until it has ended");
                taken.await
            }
        };
        let lock = match taken {
            Ok(Ok(lock)) => lock,
            Ok(Err(e)) => return Err(failed(Code::Io, "lock", &lock_path, &e)),
            Err(_) => return Err(Failure::new(Code::Io, "the wait for another agent broke off")),
        };
        let state = File::open(&dirs.state).map_err(|e| failed(Code::Io, "open", &dirs.state, &e))?;
        Ok(Self { lock, lock_path, state, state_path: dirs.state.clone() })
    }

    /// Where somebody removed a directory under it, another agent may be at work, or the node be cleaned up.
    fn still(&self) -> Outcome<()> {
        for (file, path) in [(&*self.lock, &self.lock_path), (&self.state, &self.state_path)] {
            let mine = file.metadata().map_err(|e| failed(Code::Io, "look at", path, &e))?;
            if !std::fs::metadata(path).is_ok_and(|there| identity(&there) == identity(&mine)) {
                let msg = format!("{} was removed or replaced under the agent", path.display());
                return Err(Failure::new(Code::Io, msg).remedy("start the agent again, if it is still wanted"));
            }
        }
        Ok(())
    }
}

fn identity(m: &Metadata) -> (u64, u64) {
    (m.dev(), m.ino())
}
