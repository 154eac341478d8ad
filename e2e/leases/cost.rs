//! What the kernel says that a process costs.

use std::fs::read_to_string;
use std::time::{Duration, Instant};

/// At one moment.
pub struct Cost {
    at: Instant,
    /// Ticks of CPU: its own, and of its children that have ended.
    own: u64,
    children: u64,
}

/// Between two moments, in hundredths of one CPU.
pub struct Share {
    pub own: f64,
    pub children: f64,
    pub time: Duration,
}

impl Cost {
    pub fn of(pid: u32) -> Self {
        let stat = read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        // What follows the name in brackets; utime is the 14th of all.
        let words: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().collect();
        let ticks = |at: usize| words[at].parse::<u64>().unwrap() + words[at + 1].parse::<u64>().unwrap();
        Self { at: Instant::now(), own: ticks(11), children: ticks(13) }
    }

    pub fn until(&self, later: &Self) -> Share {
        let time = later.at - self.at;
        // A tick is a hundredth of a second on all of Linux' ports that matter.
        let share = |ticks: u64| ticks as f64 / time.as_secs_f64();
        Share { own: share(later.own - self.own), children: share(later.children - self.children), time }
    }
}

/// KiB: all that it has in memory, and its part of what it shares with others.
pub fn memory(pid: u32) -> (u64, u64) {
    let text = read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it runs");
    let of = |key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_else(|| panic!("no {key} in {text}"));
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    (of("Rss:"), of("Pss:"))
}
