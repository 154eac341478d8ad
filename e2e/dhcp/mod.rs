//! Addresses from a DHCP server, on the LAN that `br-lan` leads to: dnsmasq and Kea, one list of cases for both.

mod again;
#[path = "../bench/server.rs"]
mod api;
mod bound;
mod faster;
mod guest;
mod hint;
mod kept;
mod lease;
mod machine;
mod moved;
mod server;
mod told;
mod trouble;

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Call, Lab, Netns};

pub use server::{Client, Entry, Lends, Program, Server};

/// Where the server is, unless it is told otherwise.
const SERVER: &str = "198.51.100.1";

/// A wire on `br-lan` with its address from a server.
fn conf() -> Value {
    json!({"cniVersion": "1.0.0", "name": "lan", "type": "trestle", "bridge": "br-lan", "ipam": {"type": "dhcp"}})
}

fn plain<'l>(lab: &'l Lab, pod: &Netns) -> Call<'l> {
    lab.trestle(conf()).pod(pod).of_pod("default", "web-1").ifname("net1")
}

/// The records of leases on disk.
pub fn records(lab: &Lab) -> Vec<Value> {
    let files = std::fs::read_dir(lab.state_dir().join("leases")).into_iter().flatten().flatten().map(|f| f.path());
    let records = files.filter(|path| path.extension().is_some_and(|e| e == "json"));
    records.map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()).collect()
}

/// The address of a link with the seconds that it is valid for; None: it has none.
pub fn address(pod: &Netns, link: &str) -> Option<(String, u64)> {
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
