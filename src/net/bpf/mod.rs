//! Classic BPF programs that tell UDP to one port, and ARP, from all other frames: for filters that drop ([`Sieve`]), and
//! for packet sockets that hear nothing else ([`client`], [`server`]).
//!
//! Pure: values in, instructions out. A program is made of parts, one after the other; what a part does not decide is the
//! next one's. A load beyond the frame's end would end a program with 0, whatever that means to who runs it: so lengths
//! are looked at first.

mod sieve;
mod socket;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

use nix::libc::{
    BPF_ABS, BPF_ADD, BPF_ALU, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_LDX,
    BPF_LEN, BPF_MISC, BPF_MSH, BPF_RET, BPF_TAX, BPF_TXA, BPF_W, BPF_X, sock_filter,
};

use super::frame::{ARP, IPV4, UDP};

pub use self::sieve::{OP, Sender, Sieve};
pub use self::socket::{client, server};

/// SKF_AD_OFF of linux/filter.h, beside the frame, below 2^32; with SKF_AD_PKTTYPE, SKF_AD_VLAN_TAG and
/// SKF_AD_VLAN_TAG_PRESENT.
const BESIDE: u32 = 0xffff_f000;
const PACKET_TYPE: u32 = BESIDE + 4;
const TAG: u32 = BESIDE + 44;
const TAG_PRESENT: u32 = BESIDE + 48;
const VID: u32 = 0xfff;
const ETHERNET: u32 = 14;
/// Of an IPv4 header, and where in an ARP packet the address is that is asked for.
const IP: u32 = 20;
const ARP_TARGET: u32 = 24;

/// Where a jump leads. All are forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Next,
    NextPart,
    /// The frame is meant.
    Yes,
    No,
}

struct Op {
    code: u32,
    k: u32,
    yes: To,
    no: To,
}

fn op(code: u32, k: u32) -> Op {
    Op { code, k, yes: To::Next, no: To::Next }
}

fn jump(test: u32, k: u32, yes: To, no: To) -> Op {
    Op { code: BPF_JMP | test, k, yes, no }
}

fn load(size: u32, at: u32) -> Op {
    op(BPF_LD | size | BPF_ABS, at)
}

/// Which ARP is meant.
#[derive(Debug, Clone, Copy)]
enum Arp {
    None,
    All,
    For(Ipv4Addr),
}

/// The whole, with what is returned of a frame that is meant, and of any other. It has less than 40 instructions, so that
/// each jump fits into its byte.
fn program<const PARTS: usize>(parts: [Vec<Op>; PARTS], yes: u32, no: u32) -> Vec<sock_filter> {
    let end = parts.iter().map(Vec::len).sum::<usize>();
    let mut program = Vec::with_capacity(end + 2);
    let mut next_part = 0;
    for part in parts {
        next_part += part.len();
        for Op { code, k, yes, no } in part {
            let after = program.len() + 1;
            let distance = |to| match to {
                To::Next => 0,
                To::NextPart => next_part - after,
                To::No => end - after,
                To::Yes => end + 1 - after,
            };
            program.push(sock_filter { code: code as u16, jt: distance(yes) as u8, jf: distance(no) as u8, k });
        }
    }
    program.extend([no, yes].map(|k| sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k }));
    program
}

/// No VLAN's frame, which is another network's. VID 0 is none, but a priority.
fn untagged() -> Vec<Op> {
    vec![
        load(BPF_W, TAG_PRESENT),
        jump(BPF_JEQ, 0, To::NextPart, To::Next),
        load(BPF_W, TAG),
        jump(BPF_JSET, VID, To::No, To::NextPart),
    ]
}

/// IPv4 is for the next part.
fn kind(arp: Arp) -> Vec<Op> {
    let kind = load(BPF_H, 12);
    match arp {
        Arp::None => vec![kind, jump(BPF_JEQ, IPV4.into(), To::NextPart, To::No)],
        Arp::All => {
            vec![kind, jump(BPF_JEQ, IPV4.into(), To::NextPart, To::Next), jump(BPF_JEQ, ARP.into(), To::Yes, To::No)]
        }
        Arp::For(address) => vec![
            kind,
            jump(BPF_JEQ, IPV4.into(), To::NextPart, To::Next),
            jump(BPF_JEQ, ARP.into(), To::Next, To::No),
            op(BPF_LD | BPF_W | BPF_LEN, 0),
            jump(BPF_JGE, ETHERNET + ARP_TARGET + 4, To::Next, To::No),
            load(BPF_W, ETHERNET + ARP_TARGET),
            jump(BPF_JEQ, address.into(), To::Yes, To::No),
        ],
    }
}

/// X is the length of the IPv4 header, which the frame must have whole, and the ports after it.
fn udp(port: u16) -> Vec<Op> {
    let header_length = || op(BPF_LDX | BPF_B | BPF_MSH, ETHERNET);
    vec![
        op(BPF_LD | BPF_W | BPF_LEN, 0),
        jump(BPF_JGE, ETHERNET + IP, To::Next, To::No),
        load(BPF_B, ETHERNET + 9),
        jump(BPF_JEQ, UDP.into(), To::Next, To::No),
        load(BPF_H, ETHERNET + 6),
        // The first fragment has the ports.
        jump(BPF_JSET, 0x1fff, To::No, To::Next),
        header_length(),
        op(BPF_MISC | BPF_TXA, 0),
        op(BPF_ALU | BPF_ADD | BPF_K, ETHERNET + 4),
        op(BPF_MISC | BPF_TAX, 0),
        op(BPF_LD | BPF_W | BPF_LEN, 0),
        jump(BPF_JGE | BPF_X, 0, To::Next, To::No),
        header_length(),
        op(BPF_LD | BPF_H | BPF_IND, ETHERNET + 2),
        jump(BPF_JEQ, port.into(), To::Yes, To::No),
    ]
}
