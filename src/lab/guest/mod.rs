//! The virtual machine's guest: a process of its own in the pod's namespace, with the uid that KubeVirt's virt-launcher
//! has and without any capability, so that the tap's owner is put to the test too.
//!
//! Two kinds, which speak the same lines on their standard streams: a small stack on the tap ([`stack`]), and a real
//! Linux under QEMU ([`linux`]), whose first process is a shell script with the same words. Knows the tap by its name;
//! who made it, and the wire behind it, is not known here.
//!
//! ```text
//! to the guest     ping ADDRESS
//! from the guest   lab: ready | lab: pong ADDRESS MILLISECONDS | lab: lost ADDRESS | lab: failed WHY
//! ```

pub mod initramfs;
pub mod linux;
pub mod stack;

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use ipnetwork::Ipv4Network;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

use self::stack::{Card, Pong, Stack};
use super::child::{Lines, die_with};
use crate::types::{IfName, Mac, Mtu};

/// uid and gid of QEMU in a virt-launcher pod.
pub const QEMU: u32 = 107;

/// All that the guest's process is told, in its one argument.
#[derive(Debug, Serialize, Deserialize)]
pub struct Spec {
    pub parent: u32,
    pub netns: PathBuf,
    pub uid: u32,
    pub what: What,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    Stack { tap: IfName, mac: Mac, mtu: Mtu, address: Ipv4Network },
    Program { argv: Vec<String> },
}

/// The guest's process, from its first instruction on.
pub fn play(spec: &Spec) -> anyhow::Result<()> {
    let outcome = become_guest(spec).and_then(|()| match &spec.what {
        What::Stack { tap, mac, mtu, address } => {
            let fd = crate::net::tap::open_tap(tap)?;
            let mut stack = Stack::new(Card::new(fd, *mtu)?, *mac, *address);
            serve(&mut stack, std::io::stdin(), &mut std::io::stdout())
        }
        What::Program { argv } => {
            let (program, args) = argv.split_first().context("no program named")?;
            #[expect(clippy::disallowed_methods, reason = "QEMU takes this process over")]
            let mut command = Command::new(program);
            Err(command.args(args).exec()).with_context(|| format!("cannot start {program}"))
        }
    });
    if let Err(e) = &outcome {
        writeln!(std::io::stdout(), "lab: failed {e:#}")?;
    }
    outcome
}

fn become_guest(spec: &Spec) -> anyhow::Result<()> {
    let file = std::fs::File::open(&spec.netns).with_context(|| format!("cannot open {}", spec.netns.display()))?;
    super::world::join(&file, nix::sched::CloneFlags::CLONE_NEWNET)?;
    let (uid, gid) = (Uid::from_raw(spec.uid), Gid::from_raw(spec.uid));
    nix::unistd::setgroups(&[]).context("cannot drop the supplementary groups")?;
    nix::unistd::setresgid(gid, gid, gid).with_context(|| format!("cannot take gid {gid}"))?;
    // From 0 to another uid in all three places: the kernel clears every capability.
    nix::unistd::setresuid(uid, uid, uid).with_context(|| format!("cannot take uid {uid}"))?;
    die_with(spec.parent)?;
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    anyhow::ensure!(!has_capabilities(&status), "the guest's process has capabilities left");
    Ok(())
}

/// Whether `/proc/PID/status` shows a capability in force or within reach.
fn has_capabilities(status: &str) -> bool {
    let set = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    ["CapPrm:", "CapEff:"].into_iter().any(|key| set(key).is_none_or(|bits| bits.bytes().any(|b| b != b'0')))
}

/// Until its input ends: frames, and the words of the module's head.
fn serve<F: AsFd>(stack: &mut Stack<F>, mut input: impl AsFd + Read, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "lab: ready")?;
    out.flush()?;
    let mut asked = Vec::new();
    loop {
        while let Some(pong) = stack.poll() {
            match pong {
                Pong::Back(ip, time) => writeln!(out, "lab: pong {ip} {:.3}", time.as_secs_f64() * 1e3)?,
                Pong::Lost(ip) => writeln!(out, "lab: lost {ip}")?,
            }
            out.flush()?;
        }
        if await_either(stack, &input)? {
            let mut buffer = [0; 256];
            let read = input.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            asked.extend_from_slice(&buffer[..read]);
            take_words(stack, &mut asked, out)?;
        }
    }
}

/// Waits for a frame, for input (then true), or until the stack has something to do by itself.
fn await_either<F: AsFd>(stack: &mut Stack<F>, input: &impl AsFd) -> anyhow::Result<bool> {
    // Rounded up: a poll that ends a fraction of a millisecond early would be taken again and again.
    let wait = stack.delay().map(|d| d + Duration::from_millis(1));
    let timeout = wait.and_then(|d| PollTimeout::try_from(d).ok()).unwrap_or(PollTimeout::NONE);
    let card = stack.card().fd().as_fd();
    let mut fds = [PollFd::new(card, PollFlags::POLLIN), PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, timeout) {
        Ok(_) => Ok(fds[1].any() == Some(true)),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn take_words<F: AsFd>(stack: &mut Stack<F>, asked: &mut Vec<u8>, out: &mut impl Write) -> anyhow::Result<()> {
    while let Some(end) = asked.iter().position(|b| *b == b'\n') {
        let line: Vec<u8> = asked.drain(..=end).collect();
        let line = String::from_utf8_lossy(&line).into_owned();
        match line.trim().strip_prefix("ping ").map(str::parse) {
            Some(Ok(to)) => stack.ping(to),
            _ => writeln!(out, "lab: failed unknown word {line:?}")?,
        }
    }
    Ok(())
}

/// The guest as the lab holds it. Dropped, it is off.
pub struct Guest {
    child: Child,
    input: ChildStdin,
    lines: Lines,
    log: PathBuf,
}

impl Guest {
    /// Starts it and waits until it says that it is there. From the main thread only, see [`die_with`].
    pub fn start(spec: &Spec, log: &Path, patience: Duration) -> anyhow::Result<Self> {
        let complaints = std::fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        #[expect(clippy::disallowed_methods, reason = "the guest is this program")]
        let mut command = Command::new("/proc/self/exe");
        let mut child = command
            .arg0("trestle")
            .args(["lab", "guest", &serde_json::to_string(spec)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints)
            .spawn()
            .context("cannot start the guest's process")?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the guest's process has no pipes");
        };
        let mut guest = Self { child, input, lines: Lines::new(OwnedFd::from(output)), log: log.into() };
        guest.word("ready", patience)?;
        Ok(guest)
    }

    /// Time to the answer; `None` if the guest waited in vain.
    pub fn ping(&mut self, to: Ipv4Addr) -> anyhow::Result<Option<Duration>> {
        writeln!(self.input, "ping {to}").context("the guest is gone")?;
        self.input.flush()?;
        let word = self.word("pong", Duration::from_secs(20))?;
        let time = word.strip_prefix(&format!("{to} ")).and_then(|ms| ms.trim().parse::<f64>().ok());
        Ok(time.filter(|ms| ms.is_finite() && *ms >= 0.0).map(|ms| Duration::from_secs_f64(ms / 1e3)))
    }

    /// What comes after the awaited word; empty for `lost`. Other lines (a kernel's messages) are passed over.
    fn word(&mut self, awaited: &str, patience: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + patience;
        let mut seen = Vec::new();
        loop {
            let line = match self.lines.next(deadline) {
                Ok(Some(line)) => line,
                Ok(None) => bail!("the guest ended{}", self.complaint(&seen)),
                Err(e) => bail!("the guest: {e}{}", self.complaint(&seen)),
            };
            let Some((_, word)) = line.split_once("lab: ") else {
                seen.push(line);
                continue;
            };
            if let Some(rest) = word.strip_prefix(awaited) {
                return Ok(rest.trim_start().to_owned());
            }
            if word.starts_with("lost ") {
                return Ok(String::new());
            }
            if let Some(why) = word.strip_prefix("failed ") {
                bail!("the guest: {why}{}", self.complaint(&[]));
            }
        }
    }

    /// The last that it wrote, for the message.
    fn complaint(&self, console: &[String]) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = console.iter().map(String::as_str).chain(log.lines()).filter(|l| !l.is_empty()).collect();
        let from = last.len().saturating_sub(3);
        if last.is_empty() { String::new() } else { format!(": {}", last[from..].join(" / ")) }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Already gone is as good; and a process that was killed is waited for at once.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Why a user namespace with these maps cannot have a guest on a tap, if so.
pub fn hindrance(uid_map: &str, gid_map: &str) -> Option<String> {
    let lacks = [("uid", uid_map), ("gid", gid_map)].into_iter().find(|(_, map)| !maps(map, QEMU));
    lacks.map(|(kind, _)| {
        format!(
            "{kind} {QEMU}, to which KubeVirt's taps belong, is not there for an ordinary user: install newuidmap (Debian: \
             uidmap) and give this user a range in /etc/subuid and /etc/subgid, or run as root"
        )
    })
}

/// Whether a map of a user namespace (first inside, first outside, count) has this id inside.
fn maps(text: &str, id: u32) -> bool {
    text.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        matches!(numbers[..], [first, _, count] if (first..first + count).contains(&u64::from(id)))
    })
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    fn stack(fd: OwnedFd, last: u8) -> Stack<OwnedFd> {
        let card = Card::new(fd, Mtu::try_from(1500).unwrap()).unwrap();
        let address = Ipv4Network::new(Ipv4Addr::new(192, 0, 2, last), 24).unwrap();
        Stack::new(card, Mac::local([0, 0, 0, 0, 0, last]), address)
    }

    /// The guest's side of the words, with another stack as its neighbour.
    #[test]
    fn the_guest_keeps_to_its_words() {
        let (card, wire) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let (input, mut ask) = std::io::pipe().unwrap();
        let (answers, mut out) = std::io::pipe().unwrap();
        let guest = std::thread::spawn(move || serve(&mut stack(card, 1), input, &mut out).unwrap());
        let (neighbour_input, neighbour_end) = std::io::pipe().unwrap();
        let neighbour =
            std::thread::spawn(move || serve(&mut stack(wire, 2), neighbour_input, &mut Vec::new()).unwrap());
        let mut lines = Lines::new(answers);
        let mut line = || lines.next(Instant::now() + Duration::from_secs(10)).unwrap();
        assert_eq!(line().as_deref(), Some("lab: ready"));
        ask.write_all(b"ping 192.0.2.2\n").unwrap();
        assert!(line().unwrap().starts_with("lab: pong 192.0.2.2 "));
        ask.write_all(b"pong\nping 192.0.2.2\n").unwrap();
        assert_eq!(line().as_deref(), Some("lab: failed unknown word \"pong\\n\""));
        assert!(line().unwrap().starts_with("lab: pong 192.0.2.2 "));
        drop((ask, neighbour_end));
        guest.join().unwrap();
        neighbour.join().unwrap();
        assert_eq!(line(), None);
    }

    #[test]
    fn maps_of_user_namespaces() {
        assert!(maps("         0          0 4294967295\n", 107));
        assert!(maps("0 1000 1\n1 100000 65536\n", 107));
        assert!(!maps("0 1000 1\n", 107));
        assert!(!maps("", 107));
        assert!(!maps("108 1 1000\n", 107));
    }

    #[test]
    fn capabilities_are_seen() {
        let status =
            |prm: &str, eff: &str| format!("Name:\tx\nCapInh:\t00\nCapPrm:\t{prm}\nCapEff:\t{eff}\nCapBnd:\tff\n");
        assert!(!has_capabilities(&status("0000000000000000", "0000000000000000")));
        assert!(has_capabilities(&status("0000000000001000", "0000000000000000")));
        assert!(has_capabilities(&status("0000000000000000", "000001ffffffffff")));
        assert!(has_capabilities(""), "what cannot be seen is not taken for nothing");
    }

    #[test]
    fn what_the_process_is_told_survives_its_argument() {
        let spec = Spec {
            parent: 1,
            netns: "/run/netns/vm".into(),
            uid: QEMU,
            what: What::Stack {
                tap: "tap094a367b026".parse().unwrap(),
                mac: Mac::local([1; 6]),
                mtu: Mtu::try_from(1500).unwrap(),
                address: "192.0.2.77/24".parse().unwrap(),
            },
        };
        let text = serde_json::to_string(&spec).unwrap();
        let back: Spec = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
        assert!(text.contains("\"stack\""), "{text}");
    }
}
