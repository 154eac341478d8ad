//! What a virtual machine asks of its networks by annotations of its template, which KubeVirt hands on to the pod, and
//! what only the machine's own description says.
//!
//! ```text
//! network.kubevirt.io/addresses   {"lan": ["192.0.2.10/24"]}     by the machine's network
//! trestle.network/queues          {"lan": 4}
//! ```
//! A network's interface in the pod is `pod<H>`, H out of its name. By ordinal names (`netN`), and for the network in the
//! place of the pod's own (`eth0`), the name leads nowhere: there the description has to be known.

use std::collections::BTreeMap;

use super::{PodFacts, network_hash};
use crate::annotation::{self, Selection};
use crate::cni::{parse_address, parse_prefix};
use crate::types::{Code, Failure, IfName, Outcome, nearest};
use crate::vmi::Nics;

const ADDRESSES: &str = "network.kubevirt.io/addresses";
const QUEUES: &str = "trestle.network/queues";

type ByNetwork<T> = BTreeMap<String, T>;

impl PodFacts {
    /// Queues of the NIC on `network`: by the annotation, else by the machine's description. `None`: nobody says.
    pub fn queues(&self, network: &str) -> Outcome<Option<u32>> {
        match self.annotated_queues()?.get(network) {
            Some(n @ 1..=256) => Ok(Some(*n)),
            Some(n) => Err(Failure::new(
                Code::Config,
                format!("annotation {QUEUES}: {n} for {network:?} is not within 1 to 256"),
            )),
            None => Ok(self.nics.as_ref().and_then(|nics| nics.queues.get(network)).copied()),
        }
    }

    /// Whether the machine's network can be the pod's own, as far as is known: no NAD is attached for it on a link of
    /// its own, and the machine's description says nothing else.
    pub(super) fn may_be_pods_own(&self, network: &str) -> bool {
        let says = |nics: &Nics| [&nics.pod, &nics.primary].into_iter().flatten().any(|own| own == network);
        hashed(network, &self.elements()).is_none() && self.nics.as_ref().is_none_or(says)
    }

    fn annotated_queues(&self) -> Outcome<ByNetwork<u32>> {
        let Some(text) = self.annotation(QUEUES) else { return Ok(BTreeMap::new()) };
        serde_json::from_str(text).map_err(|e| {
            Failure::new(Code::Config, format!("annotation {QUEUES} {text:?}: {e}"))
                .remedy("a JSON map from network name to number of queues, like {\"lan\":2}")
        })
    }

    /// Addresses that the machine asks for on this interface. The whole annotation is looked at, whichever network it is
    /// for: a name that is misspelt would leave its network with another address.
    pub fn addresses(&self, ifname: &IfName) -> Outcome<Option<Vec<String>>> {
        let all = self.annotated_addresses()?;
        if all.is_empty() {
            return Ok(None);
        }
        let elements = self.elements();
        for (network, ips) in &all {
            ips.iter().try_for_each(|ip| is_address(network, ip))?;
            if !self.knows(network, &elements) {
                return Err(self.unknown(network, &elements));
            }
        }
        if !self.what_for(ifname, false).is_vm() {
            return Ok(None);
        }
        let mine = |network: &str| self.interface(network, &elements).is_some_and(|name| name == ifname.as_str());
        Ok(all.into_iter().find(|(network, _)| mine(network)).map(|(_, ips)| ips).filter(|ips| !ips.is_empty()))
    }

    /// Of a plain pod the annotation is nobody's wish.
    fn annotated_addresses(&self) -> Outcome<ByNetwork<Vec<String>>> {
        let Some(text) = self.annotation(ADDRESSES).filter(|_| self.is_launcher()) else { return Ok(BTreeMap::new()) };
        serde_json::from_str(text).map_err(|e| bad(format!("{text:?}: {e}")))
    }

    /// Whether the machine's description has to be known.
    pub fn needs_nics(&self) -> bool {
        if !self.is_launcher() {
            return false;
        }
        let elements = self.elements();
        // What cannot be read is refused by whoever attaches the network, whatever the description says.
        let (Ok(queues), Ok(addresses)) = (self.annotated_queues(), self.annotated_addresses()) else { return false };
        elements.iter().filter_map(Selection::bound_network).any(|network| !queues.contains_key(network))
            || addresses.keys().any(|network| hashed(network, &elements).is_none())
    }

    fn elements(&self) -> Vec<Selection> {
        let namespace = self.pod.as_ref().map_or("", |p| p.namespace.as_str());
        let text = self.annotation(annotation::NETWORKS).unwrap_or_default();
        annotation::selections(text, namespace).unwrap_or_default()
    }

    /// What a machine asks for on the pod's own network is the business of whoever made that: OVN-Kubernetes goes by this
    /// annotation too.
    fn knows(&self, network: &str, elements: &[Selection]) -> bool {
        let is_pods = self.nics.as_ref().is_some_and(|nics| nics.pod.as_deref() == Some(network));
        is_pods || self.interface(network, elements).is_some()
    }

    /// The pod's interface of a machine's network; `None`: no NAD describes such a network of it.
    fn interface(&self, network: &str, elements: &[Selection]) -> Option<String> {
        if let Some(name) = hashed(network, elements) {
            return Some(name);
        }
        let nics = self.nics.as_ref()?;
        if nics.primary.as_deref() == Some(network) {
            return Some("eth0".into());
        }
        let place = nics.secondary.iter().position(|known| known == network)?;
        Some(format!("net{}", place + 1))
    }

    fn unknown(&self, network: &str, elements: &[Selection]) -> Failure {
        let bound = elements.iter().filter_map(Selection::bound_network);
        let described = self.nics.iter().flat_map(|nics| nics.networks());
        let mut known: Vec<&str> = bound.chain(described).collect();
        known.sort_unstable();
        known.dedup();
        let failure = match (&self.nics, &known[..]) {
            (Some(_), []) => bad(format!("{network:?}: the machine has no network by a NAD")),
            (Some(_), names) => {
                bad(format!("{network:?}: the machine has no such network; it has {}", names.join(", ")))
            }
            (None, _) => bad(format!(
                "{network:?}: the pod has no interface pod{}, and nobody tells the machine's networks",
                network_hash(network)
            )),
        };
        match nearest(network, known.iter().copied()) {
            Some(near) => failure.remedy(format!("did you mean {near}?")),
            None => failure.remedy("correct the annotation of the machine's template: keys are names of its networks"),
        }
    }
}

/// `pod<H>`, if the pod has it.
fn hashed(network: &str, elements: &[Selection]) -> Option<String> {
    let name = format!("pod{}", network_hash(network));
    elements.iter().any(|e| e.interface.as_deref() == Some(&*name)).then_some(name)
}

fn is_address(network: &str, text: &str) -> Outcome<()> {
    let fine = if text.contains('/') { parse_prefix(text).is_some() } else { parse_address(text).is_some() };
    if fine { Ok(()) } else { Err(bad(format!("{network}: {text:?} is no IP address like 192.0.2.10/24"))) }
}

fn bad(why: String) -> Failure {
    Failure::new(Code::Annotation, format!("annotation {ADDRESSES}: {why}"))
        .remedy("a JSON map from the machine's network to its addresses, like {\"lan\":[\"192.0.2.10/24\"]}")
}

#[cfg(test)]
mod tests;
