//! Many leases on one node, lent by Kea and kept by `dhcp daemon`, seen from the server's own journal: what was renewed, when,
//! and for whom. Each test prints what it saw.
//!
//! `.ci/long` runs them larger: `TRESTLE_LEASES`, `TRESTLE_LEASE_SECONDS` and `TRESTLE_KILLS` are for that, and `TRESTLE_BIN`
//! names the release build.

mod clock;
mod cost;
mod kills;
mod on_time;

use std::fs::File;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::dhcp::{Lends, Server};
use crate::harness::{Call, Kind, Lab, Netns};

/// As many pods as one kubelet runs by default, and so as many as a bridge of a node may have.
const PODS_OF_A_BRIDGE: usize = 110;
/// Calls of a runtime at once.
const CALLS: usize = 24;
const CONTAINER: &str = "id-";

/// A number that `.ci/long` sets otherwise.
fn setting(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// A node with bridges into one LAN, and Kea there.
struct Node {
    lab: Lab,
    lan: Netns,
    bridges: usize,
    seconds: u32,
}

impl Node {
    fn new(pods: usize, seconds: u32) -> Self {
        let lab = Lab::new();
        let lan = lab.namespace("lan");
        let bridges = pods.div_ceil(PODS_OF_A_BRIDGE);
        for n in 0..bridges {
            lab.node.run(&format!("ip link add br{n} type bridge"));
            lab.node.run(&format!("ip link add up{n} type veth peer name lan{n} netns {}", lan.name()));
            lab.node.run(&format!("ip link set up{n} address 02:00:00:00:01:{n:02x} master br{n} up"));
            lab.node.run(&format!("ip link set br{n} up"));
            lan.run(&format!("ip link set lan{n} up"));
        }
        Self { lab, lan, bridges, seconds }
    }

    /// With a pool for each bridge.
    fn server(&self) -> Server {
        let lends = |n: usize| {
            let host = |last| Ipv4Addr::new(10, 67, u8::try_from(n).unwrap(), last);
            (
                format!("lan{n}"),
                Lends { server: host(1), pool: (host(10), host(250)), seconds: self.seconds, ..Lends::default() },
            )
        };
        Server::kea(&self.lab, &self.lan, &(0..self.bridges).map(lends).collect::<Vec<_>>())
    }

    fn call(&self, pod: &Netns, nth: usize) -> Call<'_> {
        let bridge = format!("br{}", nth % self.bridges);
        let conf = json!({"cniVersion": "1.0.0", "name": "lan", "type": "trestle", "bridge": bridge, "ipam": {"type": "dhcp"}});
        self.lab.trestle(conf).pod(pod).of_pod("default", &format!("web-{nth}")).ifname("net1")
    }

    /// `dhcp daemon`.
    fn keeper(&self) -> Keeper {
        self.keeper_by(&[])
    }

    /// The same, started by another program.
    fn keeper_by(&self, by: &[&str]) -> Keeper {
        let program = Kind::Trestle.dir().join("dhcp").display().to_string();
        let socket = self.lab.file("dhcp.sock");
        self.start([by, &[&program, "daemon", "-socketpath", &socket]].concat())
    }

    /// The agent, without an API server: it keeps leases all the same.
    fn agent(&self) -> Keeper {
        let kubeconfig = self.lab.file("kubeconfig");
        let named = |kind: &str, inner: Value| json!([{"name": "none", kind: inner}]);
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "none", "users": named("user", json!({})),
            "clusters": named("cluster", json!({"server": "http://127.0.0.1:1"})),
            "contexts": named("context", json!({"cluster": "none", "user": "none"})),
        });
        std::fs::write(&kubeconfig, text.to_string()).unwrap();
        let program = Kind::Trestle.dir().join("trestle").display().to_string();
        self.start(vec![&program, "agent", "--node", "node", "--no-metrics", "--kubeconfig", &kubeconfig])
    }

    fn start(&self, words: Vec<&str>) -> Keeper {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command.env("TRESTLE_RUN_DIR", self.lab.run_dir()).env("TRESTLE_STATE_DIR", self.lab.state_dir());
        let log = File::options().create(true).append(true).open(self.lab.file("keeper.log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        Keeper(self.lab.node.inside(move || command.spawn().unwrap()))
    }

    /// No keeper has ever taken an address off a pod.
    #[track_caller]
    fn none_was_lost(&self) {
        let log = std::fs::read_to_string(self.lab.file("keeper.log")).unwrap_or_default();
        let lost: Vec<&str> = log.lines().filter(|line| line.contains("lost; asking for another one")).collect();
        assert!(log.contains("keeping") && lost.is_empty(), "{lost:?}");
    }
}

/// Killed with the value, as by the OOM killer.
struct Keeper(Child);

impl Keeper {
    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As a burst of pods is called; the results in the calls' order.
fn all(calls: &[Call], verb: &str) -> Vec<Value> {
    let of = |some: &[Call]| {
        let running: Vec<_> = some.iter().map(|call| call.start(verb)).collect();
        let replies = running.into_iter().map(crate::harness::Running::wait);
        replies
            .map(|reply| {
                assert!(reply.status.success(), "{verb}: {} {}", reply.stdout, reply.stderr);
                serde_json::from_str(&reply.stdout).unwrap_or(Value::Null)
            })
            .collect::<Vec<Value>>()
    };
    calls.chunks(CALLS).flat_map(of).collect()
}

/// What a pod's client tells the server that it is.
fn client_id(pod: &Netns) -> String {
    let id = format!("\0{CONTAINER}{}/lan/net1", pod.name());
    id.bytes().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":")
}

/// Seconds, as the server counts them.
fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// For what takes a lease's time; generous, as others may use the machine.
#[track_caller]
fn within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < limit, "not after {limit:?}: {what}");
        thread::sleep(Duration::from_millis(200));
    }
}
