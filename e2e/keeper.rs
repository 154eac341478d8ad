//! `dhcp daemon` as a program: what the reference's flags ask for, stale files, signals, and what a thousand leases cost.

use std::fs;
use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::harness::Background;

const SOON: Duration = Duration::from_secs(30);

struct Node {
    tmp: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_trestle"), tmp.path().join("dhcp")).unwrap();
        Self { tmp }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }

    /// Installed under the reference plugin's name.
    fn daemon(&self, pidfile: &str) -> Background {
        let mut command = Command::new(self.at("dhcp"));
        command.arg("daemon").arg("-socketpath").arg(self.at("dhcp.sock")).arg("-pidfile").arg(self.at(pidfile));
        command.args(["-timeout=10s", "-broadcast"]);
        command.env("TRESTLE_RUN_DIR", self.at("run")).env("TRESTLE_STATE_DIR", self.at("state"));
        command.stderr(fs::File::options().create(true).append(true).open(self.at("log")).unwrap());
        Background(command.spawn().unwrap())
    }
}

#[track_caller]
fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < SOON, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether somebody accepts there, and hangs up.
fn hangs_up(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok_and(|mut s| s.read(&mut [0]).is_ok_and(|n| n == 0))
}

fn pid(daemon: &Background) -> Pid {
    Pid::from_raw(i32::try_from(daemon.0.id()).unwrap())
}

#[test]
fn stale_files_are_no_obstacle_and_sigterm_leaves_none() {
    let node = Node::new();
    let socket = node.at("dhcp.sock");
    drop(UnixListener::bind(&socket).unwrap());
    fs::write(node.at("first.pid"), "4194304").unwrap();
    let mut first = node.daemon("first.pid");
    soon("the socket is made anew", || hangs_up(&socket));
    assert_eq!(fs::read_to_string(node.at("first.pid")).unwrap(), first.0.id().to_string());

    // An upgrade's overlap: the old one leaves what is the new one's.
    let mut second = node.daemon("second.pid");
    soon("the second one is there", || node.at("second.pid").exists() && hangs_up(&socket));
    kill(pid(&first), Signal::SIGTERM).unwrap();
    assert!(first.0.wait().unwrap().success());
    assert!(!node.at("first.pid").exists() && node.at("second.pid").exists());
    soon("the second one's socket stays", || hangs_up(&socket));

    kill(pid(&second), Signal::SIGKILL).unwrap();
    second.0.wait().unwrap();
    assert!(socket.exists() && !hangs_up(&socket), "stale once more");
    let mut third = node.daemon("second.pid");
    soon("a third one", || hangs_up(&socket));
    kill(pid(&third), Signal::SIGTERM).unwrap();
    assert!(third.0.wait().unwrap().success());
    assert!(!socket.exists() && !node.at("second.pid").exists());
}

/// As ADD writes it: a lease without an end, so that nobody is asked.
fn record(n: usize, netns: &Path, boot: &str) -> Value {
    let lease = json!({"address": "192.0.2.7", "prefix": 24, "mask_given": true, "server": "192.0.2.1",
        "routers": ["192.0.2.1"], "routes": [{"dst": "0.0.0.0/0", "gw": "192.0.2.1"}], "dns": ["192.0.2.1"],
        "domain": "example.net", "search": [], "mtu": 1500, "hostname": null,
        "seconds": u32::MAX, "t1": u32::MAX, "t2": u32::MAX});
    let identity = json!({"hardware": "02:00:5e:10:00:01", "client_id": vec![7; 80], "broadcast": false});
    let job = json!({"netns": netns, "cookie": 1, "index": 2, "ifname": "net1", "identity": identity,
        "wish": {"send": [], "request": [1, 3, 6, 121]}, "step": {"Renew": lease}, "seconds": 10});
    json!({"version": 1, "container": format!("{n:064x}"), "ifname": "net1", "network": "lan", "pod": format!("default/p{n}"),
        "boot": boot, "made": 1, "got_at": 1, "got_at_wall": 1, "job": job})
}

#[test]
fn a_thousand_leases_cost_little_memory() {
    let node = Node::new();
    let leases = node.at("state/leases");
    fs::create_dir_all(&leases).unwrap();
    fs::create_dir(node.at("netns")).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for n in 0..1000 {
        let netns = node.at(&format!("netns/{n}"));
        fs::write(&netns, "").unwrap();
        let mut record = record(n, &netns, boot.trim());
        let sum = Sha256::digest(serde_json::to_vec(&record).unwrap());
        record["sum"] = sum.iter().take(8).map(|b| format!("{b:02x}")).collect::<String>().into();
        fs::write(leases.join(format!("{n:064x}~net1.json")), record.to_string()).unwrap();
    }
    let begin = Instant::now();
    let daemon = node.daemon("pid");
    soon("all are taken up", || fs::read_to_string(node.at("log")).unwrap().contains("keeping leases=1000"));
    // Past the next look at all of them.
    std::thread::sleep(Duration::from_secs(12));
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.0.id())).unwrap();
    let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = rss.trim().trim_end_matches(" kB").parse().unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.0.id())).unwrap();
    let ticks: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().skip(11).take(2).collect();
    println!("1,000 leases: {kib} KiB resident, {ticks:?} ticks of CPU in {:?}", begin.elapsed());
    assert!(kib <= 40 * 1024, "{kib} KiB");
}
