//! Source NAT for pods' addresses, in the tables of the reference plugins (v1.9.1), so that either program removes
//! what the other made.
//!
//! ```text
//! table inet cni_plugins_masquerade
//!   postrouting (nat, srcnat): multicast: return; goto masq_checks
//!   masq_checks: per address: ip saddr A ip daddr != A's network masquerade   # comment: HASH-HASH, net: ..
//! ```
//! A rule is known by the two hashes that its comment begins with: of the network, and of interface and container. By
//! the address it could not be: a new pod may have it before the old one's DEL comes. Written is this form only; what
//! the reference's iptables backend left (`iptables.rs`, `legacy.rs`) is found and removed too.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use sha2::{Digest, Sha512};

use super::rule::{Expr, META_NFPROTO, Rule, Side, Verdict, address};
use super::ruleset::{Batch, Family, Hook, Ruleset, Table};
use super::{iptables, legacy, no_nftables};
use crate::net::NetResult;

const TABLE: Table = Table { family: Family::Inet, name: "cni_plugins_masquerade" };
const TABLE_COMMENT: &str = "Masquerading for plugins from github.com/containernetworking/plugins";
const CHECKS: &str = "masq_checks";
const CHECKS_COMMENT: &str = "Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet";
const POSTROUTING: &str = "postrouting";
const HOOK: Hook = Hook { kind: "nat", number: 4, priority: 100 };

const MULTICAST_V4: IpNetwork = match Ipv4Network::new_checked(Ipv4Addr::new(224, 0, 0, 0), 4) {
    Some(net) => IpNetwork::V4(net),
    None => panic!("4 is a prefix length"),
};
const MULTICAST_V6: IpNetwork = match Ipv6Network::new_checked(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8) {
    Some(net) => IpNetwork::V6(net),
    None => panic!("8 is a prefix length"),
};

/// What a pod's interface is masqueraded as.
#[derive(Debug, Clone, Copy)]
pub struct Masquerade<'a> {
    pub network: &'a str,
    pub container: &'a str,
    pub ifname: &'a str,
    /// With their network's prefix: what stays inside it keeps its source.
    pub addresses: &'a [IpNetwork],
}

impl Masquerade<'_> {
    fn hash(&self) -> String {
        format!("{}-{}", hex(self.network, 16), hex(&format!("{}:{}", self.ifname, self.container), 16))
    }

    fn comment(&self) -> String {
        let plain = |text: &str| text.replace('"', "");
        let (network, ifname, container) = (plain(self.network), plain(self.ifname), plain(self.container));
        format!("{}, net: {network}, if: {ifname}, id: {container}", self.hash())
    }

    /// Chain of the iptables backend. It leaves the interface out: two of one container on one network share it.
    fn iptables_chain(&self) -> String {
        format!("CNI-{}", hex(&format!("{}{}", self.network, self.container), 24))
    }

    fn own_rules(&self, ruleset: &mut Ruleset) -> NetResult<Vec<Rule>> {
        let hash = self.hash();
        let mut rules = ruleset.rules(TABLE, CHECKS)?;
        rules.retain(|r| r.comment.as_ref().is_some_and(|c| c.starts_with(&hash)));
        Ok(rules)
    }
}

/// Masquerades the addresses. Rules that an earlier call left for the same network, container and interface are
/// replaced in the same transaction.
pub fn add_masquerade(m: &Masquerade) -> NetResult<()> {
    let mut ruleset = Ruleset::open()?.ok_or_else(|| no_nftables("masquerade", m.container))?;
    let comment = m.comment();
    ruleset.transact(|ruleset| {
        let stale = m.own_rules(ruleset)?;
        let mut batch = Batch::new();
        // The reference writes all this anew each time. Here only if something is amiss: see `ensure_chain` for the
        // price. That the last rule goes to the checks says that these are there.
        if ruleset.has_base_chain(TABLE, POSTROUTING, &HOOK)? && has_entrance(ruleset)? {
            batch.rely_on_what_was_read();
        } else {
            make_base(&mut batch);
        }
        for rule in &stale {
            batch.delete_rule(TABLE, CHECKS, rule);
        }
        for address in m.addresses {
            batch.add_rule(TABLE, CHECKS, &check(*address), Some(&comment));
        }
        Ok(batch)
    })
}

fn make_base(batch: &mut Batch) {
    batch.ensure_table(TABLE, Some(TABLE_COMMENT));
    batch.ensure_chain(TABLE, CHECKS, Some(CHECKS_COMMENT));
    batch.ensure_base_chain(TABLE, POSTROUTING, &HOOK);
    batch.flush(TABLE, POSTROUTING);
    for rule in entrance() {
        batch.add_rule(TABLE, POSTROUTING, &rule, None);
    }
}

fn has_entrance(ruleset: &mut Ruleset) -> NetResult<bool> {
    let rules = ruleset.rules(TABLE, POSTROUTING)?;
    Ok(rules.iter().map(|r| &r.exprs).eq(entrance().iter()))
}

/// Takes away what we or the reference, with either of its backends, left for that network, container and interface.
/// Goes on after a failure and tells the first. Without addresses the iptables backend's rules are known by name only.
pub fn remove_masquerade(m: &Masquerade) -> NetResult<()> {
    let chain = m.iptables_chain();
    let mut first = Ok(());
    if let Some(mut ruleset) = Ruleset::open()? {
        first = ruleset.transact(|ruleset| {
            let mut batch = Batch::new();
            m.own_rules(ruleset)?.iter().for_each(|r| batch.delete_rule(TABLE, CHECKS, r));
            Ok(batch)
        });
        for family in [Family::Ipv4, Family::Ipv6] {
            first = first.and(iptables::remove(&mut ruleset, family, &chain, m.addresses));
        }
    }
    for family in [Family::Ipv4, Family::Ipv6] {
        first = first.and(legacy::remove(family, &chain, m.addresses));
    }
    first
}

/// Whether each address is masqueraded, by our rules or by those of the reference's iptables backend.
pub fn has_masquerade(m: &Masquerade) -> NetResult<bool> {
    let Some(mut ruleset) = Ruleset::open()? else { return has_by_iptables(None, m) };
    let rules = m.own_rules(&mut ruleset)?;
    let reached = ruleset.rules(TABLE, POSTROUTING)?.iter().any(|r| r.jumps_to(CHECKS));
    let all = m.addresses.iter().all(|a| {
        let from = address(Side::Source, IpNetwork::from(a.ip()), true);
        rules.iter().any(|r| r.has(&from) && r.exprs.last() == Some(&Expr::Masquerade))
    });
    if reached && all && !rules.is_empty() { Ok(true) } else { has_by_iptables(Some(&mut ruleset), m) }
}

fn has_by_iptables(mut ruleset: Option<&mut Ruleset>, m: &Masquerade) -> NetResult<bool> {
    let chain = m.iptables_chain();
    for address in m.addresses {
        let there = match ruleset.as_deref_mut() {
            Some(ruleset) => iptables::has(ruleset, &chain, *address)?,
            None => false,
        };
        if !there && !legacy::has(&chain, *address)? {
            return Ok(false);
        }
    }
    Ok(!m.addresses.is_empty())
}

/// The rules of `postrouting`: pods may talk by multicast under their own address.
fn entrance() -> [Vec<Expr>; 3] {
    let multicast = |net: IpNetwork| {
        let mut rule = protocol(net);
        rule.extend(address(Side::Destination, net, true));
        rule.push(Expr::Verdict(Verdict::Return));
        rule
    };
    [multicast(MULTICAST_V4), multicast(MULTICAST_V6), vec![Expr::Verdict(Verdict::Goto(CHECKS.into()))]]
}

fn check(pod: IpNetwork) -> Vec<Expr> {
    let mut rule = protocol(pod);
    rule.extend(address(Side::Source, IpNetwork::from(pod.ip()), true));
    rule.extend(address(Side::Destination, pod, false));
    rule.push(Expr::Masquerade);
    rule
}

/// `meta nfproto`: in an `inet` table a rule must first ask which protocol's header it looks at.
fn protocol(net: IpNetwork) -> Vec<Expr> {
    let family = if net.is_ipv6() { Family::Ipv6 } else { Family::Ipv4 };
    vec![Expr::Meta(META_NFPROTO), Expr::equals([family as u8])]
}

/// First hex digits of the text's SHA-512.
fn hex(text: &str, digits: usize) -> String {
    let mut hex: String = Sha512::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect();
    hex.truncate(digits);
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the reference's own test: its hashes must be ours.
    #[test]
    fn names_are_the_references() {
        let m = Masquerade { network: "unit-test", container: "one", ifname: "eth0", addresses: &[] };
        assert_eq!(m.comment(), "6fd94d501e58f0aa-287fc69eff0574a2, net: unit-test, if: eth0, id: one");
        let m = Masquerade { network: "alternate", container: "three", ifname: "net1", addresses: &[] };
        assert_eq!(m.comment(), "82783ef24bdc7036-acb19d111858e348, net: alternate, if: net1, id: three");
        let m = Masquerade { network: "test", container: "1234", ifname: "eth0", addresses: &[] };
        assert_eq!(m.iptables_chain(), "CNI-2bbe0c48b91a7d1b8a6753a8");
    }
}
