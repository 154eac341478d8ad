//! Packets to a DHCP client. An input is one byte that says how the client begins, then turns of a tag, a length and as
//! many bytes: an answer to the last question, a packet as it is, time that passes, the end of a probe.
//!
//! Packets of a guest to the server that has it as its one client: one byte whose bits say whether something is given to
//! it, and whether the rest is the options alone, then the packet.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::ipam::dhcp::server::{DhcpOptions, Gift, Verdict, turn};
use crate::ipam::dhcp::{Action, Identity, Lease, Machine, Route, Start, Wish, release};
use crate::types::Mac;

const MAC: Mac = Mac::new([2, 0, 0x5e, 0x10, 0, 1]);
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

pub fn turns(data: &[u8]) {
    let Some((first, mut rest)) = data.split_first() else { return };
    let id = match first & 4 {
        0 => Identity::of_pod(MAC, "container", "lan", "eth0"),
        _ => Identity::of_vm(MAC, "default", "vm", "lan"),
    };
    let start = match first & 3 {
        0 => Start::Discover,
        1 => Start::Reboot(ADDRESS),
        2 => Start::Renew(lease()),
        _ => Start::Rebind(lease()),
    };
    let mut client = Client::new(id, start);
    client.drain();
    while let [tag, length, tail @ ..] = rest {
        let (turn, tail) = tail.split_at(tail.len().min(usize::from(*length)));
        client.turn(*tag, turn);
        client.drain();
        rest = tail;
    }
}

pub fn question(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else { return };
    let mut packet = Vec::new();
    if first & 2 != 0 {
        packet = vec![0; 236];
        packet[..3].copy_from_slice(&[1, 1, 6]);
        packet[28..34].copy_from_slice(&MAC.bytes());
        packet.extend([99, 130, 83, 99]);
    }
    packet.extend(rest);
    let options = DhcpOptions {
        boot_file_name: Some("pxe/file".into()),
        tftp_server_name: Some("192.0.2.69".into()),
        ntp_servers: vec![Ipv4Addr::new(192, 0, 2, 123)],
        private: (220..=255).map(|code| (code, "v".repeat(100))).collect(),
    };
    let gift = Gift { hardware: MAC, lease: lease(), options, link_mtu: 1500 };
    let Some(turn) = turn(&packet, MAC, Some(&gift).filter(|_| first & 1 != 0)) else { return };
    let Some(reply) = turn.reply else { return };
    assert!(first & 1 != 0 && (300..=1472).contains(&reply.payload.len()), "{reply:?}");
    assert_eq!(reply.payload[..3], [2, 1, 6]);
    assert_eq!(reply.payload[28..34], MAC.bytes());
    if reply.verdict == Verdict::Ack {
        assert_eq!((turn.address, &reply.payload[16..20]), (Some(ADDRESS), &ADDRESS.octets()[..]));
    }
}

fn lease() -> Lease {
    Lease {
        address: ADDRESS,
        prefix: 24,
        mask_given: true,
        server: SERVER,
        routers: vec![SERVER],
        routes: vec![Route { dst: "0.0.0.0/0".parse().expect("a network"), gw: Some(SERVER) }],
        dns: vec![],
        domain: None,
        search: vec![],
        mtu: None,
        hostname: None,
        seconds: 600,
        t1: 300,
        t2: 525,
    }
}

struct Client {
    id: Identity,
    machine: Machine,
    now: Duration,
    /// Of the last question: 236 bytes.
    header: Vec<u8>,
    probing: bool,
    over: bool,
}

impl Client {
    fn new(id: Identity, start: Start) -> Self {
        let now = Duration::from_secs(1000);
        let machine = Machine::new(id.clone(), Wish::default().usual(), start, 7, now);
        Self { id, machine, now, header: Vec::new(), probing: false, over: false }
    }

    fn turn(&mut self, tag: u8, turn: &[u8]) {
        match tag % 4 {
            0 => self.machine.receive(self.now, SERVER, &self.answer(turn)),
            1 => self.machine.receive(self.now, Ipv4Addr::UNSPECIFIED, turn),
            2 => {
                self.now += turn.iter().map(|b| Duration::from_millis(u64::from(*b) * 50)).sum::<Duration>();
                self.machine.tick(self.now);
            }
            _ => {
                self.probing = false;
                self.machine.probed(self.now, turn.first().is_some_and(|b| b & 1 == 1));
            }
        }
    }

    /// Four bytes of address, then options.
    fn answer(&self, turn: &[u8]) -> Vec<u8> {
        let (address, options) = turn.split_first_chunk().unwrap_or((&[192, 0, 2, 10], turn));
        let mut packet = self.header.clone();
        packet[0] = 2;
        packet[16..20].copy_from_slice(address);
        packet.extend([99, 130, 83, 99]);
        packet.extend(options);
        packet
    }

    fn drain(&mut self) {
        while let Some(action) = self.machine.next() {
            assert!(!self.over, "{action:?} after the end");
            match action {
                Action::Send { payload, .. } => {
                    assert!((300..=576).contains(&payload.len()), "{payload:?}");
                    // Only a DECLINE has a transaction of its own, and nothing answers it.
                    if payload[242] != 4 {
                        self.header = payload[..236].to_vec();
                    }
                }
                Action::Probe(_) => self.probing = true,
                Action::Bound(lease) => {
                    sensible(&lease);
                    let Action::Send { payload, .. } = release(&self.id, &Wish::default(), &lease, 7) else { panic!() };
                    assert_eq!(payload[12..16], lease.address.octets());
                    self.over = true;
                }
                Action::Lost(why) => {
                    assert!(!format!("{why:?}").contains('\n'));
                    self.over = true;
                }
            }
        }
        assert_eq!(self.machine.deadline().is_none(), self.over || self.probing, "{:?}", self.machine);
        assert!(!self.machine.trouble().contains('\n'));
    }
}

fn sensible(lease: &Lease) {
    assert!((1..=32).contains(&lease.prefix) && lease.seconds > 0, "{lease:?}");
    assert!(lease.t1 <= lease.t2 && lease.t2 <= lease.seconds, "{lease:?}");
    let hosts = [&lease.address, &lease.server].into_iter().chain(&lease.routers).chain(&lease.dns);
    for a in hosts.chain(lease.routes.iter().filter_map(|r| r.gw.as_ref())) {
        assert!(!a.is_unspecified() && !a.is_loopback() && !a.is_multicast() && !a.is_broadcast(), "{a}");
    }
    for name in lease.search.iter().chain(&lease.domain).chain(&lease.hostname) {
        assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)), "{name:?}");
    }
    let json = serde_json::to_string(lease).expect("a lease has a form in JSON");
    assert_eq!(&serde_json::from_str::<Lease>(&json).expect("a lease is read again"), lease);
}
