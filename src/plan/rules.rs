//! The rule of the house: bridge where the node has it, macvlan for plain pods where it has not, and never macvlan for
//! a virtual machine.

use ipnetwork::{IpNetwork, Ipv4Network};
use sha2::{Digest, Sha256};

use super::allow::{Allow, AllowList, allowed};
use super::conf::{Attachment, BindConf};
use super::dropin::{BridgeConf, MacvlanConf};
use super::uplink::{Carried, carried, vlan_add};
use super::{
    Asker, BindPlan, BridgeWire, Form, Gateway, MacvlanWire, MakeBridge, Masquerade, NodeFacts, Plan, PortVlans, Use,
    Verify, derived_mac, hex, network_hash,
};
use crate::net::{Link, LinkKind};
use crate::types::{Code, Failure, IfName, Mac, Mtu, Outcome, VlanId, nearest};

/// An attachment of `type: trestle`.
pub fn trestle(asker: &Asker<'_>, conf: &Attachment, facts: &NodeFacts) -> Outcome<Plan> {
    let what = asker.facts.what_for(asker.ifname, false);
    // Only an administrator can make a network the cluster's default one; no pod asked for it.
    let bound = asker.is_bound(asker.facts.is_cluster_default(asker.ifname) != Some(true));
    let Some(bridge) = &conf.bridge else {
        if what.is_vm() {
            return Err(macvlan_for_vm(asker, facts));
        }
        return lan_macvlan(asker, conf, facts, bound, None).map(Plan::Macvlan);
    };
    if bound {
        may_have_bridge(asker, bridge.as_str(), facts.bridge.as_ref(), &facts.allow.bridges)?;
    }
    match &facts.bridge {
        Some(link) => lan_bridge(asker, conf, &what, facts, bridge, link).map(Plan::Bridge),
        None if !what.is_vm() && conf.master.is_some() => {
            let why = format!("no bridge {bridge} on {}", facts.node);
            lan_macvlan(asker, conf, facts, bound, Some(why)).map(Plan::Macvlan)
        }
        None => Err(bridge_missing(asker, bridge, facts)),
    }
}

fn lan_bridge(
    asker: &Asker<'_>,
    conf: &Attachment,
    what: &Use,
    facts: &NodeFacts,
    name: &IfName,
    link: &Link,
) -> Outcome<BridgeWire> {
    let on = |what: String| format!("network {}: {what}", asker.network);
    let LinkKind::Bridge { vlan_filtering } = link.kind else {
        return Err(Failure::new(Code::NotABridge, on(format!("{name} on {} is not a bridge", facts.node)))
            .remedy(bridges(asker, facts)));
    };
    if !link.up {
        return Err(Failure::new(Code::BridgeDown, on(format!("bridge {name} on {} is down", facts.node)))
            .remedy(format!("ip link set {name} up")));
    }
    let bridge_mtu = link_mtu(link)?;
    let vlan = PortVlans { native: conf.vlan, tagged: conf.trunk.clone(), keep_default: conf.preserve_default_vlan };
    if vlan.any() {
        check_vlans(asker, &vlan, vlan_filtering, name, facts)?;
    }
    if conf.macspoofchk && conf.mac.is_none() && what.is_vm() && machine(asker, what).is_none() {
        return Err(guard_without_mac(asker));
    }
    Ok(BridgeWire {
        bridge: name.clone(),
        make: None,
        host: host_end(asker)?,
        host_mac: Some(Mac::high(facts.random[1])),
        host_mtu: Some(bridge_mtu),
        pod_mac: Some(pod_mac(asker, conf.mac, what, facts)),
        pod_mtu: Some(smaller(asker, conf.mtu, bridge_mtu, ("bridge", name))?),
        hairpin: conf.hairpin,
        isolated: conf.port_isolation,
        vlan,
        macspoofchk: conf.macspoofchk,
        form: if what.is_vm() { Form::Vm } else { Form::Lan { accept_ra: conf.accept_ra } },
        gateway: None,
        masquerade: Masquerade::Off,
        leave_down: false,
        alias: asker.alias(),
        verify: Verify::Wire,
    })
}

fn check_vlans(
    asker: &Asker<'_>,
    vlan: &PortVlans,
    filtering: bool,
    bridge: &IfName,
    facts: &NodeFacts,
) -> Outcome<()> {
    let on = |what: String| format!("network {}: {what}", asker.network);
    if !filtering {
        return Err(Failure::new(
            Code::VlanFiltering,
            on(format!("bridge {bridge} on {} does not filter VLANs: vlan would be ignored", facts.node)),
        )
        .remedy(format!(
            "ip link set {bridge} type bridge vlan_filtering 1, or take vlan and vlanTrunk out of the network"
        )));
    }
    match carried(&facts.ports, vlan.native.iter().chain(&vlan.tagged).copied()) {
        Carried::Yes => {
            if !facts.ports.iter().any(|p| p.is_uplink() && p.link.lower_up) {
                tracing::warn!(%bridge, "no uplink of the bridge has a carrier: its VLANs reach nobody outside for now");
            }
            Ok(())
        }
        Carried::NoUplink => {
            tracing::warn!(%bridge, "the bridge has no uplink: its VLANs do not leave this node");
            Ok(())
        }
        Carried::Missing { vids, uplink } => {
            let list = vids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Err(Failure::new(
                Code::VlanUplink,
                on(format!("no uplink of bridge {bridge} on {} carries VLAN {list}", facts.node)),
            )
            .remedy(vlan_add(&uplink, &vids)))
        }
    }
}

fn lan_macvlan(
    asker: &Asker<'_>,
    conf: &Attachment,
    facts: &NodeFacts,
    bound: bool,
    fallback: Option<String>,
) -> Outcome<MacvlanWire> {
    let Some(name) = &conf.master else { return Err(Failure::new(Code::Config, "neither bridge nor master")) };
    if bound {
        may_have_master(asker, name.as_str(), facts.master.as_ref(), facts.master_lower.as_ref(), &facts.allow)?;
    }
    let only_bridge = [
        ("vlan", conf.vlan.is_some()),
        ("vlanTrunk", !conf.trunk.is_empty()),
        ("preserveDefaultVlan", conf.preserve_default_vlan),
        ("portIsolation", conf.port_isolation),
        ("hairpinMode", conf.hairpin),
        ("macspoofchk", conf.macspoofchk),
    ];
    if let Some((key, _)) = only_bridge.iter().find(|(_, set)| *set) {
        let why = fallback.unwrap_or_else(|| "the network names no bridge".into());
        return Err(Failure::new(
            Code::NotWithMacvlan,
            format!("network {}: {key} cannot be had with macvlan, and {why}", asker.network),
        )
        .remedy(match &conf.bridge {
            Some(b) => {
                format!(
                    "make bridge {b} on {}, or take {key} out of the network; {}",
                    facts.node,
                    bridges(asker, facts)
                )
            }
            None => format!("set bridge, or take {key} out of the network"),
        }));
    }
    let link = usable_master(asker, name, facts)?;
    Ok(MacvlanWire {
        master: name.clone(),
        master_index: real_master(link),
        in_container: false,
        mode: conf.mode,
        mtu: Some(smaller(asker, conf.mtu, link_mtu(link)?, ("master", name))?),
        mac: Some(conf.mac.unwrap_or_else(|| Mac::local(facts.random[0]))),
        bc_queue_len: None,
        form: Form::Lan { accept_ra: conf.accept_ra },
        fallback,
    })
}

fn usable_master<'a>(asker: &Asker<'_>, name: &IfName, facts: &'a NodeFacts) -> Outcome<&'a Link> {
    let on = |what: String| format!("network {}: {what}", asker.network);
    let Some(link) = &facts.master else {
        let links: Vec<&str> = facts.links.iter().map(|l| l.name.as_str()).filter(|n| *n != "lo").collect();
        let failure = Failure::new(
            Code::MasterMissing,
            on(format!("no interface {name} on {}; there are: {}", facts.node, list(&links))),
        );
        return Err(match nearest(name.as_str(), links.iter().copied()) {
            Some(n) => failure.remedy(format!("did you mean {n}?")),
            None => failure.remedy("correct master"),
        });
    };
    no_loopback(asker, link, facts)?;
    if let Some(bridge) = &facts.master_of {
        return Err(Failure::new(
            Code::MasterBusy,
            on(format!(
                "{name} on {} is a port of bridge {bridge}: the kernel allows no macvlan on it (EBUSY)",
                facts.node
            )),
        )
        .remedy(format!("set bridge to {bridge}")));
    }
    if !link.up {
        return Err(Failure::new(Code::MasterDown, on(format!("master {name} on {} is down", facts.node)))
            .remedy(format!("ip link set {name} up")));
    }
    Ok(link)
}

/// It is the one link whose address is all zeros.
fn no_loopback(asker: &Asker<'_>, link: &Link, facts: &NodeFacts) -> Outcome<()> {
    if link.mac.is_none_or(|mac| mac.bytes() != [0; 6]) {
        return Ok(());
    }
    let (network, name) = (asker.network, &link.name);
    let msg = format!("network {network}: master {name} on {} is the loopback, which carries no macvlan", facts.node);
    Err(Failure::new(Code::Config, msg).remedy("set master to an interface that leads somewhere"))
}

/// On a macvlan the kernel makes none but a sibling: on the link below it.
fn real_master(link: &Link) -> u32 {
    shared_lower(link).filter(|_| link.kind != LinkKind::Ipvlan).unwrap_or(link.index)
}

/// What a link upon this one would share with it.
pub fn shared_lower(link: &Link) -> Option<u32> {
    match (&link.kind, link.lower, link.lower_nsid) {
        (LinkKind::Macvlan { .. } | LinkKind::Ipvlan, Some(lower), None) => Some(lower),
        _ => None,
    }
}

/// The drop-in `bridge`. For a VM's pod it leaves the silent form, so that the NADs that people have gain from it.
pub fn bridge(asker: &Asker<'_>, conf: &BridgeConf, facts: &NodeFacts) -> Outcome<Plan> {
    let what = asker.facts.what_for(asker.ifname, true);
    if asker.is_bound(false) {
        may_have_bridge(asker, conf.bridge.as_str(), facts.bridge.as_ref(), &facts.allow.bridges)?;
    }
    if facts.bridge.as_ref().is_some_and(|l| !matches!(l.kind, LinkKind::Bridge { .. })) {
        return Err(Failure::new(
            Code::NotABridge,
            format!("network {}: {} on {} is not a bridge", asker.network, conf.bridge, facts.node),
        )
        .remedy("name a bridge"));
    }
    // A trunk alone keeps VLAN 1 as the native one, as configurations older than `vlan` beside it expect.
    let native = conf.vlan.or_else(|| conf.trunk.first().map(|_| VlanId::ONE));
    let vm = what.is_vm();
    Ok(Plan::Bridge(BridgeWire {
        bridge: conf.bridge.clone(),
        make: Some(MakeBridge { mtu: conf.mtu, vlan_filtering: conf.filtering, promisc: conf.promisc }),
        host: drop_in_host_end(asker)?,
        host_mac: vm.then(|| Mac::high(facts.random[1])),
        host_mtu: conf.mtu,
        pod_mac: Some(pod_mac(asker, conf.mac, &what, facts)),
        pod_mtu: conf.mtu,
        hairpin: conf.hairpin,
        isolated: conf.port_isolation,
        vlan: PortVlans { native, tagged: conf.trunk.clone(), keep_default: conf.preserve_default_vlan },
        macspoofchk: conf.macspoofchk,
        form: if vm { Form::Vm } else { Form::ReferenceBridge { enable_dad: conf.enable_dad } },
        gateway: conf.gateway.then_some(Gateway {
            default_route: conf.default_gateway,
            force_address: conf.force_address,
            vlan: conf.vlan,
        }),
        masquerade: conf.masquerade.clone(),
        leave_down: conf.leave_down,
        alias: asker.alias(),
        verify: if conf.leave_down { Verify::Nothing } else { Verify::Port },
    }))
}

/// The drop-in `macvlan`. `facts.master` is the link that `master` names, or that of the default route.
pub fn macvlan(asker: &Asker<'_>, conf: &MacvlanConf, facts: &NodeFacts) -> Outcome<Plan> {
    if asker.facts.what_for(asker.ifname, true).is_vm() {
        return Err(macvlan_for_vm(asker, facts));
    }
    // What is in the pod's own namespace is the pod's.
    if asker.is_bound(false) && !conf.in_container {
        let named = conf.master.as_ref().map(IfName::as_str).or(facts.master.as_ref().map(|l| l.name.as_str()));
        let (master, lower) = (facts.master.as_ref(), facts.master_lower.as_ref());
        named.map_or(Ok(()), |n| may_have_master(asker, n, master, lower, &facts.allow))?;
    }
    let Some(link) = &facts.master else {
        return Err(match &conf.master {
            Some(m) => Failure::new(
                Code::MasterMissing,
                format!("network {}: no interface {m} on {}", asker.network, facts.node),
            )
            .remedy("correct master"),
            None => Failure::new(
                Code::MasterMissing,
                format!("network {}: no master, and no default route to take its link", asker.network),
            )
            .remedy("set master"),
        });
    };
    no_loopback(asker, link, facts)?;
    let name: IfName = link.name.parse().map_err(|e| super::conf::config("master", e))?;
    if conf.mtu.is_some_and(|m| m.get() > link.mtu) {
        smaller(asker, conf.mtu, link_mtu(link)?, ("master", &name))?;
    }
    Ok(Plan::Macvlan(MacvlanWire {
        master_index: real_master(link),
        in_container: conf.in_container,
        mode: conf.mode,
        mtu: conf.mtu,
        mac: conf.mac,
        bc_queue_len: conf.bc_queue_len,
        form: Form::ReferenceMacvlan,
        fallback: None,
        master: name,
    }))
}

/// Where the bind step may find the link that a VM's network has in the pod.
#[derive(Debug, Clone, Default)]
pub struct BindFacts {
    /// The link called `pod<H>`.
    pub by_name: Option<Link>,
    /// The link that the journal has for `pod<H>`, whatever it is called now.
    pub by_journal: Option<Link>,
    /// `eth0`, and whether the journal knows it as a wire of ours.
    pub primary: Option<(Link, bool)>,
}

pub fn bind(asker: &Asker<'_>, conf: &BindConf, facts: &BindFacts) -> Outcome<BindPlan> {
    let hash = network_hash(&conf.network);
    let network = &conf.network;
    // Where the network has, or is to have, a link of its own, the pod's own would be taken from the pod.
    let primary = facts.primary.as_ref().filter(|_| asker.facts.may_be_pods_own(network));
    let (link, tap) = match (&facts.by_name, &facts.by_journal, primary) {
        (Some(link), ..) | (None, Some(link), _) => (link, format!("tap{hash}")),
        (None, None, Some((link, true))) => (link, "tap0".to_owned()),
        (None, None, Some((link, false))) => {
            return Err(Failure::new(
                Code::ForeignPrimary,
                format!("network {network}: {} has no link pod{hash}, and its primary link {} is not trestle's", asker.who(), link.name),
            )
            .remedy("for the pod's own network use KubeVirt's masquerade or managedTap binding; for another one let the VM's network name a NAD that is attached first"));
        }
        (None, None, None) => {
            return Err(Failure::new(
                Code::BindLinkMissing,
                format!("network {network}: {} has no link pod{hash}", asker.who()),
            )
            .remedy("let the VM's network name a NAD; its attachment comes before the binding's, and logicNetworkName is the VM's name of the network"));
        }
    };
    let queues = asker.facts.queues(network)?.unwrap_or_else(|| {
        // With neither agent nor API server one queue is what KubeVirt asks for by default.
        tracing::info!(%network, "nobody tells the number of queues: the tap gets one");
        1
    });
    Ok(BindPlan {
        network: network.clone(),
        link: link.index,
        tap: tap.parse().map_err(|e| super::conf::config("logicNetworkName", e))?,
        mtu: link_mtu(link)?,
        multi_queue: queues > 1,
    })
}

/// Refuses IPv6 addresses for a VM's NIC: nothing could hand them to the guest yet.
pub fn vm_addresses(asker: &Asker<'_>, addresses: impl Iterator<Item = IpNetwork>) -> Outcome<()> {
    match addresses.into_iter().find(IpNetwork::is_ipv6) {
        None => Ok(()),
        Some(a) => {
            Err(Failure::new(Code::Ipv6ForVm, format!("{}: IPAM gave {a} for network {}", asker.who(), asker.network))
                .remedy("take the IPv6 range out of the NAD: guests get IPv6 by SLAAC, the LAN's DHCPv6 or cloud-init"))
        }
    }
}

/// Refuses what a guest could not be told: by DHCP it gets one address. KubeVirt's own `bridge: {}` takes the first and says
/// nothing of the others, so that is looked at only where the guest hears it from us.
pub fn guest_addresses(asker: &Asker<'_>, network: &str, addresses: &[Ipv4Network]) -> Outcome<()> {
    let [_, _, ..] = addresses else { return Ok(()) };
    let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let msg =
        format!("{}: IPAM gave {} for network {network}, and a guest gets one by DHCP", asker.who(), all.join(", "));
    Err(Failure::new(Code::SeveralForGuest, msg)
        .remedy("let IPAM give one address; whatever else the guest is to have, it sets itself (cloud-init)"))
}

/// asked > derived (VM) > random.
fn pod_mac(asker: &Asker<'_>, asked: Option<Mac>, what: &Use, facts: &NodeFacts) -> Mac {
    let random = Mac::local(facts.random[0]);
    match (asked, what) {
        (Some(mac), _) => mac,
        (None, Use::Pod) => random,
        (None, Use::Vm { .. }) => match machine(asker, what) {
            Some((namespace, vm)) => derived_mac(&facts.seed, namespace, vm, asker.ifname),
            None => {
                tracing::warn!(interface = %asker.ifname, "the machine's name is not known: its MAC address is random, and another one after a restart");
                random
            }
        },
    }
}

/// Namespace and name of the machine, where both are known.
fn machine<'a>(asker: &'a Asker<'_>, what: &'a Use) -> Option<(&'a str, &'a str)> {
    match what {
        Use::Vm { name: Some(vm) } => Some((asker.namespace()?, vm)),
        _ => None,
    }
}

/// What names of host's ends begin with, and how many digits follow: of `type: trestle`, of the drop-in `bridge`.
const HOST_ENDS: [(&str, usize); 2] = [("tr", 11), ("veth", 8)];

/// Host's end of the veth of `type: trestle`.
pub fn host_end(asker: &Asker<'_>) -> Outcome<IfName> {
    host_name(HOST_ENDS[0], asker)
}

/// Host's end of the drop-in `bridge`.
pub fn drop_in_host_end(asker: &Asker<'_>) -> Outcome<IfName> {
    host_name(HOST_ENDS[1], asker)
}

/// Whether a link by this name may be a host's end of ours. Others make such names, too.
pub fn may_be_host_end(name: &str) -> bool {
    HOST_ENDS.iter().any(|(prefix, digits)| {
        name.strip_prefix(prefix)
            .is_some_and(|rest| rest.len() == *digits && rest.bytes().all(|b| b.is_ascii_hexdigit()))
    })
}

/// Host's end of the veth: known before it is made, so that DEL finds it whatever happens.
fn host_name((prefix, digits): (&str, usize), asker: &Asker<'_>) -> Outcome<IfName> {
    let digest = Sha256::digest(format!("{}\0{}", asker.container, asker.ifname).as_bytes());
    format!("{prefix}{}", &hex(&digest)[..digits]).parse().map_err(|e| super::conf::config("CNI_CONTAINERID", e))
}

/// The loopback has one byte more than Ethernet can.
fn link_mtu(link: &Link) -> Outcome<Mtu> {
    Mtu::try_from(i64::from(link.mtu.min(65535)))
        .map_err(|e| Failure::new(Code::MtuTooLarge, format!("{}: {e}", link.name)))
}

fn smaller(asker: &Asker<'_>, asked: Option<Mtu>, own: Mtu, (what, name): (&str, &IfName)) -> Outcome<Mtu> {
    match asked {
        Some(m) if m > own => Err(Failure::new(
            Code::MtuTooLarge,
            format!("network {}: mtu: {m} is larger than {own} of {what} {name}", asker.network),
        )
        .remedy(format!("lower mtu, or raise that of {name} first"))),
        Some(m) => Ok(m),
        None => Ok(own),
    }
}

fn macvlan_for_vm(asker: &Asker<'_>, facts: &NodeFacts) -> Failure {
    Failure::new(
        Code::MacvlanForVm,
        format!(
            "network {}: macvlan cannot carry the virtual machine of {}: its parent drops frames to the guest's own MAC address",
            asker.network,
            asker.who()
        ),
    )
    .remedy(format!("use a bridge of the node in the NAD ({})", bridges(asker, facts)))
}

/// On the target of a migration the guest keeps its MAC address, and a guard for another one would cut it off.
fn guard_without_mac(asker: &Asker<'_>) -> Failure {
    let msg = format!(
        "network {}: macspoofchk for the virtual machine of {}, whose MAC address nobody knows: its name is too long to be read out of the pod's",
        asker.network,
        asker.who()
    );
    Failure::new(Code::GuardWithoutMac, msg)
        .remedy("give the interface a macAddress in the VM, or take macspoofchk out of the network")
}

fn bridge_missing(asker: &Asker<'_>, name: &IfName, facts: &NodeFacts) -> Failure {
    let names = bridge_names(asker, facts);
    let msg = format!("network {}: no bridge {name} on {}; bridges there: {}", asker.network, facts.node, list(&names));
    let failure = Failure::new(Code::BridgeMissing, msg);
    match nearest(name.as_str(), names.iter().copied()) {
        Some(n) => failure.remedy(format!("did you mean {n}? else make {name} on {}", facts.node)),
        None => failure.remedy(format!("make {name} on {}, or run the pod where it is", facts.node)),
    }
}

/// Before anybody learns whether it is there. `link` is what the name leads to: a link has other names besides its own,
/// and each leads to it.
pub(super) fn may_have_bridge(asker: &Asker<'_>, name: &str, link: Option<&Link>, list: &AllowList) -> Outcome<()> {
    may_have(asker, name, link, list, (Code::BridgeNotAllowed, "bridge", "allowBridges"))
}

/// A bridge remains one when it is called a master: what is put upon it reaches all of its ports. So does what is put
/// upon a macvlan on a bridge, which is `lower` then.
pub(super) fn may_have_master(
    asker: &Asker<'_>,
    name: &str,
    link: Option<&Link>,
    lower: Option<&Link>,
    allow: &Allow,
) -> Outcome<()> {
    may_have(asker, name, link, &allow.masters, (Code::MasterNotAllowed, "master", "allowMasters"))?;
    let is_bridge = |l: &&Link| matches!(l.kind, LinkKind::Bridge { .. });
    let mut bridges = link.into_iter().chain(lower).filter(is_bridge);
    bridges.try_for_each(|bridge| may_have_bridge(asker, &bridge.name, None, &allow.bridges))
}

fn may_have(
    asker: &Asker<'_>,
    name: &str,
    link: Option<&Link>,
    list: &AllowList,
    (code, what, key): (Code, &str, &str),
) -> Outcome<()> {
    let allowed = |name: &str| allowed(list, name, asker.namespace());
    if allowed(name) && link.is_none_or(|l| allowed(&l.name)) {
        return Ok(());
    }
    Err(Failure::new(code, format!("network {}: {what} {name} is not allowed for {}", asker.network, asker.who()))
        .remedy(format!("the node's administrator allows it by {key} in node.json")))
}

/// Those that the pod may name.
fn bridge_names<'a>(asker: &Asker<'_>, facts: &'a NodeFacts) -> Vec<&'a str> {
    let bridges = facts.links.iter().filter(|l| matches!(l.kind, LinkKind::Bridge { .. })).map(|l| l.name.as_str());
    bridges.filter(|name| allowed(&facts.allow.bridges, name, asker.namespace())).collect()
}

fn bridges(asker: &Asker<'_>, facts: &NodeFacts) -> String {
    format!("bridges on {}: {}", facts.node, list(&bridge_names(asker, facts)))
}

fn list(names: &[&str]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests;
