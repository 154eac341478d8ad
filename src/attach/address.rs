//! Addresses, routes and settings of the pod's end. It goes up here, as the last thing that is done to it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;

use crate::cni::{self, IpConfig};
use crate::failpoint::hit;
use crate::ipam::Lease;
use crate::net::{Address, Family, LinkChange, NetResult, Netlink, NewAddress, Route, Settings};
use crate::plan::Form;
use crate::types::{Code, Failure, IfName, Mtu, Outcome};

/// How long duplicate address detection may take before routes over IPv6 are set.
const SETTLE: Duration = Duration::from_secs(5);

/// The pod's end of a wire.
pub struct Target<'a> {
    pub settings: &'a Settings,
    pub links: &'a Netlink,
    pub index: u32,
    pub ifname: &'a IfName,
}

/// Returns the routes as they belong into the result.
pub async fn configure(target: &Target<'_>, form: Form, lease: &Lease, up: bool) -> Outcome<Vec<cni::Route>> {
    let any_v6 = lease.ips.iter().any(|ip| ip.address.is_ipv6());
    let settings = settings(form, !lease.ips.is_empty(), any_v6);
    apply(target.settings, target.ifname.as_str(), &settings)?;
    for ip in &lease.ips {
        let address = NewAddress { valid_seconds: lease.valid, ..address(ip, form) };
        target.links.add_address(target.index, &address).await?;
        hit("address");
    }
    if form != Form::Vm {
        narrow(target, lease).await?;
    }
    if !up {
        return Ok(lease.routes.clone());
    }
    target.links.set_link(target.index, &LinkChange { up: Some(true), ..LinkChange::default() }).await?;
    hit("pod up");
    if form == Form::Vm {
        for ip in &lease.ips {
            target.links.add_route(&shown_route(ip.address, target.index)).await?;
            hit("route for KubeVirt");
        }
        // They are the guest's: in the pod they could only lead its packets astray.
        return Ok(lease.routes.clone());
    }
    if lease.ips.iter().any(|ip| ip.gateway.is_some_and(|g| g.is_ipv6())) {
        settle(target, lease).await?;
    }
    set_routes(target, form, lease).await
}

/// What the LAN's DHCP server says of packets' size holds for the pod's end, where it is smaller. A guest hears it itself.
async fn narrow(target: &Target<'_>, lease: &Lease) -> Outcome<()> {
    let Some(mtu) = lease.mtu.and_then(|mtu| Mtu::try_from(i64::from(mtu)).ok()) else { return Ok(()) };
    let Some(link) = target.links.link_at(target.index).await?.filter(|link| mtu.get() < link.mtu) else {
        return Ok(());
    };
    target.links.set_link(target.index, &LinkChange { mtu: Some(mtu), ..LinkChange::default() }).await?;
    hit("mtu");
    tracing::info!(link = %target.ifname, before = link.mtu, "the DHCP server gives an MTU of {mtu}");
    Ok(())
}

/// The MTU of the pod's end then.
pub fn narrowed(mtu: u32, lease: &Lease, form: Form) -> u32 {
    lease.mtu.filter(|_| form != Form::Vm).map_or(mtu, |m| mtu.min(m.into()))
}

/// Sets the link up before it has an address, so that one can be asked for over it.
pub async fn wake(target: &Target<'_>, form: Form) -> Outcome<()> {
    apply(target.settings, target.ifname.as_str(), &settings(form, true, false))?;
    target.links.set_link(target.index, &LinkChange { up: Some(true), ..LinkChange::default() }).await?;
    hit("pod up");
    Ok(())
}

/// One sysctl of a link; `link` is absent where it is the pod's end itself.
struct Setting {
    family: Family,
    link: Option<&'static str>,
    knob: &'static str,
    value: &'static str,
}

const fn v4(knob: &'static str, value: &'static str) -> Setting {
    Setting { family: Family::V4, link: None, knob, value }
}

const fn v6(knob: &'static str, value: &'static str) -> Setting {
    Setting { family: Family::V6, link: None, knob, value }
}

fn settings(form: Form, with_ipam: bool, any_v6: bool) -> Vec<Setting> {
    let mut list = match form {
        // Silent since it was made, see [`fall_silent`].
        Form::Vm => return Vec::new(),
        Form::Lan { accept_ra } => {
            let mut list = vec![v4("arp_notify", "1"), v6("accept_ra_defrtr", if accept_ra { "1" } else { "0" })];
            if accept_ra {
                // 2: also where the pod forwards.
                list.push(v6("accept_ra", "2"));
            }
            list
        }
        Form::ReferenceBridge { enable_dad } if with_ipam => {
            let mut list = vec![v4("arp_notify", "1"), v6("accept_dad", if enable_dad { "1" } else { "0" })];
            if enable_dad {
                list.push(v6("enhanced_dad", "1"));
            }
            list
        }
        Form::ReferenceMacvlan if with_ipam => vec![v4("arp_notify", "1"), v6("ndisc_notify", "1")],
        Form::ReferenceBridge { .. } | Form::ReferenceMacvlan => Vec::new(),
    };
    if any_v6 {
        list.push(Setting { link: Some("lo"), ..v6("disable_ipv6", "0") });
        list.push(v6("disable_ipv6", "0"));
        list.push(v6("keep_addr_on_down", "1"));
        if let Form::Lan { .. } = form {
            // Set without asking (see `address`), so the neighbours are told.
            list.push(v6("ndisc_notify", "1"));
        }
    }
    list
}

/// No frame of the pod's own stack leaves by such a link: no IPv6 at all, no ARP of its own, no answer to ARP.
fn silence() -> Vec<Setting> {
    vec![v6("disable_ipv6", "1"), v4("arp_notify", "0"), v4("arp_ignore", "8")]
}

/// A kernel without IPv6 has no knobs for it, and needs none.
fn apply(settings: &Settings, link: &str, list: &[Setting]) -> NetResult<()> {
    for s in list {
        settings.write(s.family, s.link.unwrap_or(link), s.knob, s.value)?;
    }
    Ok(())
}

/// Makes the pod's own stack fall silent on a link. Each of these settings would otherwise send a frame with the guest's
/// MAC: on the target of a migration the LAN's switches would then believe the guest to be here already.
pub fn fall_silent(settings: &Settings, link: &str) -> NetResult<()> {
    apply(settings, link, &silence())
}

fn address(ip: &IpConfig, form: Form) -> NewAddress {
    let nodad = matches!(form, Form::Lan { .. }) && ip.address.is_ipv6();
    // What the pod itself sends into a machine's subnet would leave with the machine's MAC.
    let routeless = form == Form::Vm;
    NewAddress { net: ip.address, broadcast: broadcast(ip.address), nodad, routeless, valid_seconds: None }
}

/// None where the subnet has no broadcast address (RFC 3021).
pub fn broadcast(net: IpNetwork) -> Option<Ipv4Addr> {
    match net {
        IpNetwork::V4(n) if n.prefix() <= 30 => Some(n.broadcast()),
        _ => None,
    }
}

/// Waits until no IPv6 address that was given is tentative any more: a route over one would be refused. The link-local
/// one, which the kernel makes, takes its time, and nobody is told of it.
async fn settle(target: &Target<'_>, lease: &Lease) -> Outcome<()> {
    let (start, mut pause) = (Instant::now(), Duration::from_millis(1));
    while !settled(target.ifname, &target.links.addresses(target.index).await?, lease)? && start.elapsed() <= SETTLE {
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    Ok(())
}

/// An error where somebody has one of the addresses already.
fn settled(ifname: &IfName, there: &[Address], lease: &Lease) -> Outcome<bool> {
    let given = |a: &&Address| a.net.is_ipv6() && lease.ips.iter().any(|ip| ip.address.ip() == a.net.ip());
    if let Some(a) = there.iter().filter(given).find(|a| a.dadfailed) {
        let msg = format!("{ifname}: somebody on the network has the address {} already", a.net.ip());
        return Err(Failure::new(Code::AddressInUse, msg).remedy("use another address"));
    }
    Ok(!there.iter().filter(given).any(|a| a.tentative))
}

async fn set_routes(target: &Target<'_>, form: Form, lease: &Lease) -> Outcome<Vec<cni::Route>> {
    let mut set = Vec::with_capacity(lease.routes.len());
    for route in &lease.routes {
        let v6 = route.dst.is_ipv6();
        if matches!(form, Form::Lan { .. })
            && route.dst.prefix() == 0
            && is_main(route.table)
            && has_default(target, v6).await?
        {
            tracing::info!(interface = %target.ifname, "the pod has a default route already: {} is not set", route.dst);
            continue;
        }
        let gateway = route.gw.or_else(|| lease.ips.iter().filter_map(|ip| ip.gateway).find(|g| g.is_ipv6() == v6));
        target.links.add_route(&kernel_route(route, gateway, target.index)).await?;
        hit("route");
        set.push(route.clone());
    }
    Ok(set)
}

async fn has_default(target: &Target<'_>, v6: bool) -> NetResult<bool> {
    let routes = target.links.routes(v6).await?;
    Ok(routes.iter().any(|r| r.dst.prefix() == 0 && is_main(r.table) && r.link != target.index))
}

/// RT_TABLE_MAIN.
fn is_main(table: Option<u32>) -> bool {
    matches!(table, None | Some(254))
}

pub fn kernel_route(route: &cni::Route, gateway: Option<IpAddr>, link: u32) -> Route {
    Route {
        // A route's destination has no host bits; a configuration may have some.
        dst: network(route.dst),
        gateway,
        link,
        table: route.table,
        priority: route.priority,
        scope: route.scope,
        source: None,
        tos: 0,
        mtu: route.mtu,
        advmss: route.advmss,
        kernel: false,
    }
}

/// A route that is there to be seen, and that no packet takes. KubeVirt's `bridge: {}` refuses a link that has an address
/// and no IPv4 route in the main table ("no gateway address found in routes", its `setup/netpod/discoverbridge.go`); one
/// to the address' own subnet it does not pass on to the guest. A route with a type of service takes packets of that type
/// alone; nobody sends this one, and Linux (seen with 6.18) masks all but three bits of a packet's before it compares.
/// It goes with its source address.
fn shown_route(address: IpNetwork, link: u32) -> Route {
    const NOBODYS: u8 = 0xf8;
    // RT_SCOPE_LINK.
    let (scope, source) = (Some(253), Some(address.ip()));
    Route {
        dst: network(address),
        gateway: None,
        link,
        table: None,
        priority: None,
        scope,
        source,
        tos: NOBODYS,
        mtu: None,
        advmss: None,
        kernel: false,
    }
}

/// An address with its host bits cleared.
pub fn network(net: IpNetwork) -> IpNetwork {
    IpNetwork::new(net.network(), net.prefix()).unwrap_or(net)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_given_is_waited_for() {
        let address = |net: &str, tentative, dadfailed| {
            let net: IpNetwork = net.parse().unwrap();
            let link_local = net.to_string().starts_with("fe80");
            Address { net, broadcast: None, tentative, dadfailed, link_local }
        };
        let given = |net: &str| IpConfig { interface: None, address: net.parse().unwrap(), gateway: None };
        let lease = Lease { ips: vec![given("10.1.2.3/24"), given("2001:db8::3/64")], ..Lease::default() };
        let ifname: IfName = "net1".parse().unwrap();
        let slow = [address("fe80::1/64", true, true), address("2001:db8:1::5/64", true, false)];
        let settled = |one: Address| settled(&ifname, &[slow.as_slice(), &[one]].concat(), &lease);
        assert_eq!(settled(address("2001:db8::3/64", false, false)), Ok(true));
        assert_eq!(settled(address("2001:db8::3/64", true, false)), Ok(false));
        let failure = settled(address("2001:db8::3/64", true, true)).unwrap_err();
        assert_eq!((failure.code, failure.msg.contains("2001:db8::3")), (Code::AddressInUse, true), "{failure}");
    }
}
