//! kill -9 of the keeper, daemon and agent in turn, at random moments, while pods come and go: no lease of a living pod
//! is lost, none is renewed for a pod that is gone.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Node, client_id, clock, setting, within};
use crate::dhcp::{Entry, address, records};
use crate::harness::{Call, Netns};

/// T1 after six seconds.
const SECONDS: u32 = 12;
/// Pods that live all the time, and places for those that come and go.
const STEADY: usize = 6;
const PLACES: usize = 3;
/// What is on its way when a pod goes is no renewal for one that is gone: a child's patience, and the server's clock of
/// whole seconds.
const ON_ITS_WAY: u64 = 6;

/// Enough of chance for moments (Marsaglia's xorshift).
struct Chance(u64);

impl Chance {
    fn new(n: usize) -> Self {
        let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        Self(seed ^ (n as u64) << 40 | 1)
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_millis(from + self.0 % (to - from))
    }
}

/// Says stop when it is dropped, also by a test that fails: nobody else would end.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A pod that is gone: its client, and the second since when.
struct Gone {
    client: String,
    at: u64,
}

/// Pods one after the other, until it is said to stop. Each fourth goes without a DEL, as when a runtime is killed; the DEL
/// comes at the end.
fn come_and_go(node: &Node, place: usize, stop: &AtomicBool, serial: &AtomicUsize) -> Vec<Gone> {
    let mut chance = Chance::new(place);
    let (mut gone, mut late) = (Vec::new(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let nth = serial.fetch_add(1, Ordering::Relaxed);
        let mut pod = node.lab.pod();
        let mut call = node.call(&pod, nth);
        call.add();
        thread::sleep(chance.millis(50, 9000));
        if nth.is_multiple_of(4) {
            pod.remove();
            late.push(call);
        } else {
            call.del();
        }
        gone.push(Gone { client: client_id(&pod), at: clock() });
    }
    late.iter().for_each(Call::del);
    gone
}

/// The server's words on one client.
fn of<'e>(journal: &'e [Entry], client: &str) -> Vec<&'e Entry> {
    journal.iter().filter(|entry| entry.leased.client_id == client).collect()
}

fn kill_again_and_again(node: &Node, kills: usize) {
    let mut chance = Chance::new(PLACES);
    for n in 0..kills {
        let keeper = if n.is_multiple_of(2) { node.keeper() } else { node.agent() };
        thread::sleep(chance.millis(5, 1200));
        drop(keeper);
    }
}

#[test]
fn at_random_moments() {
    let kills = setting("TRESTLE_KILLS", 20);
    let node = Node::new(STEADY + PLACES, SECONDS);
    let server = node.server();
    let steady: Vec<Netns> = (0..STEADY).map(|_| node.lab.pod()).collect();
    let mut calls: Vec<Call> = steady.iter().enumerate().map(|(n, pod)| node.call(pod, n)).collect();
    let given: Vec<String> =
        calls.iter_mut().map(|call| call.add()["ips"][0]["address"].as_str().unwrap().into()).collect();
    let (stop, serial) = (AtomicBool::new(false), AtomicUsize::new(STEADY));
    let gone: Vec<Gone> = thread::scope(|scope| {
        let (node, stop, serial) = (&node, &stop, &serial);
        let places: Vec<_> = (0..PLACES).map(|n| scope.spawn(move || come_and_go(node, n, stop, serial))).collect();
        let stop = Stop(stop);
        kill_again_and_again(node, kills);
        drop(stop);
        // One that is not killed, while the last ones go.
        let (since, keeper) = (clock(), node.keeper());
        let gone = places.into_iter().flat_map(|place| place.join().unwrap()).collect();
        within(Duration::from_secs(60), "the last keeper renews", || {
            let journal = server.journal();
            steady.iter().all(|pod| of(&journal, &client_id(pod)).last().is_some_and(|e| e.at > since))
        });
        drop(keeper);
        gone
    });

    let journal = server.journal();
    for (pod, given) in steady.iter().zip(&given) {
        let entries = of(&journal, &client_id(pod));
        let longest = entries.windows(2).map(|two| two[1].at - two[0].at).max().unwrap();
        assert!(longest < u64::from(SECONDS), "{given}: {longest} s between two renewals");
        assert!(entries.iter().all(|e| e.lent && given.starts_with(&format!("{}/", e.leased.address))), "{entries:?}");
        assert_eq!(address(pod, "net1").map(|(net, _)| net).as_ref(), Some(given));
    }
    for Gone { client, at } in &gone {
        let after: Vec<_> = of(&journal, client).into_iter().filter(|e| e.lent && e.at > at + ON_ITS_WAY).collect();
        assert!(after.is_empty(), "renewed for a pod that is gone since {at}: {after:?}");
    }
    assert_eq!(records(&node.lab).len(), STEADY);
    node.none_was_lost();
    eprintln!("{kills} kills, {} pods came and went, {} words of the server", gone.len(), journal.len());
    calls.iter().for_each(Call::del);
    assert!(records(&node.lab).is_empty());
}
