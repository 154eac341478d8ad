//! A packet socket at a veth's host end, for a DHCP server that has one client: its questions come in, ARP for the server's
//! address among them; answers go out under a source that the caller names.
//!
//! It sees a question before tc does, which keeps it from the bridge, and its answers pass the egress filters, which
//! keep others' answers away: they take no queueing discipline (PACKET_QDISC_BYPASS) and go straight to the peer.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::libc::{self, c_int};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{LARGEST, attach, bind, set};
use crate::net::frame::{self, Macs, Question};
use crate::net::{Namespace, NetError, NetResult, bpf};

/// A link that goes down or away is told as an error alone: nothing is there to be read then.
const WHAT: Interest = Interest::READABLE.add(Interest::ERROR);

/// Used in one tokio runtime.
#[derive(Debug)]
pub struct ServerSocket {
    socket: AsyncFd<OwnedFd>,
}

impl ServerSocket {
    /// `address`: the server's own, for which ARP is heard.
    pub fn open(namespace: &Namespace, index: u32, address: Ipv4Addr) -> NetResult<Self> {
        let open = || open_here(index, address);
        let socket = if namespace.is_of_this_thread() { open()? } else { namespace.enter(open)?? };
        #[expect(unsafe_code, reason = "tokio wants the promise that a descriptor stays the same")]
        // SAFETY: an `OwnedFd` is open as long as it lives, and has one number; the `AsyncFd` owns it.
        let registered = unsafe { AsyncFd::register_with_interest(socket, WHAT) };
        let socket =
            registered.map_err(|e| NetError::io("open packet socket on", format!("link {index}"), &e.into()))?;
        Ok(Self { socket })
    }

    /// The next question. Nothing is lost if the wait is given up.
    pub async fn heard(&self) -> NetResult<Question> {
        let mut buffer = [0; LARGEST];
        loop {
            let failed = |e: std::io::Error| NetError::io("receive", "frame", &e);
            let mut ready = self.socket.ready(WHAT).await.map_err(failed)?;
            let read = ready.try_io(|fd| Ok(unistd::read(fd.get_ref(), &mut buffer)?));
            // An error: it was ready no more.
            let Ok(read) = read else { continue };
            match read {
                Ok(len) => {
                    if let Some(question) = frame::read_question(&buffer[..len]) {
                        return Ok(question);
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(e)),
            }
        }
    }

    /// From port 67 to port 68.
    pub fn answer(&self, macs: Macs, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> NetResult<()> {
        self.send(&frame::udp_answer(macs, from, to, payload))
    }

    /// Tells by ARP where `address` is.
    pub fn is_here(&self, macs: Macs, address: Ipv4Addr, asker: Ipv4Addr) -> NetResult<()> {
        self.send(&frame::arp_answer(macs, address, asker))
    }

    fn send(&self, frame: &[u8]) -> NetResult<()> {
        match unistd::write(self.socket.get_ref(), frame) {
            // Lost like any other frame; the client asks again.
            Ok(_) | Err(Errno::ENOBUFS | Errno::EAGAIN) => Ok(()),
            Err(e) => Err(NetError::new("send", "frame", e)),
        }
    }
}

fn open_here(index: u32, address: Ipv4Addr) -> NetResult<OwnedFd> {
    let failed = |e| NetError::new("open packet socket on", format!("link {index}"), e);
    // Of no protocol until the filter is there: so nothing comes in that it has not seen.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None).map_err(failed)?;
    set(&socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &(1 as c_int)).map_err(failed)?;
    // What the LAN sends to the machine is much, and none of it is looked at. Before Linux 4.20 the filter drops it.
    let _ = set(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &(1 as c_int));
    attach(&socket, &bpf::server(address)).map_err(failed)?;
    bind(&socket, index).map_err(failed)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::net::frame::{Arp, EVERYBODY, Heard};
    use crate::net::packet::{PacketSocket, is_gone};
    use crate::net::testing::{Bench, block_on};
    use crate::types::Mac;

    const GUEST: Mac = Mac::new([2, 0, 0, 0, 0, 7]);
    const SERVER: Ipv4Addr = Ipv4Addr::new(169, 254, 67, 67);
    const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
    const SOON: Duration = Duration::from_secs(10);

    async fn heard(socket: &ServerSocket) -> Question {
        timeout(SOON, socket.heard()).await.expect("nothing was heard").unwrap()
    }

    #[test]
    fn questions_are_heard_and_nothing_else_is() {
        block_on(async {
            let b = Bench::new();
            let (host, pod) = b.pair().await;
            let server = ServerSocket::open(&b.host_ns, host.index, SERVER).unwrap();
            let guest = PacketSocket::open(&b.pod_ns, pod.index).unwrap();
            guest.ask(GUEST, Ipv4Addr::new(192, 0, 2, 1)).unwrap();
            guest.announce(GUEST, Ipv4Addr::new(192, 0, 2, 1)).unwrap();
            guest.ask(GUEST, SERVER).unwrap();
            let macs = Macs { source: GUEST, destination: EVERYBODY };
            guest.send_udp(macs, NOBODY, Ipv4Addr::BROADCAST, b"to all").unwrap();
            // To a router's MAC: not this host's, and heard all the same.
            let macs = Macs { destination: Mac::new([2, 0, 0, 0, 0, 1]), ..macs };
            guest.send_udp(macs, Ipv4Addr::new(192, 0, 2, 7), SERVER, b"to one").unwrap();
            let arp = Heard::Arp(Arp { mac: GUEST, sender: NOBODY, target: SERVER });
            assert_eq!(heard(&server).await, Question { source: GUEST, heard: arp });
            for (from, text) in [(NOBODY, &b"to all"[..]), (Ipv4Addr::new(192, 0, 2, 7), b"to one")] {
                let udp = Heard::Udp { from, payload: text.to_vec() };
                assert_eq!(heard(&server).await, Question { source: GUEST, heard: udp });
            }
            assert!(timeout(Duration::from_millis(100), server.heard()).await.is_err());
        });
    }

    #[test]
    fn answers_are_whole_and_the_servers_own_are_not_heard() {
        block_on(async {
            let b = Bench::new();
            let (host, pod) = b.pair().await;
            let server = ServerSocket::open(&b.host_ns, host.index, SERVER).unwrap();
            let guest = PacketSocket::open(&b.pod_ns, pod.index).unwrap();
            let macs = Macs { source: host.mac.unwrap(), destination: EVERYBODY };
            server.answer(macs, SERVER, Ipv4Addr::BROADCAST, b"yours").unwrap();
            server.is_here(Macs { destination: GUEST, ..macs }, SERVER, NOBODY).unwrap();
            let mut got = Vec::new();
            while got.len() < 2 {
                got.extend(guest.receive().unwrap());
                guest.wait(Duration::from_millis(20)).unwrap();
            }
            assert_eq!(got[0], Heard::Udp { from: SERVER, payload: b"yours".to_vec() });
            let arp = Arp { mac: macs.source, sender: SERVER, target: NOBODY };
            assert_eq!(got[1], Heard::Arp(arp));
            assert!(timeout(Duration::from_millis(100), server.heard()).await.is_err());
        });
    }

    #[test]
    fn a_link_that_goes_is_told() {
        block_on(async {
            let b = Bench::new();
            let (host, _) = b.pair().await;
            let server = ServerSocket::open(&b.host_ns, host.index, SERVER).unwrap();
            b.host.delete_link(host.index).await.unwrap();
            let e = timeout(SOON, server.heard()).await.unwrap().unwrap_err();
            assert!(is_gone(&e), "{e}");
            assert!(is_gone(&ServerSocket::open(&b.host_ns, host.index, SERVER).unwrap_err()));
        });
    }
}
