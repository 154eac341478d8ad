//! Neighbours that a link has learnt (ARP and ND).

use std::net::IpAddr;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{self as packet, NeighbourAddress, NeighbourAttribute, NeighbourMessage};

use super::netlink::Ask;
use super::{NetResult, Netlink};
use crate::types::Mac;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    pub ip: IpAddr,
    pub mac: Option<Mac>,
    pub state: NeighbourState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighbourState {
    Incomplete,
    Reachable,
    Stale,
    Delay,
    Probe,
    Failed,
    NoArp,
    Permanent,
    None,
}

impl Netlink {
    pub async fn neighbours(&self, index: u32) -> NetResult<Vec<Neighbour>> {
        let mut query = NeighbourMessage::default();
        query.attributes.push(NeighbourAttribute::IfIndex(index));
        let ask = Ask::new("list neighbours", format!("of link {index}"));
        let found = self.dump(ask, RouteNetlinkMessage::GetNeighbour(query)).await?;
        Ok(found.into_iter().filter_map(|m| neighbour(m, index)).collect())
    }
}

fn neighbour(m: RouteNetlinkMessage, index: u32) -> Option<Neighbour> {
    let RouteNetlinkMessage::NewNeighbour(m) = m else { return None };
    if m.header.ifindex != index {
        return None;
    }
    let (mut ip, mut mac) = (None, None);
    for a in m.attributes {
        match a {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => ip = Some(IpAddr::from(a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => ip = Some(IpAddr::from(a)),
            NeighbourAttribute::LinkLayerAddress(a) => mac = <[u8; 6]>::try_from(a).ok().map(Mac::new),
            _ => {}
        }
    }
    let state = match m.header.state {
        packet::NeighbourState::Incomplete => NeighbourState::Incomplete,
        packet::NeighbourState::Reachable => NeighbourState::Reachable,
        packet::NeighbourState::Stale => NeighbourState::Stale,
        packet::NeighbourState::Delay => NeighbourState::Delay,
        packet::NeighbourState::Probe => NeighbourState::Probe,
        packet::NeighbourState::Failed => NeighbourState::Failed,
        packet::NeighbourState::Noarp => NeighbourState::NoArp,
        packet::NeighbourState::Permanent => NeighbourState::Permanent,
        _ => NeighbourState::None,
    };
    Some(Neighbour { ip: ip?, mac, state })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::net::NewAddress;
    use crate::net::testing::{Bench, block_on};

    #[test]
    fn a_neighbour_that_answered_is_listed_with_its_mac() {
        block_on(async {
            let b = Bench::new();
            let (host, pod) = b.pair().await;
            for (net, index, address) in [(&b.host, host.index, "10.1.0.1/24"), (&b.pod, pod.index, "10.1.0.2/24")] {
                let net_of = address.parse().unwrap();
                let a = NewAddress { net: net_of, broadcast: None, nodad: true, routeless: false, valid_seconds: None };
                net.add_address(index, &a).await.unwrap();
            }
            let sent = b.host_ns.enter(|| UdpSocket::bind("10.1.0.1:0").and_then(|s| s.send_to(b"who", "10.1.0.2:9")));
            sent.unwrap().unwrap();
            let of_pod = |n: &Neighbour| n.ip == IpAddr::from([10, 1, 0, 2]) && n.mac == pod.mac;
            let mut attempts = 0..100;
            while !b.host.neighbours(host.index).await.unwrap().iter().any(of_pod) {
                assert!(attempts.next().is_some(), "no answer within a second");
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            let lo = b.host.link("lo").await.unwrap().unwrap().index;
            assert!(!b.host.neighbours(lo).await.unwrap().iter().any(of_pod));
        });
    }
}
