//! A network namespace with a name, as `ip netns` makes it; deleted when the value goes.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use super::machine;

pub struct Netns {
    name: String,
    gone: bool,
}

impl Netns {
    pub fn new(name: String) -> Self {
        let made = Command::new("ip").args(["netns", "add", &name]).env("PATH", machine::PATH).output().unwrap();
        assert!(made.status.success(), "ip netns add {name}: {}", String::from_utf8_lossy(&made.stderr));
        Self { name, gone: false }
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// As text, for CNI_NETNS and for comparing with `sandbox`.
    pub fn netns(&self) -> String {
        self.path().to_str().unwrap().to_owned()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `f` on a thread of its own inside the namespace. Sockets that it opens stay there, programs that it starts
    /// run there.
    pub fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.path()).unwrap();
        std::thread::scope(|scope| {
            let body = scope.spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET).expect("a namespace can be entered");
                f()
            });
            body.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs one line of shell words (no quoting) in the namespace.
    pub fn try_run(&self, line: &str) -> Output {
        let words: Vec<&str> = line.split_whitespace().collect();
        self.inside(|| {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).env("PATH", machine::PATH).stdin(Stdio::null());
            command.output().unwrap_or_else(|e| panic!("{line}: {e}"))
        })
    }

    /// The same, and it must succeed.
    pub fn run(&self, line: &str) -> String {
        let done = self.try_run(line);
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{} in {}: {stderr}", line, self.name);
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// The JSON that a program of iproute2 prints; nothing at all is an empty list.
    pub fn json(&self, line: &str) -> Value {
        let text = self.run(line);
        if text.trim().is_empty() {
            return Value::Array(Vec::new());
        }
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{line}: {e}: {text}"))
    }

    /// A sysctl below /proc/sys/net; None where the kernel has none of that name.
    pub fn sysctl(&self, key: &str) -> Option<String> {
        self.inside(|| std::fs::read_to_string(format!("/proc/sys/net/{key}")).ok()).map(|v| v.trim().to_owned())
    }

    pub fn set_sysctl(&self, key: &str, value: &str) {
        self.inside(|| std::fs::write(format!("/proc/sys/net/{key}"), value)).unwrap_or_else(|e| panic!("{key}: {e}"));
    }

    /// Takes the name away, as a runtime does with a dead pod's namespace. The kernel follows when the last user leaves.
    pub fn remove(&mut self) {
        if !std::mem::replace(&mut self.gone, true) {
            let done =
                Command::new("ip").args(["netns", "del", &self.name]).env("PATH", machine::PATH).output().unwrap();
            assert!(done.status.success(), "ip netns del {}: {}", self.name, String::from_utf8_lossy(&done.stderr));
        }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if !self.gone {
            let _ = Command::new("ip").args(["netns", "del", &self.name]).env("PATH", machine::PATH).output();
        }
    }
}
