//! A lab that stands: `up`, `shell`, `down`.
//!
//! A keeper process lives in the lab's world ([`super::world`]) and so holds it; the guest is its child and dies with
//! it. One small file tells the others where the keeper is. The keeper holds a lock on that file for as long as it
//! lives, so a file that nobody locks is of a dead keeper, whose world the kernel has taken away: the file is all that
//! is left of it, and the next command removes it.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, UnlinkatFlags};
use serde::{Deserialize, Serialize};

use super::child::Lines;
use super::demo::{Demo, async_runtime, take_down};
use super::guest::linux::Kit;
use super::lan::Lan;
use super::report::{Kind, Report};
use super::runtime::Attachment;
use super::{GuestKind, Place, world};

const FILE: &str = "trestle-lab.json";
const ALREADY: &str = "a lab is up already: `trestle lab down` takes it away";

/// What the keeper writes for those who come later.
#[derive(Debug, Serialize, Deserialize)]
struct Standing {
    pid: i32,
    attachments: Vec<Attachment>,
}

/// `up`'s one line to the keeper: the report has come, so somebody knows of this lab.
const STAY: &str = "stay\n";

/// The keeper's one line to `up`.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    Report(Box<Report>),
    Failed(String),
}

/// The file and the directory that it is in; both stay reachable when `/run` is another one and the uid reads 0.
struct Notice {
    dir: File,
    name: String,
    file: File,
}

/// root: `/run`. Others: the session's runtime directory, else `/tmp` under a name with the uid. `TRESTLE_RUN_DIR` moves
/// it as it moves the plugin's own files.
fn place(env: &dyn Fn(&str) -> Option<OsString>, uid: u32) -> (PathBuf, String) {
    let set = |key: &str| env(key).filter(|v| !v.is_empty()).map(PathBuf::from);
    let session = || if uid == 0 { Some("/run".into()) } else { set("XDG_RUNTIME_DIR") };
    match set("TRESTLE_RUN_DIR").or_else(session) {
        Some(dir) => (dir, FILE.into()),
        None => ("/tmp".into(), format!("trestle-lab-{uid}.json")),
    }
}

impl Notice {
    /// `None` if there is none.
    fn open(create: bool) -> anyhow::Result<Option<Self>> {
        let (dir, name) = place(&|key| std::env::var_os(key), nix::unistd::Uid::current().as_raw());
        let path = dir.join(&name);
        // Nobody else's file or link in a directory that everybody writes to.
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).bits();
        let opened = File::options().read(true).write(true).create(create).mode(0o600).custom_flags(flags).open(&path);
        let file = match opened {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !create => return Ok(None),
            other => other.with_context(|| format!("cannot open {}", path.display()))?,
        };
        let owner = file.metadata()?.uid();
        ensure!(owner == nix::unistd::Uid::current().as_raw(), "{} belongs to uid {owner}", path.display());
        let dir = File::open(&dir).with_context(|| format!("cannot open {}", dir.display()))?;
        Ok(Some(Self { dir, name, file }))
    }

    fn try_lock(&self) -> anyhow::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(e)) => Err(e).context("cannot lock the lab's notice"),
        }
    }

    fn read(&mut self) -> anyhow::Result<Standing> {
        let mut text = String::new();
        self.file.read_to_string(&mut text)?;
        serde_json::from_str(&text).context("the lab is not up yet, try again in a moment")
    }

    /// With the lock held, so that no keeper's file is taken away from under it.
    fn remove(self) -> anyhow::Result<()> {
        match nix::unistd::unlinkat(&self.dir, self.name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
            Err(e) => Err(e).context("cannot remove the lab's notice"),
        }
    }
}

/// Removes what a dead keeper left; true if there was something.
pub fn sweep() -> anyhow::Result<bool> {
    let Some(notice) = Notice::open(false)? else { return Ok(false) };
    if !notice.try_lock()? {
        return Ok(false);
    }
    notice.remove()?;
    Ok(true)
}

/// Starts a keeper and waits for its report.
pub fn up(guest: GuestKind) -> anyhow::Result<Report> {
    if let Some(notice) = Notice::open(false)? {
        ensure!(notice.try_lock()?, ALREADY);
        notice.remove()?;
    }
    #[expect(clippy::disallowed_methods, reason = "the keeper is this program")]
    let mut command = Command::new("/proc/self/exe");
    command.arg0("trestle").args(["lab", "keep", "--guest", guest.name()]);
    let mut keeper = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start the keeper")?;
    let (Some(output), Some(mut input)) = (keeper.stdout.take(), keeper.stdin.take()) else {
        bail!("the keeper has no pipes");
    };
    let said = Lines::new(OwnedFd::from(output)).next(Instant::now() + Duration::from_secs(180));
    let word = said.map(|line| line.as_deref().map(serde_json::from_str));
    match word {
        Ok(Some(Ok(Word::Report(report)))) => {
            input.write_all(STAY.as_bytes()).context("the keeper of the lab is gone")?;
            Ok(*report)
        }
        Ok(Some(Ok(Word::Failed(why)))) => bail!(why),
        other => {
            // Without its keeper the world ends, whatever was built of it.
            let _ = keeper.kill();
            let _ = keeper.wait();
            let _ = sweep();
            bail!("the keeper of the lab ended without a report ({other:?})")
        }
    }
}

/// The keeper: builds, tells, and stays until it is told to end.
pub fn keep(kit: Option<&Kit>) -> anyhow::Result<()> {
    // A Ctrl-C for `up`, or the end of its terminal, is not for the keeper.
    nix::unistd::setsid().context("cannot start a session")?;
    let mut notice = Notice::open(true)?.context("the lab's notice is gone")?;
    if !notice.try_lock()? {
        return tell(&Word::Failed(ALREADY.into()));
    }
    let built = build(kit, &mut notice);
    let word = match &built {
        Ok(demo) => Word::Report(Box::new(demo.report.clone())),
        Err(e) => Word::Failed(format!("{e:#}")),
    };
    let wanted = tell(&word).is_ok() && told_to_stay();
    let (Ok(demo), true) = (built, wanted) else {
        // It could not be built, or `up` was killed meanwhile. With this process all of it is gone.
        return notice.remove();
    };
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    await_the_end()?;
    // The guest goes first, and is waited for: no dead process is left to whoever adopts it.
    drop(demo);
    Ok(())
}

/// Blocked only here, with all children started: they would inherit it.
fn await_the_end() -> anyhow::Result<()> {
    let mut end = SigSet::empty();
    end.add(Signal::SIGTERM);
    end.thread_block()?;
    end.wait().map(drop).context("cannot wait for a signal")
}

fn told_to_stay() -> bool {
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && answer == STAY
}

fn tell(word: &Word) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{}", serde_json::to_string(word)?)?;
    Ok(out.flush()?)
}

fn build(kit: Option<&Kit>, notice: &mut Notice) -> anyhow::Result<Demo> {
    let world = world::enter()?;
    let demo = Demo::play(&world, kit)?;
    let standing = Standing { pid: std::process::id().cast_signed(), attachments: demo.attachments.clone() };
    notice.file.set_len(0)?;
    notice.file.write_all(serde_json::to_string(&standing)?.as_bytes())?;
    Ok(demo)
}

/// The lab that is up, if one is; what a dead one left is removed.
fn standing() -> anyhow::Result<Option<(Notice, Standing)>> {
    let Some(mut notice) = Notice::open(false)? else { return Ok(None) };
    if notice.try_lock()? {
        notice.remove()?;
        return Ok(None);
    }
    let standing = notice.read()?;
    Ok(Some((notice, standing)))
}

/// Takes this process into the keeper's user, host name and mount namespaces, and into one of its networks.
fn enter(pid: i32, place: &str) -> anyhow::Result<()> {
    let open = |kind: &str| {
        let path = format!("/proc/{pid}/ns/{kind}");
        File::open(&path).with_context(|| format!("cannot open {path}"))
    };
    let (user, mounts, name) = (open("user")?, open("mnt")?, open("uts")?);
    // Entering the user namespace that one is in already is refused (EINVAL).
    if user.metadata()?.ino() != std::fs::metadata("/proc/self/ns/user")?.ino() {
        world::join(&user, CloneFlags::CLONE_NEWUSER)?;
    }
    world::join(&name, CloneFlags::CLONE_NEWUTS)?;
    world::join(&mounts, CloneFlags::CLONE_NEWNS)?;
    let path = world::netns(place);
    let net = File::open(&path).with_context(|| format!("the lab has no {}", path.display()))?;
    world::join(&net, CloneFlags::CLONE_NEWNET)
}

/// Becomes a shell, or the given command, at a place of the lab. Returns only if that fails.
pub fn shell(place: Place, command: &[OsString]) -> anyhow::Result<()> {
    let Some((_, standing)) = standing()? else { bail!("no lab is up: `trestle lab up` builds one") };
    enter(standing.pid, place.namespace())?;
    let shell = std::env::var_os("SHELL").filter(|s| Path::new(s).is_file()).unwrap_or_else(|| "/bin/sh".into());
    let default = [shell];
    let (program, args) =
        if command.is_empty() { default.split_first() } else { command.split_first() }.context("no command")?;
    #[expect(clippy::disallowed_methods, reason = "the shell that was asked for")]
    let mut command = Command::new(program);
    command.args(args).env("TRESTLE_LAB", place.namespace());
    Err(command.exec()).with_context(|| format!("cannot start {}", Path::new(program).display()))
}

/// Takes the lab down; `None` if none was up.
pub fn down() -> anyhow::Result<Option<Report>> {
    let Some((notice, standing)) = standing()? else { return Ok(None) };
    let mut report = Report::default();
    if let Err(e) = undo(&mut report, &standing) {
        // The keeper's end takes it all away, too.
        report.record(Kind::Del, "a look into the lab", Duration::ZERO, Err(e));
    }
    end_keeper(standing.pid, &notice)?;
    notice.remove()?;
    Ok(Some(report))
}

/// Asks it, then makes it.
fn end_keeper(pid: i32, notice: &Notice) -> anyhow::Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        kill(Pid::from_raw(pid), signal).with_context(|| format!("cannot end the lab's keeper, process {pid}"))?;
        let patience = Instant::now() + Duration::from_secs(5);
        while Instant::now() < patience {
            if notice.try_lock()? {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    bail!("the lab's keeper, process {pid}, does not end")
}

fn undo(report: &mut Report, standing: &Standing) -> anyhow::Result<()> {
    enter(standing.pid, "node")?;
    let runtime = async_runtime()?;
    let lan = runtime.block_on(async { Lan::open() })?;
    take_down(report, &runtime, &lan, &standing.attachments);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notice_has_its_place() {
        let session = |key: &str| (key == "XDG_RUNTIME_DIR").then(|| OsString::from("/run/user/1000"));
        assert_eq!(place(&session, 0), ("/run".into(), FILE.into()));
        assert_eq!(place(&session, 1000), ("/run/user/1000".into(), FILE.into()));
        let moved = |key: &str| (key == "TRESTLE_RUN_DIR").then(|| OsString::from("/x"));
        assert_eq!(place(&moved, 0), ("/x".into(), FILE.into()));
        assert_eq!(place(&|_| None, 1000), ("/tmp".into(), "trestle-lab-1000.json".into()));
    }

    #[test]
    fn the_keepers_word_is_one_line() {
        let mut report = Report::default();
        report.leave_out("a\nb", "c");
        for word in [Word::Report(Box::new(report)), Word::Failed("d\ne".into())] {
            let line = serde_json::to_string(&word).unwrap();
            assert!(!line.contains('\n'));
            let back: Word = serde_json::from_str(&line).unwrap();
            assert_eq!(format!("{back:?}"), format!("{word:?}"));
        }
    }
}
