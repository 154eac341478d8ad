//! What tests of this room share: a context in a directory of their own, and an API server whose objects change.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::context::Context;
use super::metrics::Metrics;
use crate::api::testing::{Fake, Reply, Seen, kubeconfig, status};
use crate::nad::Nad;
use crate::store::Dirs;

/// In a directory of the test's own, with a kubeconfig there that need not exist.
pub fn context(dir: &Path) -> Context {
    let (turn, end) = tokio::sync::watch::channel(false);
    // Without its sender the agent would have ended.
    std::mem::forget(turn);
    Context {
        dirs: Dirs::new(dir.join("run"), dir.join("state")).with_boot("b1"),
        node: "node1".into(),
        metrics: Metrics::default(),
        dry_run: false,
        wanted: Default::default(),
        kubeconfig: Some(dir.join("kubeconfig")),
        known: Arc::default(),
        outbox: Arc::default(),
        end,
    }
}

pub fn nad(name: &str, version: &str) -> Nad {
    Nad {
        namespace: "prod".into(),
        name: name.into(),
        config: format!("{{\"cniVersion\":\"1.0.0\",\"type\":\"trestle\",\"bridge\":\"br-{name}\"}}"),
        resource: None,
        resource_version: version.into(),
    }
}

pub fn nad_object(name: &str, version: &str) -> Value {
    let nad = nad(name, version);
    json!({
        "metadata": {"namespace": "prod", "name": name, "resourceVersion": version},
        "spec": {"config": nad.config},
    })
}

pub fn pod_object(name: &str, uid: &str, annotations: &Value) -> Value {
    let metadata =
        json!({"namespace": "prod", "name": name, "uid": uid, "resourceVersion": "5", "annotations": annotations});
    json!({"metadata": metadata})
}

/// A machine with so many processors, multiqueue, and a NIC on `lan`.
pub fn vmi_object(name: &str, uid: &str, cores: u32) -> Value {
    let nic = json!({"name": "lan", "dhcpOptions": {"tftpServerName": "192.0.2.9"}});
    let devices = json!({"networkInterfaceMultiqueue": true, "interfaces": [nic]});
    json!({
        "metadata": {"namespace": "prod", "name": name, "uid": uid},
        "spec": {"domain": {"cpu": {"cores": cores}, "devices": devices}},
    })
}

/// Until it is so, for at most ten seconds.
pub async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < Duration::from_secs(10), "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[derive(Default)]
struct State {
    /// By path.
    objects: BTreeMap<String, Value>,
    /// Of each collection's last watch.
    watches: BTreeMap<&'static str, Sender<String>>,
    /// What it answers to whatever is asked.
    trouble: Option<u16>,
    /// What it answers to a patch.
    patches: Option<u16>,
    expired: BTreeSet<&'static str>,
    told: Vec<String>,
}

/// A server with lists, watches, objects, patches and Events.
#[derive(Clone)]
pub struct Cluster {
    state: Arc<Mutex<State>>,
    pub fake: Arc<Fake>,
}

const NADS: &str = "/apis/k8s.cni.cncf.io/v1";
const PODS: &str = "/api/v1";

impl Cluster {
    /// With a kubeconfig in `dir`.
    pub fn new(dir: &Path) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let inner = state.clone();
        let fake = Fake::new(move |seen| inner.lock().unwrap().answer(seen));
        kubeconfig(dir, &json!({"server": fake.url()}), &json!({}));
        Self { state, fake: Arc::new(fake) }
    }

    pub fn put_nad(&self, object: &Value) {
        self.put(NADS, "network-attachment-definitions", object, "ADDED");
    }

    pub fn put_pod(&self, object: &Value) {
        self.put(PODS, "pods", object, "MODIFIED");
    }

    pub fn put_vmi(&self, object: &Value) {
        let path = path("/apis/kubevirt.io/v1", "virtualmachineinstances", object);
        self.state.lock().unwrap().objects.insert(path, object.clone());
    }

    /// Without a word to the watches.
    pub fn put_silently(&self, object: &Value) {
        let path = path(PODS, "pods", object);
        self.state.lock().unwrap().objects.insert(path, object.clone());
    }

    pub fn remove_nad(&self, object: &Value) {
        let mut state = self.state.lock().unwrap();
        state.objects.remove(&path(NADS, "network-attachment-definitions", object));
        state.send(NADS, "DELETED", object);
    }

    fn put(&self, group: &'static str, plural: &str, object: &Value, kind: &str) {
        let mut state = self.state.lock().unwrap();
        state.objects.insert(path(group, plural, object), object.clone());
        state.send(group, kind, object);
    }

    /// Whatever is asked, this is the answer; watches are cut.
    pub fn fail(&self, code: Option<u16>) {
        let mut state = self.state.lock().unwrap();
        state.trouble = code;
        state.watches.clear();
    }

    pub fn fail_patches(&self, code: Option<u16>) {
        self.state.lock().unwrap().patches = code;
    }

    /// The next watches are told that their version is too old.
    pub fn expire(&self) {
        let mut state = self.state.lock().unwrap();
        state.expired = BTreeSet::from([NADS, PODS]);
        state.watches.clear();
    }

    /// The objects of the Events that it took, `KIND NAME` each.
    pub fn told(&self) -> Vec<String> {
        self.state.lock().unwrap().told.clone()
    }

    pub fn asked(&self, method: &str, part: &str) -> Vec<Seen> {
        self.fake.seen().into_iter().filter(|s| s.method == method && s.path.contains(part)).collect()
    }
}

fn path(group: &str, plural: &str, object: &Value) -> String {
    let of = |key: &str| object["metadata"][key].as_str().unwrap();
    format!("{group}/namespaces/{}/{plural}/{}", of("namespace"), of("name"))
}

impl State {
    fn send(&mut self, group: &'static str, kind: &str, object: &Value) {
        if let Some(watch) = self.watches.get(group) {
            // A watch that was cut.
            let _ = watch.send(format!("{}\n", json!({"type": kind, "object": object})));
        }
    }

    fn answer(&mut self, seen: &Seen) -> Reply {
        if let Some(code) = self.trouble {
            return status(code, "not now");
        }
        match (seen.method.as_str(), seen.path.split('?').next().unwrap()) {
            ("PATCH", path) => match self.patches {
                Some(code) => status(code, "no"),
                None if self.objects.contains_key(path.trim_end_matches("/status")) => Reply::Json(200, json!({})),
                None => status(404, "no such pod"),
            },
            ("POST", _) => {
                let object = &seen.json()["involvedObject"];
                let part = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
                self.told.push(format!("{} {}", part("kind"), part("name")));
                Reply::Json(201, json!({}))
            }
            ("GET", "/api/v1/pods") => self.collection(PODS, "/pods/", seen),
            ("GET", path) if path.ends_with("/network-attachment-definitions") => {
                self.collection(NADS, "/network-attachment-definitions/", seen)
            }
            (_, path) => match self.objects.get(path) {
                Some(object) => Reply::Json(200, object.clone()),
                None => status(404, "not found"),
            },
        }
    }

    fn collection(&mut self, group: &'static str, part: &str, seen: &Seen) -> Reply {
        if !seen.path.contains("watch=1") {
            let items: Vec<&Value> = self.objects.iter().filter(|(p, _)| p.contains(part)).map(|(_, o)| o).collect();
            return Reply::Json(200, json!({"metadata": {"resourceVersion": "100"}, "items": items}));
        }
        if self.expired.remove(group) {
            return status(410, "too old resource version");
        }
        let (send, receive) = channel();
        self.watches.insert(group, send);
        Reply::Pieces(receive)
    }
}
