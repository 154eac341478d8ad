//! Many at once on one store: threads, processes, and processes that are killed at each step.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Lab, V4, V6, add, who};
use crate::types::Code;

/// Where [`a_worker_adds_and_deletes`] works, when it is run as a process of its own, and as whom.
const PLACE: &str = "TRESTLE_TEST_PLACE";
const NAME: &str = "TRESTLE_TEST_NAME";

#[test]
fn fifty_threads_get_fifty_addresses() {
    let lab = Lab::new();
    let given: Vec<String> = std::thread::scope(|s| {
        let one = |i: usize| {
            let lab = &lab;
            s.spawn(move || add(&lab.sets(&[V4, V6]), lab, &format!("id-{i}")).unwrap())
        };
        let threads: Vec<_> = (0..50).map(one).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    let distinct: BTreeSet<_> = given.iter().collect();
    assert_eq!((given.len(), distinct.len(), lab.addresses().len(), lab.list().len()), (100, 100, 100, 100));
    std::thread::scope(|s| {
        for i in 0..50 {
            let lab = &lab;
            s.spawn(move || lab.sets(&[V4, V6]).del(&who(&format!("id-{i}"), "eth0"), &lab.dirs).unwrap());
        }
    });
    assert!(lab.addresses().is_empty() && lab.list().is_empty());
}

#[test]
fn twelve_threads_for_five_addresses() {
    let lab = Lab::new();
    let outcomes: Vec<Result<Vec<String>, Code>> = std::thread::scope(|s| {
        let one = |i: usize| {
            let lab = &lab;
            s.spawn(move || add(&lab.sets(&["10.1.2.0/29"]), lab, &format!("id-{i}")))
        };
        let threads: Vec<_> = (0..12).map(one).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let distinct: BTreeSet<_> = outcomes.iter().flatten().flatten().collect();
    assert_eq!(distinct.len(), 5);
    assert_eq!(outcomes.iter().filter(|o| **o == Err(Code::IpamExhausted)).count(), 7);
}

#[test]
fn the_store_vanishes_under_those_who_wait() {
    let lab = Lab::new();
    let local = lab.sets(&[V4]);
    add(&local, &lab, "first").unwrap();
    let lock = crate::store::hold(&lab.store().join("lock"), 0o750).unwrap();
    std::thread::scope(|s| {
        let waiting: Vec<_> = (0..4)
            .map(|i| {
                let lab = &lab;
                s.spawn(move || add(&lab.sets(&[V4]), lab, &format!("id-{i}")).unwrap())
            })
            .collect();
        std::thread::sleep(std::time::Duration::from_millis(30));
        std::fs::remove_dir_all(lab.store()).unwrap();
        drop(lock);
        let given: BTreeSet<_> = waiting.into_iter().flat_map(|t| t.join().unwrap()).collect();
        assert_eq!(given.len(), 4);
    });
    assert_eq!(lab.addresses(), ["10.1.2.2", "10.1.2.3", "10.1.2.4", "10.1.2.5"], "all of them in the new store");
}

/// Also the body of the processes below.
#[test]
fn a_worker_adds_and_deletes() {
    let own = std::env::var_os(PLACE).is_none().then(Lab::new);
    let lab = own.unwrap_or_else(|| Lab::at(Path::new(&std::env::var_os(PLACE).unwrap())));
    let name = std::env::var(NAME).unwrap_or_else(|_| "worker".into());
    let local = lab.sets(&[V4, V6]);
    local.add(&who(&name, "eth1"), &lab.dirs).unwrap();
    local.del(&who(&name, "eth1"), &lab.dirs).unwrap();
    assert_eq!(add(&local, &lab, &name).unwrap().len(), 2);
    local.check(&who(&name, "eth0"), &lab.dirs).unwrap();
}

fn worker(lab: &Lab, name: &str) -> Command {
    #[expect(clippy::disallowed_methods, reason = "a test runs itself in processes of its own")]
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "ipam::hostlocal::tests::crowd::a_worker_adds_and_deletes"])
        .env(PLACE, &lab.root)
        .env(NAME, name)
        .env_remove("TRESTLE_FAIL_AT")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

#[test]
fn processes_share_a_store() {
    let lab = Lab::new();
    let children: Vec<_> = (0..20).map(|i| worker(&lab, &format!("p{i}")).spawn().unwrap()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!((lab.addresses().len(), lab.list().len()), (40, 40));
    let owners: BTreeSet<String> = lab.files().into_values().filter(|c| c.contains("eth0")).collect();
    assert_eq!(owners.len(), 20);
}

#[test]
fn killed_anywhere_a_del_leaves_nothing() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let whole = Lab::new();
    let status = worker(&whole, "whole").env("TRESTLE_FAIL_LOG", log.path()).status().unwrap();
    assert!(status.success());
    let places: Vec<String> = std::fs::read_to_string(log.path()).unwrap().lines().map(str::to_owned).collect();
    assert!(places.len() >= 16, "too few places to be killed at: {places:?}");
    for (i, place) in places.iter().enumerate() {
        let lab = Lab::new();
        let local = lab.sets(&[V4, V6]);
        add(&local, &lab, "other").unwrap();
        let status = worker(&lab, "dead").env("TRESTLE_FAIL_AT", (i + 1).to_string()).status().unwrap();
        assert_eq!(status.signal(), Some(9), "killed at {place}");
        let all = lab.files();
        assert!(all.values().all(|content| !content.is_empty()), "an empty file after {place}: {all:?}");
        for ifname in ["eth1", "eth0"] {
            local.del(&who("dead", ifname), &lab.dirs).unwrap();
        }
        assert_eq!(lab.addresses(), ["10.1.2.2", "2001:db8:42::2"], "after a kill at {place}");
        assert_eq!(lab.list().len(), 2, "after a kill at {place}: {:?}", lab.list());
        add(&local, &lab, "dead").unwrap();
    }
}
