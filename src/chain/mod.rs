//! One network of a pod: a plugin or a list of them, by the CNI protocol as libcni 1.3 speaks it; plugins that are
//! ours are carried out in this process, all others are run.
//!
//! ```text
//! ADD    first ─ result ─→ second ─ prevResult, result ─→ last ─→ the network's result
//! CHECK  first to last, DEL last to first, each with the network's result
//! ```
//! Knows neither pods nor Kubernetes nor where a configuration came from. The caller holds the container's lock, and
//! keeps the result: nothing is written here but what `attach` and `ipam` keep for their own.

mod conf;
mod own;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::attach;
use crate::cni::{AddResult, Verb, Version};
use crate::delegate::{self, Answer, Delegate};
use crate::nad;
use crate::plan::{self, Allow, Asker, PodFacts};
use crate::store::{Dirs, NodeConfig};
use crate::types::{Code, ContainerId, Failure, IfName, Outcome};

use conf::Parts;

pub use crate::plan::Chooser;
pub use own::Kind;

/// A network as one pod gets it.
pub struct Network<'a> {
    pub conf: &'a nad::Conf,
    pub ifname: &'a IfName,
    /// Values by capability; a plugin gets those that it declares.
    pub runtime: &'a Map<String, Value>,
    /// CNI_ARGS.
    pub args: &'a str,
    /// The device that kubelet gave the pod for it.
    pub device: Option<&'a str>,
}

/// What a call of a network knows of the node.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// Where plugins are looked for.
    pub path: &'a [PathBuf],
    pub dirs: &'a Dirs,
    pub node: &'a NodeConfig,
    /// When the call began, on the boot clock in nanoseconds, if that is not when this process started.
    pub started: Option<u64>,
}

/// And of the pod, whose lock the caller holds.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub site: Site<'a>,
    pub container: &'a ContainerId,
    pub netns: Option<&'a Path>,
    pub facts: &'a PodFacts,
    pub chooser: Chooser,
}

/// An ADD that succeeded.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    pub result: AddResult,
    /// The one that the last plugin answered in.
    pub version: Version,
    /// The result in that version: what CHECK and DEL want to have.
    pub raw: Value,
}

impl Done {
    fn new(Answer { result, version }: Answer) -> Outcome<Self> {
        Ok(Self { raw: result.to_json(version)?, result, version })
    }
}

/// An ADD that failed.
#[derive(Debug)]
pub struct Failed {
    pub cause: Failure,
    /// Nothing of the network is left.
    pub undone: bool,
}

impl From<Failure> for Failed {
    /// Of what fails before the first plugin is run.
    fn from(cause: Failure) -> Self {
        Self { cause, undone: true }
    }
}

/// Whoever carries a plugin of the network out.
enum By<'a> {
    Own(Kind),
    Foreign(&'a str),
}

fn by(plugin: &Map<String, Value>) -> Outcome<By<'_>> {
    match conf::type_of(plugin) {
        "" => Err(Failure::new(Code::Config, "type: missing or empty").remedy("name a plugin")),
        name => Ok(Kind::of(name).map_or(By::Foreign(name), By::Own)),
    }
}

/// Attaches. A list that fails in the middle leaves nothing: the plugins that ran get their DEL, in reverse.
pub async fn add(network: &Network<'_>, place: &Place<'_>) -> Result<Done, Failed> {
    let parts = Parts::of(network.conf)?;
    refuse(network, place, &parts).await?;
    let mut last: Option<Done> = None;
    for (i, plugin) in parts.plugins.iter().enumerate() {
        let conf = parts.build(plugin, last.as_ref().map(|d| d.raw.clone()), network.runtime);
        let added = match by(plugin)? {
            By::Own(kind) => own::add(kind, network, place, conf).await,
            By::Foreign(name) => match may_run(name, network, place, parts.name, &conf).await {
                Ok(()) => foreign(name, Verb::Add, network, place, &conf).add(),
                Err(refused) => Err(refused),
            },
        };
        match added.and_then(Done::new) {
            Ok(done) => last = Some(done),
            Err(cause) => return Err(give_up(network, place, &parts, i, last, cause).await),
        }
    }
    last.ok_or_else(|| Failure::new(Code::Config, "plugins: the list is empty").into())
}

/// What can be refused before the first plugin is run. What a later one takes from the result before it is looked at
/// again when it is there.
async fn refuse(network: &Network<'_>, place: &Place<'_>, parts: &Parts<'_>) -> Outcome<()> {
    for (i, plugin) in parts.plugins.iter().enumerate() {
        if let By::Foreign(name) = by(plugin)? {
            let unknown = (i > 0).then(|| json!({}));
            may_run(name, network, place, parts.name, &parts.build(plugin, unknown, network.runtime)).await?;
            delegate::find(name, place.site.path)?;
        }
    }
    Ok(())
}

/// Whether the administrator lets the pod have the links that a foreign plugin's configuration leads to.
async fn may_run(
    plugin: &str,
    network: &Network<'_>,
    place: &Place<'_>,
    name: &str,
    conf: &Map<String, Value>,
) -> Outcome<()> {
    let node = place.site.node;
    let allow = Allow { bridges: node.allow_bridges.clone(), masters: node.allow_masters.clone() };
    let asker = Asker {
        container: place.container,
        ifname: network.ifname,
        network: name,
        facts: place.facts,
        chooser: place.chooser,
    };
    let claims = plan::foreign(&asker, plugin, conf, network.device)?;
    if claims.is_empty() {
        return Ok(());
    }
    let found = attach::reach(claims.iter().map(|c| &c.lead)).await?;
    claims.iter().zip(&found).try_for_each(|(claim, found)| plan::may_have(&asker, claim, found, &allow))
}

/// Undoes an ADD that failed at plugin `at`. What is ours undoes itself; of another one nobody knows how far it came.
async fn give_up(
    network: &Network<'_>,
    place: &Place<'_>,
    parts: &Parts<'_>,
    at: usize,
    last: Option<Done>,
    mut cause: Failure,
) -> Failed {
    let ran = match by(&parts.plugins[at]) {
        // It was not run.
        Ok(By::Foreign(_)) if matches!(cause.code, Code::BridgeNotAllowed | Code::MasterNotAllowed) => at,
        Ok(By::Foreign(_)) => at + 1,
        // Its own undo failed, then.
        Ok(By::Own(_)) if cause.code != Code::AlreadyAttached && own::left(network, place) => at + 1,
        _ => at,
    };
    let prev = last.map(|d| d.raw);
    let undone = undo(network, place, parts, ran, prev.as_ref()).await;
    if let Err(more) = &undone {
        tracing::error!(failure = %more, network = parts.name, "a failed ADD could not be undone whole");
        cause.msg = format!("{}; and it could not be undone: {}", cause.msg, more.msg);
    }
    Failed { cause, undone: undone.is_ok() }
}

/// DEL of the first `ran` plugins, in reverse. Goes on whatever fails, and tells all of it.
async fn undo(
    network: &Network<'_>,
    place: &Place<'_>,
    parts: &Parts<'_>,
    ran: usize,
    prev: Option<&Value>,
) -> Outcome<()> {
    let prev = parts.prev_for_del(prev);
    let mut failures = Vec::new();
    for plugin in parts.plugins[..ran].iter().rev() {
        let conf = parts.build(plugin, prev.clone(), network.runtime);
        let done = match by(plugin) {
            Ok(By::Own(kind)) => own::del(kind, network, place, conf).await,
            Ok(By::Foreign(name)) => foreign(name, Verb::Del, network, place, &conf).run(),
            Err(failure) => Err(failure),
        };
        failures.extend(done.err());
    }
    Failure::first_of(failures)
}

/// `prev`: the result of the ADD, if somebody has it.
pub async fn del(network: &Network<'_>, place: &Place<'_>, prev: Option<&Value>) -> Outcome<()> {
    let parts = Parts::of(network.conf)?;
    undo(network, place, &parts, parts.plugins.len(), prev).await
}

/// What CHECK does with plugins that are not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    Run,
    LeftAlone,
}

/// `prev`: the result of the ADD; null where nobody has it. A network of a version before CHECK is refused with
/// [`Code::Version`], one that wants none is in order.
pub async fn check(network: &Network<'_>, place: &Place<'_>, prev: &Value, others: Foreign) -> Outcome<()> {
    let parts = Parts::of(network.conf)?;
    if !parts.has(Verb::Check)? {
        let msg = format!("network {}: cniVersion {:?} does not support CHECK", parts.name, parts.version);
        return Err(Failure::new(Code::Version, msg).remedy("set cniVersion to 0.4.0 or newer"));
    }
    if parts.disable_check {
        return Ok(());
    }
    let prev = parts.prev(prev)?;
    for plugin in parts.plugins {
        let conf = parts.build(plugin, prev.clone(), network.runtime);
        match by(plugin)? {
            By::Own(kind) => own::check(kind, network, place, conf).await?,
            By::Foreign(_) if others == Foreign::LeftAlone => {}
            By::Foreign(name) => foreign(name, Verb::Check, network, place, &conf).run()?,
        }
    }
    Ok(())
}

/// The first failure comes back as it is: its code is what a runtime goes by. A plugin of ours is asked whatever the
/// network's version is.
pub async fn status(conf: &nad::Conf, site: &Site<'_>) -> Outcome<()> {
    let parts = Parts::of(conf)?;
    let told = parts.has(Verb::Status)?;
    for plugin in parts.plugins {
        let mut conf = parts.named(plugin);
        if !told && matches!(by(plugin)?, By::Own(_)) {
            conf::set(&mut conf, "cniVersion", Version::NEWEST.as_str().into());
        } else if !told {
            continue;
        }
        of_the_node(Verb::Status, plugin, site, conf).await?;
    }
    Ok(())
}

/// `valid`: container and interface of the attachments that are to stay. All plugins are asked, whatever one says.
pub async fn gc(conf: &nad::Conf, site: &Site<'_>, valid: &[(String, String)]) -> Outcome<()> {
    let parts = Parts::of(conf)?;
    if parts.disable_gc || !parts.has(Verb::Gc)? {
        return Ok(());
    }
    let valid: Value = valid.iter().map(|(c, i)| json!({ "containerID": c, "ifname": i })).collect();
    let mut failures = Vec::new();
    for plugin in parts.plugins {
        let mut conf = parts.named(plugin);
        // The specification once had another name for it, and there are plugins that know only that one.
        for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
            conf::set(&mut conf, key, valid.clone());
        }
        failures.extend(of_the_node(Verb::Gc, plugin, site, conf).await.err());
    }
    Failure::first_of(failures)
}

/// STATUS or GC of one plugin: without a container.
async fn of_the_node(
    verb: Verb,
    plugin: &Map<String, Value>,
    site: &Site<'_>,
    conf: Map<String, Value>,
) -> Outcome<()> {
    match by(plugin)? {
        By::Own(kind) => own::of_the_node(kind, verb, site, conf).await,
        By::Foreign(plugin) => {
            let path = site.path;
            Delegate { plugin, path, verb, container: "", ifname: "", netns: None, args: "", conf: &conf }.run()
        }
    }
}

fn foreign<'a>(
    plugin: &'a str,
    verb: Verb,
    network: &Network<'a>,
    place: &Place<'a>,
    conf: &'a Map<String, Value>,
) -> Delegate<'a> {
    Delegate {
        plugin,
        path: place.site.path,
        verb,
        container: place.container.as_str(),
        ifname: network.ifname.as_str(),
        netns: place.netns,
        args: network.args,
        conf,
    }
}
