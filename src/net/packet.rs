//! A packet socket on one link for a DHCP client: frames with UDP to port 68 and ARP come in; DHCP, ARP questions and
//! announcements go out, under an Ethernet source that the caller names.
//!
//! It knows frames and their checksums, and neither DHCP nor why somebody asks. The socket is opened inside the link's
//! namespace and used from outside. It sees a frame before tc does: also one that a redirect takes to a guest's tap.

mod server;

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::{self, c_int, sock_filter, sock_fprog, sockaddr_ll};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd;

use super::frame::{self, Heard};
use super::{Namespace, NetError, NetResult, bpf};
use crate::types::Mac;

pub use self::server::ServerSocket;

/// Frames of a link of at most this MTU are whole: DHCP answers have 576 bytes, seldom more.
const LARGEST: usize = 2048;
const ALL: u16 = libc::ETH_P_ALL as u16;

/// Open on one link.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
    /// Takes what a server sends to the leased address itself: without it the stack would answer "port unreachable". None
    /// where somebody in the namespace has that port.
    _sink: Option<UdpSocket>,
}

impl PacketSocket {
    pub fn open(namespace: &Namespace, index: u32) -> NetResult<Self> {
        namespace.enter(|| Self::open_here(index))?
    }

    fn open_here(index: u32) -> NetResult<Self> {
        let failed = |e| NetError::new("open packet socket on", format!("link {index}"), e);
        // Of no protocol until the filter is there: so nothing comes in that it has not seen.
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None).map_err(failed)?;
        attach(&socket, &bpf::client()).map_err(failed)?;
        bind(&socket, index).map_err(failed)?;
        Ok(Self { socket, _sink: UdpSocket::bind((Ipv4Addr::UNSPECIFIED, frame::CLIENT)).ok() })
    }

    /// From port 68 to port 67.
    pub fn send_udp(&self, macs: frame::Macs, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> NetResult<()> {
        self.send(&frame::udp(macs, from, to, payload))
    }

    /// Asks who has an address, without telling one: nobody learns the asker's (RFC 5227, an ARP probe).
    pub fn ask(&self, source: Mac, target: Ipv4Addr) -> NetResult<()> {
        self.send(&frame::arp(source, Ipv4Addr::UNSPECIFIED, target))
    }

    /// Tells that an address is here now (RFC 5227, an ARP announcement).
    pub fn announce(&self, source: Mac, address: Ipv4Addr) -> NetResult<()> {
        self.send(&frame::arp(source, address, address))
    }

    fn send(&self, frame: &[u8]) -> NetResult<()> {
        match unistd::write(&self.socket, frame) {
            // Lost like any other frame; whoever sent it sends it again.
            Ok(_) | Err(Errno::ENOBUFS | Errno::EAGAIN) => Ok(()),
            Err(e) => Err(NetError::new("send", "frame", e)),
        }
    }

    /// The next frame that can be read. None: none is there.
    pub fn receive(&self) -> NetResult<Option<Heard>> {
        let mut buffer = [0; LARGEST];
        loop {
            match unistd::read(&self.socket, &mut buffer) {
                Ok(len) => {
                    if let Some(heard) = frame::read(&buffer[..len]) {
                        return Ok(Some(heard));
                    }
                }
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(NetError::new("receive", "frame", e)),
            }
        }
    }

    /// Waits until a frame is there, at most so long; wakes up early sometimes.
    pub fn wait(&self, at_most: Duration) -> NetResult<()> {
        // Rounded up: a wait of nothing again and again would be no wait.
        let milliseconds = at_most.as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(e) => Err(NetError::new("wait for", "frame", e)),
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn attach(socket: &OwnedFd, filter: &[sock_filter]) -> nix::Result<()> {
    let program = sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // The instructions outlive the call, which copies them.
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// An option that nix does not know. What `value` points to, if it does, has to outlive the call.
fn set<T>(socket: &OwnedFd, level: c_int, option: c_int, value: &T) -> nix::Result<()> {
    let (at, len) = ((&raw const *value).cast(), size_of::<T>() as u32);
    #[expect(unsafe_code, reason = "nix does not know these options")]
    // SAFETY: `value` is whole and outlives the call, and the length is its own. The kernel only reads.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, at, len) };
    Errno::result(done).map(drop)
}

fn bind(socket: &OwnedFd, index: u32) -> nix::Result<()> {
    let address = sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ALL.to_be(),
        sll_ifindex: index.cast_signed() as c_int,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let (at, len) = ((&raw const address).cast(), size_of::<sockaddr_ll>() as u32);
    #[expect(unsafe_code, reason = "nix cannot make an address of a packet socket")]
    // SAFETY: `address` is a whole sockaddr_ll that outlives the call, and the length is its own.
    let done = unsafe { libc::bind(socket.as_raw_fd(), at, len) };
    Errno::result(done).map(drop)
}

/// A link that is gone or down while its socket is open, or a namespace that lost it.
pub fn is_gone(e: &NetError) -> bool {
    e.gone() || e.is(Errno::ENXIO) || e.is(Errno::ENETDOWN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::NewAddress;
    use crate::net::testing::{Bench, block_on};

    const POD: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

    fn mac(last: u8) -> Mac {
        Mac::new([2, 0, 0, 0, 0, last])
    }

    fn heard(socket: &PacketSocket) -> Option<Heard> {
        let mut waits = 0..20;
        loop {
            if let Some(heard) = socket.receive().unwrap() {
                return Some(heard);
            }
            waits.next()?;
            socket.wait(Duration::from_millis(50)).unwrap();
        }
    }

    async fn address(b: &Bench, net: &str, host: bool, index: u32) {
        let net = net.parse().unwrap();
        let a = NewAddress { net, broadcast: None, nodad: true, routeless: false, valid_seconds: None };
        if host { &b.host } else { &b.pod }.add_address(index, &a).await.unwrap();
    }

    /// The server's kernel leaves the checksum to the hardware, of which a veth has none.
    #[test]
    fn a_datagram_without_its_checksum_is_received_and_others_are_not() {
        block_on(async {
            let b = Bench::new();
            let (host, pod) = b.pair().await;
            address(&b, "10.1.0.1/24", true, host.index).await;
            let socket = PacketSocket::open(&b.pod_ns, pod.index).unwrap();
            b.host_ns
                .enter(|| {
                    let server = UdpSocket::bind("10.1.0.1:67").unwrap();
                    server.set_broadcast(true).unwrap();
                    for (port, text) in [(69, "other"), (68, "to the client")] {
                        server.send_to(text.as_bytes(), ("255.255.255.255", port)).unwrap();
                    }
                })
                .unwrap();
            loop {
                match heard(&socket) {
                    Some(Heard::Udp { from: SERVER, payload }) => {
                        assert_eq!(payload, b"to the client");
                        return;
                    }
                    // Of the server's stack, or IPv6's neighbours.
                    Some(Heard::Arp(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
        });
    }

    #[test]
    fn what_is_sent_is_what_a_server_receives_and_is_not_heard_here() {
        block_on(async {
            let b = Bench::new();
            let (host, pod) = b.pair().await;
            address(&b, "10.1.0.1/24", true, host.index).await;
            let socket = PacketSocket::open(&b.pod_ns, pod.index).unwrap();
            let server = b.host_ns.enter(|| UdpSocket::bind("0.0.0.0:67").unwrap()).unwrap();
            server.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            let macs = frame::Macs { source: mac(9), destination: frame::EVERYBODY };
            for (from, to) in [(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST), (POD, SERVER)] {
                let destination = if to == SERVER { host.mac.unwrap() } else { frame::EVERYBODY };
                socket.send_udp(frame::Macs { destination, ..macs }, from, to, b"odd").unwrap();
                let mut buffer = [0; 64];
                let (len, sender) = server.recv_from(&mut buffer).expect("the kernel found the checksums right");
                assert_eq!((&buffer[..len], sender), (&b"odd"[..], (from, 68).into()));
            }
            assert_eq!(socket.receive().unwrap(), None);
        });
    }

    #[test]
    fn a_neighbour_answers_a_question_that_tells_no_address() {
        block_on(async {
            let b = Bench::new();
            let (host, pod) = b.pair().await;
            address(&b, "10.1.0.1/24", true, host.index).await;
            let socket = PacketSocket::open(&b.pod_ns, pod.index).unwrap();
            // Not the link's own: a machine's client asks so, and a veth lets the answer through.
            socket.ask(mac(7), SERVER).unwrap();
            let answer = loop {
                match heard(&socket) {
                    Some(Heard::Arp(arp)) if arp.sender == SERVER => break arp,
                    Some(_) => {}
                    None => panic!("no answer"),
                }
            };
            assert_eq!(Some(answer.mac), host.mac);
            let known = b.host.neighbours(host.index).await.unwrap();
            assert!(known.iter().all(|n| n.mac != Some(mac(7))), "the server has learnt nothing: {known:?}");
            socket.announce(mac(7), POD).unwrap();
        });
    }

    #[test]
    fn a_link_that_goes_is_told() {
        block_on(async {
            let b = Bench::new();
            let (host, pod) = b.pair().await;
            let socket = PacketSocket::open(&b.pod_ns, pod.index).unwrap();
            b.host.delete_link(host.index).await.unwrap();
            let e = socket.ask(mac(7), SERVER).unwrap_err();
            assert!(is_gone(&e), "{e}");
            assert!(is_gone(&PacketSocket::open(&b.pod_ns, pod.index).unwrap_err()));
        });
    }
}
