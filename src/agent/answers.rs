//! Answers the plugin on the socket: what a pod wants, out of what the watches have seen.
//!
//! A pod or a network that they have not seen is asked for; the plugin hears then that its answer takes a while. Only root
//! is answered. Nothing is known here of what follows from an answer.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::context::Context;
use super::facts::Facts;
use super::metrics::Family;
use super::tell;
use crate::protocol::{self, Ask, LONGEST_REQUEST, Say, Trouble};
use crate::store::{make_dir, write_whole};
use crate::types::{Code, Failure, Outcome};

/// A plugin that asks nothing for so long has forgotten to go.
const IDLE: Duration = Duration::from_secs(30);
/// Runtimes start at most some dozen pods at a time.
const AT_ONCE: usize = 256;
/// For one that asks nothing to go; there may be none yet.
const MAKE_ROOM: Duration = Duration::from_millis(5);

const ANSWERED: Family = Family::duration("trestle_answer_seconds", "Time of an answer to the plugin.");

pub async fn run(ctx: Context) -> Outcome<()> {
    let facts = Arc::new(Facts::new(ctx.clone())?);
    let listener = bind(&ctx).map_err(|e| {
        let path = protocol::socket(&ctx.dirs);
        Failure::new(Code::Io, format!("cannot listen at {}: {e}", path.display()))
    })?;
    ctx.metrics.working("answers", true);
    let (room, idle) = (Arc::new(Semaphore::new(AT_ONCE)), Idle::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = ctx.ended() => return Ok(()),
        };
        let Ok((stream, _)) = accepted else {
            // No descriptor is left, or no memory: both pass.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let place = loop {
            if room.available_permits() == 0 {
                idle.end_oldest();
            }
            if let Ok(place) = timeout(MAKE_ROOM, room.clone().acquire_owned()).await {
                break place;
            }
        };
        let Ok(place) = place else { return Ok(()) };
        let (ctx, facts, idle) = (ctx.clone(), facts.clone(), idle.clone());
        tokio::spawn(async move {
            if let Err(e) = serve(&ctx, &facts, &idle, stream).await {
                tracing::debug!(error = %e, "a plugin went away");
            }
            drop(place);
        });
    }
}

/// Under another name first, so that there is no instant without a socket, nor one that others may open. The name stays
/// when the agent goes: nobody listens then. The mark stays over a boot.
fn bind(ctx: &Context) -> io::Result<UnixListener> {
    let (path, mark) = (protocol::socket(&ctx.dirs), protocol::mark(&ctx.dirs));
    make_dir(&ctx.dirs.run)?;
    // Without it the socket does until the next boot.
    if !mark.exists()
        && let Err(e) = write_whole(&mark, b"")
    {
        tracing::warn!(path = %mark.display(), error = %e, "the agent's mark cannot be made");
    }
    let temporary = ctx.dirs.run.join(format!("agent.sock.{}.new", std::process::id()));
    let _ = std::fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary)?;
    std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&temporary, path)?;
    Ok(listener)
}

async fn serve(ctx: &Context, facts: &Facts, idle: &Idle, stream: UnixStream) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    if peer.uid() != 0 {
        tracing::warn!(uid = peer.uid(), pid = peer.pid(), "somebody else than root is at the socket");
        return Ok(());
    }
    let (input, output) = stream.into_split();
    let (mut input, mut output) = (BufReader::new(input), Output { stream: output, waits: false });
    while let Some(line) = line(&mut input, idle).await? {
        let began = Instant::now();
        output.waits = false;
        let say = match protocol::read(&line) {
            Ok(ask) => answer(ctx, facts, ask, &mut output).await?,
            Err(failure) => Some(Say::Error(Trouble::from(&failure))),
        };
        if let Some(say) = say {
            output.say(&say).await?;
            let from = if output.waits { "api" } else { "watch" };
            ctx.metrics.observe(&ANSWERED, &[("from", from)], began.elapsed().as_secs_f64());
        }
    }
    Ok(())
}

/// `None` at the end, or when somebody else needs the place.
async fn line(input: &mut BufReader<OwnedReadHalf>, idle: &Idle) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut bounded = input.take(LONGEST_REQUEST);
    let (number, ended) = idle.begin();
    let read = tokio::select! {
        read = timeout(IDLE, bounded.read_until(b'\n', &mut line)) => read,
        _ = ended => return Ok(None),
    };
    idle.end(number);
    let Ok(read) = read else { return Ok(None) };
    read?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(io::Error::other("a request without an end")),
    }
}

/// Who is connected and asks nothing, the oldest first. They are many only where plugins were stopped in the middle.
#[derive(Clone, Default)]
struct Idle(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    /// Of the last one.
    number: u64,
    ends: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Idle {
    fn begin(&self) -> (u64, oneshot::Receiver<()>) {
        let (end, ended) = oneshot::channel();
        let mut all = self.all();
        all.number += 1;
        let number = all.number;
        all.ends.insert(number, end);
        (number, ended)
    }

    fn end(&self, number: u64) {
        self.all().ends.remove(&number);
    }

    fn end_oldest(&self) {
        if let Some((_, end)) = self.all().ends.pop_first() {
            // It has gone by itself.
            let _ = end.send(());
        }
    }

    fn all(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer(ctx: &Context, facts: &Facts, ask: Ask, output: &mut Output) -> io::Result<Option<Say>> {
    match ask {
        Ask::Pod(ask) => {
            if !facts.knows_pod(&ask) {
                output.wait().await?;
            }
            Ok(Some(facts.pod(ask).await.map_or_else(|f| Say::Error(Trouble::from(&f)), Say::Pod)))
        }
        Ask::Networks(ask) => {
            if !ask.names.iter().all(|name| facts.knows_network(name, true)) {
                output.wait().await?;
            }
            Ok(Some(Say::Networks(facts.networks(ask.names).await)))
        }
        Ask::Untold {} => {
            ctx.outbox.knock();
            Ok(None)
        }
        Ask::Event(complaint) => {
            if !ctx.outbox.repeats(&complaint, Instant::now()) {
                tell::complain(ctx, &complaint.pod, &complaint.reason, &complaint.message);
            }
            Ok(None)
        }
    }
}

struct Output {
    stream: OwnedWriteHalf,
    /// The plugin knows that it takes a while.
    waits: bool,
}

impl Output {
    async fn say(&mut self, say: &Say) -> io::Result<()> {
        self.stream.write_all(&protocol::line(say)).await
    }

    async fn wait(&mut self) -> io::Result<()> {
        self.waits = true;
        self.say(&Say::Wait(u64::try_from(super::facts::LONGEST.as_millis()).unwrap_or(u64::MAX))).await
    }
}
