//! Addresses from a DHCP server: dnsmasq, on the LAN that `br-lan` leads to.

mod bound;
mod faster;
mod hint;
mod kept;
mod lease;
mod machine;
mod trouble;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Call, Lab, Netns, eventually};

/// The server's address; it gives away .10 to .20 of 198.51.100.0/24.
const SERVER: &str = "198.51.100.1";

/// dnsmasq in a namespace of the LAN; it ends with the value.
struct Server {
    child: Child,
    leases: PathBuf,
}

/// A lease as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Leased {
    mac: String,
    address: String,
    name: String,
    client_id: String,
}

impl Server {
    fn start(lab: &Lab, lan: &Netns, options: &[&str]) -> Self {
        Self::again(lab, lan, "198.51.100.10,198.51.100.20,1h", options)
    }

    /// With another range; what it gave away before is forgotten.
    fn again(lab: &Lab, lan: &Netns, range: &str, options: &[&str]) -> Self {
        lan.try_run(&format!("ip addr add {SERVER}/24 dev lan0"));
        let (leases, pid) = (PathBuf::from(lab.file("leases")), PathBuf::from(lab.file("dnsmasq.pid")));
        for file in [&leases, &pid] {
            let _ = std::fs::remove_file(file);
        }
        let mut command = Command::new("dnsmasq");
        // Without its own ping it answers at once; sequential addresses, so that tests know which one comes.
        command.args(["-k", "-C", "/dev/null", "-p0", "-i", "lan0", "--bind-interfaces", "--no-ping", "--no-hosts"]);
        command.args(["--dhcp-authoritative", "--dhcp-sequential-ip", "--user=root", "--log-facility=/dev/null"]);
        command.arg(format!("--dhcp-range={range}")).arg(format!("--dhcp-leasefile={}", leases.display()));
        command.arg(format!("--pid-file={}", pid.display())).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = lan.inside(move || command.spawn().expect("dnsmasq (run e2e/setup)"));
        eventually("dnsmasq is ready", || std::fs::read_to_string(&pid).is_ok_and(|text| !text.is_empty()));
        Self { child, leases }
    }

    fn leased(&self) -> Vec<Leased> {
        let text = std::fs::read_to_string(&self.leases).unwrap_or_default();
        let lease = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let [_, mac, address, name, client_id] = <[String; 5]>::try_from(words).ok()?;
            Some(Leased { mac, address, name, client_id })
        };
        text.lines().filter_map(lease).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A wire on `br-lan` with its address from a server.
fn conf() -> Value {
    json!({"cniVersion": "1.0.0", "name": "lan", "type": "trestle", "bridge": "br-lan", "ipam": {"type": "dhcp"}})
}

fn plain<'l>(lab: &'l Lab, pod: &Netns) -> Call<'l> {
    lab.trestle(conf()).pod(pod).of_pod("default", "web-1").ifname("net1")
}

/// The records of leases on disk.
fn records(lab: &Lab) -> Vec<Value> {
    let files = std::fs::read_dir(lab.state_dir().join("leases")).into_iter().flatten().flatten();
    files.map(|f| serde_json::from_slice(&std::fs::read(f.path()).unwrap()).unwrap()).collect()
}

/// The address of a link with the seconds that it is valid for; None: it has none.
fn address(pod: &Netns, link: &str) -> Option<(String, u64)> {
    let links = pod.json(&format!("ip -j -4 addr show dev {link}"));
    let info = &links[0]["addr_info"][0];
    let net = format!("{}/{}", info["local"].as_str()?, info["prefixlen"].as_u64()?);
    Some((net, info["valid_life_time"].as_u64()?))
}

/// What a keeper runs: one exchange in a child of the program.
fn exchange(lab: &Lab, job: &Value) -> Value {
    use std::io::Write;
    let mut command = Command::new(env!("CARGO_BIN_EXE_trestle"));
    command.args(["dhcp", "exchange"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("TRESTLE_RUN_DIR", lab.run_dir()).env("TRESTLE_STATE_DIR", lab.state_dir());
    let mut child = lab.node.inside(move || command.spawn().unwrap());
    child.stdin.take().unwrap().write_all(&serde_json::to_vec(job).unwrap()).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice(&done.stdout).unwrap()
}
