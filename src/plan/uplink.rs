//! Whether a VLAN leaves the node: which ports of a bridge are uplinks, and what they carry.

use crate::net::{Link, LinkKind, PortVlan};
use crate::types::VlanId;

/// A port of the bridge, with its VLANs.
#[derive(Debug, Clone)]
pub struct Port {
    pub link: Link,
    pub vlans: Vec<PortVlan>,
}

impl Port {
    pub fn is_uplink(&self) -> bool {
        is_uplink(&self.link)
    }
}

/// Neither a veth nor a tap: those lead to pods and machines of this node.
pub fn is_uplink(port: &Link) -> bool {
    !matches!(port.kind, LinkKind::Veth | LinkKind::Tun { .. })
}

/// Whether the VLANs leave the node.
#[derive(Debug, PartialEq, Eq)]
pub enum Carried {
    Yes,
    /// The bridge has no uplink at all: an island, which may be meant.
    NoUplink,
    /// These VLANs are on no uplink; the name is that of the first uplink, for the remedy.
    Missing {
        vids: Vec<VlanId>,
        uplink: String,
    },
}

pub fn carried(ports: &[Port], wanted: impl Iterator<Item = VlanId>) -> Carried {
    let uplinks: Vec<&Port> = ports.iter().filter(|p| p.is_uplink()).collect();
    let Some(first) = uplinks.first() else { return Carried::NoUplink };
    let vids: Vec<VlanId> = wanted.filter(|w| !uplinks.iter().any(|p| p.vlans.iter().any(|v| v.vid == *w))).collect();
    if vids.is_empty() { Carried::Yes } else { Carried::Missing { vids, uplink: first.link.name.clone() } }
}

/// The commands that put VLANs onto an uplink; neighbours as one range.
pub fn vlan_add(uplink: &str, vids: &[VlanId]) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for v in vids.iter().map(|v| v.get()) {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == v => *last = v,
            _ => ranges.push((v, v)),
        }
    }
    let command = |(from, to): &(u16, u16)| {
        if from == to {
            format!("bridge vlan add dev {uplink} vid {from}")
        } else {
            format!("bridge vlan add dev {uplink} vid {from}-{to}")
        }
    };
    ranges.iter().map(command).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{link, port};

    #[test]
    fn which_ports_lead_out_of_the_node() {
        let tun = |tap| LinkKind::Tun { owner: None, group: None, tap, persist: true, multi_queue: false };
        for (kind, out) in [
            (LinkKind::Hardware, true),
            (LinkKind::Vlan, true),
            (LinkKind::Other("bond".into()), true),
            (LinkKind::Dummy, true),
            (LinkKind::Veth, false),
            (tun(true), false),
            (tun(false), false),
        ] {
            assert_eq!(port(link(2, "p", kind.clone()), &[]).is_uplink(), out, "{kind:?}");
        }
    }

    #[test]
    fn what_the_uplinks_carry() {
        let uplink = |name: &str, vids: &[u32]| port(link(2, name, LinkKind::Hardware), vids);
        let pods = port(link(3, "tr0", LinkKind::Veth), &[5, 6]);
        let wanted = |vids: &[u32]| vids.iter().map(|v| vid(*v)).collect::<Vec<_>>().into_iter();
        assert_eq!(carried(&[], wanted(&[5])), Carried::NoUplink);
        assert_eq!(carried(std::slice::from_ref(&pods), wanted(&[5])), Carried::NoUplink);
        assert_eq!(carried(&[pods.clone(), uplink("eno1", &[5])], wanted(&[5])), Carried::Yes);
        assert_eq!(carried(&[uplink("eno1", &[5]), uplink("eno2", &[6])], wanted(&[5, 6])), Carried::Yes);
        let missing = carried(&[pods, uplink("eno1", &[1]), uplink("eno2", &[6])], wanted(&[5, 6, 7]));
        assert_eq!(missing, Carried::Missing { vids: vec![vid(5), vid(7)], uplink: "eno1".into() });
        assert_eq!(carried(&[uplink("eno1", &[])], wanted(&[])), Carried::Yes);
    }

    fn vid(v: u32) -> VlanId {
        VlanId::try_from(v).unwrap()
    }

    #[test]
    fn the_remedy_is_a_command() {
        assert_eq!(vlan_add("eno1", &[vid(100)]), "bridge vlan add dev eno1 vid 100");
        assert_eq!(
            vlan_add("eno1", &[vid(5), vid(10), vid(11), vid(12)]),
            "bridge vlan add dev eno1 vid 5; bridge vlan add dev eno1 vid 10-12"
        );
    }
}
