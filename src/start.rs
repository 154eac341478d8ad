//! What must be true of a process before its first line of code: part of `main`, and knows nothing of the program.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::IntoRawFd;

use nix::libc;
use nix::sys::signal::{SigHandler, Signal, signal};

/// Ignores SIGPIPE, and opens `/dev/null` for each of the first three descriptors that is closed: otherwise the next file
/// that is opened, of the journal perhaps, would get its number and be written over by the log.
pub fn prepare() -> io::Result<()> {
    // SAFETY: the process has one thread, and no handler of its own.
    #[expect(unsafe_code, reason = "sigaction has no safe form")]
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) }?;
    for fd in 0..=2 {
        // SAFETY: asks about a number, and takes nothing over.
        #[expect(unsafe_code, reason = "a descriptor that may be closed cannot be borrowed")]
        let closed = unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1;
        if closed {
            // The kernel gives the lowest number that is free, and it stays open for good.
            let _for_good = OpenOptions::new().read(true).write(true).open("/dev/null")?.into_raw_fd();
        }
    }
    Ok(())
}
