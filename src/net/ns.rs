//! Network namespaces: an open file, an identity that is never used again, and a way to run code inside.
//!
//! The one place that calls `setns`. A thread that has entered a namespace is never used for anything else: it
//! runs one closure and ends, so no error path can leave a thread of the program in a pod. The one visit that is made
//! by the caller's own thread, to open its sockets, comes back by a guard or ends the process.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread::ThreadId;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use nix::{getsockopt_impl, libc, sockopt_impl};
use serde::{Deserialize, Serialize};

use super::{NetError, NetResult, Netlink, Settings};
use crate::types::{Code, Failure};

sockopt_impl!(
    /// 64 bits that the kernel gives to a namespace and to no other until the next boot (Linux 5.14).
    NetnsCookie,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64
);
nix::ioctl_none_bad!(
    /// `CLONE_NEWNET` for a network namespace (Linux 4.11).
    ns_type,
    nix::request_code_none!(0xb7, 0x3)
);

/// Of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// Who a namespace is. Inode numbers and paths come back at once for the next namespace; cookies do not.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct NsId {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cookie: Option<u64>,
    device: u64,
    inode: u64,
    /// Nanoseconds; 0 where the namespace was not opened by a path, see [`Namespace::own`].
    created: i64,
}

impl NsId {
    /// None before Linux 5.14.
    pub fn cookie(&self) -> Option<u64> {
        self.cookie
    }
}

impl PartialEq for NsId {
    fn eq(&self, other: &Self) -> bool {
        if let (Some(a), Some(b)) = (self.cookie, other.cookie) {
            return a == b;
        }
        let same_age = self.created == other.created || self.created == 0 || other.created == 0;
        (self.device, self.inode) == (other.device, other.inode) && same_age
    }
}

/// Why a path gives no namespace.
#[derive(Debug, thiserror::Error)]
pub enum NsError {
    #[error("network namespace {}: no such file", .0.display())]
    Missing(PathBuf),
    #[error("{} is not a network namespace", .0.display())]
    NotANamespace(PathBuf),
    #[error("open network namespace {}: {}", .0.display(), .1)]
    Io(PathBuf, io::Error),
}

impl From<NsError> for Failure {
    fn from(e: NsError) -> Self {
        let code = match e {
            NsError::Missing(_) | NsError::NotANamespace(_) => Code::NamespaceGone,
            NsError::Io(..) => Code::Io,
        };
        Failure::new(code, e.to_string())
    }
}

/// An open namespace. It keeps the namespace and its links alive: do not hold one longer than needed.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    /// Opened by a path that something holds (a bind mount): its inode, and so its age, stays.
    by_path: bool,
    /// The thread whose own namespace it is: there a socket needs no entering.
    of_thread: Option<ThreadId>,
    cookie: OnceLock<Option<u64>>,
}

impl Namespace {
    pub fn open(path: &Path) -> Result<Self, NsError> {
        // O_NONBLOCK: the path comes from outside, and opening a FIFO would wait for its other end.
        let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let file = opened.map_err(|e| match e.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOENT | Errno::ENOTDIR) => NsError::Missing(path.into()),
            Some(Errno::ENXIO) => NsError::NotANamespace(path.into()),
            _ => NsError::Io(path.into(), e),
        })?;
        if is_network_namespace(&file) {
            Ok(Self { file, by_path: true, of_thread: None, cookie: OnceLock::new() })
        } else {
            Err(NsError::NotANamespace(path.into()))
        }
    }

    /// Of the calling thread.
    pub fn own() -> NetResult<Self> {
        let file = File::open(OWN).map_err(|e| NetError::io("open namespace", OWN, &e))?;
        let cookie = OnceLock::from(own_cookie()?);
        Ok(Self { file, by_path: false, of_thread: Some(std::thread::current().id()), cookie })
    }

    /// A new one. It lives as long as this value, or something else that holds it.
    #[cfg(test)]
    pub fn create() -> NetResult<Self> {
        on_thread("create namespace", || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|e| NetError::new("create namespace", "by unshare", e))?;
            crate::failpoint::hit("create namespace");
            Self::own()
        })?
    }

    /// Before Linux 5.14 there is no cookie; inode and time of creation stand in. The time is that of the inode in
    /// nsfs, which the kernel makes anew when nobody has held it, so it counts only for a namespace opened by path.
    pub fn id(&self) -> NetResult<NsId> {
        let meta = self.file.metadata().map_err(|e| NetError::io("read", "namespace", &e))?;
        let created = if self.by_path { meta.ctime() * 1_000_000_000 + meta.ctime_nsec() } else { 0 };
        let cookie = match self.cookie.get() {
            Some(known) => *known,
            None => {
                let found = self.enter(own_cookie)??;
                *self.cookie.get_or_init(|| found)
            }
        };
        Ok(NsId { cookie, device: meta.dev(), inode: meta.ino(), created })
    }

    /// Whether the path leads to the calling thread's own. Nothing there is another one.
    pub fn is_own(path: &Path) -> NetResult<bool> {
        let own = std::fs::metadata(OWN).map_err(|e| NetError::io("look at namespace", OWN, &e))?;
        // Ours lives, so no other has its inode.
        Ok(std::fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino())))
    }

    /// Both are open, so neither inode can have been given to another namespace meanwhile.
    #[cfg(test)]
    pub fn same_as(&self, other: &Namespace) -> bool {
        match (self.file.metadata(), other.file.metadata()) {
            (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
            _ => false,
        }
    }

    /// Runs `f` inside, on a thread of its own, and waits for it. A panic of `f` is passed on.
    #[expect(clippy::disallowed_methods, reason = "the one place that enters a namespace")]
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> NetResult<T> {
        on_thread("enter namespace", || {
            nix::sched::setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)
                .map_err(|e| NetError::new("enter namespace", "by setns", e))?;
            Ok(f())
        })?
    }

    pub(super) fn is_of_this_thread(&self) -> bool {
        self.of_thread == Some(std::thread::current().id())
    }

    /// A netlink socket that was opened inside; it is used from outside, in the caller's tokio runtime.
    pub fn netlink(&self) -> NetResult<Netlink> {
        if self.is_of_this_thread() {
            return Netlink::own();
        }
        self.enter_once(&Self::own()?).map(|(links, _)| links)
    }

    /// A netlink socket and the links' sysctls, opened inside by the calling thread, which is back when this returns:
    /// a thread of its own would cost more than all that is done on it, and a call lives some milliseconds. `home`: the
    /// namespace of the calling thread.
    pub fn enter_once(&self, home: &Namespace) -> NetResult<(Netlink, Settings)> {
        let runtime = tokio::runtime::Handle::current();
        let opened = self.visit(home, move || (Netlink::open_here(&runtime), Settings::open_here(), own_cookie()))?;
        let (links, settings, cookie) = opened;
        if let Ok(cookie) = cookie {
            self.cookie.get_or_init(|| cookie);
        }
        Ok((links?, settings?))
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that enters a namespace")]
    fn visit<T>(&self, home: &Namespace, f: impl FnOnce() -> T) -> NetResult<T> {
        let failed = |errno| NetError::new("enter namespace", "by setns", errno);
        if home.of_thread != Some(std::thread::current().id()) {
            return Err(failed(Errno::EXDEV));
        }
        let back = Home(&home.file);
        nix::sched::setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(failed)?;
        let value = f();
        drop(back);
        Ok(value)
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Where a visiting thread came from. It goes back there also when it panics; a process that cannot go home must not
/// go on, for all that it does next would happen in the pod.
struct Home<'a>(&'a File);

impl Drop for Home<'_> {
    #[expect(clippy::disallowed_methods, reason = "the one place that enters a namespace")]
    fn drop(&mut self) {
        if nix::sched::setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).is_err() {
            std::process::abort();
        }
    }
}

fn is_network_namespace(file: &File) -> bool {
    let nsfs = fstatfs(file).is_ok_and(|s| s.filesystem_type() == NSFS_MAGIC);
    // Only nsfs files get the request: for another file's driver the same number could mean anything.
    #[expect(unsafe_code, reason = "an ioctl without argument")]
    // SAFETY: the descriptor is open for the whole call, and NS_GET_NSTYPE neither reads nor writes memory of ours.
    let kind = || unsafe { ns_type(file.as_raw_fd()) };
    nsfs && kind() == Ok(libc::CLONE_NEWNET)
}

/// Of the calling thread's namespace; None before Linux 5.14.
fn own_cookie() -> NetResult<Option<u64>> {
    let failed = |e| NetError::new("read cookie of", "namespace", e);
    let any = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
    match getsockopt(&any, NetnsCookie) {
        Ok(cookie) => Ok(Some(cookie)),
        Err(Errno::ENOPROTOOPT) => Ok(None),
        Err(e) => Err(failed(e)),
    }
}

fn on_thread<T: Send>(op: &'static str, f: impl FnOnce() -> T + Send) -> NetResult<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("namespace".into()).spawn_scoped(scope, f);
        let thread = thread.map_err(|e| NetError::io(op, "on a thread", &e))?;
        match thread.join() {
            Ok(value) => Ok(value),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::testing::{block_on, fresh};

    /// A path that leads to the namespace as long as the value is open, as a bind mount would.
    fn path_of(ns: &Namespace) -> PathBuf {
        format!("/proc/self/fd/{}", ns.raw_fd()).into()
    }

    #[test]
    fn identities_differ_between_namespaces_and_agree_for_one() {
        let (a, b) = (fresh(), fresh());
        let again = Namespace::open(&path_of(&a)).unwrap();
        assert_eq!(a.id().unwrap(), again.id().unwrap());
        assert_ne!(a.id().unwrap(), b.id().unwrap());
        assert!(a.same_as(&again) && !a.same_as(&b));
        let inside = a.enter(|| Namespace::own().unwrap()).unwrap();
        assert_eq!(inside.id().unwrap(), a.id().unwrap());
        assert!(a.id().unwrap().cookie.is_some(), "this kernel is older than 5.14");
    }

    #[test]
    fn a_cookie_survives_the_journal() {
        let id = fresh().id().unwrap();
        let text = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<NsId>(&text).unwrap(), id);
    }

    #[test]
    fn cookies_decide_and_else_inode_and_age() {
        let id = |cookie, inode, created| NsId { cookie, device: 4, inode, created };
        assert_ne!(id(Some(1), 10, 5), id(Some(2), 10, 5));
        assert_eq!(id(Some(1), 10, 5), id(Some(1), 11, 6));
        assert_eq!(id(None, 10, 5), id(Some(2), 10, 5));
        assert_ne!(id(None, 10, 5), id(None, 10, 6));
        assert_eq!(id(None, 10, 0), id(None, 10, 6));
        assert_ne!(id(None, 10, 0), id(None, 11, 0));
    }

    #[test]
    fn what_is_no_namespace_is_told_from_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Namespace::open(&dir.path().join("gone")).unwrap_err();
        assert!(matches!(missing, NsError::Missing(_)), "{missing}");
        assert_eq!(Failure::from(missing).code, Code::NamespaceGone);
        let plain = dir.path().join("plain");
        std::fs::write(&plain, "").unwrap();
        assert!(matches!(Namespace::open(&plain.join("below")).unwrap_err(), NsError::Missing(_)));
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in [&plain, &fifo, dir.path(), Path::new("/proc/self/ns/uts"), Path::new("/dev/null")] {
            let e = Namespace::open(path).unwrap_err();
            assert!(matches!(e, NsError::NotANamespace(_)), "{}: {e}", path.display());
            assert_eq!(Failure::from(e).code, Code::NamespaceGone);
        }
    }

    #[test]
    fn entering_leaves_the_caller_where_it_is() {
        let before = Namespace::own().unwrap();
        let other = fresh();
        assert!(other.enter(|| Namespace::own().unwrap().same_as(&other)).unwrap());
        assert!(Namespace::own().unwrap().same_as(&before));
    }

    #[test]
    fn a_panic_inside_travels_out() {
        let inside = std::panic::catch_unwind(|| fresh().enter(|| panic!("from inside")));
        assert_eq!(inside.unwrap_err().downcast_ref::<&str>(), Some(&"from inside"));
    }

    #[test]
    fn a_socket_opened_inside_sees_the_inside_from_outside() {
        block_on(async {
            let ns = fresh();
            let links = ns.netlink().unwrap().links().await.unwrap();
            assert_eq!(links.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["lo"]);
            assert!(ns.cookie.get().is_some(), "the socket's thread has read the cookie on the way");
        });
    }
}
