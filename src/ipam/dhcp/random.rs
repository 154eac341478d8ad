//! Numbers that nobody need guess hard at: transactions, and how long to wait. From a seed that the caller draws, so
//! that a test sees the same run twice.

use std::time::Duration;

/// The state of a SplitMix64.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The upper half, as the lower bits are the weaker ones of such a generator.
        ((z ^ (z >> 31)) >> 32) as u32
    }

    /// A quarter more or less, so that a hundred pods that started at once do not ask at once.
    pub fn around(&mut self, wait: Duration) -> Duration {
        let part = f64::from(self.word()) / f64::from(u32::MAX);
        wait.mul_f64(0.75 + part / 2.0)
    }
}
