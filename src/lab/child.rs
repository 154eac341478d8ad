//! Reading what a child process says, with a deadline; and the tie that ends a child with its parent.
//!
//! Knows pipes and processes, not what the children are for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

/// From now on this process gets SIGKILL when its parent ends, however that ends. To be called again after a change of
/// uid or gid, which clears it (`commit_creds` in Linux `kernel/cred.c`). The kernel means the parent's *thread*:
/// parents start such children from their main thread.
pub fn die_with(parent: u32) -> anyhow::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // It may have ended before the line above.
    let now = nix::unistd::getppid().as_raw();
    anyhow::ensure!(i32::try_from(parent) == Ok(now), "the process that started this one is gone");
    Ok(())
}

/// Whether there is something to read before the deadline.
fn readable(fd: &impl AsFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, so that the last millisecond is not spun away.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(n) if n > 0 => return Ok(true),
            Ok(_) if left.is_zero() => return Ok(false),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

/// Lines out of a pipe.
pub struct Lines {
    fd: OwnedFd,
    rest: Vec<u8>,
}

impl Lines {
    pub fn new(fd: impl Into<OwnedFd>) -> Self {
        Self { fd: fd.into(), rest: Vec::new() }
    }

    /// The next line without its end; `None` at the end of the stream.
    pub fn next(&mut self, deadline: Instant) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            if !self.more(deadline)? {
                return Ok(None);
            }
        }
    }

    /// All that is left, up to the end of the stream.
    pub fn all(mut self, deadline: Instant) -> io::Result<Vec<u8>> {
        while self.more(deadline)? {}
        Ok(self.rest)
    }

    fn more(&mut self, deadline: Instant) -> io::Result<bool> {
        if !readable(&self.fd, deadline)? {
            return Err(late());
        }
        let mut buffer = [0; 4096];
        let read = nix::unistd::read(&self.fd, &mut buffer)?;
        self.rest.extend_from_slice(&buffer[..read]);
        Ok(read > 0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn lines_come_whole_and_late_ones_are_told() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut lines = Lines::new(reader);
        let soon = || Instant::now() + Duration::from_millis(20);
        writer.write_all(b"one\r\ntw").unwrap();
        assert_eq!(lines.next(soon()).unwrap().as_deref(), Some("one"));
        assert_eq!(lines.next(soon()).unwrap_err().kind(), io::ErrorKind::TimedOut);
        writer.write_all(b"o\nrest").unwrap();
        assert_eq!(lines.next(soon()).unwrap().as_deref(), Some("two"));
        drop(writer);
        assert_eq!(lines.all(soon()).unwrap(), b"rest");
    }
}
