//! The wire format of CNI 0.1.0 to 1.1.0: what a runtime asks, and what it is told.
//!
//! Inside there is only the newest form; older ones are converted where they are read and written. This room knows
//! neither Kubernetes nor the kernel nor what a plugin's own keys mean. Environment and standard input are handed in,
//! so that a test needs no process.

mod args;
mod call;
mod convert;
mod document;
mod ip;
pub mod json;
mod result;
mod verb;
mod version;

pub use args::Args;
pub use call::{Call, Given, Request, read};
pub use document::{error_json, foreign_error, valid_attachments, version_json};
pub use ip::{parse_address, parse_prefix};
pub use result::{AddResult, Dns, Interface, IpConfig, Route};
pub use verb::Verb;
pub use version::Version;
