//! On the real kernel, each test in network namespaces of its own: what the rules do to packets (`packets`), that they
//! are the reference plugins' (`reference`), and here that nothing grows and nothing foreign is touched.
//!
//! Needs root, and the programs ip, nft and iptables to look with. The reference plugins are where `e2e/setup` puts
//! them, or in TRESTLE_REF_PLUGINS.

mod packets;
mod reference;

use std::ffi::OsStr;
use std::process::Command;

use ipnetwork::IpNetwork;
use nix::errno::Errno;

use super::rule::Rule;
use super::ruleset::{Batch, Family, Ruleset, Table};
use super::*;
use crate::net::testing::fresh;
use crate::net::{Namespace, NetResult};
use crate::types::Mac;

/// PATH of the programs that the tests look with.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A new network namespace.
struct Ns(Namespace);

impl Ns {
    fn new() -> Self {
        let ns = Self(fresh());
        ns.sh("ip link set lo up");
        ns
    }

    fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.0.enter(f).unwrap()
    }

    /// Runs shell commands inside; the first that fails fails the test.
    fn sh(&self, script: &str) -> String {
        self.run(|| {
            let output = command("sh").args(["-ec", script]).env("PATH", PATH).output().unwrap();
            let out = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{script}\n{out}{}", String::from_utf8_lossy(&output.stderr));
            out
        })
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.raw_fd())
    }

    fn ruleset(&self) -> String {
        self.sh("nft list ruleset 2>/dev/null")
    }
}

#[expect(clippy::disallowed_methods, reason = "tests look with other programs, and compare with the reference's")]
fn command(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}

/// What a test attaches.
struct Pod {
    container: String,
    addresses: Vec<IpNetwork>,
    port: String,
    mac: Mac,
}

impl Pod {
    fn new(container: &str, addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
        Self { container: container.into(), addresses, port: format!("port-{container}"), mac: Mac::local([8; 6]) }
    }

    fn masquerade(&self) -> Masquerade<'_> {
        Masquerade { network: "unit-test", container: &self.container, ifname: "eth0", addresses: &self.addresses }
    }

    fn guard(&self) -> SpoofGuard<'_> {
        SpoofGuard { host_link: &self.port, mac: Some(self.mac), container: &self.container, ifname: "eth0" }
    }

    fn add(&self) -> NetResult<()> {
        add_masquerade(&self.masquerade()).and_then(|()| add_spoof_guard(&self.guard()))
    }

    fn remove(&self) -> NetResult<()> {
        remove_masquerade(&self.masquerade()).and(remove_spoof_guard(&self.container, "eth0"))
    }

    fn is_there(&self) -> (bool, bool) {
        (has_masquerade(&self.masquerade()).unwrap(), has_spoof_guard(&self.guard()).unwrap())
    }
}

const ALL: (bool, bool) = (true, true);
const NONE: (bool, bool) = (false, false);

#[test]
fn again_and_again_leaves_nothing_more() {
    let ns = Ns::new();
    let pod = Pod::new("one", &["192.168.1.2/24", "2001:db8::2/64"]);
    let other = Pod::new("two", &["192.168.1.3/24"]);
    ns.run(|| {
        assert_eq!(pod.is_there(), NONE);
        pod.remove().unwrap();
    });
    assert_eq!(ns.ruleset(), "", "a DEL without ADD makes no table");
    ns.run(|| other.add().unwrap());
    let without = ns.ruleset();
    assert!(without.contains("net: unit-test, if: eth0, id: two\""), "{without}");
    ns.run(|| pod.add().unwrap());
    let with = ns.ruleset();
    for _ in 0..5 {
        ns.run(|| {
            pod.add().unwrap();
            assert_eq!((pod.is_there(), other.is_there()), (ALL, ALL));
        });
        assert_eq!(ns.ruleset(), with);
        ns.run(|| {
            pod.remove().unwrap();
            pod.remove().unwrap();
            assert_eq!((pod.is_there(), other.is_there()), (NONE, ALL));
        });
        assert_eq!(ns.ruleset(), without);
        ns.run(|| pod.add().unwrap());
    }
}

#[test]
fn another_address_or_mac_replaces_the_first() {
    let ns = Ns::new();
    let before = Pod::new("one", &["192.168.1.2/24", "192.168.1.9/24"]);
    let mut after = Pod::new("one", &["192.168.1.3/24"]);
    after.mac = Mac::local([9; 6]);
    after.port = "another".into();
    let fresh = Ns::new();
    fresh.run(|| after.add().unwrap());
    ns.run(|| {
        before.add().unwrap();
        assert_eq!((before.is_there(), after.is_there()), (ALL, NONE));
        after.add().unwrap();
        assert_eq!((before.is_there(), after.is_there()), (NONE, ALL));
        assert!(has_spoof_guard(&SpoofGuard { mac: None, ..after.guard() }).unwrap());
    });
    assert_eq!(ns.ruleset(), fresh.ruleset());
}

/// Rules and chains of others, in the very tables that we use, and in those of iptables.
const FOREIGN: &str = r#"
    nft 'add table inet cni_plugins_masquerade; add chain inet cni_plugins_masquerade masq_checks;
         add chain inet cni_plugins_masquerade mine;
         add rule inet cni_plugins_masquerade masq_checks ip saddr 192.168.1.2 counter;
         add rule inet cni_plugins_masquerade masq_checks ip saddr 192.168.1.2 counter comment "6fd94d501e58f0aa-287";
         add rule inet cni_plugins_masquerade mine accept comment "macspoofchk-one-eth0";
         add table bridge nat; add chain bridge nat PREROUTING { type filter hook prerouting priority -300; policy drop; };
         add chain bridge nat cni-br-iface-one-eth01;
         add rule bridge nat PREROUTING iifname "port-one" accept;
         add rule bridge nat PREROUTING iifname "port-one" jump cni-br-iface-one-eth01 comment "macspoofchk-one-eth01";
         add table inet other; add chain inet other masq_checks;
         add rule inet other masq_checks accept comment "6fd94d501e58f0aa-287fc69eff0574a2, net: unit-test"'
    iptables -t nat -N CNI-2bbe0c48b91a7d1b8a6753a8
    iptables -t nat -A POSTROUTING -s 192.168.1.2 -j CNI-2bbe0c48b91a7d1b8a6753a8
    iptables -t nat -A POSTROUTING -s 192.168.1.2 -j ACCEPT
    ip6tables -t nat -A POSTROUTING -s 2001:db8::2 -j ACCEPT
"#;

#[test]
fn what_others_made_stays() {
    let ns = Ns::new();
    ns.sh(FOREIGN);
    let pod = Pod::new("one", &["192.168.1.2/24", "2001:db8::2/64"]);
    let chain_is_there = |text: &str| text.contains("chain postrouting {");
    assert!(!chain_is_there(&ns.ruleset()));
    ns.run(|| {
        pod.add().unwrap();
        pod.remove().unwrap();
    });
    // The shared chain that ADD makes stays, as in the reference.
    let after = ns.ruleset();
    assert!(chain_is_there(&after));
    ns.sh("nft delete chain inet cni_plugins_masquerade postrouting");
    let fresh = Ns::new();
    fresh.sh(FOREIGN);
    assert_eq!(ns.ruleset(), fresh.ruleset());
    assert!(fresh.ruleset().contains("policy drop"));
}

/// Whatever is missing in the shared chains is there again after the next ADD.
#[test]
fn a_damaged_base_is_mended() {
    let ns = Ns::new();
    let (pod, other) = (Pod::new("one", &["192.168.1.2/24"]), Pod::new("two", &["192.168.1.3/24"]));
    ns.run(|| pod.add().and_then(|()| other.add()).unwrap());
    let whole = ns.ruleset();
    for damage in [
        "flush chain inet cni_plugins_masquerade postrouting",
        "insert rule inet cni_plugins_masquerade postrouting accept",
        "delete chain inet cni_plugins_masquerade postrouting",
        "flush chain inet cni_plugins_masquerade postrouting; delete chain inet cni_plugins_masquerade masq_checks",
        "delete chain inet cni_plugins_masquerade postrouting; add chain inet cni_plugins_masquerade postrouting",
        "flush chain bridge nat PREROUTING; delete chain bridge nat PREROUTING",
        "flush ruleset",
    ] {
        ns.sh(&format!("nft '{damage}'"));
        let mended = ns.run(|| pod.add().and_then(|()| other.add()));
        if damage.ends_with("add chain inet cni_plugins_masquerade postrouting") {
            let e = mended.unwrap_err();
            assert!(e.object.ends_with("postrouting"), "a chain of that name without a hook is not ours: {e}");
            ns.sh("nft delete chain inet cni_plugins_masquerade postrouting");
            ns.run(|| pod.add().and_then(|()| other.add()).unwrap());
        } else {
            mended.unwrap_or_else(|e| panic!("{damage}: {e}"));
        }
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(String::from).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&ns.ruleset()), sorted(&whole), "{damage}");
        ns.run(|| assert_eq!((pod.is_there(), other.is_there()), (ALL, ALL)));
    }
}

#[test]
fn half_of_a_guard_is_none_and_goes_too() {
    let ns = Ns::new();
    let pod = Pod::new("one", &[]);
    for part in [
        "delete chain bridge nat cni-br-iface-one-eth0-mac",
        "flush chain bridge nat cni-br-iface-one-eth0-mac",
        "flush chain bridge nat PREROUTING",
        "flush chain bridge nat cni-br-iface-one-eth0",
    ] {
        ns.run(|| add_spoof_guard(&pod.guard()).unwrap());
        ns.sh(&format!("nft 'flush chain bridge nat cni-br-iface-one-eth0; {part}'"));
        ns.run(|| {
            assert!(!has_spoof_guard(&pod.guard()).unwrap(), "{part}");
            remove_spoof_guard("one", "eth0").unwrap();
        });
        assert!(!ns.ruleset().contains("one-eth0"), "{part}");
    }
    ns.run(|| add_spoof_guard(&pod.guard()).unwrap());
    ns.sh("nft add chain bridge nat mine; nft add rule bridge nat mine jump cni-br-iface-one-eth0");
    let e = ns.run(|| remove_spoof_guard("one", "eth0")).unwrap_err();
    assert!(e.is(Errno::EBUSY), "a chain that somebody else's rule needs: {e}");
    assert!(ns.run(|| has_spoof_guard(&pod.guard())).unwrap(), "all or nothing");
}

#[test]
fn a_refusal_names_what_and_leaves_nothing() {
    let ns = Ns::new();
    ns.sh("nft 'add table inet cni_plugins_masquerade;
                add chain inet cni_plugins_masquerade postrouting { type filter hook output priority 0; }'");
    let before = ns.ruleset();
    let pod = Pod::new("one", &["192.168.1.2/24"]);
    let e = ns.run(|| add_masquerade(&pod.masquerade())).unwrap_err();
    assert_eq!((e.op, &e.object[..]), ("add chain", "inet cni_plugins_masquerade postrouting"), "{e}");
    assert!(e.errno > 0, "{e}");
    assert_eq!(ns.ruleset(), before);

    let long = Pod::new(&"c".repeat(300), &[]);
    let e = ns.run(|| add_spoof_guard(&long.guard())).unwrap_err();
    assert!(e.object.contains("cni-br-iface-cccc"), "{e}");
    assert!(e.kernel.as_ref().is_some_and(|words| words.contains("policy")), "the kernel's own words: {e}");
    ns.run(|| long.remove().unwrap());
    let e = ns.run(|| add_spoof_guard(&SpoofGuard { mac: None, ..pod.guard() })).unwrap_err();
    assert!(e.is(Errno::EINVAL), "{e}");
    assert_eq!(ns.ruleset(), before);
}

/// A comment of more than 128 bytes is cut: two guards may have the same then, and must not remove each other's.
#[test]
fn long_names_are_told_apart() {
    let ns = Ns::new();
    let name = |last: &str| format!("{}{last}", "c".repeat(150));
    let (a, b) = (Pod::new(&name("a"), &["10.0.0.2/8"]), Pod::new(&name("b"), &["10.0.0.3/8"]));
    ns.run(|| {
        b.add().unwrap();
        a.add().unwrap();
        assert_eq!((a.is_there(), b.is_there()), (ALL, ALL));
        a.remove().unwrap();
        assert_eq!((a.is_there(), b.is_there()), (NONE, ALL));
        b.remove().unwrap();
    });
    assert!(!ns.ruleset().contains("ccc"));
}

#[test]
fn many_at_once() {
    let ns = Ns::new();
    let pods: Vec<Pod> = (1..=24).map(|i| Pod::new(&format!("c{i}"), &[&format!("10.0.0.{i}/24")])).collect();
    let keep: Vec<Pod> = (1..=8).map(|i| Pod::new(&format!("k{i}"), &[&format!("10.0.1.{i}/24")])).collect();
    let at_once = |work: &(dyn Fn(&Pod) -> NetResult<()> + Sync)| {
        std::thread::scope(|s| {
            for pod in &pods {
                s.spawn(|| ns.run(|| work(pod).unwrap()));
            }
        });
    };
    ns.run(|| keep.iter().for_each(|p| p.add().unwrap()));
    let before = ns.ruleset();
    at_once(&Pod::add);
    ns.run(|| assert!(pods.iter().chain(&keep).all(|p| p.is_there() == ALL)));
    // ADD of the same again deletes and makes rules by their handles: each is fenced by the ruleset's generation.
    at_once(&|pod| pod.add().and_then(|()| pod.remove()).and_then(|()| pod.add()));
    ns.run(|| assert!(pods.iter().chain(&keep).all(|p| p.is_there() == ALL)));
    at_once(&Pod::remove);
    assert_eq!(ns.ruleset(), before);
}

/// Between the reading and the deletion another program puts a rule of its own under the very handle that was read.
#[test]
fn a_deletion_is_for_what_was_read_only() {
    const TABLE: Table = Table { family: Family::Inet, name: "t" };
    let ns = Ns::new();
    let make = |mark: &str| {
        ns.sh(&format!("nft 'add table inet t; add chain inet t c; add rule inet t c counter comment \"{mark}\"'"));
    };
    make("ours");
    let mut turns: Vec<Vec<Rule>> = Vec::new();
    ns.run(|| {
        let plan = |ruleset: &mut Ruleset| {
            let rules = ruleset.rules(TABLE, "c")?;
            if turns.is_empty() {
                ns.sh("nft delete table inet t");
                make("foreign");
            }
            let mut batch = Batch::new();
            let ours = |r: &&Rule| r.comment.as_deref() == Some("ours");
            rules.iter().filter(ours).for_each(|r| batch.delete_rule(TABLE, "c", r));
            turns.push(rules);
            Ok(batch)
        };
        Ruleset::open().unwrap().unwrap().transact(plan).unwrap();
    });
    assert_eq!(turns.len(), 2, "looked again");
    assert_eq!(turns[0][0].handle, turns[1][0].handle, "the trap");
    assert!(ns.ruleset().contains("foreign"));
}
