//! A classic BPF program that drops untagged frames for one UDP port, and ARP for one address, by their sender.
//!
//! Pure: values in, instructions out. What is not surely meant passes: frames of a VLAN (another network's; VID 0 is
//! none, but a priority), later fragments, whatever is torn. A load beyond the frame's end would end the program with 0, which is the verdict "pass,
//! and ask no further filter": so lengths are looked at first.

use std::net::Ipv4Addr;

use nix::libc::{
    BPF_ABS, BPF_ADD, BPF_ALU, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_LDX,
    BPF_LEN, BPF_MISC, BPF_MSH, BPF_RET, BPF_TAX, BPF_TXA, BPF_W, BPF_X,
};

use super::frame::{ARP, IPV4, UDP};
use crate::types::Mac;

/// Bytes of an instruction.
pub(super) const OP: usize = 8;
/// Verdicts of a direct action, from linux/pkt_cls.h: on to the next filter, and away with it.
const UNSPEC: u32 = u32::MAX;
const SHOT: u32 = 2;
/// SKF_AD_OFF of linux/filter.h, beside the frame, below 2^32; with SKF_AD_VLAN_TAG and SKF_AD_VLAN_TAG_PRESENT.
const TAG: u32 = 0xffff_f000 + 44;
const TAG_PRESENT: u32 = 0xffff_f000 + 48;
const VID: u32 = 0xfff;
/// Instructions before those that look at the sender.
const VLAN_TEST: usize = 4;
const ETHERNET: u32 = 14;
/// Of an IPv4 header, and where in an ARP packet the address is that is asked for.
const IP: u32 = 20;
const ARP_TARGET: u32 = 24;

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

/// Where a jump leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Next,
    Sender,
    Kind,
    Udp,
    Pass,
    Drop,
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

impl Sieve {
    /// As the kernel takes and lists it: an array of `sock_filter`.
    pub(super) fn program(&self) -> Vec<u8> {
        let (sender, kind, udp) = (self.sender(), self.kind(), udp(self.udp_to));
        let at_kind = sender.len();
        let at_udp = at_kind + kind.len();
        let pass = at_udp + udp.len();
        let end = [op(BPF_RET | BPF_K, UNSPEC), op(BPF_RET | BPF_K, SHOT)];
        let mut bytes = Vec::new();
        for (here, op) in sender.into_iter().chain(kind).chain(udp).chain(end).enumerate() {
            // All are forward, and the whole has less than 40 instructions.
            let distance = |to| match to {
                To::Next => 0,
                To::Sender => VLAN_TEST - here - 1,
                To::Kind => at_kind - here - 1,
                To::Udp => at_udp - here - 1,
                To::Pass => pass - here - 1,
                To::Drop => pass - here,
            };
            bytes.extend((op.code as u16).to_ne_bytes());
            bytes.extend([distance(op.yes) as u8, distance(op.no) as u8]);
            bytes.extend(op.k.to_ne_bytes());
        }
        bytes
    }

    fn sender(&self) -> Vec<Op> {
        let (mac, same, other) = match self.from {
            Sender::Only(mac) => (mac, To::Kind, To::Pass),
            Sender::AllBut(mac) => (mac, To::Pass, To::Kind),
        };
        let [a, b, c, d, e, f] = mac.bytes();
        vec![
            load(BPF_W, TAG_PRESENT),
            jump(BPF_JEQ, 0, To::Sender, To::Next),
            load(BPF_W, TAG),
            jump(BPF_JSET, VID, To::Pass, To::Next),
            load(BPF_W, 6),
            jump(BPF_JEQ, u32::from_be_bytes([a, b, c, d]), To::Next, other),
            load(BPF_H, 10),
            jump(BPF_JEQ, u32::from_be_bytes([0, 0, e, f]), same, other),
        ]
    }

    fn kind(&self) -> Vec<Op> {
        let kind = load(BPF_H, 12);
        let Some(address) = self.arp_for else { return vec![kind, jump(BPF_JEQ, IPV4.into(), To::Udp, To::Pass)] };
        vec![
            kind,
            jump(BPF_JEQ, IPV4.into(), To::Udp, To::Next),
            jump(BPF_JEQ, ARP.into(), To::Next, To::Pass),
            op(BPF_LD | BPF_W | BPF_LEN, 0),
            jump(BPF_JGE, ETHERNET + ARP_TARGET + 4, To::Next, To::Pass),
            load(BPF_W, ETHERNET + ARP_TARGET),
            jump(BPF_JEQ, address.into(), To::Drop, To::Pass),
        ]
    }
}

/// X is the length of the IPv4 header, which the frame must have whole, and the ports after it.
fn udp(port: u16) -> Vec<Op> {
    let header_length = op(BPF_LDX | BPF_B | BPF_MSH, ETHERNET);
    vec![
        op(BPF_LD | BPF_W | BPF_LEN, 0),
        jump(BPF_JGE, ETHERNET + IP, To::Next, To::Pass),
        load(BPF_B, ETHERNET + 9),
        jump(BPF_JEQ, UDP.into(), To::Next, To::Pass),
        load(BPF_H, ETHERNET + 6),
        // The first fragment has the ports.
        jump(BPF_JSET, 0x1fff, To::Pass, To::Next),
        op(header_length.code, header_length.k),
        op(BPF_MISC | BPF_TXA, 0),
        op(BPF_ALU | BPF_ADD | BPF_K, ETHERNET + 4),
        op(BPF_MISC | BPF_TAX, 0),
        op(BPF_LD | BPF_W | BPF_LEN, 0),
        jump(BPF_JGE | BPF_X, 0, To::Next, To::Pass),
        header_length,
        op(BPF_LD | BPF_H | BPF_IND, ETHERNET + 2),
        jump(BPF_JEQ, port.into(), To::Drop, To::Pass),
    ]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: Mac = Mac::new([0xfe, 1, 2, 3, 4, 5]);
    const OTHER: Mac = Mac::new([0xfe, 1, 2, 3, 4, 6]);
    const ID: Ipv4Addr = Ipv4Addr::new(169, 254, 67, 67);

    /// What the kernel would do; a load that fails ends with 0.
    fn run(program: &[u8], frame: &[u8], tag: Option<u16>) -> u32 {
        let ops: Vec<(u32, usize, usize, u32)> = program
            .chunks(OP)
            .map(|o| {
                let code = u16::from_ne_bytes([o[0], o[1]]);
                (code.into(), o[2].into(), o[3].into(), u32::from_ne_bytes(o[4..8].try_into().unwrap()))
            })
            .collect();
        let bytes = |at: u32, len: usize| {
            let part = frame.get(at as usize..at as usize + len)?;
            Some(part.iter().fold(0, |sum, b| sum << 8 | u32::from(*b)))
        };
        let (mut a, mut x, mut at) = (0u32, 0u32, 0);
        loop {
            let (code, yes, no, k) = ops[at];
            at += 1;
            let size = match code & 0x18 {
                BPF_W => 4,
                BPF_H => 2,
                _ => 1,
            };
            let loaded = match code & !0x18 {
                c if c == BPF_LD | BPF_ABS && k == TAG_PRESENT => Some(tag.is_some().into()),
                // What is left there from before says nothing.
                c if c == BPF_LD | BPF_ABS && k == TAG => Some(tag.unwrap_or(7).into()),
                c if c == BPF_LD | BPF_ABS => bytes(k, size),
                c if c == BPF_LD | BPF_IND => bytes(x + k, size),
                c if c == BPF_LD | BPF_LEN => Some(frame.len() as u32),
                _ => Some(a),
            };
            match (code & 7, loaded) {
                (BPF_LD, None) => return 0,
                (BPF_LD, Some(v)) => a = v,
                (BPF_LDX, _) => match bytes(k, 1) {
                    Some(b) => x = (b & 15) * 4,
                    None => return 0,
                },
                (BPF_ALU, _) => a += k,
                (BPF_MISC, _) if code & 0xf8 == BPF_TAX => x = a,
                (BPF_MISC, _) => a = x,
                (BPF_JMP, _) => {
                    let other = if code & BPF_X == 0 { k } else { x };
                    let holds = match code & 0xf0 {
                        BPF_JEQ => a == other,
                        BPF_JGE => a >= other,
                        _ => a & other != 0,
                    };
                    at += if holds { yes } else { no };
                }
                _ => return k,
            }
        }
    }

    /// The same, said another way.
    fn wanted(sieve: &Sieve, frame: &[u8], tag: Option<u16>) -> bool {
        let by = match sieve.from {
            Sender::Only(mac) => frame[6..12] == mac.bytes(),
            Sender::AllBut(mac) => frame[6..12] != mac.bytes(),
        };
        let ip = &frame[14..];
        let header = ip.first().map_or(0, |b| usize::from(b & 15) * 4);
        let to = |at| ip.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
        let what = match [frame[12], frame[13]] {
            [8, 0] if ip.len() >= 20 => {
                ip[9] == 17
                    && to(6).unwrap() & 0x1fff == 0
                    && ip.len() >= header + 4
                    && to(header + 2) == Some(sieve.udp_to)
            }
            [8, 6] => sieve.arp_for.is_some_and(|address| ip.get(24..28) == Some(&address.octets())),
            _ => false,
        };
        tag.is_none_or(|tag| tag & 0xfff == 0) && by && what
    }

    fn sieves() -> [Sieve; 3] {
        [
            Sieve { udp_to: 67, arp_for: Some(ID), from: Sender::AllBut(OURS) },
            Sieve { udp_to: 68, arp_for: None, from: Sender::Only(OURS) },
            Sieve { udp_to: 68, arp_for: None, from: Sender::AllBut(OURS) },
        ]
    }

    fn tags() -> impl Strategy<Value = Option<u16>> {
        prop_oneof![8 => Just(None), 1 => Just(Some(0xa000)), 1 => any::<u16>().prop_map(Some)]
    }

    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let mac = prop_oneof![Just(OURS), Just(OTHER), any::<[u8; 6]>().prop_map(Mac::new)];
        let kind = prop_oneof![4 => Just([8, 0]), 2 => Just([8, 6]), 1 => any::<[u8; 2]>()];
        let protocol = prop_oneof![4 => Just(17), 1 => any::<u8>()];
        let fragment = prop_oneof![3 => Just(0u16), 1 => Just(0x2000), 1 => any::<u16>()];
        let port = prop_oneof![Just(67u16), Just(68), any::<u16>()];
        let len = prop_oneof![2 => Just(120usize), 1 => 14..120usize];
        let rest = proptest::collection::vec(any::<u8>(), 120);
        let asks = any::<bool>();
        (mac, kind, protocol, fragment, port, 0x40..0x50u8, len, rest, asks).prop_map(
            |(mac, kind, protocol, fragment, port, first, len, mut f, asks)| {
                f[6..12].copy_from_slice(&mac.bytes());
                f[12..14].copy_from_slice(&kind);
                if kind == [8, 6] {
                    if asks {
                        f[38..42].copy_from_slice(&ID.octets());
                    }
                } else {
                    (f[14], f[23]) = (first, protocol);
                    f[20..22].copy_from_slice(&fragment.to_be_bytes());
                    let ports = 14 + usize::from(first & 15) * 4;
                    f[ports + 2..ports + 4].copy_from_slice(&port.to_be_bytes());
                }
                f.truncate(len);
                f
            },
        )
    }

    proptest! {
        /// And no frame's end cuts the program short: 0 is never the verdict.
        #[test]
        fn it_drops_what_it_is_to_drop_and_passes_all_else_on(frame in frames(), tag in tags()) {
            for sieve in sieves() {
                let verdict = if wanted(&sieve, &frame, tag) { SHOT } else { UNSPEC };
                prop_assert_eq!(run(&sieve.program(), &frame, tag), verdict, "{:?}", sieve);
            }
        }
    }

    #[test]
    fn both_verdicts_are_met() {
        let mut f = super::super::frame::udp(
            super::super::frame::Macs { source: OTHER, destination: OURS },
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::BROADCAST,
            b"?",
        );
        let question = sieves()[0].program();
        assert_eq!(run(&question, &f, None), SHOT);
        assert_eq!(run(&question, &f, Some(0)), SHOT, "a priority");
        assert_eq!(run(&question, &f, Some(5)), UNSPEC);
        f[6..12].copy_from_slice(&OURS.bytes());
        assert_eq!(run(&question, &f, None), UNSPEC);
    }
}
