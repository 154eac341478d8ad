//! DHCP payloads: questions built, answers read. Knows RFC 2131's layout and table 5 (which field goes with which
//! question), not why something is asked.
//!
//! dhcproto writes the message and splits an option area. Options are kept as bytes here and each is read by whoever
//! needs it: decoding all of them stops at the first that is malformed, and one bad host name must not cost the routes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dhcproto::v4::borrowed::DhcpOptionIterator;
use dhcproto::v4::{DhcpOption, Flags, MAGIC, MIN_PACKET_SIZE, Message, MessageType, UnknownOption};
use dhcproto::{Encodable, Encoder};

use super::{Identity, Wish};
use crate::types::Mac;

pub const REQUESTED_ADDRESS: u8 = 50;
pub const OVERLOAD: u8 = 52;
pub const MESSAGE_TYPE: u8 = 53;
pub const SERVER: u8 = 54;
pub const REQUEST_LIST: u8 = 55;
pub const TEXT: u8 = 56;
pub const MAX_SIZE: u8 = 57;
pub const CLIENT_ID: u8 = 61;

/// Room for an answer that is not fragmented on an Ethernet with a tag or two.
const LARGEST: u16 = 1472;
const BOOT_REPLY: u8 = 2;
const ETHERNET: u8 = 6;
/// Up to the magic cookie and with it.
const FIXED: usize = 240;

/// One question, as far as it differs from another of the same client.
pub struct Question {
    pub kind: MessageType,
    pub xid: u32,
    /// Since the first question of this exchange.
    pub seconds: u16,
    /// The client's address as long as it may use it, else 0.0.0.0.
    pub client: Ipv4Addr,
    pub requested: Option<Ipv4Addr>,
    pub server: Option<Ipv4Addr>,
}

impl Question {
    pub fn payload(&self, id: &Identity, wish: &Wish) -> Vec<u8> {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new_with_id(self.xid, self.client, none, none, none, &id.hardware.bytes());
        message.set_secs(self.seconds);
        if id.broadcast || wish.broadcast {
            message.set_flags(Flags::default().set_broadcast());
        }
        for (code, value) in self.options(id, wish) {
            message.opts_mut().insert(DhcpOption::Unknown(UnknownOption::new(code.into(), value)));
        }
        let mut payload = Vec::with_capacity(MIN_PACKET_SIZE);
        // It can fail for a name that is too long for its field, and we set none.
        let written = message.encode(&mut Encoder::new(&mut payload));
        debug_assert!(written.is_ok(), "{written:?}");
        // Relays drop what is shorter than BOOTP's packet.
        payload.resize(payload.len().max(MIN_PACKET_SIZE), 0);
        payload
    }

    fn options(&self, id: &Identity, wish: &Wish) -> BTreeMap<u8, Vec<u8>> {
        let mut all = BTreeMap::new();
        // A server is told about wishes where it gives something; a DECLINE or RELEASE must not have them.
        if matches!(self.kind, MessageType::Discover | MessageType::Request) {
            all.insert(MAX_SIZE, LARGEST.to_be_bytes().to_vec());
            if !wish.request.is_empty() {
                all.insert(REQUEST_LIST, wish.request.clone());
            }
            all.extend(wish.send.iter().cloned());
        }
        all.insert(CLIENT_ID, wish.client_id(id).to_vec());
        all.insert(MESSAGE_TYPE, vec![self.kind.into()]);
        all.extend(self.requested.map(|a| (REQUESTED_ADDRESS, a.octets().to_vec())));
        all.extend(self.server.map(|a| (SERVER, a.octets().to_vec())));
        all
    }
}

/// A server's message, looked through no further than its form.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub kind: MessageType,
    pub xid: u32,
    pub hardware: Mac,
    pub address: Ipv4Addr,
    options: BTreeMap<u8, Vec<u8>>,
}

impl Reply {
    /// None for what no server sends, or not over Ethernet.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let form = Form::read(payload, BOOT_REPLY)?;
        let (xid, hardware, address) = (form.xid(), form.hardware(), form.address(16));
        Some(Self { kind: form.kind, xid, hardware, address, options: form.options })
    }

    /// Whether it answers this client's question: transaction, hardware address and, where the server repeats it
    /// (RFC 6842), client identifier.
    pub fn is_for(&self, hardware: Mac, client_id: &[u8], xid: u32) -> bool {
        let same_client = self.option(CLIENT_ID).is_none_or(|c| c == client_id);
        self.xid == xid && self.hardware == hardware && same_client
    }

    pub fn option(&self, code: u8) -> Option<&[u8]> {
        self.options.get(&code).map(Vec::as_slice)
    }

    pub fn server(&self) -> Option<Ipv4Addr> {
        let octets: [u8; 4] = self.option(SERVER)?.try_into().ok()?;
        Some(octets.into())
    }

    /// What the server says to people, for instance why it refuses: at most 255 characters, none that would move a
    /// terminal's cursor.
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(self.option(TEXT).unwrap_or_default());
        text.chars().filter(|c| !c.is_control()).take(255).collect()
    }
}

/// What questions and answers have in common.
pub struct Form<'a> {
    pub fixed: &'a [u8; FIXED],
    pub kind: MessageType,
    pub options: BTreeMap<u8, Vec<u8>>,
}

impl<'a> Form<'a> {
    /// None for what is no DHCP over Ethernet of this direction; BOOTP has no type in it.
    pub fn read(payload: &'a [u8], direction: u8) -> Option<Self> {
        let fixed: &[u8; FIXED] = payload.first_chunk()?;
        if fixed[0] != direction || fixed[2] != ETHERNET || fixed[236..] != MAGIC {
            return None;
        }
        let options = options(payload);
        let &[kind] = options.get(&MESSAGE_TYPE)?.as_slice() else { return None };
        Some(Self { fixed, kind: kind.into(), options })
    }

    pub fn xid(&self) -> u32 {
        u32::from_be_bytes(self.four(4))
    }

    pub fn address(&self, at: usize) -> Ipv4Addr {
        self.four(at).into()
    }

    pub fn hardware(&self) -> Mac {
        Mac::new([0, 1, 2, 3, 4, 5].map(|n| self.fixed[28 + n]))
    }

    fn four(&self, at: usize) -> [u8; 4] {
        [0, 1, 2, 3].map(|n| self.fixed[at + n])
    }
}

/// All options, those that stand in the fields for names too (option 52, in RFC 3396's order); the parts of one that
/// was split are joined, wherever they stand.
fn options(payload: &[u8]) -> BTreeMap<u8, Vec<u8>> {
    let mut all: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    let mut take = |area: &[u8]| {
        for option in DhcpOptionIterator::new(area) {
            all.entry(option.code().into()).or_default().extend_from_slice(option.data());
        }
        all.get(&OVERLOAD).and_then(|v| v.first().copied()).unwrap_or(0)
    };
    let overload = take(&payload[FIXED..]);
    if overload & 1 != 0 {
        take(&payload[108..236]);
    }
    if overload & 2 != 0 {
        take(&payload[44..108]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ACK without options.
    fn fixed() -> Vec<u8> {
        let mut bytes = vec![0; FIXED];
        (bytes[0], bytes[2]) = (BOOT_REPLY, ETHERNET);
        bytes[4..8].copy_from_slice(&[1, 2, 3, 4]);
        bytes[16..20].copy_from_slice(&[192, 0, 2, 10]);
        bytes[28..34].copy_from_slice(&[2, 0, 0x5e, 0x10, 0, 1]);
        bytes[236..].copy_from_slice(&MAGIC);
        bytes
    }

    fn with(options: &[u8]) -> Vec<u8> {
        [&fixed(), options].concat()
    }

    #[test]
    fn what_no_server_sends_is_none() {
        let good = with(&[53, 1, 5, 255]);
        let reply = Reply::read(&good).unwrap();
        assert_eq!((reply.kind, reply.xid, reply.address), (MessageType::Ack, 0x0102_0304, [192, 0, 2, 10].into()));
        assert_eq!(reply.hardware.to_string(), "02:00:5e:10:00:01");
        for (at, byte) in [(0, 1), (2, 16), (2, 255), (236, 0), (241, 2)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(Reply::read(&bad), None, "byte {at}");
        }
        for length in 0..243 {
            assert_eq!(Reply::read(&good[..length]), None, "{length} bytes");
        }
        assert_eq!(Reply::read(&with(&[53, 1, 5, 53, 1, 6])), None, "two types");
    }

    /// RFC 3396: first the options' own area, then `file`, then `sname`; parts of one option anywhere in them.
    #[test]
    fn options_in_three_places_and_in_parts() {
        let mut bytes = with(&[53, 1, 5, 12, 2, b'a', b'b', 0, 0, 52, 1, 3, 12, 1, b'c', 255, 6, 4, 9, 9, 9, 9]);
        bytes[108..115].copy_from_slice(&[12, 1, b'd', 15, 1, b'x', 255]);
        bytes[44..47].copy_from_slice(&[12, 1, b'e']);
        let reply = Reply::read(&bytes).unwrap();
        assert_eq!((reply.option(12), reply.option(15)), (Some(&b"abcde"[..]), Some(&b"x"[..])));
        assert_eq!(reply.option(6), None, "it is behind the end");
        bytes[251] = 1;
        assert_eq!(bytes[249..252], [52, 1, 1]);
        assert_eq!(Reply::read(&bytes).unwrap().option(12), Some(&b"abcd"[..]));
    }

    /// A length that leads out of the packet ends the options; those before it count.
    #[test]
    fn a_cut_off_option_costs_no_other() {
        let reply = Reply::read(&with(&[53, 1, 6, 56, 4, b'n', b'\n', 0xff, b'o', 54, 4, 192, 0])).unwrap();
        assert_eq!((reply.kind, reply.server()), (MessageType::Nak, None));
        assert_eq!(reply.text(), "n\u{fffd}o");
    }
}
