//! Sysctls, by `/proc/sys`. Everything below `net` there is that of the calling thread's namespace.
//!
//! Keys come in parts, as an interface name may have a dot: `["net", "ipv6", "conf", "eth0.5", "disable_ipv6"]`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use nix::errno::Errno;

use super::{NetError, NetResult};

/// None: the kernel has no such knob.
#[cfg(test)]
pub fn read(key: &[&str]) -> NetResult<Option<String>> {
    match File::open(path(key)?).and_then(|f| value(&f)) {
        Ok(value) => Ok(Some(value)),
        Err(e) if missing(&e) => Ok(None),
        Err(e) => Err(NetError::io("read sysctl", key.join("/"), &e)),
    }
}

/// A value that is there already is not written again: so nothing is asked of a `/proc/sys` that is read-only.
pub fn write(key: &[&str], value: &str) -> NetResult<()> {
    match change(key, value)? {
        true => Ok(()),
        false => Err(NetError::new("write sysctl", key.join("/"), Errno::ENOENT)),
    }
}

/// False: the kernel has no such knob, as without IPv6.
pub fn write_if_there(key: &[&str], value: &str) -> NetResult<bool> {
    change(key, value)
}

fn change(key: &[&str], wanted: &str) -> NetResult<bool> {
    let path = path(key)?;
    set(&key.join("/"), wanted, || OpenOptions::new().read(true).write(true).open(&path), || File::open(&path))
}

/// False: there is no such knob. `open` is for reading and writing, `look` for reading alone.
pub(super) fn set(
    name: &str,
    wanted: &str,
    open: impl FnOnce() -> io::Result<File>,
    look: impl FnOnce() -> io::Result<File>,
) -> NetResult<bool> {
    let failed = |e: io::Error| NetError::io("write sysctl", format!("{name} = {wanted}"), &e);
    let file = match open() {
        Ok(file) => file,
        Err(e) if missing(&e) => return Ok(false),
        // Read-only file system or knob: fine if the value is there, and told as it was otherwise.
        Err(e) => {
            return if look().is_ok_and(|f| value(&f).is_ok_and(|v| v == wanted)) { Ok(true) } else { Err(failed(e)) };
        }
    };
    if value(&file).map_err(failed)? == wanted {
        return Ok(true);
    }
    file.write_at(wanted.as_bytes(), 0).map_err(failed)?;
    crate::failpoint::hit("write sysctl");
    Ok(true)
}

fn value(file: &File) -> io::Result<String> {
    let mut buffer = [0; 4096];
    let len = file.read_at(&mut buffer, 0)?;
    Ok(String::from_utf8_lossy(&buffer[..len]).trim_end().into())
}

fn missing(e: &io::Error) -> bool {
    matches!(e.raw_os_error().map(Errno::from_raw), Some(Errno::ENOENT | Errno::ENOTDIR))
}

fn path(key: &[&str]) -> NetResult<PathBuf> {
    if key.iter().any(|part| part.is_empty() || *part == "." || *part == ".." || part.contains('/')) {
        return Err(NetError::new("find sysctl", key.join("/"), Errno::EINVAL));
    }
    Ok([&["/proc/sys"], key].concat().iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::{Bench, block_on, fresh, name};

    const ALL: [&str; 4] = ["net", "ipv4", "conf", "all"];

    fn of_all(knob: &str) -> Vec<&str> {
        [&ALL[..], &[knob]].concat()
    }

    #[test]
    fn a_write_reaches_only_the_namespace_that_was_entered() {
        let (pod, other) = (fresh(), fresh());
        let key = of_all("arp_ignore");
        pod.enter(|| write(&key, "8")).unwrap().unwrap();
        assert_eq!(pod.enter(|| read(&key)).unwrap().unwrap().as_deref(), Some("8"));
        assert_eq!(other.enter(|| read(&key)).unwrap().unwrap().as_deref(), Some("0"));
    }

    #[test]
    fn a_missing_knob_is_told_apart() {
        let key = of_all("no_such_knob");
        let ns = fresh();
        assert_eq!(ns.enter(|| read(&key)).unwrap().unwrap(), None);
        assert!(!ns.enter(|| write_if_there(&key, "1")).unwrap().unwrap());
        assert!(ns.enter(|| write(&key, "1")).unwrap().unwrap_err().gone());
        assert!(ns.enter(|| write_if_there(&of_all("arp_notify"), "1")).unwrap().unwrap());
    }

    #[test]
    fn a_value_that_is_there_is_not_written_to_a_read_only_knob() {
        let ns = fresh();
        let key = ["net", "ipv4", "tcp_available_congestion_control"];
        let there = ns.enter(|| read(&key)).unwrap().unwrap().unwrap();
        ns.enter(|| write(&key, &there)).unwrap().unwrap();
        let refused = ns.enter(|| write(&key, "other")).unwrap().unwrap_err();
        assert!(refused.is(Errno::EACCES), "{refused}");
        assert!(refused.to_string().contains("tcp_available_congestion_control = other"), "{refused}");
    }

    #[test]
    fn the_kernels_refusal_of_a_value_is_an_error() {
        let refused = fresh().enter(|| write(&of_all("arp_ignore"), "many")).unwrap().unwrap_err();
        assert!(refused.is(Errno::EINVAL), "{refused}");
    }

    #[test]
    fn an_interface_name_may_have_dots_but_no_way_out() {
        block_on(async {
            let b = Bench::new();
            b.host.create_bridge(&name("br0.5"), None, false).await.unwrap();
            let key = ["net", "ipv4", "conf", "br0.5", "arp_notify"];
            b.host_ns.enter(|| write(&key, "1")).unwrap().unwrap();
            assert_eq!(b.host_ns.enter(|| read(&key)).unwrap().unwrap().as_deref(), Some("1"));
        });
        for bad in ["..", ".", "", "a/b"] {
            assert!(read(&["net", bad]).unwrap_err().is(Errno::EINVAL), "{bad:?}");
        }
    }
}
