//! With the real kernel's events and a node's object in memory.

use std::cell::{Cell, RefCell};

use serde_json::json;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::*;
use crate::attach::tests::Node;
use crate::store::Dirs;
use crate::types::{Code, Failure};

/// What the issue asks for.
const IN_TIME: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Fake {
    node: RefCell<Value>,
    changed: Notify,
    gets: Cell<usize>,
    patches: Cell<usize>,
    failures: Cell<usize>,
    marker: RefCell<Option<String>>,
    /// Requests under way, and the most of them at one time.
    flying: Cell<usize>,
    together: Cell<usize>,
}

impl NodeObject for Fake {
    async fn get(&self) -> Outcome<Option<Value>> {
        self.gets.set(self.gets.get() + 1);
        self.flies().await;
        Ok(Some(self.node.borrow().clone()))
    }

    async fn patch(&self, body: &Value) -> Outcome<()> {
        if self.failures.get() > 0 {
            self.failures.set(self.failures.get() - 1);
            return Err(Failure::new(Code::ApiUnreachable, "no"));
        }
        self.patches.set(self.patches.get() + 1);
        self.edit(|node| merge(node, body));
        Ok(())
    }

    async fn changed(&self, _: &str, _: &dyn Fn(&Value) -> bool) {
        self.changed.notified().await;
    }

    async fn marker(&self) -> Outcome<Option<String>> {
        self.flies().await;
        Ok(self.marker.borrow().clone())
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return *target = patch.clone() };
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut target[key], value);
        }
    }
}

impl Fake {
    fn new() -> Self {
        let section = json!({"cpu": "4"});
        let node = json!({"metadata": {}, "status": {"capacity": section, "allocatable": section}});
        Self { node: RefCell::new(node), ..Self::default() }
    }

    async fn flies(&self) {
        self.flying.set(self.flying.get() + 1);
        self.together.set(self.together.get().max(self.flying.get()));
        sleep(Duration::from_millis(10)).await;
        self.flying.set(self.flying.get() - 1);
    }

    fn edit(&self, how: impl FnOnce(&mut Value)) {
        how(&mut self.node.borrow_mut());
    }

    /// As another program does it, which the node's watch tells.
    fn others(&self, section: &str, name: &str, amount: &str) {
        self.edit(|node| node["status"][section][format!("{}{name}", diff::PREFIX)] = json!(amount));
        self.changed.notify_one();
    }

    fn amount(&self, section: &str, name: &str) -> Option<String> {
        let node = self.node.borrow();
        node["status"][section].get(format!("{}{name}", diff::PREFIX)).map(|v| v.as_str().unwrap().to_owned())
    }

    fn both(&self, name: &str) -> Option<String> {
        let [a, b] = ["capacity", "allocatable"].map(|section| self.amount(section, name));
        assert_eq!(a, b, "capacity and allocatable of {name}");
        a
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(IN_TIME, wait).await.unwrap_or_else(|_| panic!("not in time: {what}; {}", self.node.borrow()));
    }
}

fn context(dry_run: bool) -> Context {
    let dirs = Dirs::new("/nonexistent/run", "/nonexistent/state");
    Context { dirs, node: "n1".into(), dry_run, ..super::super::testing::context(std::path::Path::new("/nonexistent")) }
}

/// The script beside the duty, on a node of its own.
fn beside(node: &Node, dry_run: bool, rule: BridgeRule, script: impl AsyncFnOnce(&Fake, &Context) + Send) {
    node.run(|| {
        crate::net::testing::block_on(async {
            let (fake, ctx) = (Fake::new(), context(dry_run));
            tokio::select! {
                ended = run(&ctx, rule, &fake) => panic!("{ended:?}"),
                () = script(&fake, &ctx) => {}
            }
        });
    });
}

#[test]
fn a_bridge_is_advertised_as_long_as_it_is_healthy() {
    let node = Node::without_bridge();
    beside(&node, false, BridgeRule::default(), async |fake, ctx| {
        node.sh("ip link add br-lan type bridge; ip link add docker0 type bridge; ip link set docker0 up");
        sleep(SETTLE * 2).await;
        assert_eq!(fake.both("br-lan"), None, "it is down");
        assert!(ctx.metrics.text().contains("trestle_bridge_healthy{bridge=\"br-lan\"} 0"));
        node.sh("ip link set br-lan up");
        fake.until("up", |f| f.both("br-lan").as_deref() == Some("1k")).await;
        assert!(ctx.metrics.text().contains("trestle_bridge_healthy{bridge=\"br-lan\"} 1"));
        node.sh("ip link set br-lan down");
        fake.until("down", |f| f.both("br-lan").is_none()).await;
        node.sh("ip link set br-lan up");
        fake.until("up again", |f| f.both("br-lan").is_some()).await;
        node.sh("ip link del br-lan");
        fake.until("deleted", |f| f.both("br-lan").is_none()).await;
        assert_eq!(fake.both("docker0"), None);
        assert_eq!(fake.node.borrow()["status"]["capacity"], json!({"cpu": "4"}));
        assert_eq!(fake.patches.get(), 4, "one for each change");
    });
}

#[test]
fn pods_that_come_and_go_cost_no_request() {
    let node = Node::new();
    beside(&node, false, BridgeRule::default(), async |fake, _| {
        fake.until("br0", |f| f.both("br0").is_some()).await;
        sleep(SETTLE * 2).await;
        let gets = fake.gets.get();
        for _ in 0..10 {
            node.sh("ip link add p1 type veth peer name p2; ip link set p1 master br0 up; ip link set p2 up; ip link del p1");
        }
        sleep(SETTLE * 2).await;
        assert_eq!((fake.gets.get(), fake.patches.get()), (gets, 1));
    });
}

#[test]
fn what_kubelet_makes_of_it_is_mended() {
    let node = Node::new();
    beside(&node, false, BridgeRule::default(), async |fake, _| {
        fake.until("br0", |f| f.both("br0").is_some()).await;
        fake.others("capacity", "br0", "0");
        fake.others("allocatable", "br0", "0");
        fake.until("mended", |f| f.both("br0").as_deref() == Some("1k")).await;
        // A bridge that went while no agent ran.
        fake.others("capacity", "br-old", "0");
        fake.until("forgotten", |f| f.amount("capacity", "br-old").is_none()).await;
    });
}

/// Else a server that takes 300 ms for each request takes more than the second that a change may take.
#[test]
fn node_and_marker_are_asked_for_at_the_same_time() {
    let node = Node::new();
    beside(&node, false, BridgeRule::default(), async |fake, _| {
        fake.until("br0", |f| f.both("br0").is_some()).await;
        assert_eq!(fake.together.get(), 2);
    });
}

/// Two who want something else do not write as fast as they can.
#[test]
fn who_undoes_it_again_and_again_is_answered_ever_more_slowly() {
    let node = Node::new();
    beside(&node, false, BridgeRule::default(), async |fake, _| {
        fake.until("br0", |f| f.both("br0").is_some()).await;
        let end = Instant::now() + Duration::from_secs(4);
        while Instant::now() < end {
            fake.others("capacity", "br0", "0");
            sleep(Duration::from_millis(20)).await;
        }
        assert!((4..=8).contains(&fake.patches.get()), "{} patches", fake.patches.get());
    });
}

#[test]
fn a_carrier_where_one_is_wanted() {
    let node = Node::new();
    let rule = BridgeRule { require_uplink: true, ..BridgeRule::default() };
    // A veth is no uplink; a macvlan's lower link is as good as a NIC here.
    node.sh("ip link add base type veth peer name far; ip link set base up; ip link set far up");
    node.sh("ip link add up0 link base type macvlan mode passthru; ip link set up0 up");
    beside(&node, false, rule, async |fake, _| {
        sleep(SETTLE * 2).await;
        assert_eq!(fake.both("br0"), None);
        node.sh("ip link set up0 master br0");
        fake.until("uplink", |f| f.both("br0").is_some()).await;
        node.sh("ip link set far down");
        fake.until("carrier lost", |f| f.both("br0").is_none()).await;
        node.sh("ip link set far up");
        fake.until("carrier back", |f| f.both("br0").is_some()).await;
        node.sh("ip link set up0 nomaster");
        fake.until("uplink lost", |f| f.both("br0").is_none()).await;
    });
}

#[test]
fn beside_a_bridge_marker_nothing_is_written() {
    let node = Node::new();
    beside(&node, false, BridgeRule::default(), async |fake, ctx| {
        fake.until("br0", |f| f.both("br0").is_some()).await;
        *fake.marker.borrow_mut() = Some("kube-system/bridge-marker-x".into());
        fake.others("capacity", "docker0", "1k");
        fake.until("stood back", |_| ctx.metrics.text().contains("trestle_bridge_marker 1")).await;
        node.sh("ip link set br0 down");
        sleep(SETTLE * 2).await;
        assert_eq!((fake.both("br0").as_deref(), fake.patches.get()), (Some("1k"), 1));
        *fake.marker.borrow_mut() = None;
        fake.changed.notify_one();
        fake.until("at work again", |f| f.both("br0").is_none() && f.amount("capacity", "docker0").is_none()).await;
    });
}

#[test]
fn who_puts_back_what_was_taken_away_is_left_alone() {
    let node = Node::new();
    beside(&node, false, BridgeRule::default(), async |fake, ctx| {
        fake.until("br0", |f| f.both("br0").is_some()).await;
        for _ in 0..RETURNS {
            fake.others("capacity", "docker0", "1k");
            fake.until("taken away", |f| f.amount("capacity", "docker0").is_none()).await;
        }
        let patches = fake.patches.get();
        fake.others("capacity", "docker0", "1k");
        fake.until("stood back", |_| ctx.metrics.text().contains("trestle_bridge_marker 1")).await;
        assert_eq!((fake.amount("capacity", "docker0").as_deref(), fake.patches.get()), (Some("1k"), patches));
    });
}

#[test]
fn a_failed_patch_is_tried_again() {
    let node = Node::new();
    beside(&node, false, BridgeRule::default(), async |fake, ctx| {
        fake.until("br0", |f| f.both("br0").is_some()).await;
        fake.failures.set(1);
        node.sh("ip link set br0 down");
        fake.until("failed", |f| f.failures.get() == 0).await;
        fake.changed.notify_one();
        fake.until("down", |f| f.both("br0").is_none()).await;
        assert!(ctx.metrics.text().contains("trestle_node_patches_total{outcome=\"failed\"} 1"));
    });
}

#[test]
fn a_dry_run_writes_nothing() {
    let node = Node::new();
    beside(&node, true, BridgeRule::default(), async |fake, ctx| {
        fake.until("looked at", |_| ctx.metrics.text().contains("trestle_bridge_healthy{bridge=\"br0\"} 1")).await;
        sleep(SETTLE * 2).await;
        assert_eq!((fake.both("br0"), fake.patches.get()), (None, 0));
    });
}
