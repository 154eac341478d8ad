//! Taps, by ioctl: the kernel makes none by netlink. All of it runs in the calling thread's namespace.

use std::fs::{File, OpenOptions};
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc::{self, c_int, c_short, ifreq};

use super::{NetError, NetResult};
use crate::types::IfName;

const DEVICE: &str = "/dev/net/tun";
/// `IFF_TUN_EXCL`: a device that is there already is refused, with EBUSY, instead of opened.
const EXCLUSIVE: c_int = 0x8000;

// `linux/if_tun.h` declares all of them with `int`; TUNSETIFF takes a pointer, the others their value.
nix::ioctl_write_ptr_bad!(set_iff, nix::request_code_write!(b'T', 202, size_of::<c_int>()), ifreq);
nix::ioctl_write_int!(set_persist, b'T', 203);
nix::ioctl_write_int!(set_owner, b'T', 204);
nix::ioctl_write_int!(set_group, b'T', 206);

/// Persistent: it stays without an open descriptor, until it is deleted as a link. libvirt, which opens it later,
/// chooses the offloads and the virtio-net header itself, but fails where `multi_queue` is not as it expects.
pub fn create_tap(name: &IfName, multi_queue: bool, owner: u32, group: u32) -> NetResult<()> {
    let flags = EXCLUSIVE | if multi_queue { libc::IFF_MULTI_QUEUE } else { 0 };
    let tap = attach("create tap", name, flags)?;
    let failed = |e| NetError::new("create tap", name.as_str(), e);
    // Persistence last: when one of these fails, the tap goes away together with the descriptor.
    set(&tap, set_owner, owner).map_err(failed)?;
    set(&tap, set_group, group).map_err(failed)?;
    set(&tap, set_persist, 1).map_err(failed)?;
    crate::failpoint::hit("create tap");
    Ok(())
}

/// The guest's side of a tap that is there: frames are read and written, without any header.
pub fn open_tap(name: &IfName) -> NetResult<OwnedFd> {
    // TUNSETIFF would make the tap if it were not there.
    nix::net::if_::if_nametoindex(name.as_str()).map_err(|e| NetError::new("open tap", name.as_str(), e))?;
    // The flag must be as the tap was made, else EINVAL.
    let opened = match attach("open tap", name, 0) {
        Err(e) if e.is(Errno::EINVAL) => attach("open tap", name, libc::IFF_MULTI_QUEUE),
        other => other,
    };
    opened.map(OwnedFd::from)
}

fn attach(op: &'static str, name: &IfName, flags: c_int) -> NetResult<File> {
    let opened = OpenOptions::new().read(true).write(true).open(DEVICE);
    let device = opened.map_err(|e| NetError::io(op, format!("{name} by {DEVICE}"), &e))?;
    let mut request = ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        // The low 16 bits; EXCLUSIVE is the highest of them, so a sign appears that means nothing.
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: (libc::IFF_TAP | libc::IFF_NO_PI | flags) as c_short },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
        *to = from.cast_signed();
    }
    #[expect(unsafe_code, reason = "an ioctl of the tun driver")]
    // SAFETY: `device` is open, and `request` is a whole, initialised ifreq that outlives the call. Its name ends with
    // a NUL byte, as an IfName has 15 bytes at most.
    let done = unsafe { set_iff(device.as_raw_fd(), &request) };
    done.map_err(|e| NetError::new(op, name.as_str(), e))?;
    Ok(device)
}

/// One of nix' generated requests that take a number.
type Request = unsafe fn(c_int, libc::c_ulong) -> nix::Result<c_int>;

fn set(tap: &File, request: Request, value: u32) -> nix::Result<()> {
    #[expect(unsafe_code, reason = "an ioctl of the tun driver")]
    // SAFETY: `tap` is open for the whole call, and the three requests take a plain number, no pointer.
    unsafe { request(tap.as_raw_fd(), value.into()) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::LinkKind;
    use crate::net::testing::{Bench, block_on, found, name};

    #[test]
    fn a_tap_stays_as_it_was_made() {
        block_on(async {
            let b = Bench::new();
            for multi_queue in [false, true] {
                let tap = name(if multi_queue { "tap1" } else { "tap0" });
                b.pod_ns.enter(|| create_tap(&tap, multi_queue, 107, 108)).unwrap().unwrap();
                let (owner, group) = (Some(107), Some(108));
                let kind = LinkKind::Tun { owner, group, tap: true, persist: true, multi_queue };
                let link = found(&b.pod, tap.as_str()).await;
                assert_eq!(link.kind, kind);
                assert!(link.mac.is_some() && !link.up);
                // Opened and closed, as QEMU does at a restart, it is still there.
                drop(b.pod_ns.enter(|| open_tap(&tap)).unwrap().unwrap());
                assert_eq!(found(&b.pod, tap.as_str()).await.kind, kind);
                b.pod.delete_link(link.index).await.unwrap();
                assert_eq!(b.pod.link(tap.as_str()).await.unwrap(), None);
            }
        });
    }

    #[test]
    fn a_name_that_is_taken_is_refused_and_left_alone() {
        block_on(async {
            let b = Bench::new();
            let (tap, link) = (name("tap0"), name("pod0"));
            b.pair().await;
            b.pod_ns.enter(|| create_tap(&tap, true, 107, 107)).unwrap().unwrap();
            let before = found(&b.pod, "tap0").await;
            let taken = b.pod_ns.enter(|| create_tap(&tap, false, 0, 0)).unwrap().unwrap_err();
            assert!(taken.is(Errno::EBUSY) && taken.to_string().contains("tap0"), "{taken}");
            assert_eq!(found(&b.pod, "tap0").await, before);
            assert!(b.pod_ns.enter(|| create_tap(&link, false, 0, 0)).unwrap().is_err());
            assert_eq!(found(&b.pod, "pod0").await.kind, LinkKind::Veth);
        });
    }

    #[test]
    fn opening_makes_no_tap() {
        block_on(async {
            let b = Bench::new();
            assert!(b.pod_ns.enter(|| open_tap(&name("tap0"))).unwrap().unwrap_err().gone());
            assert_eq!(b.pod.link("tap0").await.unwrap(), None);
        });
    }
}
