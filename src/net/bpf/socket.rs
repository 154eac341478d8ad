//! Programs for packet sockets of a DHCP client and of a server: what they let through is read from the socket, and looked
//! at again there.

use std::net::Ipv4Addr;

use nix::libc::{BPF_JEQ, BPF_W, PACKET_OUTGOING, sock_filter};

use super::{Arp, Op, PACKET_TYPE, To, jump, kind, load, program, udp, untagged};
use crate::net::frame::{CLIENT, SERVER};

/// The frame to this length, and nothing of it.
pub const WHOLE: u32 = 0xffff;
const NOTHING: u32 = 0;

/// Not what this node sends, no VLAN's frame (a switch may mark an answer with a priority alone), ARP, and UDP over IPv4 to
/// port 68.
pub fn client() -> Vec<sock_filter> {
    program([incoming(), untagged(), kind(Arp::All), udp(CLIENT)], WHOLE, NOTHING)
}

/// Not what goes out, no VLAN's frame, ARP for `address`, and UDP over IPv4 to port 67.
pub fn server(address: Ipv4Addr) -> Vec<sock_filter> {
    program([incoming(), untagged(), kind(Arp::For(address)), udp(SERVER)], WHOLE, NOTHING)
}

fn incoming() -> Vec<Op> {
    vec![load(BPF_W, PACKET_TYPE), jump(BPF_JEQ, u32::from(PACKET_OUTGOING), To::No, To::NextPart)]
}
