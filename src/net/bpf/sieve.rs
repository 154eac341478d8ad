//! A program for cls_bpf that drops untagged frames for one UDP port, and ARP for one address, by their sender. What is not
//! surely meant passes: frames of a VLAN, later fragments, whatever is torn.

use std::net::Ipv4Addr;

use nix::libc::{BPF_H, BPF_JEQ, BPF_W};

use super::{Arp, Op, To, jump, kind, load, program, udp, untagged};
use crate::types::Mac;

/// Bytes of an instruction.
pub const OP: usize = 8;
/// Verdicts of a direct action, from linux/pkt_cls.h: on to the next filter, and away with it. 0 would be "pass, and ask
/// no further filter".
pub const UNSPEC: u32 = u32::MAX;
pub const SHOT: u32 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sieve {
    pub udp_to: u16,
    pub arp_for: Option<Ipv4Addr>,
    pub from: Sender,
}

/// Whose frames are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    Only(Mac),
    AllBut(Mac),
}

impl Sieve {
    /// As the kernel takes and lists it: an array of `sock_filter`. An earlier version's is what CHECK finds on a node
    /// after an upgrade: another program for the same sieve would be a fault to it.
    pub fn program(&self) -> Vec<u8> {
        let parts = [untagged(), self.from.part(), kind(self.arp_for.map_or(Arp::None, Arp::For)), udp(self.udp_to)];
        let bytes = |op: &nix::libc::sock_filter| {
            let [a, b] = op.code.to_ne_bytes();
            let [c, d, e, f] = op.k.to_ne_bytes();
            [a, b, op.jt, op.jf, c, d, e, f]
        };
        program(parts, SHOT, UNSPEC).iter().flat_map(bytes).collect()
    }
}

impl Sender {
    fn part(self) -> Vec<Op> {
        let (mac, same, other) = match self {
            Self::Only(mac) => (mac, To::NextPart, To::No),
            Self::AllBut(mac) => (mac, To::No, To::NextPart),
        };
        let [a, b, c, d, e, f] = mac.bytes();
        vec![
            load(BPF_W, 6),
            jump(BPF_JEQ, u32::from_be_bytes([a, b, c, d]), To::Next, other),
            load(BPF_H, 10),
            jump(BPF_JEQ, u32::from_be_bytes([0, 0, e, f]), same, other),
        ]
    }
}
