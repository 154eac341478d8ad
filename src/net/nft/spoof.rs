//! A guard that lets only frames with one source MAC in from a bridge port, in the tables of the reference plugins
//! (v1.9.1, `macspoofchk`), so that either program removes what the other made.
//!
//! ```text
//! table bridge nat
//!   PREROUTING (filter, dstnat): iifname PORT jump cni-br-iface-ID     # ID = container-interface
//!   cni-br-iface-ID:             jump cni-br-iface-ID-mac
//!   cni-br-iface-ID-mac:         ether saddr MAC return; drop          # each with the comment macspoofchk-ID
//! ```
//! The table and PREROUTING are shared (with `ebtables`, too) and stay.

use nix::errno::Errno;

use super::no_nftables;
use super::rule::{BASE_LINK, COMMENT_MAX, Expr, META_IIFNAME, Rule, Verdict};
use super::ruleset::{Batch, Family, Hook, Ruleset, Table};
use crate::net::{NetError, NetResult};
use crate::types::Mac;

const TABLE: Table = Table { family: Family::Bridge, name: "nat" };
const PREROUTING: &str = "PREROUTING";
const HOOK: Hook = Hook { kind: "filter", number: 0, priority: -300 };
/// The kernel compares interface names as 16 bytes, padded with zeros.
const NAME_BYTES: usize = 16;

/// Which port is guarded, for whom.
#[derive(Debug, Clone, Copy)]
pub struct SpoofGuard<'a> {
    /// The bridge port: the veth's host end.
    pub host_link: &'a str,
    /// The only source that passes. `None` is for asking alone: whatever it is.
    pub mac: Option<Mac>,
    pub container: &'a str,
    pub ifname: &'a str,
}

/// Names of what belongs to one guard.
struct Names {
    comment: String,
    port_chain: String,
    mac_chain: String,
}

impl Names {
    fn new(container: &str, ifname: &str) -> Self {
        let port_chain = format!("cni-br-iface-{container}-{ifname}");
        let mac_chain = format!("{port_chain}-mac");
        Self { comment: format!("macspoofchk-{container}-{ifname}"), port_chain, mac_chain }
    }

    /// The rule that sends a port's frames through the guard. A comment that was cut is not one guard's alone.
    fn sends_here(&self, rule: &Rule) -> bool {
        let by_comment = self.comment.len() <= COMMENT_MAX && rule.comment.as_ref() == Some(&self.comment);
        by_comment || rule.jumps_to(&self.port_chain)
    }

    fn senders(&self, ruleset: &mut Ruleset) -> NetResult<Vec<Rule>> {
        let mut rules = ruleset.rules(TABLE, PREROUTING)?;
        rules.retain(|r| self.sends_here(r));
        Ok(rules)
    }
}

/// Guards the port. What an earlier call left for the same container and interface is replaced in the same
/// transaction, so that no frame passes unguarded in between.
pub fn add_spoof_guard(g: &SpoofGuard) -> NetResult<()> {
    let Some(mac) = g.mac else {
        let kernel = Some("no MAC address is given".into());
        return Err(NetError { kernel, ..NetError::new("guard", g.host_link, Errno::EINVAL) });
    };
    let mut ruleset = Ruleset::open()?.ok_or_else(|| no_nftables("guard", g.host_link))?;
    let names = Names::new(g.container, g.ifname);
    ruleset.transact(|ruleset| {
        let stale = names.senders(ruleset)?;
        let mut batch = Batch::new();
        if ruleset.has_base_chain(TABLE, PREROUTING, &HOOK)? {
            batch.rely_on_what_was_read();
        } else {
            batch.ensure_table(TABLE, None);
            batch.ensure_base_chain(TABLE, PREROUTING, &HOOK);
        }
        for chain in [&names.port_chain, &names.mac_chain] {
            batch.ensure_chain(TABLE, chain, None);
            batch.flush(TABLE, chain);
        }
        for rule in &stale {
            batch.delete_rule(TABLE, PREROUTING, rule);
        }
        let mut add = |chain: &str, rule: &[Expr]| batch.add_rule(TABLE, chain, rule, Some(&names.comment));
        add(PREROUTING, &from_port(g.host_link, &names.port_chain));
        add(&names.port_chain, &[jump(&names.mac_chain)]);
        add(&names.mac_chain, &from_mac(mac));
        add(&names.mac_chain, &[Expr::Verdict(Verdict::Drop)]);
        Ok(batch)
    })
}

/// Takes away what we or the reference left for that container and interface, also where only a part of it is there.
pub fn remove_spoof_guard(container: &str, ifname: &str) -> NetResult<()> {
    let Some(mut ruleset) = Ruleset::open()? else { return Ok(()) };
    let names = Names::new(container, ifname);
    ruleset.transact(|ruleset| {
        let mut batch = Batch::new();
        names.senders(ruleset)?.iter().for_each(|r| batch.delete_rule(TABLE, PREROUTING, r));
        // In this order: a chain cannot go while a rule jumps to it.
        for chain in [&names.port_chain, &names.mac_chain] {
            if ruleset.has_chain(TABLE, chain)? {
                batch.delete_chain(TABLE, chain);
            }
        }
        Ok(batch)
    })
}

/// Whether the guard is there, whole, on that port and for that MAC.
pub fn has_spoof_guard(g: &SpoofGuard) -> NetResult<bool> {
    Ok(guarded(std::slice::from_ref(g))?.first() == Some(&true))
}

/// The same of many, with one look at the chain that they share.
pub fn guarded(all: &[SpoofGuard]) -> NetResult<Vec<bool>> {
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let Some(mut ruleset) = Ruleset::open()? else { return Ok(vec![false; all.len()]) };
    let senders = ruleset.rules(TABLE, PREROUTING)?;
    all.iter().map(|g| is_guarded(&mut ruleset, &senders, g)).collect()
}

fn is_guarded(ruleset: &mut Ruleset, senders: &[Rule], g: &SpoofGuard) -> NetResult<bool> {
    let names = Names::new(g.container, g.ifname);
    let mut has = |chain: &str, wanted: &dyn Fn(&Rule) -> bool| -> NetResult<bool> {
        Ok(ruleset.rules(TABLE, chain)?.iter().any(wanted))
    };
    let passes = |r: &Rule| match g.mac {
        Some(mac) => r.has(&from_mac(mac)),
        None => r.exprs.contains(&Expr::Verdict(Verdict::Return)),
    };
    Ok(senders.iter().any(|r| r.jumps_to(&names.port_chain) && r.has(&port_is(g.host_link)))
        && has(&names.port_chain, &|r| r.jumps_to(&names.mac_chain))?
        && has(&names.mac_chain, &passes)?
        && has(&names.mac_chain, &|r| r.exprs.last() == Some(&Expr::Verdict(Verdict::Drop)))?)
}

fn port_is(port: &str) -> [Expr; 2] {
    let mut name = port.as_bytes().to_vec();
    name.resize(NAME_BYTES, 0);
    [Expr::Meta(META_IIFNAME), Expr::equals(name)]
}

fn from_port(port: &str, chain: &str) -> Vec<Expr> {
    let mut rule = port_is(port).to_vec();
    rule.push(jump(chain));
    rule
}

/// `ether saddr MAC return`.
fn from_mac(mac: Mac) -> [Expr; 3] {
    let source = Expr::Payload { base: BASE_LINK, offset: 6, length: 6 };
    [source, Expr::equals(mac.bytes()), Expr::Verdict(Verdict::Return)]
}

fn jump(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Jump(chain.into()))
}
