//! What the watches have seen: NADs, and this node's pods reduced to what the plugin asks for.
//!
//! Written by `watch`, read by `answers` and `tell`. Says how far it is to be trusted, and knows neither the API server nor
//! files.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::vmi::Machines;
use crate::nad::Nad;
use crate::protocol::{Name, is_read};
use crate::vmi::Owner;

/// A pod of this node.
#[derive(Debug, Clone, PartialEq)]
pub struct Pod {
    pub uid: String,
    pub annotations: BTreeMap<String, String>,
    /// The virtual machine instance that owns it.
    pub vmi: Option<Owner>,
    /// It is being deleted: another one of its name may be there already.
    pub leaving: bool,
}

impl Pod {
    /// `metadata` of an object is enough.
    pub fn of_object(object: &Value) -> Option<(Name, Self)> {
        let metadata = object.get("metadata")?;
        let text = |key: &str| metadata.get(key).and_then(Value::as_str).map(str::to_owned);
        let name = name_of(object)?;
        let annotations = metadata.get("annotations").and_then(Value::as_object);
        let annotations = annotations.into_iter().flatten().filter(|(key, _)| is_read(key));
        let annotations = annotations.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect();
        let leaving = metadata.get("deletionTimestamp").is_some_and(|t| !t.is_null());
        Some((name, Self { uid: text("uid")?, annotations, vmi: Owner::of_pod(metadata), leaving }))
    }

    /// Written by kubelet itself: what the API server has is its mirror, of another UID.
    pub fn is_mirror(&self) -> bool {
        self.annotations.get("kubernetes.io/config.source").is_some_and(|s| s != "api")
    }
}

pub fn name_of(object: &Value) -> Option<Name> {
    let text = |key: &str| object.pointer(&format!("/metadata/{key}")).and_then(Value::as_str).map(str::to_owned);
    Some(Name { namespace: text("namespace")?, name: text("name")? })
}

/// How a watch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It runs: what is known is true, but for some milliseconds.
    True,
    /// What is known was true so long ago.
    Stale(Duration),
    /// Nothing has come yet.
    Nothing,
}

#[derive(Debug, Default)]
struct Standing {
    runs: bool,
    ran: Option<Instant>,
}

impl Standing {
    fn trust(&self) -> Trust {
        match (self.runs, self.ran) {
            (true, _) => Trust::True,
            (false, Some(at)) => Trust::Stale(at.elapsed()),
            (false, None) => Trust::Nothing,
        }
    }

    fn set(&mut self, runs: bool) {
        if runs || self.runs {
            self.ran = Some(Instant::now());
        }
        self.runs = runs;
    }
}

/// A collection by name, and whether its watch runs.
#[derive(Debug)]
pub struct Watched<T> {
    all: RwLock<HashMap<Name, T>>,
    standing: Mutex<Standing>,
}

impl<T> Default for Watched<T> {
    fn default() -> Self {
        Self { all: RwLock::default(), standing: Mutex::default() }
    }
}

impl<T: Clone> Watched<T> {
    pub fn get(&self, name: &Name) -> Option<T> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub fn put(&self, name: Name, what: T) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).insert(name, what);
    }

    pub fn remove(&self, name: &Name) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// A list has come to its end: what was not in it is gone.
    pub fn keep_only(&self, names: &BTreeSet<Name>) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).retain(|name, _| names.contains(name));
    }

    pub fn len(&self) -> usize {
        self.all.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn trust(&self) -> Trust {
        self.standing().trust()
    }

    pub fn set_running(&self, runs: bool) {
        self.standing().set(runs);
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
pub struct Known {
    pub nads: Watched<Nad>,
    pub pods: Watched<Pod>,
    pub machines: Machines,
    /// NADs whose copies on disk are not what they should be.
    pub unkept: Mutex<BTreeSet<Name>>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object() -> Value {
        json!({"metadata": {
            "namespace": "prod", "name": "virt-launcher-db-abcde", "uid": "u1",
            "annotations": {"kubevirt.io/domain": "db", "k8s.v1.cni.cncf.io/network-status": "[...]", "other": "x"},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": "r"},
                {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "db", "uid": "v1"},
            ],
        }})
    }

    #[test]
    fn of_a_pod_is_kept_what_is_asked_for() {
        let (name, pod) = Pod::of_object(&object()).unwrap();
        assert_eq!((name.namespace.as_str(), name.name.as_str()), ("prod", "virt-launcher-db-abcde"));
        assert_eq!(pod.annotations.keys().collect::<Vec<_>>(), ["kubevirt.io/domain"]);
        assert_eq!(pod.vmi, Some(Owner { name: "db".into(), uid: "v1".into() }));
        assert!(!pod.leaving && !pod.is_mirror());
        let mut leaving = object();
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        leaving["metadata"]["annotations"] = json!({"kubernetes.io/config.source": "file"});
        leaving["metadata"]["ownerReferences"] = json!([]);
        let (_, pod) = Pod::of_object(&leaving).unwrap();
        assert!(pod.leaving && pod.is_mirror() && pod.vmi.is_none());
        assert_eq!(Pod::of_object(&json!({"metadata": {"name": "x"}})), None);
    }

    #[test]
    fn trust_ends_with_the_watch() {
        let known = Known::default();
        assert_eq!(known.pods.trust(), Trust::Nothing);
        known.pods.set_running(false);
        assert_eq!(known.pods.trust(), Trust::Nothing, "it never ran");
        known.pods.set_running(true);
        assert_eq!(known.pods.trust(), Trust::True);
        known.pods.set_running(false);
        assert!(matches!(known.pods.trust(), Trust::Stale(age) if age < Duration::from_secs(60)));
    }

    #[test]
    fn a_list_ends_what_is_not_in_it() {
        let known = Known::default();
        let (name, pod) = Pod::of_object(&object()).unwrap();
        let other = Name { namespace: "prod".into(), name: "web".into() };
        known.pods.put(name.clone(), pod.clone());
        known.pods.put(other.clone(), pod);
        known.pods.keep_only(&BTreeSet::from([other.clone()]));
        assert!(known.pods.get(&name).is_none() && known.pods.get(&other).is_some() && known.pods.len() == 1);
        known.pods.remove(&other);
        assert_eq!(known.pods.len(), 0);
    }
}
