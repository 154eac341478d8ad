//! GC: the pods of this configuration that the runtime does not name any more; then the plugins' own GC.
//!
//! The runtime's list has one attachment for a pod, its default network's, so all of a pod's networks are valid while its
//! container is listed. Only entries made under the same configuration name are looked at; those that are locked, or
//! younger than this call, are left, and so is what others than a meta plugin attached to the same networks. A missing
//! list collects nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::Value;

use crate::cni::{Call, json, valid_attachments};
use crate::plan::PodFacts;
use crate::store::{ContainerLock, Dirs, Entry, Journal, NodeConfig, Pending};
use crate::types::{AttachmentId, Code, ContainerId, Failure, IfName, NetworkName, Outcome, Role};

use super::config::{self, MetaConf};
use super::networks::wanted;
use super::outside::World;
use super::record::{Attached, Kept, Owed, Record, key};
use super::run::{self, Pod};
use super::settle::Known;
use super::{gather, legacy, plugin_path, undo};

pub async fn gc(call: &Call, dirs: &Dirs, node: &NodeConfig, started: u64) -> Outcome<()> {
    let Some(valid) = valid_attachments(&call.conf)? else { return Ok(()) };
    let valid: Vec<(String, String)> = valid.into_iter().map(|(c, i)| (c.as_str().to_owned(), i)).collect();
    let work = Work { call, dirs, node, started, living: valid.iter().map(|(c, _)| c.as_str()).collect() };
    let boot = dirs.boot_id()?;
    let (present, mut failures) = work.journal(&boot).await?;
    failures.extend(work.owed(&boot).await?);
    match present {
        Some(present) => failures.extend(work.plugins(&valid, &present).await),
        None => tracing::error!("plugins are not asked to collect: a pod that cannot be read may be theirs"),
    }
    Failure::first_of(failures)
}

struct Work<'a> {
    call: &'a Call,
    dirs: &'a Dirs,
    node: &'a NodeConfig,
    started: u64,
    /// Containers that the runtime names.
    living: BTreeSet<&'a str>,
}

/// A pod that goes on, made under whatever configuration.
struct Living {
    container: String,
    record: Record,
}

/// Who is on this node, as the journal has it.
struct Present {
    living: Vec<Living>,
    /// By network: attachments of ours that no pod of a meta plugin owns. Somebody else called for them, another runtime
    /// perhaps, and only its own GC may collect them.
    others: BTreeMap<String, BTreeSet<(String, String)>>,
}

impl Work<'_> {
    /// `None` where an entry cannot be read, and so nobody knows.
    async fn journal(&self, boot: &str) -> Outcome<(Option<Present>, Vec<Failure>)> {
        let (mut living, mut failures, mut known) = (Vec::new(), Vec::new(), true);
        let (mut wires, mut owned) = (Vec::new(), BTreeSet::new());
        for entry in Journal(self.dirs).all()? {
            let entry = match entry {
                Ok(entry) if entry.id.role == Role::Meta => entry,
                Ok(entry) => {
                    wires.push((entry.network, of(&entry.id.container, &entry.id.ifname)));
                    continue;
                }
                Err(broken) => {
                    tracing::error!(failure = %broken, "an entry of the journal is left as it is");
                    known = false;
                    continue;
                }
            };
            let record = match Record::read(&entry) {
                Ok(record) => record,
                Err(broken) => {
                    tracing::error!(failure = %broken, "an entry of the journal is left as it is");
                    known = false;
                    continue;
                }
            };
            owned.extend(record.networks.iter().map(|one| of(&entry.id.container, &one.ifname)));
            // Younger than this call: the runtime's list may have been made before it.
            let younger = entry.written >= self.started && record.boot == boot;
            let ours = entry.network == self.call.name.as_str();
            if !ours || younger || self.living.contains(entry.id.container.as_str()) {
                living.push(Living { container: entry.id.container.to_string(), record });
                continue;
            }
            match self.collect(&entry.id, Some(&entry)).await {
                Ok(true) => {}
                // Somebody is at work on it.
                Ok(false) => living.push(Living { container: entry.id.container.to_string(), record }),
                Err(failure) => failures.push(failure),
            }
        }
        let mut others: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
        for (network, wire) in wires.into_iter().filter(|(_, wire)| !owned.contains(wire)) {
            others.entry(network).or_default().insert(wire);
        }
        Ok((known.then_some(Present { living, others }), failures))
    }

    /// What is owed for pods of an earlier boot, of which nobody else knows any more.
    async fn owed(&self, boot: &str) -> Outcome<Vec<Failure>> {
        let mut failures = Vec::new();
        for owed in Pending::undo(self.dirs).all::<Owed>()? {
            let owed = match owed {
                Ok(owed) => owed,
                Err(broken) => {
                    tracing::error!(failure = %broken, "a file is left as it is");
                    continue;
                }
            };
            // With this boot's the namespace decides: `/run` may have been wiped under living pods.
            let gone = owed.record.boot != boot || !owed.record.netns.exists();
            if owed.network == self.call.name && gone && !self.living.contains(owed.container.as_str()) {
                failures.extend(self.collect(&key(&owed.container, &owed.ifname), None).await.err());
            }
        }
        Ok(failures)
    }

    async fn collect(&self, id: &AttachmentId, seen: Option<&Entry>) -> Outcome<bool> {
        let site = Collector {
            dirs: self.dirs,
            node: self.node,
            started: Some(self.started),
            version: self.call.version.as_str(),
            network: &self.call.name,
        };
        let taken = site.collect(id, seen).await?;
        if taken {
            tracing::info!(container = %id.container, "collected: the runtime does not name it any more");
        }
        Ok(taken)
    }

    fn site<'b>(&'b self, path: &'b [PathBuf]) -> run::Site<'b> {
        run::Site { path, dirs: self.dirs, node: self.node, started: Some(self.started) }
    }

    /// The cluster's own networks, each with all that are on it: the default one has the runtime's list too. Networks
    /// that pods ask for are left alone: another runtime on this node may have one of that name, and their pods were
    /// undone one by one.
    async fn plugins(&self, valid: &[(String, String)], present: &Present) -> Vec<Failure> {
        let conf = match config::read(self.call) {
            Ok(conf) => conf,
            Err(failure) => return vec![failure],
        };
        let path = plugin_path(&conf, self.call);
        let mut failures = Vec::new();
        for known in self.clusters_own(&conf).await {
            let mut keep = on(known.conf.name(), &present.living);
            keep.extend(present.others.get(known.conf.name()).into_iter().flatten().cloned());
            keep.extend(legacy::attachments(&conf.cni_dir, known.conf.name()));
            if known.master {
                keep.extend(valid.iter().cloned());
            }
            let keep: Vec<_> = keep.into_iter().collect();
            failures.extend(run::gc(&known.conf, &self.site(&path), &keep).await.err());
        }
        failures
    }

    /// Without the API server. One that is not found is not asked.
    async fn clusters_own(&self, conf: &MetaConf) -> Vec<Known> {
        let world = World::new(self.call, self.dirs, None);
        let mut found = Vec::new();
        for one in wanted(conf, None, None).unwrap_or_default() {
            match gather::look_up(&world, conf, self.call.version.as_str(), one).await {
                Ok(known) => found.extend(known),
                Err(failure) => tracing::warn!(%failure, "its plugins are not asked to collect"),
            }
        }
        found
    }
}

/// What a pod is undone with, whoever found that nobody needs it.
struct Collector<'a> {
    dirs: &'a Dirs,
    node: &'a NodeConfig,
    started: Option<u64>,
    /// The meta plugin's own cniVersion.
    version: &'a str,
    /// The meta plugin's configuration.
    network: &'a NetworkName,
}

impl Collector<'_> {
    /// `seen`: the entry as it was read without the lock; by now it may be another attachment's. False: it is left.
    async fn collect(&self, id: &AttachmentId, seen: Option<&Entry>) -> Outcome<bool> {
        let Some(lock) = ContainerLock::try_lock(self.dirs, &id.container)? else { return Ok(false) };
        if Journal(self.dirs).read(id)?.as_ref() != seen {
            return Ok(false);
        }
        let kept = Kept { dirs: self.dirs, id };
        let Some(found) = kept.find()? else { return Ok(true) };
        let (record, count) = found.opened();
        let facts = PodFacts { pod: record.pod.clone(), ..PodFacts::default() };
        let netns = record.home().map(PathBuf::from);
        let (path, args) = (record.path.clone(), record.args.clone());
        let cni_dir = record.cni_dir.clone();
        let at = Pod {
            site: run::Site { path: &path, dirs: self.dirs, node: self.node, started: self.started },
            container: &id.container,
            netns: netns.as_deref(),
            facts: &facts,
            args: &args,
            version: self.version,
        };
        let undone = undo::undo(&at, &kept, self.network, record, count).await;
        if undone.is_ok() {
            legacy::Cache { dir: &cni_dir, container: &id.container, master: &id.ifname }.remove();
        }
        drop(lock);
        undone.map(|()| true)
    }
}

/// Undoes a pod that is gone, without a runtime's call. False: somebody is at work on it, or the entry is another one's.
pub async fn take(dirs: &Dirs, entry: &Entry) -> Outcome<bool> {
    let node = NodeConfig::default();
    let network = entry.network.parse().map_err(|e| Failure::new(Code::JournalBroken, format!("{}: {e}", entry.id)))?;
    // The newest that every plugin takes; a list that has its own keeps it.
    let by = Collector { dirs, node: &node, started: None, version: "1.0.0", network: &network };
    by.collect(&entry.id, Some(entry)).await
}

fn of(container: &ContainerId, ifname: &IfName) -> (String, String) {
    (container.to_string(), ifname.to_string())
}

/// Who is on a network by our doing.
fn on(network: &str, living: &[Living]) -> BTreeSet<(String, String)> {
    let name = |one: &Attached| json::get(&one.conf, "name").and_then(Value::as_str) == Some(network);
    let all = living.iter().flat_map(|l| l.record.networks.iter().map(move |one| (l, one)));
    all.filter(|(_, one)| name(one)).map(|(l, one)| (l.container.clone(), one.ifname.to_string())).collect()
}
