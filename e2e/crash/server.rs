//! A DHCP server on a stage's LAN, for the cases that ask one.

use std::process::{Child, Command, Stdio};

use crate::harness::{Lab, Netns, eventually};

/// Ends with the stage.
pub struct Server(Child);

impl Server {
    pub fn start(lab: &Lab, lan: &Netns) -> Self {
        lan.run("ip addr add 198.51.100.1/24 dev lan0");
        let pid = lab.file("dnsmasq.pid");
        let mut command = Command::new("dnsmasq");
        // Without its own ping it answers at once.
        command.args(["-k", "-C", "/dev/null", "-p0", "-i", "lan0", "--bind-interfaces", "--no-ping", "--no-hosts"]);
        command.args(["--dhcp-authoritative", "--user=root", "--log-facility=/dev/null"]);
        command.arg("--dhcp-range=198.51.100.10,198.51.100.200,1h").arg(format!("--pid-file={pid}"));
        command.arg(format!("--dhcp-leasefile={}", lab.file("dnsmasq.leases")));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = lan.inside(move || command.spawn().expect("dnsmasq (run e2e/setup)"));
        eventually("dnsmasq is ready", || std::fs::read_to_string(&pid).is_ok_and(|text| !text.is_empty()));
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
