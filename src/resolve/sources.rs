//! Whom to ask for a pod's facts and for NADs, and in which order: the agent; what the runtime handed over, and copies
//! that the agent vouches for; the API server. A copy that nobody vouches for serves only while that does not answer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::agent::{Agent, is_certain};
use super::copies::{Copies, Copy};
use super::pod_facts;
use crate::api::Api;
use crate::cni::Call;
use crate::nad::Nad;
use crate::plan::PodFacts;
use crate::protocol::{AskPod, Found, Is, Name, Vmi};
use crate::store::Dirs;
use crate::types::{Code, Failure, Outcome, PodRef};

/// Says of a pod whether it came by the API server; kubelet's own pods did not, and have another UID there.
const SOURCE: &str = "kubernetes.io/config.source";

/// A pod, as far as somebody told.
#[derive(Debug, Clone, Default)]
pub struct Pod {
    /// Annotations are there wherever the pod is one of Kubernetes.
    pub facts: PodFacts,
    /// By what the API server knows it; without a UID where that is not known. For its status and its Events.
    pub known: Option<PodRef>,
    /// The API server's object, where that was asked.
    pub object: Option<Value>,
}

/// What a configuration names for each pod, beside what the pod's annotations name.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Where a default network lives that is named without a namespace.
    pub home: String,
    /// They may be objects.
    pub also: Vec<Name>,
}

/// For one call.
pub struct Sources<'a> {
    call: &'a Call,
    api: Option<&'a Api>,
    agent: Agent,
    /// What the agent told of networks together with the pod.
    told: RefCell<Vec<Found>>,
    /// And of the machine that owns it.
    machine: RefCell<Option<Option<Vmi>>>,
    copies: Copies<'a>,
    vouched: RefCell<Option<bool>>,
    stale: RefCell<Vec<String>>,
}

impl<'a> Sources<'a> {
    pub fn new(call: &'a Call, dirs: &'a Dirs, api: Option<&'a Api>) -> Self {
        let (agent, copies) = (Agent::new(dirs), Copies::new(dirs));
        let (told, machine) = (RefCell::default(), RefCell::default());
        let (vouched, stale) = (RefCell::default(), RefCell::default());
        Self { call, api, agent, told, machine, copies, vouched, stale }
    }

    /// The call's pod. Where no pod of Kubernetes is named, nobody is asked. `wish`: what the configuration names besides,
    /// so that the agent is asked once for all.
    pub async fn pod(&self, wish: &Wish) -> Outcome<Pod> {
        let facts = pod_facts(self.call)?;
        let named = facts.pod.clone().filter(|p| !p.name.is_empty() && !p.namespace.is_empty());
        let Some(pod) = named else { return Ok(Pod { facts, known: None, object: None }) };
        let ask = AskPod { pod: pod.clone(), home: wish.home.clone(), also: wish.also.clone() };
        if let Some(told) = self.agent.pod(ask).await? {
            self.told.replace(told.networks);
            self.machine.replace(Some(told.vmi));
            return Ok(of_agent(facts, told.pod, told.annotations));
        }
        if let Some(annotations) = &facts.annotations {
            let uid = pod.uid.clone().filter(|_| !is_static(annotations));
            return Ok(Pod { known: Some(PodRef { uid, ..pod }), facts, object: None });
        }
        let Some(api) = self.api else { return Err(self.nobody_tells(&pod)) };
        let object = api.get_pod(&pod.namespace, &pod.name).await?;
        let object = object.ok_or_else(|| {
            Failure::new(Code::PodMissing, format!("pod {pod} is not there")).remedy("nothing: the pod was deleted")
        })?;
        of_object(facts, &pod, object)
    }

    /// A NAD. One that is not there is a failure which names it.
    pub async fn nad(&self, namespace: &str, name: &str) -> Outcome<Nad> {
        let doubt = match self.by_agent(namespace, name).await? {
            Ok(nad) => return Ok(nad),
            Err(doubt) => doubt,
        };
        if self.vouched()
            && let Some(copy) = self.copies.read(namespace, name)
        {
            tracing::debug!(namespace, name, "copy on disk, vouched for by the agent");
            return Ok(copy.nad);
        }
        let Some(api) = self.api else {
            let msg = format!("network {namespace}/{name}: no agent, and no API server is configured");
            let nobody = || Failure::new(Code::NoSource, msg).remedy("start the agent, or name a kubeconfig");
            return Err(doubt.map_or_else(nobody, |failure| failure.at(format_args!("network {namespace}/{name}"))));
        };
        match api.get_nad(namespace, name).await {
            Ok(Some(object)) => {
                let nad = Nad::from_object(&object)?;
                self.copies.write(&nad);
                Ok(nad)
            }
            Ok(None) => {
                self.copies.forget(namespace, name);
                let msg = format!("NetworkAttachmentDefinition {namespace}/{name} is not there");
                Err(Failure::new(Code::NadMissing, msg).remedy("create it, or correct what names it"))
            }
            Err(failure) if failure.code == Code::ApiUnreachable => match self.copies.read(namespace, name) {
                Some(copy) => Ok(self.serve_stale(copy, &failure)),
                None => Err(failure.at(format_args!("network {namespace}/{name}"))),
            },
            Err(failure) => Err(failure.at(format_args!("network {namespace}/{name}"))),
        }
    }

    /// Sentences about networks that came from copies which may be out of date: the API server did not answer.
    pub fn stale(&self) -> Vec<String> {
        self.stale.borrow().clone()
    }

    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    pub(super) fn api(&self) -> Option<&Api> {
        self.api
    }

    /// Whom the agent named as the pod's owner; `None`: it has told of no pod.
    pub(super) fn machine(&self) -> Option<Option<Vmi>> {
        self.machine.borrow().clone()
    }

    fn nobody_tells(&self, pod: &PodRef) -> Failure {
        if self.agent.is_expected() {
            let msg = format!(
                "pod {pod}: the agent of this node does not tell what it asks for; no annotations from the runtime, no API server"
            );
            return Failure::new(Code::NoSource, msg).remedy(self.agent.remedy());
        }
        let msg = format!("pod {pod}: no annotations from the runtime, no agent, no API server");
        Failure::new(Code::NoSource, msg).remedy(
            "let the runtime hand pod annotations over (capability io.kubernetes.cri.pod-annotations), or name a kubeconfig",
        )
    }

    /// Inside: why it does not know; no reason where it is not there.
    async fn by_agent(&self, namespace: &str, name: &str) -> Outcome<Result<Nad, Option<Failure>>> {
        let name = Name { namespace: namespace.into(), name: name.into() };
        let told = self.told.borrow().iter().find(|f| f.name == name).cloned();
        let found = match told {
            Some(found) => Some(found),
            None => self.agent.network(&name).await,
        };
        match found.map(|f| f.is) {
            Some(Is::Network(nad)) => Ok(Ok(nad)),
            Some(Is::Stale(nad, age)) => {
                let age = rounded(Duration::from_secs(age));
                tracing::warn!(
                    namespace = nad.namespace,
                    name = nad.name,
                    age,
                    "the agent's word on the network serves: the API server does not answer"
                );
                self.note_stale(&nad, &format!("as the agent knew it {age} ago"));
                Ok(Ok(nad))
            }
            Some(Is::Error(trouble)) => {
                let failure = Failure::from(trouble);
                if is_certain(failure.code) { Err(failure) } else { Ok(Err(Some(failure))) }
            }
            None => Ok(Err(None)),
        }
    }

    fn note_stale(&self, nad: &Nad, how: &str) {
        self.stale
            .borrow_mut()
            .push(format!("network {}/{} taken {how}: the API server does not answer", nad.namespace, nad.name));
    }

    fn serve_stale(&self, copy: Copy, failure: &Failure) -> Nad {
        let nad = copy.nad;
        let age = rounded(copy.age);
        tracing::warn!(namespace = nad.namespace, name = nad.name, age, %failure, "a copy of the network serves: the API server does not answer");
        self.note_stale(&nad, &format!("from a copy made {age} ago"));
        nad
    }

    /// One answer for the whole call.
    fn vouched(&self) -> bool {
        *self.vouched.borrow_mut().get_or_insert_with(|| self.copies.vouched())
    }
}

fn of_agent(mut facts: PodFacts, known: PodRef, annotations: BTreeMap<String, String>) -> Pod {
    facts.annotations = Some(annotations);
    if let Some(pod) = &mut facts.pod {
        pod.uid = pod.uid.take().or_else(|| known.uid.clone());
    }
    Pod { facts, known: Some(known), object: None }
}

fn of_object(mut facts: PodFacts, asked: &PodRef, mut object: Value) -> Outcome<Pod> {
    let annotations: BTreeMap<String, String> = object
        .pointer("/metadata/annotations")
        .and_then(Value::as_object)
        .map(|map| map.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect())
        .unwrap_or_default();
    let uid = object.pointer("/metadata/uid").and_then(Value::as_str).map(str::to_owned);
    if let (Some(ours), Some(now)) = (&asked.uid, &uid)
        && ours != now
        && !is_static(&annotations)
    {
        let msg = format!("pod {asked} was replaced: its UID is {now}, asked for {ours}");
        return Err(Failure::new(Code::PodReplaced, msg).remedy("nothing: the runtime asks again for the new pod"));
    }
    // The largest part, and of use to nobody here.
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    let known = PodRef { uid: uid.clone(), ..asked.clone() };
    facts.annotations = Some(annotations);
    if let Some(pod) = &mut facts.pod {
        pod.uid = pod.uid.take().or(uid);
    }
    Ok(Pod { facts, known: Some(known), object: Some(object) })
}

fn is_static(annotations: &BTreeMap<String, String>) -> bool {
    annotations.get(SOURCE).is_some_and(|s| s != "api")
}

/// An age for people.
fn rounded(age: Duration) -> String {
    let s = age.as_secs();
    match s {
        0..120 => format!("{s} s"),
        120..7200 => format!("{} min", s / 60),
        7200..172_800 => format!("{} h", s / 3600),
        _ => format!("{} days", s / 86_400),
    }
}

#[cfg(test)]
mod tests;
