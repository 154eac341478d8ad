//! Kills, sleep, full disks, torn files, pods that are gone, two keepers.

use super::*;
use crate::store::full::{fill, on_tmpfs};

fn paused<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(future)
}

/// Not a good one, and always the same.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[tokio::test(start_paused = true)]
async fn killed_at_random_moments_in_a_churn_of_pods() {
    let node = Node::new(900);
    let mut dice = Dice(6);
    let (mut living, mut next, mut removed) = (Vec::new(), 0, Vec::new());
    for _ in 0..200 {
        for _ in 0..dice.below(3) {
            node.add(next);
            living.push(next);
            next += 1;
        }
        if living.len() > 20 {
            let n = living.swap_remove(usize::try_from(dice.below(20)).unwrap());
            node.del(n);
            removed.push((n, node.clock.now()));
        }
        // From amid the first look to some rounds of renewals.
        node.keep(Duration::from_micros(dice.below(400_000_000))).await;
        sleep(Duration::from_secs(dice.below(60))).await;
    }
    let model = node.server.model();
    assert!(model.lapsed.is_empty(), "{:?}", model.lapsed);
    for n in &living {
        assert!(model.leases[n].1 > node.clock.now(), "pod {n} has no lease any more");
    }
    for (n, at) in removed {
        let after: Vec<_> = model.seen.iter().filter(|(when, who, _)| *who == n && *when > at).collect();
        assert!(after.is_empty(), "pod {n} is gone: {after:?}");
    }
    assert!(model.seen.len() > 1000, "only {} questions", model.seen.len());
    drop(model);
    assert_eq!(Leases::new(&node.dirs).all::<Job>().unwrap().len(), living.len());
}

#[tokio::test(start_paused = true)]
async fn a_node_that_slept() {
    let node = Node::new(3600);
    node.add(1);
    let pods = async {
        sleep(Duration::from_secs(60)).await;
        node.clock.sleep_through(2400);
        sleep(Duration::from_secs(11)).await;
        assert_eq!(node.server.seen(1), [Asked::Renew], "noticed at once");
        node.clock.sleep_through(24 * 3600);
        sleep(Duration::from_secs(11)).await;
        assert_eq!(node.server.seen(1)[1..], [Asked::Reboot], "the same address, if nobody has it");
        assert_eq!(node.address(1), Some(lease(1, 1).address));
        node.server.model().refused.insert(lease(1, 1).address);
        node.clock.sleep_through(24 * 3600);
        sleep(Duration::from_secs(20)).await;
        assert_eq!(node.server.seen(1)[2..], [Asked::Reboot, Asked::Drop, Asked::First]);
    };
    tokio::select! {
        ended = keep(node.keeper()) => panic!("{ended:?}"),
        () = pods => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_keeper_that_comes_late() {
    let node = Node::new(600);
    for n in [1, 2, 3] {
        node.add(n);
    }
    node.server.model().refused.insert(lease(3, 1).address);
    sleep(Duration::from_secs(250)).await;
    node.add(4);
    sleep(Duration::from_secs(400)).await;
    node.keep_for(60).await;
    assert_eq!(node.server.seen(1), [Asked::Reboot]);
    assert_eq!(node.server.seen(3), [Asked::Reboot, Asked::Drop, Asked::First]);
    assert_eq!(node.server.seen(4), [Asked::Renew], "what has not run out goes on as it was");
}

#[tokio::test(start_paused = true)]
async fn what_nobody_has_kept_for_long_is_asked_for_at_once() {
    let node = Node::new(600);
    node.add(1);
    sleep(Duration::from_secs(440)).await;
    node.add(2);
    sleep(Duration::from_secs(100)).await;
    node.add(3);
    node.keep_for(5).await;
    assert_eq!(node.server.seen(1), [Asked::Reboot], "after T2");
    assert_eq!(node.server.seen(2), [Asked::Renew], "long before T1");
    assert_eq!(node.server.seen(3), [], "new");
    assert!(node.record(2).unwrap().got_at > node.record(2).unwrap().made);
    // Silence takes nothing from it: it is asked for in its time.
    node.server.model().up = false;
    sleep(Duration::from_secs(60)).await;
    node.keep_for(100).await;
    assert_eq!(node.server.seen(2), [Asked::Renew, Asked::Renew]);
    node.server.model().up = true;
    node.keep_for(150).await;
    assert_eq!(node.server.seen(2), [Asked::Renew, Asked::Renew, Asked::Renew]);
    assert!(node.server.model().lapsed.is_empty());
}

#[tokio::test(start_paused = true)]
async fn how_many_are_kept_is_said_at_once() {
    let node = Node::new(600);
    let kept = || *node.told.kept.lock().unwrap();
    let pods = async {
        sleep(Duration::from_secs(2)).await;
        node.add(1);
        node.add(2);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(kept(), 2);
        node.del(2);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(kept(), 1);
    };
    tokio::select! {
        ended = keep(node.keeper()) => panic!("{ended:?}"),
        () = pods => {}
    }
}

#[tokio::test(start_paused = true)]
async fn who_had_no_keeper_for_long_is_told_once() {
    let node = Node::new(600);
    let unkept = |n| node.news(n).into_iter().filter(|news| matches!(news, News::Unkept(_))).collect::<Vec<_>>();
    node.add(1);
    sleep(Duration::from_secs(40)).await;
    node.add(2);
    node.keep_for(15).await;
    let News::Unkept(time) = unkept(1)[0] else { unreachable!() };
    assert!((40..50).contains(&time.as_secs()) && unkept(2).is_empty(), "{time:?}");
    // An agent that is begun again.
    sleep(Duration::from_secs(15)).await;
    node.keep_for(15).await;
    assert_eq!((unkept(1).len(), unkept(2).len()), (1, 0));
    sleep(Duration::from_secs(100)).await;
    node.keep_for(15).await;
    assert_eq!((unkept(1).len(), unkept(2).len()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_record_of_the_future_is_renewed_and_not_believed() {
    let node = Node::new(600);
    let mut record = node.add(1);
    record.got_at += 1_000_000_000;
    Leases::new(&node.dirs).write(&record).unwrap();
    node.keep_for(5).await;
    assert_eq!(node.server.seen(1), [Asked::Renew]);
    assert!(node.record(1).unwrap().got_at < record.got_at);
}

#[test]
fn a_full_disk_keeps_nothing_from_being_renewed() {
    on_tmpfs("size=128k", |at| {
        paused(async {
            let node = Node::at(at, 600);
            let before = node.add(1);
            fill(at);
            node.keep_for(700).await;
            assert_eq!(node.server.seen(1), [Asked::Renew, Asked::Renew]);
            assert_eq!(node.record(1), Some(before.clone()), "the one before stands");
            // The next keeper believes the disk: it has run out, as far as that says.
            node.keep_for(250).await;
            assert_eq!(node.server.seen(1)[2..], [Asked::Reboot]);
            let more = async {
                sleep(Duration::from_secs(20)).await;
                std::fs::remove_file(at.join("ballast")).unwrap();
                sleep(Duration::from_secs(20)).await;
                assert_eq!(node.server.seen(1).len(), 4, "asked once by this keeper");
                assert!(node.record(1).unwrap().got_at > before.got_at, "written as soon as there is room");
            };
            tokio::select! {
                ended = keep(node.keeper()) => panic!("{ended:?}"),
                () = more => {}
            }
        });
    });
}

#[tokio::test(start_paused = true)]
async fn a_torn_record_costs_only_itself() {
    let node = Node::new(600);
    node.add(1);
    let whole = node.add(2);
    for name in ["c2~net1.json", "c2~net1.json.copy"] {
        std::fs::write(node.dirs.state.join("leases").join(name), "{").unwrap();
    }
    let pods = async {
        sleep(Duration::from_secs(320)).await;
        assert_eq!((node.server.seen(1), node.server.seen(2)), (vec![Asked::Renew], vec![]));
        // Torn while it is kept: its task knows what it says.
        assert_eq!(*node.told.torn.lock().unwrap(), ["c2~net1.json"], "once");
        for name in ["c1~net1.json", "c1~net1.json.copy"] {
            std::fs::write(node.dirs.state.join("leases").join(name), "").unwrap();
        }
        Leases::new(&node.dirs).write(&whole).unwrap();
        sleep(Duration::from_secs(320)).await;
        assert_eq!(node.server.seen(1), [Asked::Renew, Asked::Renew]);
        assert_eq!(node.address(1), Some(lease(1, 1).address));
        assert_eq!(node.server.seen(2)[0], Asked::Renew, "taken up when it can be read");
    };
    tokio::select! {
        ended = keep(node.keeper()) => panic!("{ended:?}"),
        () = pods => {}
    }
}

/// While no keeper runs: the next one has nothing but the disk.
#[tokio::test(start_paused = true)]
async fn a_torn_record_is_taken_up_by_its_copy() {
    let node = Node::new(600);
    node.add(1);
    node.keep_for(310).await;
    let path = node.dirs.state.join("leases/c1~net1.json");
    let whole = std::fs::read(&path).unwrap();
    for torn in [&b""[..], b"{", &whole[..whole.len() / 2]] {
        std::fs::write(&path, torn).unwrap();
        node.keep_for(1).await;
        assert_eq!(std::fs::read(&path).unwrap(), whole, "written anew");
    }
    std::fs::write(&path, "").unwrap();
    node.keep_for(320).await;
    assert!(node.server.model().lapsed.is_empty() && node.told.torn.lock().unwrap().is_empty());
    assert_eq!(node.server.seen(1), [Asked::Renew, Asked::Renew]);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_gone_twice_is_no_pod() {
    let node = Node::new(600);
    for n in [1, 2, 3, 4] {
        node.add(n);
    }
    std::fs::remove_file(node.netns(1)).unwrap();
    node.server.model().gone.insert(2);
    let pods = async {
        sleep(Duration::from_secs(45)).await;
        assert!(node.record(1).is_some(), "once is not enough");
        std::fs::remove_file(node.netns(3)).unwrap();
        sleep(Duration::from_secs(50)).await;
        assert_eq!((node.record(1), node.server.seen(1)), (None, vec![]));
        std::fs::write(node.netns(3), "").unwrap();
        let call = crate::store::ContainerLock::try_lock(&node.dirs, &"c4".parse().unwrap()).unwrap();
        std::fs::remove_file(node.netns(4)).unwrap();
        sleep(Duration::from_secs(500)).await;
        assert!(node.record(4).is_some(), "a call for it is at work");
        drop(call);
        sleep(Duration::from_secs(130)).await;
        assert_eq!((node.record(2), node.record(4)), (None, None));
        assert_eq!(node.news(2), [News::Forgotten]);
        assert!(node.record(3).is_some() && node.news(3).iter().all(|n| *n == News::Renewed), "{:?}", node.news(3));
    };
    tokio::select! {
        ended = keep(node.keeper()) => panic!("{ended:?}"),
        () = pods => {}
    }
}

#[tokio::test(start_paused = true)]
async fn another_boots_leases_are_hints_for_a_while() {
    let node = Node::new(600);
    for (n, age) in [(1, 10), (2, 601)] {
        let record = node.add(n);
        let got_at_wall = wall_clock() - age;
        Leases::new(&node.dirs).write(&LeaseRecord { boot: "before".into(), got_at_wall, ..record }).unwrap();
    }
    node.keep_for(900).await;
    assert_eq!((node.server.seen(1), node.server.seen(2)), (vec![], vec![]));
    assert!(node.record(1).is_some() && node.record(2).is_none());
}

#[tokio::test(start_paused = true)]
async fn of_two_keepers_one_acts_and_the_other_takes_over() {
    let node = Node::new(600);
    node.add(1);
    let other = async {
        sleep(Duration::from_secs(100)).await;
        node.keep_for(1000).await;
    };
    let first = async {
        node.keep_for(400).await;
        assert_eq!(node.server.seen(1), [Asked::Renew]);
    };
    tokio::join!(other, first);
    assert_eq!(node.server.seen(1), [Asked::Renew; 3]);
    assert!(node.server.model().lapsed.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dead_server_does_not_hold_up_another_networks_leases() {
    let node = Node::new(600);
    for n in 0..400 {
        let mut record = node.add(n);
        if n >= 300 {
            record.network = "dead".into();
            Leases::new(&node.dirs).write(&record).unwrap();
            node.server.model().dead.insert(n);
        }
    }
    node.keep_for(620).await;
    let model = node.server.model();
    assert!(model.lapsed.is_empty(), "{:?}", model.lapsed);
    let renewed = model.seen.iter().filter(|(_, n, what)| *n < 300 && *what == Asked::Renew).count();
    assert_eq!(renewed, 600);
}
