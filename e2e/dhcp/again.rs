//! What the usual guide warns of: a cluster with the reference plugin's DHCP daemon is removed uncleanly, and made anew on the
//! same node without a reboot. What is left is a socket and a pidfile whose daemon was killed, and pods' namespaces with
//! addresses that the server has forgotten. The reference is in its own way then; ours is not.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::{Lends, Program, Server, address, records};
use crate::harness::{Call, Kind, Lab, Netns, eventually};

struct Node {
    lab: Lab,
    lan: Netns,
    socket: String,
    pidfile: String,
}

impl Node {
    fn new() -> Self {
        let (lab, lan) = Lab::with_lan();
        let (socket, pidfile) = (lab.file("dhcp.sock"), lab.file("dhcp.pid"));
        Self { lab, lan, socket, pidfile }
    }

    /// By the same words, as a DaemonSet or a unit of systemd has them.
    fn daemon(&self, kind: Kind) -> Child {
        let mut command = Command::new(kind.dir().join("dhcp"));
        command.args(["daemon", "-socketpath", &self.socket, "-pidfile", &self.pidfile, "-timeout", "2s"]);
        command.env("TRESTLE_RUN_DIR", self.lab.run_dir()).env("TRESTLE_STATE_DIR", self.lab.state_dir());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        self.lab.node.inside(move || command.spawn().unwrap())
    }

    fn call(&self, kind: Kind, pod: &Netns) -> Call<'_> {
        let ipam = json!({"type": "dhcp", "daemonSocketPath": self.socket});
        let conf = json!({"cniVersion": "1.0.0", "name": "lan", "type": "bridge", "bridge": "br-lan", "ipam": ipam});
        self.lab.call(kind, conf).pod(pod).ifname("net1")
    }

    /// A lease of ten seconds: it is renewed within the test.
    fn server(&self) -> Server {
        Server::of(Program::Kea, &self.lab, &self.lan, &Lends { seconds: 10, ..Lends::default() })
    }
}

fn signal(daemon: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(daemon.id()).unwrap()), signal).unwrap();
}

/// The cluster before: one pod with an address by the reference's daemon; all processes are killed.
fn leave_a_cluster(node: &Node) -> Netns {
    let server = node.server();
    let mut daemon = node.daemon(Kind::Reference);
    eventually("the reference's daemon is ready", || Path::new(&node.socket).exists());
    let pod = node.lab.pod();
    node.call(Kind::Reference, &pod).add();
    signal(&daemon, Signal::SIGKILL);
    daemon.wait().unwrap();
    drop(server);
    assert!(Path::new(&node.socket).exists() && Path::new(&node.pidfile).exists(), "left behind");
    assert_eq!(address(&pod, "net1").unwrap().0, "198.51.100.10/24");
    pod
}

#[test]
fn the_reference_needs_a_reboot() {
    let node = Node::new();
    let _old = leave_a_cluster(&node);
    let _server = node.server();
    let mut daemon = node.daemon(Kind::Reference);
    let begin = Instant::now();
    let ended = loop {
        if let Some(status) = daemon.try_wait().unwrap() {
            break Some(status);
        }
        if begin.elapsed() > Duration::from_secs(5) {
            break None;
        }
        thread::sleep(Duration::from_millis(20));
    };
    let _ = daemon.kill();
    let said = daemon.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(
        ended.is_some_and(|status| !status.success()) && said.contains("address already in use"),
        "{ended:?}: {said}"
    );
    let pod = node.lab.pod();
    let e = node.call(Kind::Reference, &pod).fails("ADD");
    assert!(e.msg.contains("connection refused") || e.details.contains("connection refused"), "{e:?}");
}

#[test]
fn ours_does_not() {
    let node = Node::new();
    let old = leave_a_cluster(&node);
    let server = node.server();
    let mut daemon = node.daemon(Kind::Trestle);
    eventually("our daemon is in its place", || {
        fs::read_to_string(&node.pidfile).is_ok_and(|id| id == daemon.id().to_string())
    });
    let pod = node.lab.pod();
    let mut call = node.call(Kind::Trestle, &pod);
    let result = call.add();
    // The server gives .10 once more; the pod of the cluster before still has it.
    assert_eq!(result["ips"][0]["address"], "198.51.100.11/24");
    let renewed = || server.journal().iter().filter(|e| e.leased.address == "198.51.100.11").count();
    let before = renewed();
    eventually("the lease is renewed", || renewed() > before);
    eventually("and the address has the lease's time", || address(&pod, "net1").is_some_and(|(_, left)| left <= 10));
    call.check();
    call.del();
    eventually("the server has its address back", || server.leased().is_empty());
    assert!(records(&node.lab).is_empty());
    assert_eq!(address(&old, "net1").unwrap().0, "198.51.100.10/24", "what is not ours is left");
    signal(&daemon, Signal::SIGTERM);
    assert!(daemon.wait().unwrap().success());
    assert!(!Path::new(&node.socket).exists() && !Path::new(&node.pidfile).exists());
}
