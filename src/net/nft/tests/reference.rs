//! Side by side with the reference plugins: the same rules, and each removes what the other made.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};

use super::*;

fn plugins() -> PathBuf {
    let set = std::env::var_os("TRESTLE_REF_PLUGINS").map(PathBuf::from);
    let folder = set.unwrap_or_else(|| {
        let home = || std::env::var_os("HOME").map_or_else(|| "/root".into(), PathBuf::from).join(".cache");
        let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
        cache.join("trestle-tests/plugins-v1.9.1")
    });
    assert!(folder.join("bridge").is_file(), "no reference plugins in {}: e2e/setup builds them", folder.display());
    folder
}

/// The reference's bridge plugin on a host of its own, with a pod of its own.
struct Reference {
    host: Ns,
    pod: Ns,
    conf: Value,
    /// First in the plugin's PATH: which flavour `iptables` is.
    programs: tempfile::TempDir,
}

impl Reference {
    /// `flavour` of its iptables: `legacy` or `nft`.
    fn new(flavour: &str, more: Value) -> Self {
        let programs = tempfile::tempdir().unwrap();
        for name in ["iptables", "ip6tables"] {
            let flavoured = Path::new("/usr/sbin").join(format!("{name}-{flavour}"));
            assert!(flavoured.exists(), "{} is missing", flavoured.display());
            std::os::unix::fs::symlink(flavoured, programs.path().join(name)).unwrap();
        }
        let addresses = json!([{"address": "192.168.1.2/24"}, {"address": "2001:db8::2/64"}]);
        let mut conf = json!({
            "cniVersion": "1.0.0", "name": "unit-test", "type": "bridge", "bridge": "br0", "isGateway": true,
            "ipam": {"type": "static", "addresses": addresses},
        });
        conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Self { host: Ns::new(), pod: Ns::new(), conf, programs }
    }

    fn call(&self, verb: &str, container: &str, ifname: &str) -> Value {
        let path = format!("{}:{PATH}", self.programs.path().display());
        let output = self.host.run(|| {
            let mut child = command(plugins().join("bridge"))
                .env_clear()
                .envs([("PATH", path.as_str()), ("CNI_COMMAND", verb), ("CNI_IFNAME", ifname)])
                .envs([("CNI_CONTAINERID", container), ("CNI_NETNS", &self.pod.path())])
                .env("CNI_PATH", plugins())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(self.conf.to_string().as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        });
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{verb}: {told}{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&told).unwrap_or_default()
    }

    /// ADD; what it attached, as we would call it.
    fn add(&self, container: &str) -> Pod {
        let result = self.call("ADD", container, "eth0");
        let text = |pointer| result.pointer(pointer).and_then(Value::as_str).unwrap().to_string();
        let mut pod = Pod::new(container, &["192.168.1.2/24", "2001:db8::2/64"]);
        pod.port = text("/interfaces/1/name");
        pod.mac = text("/interfaces/2/mac").parse().unwrap();
        pod
    }
}

fn nftables() -> Value {
    json!({"ipMasq": true, "ipMasqBackend": "nftables", "macspoofchk": true})
}

/// Expressions and user data of all rules, without handles.
fn bytecode(ns: &Ns) -> String {
    let all = ns.sh("nft --debug=netlink list ruleset 2>/dev/null");
    all.lines().filter(|l| l.starts_with("  ")).map(|l| format!("{l}\n")).collect()
}

#[test]
fn the_rules_are_the_references() {
    let reference = Reference::new("nft", nftables());
    let pod = reference.add("one");
    let ours = Ns::new();
    // The reference makes the guard first.
    ours.run(|| add_spoof_guard(&pod.guard()).and_then(|()| add_masquerade(&pod.masquerade())).unwrap());
    assert!(ours.ruleset().contains("masquerade comment"), "{}", ours.ruleset());
    assert_eq!(ours.ruleset(), reference.host.ruleset());
    assert_eq!(bytecode(&ours), bytecode(&reference.host));
    reference.host.run(|| assert_eq!(pod.is_there(), ALL));
}

/// `nft` reads our rules as it would have written them, for each length of prefix.
#[test]
fn every_prefix_is_as_nft_writes_it() {
    let (ours, theirs) = (Ns::new(), Ns::new());
    let v4 = (0..=32).map(|p| format!("10.255.170.85/{p}"));
    let v6 = (0..=128).map(|p| format!("2001:db8:ffff:aaaa:5555:ff00:ff:8001/{p}"));
    let addresses: Vec<IpNetwork> = v4.chain(v6).map(|a| a.parse().unwrap()).collect();
    let m = Masquerade { network: "unit-test", container: "one", ifname: "eth0", addresses: &addresses };
    ours.run(|| add_masquerade(&m).unwrap());
    let comment = "6fd94d501e58f0aa-287fc69eff0574a2, net: unit-test, if: eth0, id: one";
    let mut script = String::from("add table inet t; add chain inet t c { type nat hook postrouting priority 100; }\n");
    for a in &addresses {
        let (ip, net) = (if a.is_ipv6() { "ip6" } else { "ip" }, format!("{}/{}", a.network(), a.prefix()));
        let rule = format!("{ip} saddr == {} {ip} daddr != {net} masquerade comment \"{comment}\"", a.ip());
        script += &format!("add rule inet t c {rule}\n");
    }
    theirs.sh(&format!("nft -f - <<'END'\n{script}END\n"));
    let checks = |ns: &Ns| bytecode(ns).split("[ masq ]").map(|r| r.trim().to_string()).collect::<Vec<_>>();
    let (ours, theirs) = (checks(&ours), checks(&theirs));
    // Ours has the three rules of the entrance behind these.
    assert_eq!(ours[..addresses.len()], theirs[..addresses.len()]);
    assert_eq!(theirs.len(), addresses.len() + 1);
}

#[test]
fn the_reference_removes_ours() {
    let reference = Reference::new("nft", nftables());
    reference.add("zero");
    reference.call("DEL", "zero", "eth0");
    // Its iptables makes empty tables on DEL; these are not the point.
    let empty = reference.host.ruleset();
    reference.call("ADD", "other", "eth1");
    let with_other = reference.host.ruleset();
    assert_ne!(empty, with_other);
    let pod = Pod::new("one", &["192.168.1.2/24", "2001:db8::2/64"]);
    reference.host.run(|| pod.add().unwrap());
    assert_ne!(reference.host.ruleset(), with_other);
    reference.call("DEL", "one", "eth0");
    assert_eq!(reference.host.ruleset(), with_other);
    reference.call("DEL", "other", "eth1");
    assert_eq!(reference.host.ruleset(), empty);
}

#[test]
fn we_remove_the_references_nftables_form() {
    let reference = Reference::new("nft", nftables());
    let first = reference.add("zero");
    reference.host.run(|| first.remove().unwrap());
    let empty = reference.host.ruleset();
    assert!(!empty.contains("zero"), "{empty}");
    reference.call("DEL", "zero", "eth0");
    let pod = reference.add("one");
    reference.host.run(|| {
        assert_eq!(pod.is_there(), ALL);
        pod.remove().unwrap();
        assert_eq!(pod.is_there(), NONE);
    });
    let after = reference.host.ruleset();
    assert!(!after.contains("one") && after.starts_with(&empty), "{after}");
}

/// Two interfaces of one container share a chain: it stays until the second is gone.
fn iptables_form_goes(flavour: &str, list: &str) {
    let reference = Reference::new(flavour, json!({"ipMasq": true}));
    let lists = || reference.host.sh(list);
    let script = "iptables -t nat -N MINE; iptables -t nat -A POSTROUTING -s 192.168.1.2 -j MINE
                  ip6tables -t nat -A POSTROUTING -s 2001:db8::2 -j ACCEPT";
    reference.host.sh(&script.replace("tables", &format!("tables-{flavour}")));
    let before = lists();
    let pod = reference.add("one");
    let mut second = Reference::new(flavour, json!({"ipMasq": true}));
    second.host = Ns(Namespace::open(Path::new(&reference.host.path())).unwrap());
    second.conf["ipam"]["addresses"] = json!([{"address": "192.168.1.3/24"}]);
    second.call("ADD", "one", "eth1");
    let both = lists();
    assert!(both.matches("CNI-").count() > before.matches("CNI-").count() + 3, "{both}");
    let shared = Pod::new("one", &["192.168.1.3/24"]);
    reference.host.run(|| {
        let masqueraded = |p: &Pod| has_masquerade(&p.masquerade()).unwrap();
        assert!(masqueraded(&pod) && masqueraded(&shared));
        remove_masquerade(&pod.masquerade()).unwrap();
        assert!(!masqueraded(&pod) && masqueraded(&shared));
        remove_masquerade(&shared.masquerade()).unwrap();
        assert!(!masqueraded(&pod) && !masqueraded(&shared));
    });
    assert_eq!(lists(), before);

    // By name alone, as where a DEL has no addresses any more.
    reference.call("DEL", "one", "eth0");
    reference.add("two");
    assert_ne!(lists(), before);
    let nameless = Pod::new("two", &[]);
    reference.host.run(|| {
        remove_masquerade(&nameless.masquerade()).unwrap();
        remove_masquerade(&nameless.masquerade()).unwrap();
    });
    assert_eq!(lists(), before);
}

#[test]
fn we_remove_the_references_iptables_form() {
    iptables_form_goes("nft", "iptables-nft -t nat -S; ip6tables-nft -t nat -S");
}

#[test]
fn we_remove_the_references_legacy_iptables_form() {
    iptables_form_goes("legacy", "iptables-legacy -t nat -S; ip6tables-legacy -t nat -S");
}

#[test]
fn a_chain_that_others_use_stays_and_the_rest_goes() {
    let reference = Reference::new("nft", json!({"ipMasq": true}));
    let pod = reference.add("one");
    reference.host.sh("iptables-nft -t nat -N MINE
         chain=$(iptables-nft -t nat -S | sed -n 's/^-N \\(CNI-.*\\)/\\1/p'); iptables-nft -t nat -A MINE -j $chain");
    let e = reference.host.run(|| {
        add_masquerade(&pod.masquerade()).unwrap();
        remove_masquerade(&pod.masquerade()).unwrap_err()
    });
    assert!(e.is(Errno::EBUSY) && e.object.starts_with("ip nat CNI-"), "{e}");
    let left = reference.host.ruleset();
    assert!(!left.contains("id: one"), "what can go is gone: {left}");
    assert!(!reference.host.sh("ip6tables-nft -t nat -S").contains("CNI-"));
}
