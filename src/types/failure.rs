//! The one shape in which a failure travels to a person or to the runtime.

use std::fmt;

use super::Code;

pub type Outcome<T> = Result<T, Failure>;

/// A failure with its stable code: what failed and why (`msg`), and what to do (`remedy`).
///
/// Rooms below have error types of their own where somebody tells their variants apart; on the way up each becomes a
/// `Failure` exactly once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: Code,
    /// Lower case, no full stop; names the thing: path, interface, network, pod.
    pub msg: String,
    /// What the reader can do; may be empty.
    pub remedy: String,
    /// The CNI code of another plugin's error, which passes through unchanged.
    pub foreign: Option<u32>,
}

impl Failure {
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), remedy: String::new(), foreign: None }
    }

    pub fn remedy(mut self, text: impl Into<String>) -> Self {
        self.remedy = text.into();
        self
    }

    /// Of an undo that goes on whatever fails: the first failure, with what the others say behind it.
    pub fn first_of(failures: Vec<Self>) -> Outcome<()> {
        let mut all = failures.into_iter();
        let Some(mut first) = all.next() else { return Ok(()) };
        for more in all {
            first.msg = format!("{}; {}: {}", first.msg, more.code, more.msg);
        }
        Err(first)
    }

    /// Puts where it happened in front of the message.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.msg = format!("{place}: {}", self.msg);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.msg)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, " ({})", self.remedy) }
    }
}

impl std::error::Error for Failure {}
