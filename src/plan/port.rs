//! Whether a bridge port that was made for a pod is still as it was made, and what would put it right: another program
//! (NetworkManager, a restart of the network) has taken it off its bridge, or its VLANs or flags away.

use std::collections::HashSet;

use crate::net::{Link, LinkKind, PortVlan};
use crate::types::{Mtu, VlanId};

/// The port as it was made.
#[derive(Debug, Clone, Copy)]
pub struct MadePort<'a> {
    pub bridge: &'a str,
    pub native: Option<VlanId>,
    pub tagged: &'a [VlanId],
    pub hairpin: bool,
    pub isolated: bool,
    /// The port has the VLAN besides that the bridge gives each new one.
    pub keep_default: bool,
}

impl MadePort<'_> {
    /// VLANs of the port that it was not given: whoever is in one of them would reach the pod. None where it was given
    /// none, or has the bridge's own besides: which one that was, is not known any more.
    pub fn foreign(&self, there: &[PortVlan]) -> Vec<VlanId> {
        if self.keep_default || (self.native.is_none() && self.tagged.is_empty()) {
            return Vec::new();
        }
        let given: HashSet<VlanId> = self.native.iter().chain(self.tagged).copied().collect();
        there.iter().map(|v| v.vid).filter(|vid| !given.contains(vid)).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Sound,
    /// It is off its bridge or down, and must be left so. Why, for people.
    Leave(String),
    Mend(Mend),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mend {
    /// Onto the bridge of this index; VLANs and flags are set anew then.
    pub join: Option<u32>,
    /// The bridge's, which would sink to a port's smaller one.
    pub mtu: Option<Mtu>,
    pub native: Option<VlanId>,
    pub tagged: Vec<VlanId>,
    /// To be taken away.
    pub foreign: Vec<VlanId>,
    pub hairpin: Option<bool>,
    pub isolated: Option<bool>,
}

/// `bridge`: the link of the bridge's name now. `vlans`: of the port; looked at only where it has been given some.
pub fn port(made: &MadePort<'_>, port: &Link, bridge: Option<&Link>, vlans: &[PortVlan]) -> Verdict {
    let Some((bridge, filtering)) = bridge.and_then(|b| match b.kind {
        LinkKind::Bridge { vlan_filtering } => Some((b, vlan_filtering)),
        _ => None,
    }) else {
        return off(port, format!("bridge {} is not there", made.bridge));
    };
    match port.master {
        Some(index) if index == bridge.index && port.up => resident(made, port, filtering, vlans),
        // Somebody chose that one.
        Some(index) if index != bridge.index => {
            Verdict::Leave(format!("{} is on another link than {}", port.name, made.bridge))
        }
        // Down: somebody was stopped in the middle of putting it back, so its VLANs and flags are not to be trusted.
        _ => match refusal(made, port, bridge, filtering) {
            Some(why) => Verdict::Leave(why),
            None => Verdict::Mend(join(made, port, bridge)),
        },
    }
}

/// A port whose bridge has another name now is still somebody's port.
fn off(port: &Link, why: String) -> Verdict {
    if port.master.is_some() { Verdict::Sound } else { Verdict::Leave(why) }
}

/// The same that ADD would refuse.
fn refusal(made: &MadePort<'_>, port: &Link, bridge: &Link, filtering: bool) -> Option<String> {
    let name = made.bridge;
    if !bridge.up {
        return Some(format!("bridge {name} is down"));
    }
    if (made.native.is_some() || !made.tagged.is_empty()) && !filtering {
        return Some(format!("bridge {name} does not filter VLANs any more"));
    }
    (port.mtu > bridge.mtu)
        .then(|| format!("bridge {name} has MTU {} now, and {} has {}", bridge.mtu, port.name, port.mtu))
}

fn join(made: &MadePort<'_>, port: &Link, bridge: &Link) -> Mend {
    Mend {
        join: Some(bridge.index),
        mtu: Mtu::try_from(i64::from(bridge.mtu)).ok().filter(|_| port.mtu < bridge.mtu),
        native: made.native,
        tagged: made.tagged.to_vec(),
        foreign: Vec::new(),
        hairpin: made.hairpin.then_some(true),
        isolated: made.isolated.then_some(true),
    }
}

fn resident(made: &MadePort<'_>, port: &Link, filtering: bool, vlans: &[PortVlan]) -> Verdict {
    let flags = port.port.as_ref();
    let flag = |wanted: bool, there: Option<bool>| there.filter(|t| *t != wanted).map(|_| wanted);
    let there = |vid: &VlanId| vlans.iter().any(|v| v.vid == *vid);
    let native = |vid: &VlanId| vlans.iter().any(|v| v.vid == *vid && v.pvid && v.untagged);
    let mend = Mend {
        join: None,
        mtu: None,
        // Without filtering the kernel goes by no VLAN, and what it lists need not be what it once had.
        native: made.native.filter(|v| filtering && !native(v)),
        tagged: made.tagged.iter().filter(|v| filtering && !there(v)).copied().collect(),
        foreign: if filtering { made.foreign(vlans) } else { Vec::new() },
        hairpin: flag(made.hairpin, flags.map(|f| f.hairpin)),
        isolated: flag(made.isolated, flags.map(|f| f.isolated)),
    };
    if mend == Mend::default() { Verdict::Sound } else { Verdict::Mend(mend) }
}

impl Mend {
    /// For people.
    pub fn text(&self) -> String {
        if self.join.is_some() {
            return "put back onto its bridge".into();
        }
        let mut parts: Vec<String> = self.native.iter().map(|v| format!("native VLAN {v}")).collect();
        let vlans = |all: &[VlanId]| {
            all.first().map(|v| match all.len() {
                1 => format!("VLAN {v}"),
                n => format!("{n} VLANs"),
            })
        };
        parts.extend(vlans(&self.tagged));
        parts.extend(vlans(&self.foreign).map(|v| format!("without {v}")));
        let flag = |name: &str, on: Option<bool>| on.map(|on| format!("{name} {}", if on { "on" } else { "off" }));
        parts.extend(flag("hairpin mode", self.hairpin));
        parts.extend(flag("isolation", self.isolated));
        format!("restored: {}", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Port, PortState};
    use crate::plan::testing::{bridge, link};

    fn vid(v: u32) -> VlanId {
        VlanId::try_from(v).unwrap()
    }

    fn vlan(v: u32, native: bool) -> PortVlan {
        PortVlan { vid: vid(v), pvid: native, untagged: native }
    }

    const PLAIN: MadePort<'_> =
        MadePort { bridge: "br0", native: None, tagged: &[], hairpin: false, isolated: false, keep_default: false };

    fn on(master: Option<u32>) -> Link {
        let flags = Port { state: PortState::Forwarding, hairpin: false, isolated: false, timer_seconds: 0 };
        Link { master, port: master.map(|_| flags), ..link(7, "tr1", LinkKind::Veth) }
    }

    fn filtering() -> Link {
        link(3, "br0", LinkKind::Bridge { vlan_filtering: true })
    }

    #[test]
    fn a_port_in_its_place_is_sound() {
        assert_eq!(port(&PLAIN, &on(Some(3)), Some(&bridge(3, "br0")), &[vlan(1, true)]), Verdict::Sound);
        let trunk = [vid(5), vid(6)];
        let made = MadePort { native: Some(vid(10)), tagged: &trunk, ..PLAIN };
        let there = [vlan(10, true), vlan(5, false), vlan(6, false)];
        assert_eq!(port(&made, &on(Some(3)), Some(&filtering()), &there), Verdict::Sound);
        assert_eq!(port(&PLAIN, &on(Some(4)), None, &[]), Verdict::Sound, "the bridge was renamed");
    }

    #[test]
    fn one_that_was_thrown_off_goes_back_as_it_was_made() {
        let trunk = [vid(5)];
        let made = MadePort { native: Some(vid(10)), tagged: &trunk, isolated: true, ..PLAIN };
        let Verdict::Mend(mend) = port(&made, &on(None), Some(&filtering()), &[]) else { panic!() };
        let expected = Mend {
            join: Some(3),
            native: Some(vid(10)),
            tagged: vec![vid(5)],
            isolated: Some(true),
            ..Mend::default()
        };
        assert_eq!(mend, expected);
        // A bridge made anew has another number, and perhaps a larger MTU, which must not sink.
        let anew = Link { index: 30, mtu: 9000, ..bridge(3, "br0") };
        let Verdict::Mend(mend) = port(&PLAIN, &on(None), Some(&anew), &[]) else { panic!() };
        assert_eq!(
            (mend.join, mend.mtu.map(|m| m.get()), mend.text().as_str()),
            (Some(30), Some(9000), "put back onto its bridge")
        );
    }

    #[test]
    fn one_that_is_down_is_put_back_whole() {
        let made = MadePort { native: Some(vid(10)), ..PLAIN };
        let down = Link { up: false, ..on(Some(3)) };
        let there = [vlan(1, false), vlan(10, true)];
        let Verdict::Mend(mend) = port(&made, &down, Some(&filtering()), &there) else { panic!() };
        assert_eq!((mend.join, mend.native), (Some(3), Some(vid(10))));
    }

    #[test]
    fn what_would_not_carry_is_left_and_told() {
        let trunk = [vid(5)];
        let tagged = MadePort { tagged: &trunk, ..PLAIN };
        let down = Link { up: false, ..bridge(3, "br0") };
        let small = Link { mtu: 1400, ..bridge(3, "br0") };
        let no_bridge = link(3, "br0", LinkKind::Dummy);
        for (made, port_, bridge_, why) in [
            (&PLAIN, on(None), None, "is not there"),
            (&PLAIN, on(None), Some(&no_bridge), "is not there"),
            (&PLAIN, on(None), Some(&down), "is down"),
            (&PLAIN, on(None), Some(&small), "MTU 1400"),
            (&tagged, on(None), Some(&bridge(3, "br0")), "does not filter"),
            (&PLAIN, on(Some(4)), Some(&bridge(3, "br0")), "another link"),
        ] {
            match port(made, &port_, bridge_, &[]) {
                Verdict::Leave(text) => assert!(text.contains(why), "{text}"),
                other => panic!("{why}: {other:?}"),
            }
        }
    }

    /// A bridge gives each port that joins it its default VLAN, whoever lets it join.
    #[test]
    fn vlans_that_the_port_was_not_given_are_taken_away() {
        let made = MadePort { native: Some(vid(10)), ..PLAIN };
        let there = [PortVlan { vid: vid(1), pvid: false, untagged: true }, vlan(10, true), vlan(99, false)];
        let Verdict::Mend(mend) = port(&made, &on(Some(3)), Some(&filtering()), &there) else { panic!() };
        assert_eq!(mend, Mend { foreign: vec![vid(1), vid(99)], ..Mend::default() });
        assert_eq!(mend.text(), "restored: without 2 VLANs");
        for made in [&PLAIN, &MadePort { keep_default: true, ..made }] {
            assert_eq!(port(made, &on(Some(3)), Some(&filtering()), &there), Verdict::Sound, "{made:?}");
        }
        assert_eq!(port(&made, &on(Some(3)), Some(&bridge(3, "br0")), &there), Verdict::Sound, "no VLAN has a meaning");
    }

    #[test]
    fn lost_vlans_and_flags_are_named() {
        let trunk = [vid(5), vid(6), vid(7)];
        let made = MadePort { native: Some(vid(10)), tagged: &trunk, hairpin: true, ..PLAIN };
        let there = [vlan(1, true), vlan(10, false), vlan(6, false)];
        let Verdict::Mend(mend) = port(&made, &on(Some(3)), Some(&filtering()), &there) else { panic!() };
        assert_eq!(
            (mend.native, &*mend.tagged, mend.hairpin, mend.isolated),
            (Some(vid(10)), &[vid(5), vid(7)][..], Some(true), None)
        );
        assert_eq!(mend.text(), "restored: native VLAN 10, 2 VLANs, without VLAN 1, hairpin mode on");
        let Verdict::Mend(mend) = port(&made, &on(Some(3)), Some(&bridge(3, "br0")), &[]) else { panic!() };
        assert_eq!(mend.text(), "restored: hairpin mode on", "VLANs of a bridge that does not filter say nothing");
    }
}
