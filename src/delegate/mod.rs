//! Other plugins, by the CNI protocol as libcni 1.3 speaks it: found in `CNI_PATH`, run, their answer read.
//!
//! The one way in which this program runs a plugin, be it the IPAM of an attachment or a part of a chain. It knows
//! neither what a plugin is for nor what was before it; what its configuration holds, the caller has put there.

use std::fmt;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use serde_json::{Map, Value};

use crate::cni::{AddResult, Verb, Version, foreign_error, json};
use crate::types::{Code, Failure, Outcome};

/// A plugin's file that is being replaced cannot be run for a moment (ETXTBSY): five seconds in all.
const BUSY_TRIES: u32 = 25;
const BUSY_PAUSE: Duration = Duration::from_millis(200);
/// So much of what a plugin said goes into a message.
const QUOTED: usize = 300;

/// Tells a plugin that is us again, however many others are between, that the container's lock is held above it. Its
/// value is the container's id.
pub const LOCK_HELD: &str = "TRESTLE_LOCK_HELD";

/// One call of another plugin.
pub struct Delegate<'a> {
    pub plugin: &'a str,
    pub path: &'a [PathBuf],
    pub verb: Verb,
    pub container: &'a str,
    pub ifname: &'a str,
    pub netns: Option<&'a Path>,
    pub args: &'a str,
    pub conf: &'a Map<String, Value>,
}

/// What an ADD told, and in which version.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub result: AddResult,
    pub version: Version,
}

/// The program of a plugin. A name with a separator would lead out of `CNI_PATH` (CVE-2021-20206).
pub fn find(plugin: &str, path: &[PathBuf]) -> Outcome<PathBuf> {
    if plugin.is_empty() || plugin.contains('/') || plugin == "." || plugin == ".." {
        return Err(Failure::new(Code::Config, format!("type: {plugin:?} is not the name of a plugin")));
    }
    let runnable = |p: &PathBuf| p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    path.iter().map(|dir| dir.join(plugin)).find(runnable).ok_or_else(|| {
        let places = path.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
        Failure::new(Code::PluginMissing, format!("plugin {plugin} is not in CNI_PATH ({places})"))
            .remedy("install it, or correct its type")
    })
}

impl Delegate<'_> {
    /// Runs it for its result. One that does not tell its version is of the configuration's.
    pub fn add(&self) -> Outcome<Answer> {
        let stdout = self.succeed()?;
        let place = || format!("result of plugin {}", self.plugin);
        let printed = json::parse(&stdout).map_err(|e| {
            Failure::new(Code::PluginFailed, format!("{}: {e}: {}", place(), Quoted(&stdout)))
                .remedy("the plugin is broken, or is none")
        })?;
        let (result, version) = AddResult::read(printed, self.version()).map_err(|f| f.at(place()))?;
        Ok(Answer { result, version })
    }

    /// Runs it for its success alone: what DEL, CHECK, STATUS and GC print is not looked at.
    pub fn run(&self) -> Outcome<()> {
        self.succeed().map(drop)
    }

    /// The configuration's version, `None` where this program does not know it.
    fn version(&self) -> Option<Version> {
        match json::get(self.conf, "cniVersion").and_then(Value::as_str).unwrap_or_default() {
            "" => Some(Version::V0_1_0),
            text => text.parse().ok(),
        }
    }

    fn succeed(&self) -> Outcome<Vec<u8>> {
        let program = find(self.plugin, self.path)?;
        let output = self.execute(&program)?;
        // For the log of the runtime, which has ours; if nobody reads it, nothing is lost.
        let _ = std::io::stderr().write_all(&output.stderr);
        if output.status.success() { Ok(output.stdout) } else { Err(self.failure(&output)) }
    }

    fn execute(&self, program: &Path) -> Outcome<Output> {
        let mut tries = 0;
        loop {
            match self.once(program) {
                Err(e) if e.raw_os_error() == Some(Errno::ETXTBSY as i32) && tries < BUSY_TRIES => {
                    std::thread::sleep(BUSY_PAUSE)
                }
                done => {
                    return done.map_err(|e| {
                        Failure::new(Code::PluginFailed, format!("{} cannot be run: {e}", program.display()))
                    });
                }
            }
            tries += 1;
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that runs other plugins")]
    fn once(&self, program: &Path) -> std::io::Result<Output> {
        let path = std::env::join_paths(self.path).map_err(std::io::Error::other)?;
        let text = serde_json::to_vec(self.conf)?;
        let mut command = Command::new(program);
        command
            .env("CNI_COMMAND", self.verb.as_str())
            .env("CNI_CONTAINERID", self.container)
            .env("CNI_IFNAME", self.ifname)
            .env("CNI_NETNS", self.netns.unwrap_or(Path::new("")))
            .env("CNI_ARGS", self.args)
            .env("CNI_PATH", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if !self.container.is_empty() {
            command.env(LOCK_HELD, self.container);
        }
        end_with_us(&mut command);
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        // A plugin may talk before it has read all of a long configuration: both at once, or each waits for the other.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                if let Some(mut stdin) = stdin {
                    // A plugin that does not read its configuration has its own reasons; its exit tells.
                    let _ = stdin.write_all(&text);
                }
            });
            child.wait_with_output()
        })
    }

    fn failure(&self, output: &Output) -> Failure {
        let Output { status, stdout, stderr } = output;
        foreign_error(self.plugin, stdout).unwrap_or_else(|| {
            let said = if stdout.trim_ascii().is_empty() { stderr } else { stdout };
            let end =
                if said.trim_ascii().is_empty() { ", without a word".into() } else { format!(": {}", Quoted(said)) };
            Failure::new(Code::PluginFailed, format!("plugin {}: {status}{end}", self.plugin))
        })
    }
}

/// What a plugin printed, as far as it fits into a message.
struct Quoted<'a>(&'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(self.0);
        let text = text.trim();
        match text.char_indices().nth(QUOTED) {
            Some((end, _)) => write!(f, "{:?}...", &text[..end]),
            None => write!(f, "{text:?}"),
        }
    }
}

/// A runtime that gives up kills us; what we started must not go on alone.
#[expect(unsafe_code, reason = "a child's own settings are made between fork and exec")]
fn end_with_us(command: &mut Command) {
    let us = Pid::this();
    let ask = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // Killed in between: the signal will not come any more.
        if getppid() == us { Ok(()) } else { Err(Errno::ECANCELED.into()) }
    };
    // SAFETY: the closure makes two system calls and touches no memory that another thread could hold a lock on.
    unsafe { command.pre_exec(ask) };
}

#[cfg(test)]
mod tests;
