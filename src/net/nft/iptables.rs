//! What the reference's iptables backend left in `ip nat` and `ip6 nat`, where `iptables` is the nf_tables flavour.
//!
//! ```text
//! POSTROUTING: -s ADDRESS -j CNI-xxxx      CNI-xxxx: -d NETWORK -j ACCEPT, ! -d MULTICAST -j MASQUERADE
//! ```
//! Only the jumps to that chain and the chain are touched. We write nothing here.

use ipnetwork::IpNetwork;

use super::rule::Rule;
use super::ruleset::{Batch, Family, Ruleset, Table};
use crate::net::NetResult;

const POSTROUTING: &str = "POSTROUTING";

/// Removes the jumps for these addresses (without addresses: all), and the chain once nothing jumps to it: two
/// interfaces of one container on one network share it.
pub fn remove(ruleset: &mut Ruleset, family: Family, chain: &str, addresses: &[IpNetwork]) -> NetResult<()> {
    let table = table(family);
    ruleset.transact(|ruleset| {
        let mut batch = Batch::new();
        if !ruleset.has_chain(table, chain)? {
            return Ok(batch);
        }
        let (ours, others): (Vec<Rule>, Vec<Rule>) = jumps(ruleset, table, chain)?
            .into_iter()
            .partition(|r| addresses.is_empty() || addresses.iter().any(|a| is_from(r, family, *a)));
        ours.iter().for_each(|r| batch.delete_rule(table, POSTROUTING, r));
        if others.is_empty() {
            batch.delete_chain(table, chain);
        }
        Ok(batch)
    })
}

/// Whether the address goes through that chain.
pub fn has(ruleset: &mut Ruleset, chain: &str, address: IpNetwork) -> NetResult<bool> {
    let family = if address.is_ipv6() { Family::Ipv6 } else { Family::Ipv4 };
    Ok(jumps(ruleset, table(family), chain)?.iter().any(|r| is_from(r, family, address)))
}

/// Whether a jump from `source` is one for this address: earlier versions of the reference wrote the whole network.
pub fn matches(source: IpNetwork, address: IpNetwork) -> bool {
    let same = |ip| source.ip() == ip;
    source.is_ipv6() == address.is_ipv6()
        && (source == IpNetwork::from(address.ip()) || same(address.network()) && source.prefix() == address.prefix())
}

fn is_from(rule: &Rule, family: Family, address: IpNetwork) -> bool {
    rule.source(family == Family::Ipv6).is_some_and(|source| matches(source, address))
}

fn jumps(ruleset: &mut Ruleset, table: Table, chain: &str) -> NetResult<Vec<Rule>> {
    let mut rules = ruleset.rules(table, POSTROUTING)?;
    rules.retain(|r| r.jumps_to(chain));
    Ok(rules)
}

fn table(family: Family) -> Table {
    Table { family, name: "nat" }
}
