//! The devices of a pod, for networks whose NetworkAttachmentDefinition names a resource: which ids the pod was given,
//! and the files in which device plugins describe them.
//!
//! Kubelet's socket tells it, or, where there is no socket, kubelet's checkpoint; both with the claims of dynamic
//! resource allocation on top. What a plugin does with a device is not known here, nor how the API server is reached:
//! its objects come in through [`Objects`].

mod checkpoint;
mod dra;
mod info;
mod kubelet;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

pub use dra::Objects;
pub use info::{device_info, forget_info};

use crate::types::{Outcome, PodRef};

/// How long kubelet has for its answer, all attempts together.
const PATIENCE: Duration = Duration::from_secs(10);

/// Resource name to the ids of its devices, in the order in which they are given away.
type Supply = BTreeMap<String, BTreeSet<String>>;

/// Where kubelet and device plugins have their files.
#[derive(Debug, Clone)]
pub struct Places {
    pub socket: PathBuf,
    pub checkpoint: PathBuf,
    /// Has `dp`, where device plugins write, and `cni`, for the plugins of the pods.
    pub info: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            socket: "/var/lib/kubelet/pod-resources/kubelet.sock".into(),
            checkpoint: "/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint".into(),
            info: "/var/run/k8s.cni.cncf.io/devinfo".into(),
        }
    }
}

/// The devices of one pod, each given away once. One value serves a whole ADD: the default network and all others take
/// from the same supply.
pub struct Devices<'a, O> {
    pod: &'a PodRef,
    places: &'a Places,
    objects: Option<&'a O>,
    /// Nobody is asked before a network needs a device.
    supply: Option<Supply>,
}

impl<'a, O: Objects> Devices<'a, O> {
    /// Without objects there are no claims: only kubelet is asked.
    pub fn new(pod: &'a PodRef, places: &'a Places, objects: Option<&'a O>) -> Self {
        Self { pod, places, objects, supply: None }
    }

    /// The next device of that resource. `None`: the pod has no more of them, and the network is made without, as
    /// Multus does it.
    pub async fn take(&mut self, resource: &str) -> Outcome<Option<String>> {
        if resource.is_empty() {
            return Ok(None);
        }
        let supply = match &mut self.supply {
            Some(supply) => supply,
            None => self.supply.insert(found(self.pod, self.places, self.objects).await?),
        };
        let device = supply.get_mut(resource).and_then(BTreeSet::pop_first);
        match &device {
            Some(id) => tracing::debug!(resource, device = id, "device for the network"),
            None if supply.contains_key(resource) => {
                tracing::warn!(resource, "the pod has fewer devices than networks: this one is made without");
            }
            None => tracing::warn!(resource, "the pod has no device of the network's resource"),
        }
        Ok(device)
    }
}

async fn found<O: Objects>(pod: &PodRef, places: &Places, objects: Option<&O>) -> Outcome<Supply> {
    let mut supply = if places.socket.exists() {
        kubelet::list(&places.socket, pod, PATIENCE).await?
    } else {
        checkpoint::read(&places.checkpoint, pod)?
    };
    if let Some(objects) = objects {
        dra::add(objects, pod, &mut supply).await?;
    }
    Ok(supply)
}

/// Devices of a resource are a set: kubelet lets an app container use an init container's again, and tells both.
fn put(supply: &mut Supply, resource: &str, ids: impl IntoIterator<Item = String>) {
    match supply.get_mut(resource) {
        Some(known) => known.extend(ids),
        None => drop(supply.insert(resource.to_owned(), ids.into_iter().collect())),
    }
}
