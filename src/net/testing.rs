//! What kernel tests share, of this room and of others: namespaces of their own, links in them, frames.
//!
//! Needs root, and says so loudly. Nothing here touches the machine's own namespace.

use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{Link, LinkChange, Namespace, Netlink, Veth};
use crate::types::IfName;

/// A host and a pod, both new and empty but for a loopback that is down.
pub struct Bench {
    pub host_ns: Namespace,
    pub pod_ns: Namespace,
    pub host: Netlink,
    pub pod: Netlink,
}

impl Bench {
    /// Within [`block_on`].
    pub fn new() -> Self {
        let (host_ns, pod_ns) = (fresh(), fresh());
        let (host, pod) = (host_ns.netlink().unwrap(), pod_ns.netlink().unwrap());
        Self { host_ns, pod_ns, host, pod }
    }

    /// A veth between the two, `host0` and `pod0`, both up.
    pub async fn pair(&self) -> (Link, Link) {
        let (host, pod) = (name("host0"), name("pod0"));
        self.host.create_veth(&veth(&host, &pod, &self.pod_ns)).await.unwrap();
        up(&self.host, "host0").await;
        up(&self.pod, "pod0").await;
        (found(&self.host, "host0").await, found(&self.pod, "pod0").await)
    }
}

pub fn fresh() -> Namespace {
    Namespace::create().expect("kernel tests need root (CAP_SYS_ADMIN)")
}

pub fn block_on<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(f)
}

pub fn name(s: &str) -> IfName {
    s.parse().unwrap()
}

/// A pair with nothing but its names.
pub fn veth<'a>(name: &'a IfName, peer: &'a IfName, peer_ns: &'a Namespace) -> Veth<'a> {
    Veth { name, mac: None, mtu: None, master: None, peer, peer_mac: None, peer_mtu: None, peer_ns }
}

pub async fn found(net: &Netlink, name: &str) -> Link {
    net.link(name).await.unwrap().unwrap_or_else(|| panic!("no link {name}"))
}

pub async fn up(net: &Netlink, name: &str) {
    let index = found(net, name).await.index;
    net.set_link(index, &LinkChange { up: Some(true), ..Default::default() }).await.unwrap();
}

/// An EtherType that no stack answers and no netfilter hook looks at.
const LOCAL_EXPERIMENTAL: u16 = 0x88b5;

/// A broadcast frame with a text in it.
pub fn frame(text: &str) -> Vec<u8> {
    let mut f = vec![0xff; 6];
    f.extend([2, 0, 0, 0, 0, 9]);
    f.extend(LOCAL_EXPERIMENTAL.to_be_bytes());
    f.extend(text.as_bytes());
    f.resize(60, 0);
    f
}

/// Where frames come out and go in: a packet socket or a tap.
pub struct Frames(File);

impl Frames {
    pub fn on_tap(tap: OwnedFd) -> Self {
        Self(tap.into())
    }

    /// Call it inside the link's namespace.
    pub fn on_link(index: u32) -> Self {
        Self::on(index, LOCAL_EXPERIMENTAL)
    }

    /// Also what goes out.
    pub fn of_all_kinds_on(index: u32) -> Self {
        Self::on(index, libc::ETH_P_ALL as u16)
    }

    /// What it sends goes past the egress hook.
    pub fn past_qdiscs_on(index: u32) -> Self {
        let frames = Self::on(index, LOCAL_EXPERIMENTAL);
        const PACKET_QDISC_BYPASS: libc::c_int = 20;
        let yes: libc::c_int = 1;
        #[expect(unsafe_code, reason = "nix does not know this option")]
        // SAFETY: `yes` outlives the call, which reads it, and the length is its own.
        let done = unsafe {
            let at = (&raw const yes).cast();
            libc::setsockopt(frames.0.as_raw_fd(), libc::SOL_PACKET, PACKET_QDISC_BYPASS, at, size_of_val(&yes) as u32)
        };
        assert_eq!(done, 0, "PACKET_QDISC_BYPASS: {}", std::io::Error::last_os_error());
        frames
    }

    fn on(index: u32, kind: u16) -> Self {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: kind.to_be(),
            sll_ifindex: index.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        #[expect(unsafe_code, reason = "nix cannot make an address of a packet socket")]
        // SAFETY: `address` is a whole sockaddr_ll that outlives the call, and the length is its own.
        let done = unsafe {
            libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32)
        };
        assert_eq!(done, 0, "bind packet socket: {}", std::io::Error::last_os_error());
        Self(socket.into())
    }

    pub fn send(&mut self, frame: &[u8]) {
        assert_eq!(self.0.write(frame).unwrap(), frame.len());
    }

    /// Waits for exactly this frame; others (a stack's own) are passed over.
    pub fn receives(&mut self, frame: &[u8], milliseconds: u16) -> bool {
        let mut buffer = [0; 2048];
        loop {
            let mut ready = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ready, PollTimeout::from(milliseconds)).unwrap() == 0 {
                return false;
            }
            let len = self.0.read(&mut buffer).unwrap();
            if &buffer[..len] == frame {
                return true;
            }
        }
    }
}
