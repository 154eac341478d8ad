//! When a lease is due for what: RFC 2131, section 4.4.5, as a pure function of the lease, the time and the last attempt.

use std::time::Duration;

use crate::ipam::dhcp::Lease;

/// The RFC's least time between two attempts. Leases of less than 20 minutes have a shorter one in proportion, for their
/// times are taken as the server gives them.
const LEAST: Duration = Duration::from_secs(60);
const LEAST_PART: u32 = 20;
/// An exchange is given up after so many seconds. Nothing depends on its length: the next one follows.
const PATIENCE: u32 = 5;
/// For whoever has no address: the server may have to probe the one that it offers.
pub const PATIENCE_WITHOUT: u32 = 10;
/// Between attempts of one who has no address.
const FIRST_PAUSE: Duration = Duration::from_secs(4);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is to be done with a lease that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Renew,
    Rebind,
    /// Its time is over, and nobody was asked before: the keeper was not there, or the node slept.
    Reboot,
    /// Its time is over, and nobody has answered.
    Expire,
}

/// A lease and since when it is held, on the boot clock; `asked`: when the last attempt since then ended without an answer.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    pub lease: &'a Lease,
    pub since: Duration,
    pub asked: Option<Duration>,
}

impl Held<'_> {
    /// When something is due next; None for a lease without an end.
    pub fn next(&self) -> Option<Duration> {
        if self.lease.seconds == Lease::FOR_EVER {
            return None;
        }
        let (t1, t2, end) = self.times();
        let Some(asked) = self.asked else { return Some(t1) };
        let limit = if asked < t2 { t2 } else { end };
        let pause = (limit.saturating_sub(asked) / 2).max(self.least());
        Some((asked + pause).min(limit))
    }

    /// What is due now, if the time has come.
    pub fn due(&self, now: Duration) -> Option<Due> {
        if self.next().is_none_or(|at| now < at) {
            return None;
        }
        let (_, t2, end) = self.times();
        Some(match self.asked {
            None if now >= end => Due::Reboot,
            Some(_) if now >= end => Due::Expire,
            _ if now >= t2 => Due::Rebind,
            _ => Due::Renew,
        })
    }

    /// For one that nobody has kept for long: its server may think otherwise of it by now, and is asked at once. The one that
    /// lent it alone, as long as that is its turn: another one's NAK would take the address from a pod that is at work.
    pub fn due_at_take_up(&self, now: Duration) -> Option<Due> {
        let (_, t2, _) = self.times();
        let due = if now < t2 { Due::Renew } else { Due::Reboot };
        (self.lease.seconds != Lease::FOR_EVER).then_some(due)
    }

    /// Whether it is not yet time to be renewed.
    pub fn is_young(&self, now: Duration) -> bool {
        now < self.times().0
    }

    /// For the exchange that begins now: until the next kind is due, within reason.
    pub fn patience(&self, now: Duration) -> u32 {
        let (_, t2, end) = self.times();
        let limit = if now < t2 { t2 } else { end };
        let left = limit.saturating_sub(now).as_secs();
        u32::try_from(left).unwrap_or(u32::MAX).clamp(1, PATIENCE)
    }

    fn times(&self) -> (Duration, Duration, Duration) {
        let at = |seconds: u32| self.since + Duration::from_secs(seconds.into());
        (at(self.lease.t1), at(self.lease.t2), at(self.lease.seconds))
    }

    fn least(&self) -> Duration {
        LEAST.min(Duration::from_secs(self.lease.seconds.into()) / LEAST_PART)
    }
}

/// How long one who has no address waits after so many attempts without success.
pub fn pause_without(tries: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << tries.saturating_sub(1).min(8)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::lease;
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The times of all attempts, each ending at once without an answer.
    fn attempts(seconds: u32) -> Vec<(Duration, Due)> {
        let lease = lease(7, seconds);
        let (mut asked, mut all) = (None, Vec::new());
        loop {
            let held = Held { lease: &lease, since: s(100), asked };
            let at = held.next().unwrap();
            let due = held.due(at).unwrap();
            all.push((at - s(100), due));
            if due == Due::Expire {
                return all;
            }
            asked = Some(at);
        }
    }

    #[test]
    fn an_hour_as_the_rfc_has_it() {
        use Due::{Expire, Rebind, Renew};
        let seen = attempts(3600);
        let renews: Vec<u64> = seen.iter().filter(|(_, d)| *d == Renew).map(|(at, _)| at.as_secs()).collect();
        assert_eq!(renews, [1800, 2475, 2812, 2981, 3065, 3125]);
        let rebinds: Vec<u64> = seen.iter().filter(|(_, d)| *d == Rebind).map(|(at, _)| at.as_secs()).collect();
        assert_eq!(rebinds, [3150, 3375, 3487, 3547]);
        assert_eq!(seen.last(), Some(&(s(3600), Expire)));
    }

    #[test]
    fn two_seconds_are_two_seconds() {
        let seen = attempts(2);
        assert_eq!(seen[0], (s(1), Due::Renew));
        assert_eq!(seen.last(), Some(&(s(2), Due::Expire)));
        assert!(seen.len() >= 4, "{seen:?}");
    }

    #[test]
    fn for_ever_is_never() {
        let lease = lease(7, Lease::FOR_EVER);
        let held = Held { lease: &lease, since: s(0), asked: None };
        assert_eq!((held.next(), held.due(s(1 << 40))), (None, None));
    }

    #[test]
    fn asleep_until_after_the_end() {
        let lease = lease(7, 3600);
        let held = |asked| Held { lease: &lease, since: s(0), asked };
        assert_eq!(held(None).due(s(5000)), Some(Due::Reboot));
        assert_eq!(held(Some(s(1800))).due(s(5000)), Some(Due::Expire));
        assert_eq!(held(None).due(s(3200)), Some(Due::Rebind));
        assert_eq!(held(None).due(s(1799)), None);
    }

    #[test]
    fn what_nobody_has_kept_for_long() {
        let held = |lease| Held { lease, since: s(0), asked: None };
        let (hour, for_ever) = (lease(7, 3600), lease(7, Lease::FOR_EVER));
        let at_take_up = [1, 1799, 3149, 3150, 9000].map(|at| held(&hour).due_at_take_up(s(at)));
        assert_eq!(at_take_up, [Due::Renew, Due::Renew, Due::Renew, Due::Reboot, Due::Reboot].map(Some));
        assert_eq!(held(&for_ever).due_at_take_up(s(9)), None);
        assert!(held(&hour).is_young(s(1799)) && !held(&hour).is_young(s(1800)));
    }

    #[test]
    fn pauses_grow_and_end_at_a_minute() {
        let pauses: Vec<u64> = (1..8).map(|n| pause_without(n).as_secs()).collect();
        assert_eq!(pauses, [4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(pause_without(u32::MAX), s(60));
    }

    proptest! {
        #[test]
        fn attempts_come_to_an_end_and_never_after_it(seconds in 1u32..u32::MAX) {
            let seen = attempts(seconds);
            prop_assert!(seen.len() < 80, "{} attempts", seen.len());
            prop_assert!(seen.is_sorted_by(|a, b| a.0 < b.0 || b.1 == Due::Expire), "{seen:?}");
            prop_assert_eq!(seen[seen.len() - 1].0, s(seconds.into()));
        }

        #[test]
        fn patience_is_never_long(seconds in 1u32..u32::MAX, now in 0u64..1 << 33) {
            let lease = lease(7, seconds);
            let held = Held { lease: &lease, since: s(0), asked: None };
            prop_assert!((1..=PATIENCE).contains(&held.patience(s(now))));
        }
    }
}
