//! Sysctls of the links in one namespace, from outside: `/proc/sys/net/ipv4/conf` and `.../ipv6/conf`.
//!
//! What is below `/proc/sys/net/ipv4` belongs to the namespace of whoever looks `ipv4` up (`sysctl_follow_link` in Linux
//! `fs/proc/proc_sysctl.c`); a directory that is open stays that namespace's. So these are opened once, on the thread
//! that enters the namespace anyway, and need no further entry.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::sysctl::set;
use super::{NetError, NetResult};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// The settings of links; IPv6's are missing where the kernel has none.
#[derive(Debug)]
pub struct Settings {
    v4: File,
    v6: Option<File>,
}

impl Settings {
    /// Of the calling thread's namespace.
    pub(super) fn open_here() -> NetResult<Self> {
        let open = |path: &str| File::open(path).map_err(|e| (NetError::io("open", path, &e), e.kind()));
        let v6 = match open("/proc/sys/net/ipv6/conf") {
            Ok(dir) => Some(dir),
            Err((_, io::ErrorKind::NotFound)) => None,
            Err((e, _)) => return Err(e),
        };
        Ok(Self { v4: open("/proc/sys/net/ipv4/conf").map_err(|(e, _)| e)?, v6 })
    }

    /// False: the kernel has no such knob, as without IPv6.
    pub fn write(&self, family: Family, link: &str, knob: &str, value: &str) -> NetResult<bool> {
        let Some(dir) = (match family {
            Family::V4 => Some(&self.v4),
            Family::V6 => self.v6.as_ref(),
        }) else {
            return Ok(false);
        };
        let name = format!("{family:?} {link}/{knob}").to_lowercase();
        if [link, knob].iter().any(|part| part.is_empty() || *part == "." || *part == ".." || part.contains('/')) {
            return Err(NetError::new("find sysctl", name, Errno::EINVAL));
        }
        let path = PathBuf::from(link).join(knob);
        let open = |flags| {
            openat(dir, &path, flags | OFlag::O_CLOEXEC, Mode::empty()).map(File::from).map_err(io::Error::from)
        };
        set(&name, value, || open(OFlag::O_RDWR), || open(OFlag::O_RDONLY))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{block_on, found, fresh, name};
    use super::super::{Namespace, sysctl};
    use super::*;

    #[test]
    fn they_stay_those_of_the_namespace_that_was_entered() {
        let (one, two) = (fresh(), fresh());
        let read = |ns: &Namespace| {
            let key = ["net", "ipv4", "conf", "br0", "arp_notify"];
            ns.enter(move || sysctl::read(&key).unwrap()).unwrap()
        };
        block_on(async {
            let (links, settings) = one.enter_once(&Namespace::own().unwrap()).unwrap();
            // Made after the directory was opened, and in both namespaces.
            for links in [&links, &two.netlink().unwrap()] {
                links.create_bridge(&name("br0"), None, false).await.unwrap();
                found(links, "br0").await;
            }
            assert!(settings.write(Family::V4, "br0", "arp_notify", "1").unwrap());
            assert!(settings.write(Family::V6, "br0", "disable_ipv6", "1").unwrap());
            assert!(!settings.write(Family::V4, "br0", "no_such_knob", "1").unwrap());
            assert!(!settings.write(Family::V4, "br1", "arp_notify", "1").unwrap());
            assert!(settings.write(Family::V4, "..", "arp_notify", "1").is_err());
        });
        assert_eq!((read(&one).as_deref(), read(&two).as_deref()), (Some("1"), Some("0")));
    }
}
