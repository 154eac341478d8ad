//! Time as leases run by it: the boot clock, which counts while the node sleeps and is never set.
//!
//! Tokio's timers stand still during a suspend, so every wait is made of pieces, and the clock is read after each.

use std::time::Duration;

use tokio::time::sleep;

use crate::store::boot_clock;

/// So late at most is noticed that a node has slept.
const PIECE: Duration = Duration::from_secs(10);

pub trait Clock: Send + Sync + 'static {
    /// Since boot.
    fn now(&self) -> Duration;

    fn wait_until(&self, at: Duration) -> impl Future<Output = ()> + Send {
        async move {
            loop {
                let left = at.saturating_sub(self.now());
                if left.is_zero() {
                    return;
                }
                sleep(left.min(PIECE)).await;
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(boot_clock())
    }
}
