//! Tells Kubernetes what plugins have put down: a pod's network-status, and Events.
//!
//! A status lies on disk until the API server has taken it, or says that its pod is gone: neither a restart of the agent
//! nor one of the API server loses it. Events are told as well as it goes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::time::sleep;

use super::context::Context;
use super::known::Pod;
use super::metrics::Family;
use super::outbox::Message;
use super::vmi;
use super::watch::jittered;
use crate::annotation;
use crate::api::{Api, Event, Limits, On, Told};
use crate::meta;
use crate::plan::PodFacts;
use crate::protocol::{Name, Untold};
use crate::store::{Journal, Owing, Pending};
use crate::types::{Code, Failure, Outcome, PodRef, Role};
use crate::vmi::Owner;

/// A knock may get lost with an agent that ends.
const LOOK: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Pods at a time.
const AT_ONCE: usize = 4;
const COMPONENT: &str = "trestle";
/// A file of a newer program is not this one's to judge.
const VERSION: u32 = 1;

const TOLD: Family = Family::counter("trestle_statuses_total", "Network-statuses, by what came of telling them.");
const UNTOLD: Family = Family::gauge("trestle_statuses_untold", "Network-statuses that wait to be told.");
const EVENTS: Family = Family::counter("trestle_events_total", "Events, by what came of telling them.");

pub async fn run(ctx: Context) -> Outcome<()> {
    let part = Duration::from_secs(5);
    let api = ctx.api(Limits { connect: Duration::from_secs(3), request: part, total: part * 2 })?;
    let mut desk = Desk { ctx: ctx.clone(), api, tries: BTreeMap::new() };
    ctx.metrics.working("tell", true);
    loop {
        let pause = desk.round().await;
        tokio::select! {
            // While the API server does not answer, a knock changes nothing.
            () = ctx.outbox.knocked(), if pause.is_none() => {}
            () = sleep(pause.unwrap_or(LOOK)) => {}
            () = ctx.ended() => return Ok(()),
        }
    }
}

/// An Event for the pod, and for the virtual machine in it.
pub fn complain(ctx: &Context, pod: &PodRef, reason: &str, text: &str) {
    let (message, owner) = message(ctx, pod, (reason, text), true);
    if let Some(owner) = owner {
        ctx.outbox.event(of_machine(&message, owner));
    }
    ctx.outbox.event(message);
}

/// Good news, for the virtual machine; for the pod where none is known in it. Once: a machine that comes from another node
/// was told there.
pub fn report_once(ctx: &Context, pod: &PodRef, reason: &str, text: &str) {
    let (message, owner) = message(ctx, pod, (reason, text), false);
    let message = Message { once: true, ..message };
    ctx.outbox.event(match owner {
        Some(owner) => of_machine(&message, owner),
        None => message,
    });
}

/// For the pod; and whose machine is in it, if that is known.
fn message(ctx: &Context, pod: &PodRef, (reason, text): (&str, &str), warning: bool) -> (Message, Option<Owner>) {
    let name = Name { namespace: pod.namespace.clone(), name: pod.name.clone() };
    // A static pod's UID is kubelet's own; the API server has its mirror.
    let is = |known: &Pod| known.is_mirror() || pod.uid.as_ref().is_none_or(|uid| *uid == known.uid);
    let known = ctx.known.pods.get(&name).filter(is);
    // A pod that the watch has not seen yet may fail at once.
    let and_machine = known.is_none() && PodFacts { pod: Some(pod.clone()), ..PodFacts::default() }.is_launcher();
    let (reason, text) = (reason.to_owned(), text.to_owned());
    // Without a UID `kubectl describe` does not show it.
    let uid = known.as_ref().map(|known| known.uid.clone()).or_else(|| pod.uid.clone());
    let about = PodRef { uid, ..pod.clone() };
    let message = Message { about, on: On::Pod, reason, text, and_machine, warning, once: false };
    (message, known.and_then(|known| known.vmi))
}

fn of_machine(of_pod: &Message, owner: Owner) -> Message {
    let about = PodRef { namespace: of_pod.about.namespace.clone(), name: owner.name, uid: Some(owner.uid) };
    Message { about, on: On::Vmi, and_machine: false, ..of_pod.clone() }
}

struct Desk {
    ctx: Context,
    api: Api,
    /// When a status may be tried again, and the pause after that.
    tries: BTreeMap<Owing, (Instant, Duration)>,
}

enum Came {
    Settled,
    /// Of this one alone.
    Refused,
    /// There is no use in trying others.
    Away,
}

impl Desk {
    /// All that is due. Returns a pause where that was not possible.
    async fn round(&mut self) -> Option<Duration> {
        let all = match Pending::untold(&self.ctx.dirs).owing::<Untold>() {
            Ok(all) => all,
            Err(failure) => {
                tracing::warn!(%failure, "it is not known what is to be told");
                return Some(LOOK);
            }
        };
        let waiting = all.len();
        let due = self.due(all);
        let desk = &*self;
        let told: Vec<(Owing, Came)> = futures_util::stream::iter(due)
            .map(|(owing, untold)| async move { (owing, desk.status(untold).await) })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let away = told.iter().any(|(_, came)| matches!(came, Came::Away));
        let settled = told.iter().filter(|(_, came)| matches!(came, Came::Settled)).count();
        for (owing, came) in told {
            self.settle(owing, &came);
        }
        self.ctx.metrics.set(&UNTOLD, &[], waiting.saturating_sub(settled) as f64);
        if away || !self.events().await {
            return Some(jittered(FIRST_PAUSE * 2));
        }
        self.next_try()
    }

    /// Of several statuses of one pod the last one counts.
    fn due(&mut self, all: Vec<(Owing, Outcome<Untold>)>) -> Vec<(Owing, Untold)> {
        let there: BTreeSet<Owing> = all.iter().map(|(owing, _)| owing.clone()).collect();
        self.tries.retain(|owing, _| there.contains(owing));
        let mut last: BTreeMap<(String, String), (Owing, Untold)> = BTreeMap::new();
        for (owing, untold) in all {
            let untold = match untold {
                Ok(untold) if untold.version > VERSION => continue,
                Ok(untold) => untold,
                // Not synced, as its pod does not outlive a power cut.
                Err(failure) => match self.of_journal(&owing) {
                    Some(untold) => {
                        tracing::warn!(pod = %untold.pod, %failure, "its status is told out of the journal");
                        untold
                    }
                    None => {
                        tracing::error!(%failure, "a network-status is lost: the journal has none of it either");
                        self.ctx.metrics.add(&TOLD, &[("outcome", "lost")], 1);
                        self.settle(owing, &Came::Settled);
                        continue;
                    }
                },
            };
            let key = (untold.pod.namespace.clone(), untold.pod.name.clone());
            if let Some((older, _)) = last.insert(key, (owing, untold)) {
                self.settle(older, &Came::Settled);
            }
        }
        let now = Instant::now();
        last.into_values().filter(|(owing, _)| self.tries.get(owing).is_none_or(|(at, _)| *at <= now)).collect()
    }

    fn of_journal(&self, owing: &Owing) -> Option<Untold> {
        let dirs = &self.ctx.dirs;
        let mut entries = Journal(dirs).all().ok()?.into_iter().flatten();
        let entry = entries.find(|e| e.id.role == Role::Meta && owing.is_of(dirs, &e.id))?;
        let (pod, status) = meta::status_of(&entry).ok()??;
        Some(Untold { version: VERSION, pod, status, stale: Vec::new(), notes: Vec::new() })
    }

    async fn status(&self, untold: Untold) -> Came {
        let pod = &untold.pod;
        let came = self.api.patch_annotation(pod, annotation::STATUS, &untold.status).await;
        let (came, label) = match came {
            Ok(Told::Done) => {
                tracing::debug!(%pod, "network-status told");
                if !untold.stale.is_empty() {
                    complain(&self.ctx, pod, "StaleNetwork", &untold.stale.join("; "));
                }
                untold.notes.iter().for_each(|note| complain(&self.ctx, pod, &note.reason, &note.message));
                (Came::Settled, "done")
            }
            Ok(Told::Gone | Told::Replaced) => {
                tracing::info!(%pod, "no status told: not this pod any more");
                (Came::Settled, "gone")
            }
            Err(failure) => {
                tracing::warn!(%pod, %failure, "network-status not told yet");
                (if failure.code == Code::ApiUnreachable { Came::Away } else { Came::Refused }, "failed")
            }
        };
        self.ctx.metrics.add(&TOLD, &[("outcome", label)], 1);
        came
    }

    fn settle(&mut self, owing: Owing, came: &Came) {
        match came {
            Came::Settled => {
                self.tries.remove(&owing);
                if let Err(failure) = owing.settle() {
                    tracing::warn!(%failure, "told, and will be told again");
                }
            }
            // All wait for the server then, and are told at once when it is back.
            Came::Away => {}
            Came::Refused => {
                let (_, pause) = self.tries.get(&owing).copied().unwrap_or((Instant::now(), FIRST_PAUSE));
                self.tries.insert(owing, (Instant::now() + jittered(pause), (pause * 2).min(LONGEST_PAUSE)));
            }
        }
    }

    fn next_try(&self) -> Option<Duration> {
        let next = self.tries.values().map(|(at, _)| *at).min()?;
        // A knock is waited for as well: not for long.
        Some(next.saturating_duration_since(Instant::now()).min(FIRST_PAUSE))
    }

    /// `false`: the API server does not answer, and those left wait for it.
    async fn events(&self) -> bool {
        let mut left = VecDeque::from(self.ctx.outbox.take_events());
        while let Some(mut message) = left.pop_front() {
            if message.and_machine {
                match vmi::owner(&self.ctx, &self.api, &message.about).await {
                    Ok(owner) => {
                        message.and_machine = false;
                        owner.into_iter().for_each(|owner| left.push_front(of_machine(&message, owner)));
                    }
                    Err(failure) if failure.code == Code::ApiUnreachable => {
                        return self.events_wait(message, left, &failure);
                    }
                    Err(failure) => tracing::warn!(%failure, "the machine does not hear of it"),
                }
            }
            let Message { about, on, reason, text, warning, once, .. } = &message;
            let (on, warning, once) = (*on, *warning, *once);
            let event = Event { about, on, reason, message: text, warning, component: COMPONENT, once };
            let label = match self.api.event(&event).await {
                Ok(()) => "done",
                Err(failure) if failure.code == Code::ApiUnreachable => {
                    return self.events_wait(message, left, &failure);
                }
                Err(failure) => {
                    lost(&failure);
                    "failed"
                }
            };
            self.ctx.metrics.add(&EVENTS, &[("outcome", label)], 1);
        }
        true
    }

    fn events_wait(&self, first: Message, others: VecDeque<Message>, failure: &Failure) -> bool {
        tracing::warn!(%failure, "the Event waits");
        std::iter::once(first).chain(others).for_each(|m| self.ctx.outbox.event(m));
        false
    }
}

fn lost(failure: &Failure) {
    tracing::warn!(%failure, "the Event is lost");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::testing::{context, pod_object};

    #[test]
    fn an_event_names_the_pod_that_is_meant() {
        let tmp = tempfile::tempdir().unwrap();
        let ctx = context(tmp.path());
        let put = |uid: &str, annotations| {
            let (name, pod) = Pod::of_object(&pod_object("web", uid, &annotations)).unwrap();
            ctx.known.pods.put(name, pod);
        };
        let told = |uid: Option<&str>| {
            let about = PodRef { namespace: "prod".into(), name: "web".into(), uid: uid.map(str::to_owned) };
            complain(&ctx, &about, "LeaseLost", "no address");
            ctx.outbox.take_events().remove(0).about.uid
        };
        assert_eq!((told(None), told(Some("u1")).as_deref()), (None, Some("u1")), "of whom nobody knows");
        put("u2", json!({}));
        assert_eq!(told(None).as_deref(), Some("u2"), "a runtime that tells no UID");
        assert_eq!(told(Some("u1")).as_deref(), Some("u1"), "the one before");
        put("mirror", json!({"kubernetes.io/config.source": "file"}));
        assert_eq!(told(Some("kubelets")).as_deref(), Some("mirror"), "a static pod, by the object that people see");
    }
}
