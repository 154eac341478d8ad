//! A DHCPv4 client (RFC 2131) that is nothing but values: questions and answers in, packets to send and leases out.
//!
//! It knows no socket, no clock, no file and no kernel: `now` comes with each call, on whatever clock the caller keeps
//! (the boot clock, as a lease runs on while a node sleeps), and randomness as one number. A caller sends what
//! [`Machine::next`] says, hands in what arrives, and calls [`Machine::tick`] at [`Machine::deadline`].
//!
//! ```text
//! Discover ─→ DISCOVER ─OFFER→ REQUEST ─ACK→ Probe ─free→ Bound      Renew  ─→ REQUEST to the server ─┬ACK→ Bound
//!                ↑  └─ no ACK, NAK ──┘          └taken→ DECLINE      Rebind ─→ REQUEST to everybody  ─┼NAK→ Lost
//!                └────────────────────────────────────────┘          Reboot ─→ the same, ACK → Probe ─┴ no answer → Lost
//! ```

mod identity;
mod job;
mod lease;
mod machine;
mod message;
mod options;
mod random;
pub mod server;
#[cfg(test)]
mod tests;

pub use identity::Identity;
pub use job::{Answer, Follows, Job, Step};
pub use lease::{Lease, Route};
pub use machine::{Action, Machine, Start, Why, release};
pub use options::Wish;
