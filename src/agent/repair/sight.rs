//! Whether a namespace that the journal names is gone, as far as this process can see: an agent that runs in a container
//! sees what is mounted there, and what it cannot see must not count as gone.

use std::path::{Path, PathBuf};

use crate::net::{Namespace, NsError, NsId};

/// Inode of the first pid namespace (`PROC_PID_INIT_INO` of the kernel's proc_ns.h).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Lives,
    Gone,
    /// Not to be seen from here.
    Unknown,
}

/// What lies at the recorded path. `id`: none where the record has none; then any namespace there counts as its.
pub fn fate(path: &Path, id: Option<&NsId>) -> Fate {
    let Some(path) = visible(path) else { return Fate::Unknown };
    match Namespace::open(&path) {
        Err(NsError::Missing(_)) => Fate::Gone,
        // A mount that was made after this container's own shows as the plain file below it.
        Err(NsError::NotANamespace(_) | NsError::Io(..)) => Fate::Unknown,
        Ok(there) => match id.map(|id| there.id().map(|now| now == *id)) {
            None | Some(Ok(true)) => Fate::Lives,
            Some(Ok(false)) => Fate::Gone,
            Some(Err(_)) => Fate::Unknown,
        },
    }
}

/// The path by which it would be seen here; `None` where nothing can be seen there.
pub fn visible(path: &Path) -> Option<PathBuf> {
    let process = path.strip_prefix("/proc").ok().and_then(|p| p.iter().next()?.to_str()?.parse::<u32>().ok());
    if process.is_some() {
        // Numbers of processes are the node's.
        let own = std::fs::read_link("/proc/self/ns/pid").ok()?;
        return (own.as_os_str() == FIRST_PID_NAMESPACE).then(|| path.into());
    }
    // Distributions link /var/run to /run; an image from scratch has no such link.
    let elsewhere = path.strip_prefix("/var/run").ok().map(|rest| Path::new("/run").join(rest));
    [Some(path.to_path_buf()), elsewhere].into_iter().flatten().find(|p| p.parent().is_some_and(Path::is_dir))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::net::testing::fresh;

    #[test]
    fn only_what_could_be_seen_can_be_gone() {
        let tmp = tempfile::tempdir().unwrap();
        let (a, b) = (fresh(), fresh());
        let path = tmp.path().join("pod");
        assert_eq!(fate(&path, None), Fate::Gone);
        assert_eq!(fate(&tmp.path().join("not-mounted/pod"), None), Fate::Unknown);
        std::fs::write(&path, "").unwrap();
        assert_eq!(fate(&path, Some(&a.id().unwrap())), Fate::Unknown, "a plain file below a mount");
        std::fs::remove_file(&path).unwrap();
        let thread = a.enter(|| std::fs::File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
        symlink(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&thread)), &path).unwrap();
        assert_eq!(fate(&path, Some(&a.id().unwrap())), Fate::Lives);
        assert_eq!(fate(&path, None), Fate::Lives);
        assert_eq!(fate(&path, Some(&b.id().unwrap())), Fate::Gone, "another one came to this path");
    }

    #[test]
    fn processes_are_seen_from_the_first_pid_namespace_alone() {
        let first = std::fs::read_link("/proc/self/ns/pid").unwrap().as_os_str() == FIRST_PID_NAMESPACE;
        let expected = if first { Fate::Gone } else { Fate::Unknown };
        assert_eq!(fate(Path::new("/proc/4194305/ns/net"), None), expected);
        assert_eq!(visible(Path::new("/var/run/trestle-none")).is_some(), Path::new("/run").is_dir());
    }
}
