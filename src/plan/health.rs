//! Which of a node's bridges count for the scheduler, and whether each can carry a pod. The one place that says what
//! healthy is: the agent advertises by it, `doctor` shows it.

use crate::net::{Link, LinkKind, PortState};

use super::allow::{AllowList, allowed, matches};
use super::uplink::is_uplink;

/// What the administrator says about advertised bridges.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BridgeRule {
    /// Bridges by these names count; none: those that pods' networks may name.
    pub globs: Vec<String>,
    /// `allowBridges` of `node.json`.
    pub allow: AllowList,
    /// Only a bridge that leads out of the node, by a port with a carrier, is healthy.
    pub require_uplink: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    Healthy,
    /// Why, for people.
    Unhealthy(String),
}

impl BridgeRule {
    fn counts(&self, name: &str) -> bool {
        if !self.globs.is_empty() {
            return self.globs.iter().any(|g| matches(g, name));
        }
        match &self.allow {
            // For whichever namespace: the scheduler asks for a node, not for a right.
            Some(entries) => entries.iter().any(|e| matches(&e.glob, name)),
            None => allowed(&None, name, None),
        }
    }
}

/// The bridges that count, by name. `links`: all of the node's.
pub fn bridges(links: &[Link], rule: &BridgeRule) -> Vec<(String, Health)> {
    let is_bridge = |l: &&Link| matches!(l.kind, LinkKind::Bridge { .. });
    let counted = links.iter().filter(is_bridge).filter(|l| rule.counts(&l.name));
    let mut found: Vec<_> = counted.map(|l| (l.name.clone(), health(l, links, rule))).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

fn health(bridge: &Link, links: &[Link], rule: &BridgeRule) -> Health {
    if !is_resource_name(&bridge.name) {
        return Health::Unhealthy("its name cannot be part of a Kubernetes resource's".into());
    }
    if !bridge.up {
        return Health::Unhealthy("it is down".into());
    }
    if !rule.require_uplink {
        return Health::Healthy;
    }
    let uplinks: Vec<&Link> = links.iter().filter(|l| l.master == Some(bridge.index) && is_uplink(l)).collect();
    if uplinks.is_empty() {
        return Health::Unhealthy("it has no uplink".into());
    }
    let cut: Vec<String> = uplinks.iter().filter_map(|l| Some(format!("{} {}", l.name, trouble(l)?))).collect();
    if cut.len() < uplinks.len() { Health::Healthy } else { Health::Unhealthy(format!("uplink {}", cut.join(", "))) }
}

/// Why no frame leaves by this port.
fn trouble(uplink: &Link) -> Option<String> {
    if !uplink.up {
        return Some("is down".into());
    }
    if !uplink.lower_up {
        return Some("has no carrier".into());
    }
    match uplink.port.as_ref().map(|p| p.state) {
        Some(state @ (PortState::Blocking | PortState::Disabled)) => Some(format!("is {state}")),
        _ => None,
    }
}

/// The part behind the `/` of a qualified name. It is short enough: a link's name has at most 15 bytes.
fn is_resource_name(name: &str) -> bool {
    let end = |c: char| c.is_ascii_alphanumeric();
    name.starts_with(end) && name.ends_with(end) && name.chars().all(|c| end(c) || matches!(c, '-' | '_' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Port;
    use crate::plan::testing::{bridge, link};
    use crate::store::Allow;

    fn names(links: &[Link], rule: &BridgeRule) -> Vec<String> {
        bridges(links, rule).into_iter().map(|(name, _)| name).collect()
    }

    fn glob(glob: &str, namespaces: Option<Vec<String>>) -> Allow {
        Allow { glob: glob.into(), namespaces }
    }

    #[test]
    fn which_bridges_count() {
        let links = [
            bridge(1, "docker0"),
            bridge(2, "br-lan"),
            bridge(3, "cni0"),
            link(4, "eno1", LinkKind::Hardware),
            bridge(5, "br-a"),
        ];
        assert_eq!(names(&links, &BridgeRule::default()), ["br-a", "br-lan"]);
        let globs = BridgeRule { globs: vec!["docker?".into()], ..BridgeRule::default() };
        assert_eq!(names(&links, &globs), ["docker0"], "who names it means it");
        let allow = Some(vec![glob("br-l*", Some(vec!["ops".into()])), glob("cni0", None)]);
        assert_eq!(names(&links, &BridgeRule { allow, ..BridgeRule::default() }), ["br-lan", "cni0"]);
        assert!(names(&links, &BridgeRule { allow: Some(vec![]), ..BridgeRule::default() }).is_empty());
    }

    #[test]
    fn what_is_down_or_has_no_name_for_it_is_not_healthy() {
        let rule = BridgeRule::default();
        let of = |l: Link| bridges(&[l], &rule).pop().unwrap().1;
        assert_eq!(of(bridge(1, "br-lan")), Health::Healthy);
        assert_eq!(of(Link { lower_up: false, ..bridge(1, "br-lan") }), Health::Healthy, "no port yet");
        assert_eq!(of(Link { up: false, ..bridge(1, "br-lan") }), Health::Unhealthy("it is down".into()));
        for name in ["_br", "br:1", "br.", "br@x"] {
            assert!(matches!(of(bridge(1, name)), Health::Unhealthy(why) if why.contains("name")), "{name}");
        }
    }

    #[test]
    fn an_uplink_with_a_carrier_where_one_is_wanted() {
        let rule = BridgeRule { require_uplink: true, ..BridgeRule::default() };
        let state = |state| Some(Port { state, hairpin: false, isolated: false, timer_seconds: 0 });
        let eno1 = Link { master: Some(1), port: state(PortState::Forwarding), ..link(2, "eno1", LinkKind::Hardware) };
        let pod = Link { master: Some(1), ..link(3, "tr0", LinkKind::Veth) };
        let of = |ports: &[Link]| {
            let all: Vec<Link> = [bridge(1, "br-lan")].iter().chain(ports).cloned().collect();
            match bridges(&all, &rule).pop().unwrap().1 {
                Health::Healthy => "healthy".to_owned(),
                Health::Unhealthy(why) => why,
            }
        };
        assert_eq!(of(std::slice::from_ref(&eno1)), "healthy");
        assert_eq!(of(&[Link { port: state(PortState::Learning), ..eno1.clone() }]), "healthy", "it will forward");
        assert_eq!(of(&[]), "it has no uplink");
        assert_eq!(of(std::slice::from_ref(&pod)), "it has no uplink");
        assert_eq!(of(&[Link { master: None, ..eno1.clone() }]), "it has no uplink");
        let cut = Link { lower_up: false, ..eno1.clone() };
        assert_eq!(of(&[cut.clone(), pod]), "uplink eno1 has no carrier");
        let second = Link { up: false, name: "eno2".into(), ..eno1.clone() };
        assert_eq!(of(&[cut.clone(), second]), "uplink eno1 has no carrier, eno2 is down");
        assert_eq!(of(&[cut, Link { name: "eno2".into(), ..eno1.clone() }]), "healthy");
        assert_eq!(of(&[Link { port: state(PortState::Blocking), ..eno1 }]), "uplink eno1 is blocking");
    }
}
