//! What a plan has to know of the node: the links that the configuration names, and no more on the usual way.

use crate::net::{Link, LinkKind, NetResult, Netlink};
use crate::plan::{Allow, NodeFacts, Port, conf, dropin};
use crate::types::{Code, Failure, IfName, Outcome};

use super::reach::lower;
use super::{Job, Sides, WireConf};

pub async fn gather(job: &Job<'_>, sides: &Sides, conf: &WireConf) -> Outcome<NodeFacts> {
    let mut facts =
        NodeFacts { node: node_name(), seed: job.node.seed.clone(), random: random()?, ..NodeFacts::default() };
    facts.allow = Allow { bridges: job.node.allow_bridges.clone(), masters: job.node.allow_masters.clone() };
    let links = &sides.host_links;
    match conf {
        WireConf::Trestle(conf) => attachment(links, conf, &mut facts).await?,
        WireConf::Bridge(conf) => facts.bridge = links.link(conf.bridge.as_str()).await?,
        WireConf::Macvlan(conf) => facts.master = macvlan_master(conf, sides).await?,
    }
    if let Some(master) = &facts.master {
        facts.master_lower = lower(links, master).await?;
    }
    Ok(facts)
}

async fn attachment(links: &Netlink, conf: &conf::Attachment, facts: &mut NodeFacts) -> NetResult<()> {
    if let Some(bridge) = &conf.bridge {
        facts.bridge = links.link(bridge.as_str()).await?;
    }
    if let Some(Link { index, kind: LinkKind::Bridge { vlan_filtering: true }, .. }) = facts.bridge {
        if conf.vlan.is_some() || !conf.trunk.is_empty() {
            facts.ports = ports(links, index).await?;
        }
    } else if facts.bridge.is_none()
        && let Some(master) = &conf.master
    {
        facts.master = links.link(master.as_str()).await?;
        if let Some(of) = facts.master.as_ref().and_then(|m| m.master) {
            facts.master_of =
                links.link_at(of).await?.filter(|l| matches!(l.kind, LinkKind::Bridge { .. })).map(|l| l.name);
        }
    }
    Ok(())
}

async fn ports(links: &Netlink, bridge: u32) -> NetResult<Vec<Port>> {
    let mut ports = Vec::new();
    for link in links.links().await?.into_iter().filter(|l| l.master == Some(bridge)) {
        let vlans = links.vlans(link.index).await?;
        ports.push(Port { link, vlans });
    }
    Ok(ports)
}

/// The link that `master` names, or that of the default route, on the node or in the pod.
pub async fn macvlan_master(conf: &dropin::MacvlanConf, sides: &Sides) -> NetResult<Option<Link>> {
    let links = if conf.in_container { &sides.pod_links } else { &sides.host_links };
    match &conf.master {
        Some(name) => links.link(name.as_str()).await,
        None => match default_route_link(links).await? {
            Some(index) => links.link_at(index).await,
            None => Ok(None),
        },
    }
}

pub async fn default_route_link(links: &Netlink) -> NetResult<Option<u32>> {
    for v6 in [false, true] {
        if let Some(route) = links.routes(v6).await?.into_iter().find(|r| r.dst.prefix() == 0) {
            return Ok(Some(route.link));
        }
    }
    Ok(None)
}

/// Which refusals name what is on the node: then all links are looked up, and the plan is asked again.
pub async fn for_refusal(links: &Netlink, failure: &Failure, facts: &mut NodeFacts) -> NetResult<bool> {
    let tells = matches!(
        failure.code,
        Code::BridgeMissing | Code::NotABridge | Code::MacvlanForVm | Code::MasterMissing | Code::NotWithMacvlan
    );
    if tells && facts.links.is_empty() {
        facts.links = links.links().await?;
        return Ok(true);
    }
    Ok(false)
}

fn node_name() -> String {
    nix::unistd::gethostname().map_or_else(|_| "this node".into(), |n| n.to_string_lossy().into_owned())
}

fn random() -> Outcome<[[u8; 6]; 2]> {
    let mut bytes = [[0; 6]; 2];
    getrandom::fill(bytes.as_flattened_mut()).map_err(|e| Failure::new(Code::Io, format!("random bytes: {e}")))?;
    Ok(bytes)
}

/// Which of the two names is taken: the kernel's EEXIST does not tell which end was meant.
pub async fn taken(job: &Job<'_>, sides: &Sides, host: &IfName) -> Outcome<Failure> {
    if sides.host_links.link(host.as_str()).await?.is_some() {
        let msg = format!(
            "network {}: the node has an interface {host} already, which this attachment would have",
            job.call.name
        );
        let look = format!("find out whose it is (ip -d link show {host}); delete it if it is a left-over");
        return Ok(Failure::new(Code::HostNameTaken, msg).remedy(look));
    }
    Ok(in_the_pod(job))
}

fn in_the_pod(job: &Job<'_>) -> Failure {
    Failure::new(Code::NameTaken, format!("network {}: the pod has an interface {} already", job.call.name, job.ifname))
        .remedy("ask for another interface name")
}

/// Before a macvlan is made: an undo that does not know its number yet would take the other one for it.
pub async fn refuse_taken(job: &Job<'_>, sides: &Sides) -> Outcome<()> {
    match sides.pod_links.link(job.ifname.as_str()).await? {
        None => Ok(()),
        Some(_) => Err(in_the_pod(job)),
    }
}
