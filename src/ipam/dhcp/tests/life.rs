//! Leases over hours: several clients with a keeper each, on a wire that fails and with a server that comes and goes.

use super::*;
use crate::ipam::dhcp::{Lease, Why};

const HOUR: Duration = Duration::from_secs(3600);

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever the wire does at first, everybody gets an address of their own, and none that somebody sits on.
    #[test]
    fn everybody_gets_an_address(count in 1_u8..7, machines in any::<u8>(), squatted in any::<u8>(), wire in fates()) {
        let ids = (0..count).map(|n| if machines >> n & 1 == 1 { guest(n) } else { pod(n) }).collect();
        let mut lan = Lan::new(Server::new(4 * 3600, 10..40), ids, wire);
        lan.squatters = (0..8).filter(|n| squatted >> n & 1 == 1).map(|n| host(10 + n)).collect();
        let begin = lan.now;
        (0..lan.clients.len()).for_each(|c| lan.start(c, Start::Discover));
        let mut bound = BTreeMap::new();
        let mut at = begin;
        while bound.len() < lan.clients.len() {
            prop_assert!(at < begin + HOUR, "not before an hour");
            for (client, last) in lan.advance(at) {
                let Action::Bound(lease) = last else { panic!("{last:?}") };
                prop_assert!(!lan.squatters.contains(&lease.address));
                prop_assert_eq!(&lan.server.held[&lease.address].client, &lan.clients[client].id.client_id);
                prop_assert!(bound.insert(client, lease.address).is_none(), "bound once");
            }
            at = lan.next().unwrap_or(begin + HOUR);
        }
        prop_assert_eq!(bound.values().collect::<BTreeSet<_>>().len(), bound.len());
    }

    /// Nobody ever holds an address that the server does not count as theirs, so no two hold the same.
    #[test]
    fn nobody_holds_what_is_not_theirs(
        seconds in prop::sample::select(vec![2_u32, 5, 30, 600]), count in 1_u8..5, room in 1_u8..5,
        outages in prop::collection::vec((0_u64..3000, 0_u64..1500), 0..4), wire in fates(),
    ) {
        let ids = (0..count).map(|n| if n % 2 == 1 { guest(n) } else { pod(n) }).collect();
        let lan = Lan::new(Server::new(seconds, 10..10 + room), ids, wire);
        let mut keeper = Keeper::new(lan);
        let length = Duration::from_secs(u64::from(seconds) * 6);
        keeper.outages = outages.iter().map(|(from, long)| {
            let part = |thousandth: u64| length * u32::try_from(thousandth).unwrap() / 3000;
            (keeper.lan.now + part(*from), keeper.lan.now + part(from + long))
        }).collect();
        keeper.run(length);
    }
}

/// With a server that answers, a lease of two seconds and one of a day are held without a gap.
#[test]
fn a_lease_is_held_without_a_gap() {
    for seconds in [2, 10, 86_400] {
        let mut keeper = Keeper::new(Lan::new(Server::new(seconds, 10..20), vec![pod(1), guest(2)], Vec::new()));
        keeper.run(Duration::from_secs(20 * u64::from(seconds)));
        assert_eq!((keeper.got, keeper.lost), (2, 0), "{seconds}");
    }
}

/// A server that takes six seconds for each answer, longer than the first round waits for one.
#[test]
fn a_slow_server_is_waited_for() {
    let wire = vec![Fate { lost: false, delays: vec![Duration::from_secs(3)] }; 1000];
    let mut lan = Lan::new(Server::new(3600, 10..20), vec![pod(1)], wire);
    let begin = lan.now;
    lan.start(0, Start::Discover);
    while lan.advance(lan.next().unwrap_or(begin)).is_empty() {
        assert!(lan.now < begin + Duration::from_secs(60), "no lease after a minute");
    }
}

/// What the agent does, in small: renews, rebinds, drops.
struct Keeper {
    lan: Lan,
    outages: Vec<(Duration, Duration)>,
    held: Vec<Option<(Lease, Duration)>>,
    wake: Vec<Duration>,
    got: u32,
    lost: u32,
}

fn after(since: Duration, seconds: u32) -> Duration {
    since + Duration::from_secs(seconds.into())
}

impl Keeper {
    fn new(lan: Lan) -> Self {
        let count = lan.clients.len();
        let wake = vec![lan.now; count];
        Self { outages: Vec::new(), held: (0..count).map(|_| None).collect(), wake, got: 0, lost: 0, lan }
    }

    fn run(&mut self, length: Duration) {
        let end = self.lan.now + length;
        loop {
            let ends = self.held.iter().flatten().map(|(l, since)| after(*since, l.seconds));
            let wakes = self.wake.iter().copied().chain(ends).chain(self.lan.next());
            let now = wakes.min().unwrap_or(end).max(self.lan.now);
            if now >= end {
                return;
            }
            self.step(now);
        }
    }

    fn step(&mut self, now: Duration) {
        self.lan.now = now;
        self.lan.server.up = !self.outages.iter().any(|(from, to)| (*from..*to).contains(&now));
        for client in 0..self.held.len() {
            self.drop_or_ask(client, now);
        }
        for (client, last) in self.lan.advance(now) {
            self.learn(client, last, now);
        }
        let held: Vec<_> = self.held.iter().enumerate().filter_map(|(c, h)| Some((c, h.as_ref()?))).collect();
        for (client, (lease, _)) in held {
            let theirs = &self.lan.server.held[&lease.address];
            assert!(theirs.client == self.lan.clients[client].id.client_id && theirs.until > now, "{lease:?}");
        }
    }

    fn drop_or_ask(&mut self, client: usize, now: Duration) {
        let over = self.held[client].as_ref().is_some_and(|(l, since)| after(*since, l.seconds) <= now);
        if over {
            self.held[client] = None;
            self.lost += 1;
            self.wake[client] = now;
        }
        if self.wake[client] > now {
            return;
        }
        let start = match &self.held[client] {
            None => Start::Discover,
            Some((l, since)) if after(*since, l.t2) <= now => Start::Rebind(l.clone()),
            Some((l, _)) => Start::Renew(l.clone()),
        };
        self.lan.start(client, start);
        self.wake[client] = Duration::MAX;
    }

    fn learn(&mut self, client: usize, last: Action, now: Duration) {
        match last {
            Action::Bound(lease) => {
                let machine = self.lan.clients[client].machine.as_ref().expect("it has just spoken");
                let since = machine.asked();
                self.got += u32::from(self.held[client].is_none());
                self.wake[client] = after(since, lease.t1).max(now);
                // A probe may outlast a lease of two seconds.
                self.held[client] = Some((lease, since)).filter(|(l, since)| after(*since, l.seconds) > now);
            }
            Action::Lost(Why::Silent) => self.wake[client] = now + Duration::from_millis(500),
            Action::Lost(_) => {
                self.held[client] = None;
                self.lost += 1;
                self.wake[client] = now;
            }
            other => panic!("{other:?} is no end"),
        }
    }
}
