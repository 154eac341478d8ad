//! Places where a test may kill the process: after each kernel change and each file write.
//!
//! Only builds with debug assertions have them. With `TRESTLE_FAIL_AT=N` the N-th place that is passed ends the
//! process by SIGKILL, as a runtime's timeout or the kernel's OOM killer does; `TRESTLE_FAIL_LOG` names a file that
//! gets the name of each place passed, so that a test knows how many there are.

#[cfg(debug_assertions)]
mod armed {
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static PASSED: AtomicU64 = AtomicU64::new(0);
    static AT: OnceLock<Option<u64>> = OnceLock::new();

    pub fn hit(place: &str) {
        let at = *AT.get_or_init(|| std::env::var("TRESTLE_FAIL_AT").ok().and_then(|n| n.parse().ok()));
        let now = PASSED.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(log) = std::env::var_os("TRESTLE_FAIL_LOG") {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(log);
            file.and_then(|mut f| writeln!(f, "{place}")).expect("TRESTLE_FAIL_LOG can be written");
        }
        if at == Some(now) {
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).expect("a process may kill itself");
        }
    }
}

#[cfg(debug_assertions)]
pub use armed::hit;

#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn hit(_place: &str) {}
