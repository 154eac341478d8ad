//! `trestle dhcp daemon`: the keeper of leases without the rest of the agent, under the flags of the reference plugin's
//! daemon, in whose place it is started.
//!
//! Nobody asks it for an address, so its socket answers nothing: it is there for those who wait until it is. A socket or
//! pidfile that a dead one left is no obstacle, and at its end it removes its own, not its successor's.

use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::{DONE, WRONG_LINE, print};
use crate::agent::keeper::{Keeper, keep};
use crate::store::{Dirs, make_dir};

const SOCKET: &str = "/run/cni/dhcp.sock";
const USAGE: &str = "\
Keeps the leases of pods that have their addresses by DHCP, until SIGTERM. It needs no Kubernetes, and does nothing while an
agent keeps them.

Usage: trestle dhcp daemon [flags], each with one or two dashes, as the reference plugin has them

  -pidfile PATH            write the process id there, and remove it at the end
  -socketpath PATH         make a socket there instead of /run/cni/dhcp.sock; nothing is answered
  -hostprefix PATH         where the node's root is
  -broadcast               ask servers to broadcast what they answer to this daemon; ADD asks by itself, without it
  -timeout T, -resendmax T, -resendtimeout T
                           accepted without an effect: the network's configuration and the server's times decide";
/// Between two attempts to begin anew.
const PAUSE: Duration = Duration::from_secs(1);
/// Writers of records at once: as many as children may run.
const WRITERS: usize = 8;

/// Keep leases until SIGTERM, with the flags of the reference plugin's daemon
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct DaemonArgs {
    /// -help lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    flags: Vec<OsString>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Flags {
    pidfile: Option<PathBuf>,
    host_prefix: PathBuf,
    socket: Option<PathBuf>,
    broadcast: bool,
    /// Given, and without a meaning here.
    idle: Vec<String>,
    help: bool,
}

pub fn run(args: DaemonArgs) -> anyhow::Result<u8> {
    let flags = match Flags::parse(args.flags) {
        Ok(flags) if flags.help => return print(USAGE).map(|()| DONE),
        Ok(flags) => flags,
        Err(why) => {
            // Nowhere is left to say that standard error is closed.
            let _ = writeln!(std::io::stderr(), "trestle dhcp daemon: {why}\n\n{USAGE}");
            return Ok(WRONG_LINE);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(WRITERS).build()?;
    runtime.block_on(serve(flags))?;
    // What a blocked disk still holds up is not waited for.
    runtime.shutdown_background();
    Ok(DONE)
}

impl Flags {
    /// By the rules of Go's flag package: one dash or two, a value behind `=` or as the next argument; it ends at the first
    /// argument that is no flag, and the reference looks at nothing behind it.
    fn parse(args: Vec<OsString>) -> Result<Self, String> {
        let mut flags = Self::default();
        let mut args = args.into_iter().map(|a| a.into_string().map_err(|a| format!("{} is no text", a.display())));
        while let Some(arg) = args.next().transpose()? {
            let Some(flag) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|_| arg.len() > 1) else {
                break;
            };
            if arg == "--" {
                break;
            }
            if flag.is_empty() || flag.starts_with(['-', '=']) {
                return Err(format!("bad flag syntax: {arg}"));
            }
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match name {
                "broadcast" => flags.broadcast = switch(name, value.as_deref())?,
                "h" | "help" => return Ok(Self { help: true, ..Self::default() }),
                "pidfile" | "hostprefix" | "socketpath" | "timeout" | "resendmax" | "resendtimeout" => {
                    let value = value.map_or_else(|| args.next().transpose(), |value| Ok(Some(value)))?;
                    flags.set(name, value.ok_or_else(|| format!("flag needs an argument: -{name}"))?)?;
                }
                _ => return Err(format!("flag provided but not defined: -{name}")),
            }
        }
        match &flags.pidfile {
            Some(path) if !path.is_absolute() => Err(format!("pidfile {}: the path is not absolute", path.display())),
            _ => Ok(flags),
        }
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        let path = || Some(&value).filter(|v| !v.is_empty()).map(PathBuf::from);
        match name {
            "pidfile" => self.pidfile = path(),
            "hostprefix" => self.host_prefix = path().unwrap_or_default(),
            "socketpath" => self.socket = path(),
            _ if is_duration(&value) => self.idle.push(format!("-{name}={value}")),
            _ => return Err(format!("invalid value {value:?} for flag -{name}: no duration such as 10s or 1m30s")),
        }
        Ok(())
    }

    /// As the node has it, below the prefix.
    fn on_node(&self, path: &Path) -> PathBuf {
        if self.host_prefix.as_os_str().is_empty() {
            return path.into();
        }
        self.host_prefix.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// The words of Go's strconv.ParseBool.
fn switch(name: &str, value: Option<&str>) -> Result<bool, String> {
    match value.unwrap_or("true") {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => Err(format!("invalid boolean value {other:?} for -{name}: neither true nor false")),
    }
}

/// As Go's time.ParseDuration reads one: `1h2.5m`, and a zero needs no unit.
fn is_duration(text: &str) -> bool {
    const UNITS: [(&str, f64); 8] = [
        ("ns", 1.0),
        ("us", 1e3),
        ("\u{b5}s", 1e3),
        ("\u{3bc}s", 1e3),
        ("ms", 1e6),
        ("s", 1e9),
        ("m", 60e9),
        ("h", 3600e9),
    ];
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let mut nanoseconds = 0.0;
    let is_of_number = |c: char| c.is_ascii_digit() || c == '.';
    while !rest.is_empty() {
        let (number, more) = rest.split_at(rest.find(|c| !is_of_number(c)).unwrap_or(rest.len()));
        let (unit, more) = more.split_at(more.find(is_of_number).unwrap_or(more.len()));
        // A point alone and two of them are no number here either.
        let Ok(number) = number.parse::<f64>() else { return false };
        let Some((_, each)) = UNITS.iter().find(|(name, _)| *name == unit) else { return false };
        nanoseconds += number * each;
        rest = more;
    }
    // What Go's 64 bits hold.
    !text.is_empty() && nanoseconds > -1.0 && nanoseconds < 9.3e18 && !text.ends_with(['-', '+'])
}

async fn serve(flags: Flags) -> anyhow::Result<()> {
    // Before there is anything to remove.
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    if !flags.idle.is_empty() {
        tracing::info!(flags = flags.idle.join(" "), "without an effect here: configuration and server decide");
    }
    let here = Dirs::from_env(&|key| std::env::var_os(key));
    let dirs = Dirs::new(flags.on_node(&here.run), flags.on_node(&here.state));
    if !dirs.state.parent().is_some_and(Path::exists) {
        tracing::warn!(state = %dirs.state.display(), "not to be seen from here: whatever is leased is kept by others");
    }
    let _pidfile = flags.pidfile.as_deref().map(write_pidfile).transpose()?;
    let socket = flags.on_node(flags.socket.as_deref().unwrap_or(Path::new(SOCKET)));
    let listening = listen(&socket)?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        () = close_all(listening.as_ref().map(|(listener, _)| listener)) => {}
        () = keep_on(dirs, flags.host_prefix, flags.broadcast) => {}
    }
    tracing::info!("ended by a signal");
    Ok(())
}

/// Never ends.
async fn keep_on(dirs: Dirs, root: PathBuf, broadcast: bool) {
    loop {
        if let Err(failure) = keep(Keeper::of_node(dirs.clone(), root.clone(), broadcast)).await {
            tracing::error!(%failure, "leases are not kept now; begun again");
        }
        sleep(PAUSE).await;
    }
}

/// Never ends. Whoever calls is told by the end of the connection that there is nothing to be asked for.
async fn close_all(listener: Option<&UnixListener>) {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        match listener.accept().await {
            Ok(connection) => drop(connection),
            Err(failure) => {
                tracing::warn!(%failure, "a connection was lost");
                sleep(PAUSE).await;
            }
        }
    }
}

/// A file of ours, removed at the end unless another one took its place.
struct Own {
    path: PathBuf,
    is: (u64, u64),
}

impl Own {
    fn of(path: &Path) -> std::io::Result<Self> {
        Ok(Self { path: path.into(), is: identity(path)? })
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|there| there == self.is)
            && let Err(failure) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %failure, "stays behind");
        }
    }
}

fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

fn write_pidfile(path: &Path) -> anyhow::Result<Own> {
    // A new file, so that a successor's is told from ours.
    let write = |beside: &Path| {
        fs::File::create_new(beside)?.write_all(std::process::id().to_string().as_bytes())?;
        fs::rename(beside, path)
    };
    renamed(path, write).with_context(|| format!("write pidfile {}", path.display())).map(|((), own)| own)
}

/// What is made at a place beside the path, which nobody else uses now, and renamed to it by `make`.
fn renamed<T>(path: &Path, make: impl Fn(&Path) -> std::io::Result<T>) -> std::io::Result<(T, Own)> {
    let taken = |e: &std::io::Error| matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::AddrInUse);
    let mut made = make(&beside(path)?);
    for _ in 0..100 {
        if !made.as_ref().is_err_and(taken) {
            break;
        }
        made = make(&beside(path)?);
    }
    Ok((made?, Own::of(path)?))
}

/// Bound beside its place and renamed, so that there is no moment without one and a stale one does not matter. None where
/// systemd has made it and holds it for us.
fn listen(path: &Path) -> anyhow::Result<Option<(UnixListener, Own)>> {
    if std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string()) {
        tracing::info!("the socket is systemd's, and is left to it");
        return Ok(None);
    }
    let Some(folder) = path.parent() else { bail!("{} is no place for a socket", path.display()) };
    let bind = |beside: &Path| {
        let listener = UnixListener::bind(beside)?;
        fs::rename(beside, path)?;
        Ok(listener)
    };
    let made = make_dir(folder).and_then(|()| renamed(path, bind));
    made.map(Some).with_context(|| format!("make socket {}", path.display()))
}

/// Short, as a socket's path has 107 bytes at most; another one each time, as daemons may be begun at once.
fn beside(path: &Path) -> std::io::Result<PathBuf> {
    let number = getrandom::u32().map_err(std::io::Error::other)? & 0xffff;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number:x}"));
    Ok(name.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn parse(line: &str) -> Result<Flags, String> {
        Flags::parse(line.split_whitespace().map(Into::into).collect())
    }

    #[test]
    fn flags_as_the_reference_takes_them() {
        assert_eq!(parse(""), Ok(Flags::default()));
        let all = parse(
            "-pidfile /run/p --hostprefix=/host -socketpath /run/s -broadcast -timeout 10s -resendmax=62s --resendtimeout 1m",
        );
        let idle = ["-timeout=10s", "-resendmax=62s", "-resendtimeout=1m"].map(str::to_owned).to_vec();
        let (pidfile, socket) = (Some("/run/p".into()), Some("/run/s".into()));
        let broadcast = true;
        assert_eq!(all, Ok(Flags { pidfile, socket, host_prefix: "/host".into(), broadcast, idle, help: false }));
        assert_eq!(parse("-broadcast=true -socketpath=").unwrap().socket, None);
        assert!(!parse("-broadcast -broadcast=F").unwrap().broadcast);
        assert!(parse("-help").unwrap().help && parse("-h -bogus").unwrap().help);
        // Go stops there, and what follows is never looked at.
        for end in ["extra", "-- -bogus", "- -bogus", "pidfile -timeout=abc"] {
            assert_eq!(parse(&format!("-socketpath /s {end}")), parse("-socketpath /s"), "{end}");
        }
        for bad in [
            "-pidfile",
            "-pidfile p",
            "-pid /p",
            "-timeout",
            "-timeout abc",
            "-timeout 10",
            "-resendmax=",
            "-broadcast=maybe",
            "-broadcast=",
            "---timeout 1s",
            "-=x",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_as_go_reads_them() {
        for good in
            ["0", "5s", "+5s", "-0", "1.5h", "5.s", ".5s", "1h2m3.5s", "2562047h", "10\u{b5}s", "3\u{3bc}s", "-1ns"]
        {
            assert!(is_duration(good), "{good}");
        }
        for bad in
            ["", "3", "-", "s", ".", "-.", ".s", "+.s", "1d", "1s2", "\u{c4}5s", "1e9s", "3000000h", "1..5s", "abc"]
        {
            assert!(!is_duration(bad), "{bad}");
        }
    }

    #[tokio::test]
    async fn many_that_begin_at_once() {
        let tmp = tempfile::tempdir().unwrap();
        let (path, pidfile) = (tmp.path().join("dhcp.sock"), tmp.path().join("pid"));
        let begin = || async { (listen(&path), write_pidfile(&pidfile)) };
        let runtime = tokio::runtime::Handle::current();
        let all: Vec<_> = std::thread::scope(|s| {
            let threads: Vec<_> = (0..20).map(|_| s.spawn(|| runtime.block_on(begin()))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        for (socket, pidfile) in &all {
            assert!(socket.is_ok() && pidfile.is_ok(), "{:?} {:?}", socket.as_ref().err(), pidfile.as_ref().err());
        }
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 2, "nothing is left beside them");
    }

    #[test]
    fn paths_below_the_hosts_root() {
        let flags = parse("-hostprefix /host").unwrap();
        assert_eq!(flags.on_node(Path::new("/run/cni/dhcp.sock")), Path::new("/host/run/cni/dhcp.sock"));
        assert_eq!(Flags::default().on_node(Path::new("/run")), Path::new("/run"));
    }

    #[tokio::test]
    async fn a_stale_socket_is_no_obstacle_and_a_successors_is_left() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("cni/dhcp.sock");
        fs::create_dir(tmp.path().join("cni")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left by one that was killed");
        let (listener, own) = listen(&path).unwrap().unwrap();
        let asked = path.clone();
        let caller = tokio::task::spawn_blocking(move || UnixStream::connect(asked)?.read(&mut [0]));
        tokio::select! {
            () = close_all(Some(&listener)) => {}
            said = caller => assert_eq!(said.unwrap().unwrap(), 0),
        }
        let (_, second) = listen(&path).unwrap().unwrap();
        drop(own);
        assert!(path.exists(), "the successor's");
        drop(second);
        assert_eq!(fs::read_dir(tmp.path().join("cni")).unwrap().count(), 0);
    }

    #[test]
    fn a_pidfile_goes_with_its_writer() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("pid");
        fs::write(&path, "1").unwrap();
        let own = write_pidfile(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), std::process::id().to_string());
        drop(own);
        assert!(!path.exists());
        assert!(write_pidfile(&tmp.path().join("missing/pid")).is_err());
    }
}
