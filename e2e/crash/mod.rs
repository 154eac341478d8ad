//! kill -9 at every step: after each change to the kernel and each file written, ADD or DEL is ended as a runtime's
//! timeout or the kernel's OOM killer ends it. A DEL or a GC after that must find all there is.
//!
//! The steps are the program's fail points (debug builds): a first run counts them, then one run is killed at each.

mod add;
mod cases;
mod delete;

use std::cell::RefCell;
use std::path::PathBuf;

use crate::dhcp::{Lends, Program, Server};
use crate::harness::{Call, Lab, Netns, Snapshot};

/// One attachment that is killed: the node before it, and the call.
pub struct Case {
    /// What must be there before the call, besides an empty pod.
    pub prepare: fn(&Stage),
    pub call: for<'l> fn(&'l Stage) -> Call<'l>,
    /// Takes out of a snapshot what the plugin may leave.
    pub may_leave: fn(Snapshot) -> Snapshot,
    /// Fail points there must be at least: a count of none would test nothing.
    pub steps: usize,
}

/// A fresh node for one kill.
pub struct Stage {
    pub lab: Lab,
    pub pod: Netns,
    server: RefCell<Option<Server>>,
    /// Namespaces at the other ends of the node's cables; the LAN is the first.
    far: Vec<Netns>,
    before: Option<Snapshot>,
}

impl Stage {
    pub fn new(case: &Case) -> Self {
        let (lab, lan) = Lab::with_lan();
        let far = crate::attachment::nic(&lab, "nic0");
        let pod = lab.pod();
        let mut stage = Self { lab, pod, server: RefCell::default(), far: vec![lan, far], before: None };
        (case.prepare)(&stage);
        stage.before = Some(stage.look(case));
        stage
    }

    /// A DHCP server on the LAN.
    pub fn serve(&self) {
        let lends = Lends::default().pool(10, 200);
        *self.server.borrow_mut() = Some(Server::of(Program::Dnsmasq, &self.lab, &self.far[0], &lends));
    }

    /// Records of leases; what a killed writer left under a temporary name is none.
    pub fn leases(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.lab.state_dir().join("leases")).into_iter().flatten().flatten();
        files.map(|f| f.file_name().into_string().unwrap()).filter(|name| name.ends_with(".json")).collect()
    }

    fn look(&self, case: &Case) -> Snapshot {
        (case.may_leave)(Snapshot::of(&self.lab, &[&self.pod]))
    }

    /// Node, pod, store and journal are as before the call that was killed.
    #[track_caller]
    pub fn clean(&self, case: &Case, when: &str) {
        self.before.as_ref().unwrap().same(&self.look(case), when);
        assert_eq!(self.leases(), Vec::<String>::new(), "{when}");
    }
}

/// The names of the places that a call passes, in their order.
pub fn places(call: &Call, lab: &Lab, verb: &str) -> Vec<String> {
    let log = PathBuf::from(lab.file("places"));
    let reply = call.clone().env("TRESTLE_FAIL_LOG", log.to_str().unwrap()).run(verb);
    assert!(reply.status.success(), "{verb} that is to be killed works: {} {}", reply.stdout, reply.stderr);
    let text = std::fs::read_to_string(&log).expect("a debug build writes TRESTLE_FAIL_LOG");
    text.lines().map(str::to_owned).collect()
}

/// Kills the call at its n-th place (from 1).
#[track_caller]
pub fn kill(call: &Call, verb: &str, at: usize, place: &str) {
    let reply = call.clone().env("TRESTLE_FAIL_AT", &at.to_string()).run(verb);
    assert!(reply.killed(), "{verb} passes place {at}, {place}: {:?} {}", reply.status, reply.stderr);
}
