//! What others want told to Kubernetes: a knock when a status lies on disk, and Events, which are kept in memory alone.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::api::On;
use crate::types::PodRef;

/// More than a node's pods can fail with in a minute; older ones say the same.
const MOST: usize = 256;

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
