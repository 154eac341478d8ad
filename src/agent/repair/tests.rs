//! On the real kernel: pods that were attached as a runtime does it, and what others then do to their ports and their
//! namespaces.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::{Map, Value, json};
use tokio::time::{sleep, timeout};

use super::*;
use crate::attach::tests::machine::{both, machine};
use crate::attach::tests::{At, Node};
use crate::attach::{Finding, Round};
use crate::net::Link;
use crate::net::testing::block_on;
use crate::store::ContainerLock;
use crate::types::{AttachmentId, Code, Failure};

const IN_TIME: Duration = Duration::from_secs(1);

fn context(node: &Node, dry_run: bool) -> Context {
    Context { dirs: node.dirs.clone(), node: "n1".into(), dry_run, ..super::super::testing::context(&node.dirs.run) }
}

/// Goes into the pods by itself: the program is another one here.
struct Here(Dirs);

impl Visit for Here {
    async fn visit(&self, round: &Round) -> Outcome<Vec<Option<Finding>>> {
        Ok(crate::attach::mend(round, &self.0).await)
    }
}

type Words = Rc<RefCell<Vec<Said>>>;

/// No child can be run.
struct Nobody;

impl Visit for Nobody {
    async fn visit(&self, _: &Round) -> Outcome<Vec<Option<Finding>>> {
        Err(Failure::new(Code::PluginFailed, "nobody goes"))
    }
}

/// The script beside the duty. What it says is collected.
fn beside(node: &Node, dry_run: bool, script: impl AsyncFnOnce(&Words, &Context) + Send) {
    beside_with(node, dry_run, Here(node.dirs.clone()), script);
}

fn beside_with(
    node: &Node,
    dry_run: bool,
    visit: impl Visit + Send + Sync,
    script: impl AsyncFnOnce(&Words, &Context) + Send,
) {
    node.run(|| {
        block_on(async {
            let (words, ctx) = (Words::default(), context(node, dry_run));
            let tell = |said: &Said| words.borrow_mut().push(said.clone());
            tokio::select! {
                ended = run(&ctx, &tell, &visit) => panic!("{ended:?}"),
                () = async {
                    // Its first round has seen the ports.
                    sleep(Duration::from_millis(100)).await;
                    script(&words, &ctx).await;
                } => {}
            }
        });
    });
}

/// A runtime of its own asks the kernel, and there is one here already.
fn apart<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(f).join().unwrap())
}

fn link(node: &Node, name: &str) -> Link {
    apart(|| node.link(name))
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    until_within(what, IN_TIME, holds).await;
}

async fn until_within(what: &str, time: Duration, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(time, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

fn port(node: &Node) -> String {
    node.links().into_iter().find(|l| l.starts_with("tr")).expect("a port of ours")
}

#[test]
fn a_port_that_was_thrown_off_comes_back_as_it_was() {
    let node = Node::new();
    let pod = node.pod("web");
    let at = node.at(&pod).with(json!({"portIsolation": true, "hairpinMode": true}));
    let result = at.add().unwrap();
    let port = port(&node);
    let bridge = link(&node, "br0").index;
    beside(&node, false, async |words, ctx| {
        node.sh(&format!("ip link set {port} nomaster"));
        until("back", || link(&node, &port).master == Some(bridge) && link(&node, &port).up).await;
        until("told", || !words.borrow().is_empty()).await;
        let said = words.borrow_mut().remove(0);
        assert_eq!(
            (said.kind.reason(said.done), said.pod.unwrap().to_string().as_str()),
            ("PortRepaired", "default/web")
        );
        assert_eq!(said.text, "net1: its port on br0 was put back onto its bridge");
        assert!(ctx.metrics.text().contains("trestle_repairs_total{kind=\"port\",outcome=\"done\"} 1"));
        assert!(ctx.metrics.text().contains("trestle_attachments{role=\"wire\"} 1"));
        // Our own change is no reason for another one.
        sleep(SETTLE * 3).await;
        assert!(words.borrow().is_empty());
        node.sh(&format!("bridge link set dev {port} isolated off"));
        until("isolated", || link(&node, &port).port.unwrap().isolated).await;
        assert!(words.borrow()[0].text.ends_with("restored: isolation on"), "{words:?}");
        // As one who was stopped in the middle of it leaves it.
        node.sh(&format!("ip link set {port} down; bridge link set dev {port} hairpin off"));
        until("whole", || link(&node, &port).up && link(&node, &port).port.unwrap().hairpin).await;
    });
    at.check(&result).unwrap();
}

/// Neither its bridge nor its port was there when the duty looked last.
#[test]
fn what_befalls_a_pod_that_has_just_come() {
    let node = Node::new();
    let pod = node.pod("web");
    beside(&node, false, async |_, _| {
        apart(|| node.at(&pod).add().unwrap());
        let port = apart(|| port(&node));
        node.sh("ip link del br0");
        node.sh("ip link add br0 type bridge; ip link set br0 up");
        let on_bridge = || link(&node, &port).master == Some(link(&node, "br0").index) && link(&node, &port).up;
        until("on the new bridge", on_bridge).await;
    });
    let other = node.pod("other");
    beside(&node, false, async |_, _| {
        let at = At { container: "c2", ..node.at(&other) };
        let before = apart(|| node.links());
        apart(|| at.add().unwrap());
        let port = apart(|| node.links()).into_iter().find(|l| l.starts_with("tr") && !before.contains(l)).unwrap();
        node.sh(&format!("ip link set {port} nomaster"));
        until("back", || link(&node, &port).master == Some(link(&node, "br0").index) && link(&node, &port).up).await;
    });
}

#[test]
fn a_bridge_made_anew_gets_its_ports_back() {
    let node = Node::new();
    let (one, two) = (node.pod("one"), node.pod("two"));
    let (one, two) = (node.at(&one), At { container: "c2", ..node.at(&two) }.drop_in(crate::attach::Type::Bridge));
    let results = [one.add().unwrap(), two.add().unwrap()];
    let old = link(&node, "br0").index;
    beside(&node, false, async |words, _| {
        node.sh("ip link del br0");
        until("told", || words.borrow().len() == 2).await;
        assert!(words.borrow().iter().all(|w| !w.done && w.text.contains("bridge br0 is not there")), "{words:?}");
        node.sh("ip link add br0 type bridge; ip link set br0 up");
        let anew = link(&node, "br0").index;
        assert_ne!(old, anew);
        let links = apart(|| node.links());
        let back = || links.iter().filter(|l| link(&node, l).master == Some(anew)).count() == 2;
        until("back", back).await;
    });
    one.check(&results[0]).unwrap();
    two.check(&results[1]).unwrap();
}

#[test]
fn what_somebody_chose_or_works_on_is_left() {
    let node = Node::new();
    let pod = node.pod("web");
    node.at(&pod).add().unwrap();
    let port = port(&node);
    node.sh("ip link add br1 type bridge; ip link set br1 up");
    beside(&node, false, async |words, _| {
        node.sh(&format!("ip link set {port} master br1"));
        until("told", || !words.borrow().is_empty()).await;
        assert!(words.borrow()[0].text.contains("is on another link"), "{words:?}");
        let lock = ContainerLock::try_lock(&node.dirs, &"c1".parse().unwrap()).unwrap().unwrap();
        node.sh(&format!("ip link set {port} nomaster"));
        sleep(SETTLE * 3).await;
        assert_eq!(link(&node, &port).master, None, "its container is locked");
        drop(lock);
        until_within("back", IN_TIME + BUSY, || link(&node, &port).master.is_some()).await;
    });
}

#[test]
fn after_five_times_it_is_only_told() {
    let node = Node::new();
    let pod = node.pod("web");
    node.at(&pod).add().unwrap();
    let port = port(&node);
    beside(&node, false, async |words, _| {
        for _ in 0..5 {
            node.sh(&format!("ip link set {port} nomaster"));
            until("back", || link(&node, &port).master.is_some() && link(&node, &port).up).await;
        }
        until("told", || words.borrow().len() == 5).await;
        node.sh(&format!("ip link set {port} nomaster"));
        until("told", || words.borrow().len() == 6).await;
        sleep(SETTLE * 2).await;
        assert!(words.borrow()[5].text.contains("again and again") && !words.borrow()[5].done, "{words:?}");
        assert_eq!((link(&node, &port).master, words.borrow().len()), (None, 6));
    });
}

#[test]
fn a_dry_run_says_it_once_and_does_nothing() {
    let node = Node::new();
    let pod = node.pod("web");
    node.at(&pod).add().unwrap();
    let port = port(&node);
    beside(&node, true, async |words, _| {
        node.sh(&format!("ip link set {port} nomaster"));
        until("told", || !words.borrow().is_empty()).await;
        node.sh(&format!("ip link set {port} alias again"));
        sleep(SETTLE * 2).await;
        assert_eq!((words.borrow().len(), link(&node, &port).master), (1, None));
        assert_eq!(words.borrow()[0].text, "net1: its port on br0 would be put back onto its bridge");
    });
}

#[test]
fn rules_that_were_flushed_come_back() {
    let node = Node::new();
    let (one, two) = (node.pod("one"), node.pod("two"));
    let one = node.at(&one).with(json!({"macspoofchk": true}));
    let both = json!({"type": "bridge", "isGateway": true, "ipMasq": true, "macspoofchk": true});
    let two = At { container: "c2", ..node.at(&two) }.drop_in(crate::attach::Type::Bridge).with(both);
    let results = [one.add().unwrap(), two.add().unwrap()];
    beside(&node, false, async |words, ctx| {
        for times in 1..=2 {
            node.sh("nft flush ruleset");
            let told = || words.borrow().len() == 2 * times;
            until_within("told", IN_TIME + FILTERS_APART, told).await;
            apart(|| one.check(&results[0]).unwrap());
            apart(|| two.check(&results[1]).unwrap());
        }
        let mut texts: Vec<String> = words.borrow().iter().take(2).map(|w| w.text.clone()).collect();
        texts.sort();
        let end = "was put back: somebody had flushed the rules";
        assert_eq!(texts[0], format!("net1: its guard against forged MAC addresses and masquerade {end}"));
        assert_eq!(texts[1], format!("net1: its guard against forged MAC addresses {end}"));
        assert_eq!(words.borrow()[0].kind.reason(true), "FilterRepaired");
        assert!(ctx.metrics.text().contains("trestle_repairs_total{kind=\"filter\",outcome=\"done\"} 4"));
        // Our own change is no reason for another one.
        sleep(SETTLE * 2 + FILTERS_APART).await;
        assert_eq!(words.borrow().len(), 4);
    });
    two.del().unwrap();
    one.del().unwrap();
    assert!(!node.sh("nft list ruleset").contains("cni-br-iface"));
}

#[test]
fn a_guard_whose_mac_nobody_wrote_down_is_told() {
    let node = Node::new();
    let pod = node.pod("web");
    node.at(&pod).with(json!({"macspoofchk": true})).add().unwrap();
    let entry = node.entry("c1", "net1", Role::Wire).unwrap();
    let mut record: Map<String, Value> = entry.record.parse().unwrap();
    record.shift_remove("guarded").expect("the MAC");
    Journal(&node.dirs).write(&entry.id, &"lan".parse().unwrap(), &record).unwrap();
    beside(&node, false, async |words, _| {
        node.sh("nft flush ruleset");
        until("told", || words.borrow().len() == 1).await;
        let said = words.borrow()[0].clone();
        assert!(!said.done && said.text.contains("older version wrote it"), "{said:?}");
    });
}

/// One look at this many seconds of the boot clock.
fn look(node: &Node, sweep: &mut Sweep, seconds: u64, dry_run: bool) -> Vec<Said> {
    let dirs = node.dirs.clone().with_clock(seconds * 1_000_000_000);
    let entries: Vec<Entry> = Journal(&dirs).all().unwrap().into_iter().flatten().collect();
    node.run(|| {
        block_on(async {
            let host = Namespace::own().unwrap();
            let links = host.netlink().unwrap();
            sweep.round(&Tools { dirs: &dirs, host: &host, links: &links, dry_run }, &entries).await
        })
    })
}

#[test]
fn a_container_that_is_gone_twice_is_undone_and_no_other() {
    let node = Node::new();
    let (one, two) = (node.pod("one"), node.pod("two"));
    node.at(&one).add().unwrap();
    let living = At { container: "c2", ..node.at(&two) };
    let result = living.add().unwrap();
    let mut sweep = Sweep::default();
    assert_eq!(look(&node, &mut sweep, 100, false), []);
    one.vanish();
    assert_eq!(look(&node, &mut sweep, 160, false), [], "once is not enough");
    assert_eq!(look(&node, &mut sweep, 190, false), [], "a minute apart");
    let lock = ContainerLock::try_lock(&node.dirs, &"c1".parse().unwrap()).unwrap();
    assert_eq!(look(&node, &mut sweep, 220, false), [], "somebody is at work");
    drop(lock);
    assert_eq!((node.entries(), node.taken("lan").len()), (2, 2));
    let mut dry = Sweep::default();
    look(&node, &mut dry, 220, true);
    let said = look(&node, &mut dry, 280, true);
    assert!(said.len() == 1 && !said[0].done && node.entries() == 2, "{said:?}");
    assert_eq!(look(&node, &mut dry, 340, true), [], "told once");
    let said = look(&node, &mut sweep, 281, false);
    assert_eq!((said.len(), said[0].done, said[0].kind), (1, true, Kind::Sweep));
    assert!(said[0].text.starts_with("c1/net1 (wire) was undone"), "{said:?}");
    assert_eq!((node.entries(), node.taken("lan").len()), (1, 1));
    living.check(&result).unwrap();
}

#[test]
fn what_a_missing_plugin_keeps_is_left_to_the_runtime_and_told_once() {
    let node = Node::new();
    let (one, two) = (node.pod("one"), node.pod("two"));
    let dir = node.dirs.run.join("plugins");
    std::fs::create_dir_all(&dir).unwrap();
    let script = "#!/bin/sh\ncat > /dev/null\n\
        case $CNI_COMMAND in ADD) echo '{\"cniVersion\": \"1.0.0\", \"ips\": [{\"address\": \"10.1.2.9/24\"}]}' ;; esac\n";
    std::fs::write(dir.join("ledger"), script).unwrap();
    std::fs::set_permissions(dir.join("ledger"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut at = node.at(&one).with(json!({"ipam": {"type": "ledger"}}));
    at.path = dir.to_str().unwrap().into();
    at.add().unwrap();
    // Another pod's own network is a foreign one, whole.
    let network = json!({"name": "default/lan", "ifname": "net1", "result": {},
        "conf": {"cniVersion": "1.0.0", "name": "lan", "type": "ledger"}});
    let record = json!({"boot": node.dirs.boot_id().unwrap(), "netns": two.path, "args": "", "path": [],
        "cni_dir": "/nonexistent/multus", "networks": [network]});
    let id = AttachmentId { container: "c2".parse().unwrap(), ifname: "eth0".parse().unwrap(), role: Role::Meta };
    Journal(&node.dirs).write(&id, &"multi".parse().unwrap(), &record).unwrap();
    let aside = dir.join("aside");
    std::fs::rename(dir.join("ledger"), &aside).unwrap();
    let mut sweep = Sweep::default();
    one.vanish();
    two.vanish();
    look(&node, &mut sweep, 100, false);
    let said = look(&node, &mut sweep, 200, false);
    assert_eq!(said.len(), 2, "{said:?}");
    for said in said {
        assert!(!said.done && said.kind.reason(said.done) == "NotSwept", "{said:?}");
        assert!(said.text.contains("left to the runtime") && said.text.contains("plugin ledger"), "{said:?}");
    }
    for seconds in [300, 4000, 8000] {
        assert_eq!(look(&node, &mut sweep, seconds, false), [], "told once");
    }
    assert_eq!(node.entries(), 2);
    std::fs::rename(&aside, dir.join("ledger")).unwrap();
    at.del().unwrap();
    assert_eq!(node.entries(), 1);
    assert!(look(&node, &mut sweep, 9000, false).is_empty());
}

#[test]
fn addresses_of_an_earlier_boot_are_released_when_the_agent_begins() {
    let node = Node::new();
    let pod = node.pod("web");
    node.at(&pod).add().unwrap();
    assert_eq!(node.taken("lan").len(), 1);
    let (later, host) = (node.dirs.clone().with_boot("a-later-boot"), Namespace::own().unwrap());
    block_on(async {
        let links = host.netlink().unwrap();
        let tools = |dirs, dry_run| Tools { dirs, host: &host, links: &links, dry_run };
        assert_eq!(Addresses::default().round(&tools(&node.dirs, false)), []);
        let mut addresses = Addresses::default();
        let said = addresses.round(&tools(&later, true));
        assert_eq!((said.len(), said[0].done, node.taken("lan").len()), (1, false, 1));
        let mut addresses = Addresses::default();
        let said = addresses.round(&tools(&later, false));
        assert_eq!(said[0].text, "network lan: 1 addresses of an earlier boot were released");
        assert_eq!((node.taken("lan").len(), addresses.round(&tools(&later, false)).len()), (0, 0));
    });
}

#[test]
fn who_is_seen_again_is_no_suspect_any_more() {
    let node = Node::new();
    let pod = node.pod("web");
    node.at(&pod).add().unwrap();
    let aside = pod.path.with_extension("aside");
    let mut sweep = Sweep::default();
    std::fs::rename(&pod.path, &aside).unwrap();
    assert_eq!(look(&node, &mut sweep, 100, false), []);
    std::fs::rename(&aside, &pod.path).unwrap();
    assert_eq!(look(&node, &mut sweep, 170, false), []);
    std::fs::rename(&pod.path, &aside).unwrap();
    assert_eq!(look(&node, &mut sweep, 240, false), [], "the first time again");
    std::fs::rename(&aside, &pod.path).unwrap();
    assert_eq!(node.entries(), 1);
}

#[test]
fn a_pods_own_entry_goes_with_what_is_in_it() {
    let node = Node::new();
    let pod = node.pod("web");
    node.at(&pod).add().unwrap();
    let record = |netns: &std::path::Path| {
        let network = json!({"name": "default/lan", "ifname": "net1", "conf": node.at(&pod).conf, "result": {}});
        json!({"boot": node.dirs.boot_id().unwrap(), "netns": netns, "args": "", "path": [],
               "cni_dir": "/nonexistent/multus", "networks": [network]})
    };
    let id = |container: &str| AttachmentId {
        container: container.parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
        role: Role::Meta,
    };
    let multi = "multi".parse().unwrap();
    Journal(&node.dirs).write(&id("c1"), &multi, &record(&pod.path)).unwrap();
    // Nobody can see from here what is there.
    let hidden = node.dirs.run.join("not/mounted/pod");
    Journal(&node.dirs).write(&id("c9"), &multi, &record(&hidden)).unwrap();
    let mut sweep = Sweep::default();
    look(&node, &mut sweep, 100, false);
    look(&node, &mut sweep, 200, false);
    assert_eq!(node.entries(), 3);
    pod.vanish();
    look(&node, &mut sweep, 300, false);
    let said = look(&node, &mut sweep, 400, false);
    assert_eq!(said.len(), 1, "the network's own entry went with the pod's: {said:?}");
    assert_eq!((node.entries(), node.taken("lan").len()), (1, 0));
}

/// A runtime may give the path of a pod that is gone to the next one.
#[test]
fn a_pods_own_entry_goes_where_another_namespace_is_at_its_path() {
    let node = Node::new();
    let pod = node.pod("web");
    let dir = node.dirs.run.join("plugins");
    std::fs::create_dir_all(&dir).unwrap();
    let script =
        format!("#!/bin/sh\ncat > /dev/null\necho \"$CNI_COMMAND in $CNI_NETNS.\" >> {}/calls\n", dir.display());
    std::fs::write(dir.join("ledger"), script).unwrap();
    std::fs::set_permissions(dir.join("ledger"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let network = json!({"name": "default/lan", "ifname": "net1", "result": {},
        "conf": {"cniVersion": "1.0.0", "name": "lan", "type": "ledger"}});
    let record = |more: Value| {
        let mut record = json!({"boot": node.dirs.boot_id().unwrap(), "netns": pod.path, "args": "", "path": [dir],
            "cni_dir": "/nonexistent/multus", "networks": [network]});
        record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        record
    };
    let id = |container: &str| AttachmentId {
        container: container.parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
        role: Role::Meta,
    };
    let multi = "multi".parse().unwrap();
    let own = Namespace::open(&pod.path).unwrap().id().unwrap();
    Journal(&node.dirs).write(&id("c1"), &multi, &record(json!({"pod_ns": own}))).unwrap();
    // As an earlier program wrote it.
    Journal(&node.dirs).write(&id("c2"), &multi, &record(json!({}))).unwrap();
    let mut sweep = Sweep::default();
    look(&node, &mut sweep, 100, false);
    assert_eq!((look(&node, &mut sweep, 200, false), node.entries()), (vec![], 2));
    std::fs::remove_file(&pod.path).unwrap();
    let next = node.pod("web");
    assert_eq!(next.path, pod.path);
    look(&node, &mut sweep, 300, false);
    let said = look(&node, &mut sweep, 400, false);
    assert!(said.len() == 1 && said[0].done && said[0].text.starts_with("c1/eth0 (meta)"), "{said:?}");
    assert_eq!(node.entries(), 1);
    let calls = std::fs::read_to_string(dir.join("calls")).unwrap();
    assert_eq!(calls, "DEL in .\n", "the next pod's namespace is not entered");
}

#[test]
fn filters_around_a_machines_dhcp_are_put_back() {
    let (node, pod) = machine();
    let [wire, bind] = both(&node, &pod);
    wire.add().unwrap();
    let bound = bind.add().unwrap();
    let port = port(&node);
    node.sh(&format!("tc qdisc del dev {port} clsact"));
    assert!(bind.finds(&bound).contains("the guest's DHCP reaches the LAN"));
    beside(&node, true, async |words, _| {
        until("told", || !words.borrow().is_empty()).await;
        assert!(!words.borrow()[0].done);
    });
    beside(&node, false, async |words, _| {
        until("told", || !words.borrow().is_empty()).await;
        let said = words.borrow_mut().remove(0);
        assert_eq!(said.kind.reason(said.done), "DhcpFilterRepaired");
        assert_eq!(said.text, "lan: the filters that keep its DHCP from the LAN were put back");
    });
    bind.check(&bound).unwrap();
    bind.del().unwrap();
    assert_eq!(node.sh(&format!("tc filter show dev {port} ingress; tc filter show dev {port} egress")), "");
    wire.del().unwrap();
}

/// Below another meta plugin; ours tells its pods itself.
#[test]
fn a_macvlan_in_a_bridges_place_is_told() {
    let node = Node::without_bridge();
    let pods = ["old", "web", "ours"].map(|name| node.pod(name));
    let at =
        |i: usize, container| At { container, ..node.at(&pods[i]) }.with(json!({"bridge": "br-lan", "master": "eno1"}));
    at(0, "c0").add().unwrap();
    beside(&node, false, async |words, ctx| {
        apart(|| at(1, "c1").add().unwrap());
        let meta = AttachmentId { container: "c2".parse().unwrap(), ifname: "eth0".parse().unwrap(), role: Role::Meta };
        Journal(&node.dirs).write(&meta, &"kube".parse().unwrap(), &json!({})).unwrap();
        apart(|| at(2, "c2").add().unwrap());
        // A change of the master has it looked at before its time.
        node.sh("ip link set eno1 promisc on; ip link set eno1 promisc off");
        until("counted", || ctx.metrics.text().contains("trestle_macvlan_fallbacks 3")).await;
        let words = words.borrow();
        let reasons: Vec<_> =
            words.iter().map(|w| (w.kind.reason(w.done), w.pod.clone().unwrap().to_string())).collect();
        assert_eq!(reasons, [("MacvlanFallback", "default/web".to_owned())]);
        assert!(words[0].text.starts_with("net1: no bridge br-lan on "), "{words:?}");
    });
}

#[test]
fn a_lost_carrier_is_told_once_for_each_loss() {
    let node = Node::without_bridge();
    let pod = node.pod("web");
    node.sh("ip link add eno9 type veth peer name eno10; ip link set eno9 up; ip link set eno10 up");
    node.at(&pod).with(json!({"bridge": "br-lan", "master": "eno9"})).add().unwrap();
    let cable = |state: &str| node.sh(&format!("ip link set eno10 {state}"));
    beside(&node, false, async |words, ctx| {
        assert!(ctx.metrics.text().contains("trestle_macvlan_fallbacks 1"), "{}", ctx.metrics.text());
        for loss in 1..=2 {
            cable("down");
            until("told", || words.borrow().len() == loss).await;
            let said = words.borrow()[loss - 1].clone();
            assert_eq!(
                (said.kind.reason(said.done), said.pod.unwrap().to_string().as_str()),
                ("CarrierLost", "default/web")
            );
            assert_eq!(said.text, "net1: eno9 has no carrier: nothing beyond this node is reached");
            node.sh("ip link set eno9 promisc on; ip link set eno9 promisc off");
            sleep(SETTLE * 2).await;
            assert_eq!(words.borrow().len(), loss, "told already: {words:?}");
            cable("up");
            sleep(SETTLE * 2).await;
        }
    });
    cable("down");
    beside(&node, false, async |words, _| {
        sleep(SETTLE).await;
        assert!(words.borrow().is_empty(), "an agent that begins: the one before it has told");
    });
}

#[test]
fn what_joins_a_machine_to_its_tap_is_put_back() {
    let node = Node::new();
    let pod = node.pod("machine");
    At { ifname: "pod094a367b026", ..node.at(&pod).of_vm() }.add().unwrap();
    let args = json!({"cni": {"logicNetworkName": "lan"}});
    let bind = At { ifname: "net2", ..node.at(&pod).of_vm() }
        .with(json!({"name": "trestle-binding", "bridge": null, "ipam": null, "args": args}));
    let bound = bind.add().unwrap();
    beside(&node, false, async |words, _| {
        sleep(SETTLE).await;
        assert!(words.borrow().is_empty(), "all is well: {words:?}");
    });
    pod.sh("tc qdisc del dev pod094a367b026 ingress");
    let what = "lan: the filter that keeps the LAN's DHCP from it, and the redirect to its tap";
    for (dry_run, text) in [(true, "would be put back"), (false, "was put back: somebody had taken it away")] {
        beside(&node, dry_run, async |words, ctx| {
            until("told", || !words.borrow().is_empty()).await;
            let said = words.borrow_mut().remove(0);
            assert_eq!(said.text, format!("{what} {text}"));
            assert_eq!(said.kind.reason(said.done), if dry_run { "TapNotRepaired" } else { "TapRepaired" });
            let outcome = if dry_run { "told" } else { "done" };
            let counted = format!("trestle_repairs_total{{kind=\"tap\",outcome=\"{outcome}\"}} 1");
            assert!(ctx.metrics.text().contains(&counted));
        });
        assert_eq!(bind.check(&bound).is_ok(), !dry_run);
    }
    let port = port(&node);
    node.sh(&format!("ip link set {port} nomaster"));
    beside_with(&node, false, Nobody, async |words, _| {
        until("its port is mended all the same", || words.borrow().iter().any(|w| w.kind == Kind::Port && w.done))
            .await;
    });
}
