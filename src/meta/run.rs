//! All that the meta plugin asks of `chain`: one network of a pod, or a configuration alone.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::chain::{self, Chooser, Done, Kind, Network, Place};
use crate::cni::json;
use crate::nad::{self, Conf};
use crate::plan::PodFacts;
use crate::types::{ContainerId, Outcome};

pub use crate::chain::{Failed, Foreign, Site};

use super::record::Attached;

/// One pod's place, the same for all of its networks. Whoever makes one holds the container's lock.
#[derive(Clone, Copy)]
pub struct Pod<'a> {
    pub site: Site<'a>,
    pub container: &'a ContainerId,
    pub netns: Option<&'a Path>,
    pub facts: &'a PodFacts,
    /// CNI_ARGS without what one network was asked.
    pub args: &'a str,
    /// The meta plugin's own cniVersion.
    pub version: &'a str,
}

impl<'a> Pod<'a> {
    /// The same pod, as a record has it.
    pub fn by<'b>(&'b self, path: &'b [PathBuf], args: &'b str) -> Pod<'b> {
        Pod { site: Site { path, ..self.site }, args, ..*self }
    }

    fn place(&self, network: &Attached) -> Place<'a> {
        Place {
            site: self.site,
            container: self.container,
            netns: self.netns,
            facts: self.facts,
            chooser: if network.chosen { Chooser::Pod } else { Chooser::Administrator },
        }
    }

    fn all_args(&self, network: &Attached) -> String {
        let parts = [self.args, network.asked.as_str()];
        parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(";")
    }

    pub async fn add(&self, network: &Attached) -> Result<Done, Failed> {
        let (conf, args) = (to_conf(&network.conf)?, self.all_args(network));
        let one = Network {
            conf: &conf,
            ifname: &network.ifname,
            runtime: &network.runtime,
            args: &args,
            device: network.device.as_deref(),
        };
        chain::add(&one, &self.place(network)).await.map_err(|f| Failed { cause: f.cause.at(place_of(network)), ..f })
    }

    pub async fn check(&self, network: &Attached, foreign: Foreign) -> Outcome<()> {
        let (conf, args) = (to_conf(&with_version(network.conf.clone(), self.version))?, self.all_args(network));
        let one =
            Network { conf: &conf, ifname: &network.ifname, runtime: &network.runtime, args: &args, device: None };
        let prev = network.result.as_ref().unwrap_or(&Value::Null);
        let done = chain::check(&one, &self.place(network), prev, foreign).await;
        done.map_err(|f| f.at(place_of(network)))
    }

    pub async fn del(&self, network: &Attached) -> Outcome<()> {
        let conf = to_conf(&with_version(network.conf.clone(), self.version))?;
        let one =
            Network { conf: &conf, ifname: &network.ifname, runtime: &network.runtime, args: self.args, device: None };
        let done = chain::del(&one, &self.place(network), network.result.as_ref()).await;
        done.map_err(|f| f.at(place_of(network)))
    }
}

/// In front of what a plugin says, which names its network itself.
fn place_of(network: &Attached) -> String {
    format!("{} on {}", network.name, network.ifname)
}

pub async fn status(conf: &Conf, site: &Site<'_>) -> Outcome<()> {
    chain::status(conf, site).await
}

pub async fn gc(conf: &Conf, site: &Site<'_>, valid: &[(String, String)]) -> Outcome<()> {
    chain::gc(conf, site, valid).await.map_err(|f| f.at(format!("network {}", conf.name())))
}

/// Whether a plugin is carried out in this process.
pub fn is_ours(plugin: &str) -> bool {
    Kind::of(plugin).is_some()
}

pub fn to_conf(map: &Map<String, Value>) -> Outcome<Conf> {
    nad::parse(&Value::Object(map.clone()).to_string(), None)
}

/// As JSON, whole: a list with its plugins as they are now.
pub fn to_map(conf: &Conf) -> Map<String, Value> {
    match conf.to_json() {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// A list without a version gets the meta plugin's own for CHECK and DEL, as with Multus.
fn with_version(mut map: Map<String, Value>, version: &str) -> Map<String, Value> {
    let none = json::get(&map, "cniVersion").and_then(Value::as_str).is_none_or(str::is_empty);
    if none && json::get(&map, "type").is_none() {
        map.retain(|key, _| !json::same_key(key, "cniVersion"));
        map.insert("cniVersion".into(), version.into());
    }
    map
}
