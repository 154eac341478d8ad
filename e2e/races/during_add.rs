//! DEL and CHECK of a container whose ADD is still at work.

use std::time::Duration;

use super::{release, slow, waits_in_ipam};
use crate::attachment::plain;
use crate::harness::{Call, Lab, Snapshot, store_files};

/// DEL as a runtime calls it: again while it is told to try later.
fn del_until_done(call: &Call) {
    for _ in 0..20 {
        let reply = call.run("DEL");
        if reply.status.success() {
            return;
        }
        reply.error().is(11, "TR0603", &[]);
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("DEL never succeeds");
}

/// The runtime gives up on an ADD that is still running: when both are over, nothing is left.
#[test]
fn delete_during_add() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let before = Snapshot::of(&lab, &[&pod]);
    let call = slow(&lab, plain(&lab, &pod));
    let add = call.start("ADD");
    waits_in_ipam(&lab);
    let del = call.start("DEL");
    std::thread::sleep(Duration::from_millis(200));
    release(&lab);
    add.wait();
    let first = del.wait();
    if !first.status.success() {
        first.error().is(11, "TR0603", &[]);
        del_until_done(&call);
    }
    before.same(&Snapshot::of(&lab, &[&pod]), "after ADD and DEL");
}

/// The ADD hangs for good: DEL answers "try again" in the end, rather than never.
#[test]
fn delete_of_a_hanging_add() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let before = Snapshot::of(&lab, &[&pod]);
    let call = slow(&lab, plain(&lab, &pod));
    let mut add = call.start("ADD");
    waits_in_ipam(&lab);
    call.fails("DEL").is(11, "TR0603", &[]);
    assert!(add.running());
    add.kill();
    add.wait();
    call.del();
    before.same(&Snapshot::of(&lab, &[&pod]), "after the ADD was killed and DEL");
}

/// A plugin that ADD runs does not outlive it: killed with it, it cannot hand out anything later.
#[test]
fn delegate_dies_with_its_caller() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let call = slow(&lab, plain(&lab, &pod));
    let mut add = call.start("ADD");
    waits_in_ipam(&lab);
    let here = lab.file("slow-ipam");
    let waiters = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter(|p| {
            std::fs::read(p.path().join("cmdline")).is_ok_and(|c| String::from_utf8_lossy(&c).contains(&here))
        })
        .count()
    };
    // The shell, and for a moment the child that it makes.
    assert!(waiters() >= 1, "the plugin waits");
    add.kill();
    crate::harness::eventually("the plugin ends with ADD", || waiters() == 0);
    add.wait();
    release(&lab);
    call.del();
}

/// An ADD that had been started before the DEL, and that gets to work after it, fails and leaves nothing.
#[test]
fn late_add() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let before = Snapshot::of(&lab, &[&pod]);
    let call = plain(&lab, &pod);
    let late = call.hold("ADD");
    std::thread::sleep(Duration::from_millis(50));
    call.del();
    late.wait().error().is(11, "TR0604", &[]);
    before.same(&Snapshot::of(&lab, &[&pod]), "after the late ADD");
    // One that starts now is a new life of that id.
    let mut again = call;
    again.add();
    again.check();
    again.del();
    before.same(&Snapshot::of(&lab, &[&pod]), "after another life");
}

/// An id may be used again at once: an ADD right after the DEL is no late one.
#[test]
fn id_used_again_at_once() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut call = plain(&lab, &pod);
    for _ in 0..30 {
        call.add();
        call.del();
    }
    assert!(store_files(&lab.store()).is_empty());
}

/// DEL of one container does not wait for the ADD of another.
#[test]
fn others_do_not_wait() {
    let (lab, _lan) = Lab::with_lan();
    let (hanging, pod) = (lab.pod(), lab.pod());
    let slow_call = slow(&lab, plain(&lab, &hanging));
    let add = slow_call.start("ADD");
    waits_in_ipam(&lab);
    let mut other = plain(&lab, &pod);
    other.add();
    other.check();
    other.del();
    release(&lab);
    add.wait().ok();
    slow_call.del();
}
