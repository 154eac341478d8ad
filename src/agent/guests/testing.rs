//! What tests of this room share: guests as the journal would have them, and a client that asks.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::attach::{Guest, Served, Terms};
use crate::ipam::dhcp::{Action, Identity, Job, Lease, Machine, Route, Start, Step, Why, Wish};
use crate::net::Namespace;
use crate::net::frame::{EVERYBODY, Heard, Macs};
use crate::net::packet::PacketSocket;
use crate::store::{Dirs, Journal, LeaseRecord, Leases};
use crate::types::{AttachmentId, IfName, Mac, PodRef, Role};

pub const MAC: Mac = Mac::new([2, 0, 0x5e, 0x10, 0, 1]);
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

pub fn pod() -> PodRef {
    PodRef { namespace: "prod".into(), name: "virt-launcher-testvm-abcde".into(), uid: Some("u1".into()) }
}

fn guest(lease: bool) -> Guest {
    serde_json::from_value(json!({
        "host_index": 7, "host_mac": "fe:00:00:00:00:01", "mac": MAC, "mtu": 1400, "hostname": "testvm",
        "wire": "pod094a367b026",
        "lease": lease.then_some("pod094a367b026"),
        "given": {
            "addresses": ["192.0.2.10/24"],
            "gateway": "192.0.2.1",
            "routes": [
                {"dst": "0.0.0.0/0", "gw": "192.0.2.1"},
                {"dst": "198.18.0.0/15", "gw": "192.0.2.2"},
                {"dst": "2001:db8::/32", "gw": "2001:db8::1"},
            ],
            "dns": {"nameservers": ["2001:db8::53", "192.0.2.53"], "search": ["example.org"]},
        },
    }))
    .unwrap()
}

/// With an address that the wire's ADD told.
pub fn served() -> Served {
    Served {
        container: "c1".parse().unwrap(),
        ifname: "net1".parse().unwrap(),
        pod: Some(pod()),
        network: "lan".into(),
        link: 2,
        guest: guest(false),
        terms: Terms::Given,
    }
}

/// With a lease of 198.51.100.10, for so long since then on the boot clock.
pub fn leased(seconds: u32, got_at: Duration) -> Served {
    let dirs = Dirs::new("/nonexistent", "/nonexistent").with_boot("b1").with_clock(got_at.as_nanos() as u64);
    let record = lease_record(&dirs, Ipv4Addr::new(198, 51, 100, 10), seconds);
    Served { guest: guest(true), terms: Terms::Lease(Box::new(record)), ..served() }
}

/// Got now.
pub fn lease_record(dirs: &Dirs, address: Ipv4Addr, seconds: u32) -> LeaseRecord<Job> {
    let server = Ipv4Addr::new(198, 51, 100, 1);
    let lease = Lease {
        address,
        prefix: 24,
        mask_given: true,
        server,
        routers: vec![server],
        routes: vec![Route { dst: "0.0.0.0/0".parse().unwrap(), gw: Some(server) }],
        dns: vec![],
        domain: None,
        search: vec![],
        mtu: Some(1300),
        hostname: None,
        seconds,
        t1: 0,
        t2: 0,
    };
    let job = Job {
        netns: "/run/netns/none".into(),
        cookie: 0,
        index: 2,
        ifname: "pod094a367b026".into(),
        identity: Identity::of_vm(MAC, "prod", "testvm", "pod094a367b026"),
        wish: Wish::default().usual(),
        step: Step::Renew(lease.for_seconds(seconds)),
        seconds: 5,
        routes: None,
        follows: None,
        priority: None,
        before: None,
    };
    LeaseRecord::new(dirs, "c1".parse().unwrap(), "pod094a367b026".parse().unwrap(), "lan", job).unwrap()
}

pub fn hold(dirs: &Dirs, address: Ipv4Addr, seconds: u32) {
    Leases::new(dirs).write(&lease_record(dirs, address, seconds)).unwrap();
}

fn entry(container: &str) -> AttachmentId {
    let ifname: IfName = "net1".parse().unwrap();
    AttachmentId { container: container.parse().unwrap(), ifname, role: Role::Bind }
}

/// Writes what the bind step would, with this host end and this link in the pod.
pub fn bind(dirs: &Dirs, host: &Namespace, container: &str, (index, mac, link): (u32, Mac, u32), lease: bool) {
    let guest = Guest { host_index: index, host_mac: mac, ..guest(lease) };
    let id = host.id().unwrap();
    let record = json!({
        "pod": pod(), "netns": "/run/netns/none", "boot": "b1", "pod_ns": id, "host_ns": id,
        "network": "lan", "link": link, "tap": "tap094a367b026", "tap_index": 3, "multi_queue": false,
        "addresses": [], "guest": guest,
    });
    Journal(dirs).write(&entry(container), &"trestle-binding".parse().unwrap(), &record).unwrap();
}

pub fn unbind(dirs: &Dirs, container: &str) {
    Journal(dirs).remove(&entry(container)).unwrap();
}

/// A guest's own client, on the pod's end of the veth.
pub struct Client {
    pub socket: PacketSocket,
    pub source: Mac,
}

impl Client {
    pub fn open(namespace: &Namespace, index: u32) -> Self {
        Self { socket: PacketSocket::open(namespace, index).unwrap(), source: MAC }
    }

    /// Asks for at most so long; the error is what the machine says then.
    pub async fn ask(&self, start: Start, patience: Duration) -> Result<Lease, Why> {
        let began = Instant::now();
        let mut id = Identity::of_vm(MAC, "prod", "testvm", "lan");
        // A guest with its own stack: it hears what is sent to its MAC.
        id.broadcast = false;
        let mut machine = Machine::new(id, Wish::default().usual(), start, 7, began.elapsed());
        while began.elapsed() < patience {
            while let Some(action) = machine.next() {
                match action {
                    Action::Send { from, to, payload } => {
                        let macs = Macs { source: self.source, destination: EVERYBODY };
                        self.socket.send_udp(macs, from, to, &payload).unwrap();
                    }
                    Action::Probe(_) => machine.probed(began.elapsed(), false),
                    Action::Bound(lease) => return Ok(lease),
                    Action::Lost(why) => return Err(why),
                }
            }
            while let Some(heard) = self.socket.receive().unwrap() {
                if let Heard::Udp { from, payload } = heard {
                    machine.receive(began.elapsed(), from, &payload);
                }
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
            machine.tick(began.elapsed());
        }
        Err(Why::Silent)
    }
}
