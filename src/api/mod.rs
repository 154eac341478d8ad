//! The API server: reads of pods, NADs and device claims, lists and watches, the patch of a pod's network-status, Events.
//!
//! Requests are counted: one GET for each object asked for, one PATCH for a status, more only where the server failed or
//! somebody else wrote at the same time. Nothing is sent, no name is looked up and no TLS is set up before the first
//! question. What an answer means is not this room's business; it knows no CNI and no rule.
//!
//! The runtime must have I/O and time enabled.

mod ask;
mod asked;
mod connect;
mod event;
mod names;
mod node;
mod settings;
mod watch;

#[cfg(test)]
pub mod testing;

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use self::ask::{Answer, JSON, Question};
use self::settings::{Env, Settings};
use crate::types::{Outcome, PodRef};

pub use self::asked::{Asked, Count};
pub use self::event::{Event, On};
pub use self::watch::{Change, Collection, Listed, Watch};

const MERGE: &str = "application/merge-patch+json";
/// Others' writes between ours; more than this many in a row is no coincidence.
const CONFLICTS: u32 = 10;

/// How long a call waits for the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For a connection, with name and TLS.
    pub connect: Duration,
    /// For one answer.
    pub request: Duration,
    /// For all questions of one [`Api`] together; what a caller does between them does not count.
    pub total: Duration,
}

impl Limits {
    /// `total`: `apiTimeout` of `node.json`.
    pub fn new(total: Option<Duration>) -> Self {
        let total = total.unwrap_or(Duration::from_secs(7));
        Self { connect: Duration::from_secs(3).min(total), request: Duration::from_secs(5).min(total), total }
    }
}

/// What came of telling a pod's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Done,
    /// No such pod any more.
    Gone,
    /// A pod of that name, but another one.
    Replaced,
}

/// For one runtime: connections live in it. For one call of the plugin, or for a program that stays.
pub struct Api {
    settings: Settings,
    limits: Limits,
    client: OnceCell<kube::Client>,
    /// Of the time for all questions; none is kept where each has its own.
    spent: Option<Mutex<Duration>>,
    count: Option<Count>,
}

impl Api {
    /// By the kubeconfig, else by what the environment says of a pod; `None` where neither is there.
    pub fn open(kubeconfig: Option<&Path>, env: Env<'_>, limits: Limits) -> Outcome<Option<Self>> {
        let found = Settings::find(kubeconfig, env)?;
        let spent = || Some(Mutex::default());
        Ok(found.map(|settings| Self { settings, limits, client: OnceCell::new(), spent: spent(), count: None }))
    }

    /// For a program that stays: the limit in all is each question's own.
    pub fn lasting(self) -> Self {
        Self { spent: None, ..self }
    }

    /// Each request is told to somebody who counts.
    pub fn counted(self, count: Count) -> Self {
        Self { count: Some(count), ..self }
    }

    pub async fn get_pod(&self, namespace: &str, name: &str) -> Outcome<Option<Value>> {
        self.get("pod", "/api/v1", namespace, "pods", name).await
    }

    pub async fn get_nad(&self, namespace: &str, name: &str) -> Outcome<Option<Value>> {
        const KIND: &str = "network-attachment-definition";
        self.get(KIND, "/apis/k8s.cni.cncf.io/v1", namespace, "network-attachment-definitions", name).await
    }

    pub async fn get_vmi(&self, namespace: &str, name: &str) -> Outcome<Option<Value>> {
        const KIND: &str = "virtualmachineinstance";
        self.get(KIND, "/apis/kubevirt.io/v1", namespace, "virtualmachineinstances", name).await
    }

    /// A ResourceClaim of Kubernetes 1.34 or later.
    pub async fn get_claim(&self, namespace: &str, name: &str) -> Outcome<Option<Value>> {
        self.get("resourceclaim", "/apis/resource.k8s.io/v1", namespace, "resourceclaims", name).await
    }

    /// The ResourceSlices that a driver wrote for a node.
    pub async fn list_slices(&self, node: &str, driver: &str) -> Outcome<Vec<Value>> {
        let what = format!("list resourceslices of {driver} on {node}");
        if !is_name(node) || !is_name(driver) {
            return Ok(Vec::new());
        }
        let path = format!(
            "/apis/resource.k8s.io/v1/resourceslices?fieldSelector=spec.nodeName%3D{node}%2Cspec.driver%3D{driver}"
        );
        let answer = self.ask(&Question::get(what.clone(), path)).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(Vec::new());
        }
        let mut list = self.value(&what, &answer)?;
        match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }

    async fn get(&self, kind: &str, group: &str, ns: &str, plural: &str, name: &str) -> Outcome<Option<Value>> {
        // No object has such a name, and in a path it could mean another one.
        if !is_name(ns) || !is_name(name) {
            return Ok(None);
        }
        let what = format!("get {kind} {ns}/{name}");
        let path = format!("{group}/namespaces/{ns}/{plural}/{name}");
        let answer = self.ask(&Question::get(what.clone(), path)).await?;
        if answer.status == StatusCode::NOT_FOUND { Ok(None) } else { self.value(&what, &answer).map(Some) }
    }

    /// One merge patch of one annotation. It carries the pod's UID where that is known, so that the server refuses it
    /// for another pod of the same name.
    pub async fn patch_annotation(&self, pod: &PodRef, key: &str, text: &str) -> Outcome<Told> {
        if !is_name(&pod.namespace) || !is_name(&pod.name) {
            return Ok(Told::Gone);
        }
        let mut metadata = json!({"annotations": {key: text}});
        if let Some(uid) = &pod.uid {
            metadata["uid"] = json!(uid);
        }
        let question = Question {
            what: format!("patch the status of pod {pod}"),
            method: Method::PATCH,
            path: format!("/api/v1/namespaces/{}/pods/{}/status", pod.namespace, pod.name),
            accept: JSON,
            media: MERGE,
            body: json!({"metadata": metadata}).to_string().into_bytes(),
        };
        let mut tries = 0;
        loop {
            let answer = self.ask(&question).await?;
            tries += 1;
            match answer.status {
                StatusCode::NOT_FOUND => return Ok(Told::Gone),
                StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => {}
                _ => return Ok(Told::Done),
            }
            if let Some(told) = self.other_pod(pod).await? {
                return Ok(told);
            }
            if answer.status != StatusCode::CONFLICT || tries == CONFLICTS {
                return Err(self.refused(&question, &answer));
            }
        }
    }

    /// Whether a refused patch met another pod than ours, or none.
    async fn other_pod(&self, pod: &PodRef) -> Outcome<Option<Told>> {
        let Some(uid) = &pod.uid else { return Ok(None) };
        let Some(now) = self.get_pod(&pod.namespace, &pod.name).await? else { return Ok(Some(Told::Gone)) };
        let same = now.pointer("/metadata/uid").and_then(Value::as_str) == Some(uid);
        Ok((!same).then_some(Told::Replaced))
    }

    /// Tells a person who looks at the pod. A pod that is gone is no failure.
    pub async fn event(&self, event: &Event<'_>) -> Outcome<()> {
        let pod = event.about;
        if !is_name(&pod.namespace) {
            return Ok(());
        }
        let question = Question {
            what: format!("create the event {} of pod {pod}", event.reason),
            method: Method::POST,
            path: format!("/api/v1/namespaces/{}/events", pod.namespace),
            accept: JSON,
            media: JSON,
            body: event.object(jiff::Timestamp::now()).to_string().into_bytes(),
        };
        let answer = self.ask(&question).await?;
        // The name is our own: it is there after an answer that got lost. Not found: the namespace is.
        let done = answer.status.is_success() || matches!(answer.status, StatusCode::CONFLICT | StatusCode::NOT_FOUND);
        if done { Ok(()) } else { Err(self.refused(&question, &answer)) }
    }

    fn value(&self, what: &str, answer: &Answer) -> Outcome<Value> {
        if !answer.status.is_success() {
            return Err(self.refusal(what, answer));
        }
        serde_json::from_slice(&answer.body).map_err(|e| self.not_json(what, &e))
    }
}

/// What may be a namespace's, a pod's, a NAD's name (RFC 1123), and so is one segment of a path.
fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    !name.is_empty() && name.len() <= 253 && name.bytes().all(plain) && !name.starts_with('.')
}

#[cfg(test)]
mod tests;
