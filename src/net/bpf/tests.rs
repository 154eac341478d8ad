//! An interpreter of what the kernel would do, and the programs held against the same said another way.

use nix::libc::{PACKET_HOST, PACKET_OUTGOING};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::sieve::{SHOT, UNSPEC};
use super::socket::WHOLE;
use super::*;
use crate::net::frame::{CLIENT, Macs, SERVER};
use crate::types::Mac;

const OURS: Mac = Mac::new([0xfe, 1, 2, 3, 4, 5]);
const OTHER: Mac = Mac::new([0xfe, 1, 2, 3, 4, 6]);
const ID: Ipv4Addr = Ipv4Addr::new(169, 254, 67, 67);

fn decoded(program: &[u8]) -> Vec<sock_filter> {
    let op = |o: &[u8]| {
        let k = u32::from_ne_bytes(o[4..8].try_into().unwrap());
        sock_filter { code: u16::from_ne_bytes([o[0], o[1]]), jt: o[2], jf: o[3], k }
    };
    program.chunks(OP).map(op).collect()
}

/// What the kernel would do; a load that fails ends with 0.
fn run(program: &[sock_filter], frame: &[u8], tag: Option<u16>, kind: u8) -> u32 {
    let bytes = |at: u32, len: usize| {
        let part = frame.get(at as usize..at as usize + len)?;
        Some(part.iter().fold(0, |sum, b| sum << 8 | u32::from(*b)))
    };
    let (mut a, mut x, mut at) = (0u32, 0u32, 0);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        let code = u32::from(code);
        at += 1;
        let size = match code & 0x18 {
            BPF_W => 4,
            BPF_H => 2,
            _ => 1,
        };
        let loaded = match code & !0x18 {
            c if c == BPF_LD | BPF_ABS && k == PACKET_TYPE => Some(kind.into()),
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
                at += usize::from(if holds { jt } else { jf });
            }
            _ => return k,
        }
    }
}

/// What the programs look for, said another way.
fn meant(frame: &[u8], port: u16, arp: Arp) -> bool {
    let ip = &frame[14..];
    let header = ip.first().map_or(0, |b| usize::from(b & 15) * 4);
    let to = |at| ip.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    match ([frame[12], frame[13]], arp) {
        ([8, 0], _) if ip.len() >= 20 => {
            ip[9] == 17 && to(6).unwrap() & 0x1fff == 0 && ip.len() >= header + 4 && to(header + 2) == Some(port)
        }
        ([8, 6], Arp::All) => true,
        ([8, 6], Arp::For(address)) => ip.get(24..28) == Some(&address.octets()),
        _ => false,
    }
}

fn of_no_vlan(tag: Option<u16>) -> bool {
    tag.is_none_or(|tag| tag & 0xfff == 0)
}

fn dropped(sieve: &Sieve, frame: &[u8], tag: Option<u16>) -> bool {
    let by = match sieve.from {
        Sender::Only(mac) => frame[6..12] == mac.bytes(),
        Sender::AllBut(mac) => frame[6..12] != mac.bytes(),
    };
    of_no_vlan(tag) && by && meant(frame, sieve.udp_to, sieve.arp_for.map_or(Arp::None, Arp::For))
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
    fn a_sieve_drops_what_it_is_to_drop_and_passes_all_else_on(frame in frames(), tag in tags()) {
        for sieve in sieves() {
            let verdict = if dropped(&sieve, &frame, tag) { SHOT } else { UNSPEC };
            let program = decoded(&sieve.program());
            prop_assert_eq!(run(&program, &frame, tag, PACKET_HOST), verdict, "{:?}", sieve);
        }
    }

    #[test]
    fn a_socket_hears_what_comes_in_for_it_and_nothing_else(frame in frames(), tag in tags(), out in any::<bool>()) {
        let kind = if out { PACKET_OUTGOING } else { PACKET_HOST };
        let heard = |program: &[sock_filter]| run(program, &frame, tag, kind) == WHOLE;
        let to_client = !out && of_no_vlan(tag) && meant(&frame, CLIENT, Arp::All);
        prop_assert_eq!(heard(&client()), to_client);
        let to_server = !out && of_no_vlan(tag) && meant(&frame, SERVER, Arp::For(ID));
        prop_assert_eq!(heard(&server(ID)), to_server);
    }
}

#[test]
fn both_verdicts_are_met() {
    let macs = Macs { source: OTHER, destination: OURS };
    let mut f = crate::net::frame::udp(macs, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, b"?");
    let question = decoded(&sieves()[0].program());
    let verdict = |f: &[u8], tag| run(&question, f, tag, PACKET_HOST);
    assert_eq!(verdict(&f, None), SHOT);
    assert_eq!(verdict(&f, Some(0)), SHOT, "a priority");
    assert_eq!(verdict(&f, Some(5)), UNSPEC);
    assert_eq!(run(&server(ID), &f, None, PACKET_HOST), WHOLE);
    assert_eq!(run(&client(), &f, None, PACKET_HOST), 0);
    f[6..12].copy_from_slice(&OURS.bytes());
    assert_eq!(verdict(&f, None), UNSPEC);
}

/// They lie on nodes, where CHECK and the agent of a later version compare them.
#[test]
fn a_sieves_program_is_what_it_was() {
    let all: Vec<u8> = sieves().iter().flat_map(Sieve::program).collect();
    let digest: String = Sha256::digest(&all).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(digest, "c9bf3c23b91656666d79edcf653c814dd6f113995c491a48fb1d7e9eccb9001c");
}
