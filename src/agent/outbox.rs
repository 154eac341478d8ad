//! What others want told to Kubernetes: a knock when a status lies on disk, and Events, which are kept in memory alone.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::api::On;
use crate::protocol::Complaint;
use crate::types::PodRef;

/// More than a node's pods can fail with in a minute; older ones say the same.
const MOST: usize = 256;
/// For so long a runtime's next try, which fails with the same words, makes no Event of its own: kubelet tries every ten seconds.
const SAME: Duration = Duration::from_secs(300);

/// An Event to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub about: PodRef,
    pub on: On,
    pub reason: String,
    pub text: String,
    /// The machine of this pod is to hear of it too, and nobody knows yet which one that is.
    pub and_machine: bool,
    /// Something is wrong.
    pub warning: bool,
    /// See [`crate::api::Event::once`].
    pub once: bool,
}

#[derive(Debug, Default)]
pub struct Outbox {
    knock: Notify,
    events: Mutex<VecDeque<Message>>,
    /// What plugins complained of lately, the oldest first.
    complaints: Mutex<VecDeque<(Instant, Complaint)>>,
}

impl Outbox {
    /// There is something on disk.
    pub fn knock(&self) {
        self.knock.notify_one();
    }

    /// Best effort: the oldest one is dropped where there are too many.
    pub fn event(&self, message: Message) {
        let mut events = self.events();
        // A runtime tries again and again, and each try fails with the same words.
        if !events.contains(&message) {
            if events.len() == MOST {
                events.pop_front();
            }
            events.push_back(message);
        }
        drop(events);
        self.knock.notify_one();
    }

    /// Whether the same was complained of a short while ago. Remembers it.
    pub fn repeats(&self, complaint: &Complaint, now: Instant) -> bool {
        let mut all = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(at, _)| now.saturating_duration_since(*at) < SAME);
        let known = all.iter().any(|(_, one)| one == complaint);
        if !known {
            if all.len() == MOST {
                all.pop_front();
            }
            all.push_back((now, complaint.clone()));
        }
        known
    }

    pub fn take_events(&self) -> Vec<Message> {
        self.events().drain(..).collect()
    }

    /// Comes at once if there was a knock since the last time.
    pub async fn knocked(&self) {
        self.knock.notified().await;
    }

    fn events(&self) -> MutexGuard<'_, VecDeque<Message>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_complaint_is_heard_again_after_a_while_and_another_at_once() {
        let outbox = Outbox::default();
        let one = |uid: &str, message: &str| Complaint {
            pod: PodRef { namespace: "prod".into(), name: "web".into(), uid: Some(uid.into()) },
            reason: "NetworkNotAttached".into(),
            message: message.into(),
        };
        let (begin, second) = (Instant::now(), Duration::from_secs(1));
        assert!(!outbox.repeats(&one("u1", "no bridge"), begin));
        for seconds in [10, 20, 299] {
            assert!(outbox.repeats(&one("u1", "no bridge"), begin + second * seconds), "{seconds}");
        }
        assert!(!outbox.repeats(&one("u1", "bridge down"), begin + second * 20), "other words");
        assert!(!outbox.repeats(&one("u2", "no bridge"), begin + second * 20), "another pod");
        assert!(!outbox.repeats(&one("u1", "no bridge"), begin + SAME), "it is still so");
        for n in 0..MOST {
            outbox.repeats(&one("u3", &n.to_string()), begin + SAME);
        }
        assert_eq!(outbox.complaints.lock().unwrap().len(), MOST);
    }

    #[test]
    fn the_newest_are_kept_and_none_twice() {
        let outbox = Outbox::default();
        let about = PodRef { namespace: "prod".into(), name: "web".into(), uid: None };
        let message = |n: usize| Message {
            about: about.clone(),
            on: On::Pod,
            reason: "r".into(),
            text: n.to_string(),
            and_machine: false,
            warning: true,
            once: false,
        };
        for n in 0..=MOST {
            outbox.event(message(n));
            outbox.event(message(n));
        }
        let all = outbox.take_events();
        assert_eq!((all.len(), &all[0], &all[MOST - 1]), (MOST, &message(1), &message(MOST)));
        assert!(outbox.take_events().is_empty());
    }
}
