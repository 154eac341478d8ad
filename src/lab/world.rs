//! The lab's own world: a mount namespace and network namespaces that are this process', and for an ordinary user a
//! user namespace around them.
//!
//! Everything that a run makes is in here: `/run` is an empty file system of its own, the network namespaces are bound
//! to `/run/netns/NAME` in it, as a runtime and `ip netns` do. No process, no world: the kernel takes all of it away
//! with the last process inside, however that ends. Knows namespaces and mounts; what is built in them, it does not.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, Uid};

use crate::net::Namespace;

const NETNS: &str = "/run/netns";
/// The lab's files, in its own `/run`.
pub const DIR: &str = "/run/trestle-lab";
const TUN: &str = "/dev/net/tun";

/// What the machine allowed.
#[derive(Debug)]
pub struct World {
    /// Why no guest can have a tap here.
    pub no_tap: Option<String>,
}

/// Mounts, links and the host's name: the plugin names the node in its messages.
const OWN: CloneFlags = CloneFlags::CLONE_NEWNS.union(CloneFlags::CLONE_NEWNET).union(CloneFlags::CLONE_NEWUTS);

/// Leaves the machine's namespaces behind, for good; the calling thread, which must be the only one, is then on the
/// node.
pub fn enter() -> anyhow::Result<World> {
    match unshare(OWN) {
        Err(Errno::EPERM) => enter_user_namespace()?,
        other => other.context("cannot make a namespace")?,
    }
    furnish().context("cannot furnish the lab's mount namespace")?;
    bind_own_namespace(&netns("node")).context("cannot bind the node's namespace")?;
    let no_tap = share_tun().or_else(|| super::guest::hindrance(&ids("uid_map"), &ids("gid_map")));
    Ok(World { no_tap })
}

fn ids(map: &str) -> String {
    std::fs::read_to_string(format!("/proc/self/{map}")).unwrap_or_default()
}

/// Where a network namespace of the lab is to be found, inside.
pub fn netns(name: &str) -> PathBuf {
    Path::new(NETNS).join(name)
}

pub fn make_namespace(name: &str) -> anyhow::Result<Namespace> {
    let path = netns(name);
    // A thread of its own: it is the only one that changes its namespace, and it ends with that.
    let made = std::thread::scope(|scope| {
        let thread = scope.spawn(|| -> anyhow::Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            bind_own_namespace(&path)
        });
        thread.join().unwrap_or_else(|_| bail!("the thread panicked"))
    });
    made.with_context(|| format!("cannot make the network namespace {name}"))?;
    Ok(Namespace::open(&path)?)
}

fn bind_own_namespace(path: &Path) -> anyhow::Result<()> {
    File::create(path)?;
    mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

fn furnish() -> anyhow::Result<()> {
    let none = None::<&str>;
    // What happens in here stays in here.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("make mounts private")?;
    mount(Some("trestle-lab"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=0755"))
        .context("mount a new /run")?;
    nix::unistd::sethostname("lab-node").context("name the node")?;
    std::fs::create_dir(NETNS)?;
    std::fs::create_dir(DIR)?;
    // Shows the node's links instead of the machine's. Where a user namespace may not (a container that hides parts
    // of it), the old one stays: nothing of the lab reads it.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let _ = mount(Some("sysfs"), "/sys", Some("sysfs"), flags, none);
    Ok(())
}

/// The guest opens `/dev/net/tun` as uid 107. Distributions give it to everybody (mode 0666) and KubeVirt's device plugin
/// to its pods; where it is root's only, the lab lays its own node over it, in its own mount namespace.
fn share_tun() -> Option<String> {
    let Ok(meta) = std::fs::metadata(TUN) else {
        return Some(format!("{TUN} is not there, and a guest needs a tap: modprobe tun"));
    };
    if meta.permissions().mode() & 0o006 == 0o006 {
        return None;
    }
    let own = Path::new(DIR).join("tun");
    let lay = || -> anyhow::Result<()> {
        mknod(&own, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(10, 200))?;
        std::fs::set_permissions(&own, PermissionsExt::from_mode(0o666))?;
        mount(Some(&own), TUN, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    };
    let refused = lay().err()?;
    Some(format!("{TUN} is for root only, and a guest needs a tap (no other node could be made: {refused})"))
}

/// For an ordinary user: root of a user namespace, where the user may make the other namespaces.
fn enter_user_namespace() -> anyhow::Result<()> {
    let (uid, gid) = (Uid::current(), Gid::current());
    let mapper = start_mapper(uid, gid);
    unshare(CloneFlags::CLONE_NEWUSER).context(NO_USER_NAMESPACES)?;
    if !mapper.is_some_and(finish_mapper) {
        map_own_ids(uid, gid).context(NO_USER_NAMESPACES)?;
    }
    unshare(OWN).context(NO_USER_NAMESPACES)
}

const NO_USER_NAMESPACES: &str = "this machine lets an ordinary user make no network namespaces (look at \
    kernel.unprivileged_userns_clone, user.max_user_namespaces and kernel.apparmor_restrict_unprivileged_userns): \
    run as root, and in a container with CAP_SYS_ADMIN";

/// A user may map nothing but the own id by hand; more, and with it uid 107, takes the set-uid helpers of the package
/// uidmap and a range in `/etc/subuid`. They must run outside of the new namespace, so they are started before it is
/// made and wait for a word.
fn start_mapper(uid: Uid, gid: Gid) -> Option<std::process::Child> {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    // Not by getpwuid: a static glibc loads the machine's NSS libraries for it, and crashes where they do not fit.
    let name = user_name(&read("/etc/passwd"), uid.as_raw()).unwrap_or_default();
    let range = |file: &str| sub_range(&read(file), &name, uid.as_raw());
    let (users, groups) = (range("/etc/subuid")?, range("/etc/subgid")?);
    let pid = std::process::id();
    let map = |id: u32, (first, count): (u32, u32)| format!("{pid} 0 {id} 1 1 {first} {count}");
    let script =
        format!("read -r go && newuidmap {} && exec newgidmap {}", map(uid.as_raw(), users), map(gid.as_raw(), groups));
    #[expect(clippy::disallowed_methods, reason = "the helpers of uidmap, before there is a namespace")]
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
}

fn finish_mapper(mut mapper: std::process::Child) -> bool {
    let told = mapper.stdin.take().is_some_and(|mut s| s.write_all(b"go\n").is_ok());
    mapper.wait().is_ok_and(|status| told && status.success())
}

fn user_name(passwd: &str, uid: u32) -> Option<String> {
    let of = |line: &str| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?);
        Some((name, number))
    };
    passwd.lines().filter_map(of).find(|(_, number): &(String, u32)| *number == uid).map(|(name, _)| name)
}

/// `NAME:FIRST:COUNT` of `/etc/subuid` and `/etc/subgid`; the name may be a number.
fn sub_range(text: &str, name: &str, id: u32) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let [who, first, count] = line.split(':').collect::<Vec<_>>().try_into().ok()?;
        let mine = (!name.is_empty() && who == name) || who == id.to_string();
        mine.then_some((first.parse().ok()?, count.trim().parse().ok()?))
    })
}

fn map_own_ids(uid: Uid, gid: Gid) -> std::io::Result<()> {
    // A helper that got half-way has written one of them; a map is written once.
    let write = |file: &str, text: String| match std::fs::read_to_string(format!("/proc/self/{file}")) {
        Ok(old) if file != "setgroups" && !old.trim().is_empty() => Ok(()),
        _ => std::fs::write(format!("/proc/self/{file}"), text),
    };
    write("setgroups", "deny".into())?;
    write("uid_map", format!("0 {uid} 1\n"))?;
    write("gid_map", format!("0 {gid} 1\n"))
}

/// Takes the calling process, whose only thread this must be, into another namespace for good.
pub fn join(namespace: &File, kind: CloneFlags) -> anyhow::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "the whole process goes, on its only thread, and never comes back")]
    nix::sched::setns(namespace.as_fd(), kind).context("cannot enter a namespace of the lab")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_users() {
        let text = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nodd\n";
        assert_eq!(user_name(text, 1000).as_deref(), Some("ann"));
        assert_eq!(user_name(text, 1001), None);
    }

    #[test]
    fn ranges_of_a_user() {
        let text = "root:1:2\nann:100000:65536\n1001:300000:65536\nbad:x:1\n";
        assert_eq!(sub_range(text, "ann", 1000), Some((100_000, 65536)));
        assert_eq!(sub_range(text, "", 1001), Some((300_000, 65536)));
        assert_eq!(sub_range(text, "bob", 1002), None);
        assert_eq!(sub_range(text, "bad", 1003), None);
        assert_eq!(sub_range(":1:2", "", 1003), None);
    }
}
