//! What the journal keeps of a pod's networks: enough for DEL, CHECK and GC to need neither API server, nor NAD, nor
//! pod.
//!
//! Written before the first network is made, with all of them; once more after each, with its result. What foreign
//! plugins are owed lies on disk too, for the time after a reboot: CNI asks for their DEL then as well.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::net::{Namespace, NsId};
use crate::store::{Dirs, Entry, Journal, Pending};
use crate::types::{AttachmentId, Code, ContainerId, Failure, IfName, NetworkName, Outcome, PodRef};

use super::run;

/// One network of the pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attached {
    /// As network-status has it: `namespace/name` of the NAD, or the configuration's name.
    pub name: String,
    /// With the pod's `cni-args` and its device in it.
    pub conf: Map<String, Value>,
    pub ifname: IfName,
    /// Values by capability; what no plugin of it declares is not kept.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub runtime: Map<String, Value>,
    /// `MAC` and `IP` of CNI_ARGS. As with Multus, no DEL has them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub asked: String,
    #[serde(default)]
    pub master: bool,
    #[serde(default)]
    pub chosen: bool,
    /// The bind step of a VM's network: makes no interface, and has no place in network-status.
    #[serde(default)]
    pub bind: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info_file: Option<PathBuf>,
    /// Gateways of the pod's default routes. An empty list: those that the network has itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_route: Option<Vec<IpAddr>>,
    /// As its last plugin printed it; without default routes that the pod asked elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Number of the link that was in the pod under the network's name after its ADD; there need not be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<u32>,
    #[serde(default)]
    pub undone: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    pub boot: String,
    pub netns: PathBuf,
    /// Who the namespace at that path is; an earlier program wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_ns: Option<NsId>,
    /// CNI_ARGS of every delegate, without what one network was asked.
    pub args: String,
    /// Where plugins are looked for.
    pub path: Vec<PathBuf>,
    /// Where Multus would keep its cache: see `legacy`.
    pub cni_dir: PathBuf,
    pub networks: Vec<Attached>,
}

impl Found {
    /// How many of its networks an undo looks at. On disk there are no results: all of them.
    pub fn opened(self) -> (Record, usize) {
        match self {
            Self::Whole(record) => {
                let begun = record.begun();
                (record, begun)
            }
            Self::Owed(record) => {
                let all = record.networks.len();
                (record, all)
            }
        }
    }
}

impl Record {
    pub fn read(entry: &Entry) -> Outcome<Self> {
        entry.record.parse().map_err(|e| {
            Failure::new(Code::JournalBroken, format!("{}: the record in the journal cannot be read: {e}", entry.id))
                .remedy("a newer trestle wrote it, or somebody edited it")
        })
    }

    /// The path, if something is there that is not another pod's: a plugin that undoes looks into it.
    pub fn home(&self) -> Option<&Path> {
        let is = |id: &NsId| Namespace::open(&self.netns).is_ok_and(|there| there.id().is_ok_and(|now| now == *id));
        Some(&*self.netns).filter(|path| self.pod_ns.as_ref().map_or_else(|| path.exists(), is))
    }

    /// What a DEL has to look at: each network that was begun. One begins when the one before it has its result.
    pub fn begun(&self) -> usize {
        let done = self.networks.iter().take_while(|n| n.result.is_some() || n.undone).count();
        (done + 1).min(self.networks.len())
    }

    /// The part that is owed after a reboot; `None` where all plugins are of this program.
    fn owed(&self) -> Option<Self> {
        // Results are not known yet when it is written; a DEL after a reboot does without.
        let networks: Vec<_> = self.networks.iter().filter(|n| is_foreign(&n.conf)).cloned().collect();
        if networks.is_empty() { None } else { Some(Self { networks, ..self.clone() }) }
    }
}

/// Whether a plugin of the configuration is run as a program and may keep something on disk.
fn is_foreign(conf: &Map<String, Value>) -> bool {
    use crate::cni::json::get;
    let is_ours = |o: &Map<String, Value>| get(o, "type").and_then(Value::as_str).is_some_and(run::is_ours);
    let foreign = |plugin: &Map<String, Value>| {
        let ipam = get(plugin, "ipam").and_then(Value::as_object).filter(|i| get(i, "type").is_some());
        !is_ours(plugin) || ipam.is_some_and(|i| !is_ours(i))
    };
    if get(conf, "type").is_some() {
        return foreign(conf);
    }
    let plugins = get(conf, "plugins").and_then(Value::as_array);
    plugins.is_none_or(|list| list.iter().any(|p| p.as_object().is_none_or(foreign)))
}

/// Of a list, or the one that it is.
pub fn plugins(conf: &Map<String, Value>) -> impl Iterator<Item = &Map<String, Value>> {
    let list = crate::cni::json::get(conf, "plugins").and_then(Value::as_array);
    let one = list.is_none().then_some(conf);
    list.into_iter().flatten().filter_map(Value::as_object).chain(one)
}

/// Whether each ADD writes to the state directory: what is owed a foreign plugin, our addresses, our leases.
pub fn leaves_state(conf: &Map<String, Value>) -> bool {
    use crate::cni::json::get;
    let ipam = |p| get(p, "ipam").and_then(Value::as_object).and_then(|i| get(i, "type")).and_then(Value::as_str);
    is_foreign(conf) || plugins(conf).filter_map(ipam).any(|ty| matches!(ty, "host-local" | "dhcp"))
}

/// The form on disk, which must tell by itself whose it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Owed {
    pub container: ContainerId,
    pub ifname: IfName,
    /// `name` of the meta plugin's configuration.
    pub network: NetworkName,
    pub record: Record,
}

/// Where a record lies.
pub struct Kept<'a> {
    pub dirs: &'a Dirs,
    pub id: &'a AttachmentId,
}

/// Where a record was found.
#[derive(Debug, PartialEq)]
pub enum Found {
    /// In the journal.
    Whole(Record),
    /// On disk alone: an earlier boot's, or `/run` was wiped.
    Owed(Record),
}

impl Kept<'_> {
    fn journal(&self) -> Journal<'_> {
        Journal(self.dirs)
    }

    fn pending(&self) -> Pending<'_> {
        Pending::undo(self.dirs)
    }

    /// Before the first network: the journal, and what is owed onto the disk.
    pub fn begin(&self, network: &NetworkName, record: &Record) -> Outcome<()> {
        self.update(network, record)?;
        let Some(record) = record.owed() else { return Ok(()) };
        let AttachmentId { container, ifname, .. } = self.id;
        let owed = Owed { container: container.clone(), ifname: ifname.clone(), network: network.clone(), record };
        self.pending().write(container, ifname, &owed)
    }

    pub fn update(&self, network: &NetworkName, record: &Record) -> Outcome<()> {
        self.journal().write(self.id, network, record)
    }

    /// An entry that cannot be read does not hide what is on disk.
    pub fn find(&self) -> Outcome<Option<Found>> {
        let broken = match self.journal().read(self.id).and_then(|e| e.as_ref().map(Record::read).transpose()) {
            Ok(Some(record)) => return Ok(Some(Found::Whole(record))),
            Ok(None) => None,
            Err(e) if e.code == Code::JournalBroken => Some(e),
            Err(e) => return Err(e),
        };
        if let Some(failure) = broken {
            tracing::error!(%failure, "undone by what else is known");
        }
        let owed: Option<Owed> = match self.pending().read(&self.id.container, &self.id.ifname) {
            Err(failure) if failure.code == Code::JournalBroken => {
                tracing::error!(%failure, "undone by what else is known");
                None
            }
            read => read?,
        };
        Ok(owed.map(|o| Found::Owed(o.record)))
    }

    /// The entry goes last.
    pub fn forget(&self) -> Outcome<()> {
        self.pending().remove(&self.id.container, &self.id.ifname)?;
        Pending::untold(self.dirs).remove(&self.id.container, &self.id.ifname)?;
        self.journal().remove(self.id)
    }
}

/// Of which pod an entry is, where, in which boot.
pub struct Place {
    pub pod: Option<PodRef>,
    pub netns: PathBuf,
    pub pod_ns: Option<NsId>,
    pub boot: String,
}

pub fn place(entry: &Entry) -> Outcome<Place> {
    Record::read(entry).map(|r| Place { pod: r.pod, netns: r.netns, pod_ns: r.pod_ns, boot: r.boot })
}

/// Key of the pod's entry.
pub fn key(container: &ContainerId, ifname: &IfName) -> AttachmentId {
    AttachmentId { container: container.clone(), ifname: ifname.clone(), role: crate::types::Role::Meta }
}

#[cfg(test)]
pub mod testing {
    use super::*;

    pub fn attached(name: &str, ifname: &str, conf: Value) -> Attached {
        Attached {
            link: None,
            name: name.into(),
            conf: conf.as_object().unwrap().clone(),
            ifname: ifname.parse().unwrap(),
            runtime: Map::new(),
            asked: String::new(),
            master: ifname == "eth0",
            chosen: false,
            bind: false,
            resource: None,
            device: None,
            info_file: None,
            default_route: None,
            result: None,
            undone: false,
        }
    }

    pub fn record(networks: Vec<Attached>) -> Record {
        Record {
            pod: None,
            boot: "b".into(),
            netns: "/run/netns/pod".into(),
            pod_ns: None,
            args: "IgnoreUnknown=true".into(),
            path: Vec::new(),
            cni_dir: "/nonexistent/multus".into(),
            networks,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::testing::{attached, record};
    use super::*;

    #[test]
    fn which_networks_are_owed_something_after_a_reboot() {
        for (conf, foreign) in [
            (json!({"type": "bridge"}), false),
            (json!({"type": "trestle", "ipam": {"type": "host-local"}}), false),
            (json!({"type": "macvlan", "ipam": {}}), false),
            (json!({"type": "bridge", "ipam": {"type": "whereabouts"}}), true),
            (json!({"type": "ptp", "ipam": {"type": "host-local"}}), true),
            (json!({"plugins": [{"type": "bridge"}, {"type": "static"}]}), false),
            (json!({"plugins": [{"type": "bridge"}, {"type": "portmap"}]}), true),
            (json!({"plugins": 5}), true),
        ] {
            assert_eq!(is_foreign(conf.as_object().unwrap()), foreign, "{conf}");
        }
    }

    #[test]
    fn a_network_that_was_never_begun_is_nobodys() {
        let net = |done: bool| Attached { result: done.then(|| json!({})), ..attached("n", "net1", json!({})) };
        assert_eq!(record(vec![net(false), net(false), net(false)]).begun(), 1);
        assert_eq!(record(vec![net(true), net(false), net(false)]).begun(), 2);
        assert_eq!(record(vec![net(true), net(true)]).begun(), 2);
        assert_eq!(record(vec![]).begun(), 0);
    }

    #[test]
    fn after_a_reboot_the_foreign_part_is_found() {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(tmp.path().join("run"), tmp.path().join("state"));
        let id = key(&"c1".parse().unwrap(), &"eth0".parse().unwrap());
        let kept = Kept { dirs: &dirs, id: &id };
        let network = "m".parse().unwrap();
        assert!(kept.find().unwrap().is_none());
        let ours = attached("ns/br", "net1", json!({"name": "br", "type": "bridge"}));
        let theirs = attached("cbr", "eth0", json!({"name": "cbr", "type": "ptp"}));
        kept.begin(&network, &record(vec![theirs.clone(), ours.clone()])).unwrap();
        assert!(matches!(kept.find().unwrap(), Some(Found::Whole(r)) if r.networks.len() == 2));
        std::fs::remove_dir_all(&dirs.run).unwrap();
        assert!(matches!(kept.find().unwrap(), Some(Found::Owed(r)) if r.networks == [theirs]));
        kept.forget().unwrap();
        assert!(kept.find().unwrap().is_none());
        kept.begin(&network, &record(vec![ours])).unwrap();
        assert!(!dirs.state.join("pending").read_dir().is_ok_and(|mut d| d.next().is_some()), "nothing is owed");
        std::fs::write(dirs.run.join("journal/c1/eth0.meta.json"), "{").unwrap();
        assert!(kept.find().unwrap().is_none(), "torn, and nothing else is known");
    }
}
