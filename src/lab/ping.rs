//! ICMP echo by a raw socket of the lab's own: no `ping` program is needed, and none of its set-up (capabilities of
//! the file, `ping_group_range`) matters.
//!
//! Knows IPv4 and ICMP; the namespace that it speaks in is the calling thread's.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket};

const TRIES: u16 = 5;
const PATIENCE: Duration = Duration::from_millis(1000);
const REQUEST: u8 = 8;
const REPLY: u8 = 0;

/// Time from the request that was answered to its answer; `None` if none was.
pub fn ping(to: Ipv4Addr) -> io::Result<Option<Duration>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Icmp)?;
    // Each reply comes to every raw socket of the namespace: the number tells ours.
    let ident = (std::process::id() ^ u32::from(to)) as u16;
    let address = SockaddrIn::from(SocketAddrV4::new(to, 0));
    for sequence in 1..=TRIES {
        let sent = Instant::now();
        match sendto(socket.as_raw_fd(), &request(ident, sequence), &address, MsgFlags::empty()) {
            // What the kernel has learnt from an earlier try (no neighbour) comes back here.
            Err(Errno::EHOSTUNREACH | Errno::EHOSTDOWN) => {}
            other => drop(other?),
        }
        if await_reply(&socket, to, (ident, sequence), sent)? {
            return Ok(Some(sent.elapsed()));
        }
    }
    Ok(None)
}

fn await_reply(socket: &OwnedFd, from: Ipv4Addr, key: (u16, u16), sent: Instant) -> io::Result<bool> {
    let mut packet = [0; 1500];
    while let Some(left) = PATIENCE.checked_sub(sent.elapsed()) {
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut fds, timeout) {
            Ok(0) => break,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        match recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            Ok(n) if is_reply(&packet[..n], from, key) => return Ok(true),
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR | Errno::EHOSTUNREACH) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(false)
}

fn request(ident: u16, sequence: u16) -> Vec<u8> {
    let mut packet = vec![REQUEST, 0, 0, 0];
    packet.extend(ident.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend(b"trestle lab ");
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A raw socket's packet begins with the IP header.
fn is_reply(packet: &[u8], from: Ipv4Addr, (ident, sequence): (u16, u16)) -> bool {
    let Some(first) = packet.first() else { return false };
    let Some((ip, icmp)) = packet.split_at_checked(usize::from(first & 0x0f) * 4) else { return false };
    ip.get(12..16) == Some(&from.octets())
        && icmp.len() >= 8
        && icmp[0] == REPLY
        && icmp[4..6] == ident.to_be_bytes()
        && icmp[6..8] == sequence.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

    fn reply(ident: u16, sequence: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 9, 192, 0, 2, 1];
        packet.extend(request(ident, sequence));
        packet[20] = REPLY;
        packet
    }

    #[test]
    fn the_checksum_of_a_packet_with_its_checksum_is_zero() {
        assert_eq!(checksum(&request(0x1234, 7)), 0);
        assert_eq!(checksum(&[0xff, 0xff, 0xff, 0xff]), 0);
        assert_eq!(checksum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]), 0x220d);
    }

    #[test]
    fn only_the_reply_that_was_asked_for_counts() {
        assert!(is_reply(&reply(1, 2), FROM, (1, 2)));
        assert!(!is_reply(&reply(1, 3), FROM, (1, 2)));
        assert!(!is_reply(&reply(3, 2), FROM, (1, 2)));
        assert!(!is_reply(&reply(1, 2), Ipv4Addr::new(192, 0, 2, 8), (1, 2)));
        let mut own = reply(1, 2);
        own[20] = REQUEST;
        assert!(!is_reply(&own, FROM, (1, 2)));
        for n in 0..27 {
            assert!(!is_reply(&reply(1, 2)[..n], FROM, (1, 2)), "{n} bytes");
        }
    }
}
