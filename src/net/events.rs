//! What the kernel tells of links without being asked: made, changed, gone, and what becomes of bridge ports.
//!
//! A socket in the group RTNLGRP_LINK, read message by message; no list is asked for here. Whoever listens opens this
//! first and lists the links after it, so that no change falls between the two. The kernel drops what does not fit into
//! the socket's buffer and says so: [`LinkEvent::Missed`], and the listener looks at everything.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::{AddressFamily as Family, RouteNetlinkMessage};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::netlink::u32_at;
use super::{Link, Namespace, NetError, NetResult};

/// `RTMGRP_LINK` of rtnetlink.h.
const LINK_GROUP: u32 = 1;
/// A node that restarts its network, or a burst of pods, says much at once.
const BUFFER: usize = 4 << 20;
/// Longer than the kernel's largest message about one link.
const LONGEST: usize = 64 << 10;
const HEADER_LEN: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// New, or other than before.
    Changed(Link),
    /// By its index.
    Gone(u32),
    /// A bridge's port, by its index: its state, flags or VLANs, or it has left the bridge.
    Port(u32),
    /// Some were lost: everything may have changed.
    Missed,
}

/// Dropping it closes the socket.
#[derive(Debug)]
pub struct LinkEvents {
    socket: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
    read: VecDeque<LinkEvent>,
}

impl Namespace {
    /// Of this namespace's links, used in the caller's tokio runtime.
    pub fn link_events(&self) -> NetResult<LinkEvents> {
        let socket = if self.is_of_this_thread() { listen()? } else { self.enter(listen)?? };
        #[expect(unsafe_code, reason = "tokio wants the promise that a descriptor stays the same")]
        // SAFETY: an `OwnedFd` is open as long as it lives, and has one number; the `AsyncFd` owns it.
        let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        let socket = registered.map_err(|e| NetError::io("listen to", "links", &e.into()))?;
        Ok(LinkEvents { socket, buffer: vec![0; LONGEST], read: VecDeque::new() })
    }
}

fn listen() -> NetResult<OwnedFd> {
    let failed = |e| NetError::new("listen to", "links", e);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute).map_err(failed)?;
    // Without CAP_NET_ADMIN the buffer stays as it is, and more may be missed.
    let _ = setsockopt(&fd, sockopt::RcvBufForce, &BUFFER);
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, LINK_GROUP)).map_err(failed)?;
    Ok(fd)
}

impl LinkEvents {
    /// Waits for the next one. Nothing is lost if the wait is given up.
    pub async fn next(&mut self) -> NetResult<LinkEvent> {
        loop {
            if let Some(event) = self.read.pop_front() {
                return Ok(event);
            }
            let mut ready = self.socket.readable().await.map_err(|e| NetError::io("listen to", "links", &e))?;
            // MSG_TRUNC: the message's own length, also where the buffer is too short for it.
            let got = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC);
            match got {
                Ok(len) if len <= self.buffer.len() => self.read.extend(events(&self.buffer[..len])),
                Ok(_) | Err(Errno::ENOBUFS) => self.read.push_back(LinkEvent::Missed),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(NetError::new("listen to", "links", e)),
            }
        }
    }
}

/// The messages of one datagram. What cannot be read may have been about any link.
fn events(mut datagram: &[u8]) -> Vec<LinkEvent> {
    let mut found = Vec::new();
    while !datagram.is_empty() {
        let len = u32_at(datagram, 0).map_or(0, |l| l as usize);
        let Some(message) = datagram.get(..len).filter(|m| m.len() >= HEADER_LEN) else {
            found.push(LinkEvent::Missed);
            break;
        };
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
            Ok(message) => found.extend(event(message)),
            Err(_) => found.push(LinkEvent::Missed),
        }
        datagram = datagram.get((len + 3) & !3..).unwrap_or_default();
    }
    found
}

fn event(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<LinkEvent> {
    match message.payload {
        // The bridge's own words about a port have neither its kind nor its flags.
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(m) | RouteNetlinkMessage::DelLink(m))
            if m.header.interface_family == Family::Bridge =>
        {
            Some(LinkEvent::Port(m.header.index))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(m)) => Some(LinkEvent::Changed(m.into())),
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(m)) => Some(LinkEvent::Gone(m.header.index)),
        NetlinkPayload::Overrun(_) => Some(LinkEvent::Missed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::net::LinkChange;
    use crate::net::testing::{Bench, block_on, found, name, up};

    /// Events until this one.
    async fn until(events: &mut LinkEvents, wanted: impl Fn(&LinkEvent) -> bool) -> LinkEvent {
        let wait = async {
            loop {
                let event = events.next().await.unwrap();
                if wanted(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), wait).await.expect("the kernel says so")
    }

    #[test]
    fn a_bridge_and_its_port_are_told_as_they_come_and_go() {
        block_on(async {
            let b = Bench::new();
            let mut events = b.host_ns.link_events().unwrap();
            b.host.create_bridge(&name("br0"), None, false).await.unwrap();
            let bridge = found(&b.host, "br0").await.index;
            until(&mut events, |e| matches!(e, LinkEvent::Changed(l) if l.name == "br0" && !l.up)).await;
            up(&b.host, "br0").await;
            until(&mut events, |e| matches!(e, LinkEvent::Changed(l) if l.index == bridge && l.up)).await;
            let (host, _) = b.pair().await;
            let join = |master| LinkChange { master: Some(master), ..Default::default() };
            b.host.set_link(host.index, &join(bridge)).await.unwrap();
            let on =
                |e: &LinkEvent| matches!(e, LinkEvent::Changed(l) if l.index == host.index && l.master == Some(bridge));
            until(&mut events, on).await;
            b.host.set_link(host.index, &join(0)).await.unwrap();
            until(&mut events, |e| *e == LinkEvent::Port(host.index)).await;
            let off = |e: &LinkEvent| matches!(e, LinkEvent::Changed(l) if l.index == host.index && l.master.is_none());
            until(&mut events, off).await;
            b.host.delete_link(bridge).await.unwrap();
            until(&mut events, |e| *e == LinkEvent::Gone(bridge)).await;
        });
    }

    #[test]
    fn what_does_not_fit_is_told_as_missed() {
        block_on(async {
            let b = Bench::new();
            let mut events = b.host_ns.link_events().unwrap();
            setsockopt(&events.socket.get_ref(), sockopt::RcvBuf, &2048).unwrap();
            let (host, _) = b.pair().await;
            for i in 0..200 {
                b.host.set_link(host.index, &LinkChange { up: Some(i % 2 == 0), ..Default::default() }).await.unwrap();
            }
            until(&mut events, |e| *e == LinkEvent::Missed).await;
        });
    }

    #[test]
    fn torn_datagrams_are_told_as_missed() {
        assert_eq!(events(&[]), []);
        assert_eq!(events(&[1, 2, 3]), [LinkEvent::Missed]);
        assert_eq!(events(&[0xff; 40]), [LinkEvent::Missed]);
        assert_eq!(events(&[0; 16]), [LinkEvent::Missed]);
        // A whole header of RTM_NEWLINK, but no body.
        let mut short = vec![16, 0, 0, 0, 16, 0];
        short.resize(16, 0);
        assert_eq!(events(&short), [LinkEvent::Missed]);
    }
}
