//! Drives the state machine of `ipam::dhcp` over a packet socket, until it ends or its time is up. One thread, which
//! sleeps in between: a call has nothing else to do.
//!
//! Knows frames' addresses: whose MAC asks, and who is next on the way to a server. It must not know what a lease is for.

use std::net::Ipv4Addr;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::ipam::dhcp::{Action, Identity, Lease, Machine, Start, Why, Wish};
use crate::net::frame::{Arp, EVERYBODY, Heard, Macs};
use crate::net::packet::PacketSocket;
use crate::net::{Namespace, NetResult};
use crate::store::Dirs;
use crate::types::{Code, Failure, Mac, Outcome};

/// RFC 5227 has three probes, one to two seconds apart, and two seconds of patience; a pod would wait seven seconds for its
/// address. A host on the same LAN answers within a millisecond: two probes, and 0.3 s in all.
const PROBES: u32 = 2;
const PROBE_GAP: Duration = Duration::from_millis(150);
/// How long the server or the router has to tell its MAC, and how often it is asked.
const ANSWER: Duration = Duration::from_millis(100);
const QUESTIONS: u32 = 3;

/// How an exchange ended.
pub enum End {
    Bound {
        lease: Lease,
        /// On the boot clock: the lease runs from here.
        since: Duration,
    },
    Lost(Why),
    /// Nobody could be asked any longer; what went wrong until then.
    Late(String),
}

pub struct Client<'a> {
    socket: PacketSocket,
    identity: &'a Identity,
    wish: &'a Wish,
    dirs: &'a Dirs,
    source: Mac,
}

impl<'a> Client<'a> {
    /// `own`: the link's MAC.
    pub fn open(
        namespace: &Namespace,
        index: u32,
        own: Option<Mac>,
        (identity, wish): (&'a Identity, &'a Wish),
        dirs: &'a Dirs,
    ) -> NetResult<Self> {
        let source = if identity.broadcast { stranger(identity.hardware) } else { own.unwrap_or(identity.hardware) };
        Ok(Self { socket: PacketSocket::open(namespace, index)?, identity, wish, dirs, source })
    }

    pub fn now(&self) -> Duration {
        Duration::from_nanos(self.dirs.now())
    }

    /// Until the end, or `patience` is over.
    pub fn run(&self, start: Start, patience: Duration) -> Outcome<End> {
        let until = self.now() + patience;
        // What is on the way to a server that is no neighbour.
        let known = match &start {
            Start::Renew(lease) | Start::Rebind(lease) => Some(lease.clone()),
            Start::Discover | Start::Prefer(_) | Start::Reboot(_) => None,
        };
        let mut machine = Machine::new(self.identity.clone(), self.wish.clone(), start, random()?, self.now());
        loop {
            while let Some(action) = machine.next() {
                match action {
                    Action::Send { from, to, payload } => self.send(from, to, &payload, known.as_ref())?,
                    Action::Probe(address) => {
                        let taken = self.probe(address)?;
                        machine.probed(self.now(), taken);
                    }
                    Action::Bound(lease) => return Ok(End::Bound { lease, since: machine.asked() }),
                    Action::Lost(why) => return Ok(End::Lost(why)),
                }
            }
            let now = self.now();
            if now >= until {
                return Ok(End::Late(machine.trouble()));
            }
            let due = machine.deadline().unwrap_or(until);
            match self.hear(due.min(until))? {
                Some(Heard::Udp { from, payload }) => machine.receive(self.now(), from, &payload),
                Some(Heard::Arp(_)) => {}
                None => machine.tick(self.now()),
            }
        }
    }

    /// Gives a lease back. There is no answer to it. Not a machine's that has moved: it is one client wherever it lives, and
    /// what one of its pods gave back would be taken from it.
    pub fn release(&self, lease: &Lease) -> Outcome<()> {
        if self.identity.broadcast && self.lives_elsewhere(lease.address)? {
            tracing::info!(address = %lease.address, "the machine has its address on another node: the lease is its own there");
            return Ok(());
        }
        let action = crate::ipam::dhcp::release(self.identity, self.wish, lease, random()?);
        if let Action::Send { from, to, payload } = action {
            self.send(from, to, &payload, Some(lease))?;
        }
        Ok(())
    }

    /// Tells the neighbours where the address is now: they may remember somebody who had it before.
    pub fn announce(&self, address: Ipv4Addr) -> NetResult<()> {
        self.socket.announce(self.source, address)
    }

    fn send(&self, from: Ipv4Addr, to: Ipv4Addr, payload: &[u8], lease: Option<&Lease>) -> NetResult<()> {
        let destination = match lease.filter(|_| to != Ipv4Addr::BROADCAST) {
            // Who does not tell its MAC may still hear a frame to everybody.
            Some(lease) => self.mac_of(next_hop(lease, to))?.unwrap_or(EVERYBODY),
            None => EVERYBODY,
        };
        self.socket.send_udp(Macs { source: self.source, destination }, from, to, payload)
    }

    fn mac_of(&self, neighbour: Ipv4Addr) -> NetResult<Option<Mac>> {
        for _ in 0..QUESTIONS {
            self.socket.ask(self.source, neighbour)?;
            let until = self.now() + ANSWER;
            while let Some(heard) = self.hear(until)? {
                // No answer of a server is lost here: it has not been asked yet.
                if let Heard::Arp(arp) = heard
                    && arp.sender == neighbour
                {
                    return Ok(Some(arp.mac));
                }
            }
        }
        Ok(None)
    }

    /// Whether somebody on the LAN has the address. Nobody answers here: the pod's own stack is silent, and the guest is no
    /// neighbour of this link.
    fn lives_elsewhere(&self, address: Ipv4Addr) -> NetResult<bool> {
        Ok(self.mac_of(address)?.is_some_and(|mac| mac != self.source))
    }

    /// Whether another host has the address, or is about to take it.
    fn probe(&self, address: Ipv4Addr) -> NetResult<bool> {
        for _ in 0..PROBES {
            self.socket.ask(self.source, address)?;
            let until = self.now() + PROBE_GAP;
            while let Some(heard) = self.hear(until)? {
                if let Heard::Arp(arp) = heard
                    && self.conflicts(&arp, address)
                {
                    tracing::warn!(%address, mac = %arp.mac, "the address that the server gave is in use");
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// On the target of a migration the guest itself answers, from where it still is.
    fn conflicts(&self, arp: &Arp, address: Ipv4Addr) -> bool {
        let ours = [self.source, self.identity.hardware].contains(&arp.mac);
        let probed = arp.sender.is_unspecified() && arp.target == address;
        !ours && (arp.sender == address || probed)
    }

    /// The next frame; None when it is time.
    fn hear(&self, until: Duration) -> NetResult<Option<Heard>> {
        loop {
            if let Some(heard) = self.socket.receive()? {
                return Ok(Some(heard));
            }
            let now = self.now();
            if now >= until {
                return Ok(None);
            }
            self.socket.wait(until - now)?;
        }
    }
}

/// A server beyond the link is reached by the router.
fn next_hop(lease: &Lease, to: Ipv4Addr) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(lease.prefix.min(32))).unwrap_or(0);
    let on_link = u32::from(lease.address) & mask == u32::from(to) & mask;
    lease.routers.first().copied().filter(|_| !on_link).unwrap_or(to)
}

/// Under which MAC a guest's client speaks: no frame of ours may have the guest's as its source. Neither is it that of the
/// veth's host end, which the node's bridge would keep answers for. The same each time, so that a switch learns one.
pub fn stranger(guest: Mac) -> Mac {
    let digest: [u8; 32] = Sha256::digest([&b"trestle dhcp"[..], &guest.bytes()].concat()).into();
    Mac::high([digest[0], digest[1], digest[2], digest[3], digest[4], digest[5]])
}

fn random() -> Outcome<u64> {
    getrandom::u64().map_err(|e| Failure::new(Code::Io, format!("random bytes: {e}")))
}
