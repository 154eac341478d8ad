//! dnsmasq on a LAN, for tests that want a lease and are about something else.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::{Lab, Netns, eventually};

/// Ends with the value.
pub struct Dnsmasq {
    child: Child,
    leases: PathBuf,
}

impl Dnsmasq {
    /// Its own address is 198.51.100.1; it gives away what is within `range`, one after the other. What another one gave away
    /// on this LAN is forgotten.
    pub fn start(lab: &Lab, lan: &Netns, range: &str, options: &[&str]) -> Self {
        lan.try_run("ip addr add 198.51.100.1/24 dev lan0");
        let (leases, pid) = (PathBuf::from(lab.file("dnsmasq.leases")), PathBuf::from(lab.file("dnsmasq.pid")));
        for file in [&leases, &pid] {
            let _ = std::fs::remove_file(file);
        }
        let mut command = Command::new("dnsmasq");
        // Without its own ping it answers at once.
        command.args(["-k", "-C", "/dev/null", "-p0", "-i", "lan0", "--bind-interfaces", "--no-ping", "--no-hosts"]);
        command.args(["--dhcp-authoritative", "--dhcp-sequential-ip", "--user=root", "--log-facility=/dev/null"]);
        command.arg(format!("--dhcp-range={range},1h")).arg(format!("--pid-file={}", pid.display()));
        command.arg(format!("--dhcp-leasefile={}", leases.display())).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = lan.inside(move || command.spawn().expect("dnsmasq (run e2e/setup)"));
        eventually("dnsmasq is ready", || std::fs::read_to_string(&pid).is_ok_and(|text| !text.is_empty()));
        Self { child, leases }
    }

    /// How many leases it has given and not taken back.
    pub fn given(&self) -> usize {
        std::fs::read_to_string(&self.leases).unwrap_or_default().lines().count()
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
