//! The states of one exchange (RFC 2131, 4.4): which question follows on which answer, when one is repeated, and
//! what is not believed. Knows nothing of how a packet travels.
//!
//! A machine ends with one [`Action::Bound`] or one [`Action::Lost`]. One that discovers never gives up by itself: its
//! caller has a deadline, and [`Machine::trouble`] says what to tell then.

use std::collections::VecDeque;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

use dhcproto::v4::MessageType;

use super::lease::{Lease, is_host};
use super::message::{Question, Reply};
use super::random::Random;
use super::{Identity, Wish};

/// First wait for an answer. Short, since a bridge port that does not forward yet eats the first question.
const FIRST: Duration = Duration::from_millis(250);
/// RFC 2131, 4.1.
const LONGEST: Duration = Duration::from_secs(64);
/// How often a server that made an offer is asked for it: 4 s or so, then everybody is asked again; once more in each
/// later round, for a server that is slow.
const REQUESTS: u32 = 4;
/// How often one question about a lease that we have is sent: 8 s or so.
const ASKED: u32 = 5;
/// After a DECLINE: RFC 2131, 3.1.5 wants ten seconds, against a loop. The first time is no loop yet.
const FIRST_REST: Duration = Duration::from_secs(1);
const REST: Duration = Duration::from_secs(10);

/// What to begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    Discover,
    /// The same; this address is asked for (option 50), and another one taken too.
    Prefer(Ipv4Addr),
    /// A lease of which nobody knows whether it still holds (INIT-REBOOT).
    Reboot(Ipv4Addr),
    /// A lease that runs: its server is asked.
    Renew(Lease),
    /// The same, but all servers are.
    Rebind(Lease),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// From port 68 to port 67; to 255.255.255.255 as a broadcast frame.
    Send {
        from: Ipv4Addr,
        to: Ipv4Addr,
        payload: Vec<u8>,
    },
    /// Ask by ARP whether another host has the address (RFC 5227), then call [`Machine::probed`]. What the client's own
    /// hardware address answers is no other host.
    Probe(Ipv4Addr),
    Bound(Lease),
    /// There is no lease: whoever still wants one starts anew, with [`Start::Discover`].
    Lost(Why),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// A NAK: the address must not be used any more.
    Refused { server: Ipv4Addr, text: String },
    /// Nobody answered; a lease that runs goes on until its end.
    Silent,
    /// Another host has it.
    Taken(Ipv4Addr),
}

#[derive(Debug)]
enum State {
    Discovering,
    /// For an offer, or for what the machine was started with.
    Requesting(Target),
    /// Of an address that was given; from whom.
    Probing(Lease),
    /// Before everybody is asked again.
    Resting,
    Over,
}

/// What is asked for, and whose answer counts.
#[derive(Debug, Clone, Copy)]
struct Target {
    address: Ipv4Addr,
    server: Option<Ipv4Addr>,
}

#[derive(Debug)]
pub struct Machine {
    id: Identity,
    wish: Wish,
    start: Start,
    random: Random,
    state: State,
    xid: u32,
    /// When this round began, and when the question of this state was first sent.
    began: Duration,
    asked: Duration,
    due: Option<Duration>,
    /// Questions of this state so far.
    tries: u32,
    /// How often everybody was asked anew.
    rounds: u32,
    /// And when the server was last told so.
    declined: Vec<(Ipv4Addr, Duration)>,
    trouble: Trouble,
    actions: VecDeque<Action>,
}

/// For the caller's message, should it be the end.
#[derive(Debug, Default)]
struct Trouble {
    sent: u32,
    unconfirmed: Option<(Ipv4Addr, Ipv4Addr)>,
    refused: Option<(Ipv4Addr, String)>,
    ignored: Option<String>,
}

impl Machine {
    /// Its first question is ready at once. `random` is to differ from call to call.
    pub fn new(id: Identity, wish: Wish, start: Start, random: u64, now: Duration) -> Self {
        let mut machine = Self {
            id,
            wish,
            start,
            random: Random(random),
            state: State::Over,
            xid: 0,
            began: now,
            asked: now,
            due: None,
            tries: 0,
            rounds: 0,
            declined: Vec::new(),
            trouble: Trouble::default(),
            actions: VecDeque::new(),
        };
        match &machine.start {
            Start::Discover | Start::Prefer(_) => machine.discover(now),
            Start::Reboot(address) => machine.request(now, Target { address: *address, server: None }),
            Start::Renew(l) => machine.request(now, Target { address: l.address, server: Some(l.server) }),
            Start::Rebind(l) => machine.request(now, Target { address: l.address, server: None }),
        }
        machine
    }

    /// What is to be done next; to be called until there is nothing.
    pub fn next(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Machine::tick`] is wanted. None at the end, and while a probe is out.
    pub fn deadline(&self) -> Option<Duration> {
        self.due
    }

    /// When the question that was answered was first sent: a lease's seconds count from there, as nobody knows which of
    /// its repetitions the server saw (RFC 2131, 4.4.1).
    pub fn asked(&self) -> Duration {
        self.asked
    }

    pub fn tick(&mut self, now: Duration) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        match self.state {
            State::Discovering => self.send(now),
            State::Requesting(_) if self.tries < self.limit() => self.send(now),
            State::Requesting(Target { address, server: Some(server) }) if self.selects() => {
                self.trouble.unconfirmed = Some((server, address));
                self.discover(now);
            }
            State::Requesting(_) => self.end(Action::Lost(Why::Silent)),
            State::Resting => self.discover(now),
            State::Probing(_) | State::Over => self.due = None,
        }
    }

    /// A datagram to port 68, whoever it is meant for; `from` stands in for a server that does not name itself.
    pub fn receive(&mut self, now: Duration, from: Ipv4Addr, payload: &[u8]) {
        let Some(reply) = Reply::read(payload) else { return };
        if !reply.is_for(self.id.hardware, self.wish.client_id(&self.id), self.xid) {
            return;
        }
        let server = reply.server().unwrap_or(from);
        if !is_host(server) {
            return self.ignore(format!("an answer of server {server}, which is no host"));
        }
        match (&self.state, reply.kind) {
            (State::Discovering, MessageType::Offer) => self.offered(now, server, &reply),
            (State::Requesting(target), MessageType::Ack | MessageType::Nak) => {
                let target = *target;
                if target.server.is_some_and(|s| s != server) {
                    return self.ignore(format!("an answer of server {server}, which was not asked"));
                }
                match reply.kind {
                    MessageType::Ack => self.given(now, target, server, &reply),
                    _ => self.refused(now, server, reply.text()),
                }
            }
            _ => (),
        }
    }

    /// How the probe ended.
    pub fn probed(&mut self, now: Duration, taken: bool) {
        let State::Probing(lease) = &self.state else { return };
        let lease = lease.clone();
        if !taken {
            return self.end(Action::Bound(lease));
        }
        self.declined.push((lease.address, now));
        self.decline(lease.address, lease.server);
        if self.selects() {
            self.rest(now, if self.declined.len() == 1 { FIRST_REST } else { REST });
        } else {
            self.end(Action::Lost(Why::Taken(lease.address)));
        }
    }

    /// What went wrong so far, for a person; the server's own words among it.
    pub fn trouble(&self) -> String {
        let Trouble { sent, unconfirmed, refused, ignored } = &self.trouble;
        let mut text = match (refused, unconfirmed) {
            (Some((server, said)), _) if said.is_empty() => format!("server {server} refused"),
            (Some((server, said)), _) => format!("server {server} refused: {said:?}"),
            (None, Some((server, address))) => format!("server {server} offered {address} and then fell silent"),
            (None, None) if !self.declined.is_empty() => "no other address was offered".to_owned(),
            (None, None) => format!("no DHCP server answered, questions sent: {sent}"),
        };
        // Writing to a string cannot fail.
        for (address, _) in &self.declined {
            let _ = write!(text, "; {address} is in use by another host");
        }
        if let Some(ignored) = ignored {
            let _ = write!(text, "; ignored: {ignored}");
        }
        text
    }

    /// Whether servers are still chosen among, not asked about a lease that we have.
    fn selects(&self) -> bool {
        matches!(self.start, Start::Discover | Start::Prefer(_))
    }

    /// One that another host has is not asked for again.
    fn preferred(&self) -> Option<Ipv4Addr> {
        match self.start {
            Start::Prefer(address) if self.declined.iter().all(|(d, _)| *d != address) => Some(address),
            _ => None,
        }
    }

    fn limit(&self) -> u32 {
        if self.selects() { REQUESTS + self.rounds.saturating_sub(1) } else { ASKED }
    }

    fn discover(&mut self, now: Duration) {
        self.state = State::Discovering;
        self.xid = self.random.word();
        self.began = now;
        // Each round starts slower than the one before.
        self.tries = self.rounds;
        self.rounds += 1;
        self.send(now);
    }

    fn request(&mut self, now: Duration, target: Target) {
        // An answer to an offer goes on with the transaction, anything else starts one.
        if !self.selects() {
            self.xid = self.random.word();
        }
        self.state = State::Requesting(target);
        self.asked = now;
        self.tries = 0;
        self.send(now);
    }

    /// The question of this state, for the first time or again.
    fn send(&mut self, now: Duration) {
        let none = Ipv4Addr::UNSPECIFIED;
        let (kind, requested, server) = match self.state {
            State::Discovering => (MessageType::Discover, self.preferred(), None),
            State::Requesting(Target { address, server }) => (MessageType::Request, Some(address), server),
            State::Probing(_) | State::Resting | State::Over => return,
        };
        let seconds = u16::try_from(now.saturating_sub(self.began).as_secs()).unwrap_or(u16::MAX);
        let plain = Question { kind, xid: self.xid, seconds, client: none, requested, server };
        let running = |l: &Lease| Question { client: l.address, requested: None, server: None, ..plain };
        match &self.start {
            Start::Renew(l) if !self.id.broadcast => self.ask(&running(l), l.address, l.server),
            Start::Rebind(l) if !self.id.broadcast => self.ask(&running(l), l.address, Ipv4Addr::BROADCAST),
            Start::Discover | Start::Prefer(_) => self.ask(&plain, none, Ipv4Addr::BROADCAST),
            // In the form of a reboot, which names no server.
            _ => self.ask(&Question { server: None, ..plain }, none, Ipv4Addr::BROADCAST),
        }
        self.due = Some(now.saturating_add(self.random.around(wait(self.tries))));
        self.tries = self.tries.saturating_add(1);
        self.trouble.sent = self.trouble.sent.saturating_add(1);
    }

    fn ask(&mut self, question: &Question, from: Ipv4Addr, to: Ipv4Addr) {
        self.actions.push_back(Action::Send { from, to, payload: question.payload(&self.id, &self.wish) });
    }

    fn offered(&mut self, now: Duration, server: Ipv4Addr, reply: &Reply) {
        let lease = match Lease::of(reply, server) {
            Err(why) => return self.ignore(format!("an offer of server {server}: {why}")),
            Ok(lease) => lease,
        };
        match self.declined.iter_mut().find(|(address, _)| *address == lease.address) {
            None => self.request(now, Target { address: lease.address, server: Some(server) }),
            // Another server may offer another one meanwhile.
            Some((_, told)) if now < told.saturating_add(REST) => {}
            // The server did not hear it, or forgot.
            Some((_, told)) => {
                *told = now;
                self.decline(lease.address, server);
            }
        }
    }

    fn decline(&mut self, address: Ipv4Addr, server: Ipv4Addr) {
        let none = Ipv4Addr::UNSPECIFIED;
        let question = Question {
            kind: MessageType::Decline,
            xid: self.random.word(),
            seconds: 0,
            client: none,
            requested: Some(address),
            server: Some(server),
        };
        self.ask(&question, none, Ipv4Addr::BROADCAST);
    }

    fn given(&mut self, now: Duration, target: Target, server: Ipv4Addr, reply: &Reply) {
        let mut lease = match Lease::of(reply, server) {
            Err(why) => return self.ignore(format!("an answer of server {server}: {why}")),
            Ok(lease) if lease.address != target.address => {
                let why = format!("server {server} gave {}, asked for {}", lease.address, target.address);
                return self.ignore(why);
            }
            Ok(lease) => lease,
        };
        if lease.seconds != Lease::FOR_EVER && now >= self.asked + Duration::from_secs(lease.seconds.into()) {
            return self.ignore(format!("server {server} gave {} for a time that is over", lease.address));
        }
        match &self.start {
            Start::Discover | Start::Prefer(_) | Start::Reboot(_) => {
                self.actions.push_back(Action::Probe(lease.address));
                self.state = State::Probing(lease);
                self.due = None;
            }
            Start::Renew(old) | Start::Rebind(old) => {
                if !lease.mask_given {
                    (lease.prefix, lease.mask_given) = (old.prefix, old.mask_given);
                }
                self.end(Action::Bound(lease));
            }
        }
    }

    fn refused(&mut self, now: Duration, server: Ipv4Addr, text: String) {
        self.trouble.refused = Some((server, text.clone()));
        if self.selects() {
            let delay = self.random.around(wait(self.rounds));
            self.rest(now, delay);
        } else {
            self.end(Action::Lost(Why::Refused { server, text }));
        }
    }

    fn rest(&mut self, now: Duration, delay: Duration) {
        self.state = State::Resting;
        self.due = Some(now.saturating_add(delay));
    }

    fn ignore(&mut self, why: String) {
        self.trouble.ignored = Some(why);
    }

    fn end(&mut self, last: Action) {
        self.state = State::Over;
        self.due = None;
        self.actions.push_back(last);
    }
}

/// Gives the address back: one packet, to which there is no answer. A guest's goes to everybody from 0.0.0.0, as all
/// that is sent for one; the server is named in it.
pub fn release(id: &Identity, wish: &Wish, lease: &Lease, random: u64) -> Action {
    let question = Question {
        kind: MessageType::Release,
        xid: Random(random).word(),
        seconds: 0,
        client: lease.address,
        requested: None,
        server: Some(lease.server),
    };
    let (from, to) = match id.broadcast {
        true => (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST),
        false => (lease.address, lease.server),
    };
    Action::Send { from, to, payload: question.payload(id, wish) }
}

/// Doubles from question to question.
fn wait(tries: u32) -> Duration {
    FIRST.saturating_mul(2_u32.saturating_pow(tries)).min(LONGEST)
}
