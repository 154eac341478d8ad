//! Who may have a child now: a limit for all, and a smaller one for networks whose server was silent, so that a dead one
//! does not make the leases of the others wait. Knows no lease.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

/// Children at once.
const ALL: usize = 8;
/// Of these, for networks in doubt.
const DOUBTFUL: usize = 4;

#[derive(Debug)]
pub struct Queue {
    all: Semaphore,
    doubtful: Semaphore,
    /// Names of networks whose last question found no answer.
    silent: Mutex<HashSet<String>>,
}

/// Given back when it is dropped.
pub struct Turn<'a> {
    _doubtful: Option<SemaphorePermit<'a>>,
    _one: Option<SemaphorePermit<'a>>,
}

impl Default for Queue {
    fn default() -> Self {
        Self { all: Semaphore::new(ALL), doubtful: Semaphore::new(DOUBTFUL), silent: Mutex::default() }
    }
}

impl Queue {
    pub async fn turn(&self, network: &str) -> Turn<'_> {
        loop {
            let in_doubt = self.in_doubt(network);
            // Neither is ever closed, so both are always given.
            let doubtful = if in_doubt { self.doubtful.acquire().await.ok() } else { None };
            let one = self.all.acquire().await.ok();
            // Many are due at once: what the first of them met is known by now.
            if in_doubt || !self.in_doubt(network) {
                return Turn { _doubtful: doubtful, _one: one };
            }
        }
    }

    fn in_doubt(&self, network: &str) -> bool {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).contains(network)
    }

    pub fn heard(&self, network: &str, answered: bool) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if answered {
            silent.remove(network);
        } else if !silent.contains(network) {
            silent.insert(network.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_silent_network_leaves_room_for_the_others() {
        let queue = Queue::default();
        queue.heard("dead", false);
        let turns: Vec<_> = (0..DOUBTFUL).map(|_| queue.turn("dead").now_or_never().unwrap()).collect();
        assert!(queue.turn("dead").now_or_never().is_none());
        let good: Vec<_> = (DOUBTFUL..ALL).map(|_| queue.turn("good").now_or_never().unwrap()).collect();
        assert!(queue.turn("good").now_or_never().is_none(), "the limit for all");
        drop((turns, good));
        queue.heard("dead", true);
        let all: Vec<_> = (0..ALL).map(|_| queue.turn("dead").now_or_never().unwrap()).collect();
        assert_eq!(all.len(), ALL);
    }
}
