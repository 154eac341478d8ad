//! ADD: all networks of a pod, or none.

use serde_json::Value;

use crate::annotation::{self, StatusEntry};
use crate::chain::Done;
use crate::cni::{AddResult, json};
use crate::failpoint::hit;
use crate::net::{Namespace, Netlink};
use crate::plan::PodFacts;
use crate::protocol::Note;
use crate::resolve::{Pod, pod_facts};
use crate::store::{Journal, process_start};
use crate::types::{Code, Failure, Outcome};

use super::config::{self, MetaConf};
use super::networks::wanted;
use super::outside::{self, World};
use super::record::{Attached, Found, Kept, Record, plugins};
use super::routes::{self, Party};
use super::settle::{base_args, check_args, settle};
use super::{Job, gather, plugin_path, ready, run, undo};

/// The pod's result: its default network's.
pub async fn add(job: &Job<'_>) -> Outcome<Value> {
    let conf = config::read(job.call)?;
    for note in &conf.notes {
        tracing::info!("configuration: {note}");
    }
    check_args(&job.call.args)?;
    ready::wait(conf.readiness.as_deref())?;
    let api = outside::open(&conf, job.node, job.env)?;
    let world = World::new(job.call, job.dirs, api.as_ref());
    let lock = job.lock()?;
    if Journal(job.dirs).superseded(job.container, || job.started.unwrap_or_else(process_start)) {
        let msg = format!("container {} was deleted after this ADD had started", job.container);
        return Err(Failure::new(Code::Superseded, msg));
    }
    let (about, done) = match world.pod(&conf).await {
        Ok(pod) => (pod.known.clone(), networks(job, &conf, &world, &pod).await),
        Err(failure) => (pod_facts(job.call).ok().and_then(|facts| facts.pod), Err(failure)),
    };
    if let Err(failure) = &done {
        world.complain(about.as_ref(), failure).await;
    }
    drop(lock);
    done
}

async fn networks(job: &Job<'_>, conf: &MetaConf, world: &World<'_>, pod: &Pod) -> Outcome<Value> {
    let facts = &pod.facts;
    let asked = wanted(conf, facts.pod.as_ref(), facts.annotations.as_ref())?;
    let known = gather::gather(world, conf, job.call.version.as_str(), pod, asked).await?;
    let networks = settle(job.call, facts, (job.container, job.ifname), &conf.runtime, known)?;
    let namespace = pod_namespace(job)?;
    let record = Record {
        pod: facts.pod.clone(),
        boot: job.dirs.boot_id()?,
        netns: job.call.netns.clone().unwrap_or_default(),
        pod_ns: Some(namespace.id()?),
        args: base_args(&job.call.args),
        path: plugin_path(conf, job.call),
        cni_dir: conf.cni_dir.clone(),
        networks,
    };
    let id = job.id();
    let kept = Kept { dirs: job.dirs, id: &id };
    clear_away(job, facts, &kept, &record.boot).await?;
    kept.begin(&job.call.name, &record)?;
    hit("meta: pod recorded");
    let (path, args) = (record.path.clone(), record.args.clone());
    let at = job.at(facts);
    let links = namespace.netlink()?;
    drop(namespace);
    let at = at.by(&path, &args);
    let mut work = Work { job, at, links, kept: &kept, world, pod, record, begun: 0, done: Vec::new() };
    match work.all().await {
        Ok(result) => Ok(result),
        Err(cause) => Err(work.roll_back(cause).await),
    }
}

/// A dead entry of the same key is undone, a living one refuses the call.
async fn clear_away(job: &Job<'_>, facts: &PodFacts, kept: &Kept<'_>, boot: &str) -> Outcome<()> {
    let Some(found) = kept.find()? else { return Ok(()) };
    if matches!(&found, Found::Whole(old) if old.boot == boot) {
        let msg = format!("container {} has been attached already, by this configuration", job.container);
        return Err(Failure::new(Code::AlreadyAttached, msg).remedy("DEL comes before another ADD"));
    }
    let (old, count) = found.opened();
    let (path, args) = (old.path.clone(), old.args.clone());
    // The namespace of the call is the new pod's.
    let at = run::Pod { netns: None, ..job.at(facts) };
    job.cache(&old.cni_dir).remove();
    undo::undo(&at.by(&path, &args), kept, &job.call.name, old, count).await
}

fn pod_namespace(job: &Job<'_>) -> Outcome<Namespace> {
    let Some(path) = &job.call.netns else { return Err(Failure::new(Code::Environment, "CNI_NETNS not set")) };
    Ok(Namespace::open(path)?)
}

struct Work<'a> {
    job: &'a Job<'a>,
    at: run::Pod<'a>,
    kept: &'a Kept<'a>,
    world: &'a World<'a>,
    pod: &'a Pod,
    record: Record,
    /// Of the pod's namespace.
    links: Netlink,
    /// How many networks an undo has to look at.
    begun: usize,
    /// As long as the networks that are made.
    done: Vec<Done>,
}

impl Work<'_> {
    async fn all(&mut self) -> Outcome<Value> {
        for index in 0..self.record.networks.len() {
            self.name_is_free(index).await?;
            let one = &self.record.networks[index];
            if let (Some(file), Some(resource), Some(device)) = (&one.info_file, &one.resource, &one.device) {
                outside::hand_over_info(resource, device, file);
            }
            let added = self.at.add(one).await;
            self.begun = if matches!(&added, Err(run::Failed { undone: true, .. })) { index } else { index + 1 };
            if let (Err(_), Some(file)) = (&added, &one.info_file) {
                outside::remove_info(file);
            }
            let done = added.map_err(|failed| failed.cause)?;
            let link = self.links.link(one.ifname.as_str()).await?.map(|l| l.index);
            let one = &mut self.record.networks[index];
            (one.result, one.link) = (Some(done.raw.clone()), link);
            self.done.push(done);
            self.kept.update(&self.job.call.name, &self.record)?;
            hit("meta: network made");
        }
        let reported = self.default_routes().await?;
        self.world.tell(self.pod, &self.status(&reported), &self.notes()).await?;
        let answer = self.answer()?;
        self.job.cache(&self.record.cni_dir).write(&self.record.netns, &self.record.networks);
        // Nothing fails any more that would undo the leases.
        let made = self.record.networks.iter().filter(|n| !n.bind).map(|n| &n.ifname);
        self.world.warn_of_leases(self.pod, made).await;
        Ok(answer)
    }

    /// Before it is made: a roll-back must never meet a link that was there before.
    async fn name_is_free(&self, index: usize) -> Outcome<()> {
        let one = &self.record.networks[index];
        if one.bind || self.links.link(one.ifname.as_str()).await?.is_none() {
            return Ok(());
        }
        let msg = format!("network {}: the pod has an interface {} already", one.name, one.ifname);
        Err(Failure::new(Code::NameTaken, msg).remedy("ask for another `interface` in the pod's annotation"))
    }

    /// What network-status tells of each network: as with Multus, a default route that the pod asked for is not shown
    /// at its network; one that was taken away is shown nowhere.
    async fn default_routes(&mut self) -> Outcome<Vec<AddResult>> {
        let mut reported: Vec<AddResult> = self.done.iter().map(|d| d.result.clone()).collect();
        if self.record.networks.iter().all(|n| n.default_route.is_none()) {
            return Ok(reported);
        }
        let made = self.record.networks.iter().zip(&self.done).filter(|(n, _)| !n.bind);
        let mut parties: Vec<Party<'_>> = made
            .map(|(n, d)| Party { ifname: &n.ifname, asked: n.default_route.as_deref(), result: d.result.clone() })
            .collect();
        if !routes::settle(&pod_namespace(self.job)?, &mut parties).await? {
            return Ok(reported);
        }
        let changed: Vec<AddResult> = parties.into_iter().map(|p| p.result).collect();
        let places = (0..self.record.networks.len()).filter(|i| !self.record.networks[*i].bind).collect::<Vec<_>>();
        for (index, result) in places.into_iter().zip(changed) {
            let (one, done) = (&mut self.record.networks[index], &mut self.done[index]);
            if one.default_route.is_none() {
                reported[index] = result.clone();
            }
            if done.result != result {
                done.raw = result.to_json(done.version)?;
                done.result = result;
                one.result = Some(done.raw.clone());
            }
        }
        self.kept.update(&self.job.call.name, &self.record)?;
        Ok(reported)
    }

    fn status(&self, reported: &[AddResult]) -> Vec<StatusEntry> {
        let shown = self.record.networks.iter().zip(reported).filter(|(n, _)| !n.bind);
        shown
            .flat_map(|(one, result)| {
                let info = one.info_file.as_deref().and_then(outside::read_info);
                annotation::entries(result, &one.name, one.master, info.as_ref())
            })
            .collect()
    }

    /// What the pod is to hear beside its status.
    fn notes(&self) -> Vec<Note> {
        let may_fall_back = |one: &&Attached| !one.bind && plugins(&one.conf).any(|p| json::get(p, "master").is_some());
        let networks = self.record.networks.iter().filter(may_fall_back);
        networks.filter_map(|one| self.world.fallback(&one.name, &one.ifname)).collect()
    }

    /// In the version that the configuration asks for, as the specification has it. Where it asks for none, or the
    /// result cannot be put into it, in the network's own, as Multus does.
    fn answer(&self) -> Outcome<Value> {
        let master = self.record.networks.iter().position(|n| n.master).unwrap_or(0);
        let Some(done) = self.done.get(master) else {
            return Err(Failure::new(Code::MetaConfig, "the pod has no network"));
        };
        let asked = json::get(&self.job.call.conf, "cniVersion").and_then(Value::as_str).is_some_and(|v| !v.is_empty());
        if !asked || done.version == self.job.call.version {
            return Ok(done.raw.clone());
        }
        Ok(done.result.to_json(self.job.call.version).unwrap_or_else(|_| done.raw.clone()))
    }

    /// The cause first, then what could not be undone; that stays in the journal for DEL.
    async fn roll_back(mut self, cause: Failure) -> Failure {
        tracing::warn!(failure = %cause, "all networks of the pod are undone");
        let count = self.begun;
        // Of those nobody has anything to undo, also if a DEL has to come back to the others.
        for one in &mut self.record.networks[count..] {
            one.undone = true;
        }
        match undo::undo(&self.at, self.kept, &self.job.call.name, self.record, count).await {
            Ok(()) => cause,
            Err(left) => {
                Failure { msg: format!("{}; and undoing it: {}: {}", cause.msg, left.code, left.msg), ..cause }
            }
        }
    }
}
