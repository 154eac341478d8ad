//! VLANs of a bridge's ports and of the bridge itself (`bridge vlan`).

use std::collections::HashMap;

use rtnetlink::packet_route::link::{
    AfSpecBridge, BridgeFlag, BridgeVlanInfo, BridgeVlanInfoFlags, LinkAttribute, LinkExtentMask, LinkMessage,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::Ask;
use super::{NetResult, Netlink};
use crate::types::VlanId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortVlan {
    pub vid: VlanId,
    /// Untagged frames that come in belong to it.
    pub pvid: bool,
    /// Frames go out without tag.
    pub untagged: bool,
}

impl Netlink {
    /// Of a port or of a bridge device. Empty where the bridge has no VLAN filtering.
    pub async fn vlans(&self, index: u32) -> NetResult<Vec<PortVlan>> {
        let ask = Ask::new("list VLANs", format!("of link {index}"));
        // The kernel has no filter for one port here, and refuses an index in the header.
        Ok(self.list_vlans(ask).await?.into_iter().flat_map(|m| vlans(m, index)).collect())
    }

    /// Of all ports and bridges, by their index: one list, however many are asked about.
    pub async fn all_vlans(&self) -> NetResult<HashMap<u32, Vec<PortVlan>>> {
        let mut all: HashMap<u32, Vec<PortVlan>> = HashMap::new();
        for m in self.list_vlans(Ask::new("list VLANs", "of all ports")).await? {
            if let RouteNetlinkMessage::NewLink(link) = &m {
                let index = link.header.index;
                all.entry(index).or_default().extend(vlans(m, index));
            }
        }
        Ok(all)
    }

    async fn list_vlans(&self, ask: Ask) -> NetResult<Vec<RouteNetlinkMessage>> {
        let mut query = LinkMessage::default();
        query.header.interface_family = AddressFamily::Bridge;
        // Ranges come as begin and end: a trunk of 4094 VLANs, one by one, would not fit into a message.
        query.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::BrvlanCompressed]));
        self.dump(ask, RouteNetlinkMessage::GetLink(query)).await
    }

    /// On a port.
    pub async fn add_vlan(&self, index: u32, from: VlanId, to: VlanId, pvid: bool, untagged: bool) -> NetResult<()> {
        let m = message(index, None, from, to, flags(pvid, untagged));
        self.change(ask("add VLAN", index, from, to), RouteNetlinkMessage::SetLink(m), 0).await.map(drop)
    }

    /// From a port.
    pub async fn delete_vlan(&self, index: u32, vid: VlanId) -> NetResult<()> {
        let m = message(index, None, vid, vid, BridgeVlanInfoFlags::empty());
        self.change(ask("delete VLAN", index, vid, vid), RouteNetlinkMessage::DelLink(m), 0).await.map(drop)
    }
}

fn ask(op: &'static str, index: u32, from: VlanId, to: VlanId) -> Ask {
    let range = if from == to { from.to_string() } else { format!("{from}-{to}") };
    Ask::new(op, format!("{range} of link {index}"))
}

fn flags(pvid: bool, untagged: bool) -> BridgeVlanInfoFlags {
    let mut flags = BridgeVlanInfoFlags::empty();
    flags.set(BridgeVlanInfoFlags::Pvid, pvid);
    flags.set(BridgeVlanInfoFlags::Untagged, untagged);
    flags
}

fn message(
    index: u32,
    to_self: Option<BridgeFlag>,
    from: VlanId,
    to: VlanId,
    flags: BridgeVlanInfoFlags,
) -> LinkMessage {
    let entry = |vid: VlanId, more| AfSpecBridge::VlanInfo(BridgeVlanInfo { flags: flags | more, vid: vid.get() });
    let mut spec: Vec<_> = to_self.map(AfSpecBridge::Flags).into_iter().collect();
    if from == to {
        spec.push(entry(from, BridgeVlanInfoFlags::empty()));
    } else {
        spec.push(entry(from, BridgeVlanInfoFlags::RangeBegin));
        spec.push(entry(to, BridgeVlanInfoFlags::RangeEnd));
    }
    let mut m = LinkMessage::default();
    m.header.interface_family = AddressFamily::Bridge;
    m.header.index = index;
    m.attributes.push(LinkAttribute::AfSpecBridge(spec));
    m
}

fn vlans(m: RouteNetlinkMessage, index: u32) -> Vec<PortVlan> {
    let RouteNetlinkMessage::NewLink(m) = m else { return Vec::new() };
    if m.header.index != index {
        return Vec::new();
    }
    let (mut found, mut begin) = (Vec::new(), None);
    let specs = m.attributes.into_iter().filter_map(|a| match a {
        LinkAttribute::AfSpecBridge(spec) => Some(spec),
        _ => None,
    });
    for spec in specs.flatten() {
        let AfSpecBridge::VlanInfo(info) = spec else { continue };
        if info.flags.contains(BridgeVlanInfoFlags::RangeBegin) {
            begin = Some(info.vid);
            continue;
        }
        let first = if info.flags.contains(BridgeVlanInfoFlags::RangeEnd) { begin.take() } else { None };
        let vids = (first.unwrap_or(info.vid)..=info.vid).filter_map(|v| VlanId::try_from(u32::from(v)).ok());
        found.extend(vids.map(|vid| PortVlan {
            vid,
            pvid: info.flags.contains(BridgeVlanInfoFlags::Pvid),
            untagged: info.flags.contains(BridgeVlanInfoFlags::Untagged),
        }));
    }
    found
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::{Emitable, ParseableParametrized};

    use super::*;
    use crate::net::testing::{Bench, block_on, found, name};

    fn vid(n: u32) -> VlanId {
        VlanId::try_from(n).unwrap()
    }

    fn bytes(m: &LinkMessage) -> Vec<u8> {
        let mut b = vec![0; m.buffer_len()];
        m.emit(&mut b);
        b
    }

    /// `ifinfomsg` of AF_BRIDGE for link 5, then IFLA_AF_SPEC with the entries; on a little-endian machine.
    fn expected(entries: &[[u8; 8]]) -> Vec<u8> {
        let mut b = vec![7, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        b.extend([(4 + 8 * entries.len()) as u8, 0, 26, 0]);
        b.extend(entries.concat());
        b
    }

    #[test]
    fn requests_are_those_of_iproute2() {
        // bridge vlan add dev LINK vid 100 pvid untagged
        let m = message(5, None, vid(100), vid(100), flags(true, true));
        assert_eq!(bytes(&m), expected(&[[8, 0, 2, 0, 6, 0, 100, 0]]));
        // bridge vlan add dev LINK vid 10-300
        let m = message(5, None, vid(10), vid(300), flags(false, false));
        assert_eq!(bytes(&m), expected(&[[8, 0, 2, 0, 8, 0, 10, 0], [8, 0, 2, 0, 16, 0, 44, 1]]));
        // bridge vlan add dev BRIDGE vid 7 self: IFLA_BRIDGE_FLAGS is 2, BRIDGE_FLAGS_SELF
        let m = message(5, Some(BridgeFlag::LowerDev), vid(7), vid(7), flags(false, false));
        let text = bytes(&m);
        assert_eq!(text[20..28], [6, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(text[28..], [8, 0, 2, 0, 0, 0, 7, 0]);
    }

    fn answer(index: u8, entries: &[[u8; 8]]) -> RouteNetlinkMessage {
        let mut raw = expected(entries);
        raw[4] = index;
        // 16 is RTM_NEWLINK.
        RouteNetlinkMessage::parse_with_param(&raw[..], 16).unwrap()
    }

    #[test]
    fn ranges_are_expanded_and_other_ports_left_out() {
        let port = || answer(5, &[[8, 0, 2, 0, 6, 0, 1, 0], [8, 0, 2, 0, 8, 0, 10, 0], [8, 0, 2, 0, 16, 0, 12, 0]]);
        let found = vlans(port(), 5);
        assert_eq!(found[0], PortVlan { vid: vid(1), pvid: true, untagged: true });
        let tagged: Vec<_> = found[1..].iter().map(|v| (v.vid.get(), v.pvid, v.untagged)).collect();
        assert_eq!(tagged, [(10, false, false), (11, false, false), (12, false, false)]);
        assert_eq!(vlans(port(), 6), []);
        // An end without its begin, or a number that is no VLAN, is not believed.
        assert_eq!(vlans(answer(5, &[[8, 0, 2, 0, 16, 0, 12, 0]]), 5).len(), 1);
        assert_eq!(vlans(answer(5, &[[8, 0, 2, 0, 0, 0, 0xff, 0x0f]]), 5), []);
    }

    #[test]
    fn a_bridge_without_filtering_lists_what_it_has_or_nothing() {
        block_on(async {
            let b = Bench::new();
            b.host.create_bridge(&name("br0"), None, false).await.unwrap();
            let bridge = found(&b.host, "br0").await.index;
            let listed = b.host.vlans(bridge).await.unwrap();
            assert!(listed.iter().all(|v| v.vid == vid(1)), "{listed:?}");
            let e = b.host.add_vlan(99, vid(10), vid(10), false, false).await.unwrap_err();
            assert!(e.gone() && e.to_string().contains("VLAN 10 of link 99"), "{e}");
        });
    }
}
