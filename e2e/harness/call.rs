//! One call of a plugin, as a container runtime makes it: the node's namespace, an environment of its own, the
//! configuration on standard input, the result of ADD handed back to CHECK and DEL.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use super::{Lab, Netns, machine};

/// No call takes so long; who waits for it has found a deadlock.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct Call<'l> {
    lab: &'l Lab,
    program: PathBuf,
    conf: Value,
    stdin: Option<Vec<u8>>,
    env: BTreeMap<String, Option<String>>,
    prev: Option<Value>,
}

impl<'l> Call<'l> {
    /// `program` is the file that is run; CNI_PATH is its directory.
    pub fn new(lab: &'l Lab, program: PathBuf, conf: Value) -> Self {
        let mut env = BTreeMap::new();
        let path = program.parent().unwrap().to_str().unwrap().to_owned();
        for (key, value) in [("CNI_PATH", path), ("CNI_IFNAME", "eth0".into()), ("PATH", machine::PATH.into())] {
            env.insert(key.to_owned(), Some(value));
        }
        for (key, dir) in [("TRESTLE_RUN_DIR", lab.run_dir()), ("TRESTLE_STATE_DIR", lab.state_dir())] {
            env.insert(key.to_owned(), Some(dir.to_str().unwrap().to_owned()));
        }
        Self { lab, program, conf, stdin: None, env, prev: None }
    }

    /// The pod's namespace, and a container id made of its name.
    pub fn pod(self, pod: &Netns) -> Self {
        let id = format!("id-{}", pod.name());
        self.env("CNI_NETNS", &pod.netns()).id(&id)
    }

    pub fn id(self, id: &str) -> Self {
        self.env("CNI_CONTAINERID", id)
    }

    pub fn ifname(self, name: &str) -> Self {
        self.env("CNI_IFNAME", name)
    }

    pub fn args(self, args: &str) -> Self {
        self.env("CNI_ARGS", args)
    }

    /// CNI_ARGS as kubelet's runtimes and Multus make them.
    pub fn of_pod(self, namespace: &str, name: &str) -> Self {
        let args = format!(
            "IgnoreUnknown=true;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID=x;K8S_POD_UID=u"
        );
        self.args(&args)
    }

    /// A further directory of CNI_PATH, before the plugin's own.
    pub fn path(self, dir: &str) -> Self {
        let path = format!("{dir}:{}", self.program.parent().unwrap().display());
        self.env("CNI_PATH", &path)
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.insert(key.to_owned(), Some(value.to_owned()));
        self
    }

    pub fn without(mut self, key: &str) -> Self {
        self.env.insert(key.to_owned(), None);
        self
    }

    /// Standard input as it is, instead of a configuration.
    pub fn stdin(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(text.into());
        self
    }

    /// One key of the configuration, new or changed; `Value::Null` takes it out.
    pub fn with(mut self, key: &str, value: Value) -> Self {
        let keys = self.conf.as_object_mut().unwrap();
        if value.is_null() {
            keys.remove(key);
        } else {
            keys.insert(key.to_owned(), value);
        }
        self
    }

    pub fn conf(&self) -> &Value {
        &self.conf
    }

    /// The same attachment, called with another program of the same verbs.
    pub fn by(mut self, program: PathBuf) -> Self {
        self.env.insert("CNI_PATH".into(), Some(program.parent().unwrap().to_str().unwrap().to_owned()));
        self.program = program;
        self
    }

    /// What CHECK and DEL get as `prevResult`.
    pub fn prev(mut self, result: Option<Value>) -> Self {
        self.prev = result;
        self
    }

    fn input(&self, verb: &str) -> Vec<u8> {
        if let Some(text) = &self.stdin {
            return text.clone();
        }
        let mut conf = self.conf.clone();
        if let (Some(prev), "CHECK" | "DEL") = (&self.prev, verb) {
            conf["prevResult"] = prev.clone();
        }
        serde_json::to_vec(&conf).unwrap()
    }

    /// Starts the program; its standard input stays open and empty until [`Running::feed`].
    pub fn hold(&self, verb: &str) -> Running {
        let mut command = Command::new(&self.program);
        command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("CNI_COMMAND", verb);
        for (key, value) in &self.env {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        let boot_id = self.lab.boot_id();
        let spawned = self.lab.node.inside(move || {
            boot_id.iter().for_each(|file| see_boot_id(file));
            command.spawn()
        });
        let mut child = spawned.unwrap_or_else(|e| panic!("{}: {e}", self.program.display()));
        let stdout = drain(child.stdout.take().unwrap());
        let stderr = drain(child.stderr.take().unwrap());
        Running { child, stdout, stderr, input: self.input(verb), what: format!("{} {verb}", self.program.display()) }
    }

    pub fn start(&self, verb: &str) -> Running {
        let mut running = self.hold(verb);
        running.feed();
        running
    }

    pub fn run(&self, verb: &str) -> Reply {
        self.start(verb).wait()
    }

    /// ADD that must succeed; its result is kept for CHECK and DEL.
    pub fn add(&mut self) -> Value {
        let result = self.run("ADD").ok();
        self.prev = Some(result.clone());
        result
    }

    pub fn check(&self) {
        self.run("CHECK").nothing();
    }

    pub fn del(&self) {
        self.run("DEL").nothing();
    }

    /// The call must fail, with one error object.
    pub fn fails(&self, verb: &str) -> CniError {
        self.run(verb).error()
    }
}

/// A call that has not ended yet.
pub struct Running {
    child: Child,
    stdout: JoinHandle<Vec<u8>>,
    stderr: JoinHandle<Vec<u8>>,
    input: Vec<u8>,
    what: String,
}

impl Running {
    /// Gives the configuration to a call that was held.
    pub fn feed(&mut self) {
        if let Some(mut stdin) = self.child.stdin.take() {
            // A program that ends without reading (VERSION, an error of the environment) closes the pipe: no failure.
            let _ = stdin.write_all(&self.input);
        }
    }

    pub fn running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    pub fn wait(mut self) -> Reply {
        self.feed();
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > PATIENCE {
                self.child.kill().unwrap();
                panic!("{}: not done after {PATIENCE:?}", self.what);
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let text = |pipe: JoinHandle<Vec<u8>>| String::from_utf8_lossy(&pipe.join().unwrap()).into_owned();
        Reply { what: self.what, status, stdout: text(self.stdout), stderr: text(self.stderr) }
    }
}

/// Puts a file over the kernel's boot id, for this thread and what it starts.
fn see_boot_id(file: &str) {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some(file), "/proc/sys/kernel/random/boot_id", none, MsFlags::MS_BIND, none).unwrap();
}

fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        pipe.read_to_end(&mut all).unwrap();
        all
    })
}

/// How a call ended.
#[derive(Debug)]
pub struct Reply {
    pub what: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// The error object of the specification.
#[derive(Debug, Clone)]
pub struct CniError {
    pub code: u64,
    pub msg: String,
    pub details: String,
    pub version: Option<String>,
}

impl Reply {
    /// The result of a call that succeeded.
    pub fn ok(&self) -> Value {
        assert!(self.status.success(), "{} failed: {} {}", self.what, self.stdout, self.stderr);
        self.document()
    }

    /// Success, and nothing on standard output.
    pub fn nothing(&self) {
        assert!(self.status.success(), "{} failed: {} {}", self.what, self.stdout, self.stderr);
        assert_eq!(self.stdout.trim(), "", "{} prints nothing on success", self.what);
    }

    pub fn error(&self) -> CniError {
        assert!(!self.stderr.contains("panicked"), "{} panicked: {}", self.what, self.stderr);
        assert_eq!(self.status.code(), Some(1), "{}: {} {}", self.what, self.stdout, self.stderr);
        let error = self.document();
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        let version = error["cniVersion"].as_str().map(str::to_owned);
        let code = error["code"].as_u64().unwrap_or_else(|| panic!("{}: no code in {error}", self.what));
        assert!(!text("msg").is_empty(), "{}: no msg in {error}", self.what);
        CniError { code, msg: text("msg"), details: text("details"), version }
    }

    /// Ended by SIGKILL, as at a fail point.
    pub fn killed(&self) -> bool {
        self.status.signal() == Some(9)
    }

    fn document(&self) -> Value {
        let documents: Vec<Value> = serde_json::Deserializer::from_str(&self.stdout)
            .into_iter()
            .collect::<Result<_, _>>()
            .unwrap_or_else(|e| panic!("{}: {e} in {:?}; {}", self.what, self.stdout, self.stderr));
        assert_eq!(documents.len(), 1, "{}: one JSON document on stdout: {}", self.what, self.stdout);
        documents.into_iter().next().unwrap()
    }
}

impl CniError {
    /// The numeric code, the stable one at the head of `msg`, and words that `msg` or `details` must have.
    #[track_caller]
    pub fn is(&self, code: u64, stable: &str, words: &[&str]) -> &Self {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.msg.starts_with(stable), "msg begins with {stable}: {self:?}");
        self.names(words)
    }

    #[track_caller]
    pub fn names(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.msg.contains(word) || self.details.contains(word), "names {word:?}: {self:?}");
        }
        self
    }
}
