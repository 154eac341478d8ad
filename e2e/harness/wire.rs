//! Frames: a socket that sees everything in a namespace, and the far end of a tap.
//!
//! The frames that tests make have the EtherType for local experiments: on a node with br_netfilter, made-up IPv4 would
//! be dropped on the bridge without a word.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt,
};

use super::Netns;

const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

/// An Ethernet frame with a text in it.
pub fn frame(to: &str, from: &str, text: &str) -> Vec<u8> {
    let mut bytes = [mac_bytes(to), mac_bytes(from)].concat();
    bytes.extend(EXPERIMENT);
    bytes.extend(text.as_bytes());
    bytes.resize(bytes.len().max(60), 0);
    bytes
}

fn mac_bytes(mac: &str) -> Vec<u8> {
    mac.split(':').map(|b| u8::from_str_radix(b, 16).expect("a MAC")).collect()
}

/// A frame that was seen.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Index of the link on which it was seen.
    pub link: u64,
    /// Seen on its way out of that link (a packet socket sees both ways).
    pub outgoing: bool,
    pub bytes: Vec<u8>,
}

impl Seen {
    pub fn source(&self) -> String {
        self.bytes[6..12].iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
    }
}

/// A packet socket of all links of a namespace. It keeps the namespace alive: drop it before asking whether it went.
pub struct Sniffer(OwnedFd);

impl Sniffer {
    pub fn new(ns: &Netns) -> Self {
        let socket = ns.inside(|| {
            let (kind, all) = (SockType::Raw, SockProtocol::EthAll);
            socket(AddressFamily::Packet, kind, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, all).unwrap()
        });
        setsockopt(&socket, sockopt::RcvBuf, &(4 << 20)).unwrap();
        Self(socket)
    }

    /// All frames until `time` is over.
    pub fn listen(&self, time: Duration) -> Vec<Seen> {
        let end = Instant::now() + time;
        let mut seen = Vec::new();
        while readable(&self.0, end) {
            self.take(&mut seen);
        }
        seen
    }

    fn take(&self, seen: &mut Vec<Seen>) {
        let mut buffer = [0u8; 9216];
        loop {
            match recvfrom::<LinkAddr>(self.0.as_raw_fd(), &mut buffer) {
                Ok((length, from)) => {
                    let from = from.expect("a packet socket tells the link");
                    let outgoing = i32::from(from.pkttype()) == i32::from(libc::PACKET_OUTGOING);
                    seen.push(Seen { link: from.ifindex() as u64, outgoing, bytes: buffer[..length].to_vec() });
                }
                Err(Errno::EAGAIN) => return,
                // A link went down; its frames are over, those of others are not.
                Err(Errno::ENETDOWN) => {}
                Err(e) => panic!("packet socket: {e}"),
            }
        }
    }
}

/// The far end of a tap: where the guest, or the LAN, would be.
pub struct Tap(File);

impl Tap {
    /// Opens a tap; the kernel makes it if it is not there.
    pub fn open(ns: &Netns, name: &str, multi_queue: bool) -> std::io::Result<Self> {
        let name = name.to_owned();
        ns.inside(move || {
            let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
            attach(&file, &name, multi_queue)?;
            Ok(Self(file))
        })
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes)
    }

    /// The first frame that holds `text`.
    pub fn find(&mut self, text: &str, time: Duration) -> Option<Vec<u8>> {
        let end = Instant::now() + time;
        let mut buffer = [0u8; 9216];
        while readable(&self.0, end) {
            match self.0.read(&mut buffer) {
                Ok(length) if holds(&buffer[..length], text) => return Some(buffer[..length].to_vec()),
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => panic!("tap: {e}"),
            }
        }
        None
    }
}

#[expect(unsafe_code, reason = "taps are attached by an ioctl, for which there is no safe call")]
fn attach(file: &File, name: &str, multi_queue: bool) -> std::io::Result<()> {
    nix::ioctl_write_int!(tunsetiff, b'T', 202);
    // SAFETY: an ifreq is plain data, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    assert!(name.len() < request.ifr_name.len());
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    let queues = if multi_queue { libc::IFF_MULTI_QUEUE } else { 0 };
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | queues) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives until the call is over.
    unsafe { tunsetiff(file.as_raw_fd(), &raw mut request as libc::c_ulong) }?;
    Ok(())
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}

/// Waits until there is something to read; false when the time is over.
fn readable(fd: &impl AsFd, end: Instant) -> bool {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return false;
    }
    let milliseconds = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, milliseconds).is_ok_and(|n| n > 0)
}
