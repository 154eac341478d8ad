//! Rules of the packet filter that the journal has, held against the kernel, and put back: the guard against forged MACs,
//! and the masquerade. Whoever flushes the ruleset, or loads a firewall anew, takes them away without a word.
//!
//! As with ports (`mend`): looks without a lock, acts with the container's, after a second look. In the calling thread's
//! namespace, which is the node's.

use ipnetwork::IpNetwork;

use crate::failpoint::hit;
use crate::net::{Namespace, nft};
use crate::store::{Dirs, Entry, Journal};
use crate::types::{Code, Failure, Outcome, PodRef, Role};

use super::record::{self, Wire, WireLink};
use super::undo::packet_filter;

/// What a pod's entry says of the packet filter.
pub struct PodRules {
    pub entry: Entry,
    pub pod: Option<PodRef>,
    wire: Wire,
}

/// Which of them are not there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Missing {
    pub guard: bool,
    pub masquerade: bool,
}

impl Missing {
    pub fn any(self) -> bool {
        self.guard || self.masquerade
    }

    /// For people.
    pub fn text(self) -> &'static str {
        match (self.guard, self.masquerade) {
            (true, true) => "guard against forged MAC addresses and masquerade",
            (_, true) => "masquerade",
            _ => "guard against forged MAC addresses",
        }
    }
}

/// Those of this boot and this node, whose ADD has come to its end.
pub fn rules(entries: &[Entry], dirs: &Dirs, host: &Namespace) -> Outcome<Vec<PodRules>> {
    let here = host.id()?;
    let mut found = Vec::new();
    for entry in entries.iter().filter(|e| e.id.role == Role::Wire) {
        // One that cannot be read is told of where ports are looked at.
        let Ok(wire) = record::read::<Wire>(entry) else { continue };
        let filtered = wire.macspoofchk || wire.masquerade;
        if filtered && wire.pod_index.is_some() && wire.place.of_this_boot(dirs) && wire.place.host_ns == here {
            found.push(PodRules { entry: entry.clone(), pod: wire.place.pod.clone(), wire });
        }
    }
    Ok(found)
}

/// Those of which something is missing.
pub fn amiss(all: &[PodRules]) -> Outcome<Vec<(&PodRules, Missing)>> {
    let guards: Vec<nft::SpoofGuard<'_>> = all.iter().filter_map(PodRules::guard).collect();
    let mut there = nft::guarded(&guards).map_err(packet_filter)?.into_iter();
    let mut found = Vec::new();
    for rules in all {
        let guard = rules.guard().is_some() && !there.next().unwrap_or(true);
        let missing = Missing { guard, masquerade: rules.masquerade_is_gone()? };
        if missing.any() {
            found.push((rules, missing));
        }
    }
    Ok(found)
}

impl PodRules {
    fn guard(&self) -> Option<nft::SpoofGuard<'_>> {
        let WireLink::Bridge { host, .. } = &self.wire.link else { return None };
        let (container, ifname) = (self.entry.id.container.as_str(), self.entry.id.ifname.as_str());
        let guard = nft::SpoofGuard { host_link: host.as_str(), mac: self.wire.guarded, container, ifname };
        self.wire.macspoofchk.then_some(guard)
    }

    /// None where the addresses are not known: ADD has not come so far, or an older version wrote the record.
    fn masquerade(&self) -> Option<nft::Masquerade<'_>> {
        let addresses: &[IpNetwork] = &self.wire.masqueraded;
        let (container, ifname) = (self.entry.id.container.as_str(), self.entry.id.ifname.as_str());
        let masquerade = nft::Masquerade { network: &self.entry.network, container, ifname, addresses };
        (self.wire.masquerade && !addresses.is_empty()).then_some(masquerade)
    }

    fn masquerade_is_gone(&self) -> Outcome<bool> {
        let Some(wanted) = self.masquerade() else { return Ok(false) };
        nft::has_masquerade(&wanted).map(|there| !there).map_err(packet_filter)
    }

    /// What was put back; `None` where somebody is at work on the container, or there is nothing to do any more.
    pub fn mend(&self, dirs: &Dirs) -> Outcome<Option<Missing>> {
        let Some(_lock) = Journal(dirs).hold(&self.entry)? else { return Ok(None) };
        let Some((_, missing)) = amiss(std::slice::from_ref(self))?.into_iter().next() else { return Ok(None) };
        if missing.guard
            && let Some(guard) = self.guard()
        {
            if guard.mac.is_none() {
                let msg = "the record does not tell which MAC address the guard lets pass: an older version wrote it";
                return Err(Failure::new(Code::PacketFilter, msg).remedy("re-create the pod"));
            }
            nft::add_spoof_guard(&guard).map_err(packet_filter)?;
            hit("spoof guard");
        }
        if missing.masquerade
            && let Some(masquerade) = self.masquerade()
        {
            nft::add_masquerade(&masquerade).map_err(packet_filter)?;
            hit("masquerade");
        }
        Ok(Some(missing))
    }
}
