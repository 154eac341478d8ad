//! DEL: from the journal alone. Where it has no entry (the original plugin attached the pod, or `/run` was wiped), or
//! one that cannot be read, by what standard input and environment tell, as the original does it.

use serde_json::{Map, Value};

use crate::cni::json;
use crate::net::{Link, LinkKind, Namespace, Netlink, NsError, nft};
use crate::plan::{drop_in_host_end, dropin, host_end, network_hash};
use crate::types::{AttachmentId, Code, Outcome, Role};

use super::fence;
use super::record::{self, Wire};
use super::undo::{Undo, delete, packet_filter};
use super::wire::end_by_name;
use super::{Job, Level, Type, ipam};

pub async fn del(job: &Job<'_>, ty: Type) -> Outcome<()> {
    let _lock = job.lock_for_undo()?;
    match ty {
        Type::Trestle => trestle(job).await?,
        Type::Bridge | Type::Macvlan => drop_in(job, ty).await?,
    }
    match job.level {
        Level::Outermost => job.journal().mark_deleted(job.container),
        Level::Inner => Ok(()),
    }
}

async fn trestle(job: &Job<'_>) -> Outcome<()> {
    let host = Namespace::own()?;
    let links = host.netlink()?;
    let undo = Undo::new(job.dirs, &host, &links).with_netns(job.call.netns.as_deref());
    let mut known = false;
    let mut unreadable = Vec::new();
    for id in [Role::Bind, Role::Wire].map(|role| job.id(role)) {
        let undone = match job.journal().read(&id) {
            Ok(None) => continue,
            Ok(Some(entry)) => undo.entry(&entry).await,
            Err(e) => Err(e),
        };
        match undone {
            Err(e) if e.code == Code::JournalBroken => {
                tracing::error!(failure = %e, "undone by the configuration instead");
                unreadable.push(id);
            }
            other => {
                other?;
                known = true;
            }
        }
    }
    if known && unreadable.is_empty() {
        return Ok(());
    }
    by_configuration(job, &links, unreadable.is_empty() && was_refused(job)).await?;
    unreadable.iter().try_for_each(|id| job.journal().remove(id))
}

/// Whether an ADD of this very attachment failed, and nothing of it was left: then links of its names are somebody
/// else's.
fn was_refused(job: &Job<'_>) -> bool {
    let refused = job.journal().was_refused(job.container, job.ifname);
    if refused {
        tracing::debug!("an ADD of it was refused: no link is touched");
    }
    refused
}

/// Nothing of the configuration is checked: what cannot be read was never attached.
async fn by_configuration(job: &Job<'_>, links: &Netlink, refused: bool) -> Outcome<()> {
    let conf = &job.call.conf;
    let pod = job.call.netns.as_deref().and_then(|p| Namespace::open(p).ok()).filter(|_| !refused);
    if json::get(conf, "bridge").is_none() && json::get(conf, "master").is_none() {
        return match pod {
            Some(pod) => tap_by_name(links, &pod, conf).await,
            None => Ok(()),
        };
    }
    // A lease is given back over its link.
    ipam::release_lease(job).await?;
    // The host's end has a name that follows from container and interface.
    let name = host_end(&job.asker())?;
    match links.link(name.as_str()).await?.filter(|l| l.kind == LinkKind::Veth && !refused) {
        Some(link) => delete(links, link.index).await?,
        None => {
            if let Some(pod) = pod {
                link_by_name(job, &pod).await?;
            }
        }
    }
    if json::get(conf, "macspoofchk") == Some(&Value::Bool(true)) {
        nft::remove_spoof_guard(job.container.as_str(), job.ifname.as_str()).map_err(packet_filter)?;
    }
    ipam::release_what_can_be(job).await
}

async fn tap_by_name(host_links: &Netlink, pod: &Namespace, conf: &Map<String, Value>) -> Outcome<()> {
    let args =
        json::get(conf, "args").and_then(Value::as_object).and_then(|a| json::get(a, "cni")).and_then(Value::as_object);
    let Some(network) = args.and_then(|a| json::get(a, "logicNetworkName")).and_then(Value::as_str) else {
        return Ok(());
    };
    let (hash, links) = (network_hash(network), pod.netlink()?);
    let tap = links.link(&format!("tap{hash}")).await?;
    if let Some(tap) = tap.filter(|l| matches!(l.kind, LinkKind::Tun { tap: true, .. })) {
        if let Some(link) = links.link(&format!("pod{hash}")).await?
            && links.ingress_filters(link.index).await?.contains(&Some(tap.index))
        {
            links.clear_ingress(link.index).await?;
            if let Some(host_end) = link.lower {
                // Whose the qdisc is, the record would have said; it harms nobody.
                fence::take_away(host_links, host_end, link.index, false).await?;
            }
        }
        delete(&links, tap.index).await?;
    }
    Ok(())
}

/// The pod's link of that name, if it is of a kind that such a plugin makes.
async fn link_by_name(job: &Job<'_>, pod: &Namespace) -> Outcome<()> {
    let links = pod.netlink()?;
    let ours = |l: &Link| matches!(l.kind, LinkKind::Veth | LinkKind::Macvlan { .. });
    match end_by_name(&links, job.ifname.as_str()).await?.filter(ours) {
        Some(link) => Ok(delete(&links, link.index).await?),
        None => Ok(()),
    }
}

/// As the original: the configuration is read, the namespace must be one if it is there, and where none is named the
/// link stays as long as its namespace lives. Beyond it: filters go too, and what the journal has is undone whatever
/// the configuration says now.
async fn drop_in(job: &Job<'_>, ty: Type) -> Outcome<()> {
    let conf = if ty == Type::Bridge { dropin::undo_bridge(job.call)? } else { dropin::undo_macvlan(job.call)? };
    let pod = match &job.call.netns {
        None => None,
        Some(path) => match Namespace::open(path) {
            Err(NsError::Missing(_)) => None,
            // The original macvlan releases before it looks at the namespace.
            Err(e @ NsError::NotANamespace(_)) if ty == Type::Macvlan => {
                release(job, &conf).await?;
                return Err(e.into());
            }
            opened => Some(opened?),
        },
    };
    if let Some(section) = &conf.ipam {
        ipam::must_be_releasable(job, section)?;
    }
    let host = Namespace::own()?;
    let links = host.netlink()?;
    let undo = Undo::new(job.dirs, &host, &links).with_netns(job.call.netns.as_deref());
    let id = job.id(Role::Wire);
    let (network, wire) = match read(job, &id) {
        Ok(Some(known)) => known,
        Ok(None) => {
            let pod = pod.filter(|_| !was_refused(job));
            return as_the_original(job, &conf, pod.as_ref()).await;
        }
        Err(e) if e.code == Code::JournalBroken => {
            tracing::error!(failure = %e, "undone by the configuration instead");
            let name = drop_in_host_end(&job.asker())?;
            if let Some(link) = links.link(name.as_str()).await?.filter(|l| l.kind == LinkKind::Veth) {
                delete(&links, link.index).await?;
            }
            as_the_original(job, &conf, pod.as_ref()).await?;
            return job.journal().remove(&id);
        }
        Err(e) => return Err(e),
    };
    // Below the meta plugin the journal alone counts.
    if job.level == Level::Outermost && job.call.netns.is_none() && undo.pod(&wire.place).is_some() {
        undo.all_but_link(&id, &network, &wire).await?;
    } else {
        undo.wire(&id, &network, &wire).await?;
    }
    // A foreign plugin is asked once.
    if wire.ipam.is_none() { release(job, &conf).await } else { Ok(()) }
}

/// Network and record of the wire.
fn read(job: &Job<'_>, id: &AttachmentId) -> Outcome<Option<(String, Wire)>> {
    let Some(entry) = job.journal().read(id)? else { return Ok(None) };
    let wire = record::read(&entry)?;
    Ok(Some((entry.network, wire)))
}

async fn as_the_original(job: &Job<'_>, conf: &dropin::UndoConf, pod: Option<&Namespace>) -> Outcome<()> {
    // A lease is given back over its link.
    ipam::release_lease(job).await?;
    if let Some(pod) = pod {
        link_by_name(job, pod).await?;
    }
    release(job, conf).await?;
    let (container, ifname) = (job.container.as_str(), job.ifname.as_str());
    if conf.macspoofchk {
        nft::remove_spoof_guard(container, ifname).map_err(packet_filter)?;
    }
    if conf.masquerade {
        let network = job.call.name.as_str();
        nft::remove_masquerade(&nft::Masquerade { network, container, ifname, addresses: &[] })
            .map_err(packet_filter)?;
    }
    Ok(())
}

async fn release(job: &Job<'_>, conf: &dropin::UndoConf) -> Outcome<()> {
    match &conf.ipam {
        Some(section) => ipam::release_by_conf(job, section).await,
        None => Ok(()),
    }
}
