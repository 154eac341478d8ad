//! On the real kernel: a node and its pods in network namespaces of their own, calls as a runtime makes them, and what
//! is left when they are undone.
//!
//! Needs root, and the programs ip, tc and nft to look with. Nothing here touches the machine's own namespace.

mod check;
mod del;
mod ear;
mod failed;
mod fence;
mod gc;
pub mod machine;
mod vm;
mod wire;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::{Job, Level, Type};
use crate::cni::{self, AddResult, Call, Request};
use crate::net::testing::{block_on, fresh};
use crate::net::{Link, Namespace};
use crate::plan::Chooser;
use crate::resolve::pod_facts;
use crate::store::{Dirs, Entry, Journal, NodeConfig};
use crate::types::{AttachmentId, Outcome, Role};

/// PATH of the programs that the tests look with.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A call as `cni` reads it, with this configuration; later variables win.
pub fn call(conf: &Value, vars: &[(&str, &str)]) -> Call {
    let usual = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/nonexistent/netns"),
        ("CNI_IFNAME", "net1"),
        ("CNI_PATH", "/nonexistent/bin"),
    ];
    let env = |name: &str| {
        let all = usual.iter().chain(vars);
        all.rev().find(|(k, _)| *k == name).map(|(_, v)| v.into())
    };
    match cni::read(&env, &mut conf.to_string().as_bytes()) {
        Ok(Request::Call(call)) => *call,
        other => panic!("{conf}: {other:?}"),
    }
}

/// A node with an uplink `eno1` into a LAN, and the directories of the program.
pub struct Node {
    tmp: tempfile::TempDir,
    host: Namespace,
    lan: File,
    pub dirs: Dirs,
    pub settings: NodeConfig,
}

impl Node {
    /// Its own stack is silent, so that every frame is a pod's. `br0` has the uplink `eno1` for a port.
    pub fn new() -> Self {
        let node = Self::without_bridge();
        node.sh("ip link add br0 type bridge; ip link set br0 up; ip link set eno1 master br0");
        node
    }

    pub fn without_bridge() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(tmp.path().join("run"), tmp.path().join("state"));
        let node = Self { dirs, tmp, host: fresh(), lan: namespace(), settings: NodeConfig::default() };
        node.sh("ip link set lo up; sysctl -qw net.ipv6.conf.default.disable_ipv6=1 net.ipv6.conf.all.disable_ipv6=1");
        node.sh(&format!(
            "ip link add eno1 type veth peer name lan0 netns {}; ip link set eno1 up",
            path_of(&node.lan)
        ));
        let lan = Namespace::open(path_of(&node.lan).as_ref()).unwrap();
        sh(&lan, "sysctl -qw net.ipv6.conf.lan0.disable_ipv6=1; ip link set lan0 up");
        node
    }

    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.host.enter(f).unwrap()
    }

    /// Shell commands in the node's namespace; the first that fails fails the test.
    pub fn sh(&self, script: &str) -> String {
        sh(&self.host, script)
    }

    pub fn pod(&self, name: &str) -> Pod {
        let file = namespace();
        let path = self.tmp.path().join(name);
        // A path that can be taken away or led elsewhere, unlike a descriptor's own, whose number another test may get.
        symlink(path_of(&file), &path).unwrap();
        let ns = Namespace::open(&path).unwrap();
        let pod = Pod { path, ns, _file: file };
        pod.sh("ip link set lo up");
        pod
    }

    pub fn link(&self, name: &str) -> Link {
        link(&self.host, name).unwrap_or_else(|| panic!("the node has no {name}"))
    }

    /// Names of all links, without the loopback.
    pub fn links(&self) -> Vec<String> {
        links(&self.host)
    }

    pub fn entry(&self, container: &str, ifname: &str, role: Role) -> Option<Entry> {
        let (container, ifname) = (container.parse().unwrap(), ifname.parse().unwrap());
        Journal(&self.dirs).read(&AttachmentId { container, ifname, role }).unwrap()
    }

    pub fn entries(&self) -> usize {
        Journal(&self.dirs).all().unwrap().len()
    }

    /// Where host-local keeps the addresses of the network.
    pub fn store(&self, network: &str) -> PathBuf {
        self.tmp.path().join("networks").join(network)
    }

    /// Addresses that are taken.
    pub fn taken(&self, network: &str) -> Vec<String> {
        let Ok(files) = std::fs::read_dir(self.store(network)) else { return Vec::new() };
        let names = files.map(|f| f.unwrap().file_name().into_string().unwrap());
        let mut ips: Vec<String> = names.filter(|n| n.parse::<std::net::IpAddr>().is_ok()).collect();
        ips.sort();
        ips
    }

    /// An `ipam` section of host-local.
    pub fn host_local(&self, ranges: Value) -> Value {
        json!({"type": "host-local", "dataDir": self.tmp.path().join("networks"), "ranges": [[ranges]]})
    }

    /// The usual attachment of `type: trestle` for this pod: network `lan` on `br0`, as `net1` of container `c1`.
    pub fn at<'a>(&'a self, pod: &Pod) -> At<'a> {
        let ipam = self.host_local(json!({"subnet": "10.1.2.0/24"}));
        At {
            node: self,
            netns: pod.path.to_str().unwrap().to_owned(),
            container: "c1",
            ifname: "net1",
            ty: Type::Trestle,
            conf: json!({"cniVersion": "1.1.0", "name": "lan", "type": "trestle", "bridge": "br0", "ipam": ipam}),
            args: String::from("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web"),
            path: String::from("/nonexistent/bin"),
            started: None,
        }
    }
}

pub struct Pod {
    pub path: PathBuf,
    ns: Namespace,
    /// What the path leads to.
    _file: File,
}

impl Pod {
    pub fn sh(&self, script: &str) -> String {
        sh(&self.ns, script)
    }

    pub fn link(&self, name: &str) -> Link {
        link(&self.ns, name).unwrap_or_else(|| panic!("the pod has no {name}"))
    }

    pub fn links(&self) -> Vec<String> {
        links(&self.ns)
    }

    /// Global addresses of a link.
    pub fn addresses(&self, name: &str) -> Vec<String> {
        let index = self.link(name).index;
        block_on(async {
            let all = self.ns.netlink().unwrap().addresses(index).await.unwrap();
            all.into_iter().filter(|a| !a.link_local).map(|a| a.net.to_string()).collect()
        })
    }

    /// `sysctl -n` of a key below `net`.
    pub fn sysctl(&self, key: &str) -> String {
        self.sh(&format!("cat /proc/sys/net/{key}")).trim().to_owned()
    }

    /// The runtime has removed the namespace.
    pub fn vanish(self) {
        std::fs::remove_file(&self.path).unwrap();
    }
}

/// An attachment, and how a runtime asks for it.
#[derive(Clone)]
pub struct At<'a> {
    pub node: &'a Node,
    pub netns: String,
    pub container: &'a str,
    pub ifname: &'a str,
    pub ty: Type,
    pub conf: Value,
    pub args: String,
    pub path: String,
    pub started: Option<u64>,
}

impl At<'_> {
    /// With further keys; null takes one away.
    pub fn with(mut self, more: Value) -> Self {
        let Value::Object(more) = more else { panic!("{more} is no object") };
        for (key, value) in more {
            self.conf[key] = value;
        }
        self
    }

    /// In a pod of KubeVirt's, under Multus: no annotation is known.
    pub fn of_vm(mut self) -> Self {
        self.args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=virt-launcher-db-abcde".into();
        self
    }

    pub fn drop_in(mut self, ty: Type) -> Self {
        self.ty = ty;
        self
    }

    fn verb<T: Send>(&self, verb: &str, f: impl AsyncFnOnce(&Job<'_>) -> Outcome<T> + Send) -> Outcome<T> {
        let vars = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", self.container),
            ("CNI_NETNS", &self.netns),
            ("CNI_IFNAME", self.ifname),
            ("CNI_ARGS", &self.args),
            ("CNI_PATH", &self.path),
        ];
        let call = call(&self.conf, &vars);
        let facts = pod_facts(&call)?;
        let (container, ifname) = (call.container.clone().unwrap(), call.ifname.clone().unwrap());
        let started = Some(self.started.unwrap_or_else(|| self.node.dirs.now()));
        let Node { dirs, settings: node, .. } = self.node;
        let (level, chooser) = (Level::Outermost, Chooser::Unknown);
        let (container, ifname) = (&container, &ifname);
        let job = Job { call: &call, dirs, node, facts: &facts, container, ifname, started, level, chooser };
        self.node.run(|| block_on(f(&job)))
    }

    pub fn add(&self) -> Outcome<AddResult> {
        self.verb("ADD", async |job| super::add(job, self.ty).await)
    }

    pub fn del(&self) -> Outcome<()> {
        self.verb("DEL", async |job| super::del(job, self.ty).await)
    }

    /// With the result of the ADD, as the specification has it.
    pub fn check(&self, prev: &AddResult) -> Outcome<()> {
        let version = self.conf["cniVersion"].as_str().unwrap().parse().unwrap();
        let mut again = self.clone();
        again.conf["prevResult"] = prev.to_json(version).unwrap();
        again.verb("CHECK", async |job| super::check(job, self.ty).await)
    }

    /// Message of the CHECK that must find something.
    pub fn finds(&self, prev: &AddResult) -> String {
        match self.check(prev) {
            Err(failure) => failure.to_string(),
            Ok(()) => panic!("CHECK found nothing"),
        }
    }
}

/// A new network namespace, by an open file.
fn namespace() -> File {
    let make = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("kernel tests need root (CAP_SYS_ADMIN)");
        File::open("/proc/thread-self/ns/net").unwrap()
    };
    std::thread::scope(|s| s.spawn(make).join().unwrap())
}

fn path_of(ns: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), ns.as_raw_fd())
}

#[expect(clippy::disallowed_methods, reason = "tests look with other programs")]
fn sh(ns: &Namespace, script: &str) -> String {
    ns.enter(|| {
        let output = Command::new("sh").args(["-ec", script]).env("PATH", PATH).output().unwrap();
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{script}\n{out}{}", String::from_utf8_lossy(&output.stderr));
        out
    })
    .unwrap()
}

fn link(ns: &Namespace, name: &str) -> Option<Link> {
    block_on(async { ns.netlink().unwrap().link(name).await.unwrap() })
}

fn links(ns: &Namespace) -> Vec<String> {
    let all = block_on(async { ns.netlink().unwrap().links().await.unwrap() });
    all.into_iter().map(|l| l.name).filter(|n| n != "lo").collect()
}
