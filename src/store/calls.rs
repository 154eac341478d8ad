//! A word about each call of the plugin, for the agent's metrics: one datagram to a socket under the run directory.
//!
//! Nothing is kept, nothing is waited for: where nobody listens, or not fast enough, the word is lost.

use std::fmt::Display;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Dirs;

/// What is told of a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    pub verb: String,
    /// What the program was for it.
    pub kind: String,
    /// `success`, or the code `TRnnnn`.
    pub outcome: String,
    pub seconds: f64,
}

impl Heard {
    pub fn new(verb: &impl Display, kind: &str, outcome: &str, took: Duration) -> Self {
        Self { verb: verb.to_string(), kind: kind.into(), outcome: outcome.into(), seconds: took.as_secs_f64() }
    }
}

pub fn calls_socket(dirs: &Dirs) -> PathBuf {
    dirs.run.join("calls.sock")
}

pub fn tell_call(dirs: &Dirs, heard: &Heard) {
    let send = || {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to(&serde_json::to_vec(heard)?, calls_socket(dirs))
    };
    // Without an agent there is nobody to hear it.
    let _: std::io::Result<usize> = send();
}
