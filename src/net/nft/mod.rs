//! Packet filtering by nftables: source NAT for pods, and the guard against forged MACs.
//!
//! Speaks to nf_tables by netlink, without the `nft` program, which minimal hosts lack. All functions act in the
//! network namespace of the calling thread, block, take a transaction for each change, and touch nothing but rules and
//! chains of ours or of the reference plugins. What is already gone is no failure.
//!
//! Not known here: configurations, the journal, which pod wants what.
//!
//! ```text
//! masquerade  spoof      what is in which table
//!   iptables  legacy     the reference's other backend: removed, never written
//! ruleset                read a chain, change it in one transaction
//! events                 somebody has changed something
//! rule  wire             bytes
//! ```

mod events;
mod iptables;
mod legacy;
mod masquerade;
mod rule;
mod ruleset;
mod spoof;
#[cfg(test)]
mod tests;
mod wire;

pub use events::RulesetEvents;
pub use masquerade::{Masquerade, add_masquerade, has_masquerade, remove_masquerade};
pub use spoof::{SpoofGuard, add_spoof_guard, guarded, has_spoof_guard, remove_spoof_guard};

use nix::errno::Errno;

use super::NetError;

fn no_nftables(op: &'static str, object: &str) -> NetError {
    let kernel = Some("this kernel has no nf_tables".into());
    NetError { kernel, ..NetError::new(op, object, Errno::EOPNOTSUPP) }
}
