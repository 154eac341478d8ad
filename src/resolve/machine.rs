//! The description of the virtual machine behind a pod: from the agent, else from the API server. Asked only where the
//! pod's annotations leave open what it alone says.

use std::borrow::Cow;

use serde_json::Value;

use super::agent::{Agent, is_certain};
use super::sources::{Pod, Sources, Wish};
use crate::api::Api;
use crate::cni::Call;
use crate::plan::PodFacts;
use crate::protocol::OfNics;
use crate::store::Dirs;
use crate::types::{Code, Failure, Outcome, PodRef};
use crate::vmi::{Nics, Owner, VmiFacts};

impl Sources<'_> {
    /// The machine's NICs. `None`: no machine owns the pod, or nobody is configured whom to ask. Where somebody is, and does
    /// not answer, it is a failure: what would be guessed fails in libvirt, minutes later.
    pub async fn nics(&self, pod: &Pod) -> Outcome<Option<Nics>> {
        let failure = match self.machine() {
            Some(None) => return Ok(None),
            Some(Some(vmi)) => match vmi.nics {
                Some(OfNics::Known(nics)) => return Ok(Some(nics)),
                Some(OfNics::Error(trouble)) => Some(Failure::from(trouble)),
                None => None,
            },
            None => None,
        };
        let Some(about) = &pod.known else { return Ok(None) };
        match (failure, self.api()) {
            (Some(failure), _) if is_certain(failure.code) => Err(failure),
            (_, Some(api)) => self.by_api(api, about, pod.object.as_ref()).await,
            (Some(failure), None) => Err(failure),
            (None, None) if self.agent().is_expected() => Err(silent(about, self.agent())),
            (None, None) => Ok(None),
        }
    }

    async fn by_api(&self, api: &Api, about: &PodRef, object: Option<&Value>) -> Outcome<Option<Nics>> {
        let object = match object {
            Some(object) => Some(Cow::Borrowed(object)),
            None => api.get_pod(&about.namespace, &about.name).await?.map(Cow::Owned),
        };
        let owner = object.as_deref().and_then(|o| o.get("metadata")).and_then(Owner::of_pod);
        let Some(owner) = owner else { return Ok(None) };
        let vmi = api.get_vmi(&about.namespace, &owner.name).await?;
        machine_of(vmi.as_ref(), &about.namespace, &owner).map(|facts| Some(facts.nics))
    }
}

/// What an instance says, if it is the one that owns the pod.
pub fn machine_of(object: Option<&Value>, namespace: &str, owner: &Owner) -> Outcome<VmiFacts> {
    let missing = |why: &str| {
        Failure::new(Code::VmiMissing, format!("VirtualMachineInstance {namespace}/{} {why}", owner.name))
            .remedy("nothing: its pod is about to go")
    };
    let facts = object.and_then(VmiFacts::of_object).ok_or_else(|| missing("is not there"))?;
    if facts.uid == owner.uid {
        return Ok(facts);
    }
    Err(missing(&format!("was replaced: its UID is {}, and the pod belongs to {}", facts.uid, owner.uid)))
}

/// Facts for one attachment, whose caller hands no annotations on: for a machine's pod the agent is asked, if there is one on
/// the node. `strict`: one that should be there and does not answer is a failure.
pub async fn attachment_facts(call: &Call, dirs: &Dirs, facts: PodFacts, strict: bool) -> Outcome<PodFacts> {
    let sources = Sources::new(call, dirs, None);
    let about = facts.pod.clone().filter(|pod| !pod.namespace.is_empty());
    let (Some(about), true) = (about, sources.agent().is_expected()) else { return Ok(facts) };
    let asked = async {
        let mut pod = sources.pod(&Wish::default()).await?;
        if pod.facts.needs_nics() {
            pod.facts.nics = sources.nics(&pod).await?;
        }
        Ok::<_, Failure>(pod.facts)
    };
    match asked.await {
        Err(failure) if failure.code == Code::NoSource && strict => Err(silent(&about, sources.agent())),
        Err(failure) if failure.code == Code::NoSource => {
            tracing::warn!("the agent does not answer: what the machine asks for by annotations is not known");
            Ok(facts)
        }
        asked => asked,
    }
}

fn silent(pod: &PodRef, agent: &Agent) -> Failure {
    let msg = format!("pod {pod} runs a virtual machine, and the agent does not tell what that asks for");
    Failure::new(Code::NoSource, msg).remedy(agent.remedy())
}

#[cfg(test)]
mod tests;
