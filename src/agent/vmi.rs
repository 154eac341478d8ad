//! What the API server knows of the virtual machine that a pod runs.
//!
//! Asked for those alone who need it, and kept for half a minute: a runtime starts a pod anew with each try. What the
//! object says is read by `crate::vmi`.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::context::Context;
use crate::api::{Api, Limits};
use crate::protocol::Name;
use crate::types::{Code, Failure, Outcome, PodRef};
use crate::vmi::{Owner, VmiFacts};

/// How long an answer holds: not so long that a pod that comes later hears of a machine as it was.
const HOLDS: Duration = Duration::from_secs(30);

/// Answers, by the pod's UID.
#[derive(Debug, Default)]
pub struct Machines(Mutex<HashMap<String, (Instant, VmiFacts)>>);

impl Machines {
    pub fn get(&self, pod_uid: &str) -> Option<VmiFacts> {
        self.all().get(pod_uid).filter(|(at, _)| at.elapsed() < HOLDS).map(|(_, facts)| facts.clone())
    }

    pub fn put(&self, pod_uid: &str, facts: VmiFacts) {
        let mut all = self.all();
        all.retain(|_, (at, _)| at.elapsed() < HOLDS);
        all.insert(pod_uid.to_owned(), (Instant::now(), facts));
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, (Instant, VmiFacts)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of the instance that a pod belongs to. For who asks now and then: it has a connection of its own.
pub async fn of(ctx: &Context, pod: &PodRef) -> Outcome<VmiFacts> {
    if let Some(facts) = pod.uid.as_deref().and_then(|uid| ctx.known.machines.get(uid)) {
        return Ok(facts);
    }
    let part = Duration::from_secs(3);
    let api = ctx.api(Limits { connect: part, request: part, total: part })?;
    let owner = owner(ctx, &api, pod)
        .await?
        .ok_or_else(|| Failure::new(Code::VmiMissing, format!("pod {pod} belongs to no VirtualMachineInstance")))?;
    let facts = ask(&api, &pod.namespace, &owner).await?;
    if let Some(uid) = &pod.uid {
        ctx.known.machines.put(uid, facts.clone());
    }
    Ok(facts)
}

/// The instance that a pod belongs to: as the watch has it, else as the API server has it.
pub async fn owner(ctx: &Context, api: &Api, pod: &PodRef) -> Outcome<Option<Owner>> {
    let is_it = |uid: &str| pod.uid.as_deref().is_none_or(|asked| asked == uid);
    let name = Name { namespace: pod.namespace.clone(), name: pod.name.clone() };
    if let Some(known) = ctx.known.pods.get(&name).filter(|known| is_it(&known.uid)) {
        return Ok(known.vmi);
    }
    let object = api.get_pod(&pod.namespace, &pod.name).await?;
    let metadata = object.as_ref().and_then(|o| o.get("metadata"));
    let uid = metadata.and_then(|m| m.get("uid")).and_then(Value::as_str).unwrap_or_default();
    Ok(metadata.filter(|_| is_it(uid)).and_then(Owner::of_pod))
}

pub async fn ask(api: &Api, namespace: &str, owner: &Owner) -> Outcome<VmiFacts> {
    let object = api.get_vmi(namespace, &owner.name).await?;
    crate::resolve::machine_of(object.as_ref(), namespace, owner)
}

#[cfg(test)]
mod tests;
