//! Tells that somebody has changed the kernel's ruleset: `nft flush ruleset`, a firewall that is loaded anew, also we
//! ourselves. What was changed is not read: whoever listens looks at the rules that matter to it.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::net::{NetError, NetResult};

/// The bit of `NFNLGRP_NFTABLES`, 7 in nfnetlink.h.
const GROUP: u32 = 1 << 6;
const WHAT: (&str, &str) = ("listen to", "nftables");

/// Dropping it closes the socket.
#[derive(Debug)]
pub struct RulesetEvents(AsyncFd<OwnedFd>);

impl RulesetEvents {
    /// Of the calling thread's network namespace, used in its tokio runtime. `None`: this kernel has no nf_tables.
    pub fn open() -> NetResult<Option<Self>> {
        let failed = |e| NetError::new(WHAT.0, WHAT.1, e);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = match socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter) {
            Err(Errno::EPROTONOSUPPORT) => return Ok(None),
            other => other.map_err(failed)?,
        };
        // What does not fit is told too, by ENOBUFS, and says as much: a small buffer will do.
        let _ = setsockopt(&fd, sockopt::RcvBuf, &(64 << 10));
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUP)).map_err(failed)?;
        #[expect(unsafe_code, reason = "tokio wants the promise that a descriptor stays the same")]
        // SAFETY: an `OwnedFd` is open as long as it lives, and has one number; the `AsyncFd` owns it.
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Some(Self(registered.map_err(|e| NetError::io(WHAT.0, WHAT.1, &e.into()))?)))
    }

    /// Waits for a change, and takes all that have come. Nothing is lost if the wait is given up.
    pub async fn changed(&mut self) -> NetResult<()> {
        let mut any = false;
        loop {
            let mut ready = self.0.readable().await.map_err(|e| NetError::io(WHAT.0, WHAT.1, &e))?;
            // Cut off at one byte: the kernel drops the rest of a datagram.
            match recv(self.0.as_raw_fd(), &mut [0; 1], MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(Errno::ENOBUFS) => any = true,
                Err(Errno::EAGAIN) if any => return Ok(()),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(NetError::new(WHAT.0, WHAT.1, e)),
            }
        }
    }
}
