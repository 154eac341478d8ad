//! Other plugins, by the CNI protocol: found in `CNI_PATH`, run, their result or error read.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use serde_json::{Map, Value};

use crate::cni::{AddResult, Verb, Version, foreign_error, json};
use crate::types::{Code, Failure, Outcome};

/// A plugin's file that is being replaced cannot be run for a moment (ETXTBSY).
const BUSY_TRIES: u32 = 5;
const BUSY_PAUSE: Duration = Duration::from_millis(200);

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

/// The program of a plugin. A name with a separator would lead out of `CNI_PATH` (CVE-2021-20206).
pub fn find(plugin: &str, path: &[PathBuf]) -> Outcome<PathBuf> {
    if plugin.is_empty() || plugin.contains('/') || plugin == "." || plugin == ".." {
        return Err(Failure::new(Code::IpamConfig, format!("ipam.type: {plugin:?} is not the name of a plugin")));
    }
    let runnable = |p: &PathBuf| p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    path.iter().map(|dir| dir.join(plugin)).find(runnable).ok_or_else(|| {
        let places = path.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
        Failure::new(Code::PluginMissing, format!("plugin {plugin} is not in CNI_PATH ({places})"))
            .remedy("install it, or correct its type")
    })
}

impl Delegate<'_> {
    /// Runs it; what an ADD printed is the result.
    pub fn run(&self, version: Version) -> Outcome<Option<AddResult>> {
        let program = find(self.plugin, self.path)?;
        let output = self.execute(&program)?;
        if !output.status.success() {
            return Err(self.failure(&output));
        }
        if self.verb != Verb::Add {
            return Ok(None);
        }
        let printed = json::parse(&output.stdout)
            .map_err(|e| Failure::new(Code::PluginFailed, format!("result of plugin {}: {e}", self.plugin)))?;
        AddResult::from_json_or(printed, version)
            .map(Some)
            .map_err(|f| f.at(format!("result of plugin {}", self.plugin)))
    }

    fn execute(&self, program: &Path) -> Outcome<Output> {
        let mut tries = 1;
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
            .stderr(Stdio::inherit());
        end_with_us(&mut command);
        let mut child = command.spawn()?;
        let text = serde_json::to_vec(self.conf)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that does not read its configuration has its own reasons; its exit tells.
            let _ = stdin.write_all(&text);
        }
        child.wait_with_output()
    }

    fn failure(&self, output: &Output) -> Failure {
        foreign_error(self.plugin, &output.stdout).unwrap_or_else(|| {
            let said = String::from_utf8_lossy(&output.stdout);
            Failure::new(Code::PluginFailed, format!("plugin {}: {}: {:.200}", self.plugin, output.status, said.trim()))
        })
    }
}

/// A runtime that gives up kills us; what we started must not go on alone.
#[expect(unsafe_code, reason = "a child's own settings are made between fork and exec")]
fn end_with_us(command: &mut Command) {
    let ask = || nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(std::io::Error::from);
    // SAFETY: the closure makes one system call and touches no memory that another thread could hold a lock on.
    unsafe { command.pre_exec(ask) };
}
