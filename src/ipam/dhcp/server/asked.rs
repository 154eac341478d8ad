//! A client's question, looked through no further than its form. Nothing in it is believed.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dhcproto::v4::MessageType;

use crate::ipam::dhcp::message::{Form, MAX_SIZE, REQUEST_LIST, REQUESTED_ADDRESS, SERVER};
use crate::types::Mac;

const BOOT_REQUEST: u8 = 1;

pub struct Asked {
    pub kind: MessageType,
    pub xid: u32,
    pub broadcast: bool,
    /// `ciaddr`: the client's address as long as it may use it.
    pub client: Ipv4Addr,
    /// `giaddr`.
    pub relay: Ipv4Addr,
    pub hardware: Mac,
    pub max_size: Option<u16>,
    options: BTreeMap<u8, Vec<u8>>,
}

impl Asked {
    /// None for what no client sends over Ethernet, and for BOOTP.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let form = Form::read(payload, BOOT_REQUEST).filter(|f| f.fixed[1] == 1)?;
        let size = form.options.get(&MAX_SIZE).and_then(|v| v.as_slice().try_into().ok());
        Some(Self {
            kind: form.kind,
            xid: form.xid(),
            broadcast: form.fixed[10] & 0x80 != 0,
            client: form.address(12),
            relay: form.address(24),
            hardware: form.hardware(),
            max_size: size.map(u16::from_be_bytes),
            options: form.options,
        })
    }

    pub fn option(&self, code: u8) -> Option<&[u8]> {
        self.options.get(&code).map(Vec::as_slice)
    }

    /// What it asks for: the address of option 50, else the one that it has.
    pub fn address(&self) -> Option<Ipv4Addr> {
        let octets = self.option(REQUESTED_ADDRESS).and_then(|v| <[u8; 4]>::try_from(v).ok());
        octets.map(Ipv4Addr::from).or(Some(self.client)).filter(|a| !a.is_unspecified())
    }

    /// Whether it names this server, or none.
    pub fn may_be_for(&self, server: Ipv4Addr) -> bool {
        self.option(SERVER).is_none_or(|named| named == server.octets())
    }

    /// The parameter request list.
    pub fn list(&self) -> Option<&[u8]> {
        self.option(REQUEST_LIST).filter(|list| !list.is_empty())
    }
}
