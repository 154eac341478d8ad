//! What every test stands on: namespaces that are gone after the test, plugins called as a runtime calls them, and
//! the kernel's state as iproute2 and nft tell it (never through the program's own netlink code).
//!
//! It knows no rule of Trestle. Tests run in parallel threads: nothing here changes the process (working directory,
//! environment, namespace of a thread that lives on) or the machine's own network namespace.

mod background;
mod call;
mod kind;
mod lab;
mod look;
mod machine;
mod netns;
mod reach;
mod snapshot;
mod wire;

pub use background::Background;
pub use call::{Call, Running};
pub use kind::Kind;
pub(crate) use kind::both;
pub use lab::{Lab, eventually};
pub use look::store_files;
pub use netns::Netns;
pub use reach::{reached, unreached};
pub use snapshot::Snapshot;
pub use wire::{Seen, Sniffer, Tap, frame};

/// Versions of the CNI protocol that there are.
pub const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
