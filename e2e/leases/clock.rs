//! A boot clock that jumps by a day, as for a node that slept, and one that is behind: a time namespace is as near as a
//! test comes to it. (The wall clock has no namespace; leases do not run by it.)

use std::time::Duration;

use serde_json::Value;

use super::{Node, within};
use crate::dhcp::{address, records};

const DAY: &str = "86400";

#[test]
fn a_day_ahead_and_back() {
    let node = Node::new(1, 3600);
    let server = node.server();
    let pod = node.lab.pod();
    let mut call = node.call(&pod, 0);
    call.add();
    let given = address(&pod, "net1").unwrap().0;
    let got_at = || records(&node.lab)[0]["got_at"].as_u64().unwrap();
    let first = got_at();
    let soon = Duration::from_secs(30);

    // The lease has run out long ago, by this clock: asked for anew, and the server agrees.
    let ahead = node.keeper_by(&["unshare", "-T", "--boottime", DAY, "--monotonic", DAY]);
    within(soon, "asked for by INIT-REBOOT", || got_at() > first + 86_000_000);
    assert_eq!(server.journal().len(), 2, "once");
    drop(ahead);

    // Got in the future: due now, and held by this clock from then on.
    let back = node.keeper();
    within(soon, "renewed at once", || got_at() < first + 86_000_000);
    drop(back);
    let (net, left) = address(&pod, "net1").unwrap();
    assert!(net == given && left > 3000, "{net}, {left} s left");
    let seen: Vec<Value> = records(&node.lab);
    assert_eq!(seen[0]["job"]["step"]["Renew"]["address"], given.trim_end_matches("/24"));
    assert_eq!(server.journal().len(), 3);
    node.none_was_lost();
    call.del();
}
