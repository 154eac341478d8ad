//! Bursts: many pods at once, and several networks of one pod at once.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::attachment::{plain, vm};
use crate::harness::{Call, Lab, Running, store_files};
use crate::machine::{LINK, TAP, bind};

fn all(calls: &[Call], verb: &str) -> Vec<Value> {
    let running: Vec<Running> = calls.iter().map(|call| call.start(verb)).collect();
    let replies: Vec<_> = running.into_iter().map(Running::wait).collect();
    replies
        .iter()
        .map(|reply| {
            assert!(reply.status.success(), "{verb}: {} {}", reply.stdout, reply.stderr);
            serde_json::from_str(&reply.stdout).unwrap_or(Value::Null)
        })
        .collect()
}

/// 50 pods on one bridge and one store.
#[test]
fn fifty_pods() {
    let (lab, _lan) = Lab::with_lan();
    let pods: Vec<_> = (0..50).map(|_| lab.pod()).collect();
    let calls: Vec<Call> = pods.iter().map(|pod| plain(&lab, pod)).collect();
    let results = all(&calls, "ADD");
    let addresses: BTreeSet<&str> = results.iter().map(|r| r["ips"][0]["address"].as_str().unwrap()).collect();
    assert_eq!(addresses.len(), pods.len());
    for (result, pod) in results.iter().zip(&pods) {
        assert_eq!(pod.addresses("net1"), [result["ips"][0]["address"].as_str().unwrap()]);
        assert_eq!(lab.node.other_end(pod, "net1").master.as_deref(), Some("br-lan"));
    }
    all(&calls, "DEL");
    assert!(store_files(&lab.store()).is_empty() && lab.journal().is_empty());
    assert!(pods.iter().all(|pod| pod.find("net1").is_none()));
}

/// Several networks of one pod at once: one container's calls wait for each other and all succeed.
#[test]
fn one_pod_many_interfaces() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let calls: Vec<Call> = (1..=6).map(|n| plain(&lab, &pod).ifname(&format!("net{n}"))).collect();
    all(&calls, "ADD");
    assert_eq!(pod.links().len(), 7);
    all(&calls, "DEL");
    assert_eq!(pod.names(), ["lo"]);
    assert!(store_files(&lab.store()).is_empty());
}

/// Wires and binds of ten machines.
#[test]
fn ten_machines() {
    let (lab, _lan) = Lab::with_lan();
    let pods: Vec<_> = (0..10).map(|_| lab.pod()).collect();
    let name = |n: usize| format!("virt-launcher-vm{n}-abcde");
    let wires: Vec<Call> = pods.iter().enumerate().map(|(n, pod)| vm(&lab, pod).of_pod("default", &name(n))).collect();
    let binds: Vec<Call> =
        pods.iter().enumerate().map(|(n, pod)| bind(&lab, pod).of_pod("default", &name(n))).collect();
    all(&wires, "ADD");
    all(&binds, "ADD");
    let macs: BTreeSet<String> = pods.iter().map(|pod| pod.link(LINK).mac).collect();
    assert_eq!(macs.len(), pods.len());
    assert!(pods.iter().all(|pod| pod.link(TAP).up));
    // Runtimes delete in any order: some binds first, some wires first.
    let (early, late): (Vec<_>, Vec<_>) = wires.iter().zip(&binds).enumerate().partition(|(n, _)| n % 2 == 0);
    let first: Vec<Call> =
        early.iter().map(|(_, (w, _))| (*w).clone()).chain(late.iter().map(|(_, (_, b))| (*b).clone())).collect();
    let second: Vec<Call> =
        early.iter().map(|(_, (_, b))| (*b).clone()).chain(late.iter().map(|(_, (w, _))| (*w).clone())).collect();
    all(&first, "DEL");
    all(&second, "DEL");
    assert!(pods.iter().all(|pod| pod.names() == ["lo"]));
    assert!(store_files(&lab.store()).is_empty() && lab.journal().is_empty());
}

/// The same DEL several times at once, as a runtime that restarts may do.
#[test]
fn same_delete_at_once() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut call = plain(&lab, &pod).with("macspoofchk", json!(true));
    call.add();
    all(&[call.clone(), call.clone(), call.clone(), call], "DEL");
    assert_eq!(pod.names(), ["lo"]);
    assert!(store_files(&lab.store()).is_empty() && lab.journal().is_empty());
}
