//! The plugin's side of the agent's socket.
//!
//! No socket, nobody who listens, silence, garbage: there is no agent then, for the rest of the call, and the next source
//! is asked. What the agent says of an object is believed.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::protocol::{self, Ask, AskNetworks, AskPod, Complaint, Found, Name, Say, Told};
use crate::store::Dirs;
use crate::types::{Code, Failure, Outcome};

/// It answers in less than a millisecond, or says that it has to ask.
const DEADLINE: Duration = Duration::from_millis(200);
/// However long it says that it takes.
const LONGEST: Duration = Duration::from_secs(10);

pub struct Agent {
    path: PathBuf,
    mark: PathBuf,
    /// Taken out while it is in use.
    stream: RefCell<Option<BufReader<UnixStream>>>,
    away: Cell<bool>,
}

impl Agent {
    /// The agent that listens at the socket of this run directory. Nothing is sent yet.
    pub fn new(dirs: &Dirs) -> Self {
        let (path, mark) = (protocol::socket(dirs), protocol::mark(dirs));
        Self { path, mark, stream: RefCell::default(), away: Cell::new(false) }
    }

    /// The node has one; it may be away for a moment, or not begun yet since the boot.
    pub fn is_expected(&self) -> bool {
        self.path.exists() || self.mark.exists()
    }

    /// What to do where it does not answer.
    pub fn remedy(&self) -> String {
        let (socket, mark) = (self.path.display(), self.mark.display());
        format!(
            "the runtime tries again; look after the agent. On a node that is to have none, remove {socket} and {mark}"
        )
    }

    /// It has answered in this call, and not failed since.
    pub fn is_there(&self) -> bool {
        !self.away.get() && self.stream.borrow().is_some()
    }

    /// `None`: there is no agent, or it does not know either.
    pub async fn pod(&self, ask: AskPod) -> Outcome<Option<Told>> {
        match self.ask(&Ask::Pod(ask)).await {
            Some(Say::Pod(told)) => Ok(Some(told)),
            Some(Say::Error(trouble)) => passed(Failure::from(trouble)),
            Some(_) => Ok(self.lost("an answer to another question")),
            None => Ok(None),
        }
    }

    pub async fn network(&self, name: &Name) -> Option<Found> {
        match self.ask(&Ask::Networks(AskNetworks { names: vec![name.clone()] })).await? {
            Say::Networks(found) => found.into_iter().find(|f| f.name == *name),
            _ => self.lost("an answer to another question"),
        }
    }

    /// Whether it is there and speaks our language.
    pub async fn answers(&self) -> bool {
        matches!(self.ask(&Ask::Networks(AskNetworks { names: Vec::new() })).await, Some(Say::Networks(_)))
    }

    /// Whether it heard.
    pub async fn untold(&self) -> bool {
        self.is_there() && self.say(&Ask::Untold {}).await
    }

    pub async fn complain(&self, complaint: Complaint) -> bool {
        self.is_there() && self.say(&Ask::Event(complaint)).await
    }

    async fn ask(&self, ask: &Ask) -> Option<Say> {
        if self.away.get() {
            return None;
        }
        match self.exchange(ask).await {
            Ok(say) => Some(say),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.away.set(true);
                None
            }
            Err(e) => self.lost(&e.to_string()),
        }
    }

    /// Without an answer.
    async fn say(&self, ask: &Ask) -> bool {
        let Some(mut stream) = self.stream.take() else { return false };
        match timeout(DEADLINE, stream.get_mut().write_all(&protocol::line(ask))).await {
            Ok(Ok(())) => {
                self.stream.replace(Some(stream));
                true
            }
            _ => {
                self.lost::<()>("it does not listen any more");
                false
            }
        }
    }

    fn lost<T>(&self, why: &str) -> Option<T> {
        tracing::warn!(socket = %self.path.display(), why, "the agent does not answer: others are asked");
        self.away.set(true);
        self.stream.replace(None);
        None
    }

    async fn exchange(&self, ask: &Ask) -> io::Result<Say> {
        let taken = self.stream.take();
        let mut stream = match taken {
            Some(stream) => stream,
            None => within(DEADLINE, self.connect()).await?,
        };
        within(DEADLINE, stream.get_mut().write_all(&protocol::line(ask))).await?;
        let mut patience = DEADLINE;
        loop {
            let mut line = Vec::new();
            let read = within(patience, stream.read_until(b'\n', &mut line)).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match protocol::read(&line).map_err(|f| io::Error::other(f.msg))? {
                Say::Wait(ms) if patience == DEADLINE => {
                    tracing::debug!(ms, "the agent asks the API server");
                    patience = (Duration::from_millis(ms) + DEADLINE).min(LONGEST);
                }
                Say::Wait(_) => return Err(io::Error::other("it asks for time again and again")),
                say => {
                    self.stream.replace(Some(stream));
                    return Ok(say);
                }
            }
        }
    }

    async fn connect(&self) -> io::Result<BufReader<UnixStream>> {
        let stream = UnixStream::connect(&self.path).await?;
        // Whoever else put a socket there could tell a pod to be on any network.
        match stream.peer_cred()?.uid() {
            0 => Ok(BufReader::new(stream)),
            uid => Err(io::Error::other(format!("user {uid} listens there, who is not root"))),
        }
    }
}

/// What the agent knows for certain is a failure; where it could not ask, others may be able to.
fn passed(failure: Failure) -> Outcome<Option<Told>> {
    if is_certain(failure.code) {
        return Err(failure);
    }
    tracing::warn!(%failure, "the agent does not know: others are asked");
    Ok(None)
}

pub fn is_certain(code: Code) -> bool {
    matches!(code, Code::PodMissing | Code::PodReplaced | Code::VmiMissing | Code::NadMissing | Code::NadInvalid)
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match timeout(limit, work).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} ms", limit.as_millis()))),
    }
}
