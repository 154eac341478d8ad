//! Whom the meta plugin asks and tells outside this call: pod facts and NADs (`resolve`), devices (`devices`), status
//! and Events (`api`). The one file of this room that calls them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::annotation::{self, StatusEntry};
use crate::api::{Api, Event, Limits, Told};
use crate::cni::Call;
use crate::devices::{self, Devices, Objects, Places};
use crate::nad::Nad;
use crate::resolve::{Pod, Sources, pod_facts};
use crate::store::{Dirs, NodeConfig, Pending};
use crate::types::{Code, ContainerId, Failure, IfName, Outcome, PodRef};

use super::Env;
use super::config::{Cluster, MetaConf};

const COMPONENT: &str = "trestle";

/// The API server, if a kubeconfig or the environment names one. Nothing is sent yet.
pub fn open(conf: &MetaConf, node: &NodeConfig, env: Env<'_>) -> Outcome<Option<Api>> {
    Api::open(conf.kubeconfig.as_deref(), env, Limits::new(node.api_timeout))
}

pub struct World<'a> {
    call: &'a Call,
    dirs: &'a Dirs,
    api: Option<&'a Api>,
    sources: Sources<'a>,
    places: Places,
    /// Each NAD is asked for once.
    nads: RefCell<BTreeMap<(String, String), Nad>>,
}

impl<'a> World<'a> {
    pub fn new(call: &'a Call, dirs: &'a Dirs, api: Option<&'a Api>) -> Self {
        let sources = Sources::new(call, dirs, api);
        Self { call, dirs, api, sources, places: Places::default(), nads: RefCell::default() }
    }

    /// Where nobody is configured whom to ask, inline delegates are all there is, as with Multus. Otherwise a pod whose
    /// wishes are not known must not start.
    pub async fn pod(&self, conf: &MetaConf) -> Outcome<Pod> {
        match self.sources.pod().await {
            Err(e) if e.code == Code::NoSource && matches!(conf.cluster, Cluster::Inline(_)) => {
                tracing::warn!("nobody tells what the pod asks for: only the delegates are attached");
                Ok(Pod { facts: pod_facts(self.call)?, ..Pod::default() })
            }
            other => other,
        }
    }

    pub async fn nad(&self, namespace: &str, name: &str) -> Outcome<Nad> {
        let key = (namespace.to_owned(), name.to_owned());
        let known = self.nads.borrow().get(&key).cloned();
        if let Some(nad) = known {
            return Ok(nad);
        }
        let nad = self.sources.nad(namespace, name).await?;
        self.nads.borrow_mut().insert(key, nad.clone());
        Ok(nad)
    }

    pub fn claims<'p>(&self, pod: &'p Pod) -> Option<Claims<'a, 'p>> {
        self.api.map(|api| Claims { api, pod: pod.object.as_ref() })
    }

    /// All networks of the pod draw from one supply, which is not asked for before one needs it.
    pub fn devices<'d>(
        &'d self,
        pod: Option<&'d PodRef>,
        claims: Option<&'d Claims<'a, 'd>>,
    ) -> Option<Devices<'d, Claims<'a, 'd>>> {
        pod.map(|pod| Devices::new(pod, &self.places, claims))
    }

    /// One patch. A pod that is gone, or has been replaced, needs no status and is no failure.
    pub async fn tell(&self, pod: &Pod, entries: &[StatusEntry]) -> Outcome<()> {
        let (Some(api), Some(about)) = (self.api, &pod.known) else { return Ok(()) };
        // Results of versions before 0.3.0 name no interface. Nothing is not told, as with Multus.
        if entries.is_empty() {
            return Ok(());
        }
        let text = annotation::status_text(entries);
        if !self.sources.stale().is_empty() {
            return self.keep_untold(about, &text);
        }
        match api.patch_annotation(about, annotation::STATUS, &text).await? {
            Told::Done => {}
            told @ (Told::Gone | Told::Replaced) => {
                tracing::warn!(?told, "no status written: not this pod any more");
            }
        }
        Ok(())
    }

    /// The pod's networks came from copies, because the API server does not answer: asked again, it would use up the
    /// call's time. The status is put down for the agent, until the pod goes.
    fn keep_untold(&self, pod: &PodRef, text: &str) -> Outcome<()> {
        let (Some(container), Some(ifname)) = (&self.call.container, &self.call.ifname) else { return Ok(()) };
        tracing::warn!(%pod, "the network-status is not told yet: the API server does not answer");
        let kept = json!({"version": 1, "pod": pod, "status": text, "stale": self.sources.stale()});
        Pending::untold(self.dirs).write(container, ifname, &kept)
    }

    /// A refusal or failure, onto the pod. It must not hide its own cause.
    pub async fn complain(&self, pod: Option<&PodRef>, failure: &Failure) {
        let Some(about) = pod else { return };
        if matches!(failure.code, Code::ApiUnreachable | Code::ApiRefused | Code::PodMissing | Code::PodReplaced) {
            return;
        }
        // The name that Multus gives the one kind of which it speaks.
        let reason = if failure.code == Code::NadMissing { "NoNetworkFound" } else { "NetworkNotAttached" };
        self.event(about, reason, &failure.to_string()).await;
    }

    /// Best effort.
    async fn event(&self, about: &PodRef, reason: &str, message: &str) {
        let Some(api) = self.api else { return };
        let event = Event { about, reason, message, warning: true, component: COMPONENT };
        if let Err(failure) = api.event(&event).await {
            tracing::warn!(%failure, "the Event is lost");
        }
    }
}

/// The API server, as `devices` asks it; a pod that has been read is not read again.
pub struct Claims<'a, 'p> {
    api: &'a Api,
    pod: Option<&'p Value>,
}

impl Objects for Claims<'_, '_> {
    async fn pod(&self, pod: &PodRef) -> Outcome<Option<Value>> {
        match self.pod {
            Some(known) => Ok(Some(known.clone())),
            None => self.api.get_pod(&pod.namespace, &pod.name).await,
        }
    }

    async fn claim(&self, namespace: &str, name: &str) -> Outcome<Option<Value>> {
        self.api.get_claim(namespace, name).await
    }

    async fn slices(&self, node: &str, driver: &str) -> Outcome<Vec<Value>> {
        self.api.list_slices(node, driver).await
    }
}

/// Where a network's plugins find, and leave, what is known of its device.
pub fn info_file(network: &str, container: &ContainerId, ifname: &IfName) -> PathBuf {
    Places::default().info_file(network, container, ifname)
}

/// The device plugin's words for the CNI plugin. As with Multus, nothing hangs on them.
pub fn hand_over_info(resource: &str, device: &str, to: &Path) {
    if let Err(failure) = Places::default().copy_info(resource, device, to) {
        tracing::warn!(%failure, "what is known of the device is not handed over");
    }
}

pub fn read_info(file: &Path) -> Option<Value> {
    devices::device_info(file).unwrap_or_else(|failure| {
        tracing::warn!(%failure, "the device is not shown in the status");
        None
    })
}

pub fn remove_info(file: &Path) {
    if let Err(failure) = devices::forget_info(file) {
        tracing::warn!(%failure, "left where it is");
    }
}
