//! Real servers on the LAN: dnsmasq and Kea, told the same things in their own words, and what each has lent.
//!
//! It knows their options and files, and nothing of who asks.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use super::SERVER;
use crate::harness::{Lab, Netns, eventually};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Dnsmasq,
    Kea,
}

/// One behaviour, beside both servers: `name::dnsmasq` and `name::kea`.
macro_rules! both_servers {
    ($($(#[$doc:meta])* fn $name:ident($program:ident: $type:ty) $body:block)+) => {$(
        $(#[$doc])*
        mod $name {
            use super::*;

            fn behaves($program: $type) $body

            #[test]
            fn dnsmasq() {
                behaves(Program::Dnsmasq);
            }

            #[test]
            fn kea() {
                behaves(Program::Kea);
            }
        }
    )+};
}
pub(crate) use both_servers;

/// What a server is told.
#[derive(Clone)]
pub struct Lends {
    pub server: Ipv4Addr,
    pub prefix: u8,
    /// First and last address.
    pub pool: (Ipv4Addr, Ipv4Addr),
    pub seconds: u32,
    /// For whoever asks for them, besides the router, which is the server.
    pub options: Vec<(u8, Vec<u8>)>,
    pub domain: Option<&'static str>,
    pub reserved: Vec<(Client, Ipv4Addr)>,
    /// Another router for clients of this vendor class.
    pub router_of: Option<(&'static str, Ipv4Addr)>,
}

/// By what a server knows a client; octets in hex with colons.
#[derive(Clone)]
pub enum Client {
    Mac(String),
    Id(String),
}

impl Default for Lends {
    /// .10 to .20 of 198.51.100.0/24 for an hour.
    fn default() -> Self {
        let host = |n| Ipv4Addr::new(198, 51, 100, n);
        Self {
            server: SERVER.parse().unwrap(),
            prefix: 24,
            pool: (host(10), host(20)),
            seconds: 3600,
            options: Vec::new(),
            domain: None,
            reserved: Vec::new(),
            router_of: None,
        }
    }
}

impl Lends {
    pub fn option(mut self, code: u8, data: impl Into<Vec<u8>>) -> Self {
        self.options.push((code, data.into()));
        self
    }

    pub fn pool(self, first: u8, last: u8) -> Self {
        let host = |n| Ipv4Addr::new(198, 51, 100, n);
        Self { pool: (host(first), host(last)), ..self }
    }

    pub fn reserve(mut self, client: Client, address: &str) -> Self {
        self.reserved.push((client, address.parse().unwrap()));
        self
    }

    fn for_dnsmasq(&self) -> Vec<String> {
        let data = |code: u8, data: &[u8]| match code {
            // It takes no hex for a list of addresses.
            6 => data.iter().map(u8::to_string).collect::<Vec<_>>().join("."),
            _ => data.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":"),
        };
        let options = self.options.iter().map(|(code, bytes)| format!("--dhcp-option={code},{}", data(*code, bytes)));
        let reserved = self.reserved.iter().map(|(client, address)| match client {
            Client::Mac(mac) => format!("--dhcp-host={mac},{address}"),
            Client::Id(id) => format!("--dhcp-host=id:{id},{address}"),
        });
        let router_of = self.router_of.iter().flat_map(|(class, router)| {
            [format!("--dhcp-vendorclass=set:v,{class}"), format!("--dhcp-option=tag:v,3,{router}")]
        });
        let domain = self.domain.iter().map(|name| format!("--domain={name}"));
        options.chain(domain).chain(reserved).chain(router_of).collect()
    }

    fn subnet(&self, nth: usize, link: &str) -> Value {
        let options = self.options.iter().map(|(code, data)| kea_option(*code, data));
        let domain = self.domain.iter().map(|name| kea_option(15, name.as_bytes()));
        // A network's own options count for more than a class'.
        let router = self.router_of.is_none().then(|| kea_option(3, &self.server.octets()));
        let reserved = self.reserved.iter().map(|(client, address)| match client {
            Client::Mac(mac) => json!({"hw-address": mac, "ip-address": address}),
            Client::Id(id) => json!({"client-id": id, "ip-address": address}),
        });
        let net = ipnetwork::Ipv4Network::new(self.server, self.prefix).unwrap().network();
        json!({
            "id": nth + 1, "subnet": format!("{net}/{}", self.prefix), "interface": link, "valid-lifetime": self.seconds,
            "pools": [{"pool": format!("{} - {}", self.pool.0, self.pool.1)}],
            "option-data": options.chain(domain).chain(router).collect::<Vec<_>>(), "reservations": reserved.collect::<Vec<_>>(),
        })
    }
}

/// One network on each link.
fn kea_conf(networks: &[(String, Lends)], leases: &Path, log: &Path) -> Value {
    let links: Vec<&String> = networks.iter().map(|(link, _)| link).collect();
    let subnets: Vec<Value> = networks.iter().enumerate().map(|(nth, (link, lends))| lends.subnet(nth, link)).collect();
    let mut conf = json!({
        "interfaces-config": {"interfaces": links},
        // Each renewal is a further line: nothing tidies the file up.
        "lease-database": {"type": "memfile", "name": leases, "lfc-interval": 0},
        "authoritative": true, "subnet4": subnets,
        "loggers": [{"name": "kea-dhcp4", "severity": "INFO", "output_options": [{"output": log}]}],
    });
    // An empty list of classes is a syntax error.
    if let Some((class, router)) = networks.iter().find_map(|(_, lends)| lends.router_of) {
        let test = format!("option[60].hex == '{class}'");
        let options = [kea_option(3, &router.octets())];
        conf["client-classes"] = json!([{"name": "of class", "test": test, "option-data": options}]);
    }
    json!({"Dhcp4": conf})
}

fn kea_option(code: u8, data: &[u8]) -> Value {
    let data: String = data.iter().map(|b| format!("{b:02X}")).collect();
    json!({"code": code, "csv-format": false, "data": data})
}

/// A server in a namespace of the LAN; it ends with the value.
pub struct Server {
    child: Child,
    leases: PathBuf,
    log: PathBuf,
    program: Program,
}

/// A lease as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leased {
    pub mac: String,
    pub address: String,
    pub name: String,
    pub client_id: String,
}

/// One line of Kea's journal: when a lease was asked for, or renewed, by the server's clock in seconds.
#[derive(Debug, Clone)]
pub struct Entry {
    pub leased: Leased,
    pub at: u64,
    /// False: given back.
    pub lent: bool,
}

impl Server {
    /// With the node and the LAN that it serves.
    pub fn with_lan(program: Program, lends: &Lends) -> (Lab, Netns, Self) {
        let (lab, lan) = Lab::with_lan();
        let server = Self::of(program, &lab, &lan, lends);
        (lab, lan, server)
    }

    /// What a server before it gave away is forgotten.
    pub fn of(program: Program, lab: &Lab, lan: &Netns, lends: &Lends) -> Self {
        match program {
            Program::Dnsmasq => Self::dnsmasq(lab, lan, lends),
            Program::Kea => Self::kea(lab, lan, &[("lan0".into(), lends.clone())]),
        }
    }

    fn dnsmasq(lab: &Lab, lan: &Netns, lends: &Lends) -> Self {
        lan.try_run(&format!("ip addr add {}/{} dev lan0", lends.server, lends.prefix));
        let [leases, pid, log] = fresh(lab, ["leases", "dnsmasq.pid", "dnsmasq.log"]);
        let mut command = Command::new("dnsmasq");
        // Without its own ping it answers at once; sequential addresses, so that tests know which one comes.
        command.args(["-k", "-C", "/dev/null", "-p0", "-i", "lan0", "--bind-interfaces", "--no-ping", "--no-hosts"]);
        command.args(["--dhcp-authoritative", "--dhcp-sequential-ip", "--user=root"]);
        command.arg(format!("--log-facility={}", log.display()));
        command.arg(format!("--dhcp-range={},{},{}", lends.pool.0, lends.pool.1, lends.seconds));
        command.arg(format!("--dhcp-leasefile={}", leases.display()));
        command.arg(format!("--pid-file={}", pid.display())).args(lends.for_dnsmasq());
        let child = spawn(lan, command, "dnsmasq");
        eventually("dnsmasq is ready", || std::fs::read_to_string(&pid).is_ok_and(|text| !text.is_empty()));
        Self { child, leases, log, program: Program::Dnsmasq }
    }

    /// Kea, with a network on each link of the LAN that is named.
    pub fn kea(lab: &Lab, lan: &Netns, networks: &[(String, Lends)]) -> Self {
        for (link, lends) in networks {
            lan.try_run(&format!("ip addr add {}/{} dev {link}", lends.server, lends.prefix));
        }
        let [leases, log, conf, program] = fresh(lab, ["kea.leases", "kea.log", "kea.json", "kea"]);
        std::fs::write(&conf, kea_conf(networks, &leases, &log).to_string()).unwrap();
        // Under another path: Debian's AppArmor profile for its own would let it read no file of a test.
        std::fs::copy("/usr/sbin/kea-dhcp4", &program).expect("kea-dhcp4 (run e2e/setup)");
        let mut command = Command::new(program);
        command.arg("-c").arg(conf).env("KEA_LOCKFILE_DIR", "none").env("KEA_PIDFILE_DIR", log.parent().unwrap());
        let child = spawn(lan, command, "kea-dhcp4");
        eventually("Kea is ready", || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("DHCP4_STARTED")));
        Self { child, leases, log, program: Program::Kea }
    }

    /// In the order of their addresses.
    pub fn leased(&self) -> Vec<Leased> {
        if self.program == Program::Kea {
            // The last word on each address.
            let last: BTreeMap<String, Entry> =
                self.journal().into_iter().map(|entry| (entry.leased.address.clone(), entry)).collect();
            return last.into_values().filter(|entry| entry.lent).map(|entry| entry.leased).collect();
        }
        let text = std::fs::read_to_string(&self.leases).unwrap_or_default();
        let lease = |line: &str| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let [_, mac, address, name, client_id] = <[String; 5]>::try_from(words).ok()?;
            Some(Leased { mac, address, name, client_id })
        };
        let mut all: Vec<Leased> = text.lines().filter_map(lease).collect();
        all.sort_by(|a, b| a.address.cmp(&b.address));
        all
    }

    /// All that Kea has written, in its order.
    pub fn journal(&self) -> Vec<Entry> {
        assert_eq!(self.program, Program::Kea, "dnsmasq keeps none");
        let text = std::fs::read_to_string(&self.leases).unwrap_or_default();
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().skip(1).map(entry).collect()
    }
}

/// address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context
fn entry(line: &str) -> Entry {
    let words: Vec<&str> = line.split(',').collect();
    let number = |at: usize| words[at].parse::<u64>().unwrap_or_else(|e| panic!("{line}: {e}"));
    let [address, mac, client_id, name] = [0, 1, 2, 8].map(|at| words[at].to_owned());
    let (valid, state) = (number(3), number(9));
    Entry {
        leased: Leased { mac, address, name, client_id },
        at: number(4) - valid,
        // What is declined has a state of its own.
        lent: valid > 0 && state == 0,
    }
}

/// Paths of files that are not there.
fn fresh<const N: usize>(lab: &Lab, names: [&str; N]) -> [PathBuf; N] {
    names.map(|name| {
        let path = PathBuf::from(lab.file(name));
        let _ = std::fs::remove_file(&path);
        path
    })
}

fn spawn(lan: &Netns, mut command: Command, name: &str) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    lan.inside(move || {
        loop {
            match command.spawn() {
                // A program that was copied just now: another test's child had the copy open as it was started.
                Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => sleep(Duration::from_millis(20)),
                done => break done.unwrap_or_else(|e| panic!("{name}: {e} (run e2e/setup)")),
            }
        }
    })
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the end of {:?}'s log:\n{}", self.program, lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}
