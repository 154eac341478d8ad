//! What a guest is given just now, out of its entry in the journal, the lease that its address rests on, and what its
//! machine's owner has set. Pure: times come in.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnetwork::{IpNetwork, Ipv4Network};
use serde::{Deserialize, Serialize};

use crate::attach::{Guest, SERVER_ID, Served, Terms};
use crate::cni;
use crate::ipam::dhcp::server::{DhcpOptions, Gift};
use crate::ipam::dhcp::{Job, Lease, Route};
use crate::store::LeaseRecord;

/// Of an address that is the guest's as long as it lives.
const DAY: u32 = 86_400;

/// What the VirtualMachineInstance says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wanted {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    pub options: DhcpOptions,
}

/// `now`: the boot clock. None: the guest has no address now.
pub fn gift(served: &Served, wanted: &Wanted, now: Duration) -> Option<Gift> {
    let guest = &served.guest;
    let mut lease = match &served.terms {
        Terms::Given => given(guest)?,
        Terms::Lease(record) => rest(record, now)?,
        Terms::NoLease => return None,
    };
    let link_mtu = u16::try_from(guest.mtu.get()).unwrap_or(u16::MAX);
    lease.mtu = Some(lease.mtu.map_or(link_mtu, |mtu| mtu.min(link_mtu)));
    lease.hostname = lease.hostname.or_else(|| wanted.hostname.clone()).or_else(|| guest.hostname.clone());
    lease.server = SERVER_ID;
    Some(Gift { hardware: guest.mac, lease, options: wanted.options.clone(), link_mtu })
}

fn given(guest: &Guest) -> Option<Lease> {
    let given = &guest.given;
    let net = given.addresses.first()?;
    let v4 = |text: &String| text.parse::<Ipv4Addr>().ok();
    let lease = Lease {
        address: net.ip(),
        prefix: net.prefix(),
        mask_given: true,
        server: SERVER_ID,
        // The default route's, if there is one: a gateway alone is none to a guest, as it is none to a pod.
        routers: vec![],
        routes: given.routes.iter().filter_map(route).collect(),
        dns: given.dns.nameservers.iter().filter_map(v4).collect(),
        domain: given.dns.domain.clone(),
        search: given.dns.search.clone(),
        mtu: None,
        hostname: None,
        seconds: 0,
        t1: 0,
        t2: 0,
    };
    Some(lease.for_seconds(DAY))
}

fn route(route: &cni::Route) -> Option<Route> {
    let IpNetwork::V4(dst) = route.dst else { return None };
    let gw = match route.gw {
        Some(IpAddr::V4(gw)) => Some(gw),
        Some(IpAddr::V6(_)) => return None,
        None => None,
    };
    Some(Route { dst: Ipv4Network::new(dst.network(), dst.prefix()).ok()?, gw })
}

/// What is left of a lease that is held. The guest never has it longer than we do.
fn rest(record: &LeaseRecord<Job>, now: Duration) -> Option<Lease> {
    let lease = record.job.held()?.clone();
    if lease.seconds == Lease::FOR_EVER {
        return Some(lease);
    }
    let age = now.saturating_sub(Duration::from_millis(record.got_at));
    // A part of a second has run as well.
    let age = u32::try_from(age.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
    let left = lease.seconds.saturating_sub(age);
    (left > 0).then(|| lease.for_seconds(left))
}

/// For people.
pub fn words(network: &str, gift: &Gift) -> String {
    let lease = &gift.lease;
    let list = |all: &[Ipv4Addr]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let mut text = format!("{network}: {}/{}", lease.address, lease.prefix);
    let default = lease.routes.iter().find(|r| r.dst.prefix() == 0).and_then(|r| r.gw);
    if let Some(router) = default {
        text.push_str(&format!(" by {router}"));
    }
    if !lease.dns.is_empty() {
        text.push_str(&format!(", DNS {}", list(&lease.dns)));
    }
    if let Some(mtu) = lease.mtu {
        text.push_str(&format!(", MTU {mtu}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::testing::{leased, served};
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_the_wires_add_told() {
        let served = served();
        let gift = gift(&served, &Wanted::default(), s(5)).unwrap();
        let l = &gift.lease;
        assert_eq!((l.address, l.prefix, l.server), (Ipv4Addr::new(192, 0, 2, 10), 24, SERVER_ID));
        assert_eq!((l.seconds, l.t1, l.t2), (86_400, 43_200, 75_600));
        assert_eq!(
            (l.dns.as_slice(), l.mtu, l.hostname.as_deref()),
            (&[Ipv4Addr::new(192, 0, 2, 53)][..], Some(1400), Some("testvm"))
        );
        assert_eq!(l.routes.len(), 2, "none of IPv6: {:?}", l.routes);
        assert_eq!((gift.link_mtu, gift.hardware), (1400, served.guest.mac));
        assert_eq!(words("lan", &gift), "lan: 192.0.2.10/24 by 192.0.2.1, DNS 192.0.2.53, MTU 1400");
    }

    #[test]
    fn nothing_without_an_address_or_its_lease() {
        let mut none = served();
        none.guest.given.addresses.clear();
        assert_eq!(gift(&none, &Wanted::default(), s(5)), None);
        let lost = Served { terms: Terms::NoLease, ..served() };
        assert_eq!(gift(&lost, &Wanted::default(), s(5)), None);
    }

    #[test]
    fn never_longer_than_the_lease_that_we_hold() {
        // Got when the boot clock was at 100 s, for an hour.
        let served = leased(3600, s(100));
        let at = |now| gift(&served, &Wanted::default(), now).map(|g| (g.lease.seconds, g.lease.t1, g.lease.t2));
        assert_eq!(at(s(100)), Some((3600, 1800, 3150)));
        assert_eq!(at(s(1100)), Some((2600, 1300, 2275)));
        assert_eq!(at(s(3699)), Some((1, 0, 0)));
        assert_eq!(at(Duration::from_millis(3_699_001)), None);
        assert_eq!(at(s(50)), Some((3600, 1800, 3150)), "by a clock that is not this one");
        let forever = leased(Lease::FOR_EVER, s(100));
        let g = gift(&forever, &Wanted::default(), s(1 << 34)).unwrap();
        assert_eq!(g.lease.seconds, Lease::FOR_EVER);
    }

    #[test]
    fn the_leases_own_word_comes_first() {
        let mut served = leased(3600, s(0));
        let wanted = Wanted { hostname: Some("db".into()), ..Wanted::default() };
        let g = gift(&served, &wanted, s(1)).unwrap();
        assert_eq!((g.lease.address, g.lease.hostname.as_deref()), (Ipv4Addr::new(198, 51, 100, 10), Some("db")));
        assert_eq!(g.lease.mtu, Some(1300), "the server's, as it is smaller than the link's");
        let Terms::Lease(record) = &mut served.terms else { panic!() };
        let crate::ipam::dhcp::Step::Renew(lease) = &mut record.job.step else { panic!() };
        (lease.hostname, lease.mtu) = (Some("by-the-server".into()), Some(9000));
        let g = gift(&served, &wanted, s(1)).unwrap();
        assert_eq!((g.lease.hostname.as_deref(), g.lease.mtu), (Some("by-the-server"), Some(1400)));
    }
}
