//! Each lease is renewed on time, again and again, and what that costs.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use super::cost::{Cost, memory};
use super::{Keeper, Node, all, client_id, clock, setting, within};
use crate::dhcp::{Entry, Server, address, records};
use crate::harness::{Call, Netns};

const RENEWALS: usize = 3;
/// The issue's, with a thousand leases.
const MEMORY: u64 = 40 * 1024;

/// Of each client what the server lent it, in the order of time.
fn by_client(journal: Vec<Entry>) -> BTreeMap<String, Vec<Entry>> {
    let mut clients: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
    for entry in journal {
        clients.entry(entry.leased.client_id.clone()).or_default().push(entry);
    }
    clients
}

/// Seconds between two words of the server on one lease.
fn gaps(clients: &BTreeMap<String, Vec<Entry>>) -> Vec<u64> {
    let mut gaps: Vec<u64> =
        clients.values().flat_map(|entries| entries.windows(2).map(|two| two[1].at - two[0].at)).collect();
    gaps.sort_unstable();
    gaps
}

/// In half of it each lease is renewed so often.
fn term(node: &Node) -> Duration {
    Duration::from_secs(node.seconds.into()) * RENEWALS as u32
}

/// No keeper for a while, as in an upgrade that takes long; then the agent, which finds most leases due at once.
fn late(node: &Node, server: &Server, keeper: Keeper) {
    drop(keeper);
    let since = server.journal().len();
    let last =
        || by_client(server.journal()).into_iter().map(|(client, entries)| (entries[entries.len() - 1].at, client));
    // The oldest has then a quarter of its time left.
    let oldest = last().map(|(at, _)| at).min().unwrap();
    within(term(node), "leases grow old", || clock() >= oldest + u64::from(node.seconds) * 3 / 4);
    let t1 = u64::from(node.seconds) / 2;
    let due: Vec<String> = last().filter(|(at, _)| at + t1 <= clock()).map(|(_, client)| client).collect();
    assert!(!due.is_empty() && server.journal().len() == since, "nobody renewed, and something is due");
    let begin = Instant::now();
    let agent = node.agent();
    within(Duration::from_secs(60), "the agent renews what is due", || {
        let renewed = by_client(server.journal().split_off(since));
        due.iter().all(|client| renewed.contains_key(client))
    });
    let took = begin.elapsed();
    let (rss, pss) = memory(agent.id());
    eprintln!(
        "{} due at once: renewed {took:.1?} after the agent's start; it has {rss} KiB, {pss} KiB of its own",
        due.len()
    );
    assert!(rss <= MEMORY, "{rss} KiB");
}

#[test]
fn all_are_renewed_again_and_again() {
    let (count, seconds) = (setting("TRESTLE_LEASES", 24), setting("TRESTLE_LEASE_SECONDS", 20));
    let node = Node::new(count, u32::try_from(seconds).unwrap());
    let server = node.server();
    let pods: Vec<Netns> = (0..count).map(|_| node.lab.pod()).collect();
    let calls: Vec<Call> = pods.iter().enumerate().map(|(n, pod)| node.call(pod, n)).collect();
    let keeper = node.keeper();
    let began = Instant::now();
    let results = all(&calls, "ADD");
    eprintln!(
        "{count} leases of {seconds} s: {CALLS} ADDs at once, all after {:.1?}",
        began.elapsed(),
        CALLS = super::CALLS
    );

    let before = Cost::of(keeper.id());
    let from = server.journal().len();
    // At half of a lease's time each; whoever misses one has missed the end of the test.
    thread::sleep(term(&node) / 2);
    within(term(&node), "all are renewed three times", || {
        let clients = by_client(server.journal().split_off(from));
        clients.len() == count && clients.values().all(|entries| entries.len() >= RENEWALS)
    });
    let share = before.until(&Cost::of(keeper.id()));
    let renewals = server.journal().len() - from;
    let (rss, pss) = memory(keeper.id());

    let clients = by_client(server.journal());
    let gaps = gaps(&clients);
    let (t1, t2) = (seconds as u64 / 2, seconds as u64 * 7 / 8);
    eprintln!(
        "{renewals} renewals in {:.0?}, {:.1} a second; due after {t1} s: median {} s, last {} s (rebinding from {t2} s)",
        share.time,
        renewals as f64 / share.time.as_secs_f64(),
        gaps[gaps.len() / 2],
        gaps[gaps.len() - 1],
    );
    eprintln!(
        "keeper: {:.2} % of a CPU itself, {:.2} % its children ({:.1} ms each), {rss} KiB resident, {pss} KiB of its own",
        share.own,
        share.children,
        share.children * 10.0 * share.time.as_secs_f64() / renewals as f64,
    );
    assert!(gaps[gaps.len() - 1] <= t2, "one was renewed after its rebinding time only");
    assert!(rss <= MEMORY, "{rss} KiB");
    for ((pod, result), call) in pods.iter().zip(&results).zip(&calls) {
        let given = result["ips"][0]["address"].as_str().unwrap();
        let of_pod = &clients[&client_id(pod)];
        assert!(of_pod.iter().all(|e| e.lent && given.starts_with(&format!("{}/", e.leased.address))), "{of_pod:?}");
        let (net, left) = address(pod, "net1").unwrap_or_else(|| panic!("{given} is gone from its link"));
        // A pod whose renewal is under way now may be at its rebinding time, no later.
        assert!(net == given && left >= seconds as u64 / 8, "{net}, {left} s left, {:?}", call.conf());
    }
    late(&node, &server, keeper);
    node.none_was_lost();
    all(&calls, "DEL");
    within(Duration::from_secs(20), "the server has all addresses back", || server.leased().is_empty());
    assert!(node.lab.journal().is_empty() && records(&node.lab).is_empty());
}
