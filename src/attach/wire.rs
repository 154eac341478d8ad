//! ADD of a wire: from the facts to the result. What is particular to a bridge or a macvlan is in the modules of those
//! names.

use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::cni::{AddResult, IpConfig};
use crate::ipam::Lease;
use crate::net::{Link, LinkKind, NetResult, Netlink, nft};
use crate::plan::{self, Form, Masquerade, NodeFacts, Plan};
use crate::types::{AttachmentId, Code, Failure, Mac, Outcome, Role};

use super::carrier::fallback_words;
use super::ipam::Ipam;
use super::record::{self, Given, Wire, WireLink};
use super::undo::Undo;
use super::{Job, Sides, WireConf, bridge, dhcp, facts, macvlan};

/// The pod's end of a wire, as the kernel knows it.
#[derive(Debug, Clone, Copy)]
pub struct PodEnd {
    pub index: u32,
    pub mac: Option<Mac>,
    /// That it was made with, where the plan says one.
    pub mtu: Option<u32>,
}

/// An attachment at work: what was opened, and the record that undoes it.
pub struct Work<'a> {
    pub job: &'a Job<'a>,
    pub sides: &'a Sides,
    pub ipam: Ipam<'a>,
    pub record: Wire,
    pub id: AttachmentId,
    /// The bridge as it was found; none where it must be made.
    pub bridge: Option<Link>,
    /// The link may be there; a failure before leaves nothing to be undone, and somebody else's link of that name alone.
    pub made: bool,
}

impl Work<'_> {
    /// Writes the record down, so that whoever comes after a crash can undo it.
    pub fn remember(&self) -> Outcome<()> {
        self.job.journal().write(&self.id, &self.job.call.name, &self.record)
    }

    pub fn masquerade<'b>(&'b self, addresses: &'b [IpNetwork]) -> nft::Masquerade<'b> {
        let job = self.job;
        nft::Masquerade {
            network: job.call.name.as_str(),
            container: job.container.as_str(),
            ifname: job.ifname.as_str(),
            addresses,
        }
    }

    pub fn spoof_guard<'b>(&'b self, host_link: &'b str, mac: Option<Mac>) -> nft::SpoofGuard<'b> {
        nft::SpoofGuard { host_link, mac, container: self.job.container.as_str(), ifname: self.job.ifname.as_str() }
    }

    /// What is told to the runtime. A VM's is kept for the bind step, which comes in another call.
    fn tell(&mut self, conf: &WireConf, mut result: AddResult) -> Outcome<AddResult> {
        result.dns = plan::conf::dns_or(conf.dns(), &result.dns);
        result.must_fit(self.job.call.version)?;
        if self.record.vm && !result.ips.is_empty() {
            self.record.given = Some(Given::of(&result));
            self.remember()?;
        }
        Ok(result)
    }

    /// Addresses for the pod's end, which is `interface` of the result; none where the network has no IPAM. `patience`: for
    /// a port that does not forward yet.
    pub fn lease(&self, interface: u32, form: Form, end: PodEnd, patience: Duration) -> Outcome<Lease> {
        let job = self.job;
        let vm = form == Form::Vm;
        let mut lease = self.ipam.add(
            job,
            &dhcp::Target {
                dirs: job.dirs,
                facts: job.facts,
                container: job.container,
                ifname: job.ifname,
                network: job.call.name.as_str(),
                netns: &self.record.place.netns,
                namespace: &self.sides.pod,
                index: end.index,
                mac: end.mac,
                mtu: end.mtu,
                vm,
                sets: !vm,
                patience,
            },
        )?;
        for ip in &mut lease.ips {
            ip.interface = Some(interface);
        }
        if vm {
            plan::vm_addresses(&self.job.asker(), lease.ips.iter().map(|ip: &IpConfig| ip.address))?;
        }
        Ok(lease)
    }
}

pub async fn add(job: &Job<'_>, conf: &WireConf) -> Outcome<AddResult> {
    let sides = Sides::open(job)?;
    let (plan, bridge) = decide(job, &sides, conf).await?;
    let ipam = Ipam::prepare(job, conf)?;
    forget_dead(job, &sides).await?;
    if let Plan::Macvlan(_) = &plan {
        facts::refuse_taken(job, &sides).await?;
    }
    let record = intent(job, &sides, &plan, &ipam)?;
    let mut work = Work { job, sides: &sides, ipam, record, id: job.id(Role::Wire), bridge, made: false };
    work.remember()?;
    let done = match &plan {
        Plan::Bridge(wire) => bridge::carry_out(&mut work, wire).await,
        Plan::Macvlan(wire) => macvlan::carry_out(&mut work, wire).await,
    };
    match done.and_then(|result| work.tell(conf, result)) {
        Ok(result) => Ok(result),
        Err(failure) if !work.made => {
            job.journal().remove(&work.id)?;
            Err(failure)
        }
        Err(mut failure) => {
            let undo = Undo::new(job.dirs, &sides.host, &sides.host_links);
            if let Err(more) = undo.wire(&work.id, job.call.name.as_str(), &work.record).await {
                tracing::error!(failure = %more, "the failed ADD could not be undone whole; DEL will try again");
                failure.msg = format!("{}; and undoing it: {}: {}", failure.msg, more.code, more.msg);
            }
            Err(failure)
        }
    }
}

async fn decide(job: &Job<'_>, sides: &Sides, conf: &WireConf) -> Outcome<(Plan, Option<Link>)> {
    let mut facts = facts::gather(job, sides, conf).await?;
    let plan = match rule(job, conf, &facts) {
        Err(failure) if facts::for_refusal(&sides.host_links, &failure, &mut facts).await? => rule(job, conf, &facts)?,
        decided => decided?,
    };
    Ok((plan, facts.bridge))
}

fn rule(job: &Job<'_>, conf: &WireConf, facts: &NodeFacts) -> Outcome<Plan> {
    let asker = job.asker();
    match conf {
        WireConf::Trestle(conf) => plan::trestle(&asker, conf, facts),
        WireConf::Bridge(conf) => plan::bridge(&asker, conf, facts),
        WireConf::Macvlan(conf) => plan::macvlan(&asker, conf, facts),
    }
}

/// An entry of the same key: a dead one (its namespace is another one now) is undone, a living one refuses the ADD.
async fn forget_dead(job: &Job<'_>, sides: &Sides) -> Outcome<()> {
    let id = job.id(Role::Wire);
    let Some(entry) = job.journal().read(&id)? else { return Ok(()) };
    let record: Wire = record::read(&entry)?;
    if record.place.is_in(&sides.pod, job.dirs)? {
        return Err(Failure::new(Code::AlreadyAttached, format!("{id} is attached already")).remedy("DEL first"));
    }
    Undo::new(job.dirs, &sides.host, &sides.host_links).wire(&id, &entry.network, &record).await
}

fn intent(job: &Job<'_>, sides: &Sides, plan: &Plan, ipam: &Ipam<'_>) -> Outcome<Wire> {
    let place = sides.place(job)?;
    let (link, pod_mac, form, masquerade, macspoofchk) = match plan {
        Plan::Bridge(w) => (bridge::record(w), w.pod_mac, w.form, w.masquerade != Masquerade::Off, w.macspoofchk),
        Plan::Macvlan(w) => {
            let link = WireLink::Macvlan {
                master_index: w.master_index,
                mode: w.mode.to_string(),
                in_container: w.in_container,
                fallback: w.fallback.as_ref().map(|why| fallback_words(why, &w.master)),
            };
            (link, w.mac, w.form, false, false)
        }
    };
    Ok(Wire {
        place,
        link,
        pod_index: None,
        pod_mac,
        ipam: ipam.record(),
        vm: form == Form::Vm,
        masquerade,
        macspoofchk,
        given: None,
        guarded: None,
        masqueraded: Vec::new(),
    })
}

/// A link that must be there; it is gone if somebody deletes a pod while it starts.
pub async fn made(links: &Netlink, name: &str) -> Outcome<Link> {
    links.link(name).await?.ok_or_else(|| vanished(name))
}

/// The pod's link of that name. KubeVirt's `bridge: {}` calls a machine's `pod<H>` `<H>-nic`, and puts another link into
/// its place.
pub async fn end_by_name(links: &Netlink, name: &str) -> NetResult<Option<Link>> {
    if let Some(hash) = name.strip_prefix("pod")
        && let Some(renamed) = links.link(&format!("{hash}-nic")).await?
        && matches!(renamed.kind, LinkKind::Veth | LinkKind::Macvlan { .. })
    {
        return Ok(Some(renamed));
    }
    links.link(name).await
}

pub fn vanished(name: &str) -> Failure {
    Failure::new(Code::NamespaceGone, format!("{name} vanished while it was attached"))
}
