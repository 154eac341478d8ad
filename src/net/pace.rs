//! A netlink socket that is read one piece at a time, so that whoever waits for a list takes each piece before the next one
//! is there.
//!
//! The packet library's connection reads as long as there is something, and the kernel makes the next piece of a list at each
//! read: all of it would lie in memory before the first message is looked at. A link has 35 KiB then (seen on Linux 6.18), so
//! 35 MiB for a thousand, which the allocator keeps. Knows nothing of messages.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::BufMut;
use rtnetlink::sys::{AsyncSocket, Socket, SocketAddr, TokioSocket};

pub(super) struct Paced {
    socket: TokioSocket,
    /// Since it was last said that there is nothing.
    has_read: Cell<bool>,
}

impl Paced {
    /// Says after each read once that there is nothing, and asks to be called again when others have had their turn. To wake
    /// itself at once would not do: the runtime looks at what it was begun with only after dozens of turns of its tasks.
    fn read<T>(&self, cx: &mut Context<'_>, read: impl FnOnce(&TokioSocket, &mut Context<'_>) -> Poll<T>) -> Poll<T> {
        if self.has_read.take() {
            let others = pin!(tokio::task::yield_now());
            let _ = others.poll(cx);
            return Poll::Pending;
        }
        let done = read(&self.socket, cx);
        self.has_read.set(done.is_ready());
        done
    }
}

impl AsyncSocket for Paced {
    fn socket_ref(&self) -> &Socket {
        self.socket.socket_ref()
    }

    fn socket_mut(&mut self) -> &mut Socket {
        self.socket.socket_mut()
    }

    fn new(protocol: isize) -> io::Result<Self> {
        Ok(Self { socket: TokioSocket::new(protocol)?, has_read: Cell::new(false) })
    }

    fn poll_send(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.socket.poll_send(cx, buf)
    }

    fn poll_send_to(&self, cx: &mut Context<'_>, buf: &[u8], addr: &SocketAddr) -> Poll<io::Result<usize>> {
        self.socket.poll_send_to(cx, buf, addr)
    }

    fn poll_recv<B: BufMut>(&self, cx: &mut Context<'_>, buf: &mut B) -> Poll<io::Result<()>> {
        self.read(cx, |socket, cx| socket.poll_recv(cx, buf))
    }

    fn poll_recv_from<B: BufMut>(&self, cx: &mut Context<'_>, buf: &mut B) -> Poll<io::Result<SocketAddr>> {
        self.read(cx, |socket, cx| socket.poll_recv_from(cx, buf))
    }

    fn poll_recv_from_full(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Vec<u8>, SocketAddr)>> {
        self.read(cx, |socket, cx| socket.poll_recv_from_full(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::poll_fn;

    use rtnetlink::packet_route::RouteNetlinkMessage;
    use rtnetlink::packet_route::link::LinkMessage;

    use super::super::netlink::Ask;
    use super::super::testing::{Bench, block_on, name, veth};
    use super::*;

    /// Whoever asked is called again between two pieces, and makes of each what it wants.
    #[test]
    fn a_list_is_taken_in_pieces() {
        block_on(async {
            let b = Bench::new();
            for n in 0..100 {
                let (host, pod) = (name(&format!("host{n}")), name(&format!("pod{n}")));
                b.host.create_veth(&veth(&host, &pod, &b.pod_ns)).await.unwrap();
            }
            let (made, steps) = (RefCell::new(0), RefCell::new(Vec::new()));
            let query = RouteNetlinkMessage::GetLink(LinkMessage::default());
            let mut list = pin!(b.host.dump_as(Ask::new("list", "links"), query, |_| {
                *made.borrow_mut() += 1;
                Some(())
            }));
            let all = poll_fn(|cx| {
                let polled = list.as_mut().poll(cx);
                steps.borrow_mut().push(*made.borrow());
                polled
            });
            let all = all.await.unwrap().len();
            assert!(all > 100, "{all}");
            let most = steps.borrow().windows(2).map(|two| two[1] - two[0]).max().unwrap();
            assert!(most <= all / 2, "{most} of {all} at once: {:?}", steps.borrow());
            assert_eq!(b.host.links().await.unwrap().len(), all);
        });
    }
}
