//! A DHCPv4 server for one client, as values: its question and what is given to it in, the answer out (RFC 2131, 4.3).
//!
//! It knows no socket, no clock and no other client: an address is nobody's here but the one guest's, so there is nothing
//! to remember between two questions. What cannot be meant for it is met with silence, and where nothing can be given
//! now, so is everything.
//!
//! ```text
//! DISCOVER ─→ OFFER     REQUEST of what is given ─→ ACK, of another address ─→ NAK, of another server's ─→ silence
//! INFORM ─→ ACK without an address                         RELEASE, DECLINE ─→ silence, and the caller is told
//! ```

mod asked;
mod gift;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

use dhcproto::v4::{Flags, MIN_PACKET_SIZE, Message, MessageType, Opcode, encode_long_opt_bytes};
use dhcproto::{Encodable, Encoder};

pub use self::gift::{DhcpOptions, Gift};

use self::asked::Asked;
use super::message::{CLIENT_ID, MESSAGE_TYPE, SERVER, TEXT};
use super::options::{LEASE_TIME, SUBNET_MASK, T1, T2};
use crate::types::Mac;

/// What every client must be able to take, and what one takes that does not say (RFC 2131, section 2): the size of the
/// datagram with its headers.
const SMALLEST: u16 = 576;
/// Of IPv4 and UDP.
const HEADERS: u16 = 28;
const END: u8 = 255;

/// What a client wants, for whoever counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Discover,
    Request,
    Inform,
    Decline,
    Release,
}

impl Kind {
    fn of(kind: MessageType) -> Option<Self> {
        match kind {
            MessageType::Discover => Some(Self::Discover),
            MessageType::Request => Some(Self::Request),
            MessageType::Inform => Some(Self::Inform),
            MessageType::Decline => Some(Self::Decline),
            MessageType::Release => Some(Self::Release),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Discover => "discover",
            Self::Request => "request",
            Self::Inform => "inform",
            Self::Decline => "decline",
            Self::Release => "release",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Offer,
    /// The client may use the address from now on.
    Ack,
    Nak,
    /// To an INFORM: no address is in it.
    Told,
}

impl Verdict {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Offer => "offer",
            Self::Ack => "ack",
            Self::Nak => "nak",
            Self::Told => "told",
        }
    }
}

/// From port 67 to port 68.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub verdict: Verdict,
    /// 255.255.255.255: as a broadcast frame; else to the client's own MAC.
    pub to: Ipv4Addr,
    pub payload: Vec<u8>,
}

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    pub kind: Kind,
    /// The address that it is about, as the client says.
    pub address: Option<Ipv4Addr>,
    pub reply: Option<Reply>,
}

/// `None`: no question of this client. `gift`: none where nothing can be given now.
pub fn turn(question: &[u8], hardware: Mac, gift: Option<&Gift>) -> Option<Turn> {
    let asked = Asked::read(question)?;
    let kind = Kind::of(asked.kind).filter(|_| asked.hardware == hardware && asked.relay.is_unspecified())?;
    let reply = gift.and_then(|gift| {
        let verdict = decide(kind, &asked, gift)?;
        Some(Reply { verdict, to: destination(verdict, &asked, gift), payload: payload(verdict, &asked, gift) })
    });
    Some(Turn { kind, address: asked.address(), reply })
}

fn decide(kind: Kind, asked: &Asked, gift: &Gift) -> Option<Verdict> {
    match kind {
        Kind::Discover => Some(Verdict::Offer),
        Kind::Request if !asked.may_be_for(gift.lease.server) => None,
        Kind::Request if asked.address()? == gift.lease.address => Some(Verdict::Ack),
        Kind::Request => Some(Verdict::Nak),
        // An answer has to go somewhere.
        Kind::Inform if asked.client.is_unspecified() => None,
        Kind::Inform => Some(Verdict::Told),
        Kind::Decline | Kind::Release => None,
    }
}

/// RFC 2131, 4.1.
fn destination(verdict: Verdict, asked: &Asked, gift: &Gift) -> Ipv4Addr {
    match verdict {
        Verdict::Nak => Ipv4Addr::BROADCAST,
        Verdict::Ack | Verdict::Told if !asked.client.is_unspecified() => asked.client,
        _ if asked.broadcast => Ipv4Addr::BROADCAST,
        _ => gift.lease.address,
    }
}

/// RFC 2131, table 3.
fn payload(verdict: Verdict, asked: &Asked, gift: &Gift) -> Vec<u8> {
    let none = Ipv4Addr::UNSPECIFIED;
    let (client, yours) = match verdict {
        Verdict::Offer => (none, gift.lease.address),
        Verdict::Ack => (asked.client, gift.lease.address),
        Verdict::Told => (asked.client, none),
        Verdict::Nak => (none, none),
    };
    let boots = verdict != Verdict::Nak;
    let next = gift.options.next_server().filter(|_| boots).unwrap_or(none);
    let mut message = Message::new_with_id(asked.xid, client, yours, next, none, &gift.hardware.bytes());
    message.set_opcode(Opcode::BootReply);
    if asked.broadcast {
        message.set_flags(Flags::default().set_broadcast());
    }
    if let Some(file) = gift.options.boot_file_field().filter(|_| boots) {
        message.set_fname(file);
    }
    let mut payload = Vec::with_capacity(usize::from(SMALLEST));
    let mut encoder = Encoder::new(&mut payload);
    let written = message.encode(&mut encoder).and_then(|()| {
        let room = room(asked, gift).saturating_sub(encoder.len_filled());
        options(verdict, asked, gift, room)
            .into_iter()
            .try_for_each(|(code, value)| encode_long_opt_bytes(code.into(), &value, &mut encoder))
    });
    // It can fail for a field that is too long, and none is.
    debug_assert!(written.is_ok(), "{written:?}");
    payload.push(END);
    payload.resize(payload.len().max(MIN_PACKET_SIZE), 0);
    payload
}

/// For the payload: what the client takes, and what its link carries in one piece.
fn room(asked: &Asked, gift: &Gift) -> usize {
    let takes = asked.max_size.unwrap_or(SMALLEST).max(SMALLEST);
    usize::from(takes.min(gift.link_mtu).saturating_sub(HEADERS))
}

/// In their order. The protocol's own come first, and the mask, which is to stand before the routers (RFC 2132, 3.3); then
/// what the client asks for, in its order; then what somebody has set for this machine, asked for or not. A client
/// without a list gets all there is. What has no place any more is left out whole.
fn options(verdict: Verdict, asked: &Asked, gift: &Gift, room: usize) -> Vec<(u8, Vec<u8>)> {
    let kind = match verdict {
        Verdict::Offer => MessageType::Offer,
        Verdict::Ack | Verdict::Told => MessageType::Ack,
        Verdict::Nak => MessageType::Nak,
    };
    let mut all = vec![(MESSAGE_TYPE, vec![kind.into()]), (SERVER, gift.lease.server.octets().to_vec())];
    // RFC 6842.
    all.extend(asked.option(CLIENT_ID).map(|id| (CLIENT_ID, id.to_vec())));
    if verdict == Verdict::Nak {
        all.push((TEXT, format!("this machine's address is {}", gift.lease.address).into_bytes()));
        return all;
    }
    let mut given = gift.values();
    if verdict == Verdict::Told {
        given.retain(|(code, _)| ![LEASE_TIME, T1, T2].contains(code));
    }
    let first = [LEASE_TIME, T1, T2, SUBNET_MASK].to_vec();
    let rest = match asked.list() {
        Some(list) => list.iter().copied().chain(gift.options.codes()).collect(),
        None => given.iter().map(|(code, _)| *code).collect::<Vec<u8>>(),
    };
    for code in first.into_iter().chain(rest) {
        if let Some(at) = given.iter().position(|(c, _)| *c == code) {
            all.push(given.swap_remove(at));
        }
    }
    let mut left = room.saturating_sub(1);
    all.retain(|(_, value)| {
        let size = value.len() + 2 * value.len().div_ceil(255);
        let fits = size <= left;
        left -= if fits { size } else { 0 };
        fits
    });
    all
}
