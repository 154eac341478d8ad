//! A node of its own for one test: a namespace, pods, directories; all gone with the value.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::{Call, Kind, Netns, machine};

pub struct Lab {
    pub node: Netns,
    name: String,
    pods: AtomicU32,
    boots: AtomicU32,
    dir: TempDir,
}

impl Lab {
    /// A node with nothing but `lo`.
    pub fn new() -> Self {
        static LABS: AtomicU32 = AtomicU32::new(0);
        machine::require();
        let name = format!("{}-{}", machine::prefix(), LABS.fetch_add(1, Ordering::Relaxed));
        let node = Netns::new(format!("{name}-node"));
        node.run("ip link set lo up");
        quick_dad(&node);
        let dir = tempfile::Builder::new().prefix(&name).tempdir().unwrap();
        Self { node, name, pods: AtomicU32::new(0), boots: AtomicU32::new(0), dir }
    }

    /// A node with the bridge `br-lan` and an uplink into a namespace of its own: the LAN, with `lan0` in it.
    pub fn with_lan() -> (Self, Netns) {
        let lab = Self::new();
        let lan = lab.lan("br-lan", "up0");
        (lab, lan)
    }

    /// Another bridge with an uplink.
    #[must_use = "the cable goes with the namespace at its other end"]
    pub fn lan(&self, bridge: &str, uplink: &str) -> Netns {
        let lan = self.namespace("lan");
        self.node.run(&format!("ip link add {bridge} type bridge"));
        self.node.run(&format!("ip link add {uplink} type veth peer name lan0 netns {}", lan.name()));
        // The bridge takes its lowest port's MAC: a low one here, so that later ports do not change it.
        let serial = self.pods.load(Ordering::Relaxed);
        self.node.run(&format!("ip link set {uplink} address 02:00:00:00:00:{serial:02x} master {bridge} up"));
        self.node.run(&format!("ip link set {bridge} up"));
        lan.run("ip link set lan0 up");
        lan
    }

    /// A namespace for a pod.
    pub fn pod(&self) -> Netns {
        let pod = self.namespace("pod");
        pod.run("ip link set lo up");
        pod
    }

    pub fn namespace(&self, what: &str) -> Netns {
        let serial = self.pods.fetch_add(1, Ordering::Relaxed);
        Netns::new(format!("{}-{what}{serial}", self.name))
    }

    /// A call of the plugin that the configuration's `type` names.
    pub fn call(&self, kind: Kind, conf: Value) -> Call<'_> {
        let program = kind.dir().join(conf["type"].as_str().expect("the configuration has a type"));
        Call::new(self, program, conf)
    }

    /// A call of our program.
    pub fn trestle(&self, conf: Value) -> Call<'_> {
        self.call(Kind::Trestle, conf)
    }

    /// A path below the test's directory, as text for a configuration.
    pub fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// The `dataDir` of host-local in this lab.
    pub fn store(&self) -> String {
        self.file("store")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Later calls find themselves in another boot of this machine.
    pub fn reboot(&self) {
        let boot = self.boots.fetch_add(1, Ordering::Relaxed) + 1;
        std::fs::write(self.file("boot-id"), format!("{boot:08x}-2222-4333-8444-555555555555\n")).unwrap();
    }

    /// The file with the boot's id, once it is not the machine's own.
    pub fn boot_id(&self) -> Option<String> {
        (self.boots.load(Ordering::Relaxed) > 0).then(|| self.file("boot-id"))
    }

    /// Writes the administrator's file.
    pub fn node_json(&self, text: &str) {
        std::fs::create_dir_all(self.state_dir()).unwrap();
        std::fs::write(self.state_dir().join("node.json"), text).unwrap();
    }

    /// Entries of the journal; what a killed writer left under a temporary name is none.
    pub fn journal(&self) -> Vec<PathBuf> {
        let mut files = files_below(&self.run_dir().join("journal"));
        files.retain(|file| file.extension().is_some_and(|e| e == "json"));
        files
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A test may have mounted a file system of its own there; most have not.
        let _ = nix::mount::umount2(&self.run_dir(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// Duplicate address detection without its random delay: tests look at addresses, not at their first second.
fn quick_dad(ns: &Netns) {
    for key in ["dad_transmits", "router_solicitation_delay"] {
        let file = format!("ipv6/conf/default/{key}");
        if ns.sysctl(&file).is_some() {
            ns.set_sysctl(&file, "0");
        }
    }
}

/// All regular files below a directory; none if it is not there.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// Waits for something that the kernel does in its own time.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "not after 10 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
