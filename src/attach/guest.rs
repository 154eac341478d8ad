//! The bind step: makes a VM's NIC out of a link that the pod has already.
//!
//! ```text
//! pod<H> ══ tc u32 + mirred ══ tap<H> ── the guest
//! ```
//! No in-pod bridge, so nothing in the pod learns, filters or answers. The pod's own stack falls silent on both links.
//! Where the machine is given an address (`given`), its DHCP is kept apart from the LAN's (`fence`).

use ipnetwork::IpNetwork;

use crate::cni::AddResult;
use crate::failpoint::hit;
use crate::net::{Link, LinkChange, LinkKind, Namespace, tap};
use crate::plan::{self, BindFacts, BindPlan, conf::BindConf, network_hash};
use crate::types::{AttachmentId, Code, Failure, IfName, Outcome, Role};

use super::record::{self, Bind, Wire};
use super::undo::Undo;
use super::{Job, Sides, address, fence, given};

/// User and group that KubeVirt runs QEMU as.
const QEMU: u32 = 107;

pub async fn add(job: &Job<'_>, conf: &BindConf) -> Outcome<AddResult> {
    let sides = Sides::open(job)?;
    let facts = gather(job, &sides, conf).await?;
    let plan = plan::bind(&job.asker(), conf, &facts)?;
    let id = job.id(Role::Bind);
    forget_dead(job, &sides, &id).await?;
    must_have_room(&sides, &plan).await?;
    let addresses = sides.pod_links.addresses(plan.link).await?;
    let addresses: Vec<IpNetwork> = addresses.iter().filter(|a| !a.link_local).map(|a| a.net).collect();
    let guest = given::guest(job, &sides, &plan, &addresses).await?;
    if let Some(guest) = &guest {
        plan::guest_addresses(&job.asker(), &plan.network, &guest.given.addresses)?;
    }
    let clsact = match &guest {
        Some(guest) => fence::must_make_clsact(&sides.host_links, &plan.network, guest).await?,
        None => false,
    };
    let place = sides.place(job)?;
    let mut record = Bind {
        place,
        network: plan.network.clone(),
        link: plan.link,
        tap: plan.tap.clone(),
        tap_index: None,
        ingress: false,
        multi_queue: plan.multi_queue,
        addresses,
        guest,
        clsact,
    };
    let journal = job.journal();
    journal.write(&id, &job.call.name, &record)?;
    let result = AddResult::default();
    let done = carry_out(job, &sides, &plan, &id, &mut record).await;
    match done.and_then(|()| result.must_fit(job.call.version)) {
        Ok(()) => Ok(result),
        Err(mut failure) => {
            if let Err(more) = Undo::new(job.dirs, &sides.host, &sides.host_links).bind(&id, &record).await {
                tracing::error!(failure = %more, "the failed bind step could not be undone whole; DEL will try again");
                failure.msg = format!("{}; and undoing it: {}: {}", failure.msg, more.code, more.msg);
            }
            Err(failure)
        }
    }
}

/// For a tap of that name, and a way to it.
async fn must_have_room(sides: &Sides, plan: &BindPlan) -> Outcome<()> {
    if sides.pod_links.link(plan.tap.as_str()).await?.is_some() {
        return Err(Failure::new(
            Code::NameTaken,
            format!("network {}: the pod has an interface {} already", plan.network, plan.tap),
        )
        .remedy("DEL the attachment that made it first"));
    }
    if sides.pod_links.has_ingress(plan.link).await? {
        return Err(Failure::new(
            Code::Kernel,
            format!("network {}: the pod's link has an ingress qdisc of somebody else's already", plan.network),
        )
        .remedy("`tc qdisc show` in the pod; a link has place for one, and the way to the tap needs it"));
    }
    Ok(())
}

async fn carry_out(job: &Job<'_>, sides: &Sides, plan: &BindPlan, id: &AttachmentId, record: &mut Bind) -> Outcome<()> {
    let links = &sides.pod_links;
    let link = links.link_at(plan.link).await?.ok_or_else(|| missing(plan))?;
    address::fall_silent(&sides.pod_settings, &link.name)?;
    sides.pod.enter(|| tap::create_tap(&plan.tap, plan.multi_queue, QEMU, QEMU))??;
    address::fall_silent(&sides.pod_settings, plan.tap.as_str())?;
    let tap = links.link(plan.tap.as_str()).await?.ok_or_else(|| missing(plan))?;
    (record.tap_index, record.ingress) = (Some(tap.index), true);
    job.journal().write(id, &job.call.name, record)?;
    if let Err(e) = links.redirect(plan.link, tap.index).await {
        // Either somebody else's came first, or net has taken ours away again.
        record.ingress = false;
        return Err(e.into());
    }
    hit("redirect to the tap");
    if let Some(guest) = &record.guest {
        fence::inside(links, plan.link, guest).await?;
        fence::outside(&sides.host_links, guest, record.clsact).await?;
    }
    links.redirect(tap.index, plan.link).await?;
    hit("redirect from the tap");
    links.set_link(tap.index, &LinkChange { up: Some(true), mtu: Some(plan.mtu), ..LinkChange::default() }).await?;
    hit("tap up");
    if !link.up {
        links.set_link(plan.link, &LinkChange { up: Some(true), ..LinkChange::default() }).await?;
        hit("link up");
    }
    // Last: a step that fails before leaves the pod its addresses.
    for net in &record.addresses {
        match links.delete_address(plan.link, net).await {
            // IPv6 addresses went with IPv6.
            Err(e) if e.gone() => {}
            other => other?,
        }
        hit("address taken off");
    }
    Ok(())
}

fn missing(plan: &BindPlan) -> Failure {
    Failure::new(Code::BindLinkMissing, format!("network {}: the pod's link vanished while it was bound", plan.network))
}

async fn gather(job: &Job<'_>, sides: &Sides, conf: &BindConf) -> Outcome<BindFacts> {
    let links = &sides.pod_links;
    let name: IfName =
        format!("pod{}", network_hash(&conf.network)).parse().map_err(|e| plan::conf::config("logicNetworkName", e))?;
    let mut facts = BindFacts { by_name: links.link(name.as_str()).await?, ..BindFacts::default() };
    if facts.by_name.is_some() {
        return Ok(facts);
    }
    facts.by_journal = wire_of(job, sides, &name).await?;
    let eth0: IfName = "eth0".parse().map_err(|e| plan::conf::config("eth0", e))?;
    if let Some(link) = links.link(eth0.as_str()).await? {
        let ours = wire_of(job, sides, &eth0).await?.is_some_and(|w| w.index == link.index);
        facts.primary = Some((link, ours));
    }
    Ok(facts)
}

/// The link of a wire of ours in this very namespace, whatever it is called now.
async fn wire_of(job: &Job<'_>, sides: &Sides, ifname: &IfName) -> Outcome<Option<Link>> {
    let id = AttachmentId { container: job.container.clone(), ifname: ifname.clone(), role: Role::Wire };
    let Some(entry) = job.journal().read(&id)? else { return Ok(None) };
    let wire: Wire = record::read(&entry)?;
    match wire.pod_index {
        Some(index) if wire.place.is_in(&sides.pod, job.dirs)? => Ok(sides.pod_links.link_at(index).await?),
        _ => Ok(None),
    }
}

async fn forget_dead(job: &Job<'_>, sides: &Sides, id: &AttachmentId) -> Outcome<()> {
    let Some(entry) = job.journal().read(id)? else { return Ok(()) };
    let bind: Bind = record::read(&entry)?;
    if bind.place.is_in(&sides.pod, job.dirs)? {
        return Err(Failure::new(Code::AlreadyAttached, format!("{id} is attached already")).remedy("DEL first"));
    }
    Undo::new(job.dirs, &sides.host, &sides.host_links).bind(id, &bind).await
}

/// Compares tap, owner, queues and redirects with the record.
pub async fn check(job: &Job<'_>) -> Outcome<()> {
    let id = job.id(Role::Bind);
    let differs = |msg: String| Err(Failure::new(Code::Differs, msg).remedy("re-create the pod"));
    let Some(entry) = job.journal().read(&id)? else { return differs(format!("{id}: the journal has no such entry")) };
    let bind: Bind = record::read(&entry)?;
    let pod = job.pod_namespace()?;
    let links = pod.netlink()?;
    if !bind.place.is_in(&pod, job.dirs)? {
        return differs(format!("{id}: the pod has another network namespace now"));
    }
    let Some(tap) = links.link(bind.tap.as_str()).await? else { return differs(format!("{} is gone", bind.tap)) };
    let LinkKind::Tun { owner, group, tap: true, persist, multi_queue } = tap.kind else {
        return differs(format!("{} is not a tap", bind.tap));
    };
    if (owner, group) != (Some(QEMU), Some(QEMU)) {
        return differs(format!("{}: owner {owner:?} and group {group:?} instead of {QEMU}", bind.tap));
    }
    if multi_queue != bind.multi_queue || !persist {
        return differs(format!(
            "{}: multi_queue {multi_queue}, persist {persist}; expected {} and true",
            bind.tap, bind.multi_queue
        ));
    }
    if !tap.up {
        return differs(format!("{} is down: the guest has no traffic", bind.tap));
    }
    if links.link_at(bind.link).await?.is_none() {
        return differs(format!("the link that {} is joined to is gone", bind.tap));
    }
    for (from, to) in [(bind.link, tap.index), (tap.index, bind.link)] {
        if links.redirect_target(from).await? != Some(to) {
            return differs(format!("{}: the redirect from link {from} to link {to} is not there", bind.tap));
        }
    }
    if let Some(guest) = &bind.guest {
        let host_links = Namespace::own()?.netlink()?;
        if let Some(missing) = fence::missing(&host_links, &links, &bind, guest).await? {
            return differs(format!("{}: {missing}", bind.tap));
        }
    }
    Ok(())
}
