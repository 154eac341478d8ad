//! Anybody can send to port 68: what is not the answer must not change anything, and nothing may panic.

use super::*;
use crate::ipam::dhcp::lease::is_host;
use crate::ipam::dhcp::message::Reply;
use crate::ipam::dhcp::{Lease, Why};

const BEGIN: Duration = Duration::from_secs(50);

/// One thing that happens to a machine.
#[derive(Debug, Clone)]
enum Turn {
    Bytes(Vec<u8>),
    /// Made for the last question, but for what is bent.
    Answer {
        kind: u8,
        address: Ipv4Addr,
        server: Option<Ipv4Addr>,
        bent: u8,
        options: Vec<(u8, Vec<u8>)>,
    },
    Wait(u64),
    Probed(bool),
}

fn anyone() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![4 => (9_u8..13).prop_map(host), 1 => any::<[u8; 4]>().prop_map(Ipv4Addr::from),
        1 => prop::sample::select(vec![NOBODY, Ipv4Addr::BROADCAST, Ipv4Addr::LOCALHOST, host(0), host(255)])]
}

fn options() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let code = prop_oneof![
        prop::sample::select(vec![1_u8, 3, 6, 12, 15, 26, 33, 51, 52, 53, 54, 56, 58, 59, 61, 119, 121]),
        any::<u8>()
    ];
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        any::<[u8; 4]>().prop_map(|b| b.to_vec()),
        (0_u32..40).prop_map(|n| n.to_be_bytes().to_vec()),
        prop::sample::select(vec![vec![255, 255, 255, 0], vec![0xff; 4]]),
    ];
    prop::collection::vec((code, value), 0..8)
}

fn turn() -> impl Strategy<Value = Turn> {
    let server = prop_oneof![3 => Just(Some(SERVER)), 1 => prop::option::of(anyone())];
    let kind = prop_oneof![6 => prop::sample::select(vec![2_u8, 5, 6]), 1 => any::<u8>()];
    let bent = prop_oneof![4 => Just(0_u8), 1 => 1_u8..6];
    let answer = (kind, anyone(), server, bent, options())
        .prop_map(|(kind, address, server, bent, options)| Turn::Answer { kind, address, server, bent, options });
    prop_oneof![6 => answer, 2 => (0_u64..20_000).prop_map(Turn::Wait), 2 => any::<bool>().prop_map(Turn::Probed),
        1 => prop::collection::vec(any::<u8>(), 0..700).prop_map(Turn::Bytes)]
}

/// The bytes of an answer, by hand, so that it can be wrong in any way.
fn bytes(last: &[u8], kind: u8, address: Ipv4Addr, server: Option<Ipv4Addr>, options: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut b = last[..236].to_vec();
    b[0] = 2;
    b[12..28].fill(0);
    b[16..20].copy_from_slice(&address.octets());
    b.extend([99, 130, 83, 99, 53, 1, kind]);
    for (code, value) in server.map(|s| (54, s.octets().to_vec())).iter().chain(options) {
        b.extend([*code, u8::try_from(value.len()).unwrap()]);
        b.extend(value);
    }
    b.push(255);
    b
}

fn bend(mut b: Vec<u8>, how: u8) -> Vec<u8> {
    match how {
        0 => {}
        1 => b[0] = 1,
        2 => b[5] ^= 1,
        3 => b[33] ^= 1,
        4 => b[237] ^= 1,
        _ => b[2] = 16,
    }
    b
}

fn start() -> impl Strategy<Value = Start> {
    let lease = (9_u8..13).prop_map(|n| {
        let discover = Machine::new(pod(1), wish(), Start::Discover, 1, BEGIN).next();
        let Some(Action::Send { payload, .. }) = discover else { panic!("nothing is sent") };
        let reply = answer(&question(&payload), MessageType::Ack, host(n), terms(600));
        Lease::of(&Reply::read(&reply).unwrap(), SERVER).unwrap()
    });
    (0..4, lease).prop_map(|(which, lease)| match which {
        0 => Start::Renew(lease),
        1 => Start::Rebind(lease),
        2 => Start::Reboot(lease.address),
        _ => Start::Discover,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_turns_in_any_order(
        start in start(), guest_s in any::<bool>(), random in any::<u64>(),
        turns in prop::collection::vec(turn(), 0..60),
    ) {
        let id = if guest_s { guest(1) } else { pod(1) };
        let mut play = Play::new(Machine::new(id, wish(), start, random, BEGIN));
        for turn in turns {
            play.turn(turn);
            if play.over {
                break;
            }
        }
    }

    #[test]
    fn what_makes_a_lease_makes_sense(address in anyone(), options in options()) {
        let mut last = Play::new(Machine::new(pod(1), wish(), Start::Discover, 1, BEGIN));
        last.drain();
        let reply = Reply::read(&bytes(&last.last, 5, address, Some(SERVER), &options));
        if let Some(Ok(lease)) = reply.map(|r| Lease::of(&r, SERVER)) {
            sensible(&lease);
            let json = serde_json::to_string(&lease).unwrap();
            prop_assert_eq!(serde_json::from_str::<Lease>(&json).unwrap(), lease);
        }
    }

    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut long = vec![0; 240];
        (long[0], long[2]) = (2, 6);
        long[236..].copy_from_slice(&[99, 130, 83, 99]);
        long.extend([53, 1, 5]);
        long.extend(&bytes);
        prop_assert!(Reply::read(&bytes).is_none_or(|r| r.text().len() < 1024));
        if let Some(Ok(lease)) = Reply::read(&long).map(|r| Lease::of(&r, SERVER)) {
            sensible(&lease);
        }
    }
}

fn sensible(lease: &Lease) {
    assert!(is_host(lease.address) && (1..=32).contains(&lease.prefix), "{lease:?}");
    assert!(0 < lease.seconds && lease.t1 <= lease.t2 && lease.t2 <= lease.seconds, "{lease:?}");
    assert!(lease.seconds == 1 || lease.t2 > 0, "{lease:?}");
    assert!(lease.mtu.is_none_or(|m| m >= 68));
    assert!(lease.routers.iter().chain(&lease.dns).all(|a| is_host(*a)));
    for route in &lease.routes {
        assert!(route.dst.ip() == route.dst.network() && route.gw.is_none_or(is_host), "{route:?}");
    }
    for name in lease.search.iter().chain(&lease.domain).chain(&lease.hostname) {
        assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)), "{name:?}");
    }
}

struct Play {
    machine: Machine,
    now: Duration,
    last: Vec<u8>,
    probing: Option<Ipv4Addr>,
    declined: BTreeSet<Ipv4Addr>,
    over: bool,
}

impl Play {
    fn new(machine: Machine) -> Self {
        let (last, declined) = (Vec::new(), BTreeSet::new());
        let mut play = Self { machine, now: BEGIN, last, probing: None, declined, over: false };
        play.drain();
        play
    }

    fn turn(&mut self, turn: Turn) {
        match turn {
            Turn::Bytes(b) => {
                self.machine.receive(self.now, SERVER, &b);
                assert_eq!(self.machine.next(), None, "no random bytes have the transaction's number");
            }
            Turn::Answer { kind, address, server, bent, options } => {
                let reply = bend(bytes(&self.last, kind, address, server, &options), bent);
                let before = format!("{:?}", self.machine);
                self.machine.receive(self.now, server.unwrap_or(NOBODY), &reply);
                if bent != 0 {
                    assert_eq!(format!("{:?}", self.machine), before, "bent in way {bent}");
                }
            }
            Turn::Wait(ms) => {
                self.now += Duration::from_millis(ms);
                self.machine.tick(self.now);
            }
            Turn::Probed(taken) => {
                if let Some(address) = self.probing.take() {
                    self.declined.extend(taken.then_some(address));
                    self.machine.probed(self.now, taken);
                }
            }
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(action) = self.machine.next() {
            assert!(!self.over, "{action:?} after the end");
            match action {
                Action::Send { from, to, payload } => {
                    hold_to_the_rules(&question(&payload), from, to, payload.len());
                    if !question(&payload).opts().has_msg_type(MessageType::Decline) {
                        self.last = payload;
                    }
                }
                Action::Probe(address) => {
                    assert!(self.probing.is_none() && !self.declined.contains(&address));
                    self.probing = Some(address);
                }
                Action::Bound(lease) => {
                    sensible(&lease);
                    assert_eq!(Some(lease.address), self.asked_for());
                    assert!(named_server(&question(&self.last)).is_none_or(|s| s == lease.server));
                    self.over = true;
                }
                Action::Lost(why) => {
                    assert!(!matches!(why, Why::Taken(a) if !self.declined.contains(&a)));
                    self.over = true;
                }
            }
        }
        let waits = self.machine.deadline().is_some();
        assert!(waits != (self.over || self.probing.is_some()), "it waits for an answer, a probe, or nothing");
        assert!(!self.machine.trouble().is_empty());
    }

    /// By the last question.
    fn asked_for(&self) -> Option<Ipv4Addr> {
        let m = question(&self.last);
        requested(&m).or(Some(m.ciaddr()).filter(|a| *a != NOBODY))
    }
}
