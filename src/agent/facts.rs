//! What the plugin is told of a pod and of networks: out of [`super::known::Known`] as far as that is to be trusted, else
//! by the API server, else, of a network, as it was when that answered last.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::context::Context;
use super::known::{Pod, Trust};
use super::vmi;
use crate::annotation;
use crate::api::{Api, Limits};
use crate::nad::Nad;
use crate::plan::PodFacts;
use crate::protocol::{AskPod, Found, Is, Name, OfNics, Told, Trouble, Vmi};
use crate::resolve::Copies;
use crate::types::{Code, Failure, Outcome, PodRef};
use crate::vmi::{Owner, VmiFacts};

/// For all that one answer needs.
pub const LONGEST: Duration = Duration::from_secs(7);

/// After it did not answer one question, the API server is not asked others for so long: a pod with many networks, and a
/// burst of pods, would wait for each of them.
const AWAY: Duration = Duration::from_secs(2);

pub struct Facts {
    ctx: Context,
    api: Api,
    /// The API server did not answer until then.
    away: Mutex<Option<(Instant, Failure)>>,
}

impl Facts {
    pub fn new(ctx: Context) -> Outcome<Self> {
        let part = Duration::from_secs(3);
        let api = ctx.api(Limits { connect: part, request: part, total: part })?;
        Ok(Self { ctx, api, away: Mutex::default() })
    }

    async fn asked<T>(&self, question: impl Future<Output = Outcome<T>>) -> Outcome<T> {
        let since = self.away().as_ref().filter(|(at, _)| at.elapsed() < AWAY).map(|(_, failure)| failure.clone());
        if let Some(failure) = since {
            return Err(failure);
        }
        let answer = question.await;
        if let Err(failure) = &answer
            && failure.code == Code::ApiUnreachable
        {
            *self.away() = Some((Instant::now(), failure.clone()));
        }
        answer
    }

    fn away(&self) -> MutexGuard<'_, Option<(Instant, Failure)>> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the answer needs no question.
    pub fn knows_pod(&self, ask: &AskPod) -> bool {
        let Some(pod) = self.seen(&ask.pod) else { return false };
        let machine = !self.needs_nics(&ask.pod, &pod) || self.ctx.known.machines.get(&pod.uid).is_some();
        let own = wanted(&pod, ask);
        machine
            && own.iter().all(|name| self.knows_network(name, true))
            && ask.also.iter().all(|n| self.knows_network(n, false))
    }

    pub async fn pod(&self, ask: AskPod) -> Outcome<Told> {
        let work = async {
            let pod = match self.seen(&ask.pod) {
                Some(pod) => pod,
                None => self.fetch_pod(&ask.pod).await?,
            };
            let vmi = self.machine(&ask.pod, &pod).await;
            let own = wanted(&pod, &ask);
            let mut networks = Vec::new();
            for name in &own {
                networks.push(self.network(name, true).await);
            }
            for name in ask.also.iter().filter(|name| !own.contains(name)) {
                networks.push(self.network(name, false).await);
            }
            let about = PodRef { uid: Some(pod.uid), ..ask.pod.clone() };
            Ok(Told { pod: about, annotations: pod.annotations, vmi, networks })
        };
        timeout(LONGEST, work).await.unwrap_or_else(|_| Err(too_late(&format!("pod {}", ask.pod))))
    }

    fn needs_nics(&self, about: &PodRef, pod: &Pod) -> bool {
        let annotations = Some(pod.annotations.clone());
        pod.vmi.is_some() && PodFacts { pod: Some(about.clone()), annotations, nics: None }.needs_nics()
    }

    async fn machine(&self, about: &PodRef, pod: &Pod) -> Option<Vmi> {
        let owner = pod.vmi.clone()?;
        if !self.needs_nics(about, pod) {
            return Some(Vmi { owner, nics: None });
        }
        let nics = match self.description(about, pod, &owner).await {
            Ok(facts) => OfNics::Known(facts.nics),
            Err(failure) => OfNics::Error(Trouble::from(&failure)),
        };
        Some(Vmi { owner, nics: Some(nics) })
    }

    async fn description(&self, about: &PodRef, pod: &Pod, owner: &Owner) -> Outcome<VmiFacts> {
        let machines = &self.ctx.known.machines;
        if let Some(facts) = machines.get(&pod.uid) {
            return Ok(facts);
        }
        let facts = self.asked(vmi::ask(&self.api, &about.namespace, owner)).await?;
        machines.put(&pod.uid, facts.clone());
        Ok(facts)
    }

    pub async fn networks(&self, names: Vec<Name>) -> Vec<Found> {
        let mut found = Vec::new();
        let work = async {
            for name in &names {
                found.push(self.network(name, true).await);
            }
        };
        // Those that came in time are told; the plugin asks elsewhere for the others.
        let _ = timeout(LONGEST, work).await;
        found
    }

    /// A pod as the watch has it, if that must be the one that is asked for. One that is leaving may have a follower of
    /// its name; who names no UID may mean that one.
    fn seen(&self, asked: &PodRef) -> Option<Pod> {
        let name = Name { namespace: asked.namespace.clone(), name: asked.name.clone() };
        let pod = self.ctx.known.pods.get(&name)?;
        let same = match &asked.uid {
            Some(uid) => *uid == pod.uid || pod.is_mirror(),
            None => !pod.leaving && self.ctx.known.pods.trust() == Trust::True,
        };
        same.then_some(pod)
    }

    async fn fetch_pod(&self, asked: &PodRef) -> Outcome<Pod> {
        let object = self.asked(self.api.get_pod(&asked.namespace, &asked.name)).await?;
        let pod = object.as_ref().and_then(Pod::of_object).map(|(_, pod)| pod);
        let pod = pod.ok_or_else(|| {
            Failure::new(Code::PodMissing, format!("pod {asked} is not there")).remedy("nothing: the pod was deleted")
        })?;
        match &asked.uid {
            Some(uid) if *uid != pod.uid && !pod.is_mirror() => {
                let msg = format!("pod {asked} was replaced: its UID is {}, asked for {uid}", pod.uid);
                Err(Failure::new(Code::PodReplaced, msg).remedy("nothing: the runtime asks again for the new pod"))
            }
            _ => Ok(pod),
        }
    }

    /// `named`: by a pod, and so it should be there. What a configuration names need not be an object: that it has not been
    /// seen is enough to say that there is none.
    pub fn knows_network(&self, name: &Name, named: bool) -> bool {
        let known = &self.ctx.known.nads;
        known.trust() == Trust::True && (!named || known.get(name).is_some())
    }

    async fn network(&self, name: &Name, named: bool) -> Found {
        let known = self.ctx.known.nads.get(name);
        let trust = self.ctx.known.nads.trust();
        let is = match (trust, known) {
            (Trust::True, Some(nad)) => Is::Network(nad),
            (Trust::True, None) if !named => Is::Error(Trouble::from(&missing(name))),
            (trust, known) => match self.fetch_nad(name, trust).await {
                Ok(nad) => Is::Network(nad),
                Err(failure) => self.once(name, trust, known, &failure).unwrap_or(Is::Error(Trouble::from(&failure))),
            },
        };
        Found { name: name.clone(), is }
    }

    /// What was true once, while the API server does not answer: as this agent knew it, or, where it has heard of nothing
    /// since it was begun, as the one before it wrote it down.
    fn once(&self, name: &Name, trust: Trust, known: Option<Nad>, failure: &Failure) -> Option<Is> {
        if failure.code != Code::ApiUnreachable {
            return None;
        }
        match trust {
            Trust::Stale(age) => known.map(|nad| Is::Stale(nad, age.as_secs())),
            Trust::Nothing => {
                let copy = Copies::new(&self.ctx.dirs).read(&name.namespace, &name.name)?;
                Some(Is::Stale(copy.nad, copy.age.as_secs()))
            }
            Trust::True => None,
        }
    }

    /// Where no watch runs, the copy is kept from here.
    async fn fetch_nad(&self, name: &Name, trust: Trust) -> Outcome<Nad> {
        let object = self.asked(self.api.get_nad(&name.namespace, &name.name)).await?;
        let nad = object.as_ref().map(Nad::from_object).transpose()?;
        let copies = Copies::new(&self.ctx.dirs);
        match &nad {
            Some(nad) if trust != Trust::True => {
                copies.write(nad);
            }
            None if trust != Trust::True => {
                copies.forget(&name.namespace, &name.name);
            }
            _ => {}
        }
        nad.ok_or_else(|| missing(name))
    }
}

fn missing(name: &Name) -> Failure {
    let msg = format!("NetworkAttachmentDefinition {}/{} is not there", name.namespace, name.name);
    Failure::new(Code::NadMissing, msg).remedy("create it, or correct what names it")
}

fn too_late(what: &str) -> Failure {
    let msg = format!("{what}: the API server did not answer the agent within {} s", LONGEST.as_secs());
    Failure::new(Code::ApiUnreachable, msg).remedy("the runtime tries again; look after the API server")
}

/// What the pod's annotations name. One that cannot be read is the plugin's to refuse.
fn wanted(pod: &Pod, ask: &AskPod) -> BTreeSet<Name> {
    let text = |key: &str| pod.annotations.get(key).map(String::as_str);
    let listed = text(annotation::NETWORKS).and_then(|t| annotation::selections(t, &ask.pod.namespace).ok());
    let default = text(annotation::DEFAULT_NETWORK).and_then(|t| annotation::default_network(t, &ask.home).ok());
    let all = listed.into_iter().flatten().chain(default);
    all.map(|s| Name { namespace: s.namespace, name: s.name }).collect()
}
