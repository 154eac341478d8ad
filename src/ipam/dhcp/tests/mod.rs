//! A model of a LAN under a simulated clock: a server that holds to RFC 2131 and checks that its clients do, hosts that
//! sit on addresses, and a wire that loses, delays and doubles packets. Everybody hears everything, as in a broadcast.

mod exchange;
mod life;
mod strangers;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Encodable, Encoder};
use proptest::prelude::*;

use super::{Action, Identity, Machine, Start, Wish};
use crate::types::Mac;

pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

pub fn host(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, n)
}

pub fn pod(n: u8) -> Identity {
    Identity::of_pod(Mac::new([2, 0, 0x5e, 0x10, 0, n]), &format!("cid-{n}"), "lan", "eth0")
}

pub fn guest(n: u8) -> Identity {
    Identity::of_vm(Mac::new([2, 0, 0x5e, 0x10, 1, n]), "default", &format!("vm-{n}"), "lan")
}

pub fn wish() -> Wish {
    Wish::default().usual()
}

/// A question as a server reads it, by another decoder than the machine's own.
pub fn question(payload: &[u8]) -> Message {
    Message::from_bytes(payload).unwrap()
}

fn address(message: &Message, code: OptionCode) -> Option<Ipv4Addr> {
    match message.opts().get(code)? {
        DhcpOption::RequestedIpAddress(a) | DhcpOption::ServerIdentifier(a) => Some(*a),
        other => panic!("{other:?}"),
    }
}

pub fn requested(message: &Message) -> Option<Ipv4Addr> {
    address(message, OptionCode::RequestedIpAddress)
}

pub fn named_server(message: &Message) -> Option<Ipv4Addr> {
    address(message, OptionCode::ServerIdentifier)
}

fn client_id(message: &Message) -> Vec<u8> {
    match message.opts().get(OptionCode::ClientIdentifier) {
        Some(DhcpOption::ClientIdentifier(id)) => id.clone(),
        other => panic!("{other:?}"),
    }
}

pub fn answer(to: &Message, kind: MessageType, address: Ipv4Addr, options: Vec<DhcpOption>) -> Vec<u8> {
    let mut reply = Message::new_with_id(to.xid(), NOBODY, address, NOBODY, NOBODY, to.chaddr());
    reply.set_opcode(Opcode::BootReply).set_flags(to.flags());
    for option in [DhcpOption::MessageType(kind), DhcpOption::ServerIdentifier(SERVER)].into_iter().chain(options) {
        reply.opts_mut().insert(option);
    }
    let mut bytes = Vec::new();
    reply.encode(&mut Encoder::new(&mut bytes)).unwrap();
    bytes
}

pub fn terms(seconds: u32) -> Vec<DhcpOption> {
    vec![DhcpOption::AddressLeaseTime(seconds), DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0))]
}

/// RFC 2131, table 5 and 4.3.6: which fields and options go with which question.
fn hold_to_the_rules(m: &Message, from: Ipv4Addr, to: Ipv4Addr, length: usize) {
    assert!((300..=576).contains(&length), "{length} bytes");
    assert!(m.opcode() == Opcode::BootRequest && m.hops() == 0 && m.chaddr().len() == 6 && !client_id(m).is_empty());
    assert!(m.yiaddr() == NOBODY && m.siaddr() == NOBODY && m.giaddr() == NOBODY);
    let everybody = to == Ipv4Addr::BROADCAST;
    let (address, server) = (requested(m), named_server(m));
    let wishes = m.opts().contains(OptionCode::ParameterRequestList);
    let without_address = m.ciaddr() == NOBODY && from == NOBODY && everybody;
    match m.opts().msg_type().unwrap() {
        MessageType::Discover => assert!(without_address && server.is_none() && wishes),
        MessageType::Request => match (address, server) {
            // Selecting, and after a reboot.
            (Some(_), _) => assert!(without_address && wishes),
            (None, None) => assert!(m.ciaddr() == from && from != NOBODY && wishes, "renewing or rebinding"),
            (None, Some(_)) => panic!("a REQUEST that names a server, but no address"),
        },
        MessageType::Decline => assert!(without_address && address.is_some() && server.is_some() && !wishes),
        MessageType::Release => {
            assert!(m.ciaddr() != NOBODY && address.is_none() && server.is_some() && !wishes);
            let guests = m.flags().broadcast() && everybody && from == NOBODY;
            assert!(guests || (from == m.ciaddr() && Some(to) == server));
        }
        other => panic!("{other:?} is no question of a client"),
    }
}

pub struct Held {
    pub client: Vec<u8>,
    pub until: Duration,
}

pub struct Server {
    pub up: bool,
    pub seconds: u32,
    pool: std::ops::Range<u8>,
    pub held: BTreeMap<Ipv4Addr, Held>,
    abandoned: BTreeSet<Ipv4Addr>,
}

impl Server {
    pub fn new(seconds: u32, pool: std::ops::Range<u8>) -> Self {
        Self { up: true, seconds, pool, held: BTreeMap::new(), abandoned: BTreeSet::new() }
    }

    fn is_free(&self, now: Duration, address: Ipv4Addr, client: &[u8]) -> bool {
        let taken = self.held.get(&address).is_some_and(|h| h.until > now && h.client != client);
        self.pool.clone().any(|n| host(n) == address) && !taken && !self.abandoned.contains(&address)
    }

    pub fn hear(&mut self, now: Duration, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Option<Vec<u8>> {
        let m = question(payload);
        hold_to_the_rules(&m, from, to, payload.len());
        let client = client_id(&m);
        if !self.up || named_server(&m).is_some_and(|s| s != SERVER) {
            return None;
        }
        match m.opts().msg_type()? {
            MessageType::Discover => {
                let mine = self.held.iter().find(|(_, h)| h.client == client).map(|(a, _)| *a);
                let mut all = mine.into_iter().chain(self.pool.clone().map(host));
                // It keeps no offer free, so that two clients may be offered one address, and one be refused.
                let free = all.find(|a| self.is_free(now, *a, &client))?;
                Some(answer(&m, MessageType::Offer, free, terms(self.seconds)))
            }
            MessageType::Request => {
                let address = requested(&m).unwrap_or(m.ciaddr());
                if !self.is_free(now, address, &client) {
                    return Some(answer(&m, MessageType::Nak, NOBODY, vec![DhcpOption::Message("not yours".into())]));
                }
                let until = now + Duration::from_secs(self.seconds.into());
                self.held.insert(address, Held { client, until });
                Some(answer(&m, MessageType::Ack, address, terms(self.seconds)))
            }
            MessageType::Decline => {
                let address = requested(&m)?;
                self.abandoned.insert(address);
                self.held.remove(&address);
                None
            }
            _ => {
                self.held.retain(|a, h| *a != m.ciaddr() || h.client != client);
                None
            }
        }
    }
}

/// What the wire does with one packet.
#[derive(Debug, Clone)]
pub struct Fate {
    pub lost: bool,
    pub delays: Vec<Duration>,
}

pub fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let delay = || (0_u64..3000).prop_map(Duration::from_millis);
    let fate = (prop::bool::weighted(0.4), prop::collection::vec(delay(), 1..3));
    prop::collection::vec(fate.prop_map(|(lost, delays)| Fate { lost, delays }), 0..40)
}

enum Event {
    ToServer { from: Ipv4Addr, to: Ipv4Addr, payload: Vec<u8> },
    ToClients(Vec<u8>),
    Probed { client: usize, address: Ipv4Addr },
}

pub struct Client {
    pub id: Identity,
    pub machine: Option<Machine>,
}

/// The clock, the wire and who is on it.
pub struct Lan {
    pub now: Duration,
    pub server: Server,
    pub clients: Vec<Client>,
    /// Hosts that never asked the server.
    pub squatters: BTreeSet<Ipv4Addr>,
    fates: Vec<Fate>,
    events: BTreeMap<(Duration, u64), Event>,
    sent: u64,
}

impl Lan {
    pub fn new(server: Server, clients: Vec<Identity>, mut fates: Vec<Fate>) -> Self {
        fates.reverse();
        let clients = clients.into_iter().map(|id| Client { id, machine: None }).collect();
        let (now, squatters, events) = (Duration::from_secs(86_400), BTreeSet::new(), BTreeMap::new());
        Self { now, server, clients, squatters, fates, events, sent: 0 }
    }

    pub fn start(&mut self, client: usize, start: Start) {
        self.sent += 1;
        let id = self.clients[client].id.clone();
        self.clients[client].machine = Some(Machine::new(id, wish(), start, self.sent, self.now));
    }

    /// When something happens next.
    pub fn next(&self) -> Option<Duration> {
        let timers = self.clients.iter().filter_map(|c| c.machine.as_ref()?.deadline());
        timers.chain(self.events.keys().map(|(at, _)| *at)).min().map(|at| at.max(self.now))
    }

    fn post(&mut self, event: impl Fn() -> Event) {
        let fate = self.fates.pop().unwrap_or(Fate { lost: false, delays: vec![Duration::from_millis(1)] });
        for delay in fate.delays.iter().filter(|_| !fate.lost) {
            self.sent += 1;
            self.events.insert((self.now + *delay, self.sent), event());
        }
    }

    /// Goes to `now` and lets all happen that is due; gives each machine's last action.
    pub fn advance(&mut self, now: Duration) -> Vec<(usize, Action)> {
        self.now = now;
        while let Some(entry) = self.events.first_entry().filter(|e| e.key().0 <= now) {
            match entry.remove() {
                Event::ToServer { from, to, payload } => {
                    if let Some(reply) = self.server.hear(now, from, to, &payload) {
                        self.post(|| Event::ToClients(reply.clone()));
                    }
                }
                Event::ToClients(reply) => {
                    let machines = self.clients.iter_mut().filter_map(|c| c.machine.as_mut());
                    machines.for_each(|m| m.receive(now, SERVER, &reply));
                }
                Event::Probed { client, address } => {
                    let taken = self.squatters.contains(&address);
                    self.clients[client].machine.iter_mut().for_each(|m| m.probed(now, taken));
                }
            }
        }
        (0..self.clients.len()).flat_map(|c| self.act(c)).collect()
    }

    fn act(&mut self, client: usize) -> Option<(usize, Action)> {
        let now = self.now;
        let mut machine = self.clients[client].machine.take()?;
        machine.tick(now);
        while let Some(action) = machine.next() {
            match action {
                Action::Send { from, to, payload } => {
                    self.post(|| Event::ToServer { from, to, payload: payload.clone() });
                }
                Action::Probe(address) => {
                    self.sent += 1;
                    let at = now + Duration::from_millis(400);
                    self.events.insert((at, self.sent), Event::Probed { client, address });
                }
                last => {
                    assert!(machine.next().is_none() && machine.deadline().is_none(), "the last action is the last");
                    self.clients[client].machine = Some(machine);
                    return Some((client, last));
                }
            }
        }
        self.clients[client].machine = Some(machine);
        None
    }
}
