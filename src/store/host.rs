//! Which machine and which boot this is, and what its clock says.
//!
//! The boot clock (CLOCK_BOOTTIME) counts through suspend and is never set, so it orders what happens in one boot. It
//! says nothing across boots: there the boot id tells.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use nix::time::{ClockId, clock_gettime};

use super::Dirs;
use super::file::failed;
use crate::types::{Code, Outcome};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const MACHINE_ID: &str = "/etc/machine-id";

/// One tick of the clock in which `/proc` tells start times: USER_HZ is 100 for user space on every architecture that
/// Kubernetes runs on, whatever HZ the kernel has.
pub const TICK: u64 = 10_000_000;

/// What is known of the machine, or what a test puts in its place.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Read once for a call.
    pub boot: OnceLock<String>,
    pub machine: Option<String>,
    pub now: Option<u64>,
}

impl Dirs {
    /// `/proc/sys/kernel/random/boot_id`: another one after each boot of the kernel. Nodes that are containers of one
    /// machine share it.
    pub fn boot_id(&self) -> Outcome<String> {
        if let Some(boot) = self.host.boot.get() {
            return Ok(boot.clone());
        }
        let text = fs::read_to_string(BOOT_ID).map_err(|e| failed(Code::Io, "read", Path::new(BOOT_ID), &e))?;
        Ok(self.host.boot.get_or_init(|| text.trim().into()).clone())
    }

    /// `/etc/machine-id`, empty where there is none.
    pub fn machine_id(&self) -> String {
        if let Some(machine) = &self.host.machine {
            return machine.clone();
        }
        fs::read_to_string(MACHINE_ID).unwrap_or_default().trim().into()
    }

    /// The boot clock, in nanoseconds.
    pub fn now(&self) -> u64 {
        self.host.now.unwrap_or_else(boot_clock)
    }
}

#[cfg(test)]
impl Dirs {
    pub fn with_boot(mut self, boot: &str) -> Self {
        self.host.boot = OnceLock::from(boot.to_owned());
        self
    }

    pub fn with_machine(mut self, machine: &str) -> Self {
        self.host.machine = Some(machine.into());
        self
    }

    pub fn with_clock(mut self, now: u64) -> Self {
        self.host.now = Some(now);
        self
    }
}

/// CLOCK_BOOTTIME in nanoseconds; it exists on every kernel since 2.6.39.
pub fn boot_clock() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(std::time::Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// When this process began, on the boot clock in nanoseconds, rounded down to a [`TICK`]. Where `/proc` does not tell:
/// now, which is what nobody is ever too late for.
pub fn process_start() -> u64 {
    fs::read_to_string("/proc/self/stat").ok().and_then(|stat| start_in(&stat)).unwrap_or_else(boot_clock)
}

/// Field 22 of `/proc/PID/stat`. The second field is the program's name in parentheses and may hold blanks and
/// parentheses itself.
fn start_in(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let ticks: u64 = after_name.split_ascii_whitespace().nth(19)?.parse().ok()?;
    ticks.checked_mul(TICK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_found_behind_a_hostile_name() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        assert_eq!(start_in(&format!("7 (a) b ((c) {tail}")), Some(4242 * TICK));
        assert_eq!(start_in("7 (short) S 1"), None);
        assert_eq!(start_in(""), None);
    }

    #[test]
    fn a_process_starts_before_now() {
        let (start, now) = (process_start(), boot_clock());
        assert!(start > 0 && start <= now, "start {start}, now {now}");
        let child = fs::read_to_string("/proc/1/stat").unwrap();
        assert!(start_in(&child).unwrap() < start, "the first process is older than this one");
    }

    #[test]
    fn the_kernels_own_boot_id() {
        let dirs = Dirs::new("/nonexistent", "/nonexistent");
        assert_eq!(dirs.boot_id().unwrap().len(), 36);
        assert_eq!(dirs.clone().with_boot("x").boot_id().unwrap(), "x");
    }
}
