//! A small TCP/IP stack of one network card: answers ARP and ICMP echo, and pings.
//!
//! Knows frames in and frames out of one descriptor, where each read and write is one frame: a tap, or a socket pair
//! in a test. Knows neither how the tap came to be nor who asks for a ping.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::Duration;

use ipnetwork::Ipv4Network;
use nix::errno::Errno;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::icmp;
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv4Message, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr,
    IpProtocol, Ipv4Packet,
};

use crate::types::{Mac, Mtu};

const ETHERNET_HEADER: usize = 14;
const TRIES: u16 = 5;
const PATIENCE: Duration = Duration::from_millis(1000);

/// Reads and writes whole frames; the descriptor does not block.
pub struct Card<F> {
    fd: F,
    mtu: usize,
    /// Pings to these are answered right here: of smoltcp, that is a feature that this program is built without.
    own: Option<(EthernetAddress, Ipv4Addr)>,
}

pub struct Frame(Vec<u8>);

pub struct Sender<'a, F>(&'a F);

impl<F: AsFd> Card<F> {
    pub fn new(fd: F, mtu: Mtu) -> io::Result<Self> {
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(fd.as_fd(), nix::fcntl::FcntlArg::F_SETFL(flags))?;
        Ok(Self { fd, mtu: mtu.get() as usize, own: None })
    }

    pub fn fd(&self) -> &F {
        &self.fd
    }
}

impl<F: AsFd> Device for Card<F> {
    type RxToken<'a>
        = Frame
    where
        F: 'a;
    type TxToken<'a>
        = Sender<'a, F>
    where
        F: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Frame, Sender<'_, F>)> {
        loop {
            let mut frame = vec![0; self.mtu + ETHERNET_HEADER + 4];
            let read = nix::unistd::read(&self.fd, &mut frame).ok().filter(|n| *n > 0)?;
            frame.truncate(read);
            let echoed = self.own.and_then(|own| echo(&mut frame, own)).is_some();
            if !echoed {
                return Some((Frame(frame), Sender(&self.fd)));
            }
            Sender(&self.fd).consume(frame.len(), |reply| reply.copy_from_slice(&frame));
        }
    }

    fn transmit(&mut self, _: Instant) -> Option<Sender<'_, F>> {
        Some(Sender(&self.fd))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = self.mtu + ETHERNET_HEADER;
        caps
    }
}

impl RxToken for Frame {
    fn consume<R, C: FnOnce(&[u8]) -> R>(self, f: C) -> R {
        f(&self.0)
    }
}

impl<F: AsFd> TxToken for Sender<'_, F> {
    fn consume<R, C: FnOnce(&mut [u8]) -> R>(self, len: usize, f: C) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        // A frame that the queue has no room for is lost, as on any wire.
        while nix::unistd::write(self.0, &frame) == Err(Errno::EINTR) {}
        result
    }
}

/// Makes the answer out of an echo request to `mac` and `ip`; other frames stay as they are.
fn echo(frame: &mut [u8], (mac, ip): (EthernetAddress, Ipv4Addr)) -> Option<()> {
    let mut ethernet = EthernetFrame::new_checked(frame).ok()?;
    let from = ethernet.src_addr();
    if ethernet.dst_addr() != mac || ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let mut packet = Ipv4Packet::new_checked(ethernet.payload_mut()).ok()?;
    let whole = packet.verify_checksum() && !packet.more_frags() && packet.frag_offset() == 0;
    if !whole || packet.dst_addr() != ip || packet.next_header() != IpProtocol::Icmp {
        return None;
    }
    let back = packet.src_addr();
    let mut icmp = Icmpv4Packet::new_checked(packet.payload_mut()).ok()?;
    if icmp.msg_type() != Icmpv4Message::EchoRequest || !icmp.verify_checksum() {
        return None;
    }
    icmp.set_msg_type(Icmpv4Message::EchoReply);
    icmp.fill_checksum();
    packet.set_src_addr(ip);
    packet.set_dst_addr(back);
    packet.set_hop_limit(64);
    packet.fill_checksum();
    ethernet.set_src_addr(mac);
    ethernet.set_dst_addr(from);
    Some(())
}

/// What became of a ping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pong {
    Back(Ipv4Addr, Duration),
    Lost(Ipv4Addr),
}

struct Asked {
    to: Ipv4Addr,
    sequence: u16,
    sent: std::time::Instant,
    left: u16,
}

pub struct Stack<F: AsFd> {
    card: Card<F>,
    interface: Interface,
    sockets: SocketSet<'static>,
    icmp: SocketHandle,
    ident: u16,
    sequence: u16,
    asked: Option<Asked>,
}

impl<F: AsFd> Stack<F> {
    pub fn new(mut card: Card<F>, mac: Mac, address: Ipv4Network) -> Self {
        let bytes = mac.bytes();
        card.own = Some((EthernetAddress(bytes), address.ip()));
        let mut config = Config::new(EthernetAddress(bytes).into());
        config.random_seed = bytes.iter().fold(0, |seed, b| seed << 8 | u64::from(*b));
        let mut interface = Interface::new(config, &mut card, Instant::now());
        interface.update_ip_addrs(|all| {
            // The list holds at least one.
            let _ = all.push(IpCidr::new(IpAddress::Ipv4(address.ip()), address.prefix()));
        });
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 1024]);
        let mut sockets = SocketSet::new(Vec::new());
        let icmp = sockets.add(icmp::Socket::new(buffer(), buffer()));
        Self {
            card,
            interface,
            sockets,
            icmp,
            ident: u16::from_be_bytes([bytes[4], bytes[5]]),
            sequence: 0,
            asked: None,
        }
    }

    pub fn card(&self) -> &Card<F> {
        &self.card
    }

    /// Asks for an echo; the answer comes out of [`Stack::poll`]. One at a time: a new one replaces the old.
    pub fn ping(&mut self, to: Ipv4Addr) {
        self.asked = Some(Asked { to, sequence: 0, sent: std::time::Instant::now(), left: TRIES });
        self.send();
    }

    /// Takes in and sends out what there is.
    pub fn poll(&mut self) -> Option<Pong> {
        self.interface.poll(Instant::now(), &mut self.card, &mut self.sockets);
        if let Some(pong) = self.answer() {
            return Some(pong);
        }
        let late = self.asked.as_ref().is_some_and(|a| a.sent.elapsed() >= PATIENCE);
        if late {
            return self.again();
        }
        None
    }

    /// How long nothing need be done unless a frame comes.
    pub fn delay(&mut self) -> Option<Duration> {
        let own = self.interface.poll_delay(Instant::now(), &self.sockets).map(Duration::from);
        let ping = self.asked.as_ref().map(|a| PATIENCE.saturating_sub(a.sent.elapsed()));
        own.into_iter().chain(ping).min()
    }

    fn again(&mut self) -> Option<Pong> {
        let asked = self.asked.as_mut()?;
        if asked.left == 0 {
            let to = asked.to;
            self.asked = None;
            return Some(Pong::Lost(to));
        }
        self.send();
        None
    }

    fn send(&mut self) {
        let Some(asked) = self.asked.as_mut() else { return };
        self.sequence = self.sequence.wrapping_add(1);
        asked.sequence = self.sequence;
        asked.sent = std::time::Instant::now();
        asked.left -= 1;
        let request = Icmpv4Repr::EchoRequest { ident: self.ident, seq_no: self.sequence, data: b"trestle lab" };
        let socket = self.sockets.get_mut::<icmp::Socket>(self.icmp);
        if !socket.is_open() && socket.bind(icmp::Endpoint::Ident(self.ident)).is_err() {
            return;
        }
        if let Ok(room) = socket.send(request.buffer_len(), IpAddress::Ipv4(asked.to)) {
            request.emit(&mut Icmpv4Packet::new_unchecked(room), &ChecksumCapabilities::default());
        }
        self.interface.poll(Instant::now(), &mut self.card, &mut self.sockets);
    }

    fn answer(&mut self) -> Option<Pong> {
        let socket = self.sockets.get_mut::<icmp::Socket>(self.icmp);
        while socket.can_recv() {
            let Ok((bytes, from)) = socket.recv() else { break };
            let Ok(packet) = Icmpv4Packet::new_checked(bytes) else { continue };
            let Ok(reply) = Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()) else { continue };
            let Icmpv4Repr::EchoReply { seq_no, .. } = reply else { continue };
            let fits = |a: &Asked| a.sequence == seq_no && IpAddress::Ipv4(a.to) == from;
            if let Some(asked) = self.asked.take_if(|a| fits(a)) {
                return Some(Pong::Back(asked.to, asked.sent.elapsed()));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    /// A wire that keeps frames apart, as a tap does.
    fn wire() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    fn stack(fd: OwnedFd, mac: &str, address: &str) -> Stack<OwnedFd> {
        let card = Card::new(fd, Mtu::try_from(1500).unwrap()).unwrap();
        Stack::new(card, mac.parse().unwrap(), address.parse().unwrap())
    }

    #[test]
    fn two_stacks_ping_each_other() {
        let (a, b) = wire();
        let mut a = stack(a, "02:00:00:00:00:0a", "192.0.2.1/24");
        let mut b = stack(b, "02:00:00:00:00:0b", "192.0.2.2/24");
        a.ping(Ipv4Addr::new(192, 0, 2, 2));
        let pong = (0..100).find_map(|_| {
            let _ = b.poll();
            a.poll()
        });
        assert!(matches!(pong, Some(Pong::Back(ip, _)) if ip == Ipv4Addr::new(192, 0, 2, 2)), "{pong:?}");
        assert_eq!(a.poll(), None, "one ping has one answer");
    }

    #[test]
    fn asks_for_the_owner_of_an_address_and_answers_with_its_own_mac() {
        let (a, b) = wire();
        let mut guest = stack(a, "02:00:00:00:00:0a", "192.0.2.1/24");
        let _ = Card::new(&b, Mtu::try_from(1500).unwrap()).unwrap();
        let request = [
            &[0xff; 6][..],
            &[2, 0, 0, 0, 0, 0xb, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &[2, 0, 0, 0, 0, 0xb, 192, 0, 2, 2],
            &[0; 6],
            &[192, 0, 2, 1],
        ]
        .concat();
        assert_eq!(nix::unistd::write(&b, &request), Ok(42));
        assert_eq!(guest.poll(), None);
        let mut reply = [0; 2000];
        let n = nix::unistd::read(&b, &mut reply).unwrap();
        assert!(n >= 42);
        assert_eq!(reply[..6], [2, 0, 0, 0, 0, 0xb]);
        assert_eq!(reply[6..12], [2, 0, 0, 0, 0, 0xa]);
        assert_eq!(reply[20..32], [0, 2, 2, 0, 0, 0, 0, 0xa, 192, 0, 2, 1]);
    }

    #[test]
    fn a_ping_that_nobody_answers_is_lost() {
        let (a, _b) = wire();
        let mut guest = stack(a, "02:00:00:00:00:0a", "192.0.2.1/24");
        guest.ping(Ipv4Addr::new(192, 0, 2, 9));
        assert!(guest.delay().is_some_and(|d| d <= PATIENCE));
        // Time is moved by hand, not waited for.
        for _ in 1..TRIES {
            guest.asked.as_mut().unwrap().sent -= PATIENCE;
            assert_eq!(guest.poll(), None);
        }
        guest.asked.as_mut().unwrap().sent -= PATIENCE;
        assert_eq!(guest.poll(), Some(Pong::Lost(Ipv4Addr::new(192, 0, 2, 9))));
    }

    #[test]
    fn noise_on_the_wire_is_no_matter() {
        let (a, b) = wire();
        let mut guest = stack(a, "02:00:00:00:00:0a", "192.0.2.1/24");
        for n in 1..80_usize {
            let noise: Vec<u8> = (0..n).map(|i| (i * 37 + n) as u8).collect();
            let _ = nix::unistd::write(&b, &noise);
        }
        assert_eq!(guest.poll(), None);
    }
}
