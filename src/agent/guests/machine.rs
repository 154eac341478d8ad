//! What a guest's machine has set, from the API server.

use super::{Source, Wanted};
use crate::agent::context::Context;
use crate::agent::vmi;
use crate::attach::Served;
use crate::types::{Code, Outcome};
use crate::vmi::VmiFacts;

pub struct OfMachine(pub Context);

impl Source for OfMachine {
    async fn wanted(&self, served: &Served) -> Outcome<Wanted> {
        let Some(pod) = &served.pod else { return Ok(Wanted::default()) };
        match vmi::of(&self.0, pod).await {
            Ok(facts) => Ok(wanted(facts, &served.network)),
            // There is none, and none will come for this pod.
            Err(failure) if failure.code == Code::VmiMissing => {
                tracing::info!(%pod, %failure, "nothing is set for its guest");
                Ok(Wanted::default())
            }
            Err(failure) => Err(failure),
        }
    }
}

fn wanted(mut facts: VmiFacts, network: &str) -> Wanted {
    let options = facts.options.remove(network).unwrap_or_default();
    Wanted { hostname: Some(facts.hostname).filter(|name| !name.is_empty()), options }
}
