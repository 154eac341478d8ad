//! Frames of a DHCP client, and of a server for one, built and read: Ethernet, ARP, IPv4 and UDP with their checksums.
//!
//! Pure: bytes in, bytes out. What is in a datagram is not known here, and what comes from the network is never trusted.

use std::net::Ipv4Addr;

use crate::types::Mac;

pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const UDP: u8 = 17;
pub const CLIENT: u16 = 68;
pub const SERVER: u16 = 67;
pub const EVERYBODY: Mac = Mac::new([0xff; 6]);
/// Shortest Ethernet frame without its checksum: a real NIC pads, and some drivers count on it.
const SHORTEST: usize = 60;
const ETHERNET: usize = 14;
const IP: usize = 20;
const UDP_HEADER: usize = 8;
const TTL: u8 = 64;
/// ARP's operations.
pub const QUESTION: u8 = 1;
const ANSWER: u8 = 2;

/// Who sends a frame, and whom to.
#[derive(Debug, Clone, Copy)]
pub struct Macs {
    pub source: Mac,
    pub destination: Mac,
}

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Udp { from: Ipv4Addr, payload: Vec<u8> },
    Arp(Arp),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arp {
    pub mac: Mac,
    /// Unspecified: a probe.
    pub sender: Ipv4Addr,
    pub target: Ipv4Addr,
}

/// What a server hears of its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The frame's own source.
    pub source: Mac,
    pub heard: Heard,
}

fn ethernet(macs: Macs, kind: u16) -> Vec<u8> {
    let mut f = Vec::with_capacity(SHORTEST);
    f.extend(macs.destination.bytes());
    f.extend(macs.source.bytes());
    f.extend(kind.to_be_bytes());
    f
}

/// A question for `target`. With `sender` unspecified it is a probe, with `sender` the target an announcement.
pub fn arp(source: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut f = ethernet(Macs { source, destination: EVERYBODY }, ARP);
    // Ethernet, IPv4, lengths of their addresses, a question.
    f.extend([0, 1, 8, 0, 6, 4, 0, QUESTION]);
    f.extend(source.bytes());
    f.extend(sender.octets());
    f.extend([0; 6]);
    f.extend(target.octets());
    f.resize(SHORTEST, 0);
    f
}

/// Says where `sender` is to somebody who asked.
pub fn arp_answer(macs: Macs, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut f = ethernet(macs, ARP);
    f.extend([0, 1, 8, 0, 6, 4, 0, ANSWER]);
    f.extend(macs.source.bytes());
    f.extend(sender.octets());
    f.extend(macs.destination.bytes());
    f.extend(target.octets());
    f.resize(SHORTEST, 0);
    f
}

/// A datagram from port 68 to port 67.
pub fn udp(macs: Macs, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    datagram(macs, (from, CLIENT), (to, SERVER), payload)
}

/// A datagram from port 67 to port 68.
pub fn udp_answer(macs: Macs, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    datagram(macs, (from, SERVER), (to, CLIENT), payload)
}

fn datagram(macs: Macs, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let ((from, source), (to, destination)) = (from, to);
    let length = (UDP_HEADER + payload.len()) as u16;
    let mut datagram = Vec::with_capacity(usize::from(length));
    for field in [source, destination, length, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(payload);
    let sum = !fold(pseudo_header(from, to, length) + words(&datagram));
    // 0 would say that there is none.
    datagram[6..8].copy_from_slice(&if sum == 0 { u16::MAX } else { sum }.to_be_bytes());

    let mut header = vec![0x45, 0];
    header.extend((IP as u16 + length).to_be_bytes());
    // No identification; not to be split.
    header.extend([0, 0, 0x40, 0, TTL, UDP, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = !fold(words(&header));
    header[10..12].copy_from_slice(&sum.to_be_bytes());

    let mut f = ethernet(macs, IPV4);
    f.extend(header);
    f.extend(datagram);
    f.resize(f.len().max(SHORTEST), 0);
    f
}

/// For a client. None: neither of the two, torn, or damaged on the way.
pub fn read(frame: &[u8]) -> Option<Heard> {
    read_for(CLIENT, frame)
}

/// For a server, likewise; of ARP the questions alone.
pub fn read_question(frame: &[u8]) -> Option<Question> {
    let heard = read_for(SERVER, frame)?;
    let asks = |at: usize| u16_at(frame, at) == Some(QUESTION.into());
    if matches!(heard, Heard::Arp(_)) && !asks(ETHERNET + 6) {
        return None;
    }
    let source = Mac::new(frame.get(6..12)?.try_into().ok()?);
    Some(Question { source, heard })
}

fn read_for(port: u16, frame: &[u8]) -> Option<Heard> {
    let body = frame.get(ETHERNET..)?;
    match u16_at(frame, 12)? {
        ARP => read_arp(body),
        IPV4 => read_udp(port, body),
        _ => None,
    }
}

fn read_arp(b: &[u8]) -> Option<Heard> {
    if b.get(..6)? != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let mac = Mac::new(b.get(8..14)?.try_into().ok()?);
    Some(Heard::Arp(Arp { mac, sender: address_at(b, 14)?, target: address_at(b, 24)? }))
}

fn read_udp(port: u16, b: &[u8]) -> Option<Heard> {
    let first = *b.first()?;
    let header = usize::from(first & 15) * 4;
    let packet = b.get(..usize::from(u16_at(b, 2)?))?;
    let fragment = u16_at(b, 6)? & 0x3fff != 0;
    if first >> 4 != 4 || header < IP || *b.get(9)? != UDP || fragment || fold(words(packet.get(..header)?)) != u16::MAX
    {
        return None;
    }
    let (from, to) = (address_at(b, 12)?, address_at(b, 16)?);
    let datagram = packet.get(header..)?;
    let length = u16_at(datagram, 4)?;
    let datagram = datagram.get(..usize::from(length))?;
    if u16_at(datagram, 2)? != port || !sound(datagram, pseudo_header(from, to, length)) {
        return None;
    }
    Some(Heard::Udp { from, payload: datagram.get(UDP_HEADER..)?.to_vec() })
}

/// A datagram of this node has no checksum yet: what stands there is the pseudo header's sum, for the hardware to go on
/// with (CHECKSUM_PARTIAL), and a veth has no hardware.
fn sound(datagram: &[u8], pseudo: u32) -> bool {
    match u16_at(datagram, 6) {
        None => false,
        Some(0) => true,
        Some(sum) => sum == fold(pseudo) || fold(pseudo + words(datagram)) == u16::MAX,
    }
}

fn pseudo_header(from: Ipv4Addr, to: Ipv4Addr, length: u16) -> u32 {
    words(&from.octets()) + words(&to.octets()) + u32::from(UDP) + u32::from(length)
}

/// Sum of 16-bit words; of a frame it stays far below 2^32.
fn words(b: &[u8]) -> u32 {
    b.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)]))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn u16_at(b: &[u8], at: usize) -> Option<u16> {
    b.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_be_bytes)
}

fn address_at(b: &[u8], at: usize) -> Option<Ipv4Addr> {
    b.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MACS: Macs = Macs { source: Mac::new([2, 0, 0, 0, 0, 1]), destination: EVERYBODY };
    const FROM: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    /// As a server would send it.
    fn answer(payload: &[u8]) -> Vec<u8> {
        udp_answer(MACS, FROM, Ipv4Addr::BROADCAST, payload)
    }

    #[test]
    fn questions_and_announcements_are_read_back() {
        let target = Ipv4Addr::new(192, 0, 2, 9);
        for sender in [Ipv4Addr::UNSPECIFIED, target] {
            let frame = arp(MACS.source, sender, target);
            assert_eq!(frame.len(), SHORTEST);
            assert_eq!(read(&frame), Some(Heard::Arp(Arp { mac: MACS.source, sender, target })));
        }
    }

    #[test]
    fn a_server_hears_questions_alone() {
        let question = udp(MACS, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, b"q");
        let heard = Heard::Udp { from: Ipv4Addr::UNSPECIFIED, payload: b"q".to_vec() };
        assert_eq!(read_question(&question), Some(Question { source: MACS.source, heard }));
        let asks = arp(MACS.source, FROM, Ipv4Addr::new(192, 0, 2, 9));
        assert!(read_question(&asks).is_some_and(|q| matches!(q.heard, Heard::Arp(_))));
        let told = arp_answer(MACS, FROM, Ipv4Addr::new(192, 0, 2, 9));
        assert!(read_question(&told).is_none() && read_question(&answer(b"a")).is_none());
        let expected = Arp { mac: MACS.source, sender: FROM, target: Ipv4Addr::new(192, 0, 2, 9) };
        assert_eq!((told.len(), read(&told)), (SHORTEST, Some(Heard::Arp(expected))));
        assert_eq!(read(&question), None);
    }

    #[test]
    fn checksums_are_right_partial_or_absent() {
        let good = answer(b"payload");
        let whole = Some(Heard::Udp { from: FROM, payload: b"payload".to_vec() });
        assert_eq!(read(&good), whole);
        let with_sum = |sum: u16| [&good[..40], &sum.to_be_bytes(), &good[42..]].concat();
        assert_eq!(read(&with_sum(0)), whole);
        let pseudo = pseudo_header(FROM, Ipv4Addr::BROADCAST, (UDP_HEADER + 7) as u16);
        assert_eq!(read(&with_sum(fold(pseudo))), whole);
        assert_eq!(read(&with_sum(fold(pseudo) ^ 1)), None);
        let mut damaged = good.clone();
        damaged[43] ^= 1;
        assert_eq!(read(&damaged), None, "the payload");
        damaged = good.clone();
        damaged[26] ^= 1;
        assert_eq!(read(&damaged), None, "the header");
    }

    #[test]
    fn what_is_not_for_a_client_is_passed_over() {
        let good = answer(b"x");
        let changed = |at: usize, to: u8| {
            let mut f = good.clone();
            f[at] = to;
            // The header's own checksum shall not be the reason.
            f[24..26].copy_from_slice(&[0, 0]);
            let sum = !fold(words(&f[14..34]));
            f[24..26].copy_from_slice(&sum.to_be_bytes());
            read(&f)
        };
        assert!(changed(15, 4).is_some(), "a type of service does not matter");
        for (at, to) in [(12, 9), (14, 0x65), (14, 0x44), (20, 0x20), (21, 1), (23, 6), (37, 69), (17, 255)] {
            assert_eq!(changed(at, to), None, "byte {at} = {to}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..3u8) {
            let mut frame = bytes;
            if let (Some(at), 1..) = (frame.get_mut(12..14), kind) {
                at.copy_from_slice(&if kind == 1 { IPV4 } else { ARP }.to_be_bytes());
            }
            let _ = (read(&frame), read_question(&frame));
        }

        #[test]
        fn each_payload_comes_through(payload in proptest::collection::vec(any::<u8>(), 0..1400)) {
            let frame = answer(&payload);
            prop_assert_eq!(read(&frame), Some(Heard::Udp { from: FROM, payload }));
        }

        /// Cut anywhere it is nothing; a frame's padding may go.
        #[test]
        fn a_torn_frame_is_none(payload in proptest::collection::vec(any::<u8>(), 1..80), cut in 0..120usize) {
            let frame = answer(&payload);
            let whole = ETHERNET + IP + UDP_HEADER + payload.len();
            if cut < whole {
                prop_assert_eq!(read(&frame[..cut]), None);
            }
        }
    }
}
