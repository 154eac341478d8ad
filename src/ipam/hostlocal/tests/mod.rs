//! Behaviour on real files: the store's contents to the letter, what others leave there, and trouble with the disk.

mod crowd;
mod model;
mod reboot;

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::HostLocal;
use crate::cni::Args;
use crate::ipam::{Held, Who};
use crate::store::Dirs;
use crate::store::full::{fill, make_read_only, on_tmpfs};
use crate::types::{Code, Outcome};

pub const V4: &str = "10.1.2.0/24";
pub const V6: &str = "2001:db8:42::/64";

/// A store and our directories below one path.
pub struct Lab {
    pub root: PathBuf,
    pub dirs: Dirs,
    _tmp: Option<tempfile::TempDir>,
}

impl Lab {
    pub fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let lab = Self::at(tmp.path());
        Self { _tmp: Some(tmp), ..lab }
    }

    pub fn at(root: &Path) -> Self {
        let dirs = Dirs::new(root.join("run"), root.join("state")).with_boot("boot-1").with_machine("machine-1");
        Self { root: root.into(), dirs, _tmp: None }
    }

    pub fn store(&self) -> PathBuf {
        self.root.join("store/net")
    }

    pub fn with(&self, ipam: Value, more: Value, args: &str) -> Outcome<HostLocal> {
        let mut conf = json!({"name": "net", "cniVersion": "1.0.0", "ipam": ipam});
        conf["ipam"]["dataDir"] = json!(self.root.join("store"));
        let mut conf = conf.as_object().unwrap().clone();
        conf.extend(more.as_object().unwrap().clone());
        HostLocal::parse(&conf, &Args::new(args))
    }

    /// One range set for each subnet.
    pub fn sets(&self, subnets: &[&str]) -> HostLocal {
        let ranges: Vec<Value> = subnets.iter().map(|s| json!([{"subnet": s}])).collect();
        self.with(json!({"ranges": ranges}), json!({}), "").unwrap()
    }

    pub fn asking(&self, subnets: &[&str], ips: &[&str]) -> HostLocal {
        let ranges: Vec<Value> = subnets.iter().map(|s| json!([{"subnet": s}])).collect();
        self.with(json!({"ranges": ranges}), json!({"runtimeConfig": {"ips": ips}}), "").unwrap()
    }

    /// All files of the store but the lock, with their contents.
    pub fn files(&self) -> BTreeMap<String, String> {
        let Ok(entries) = fs::read_dir(self.store()) else { return BTreeMap::new() };
        let name = |e: std::io::Result<fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
        let content = |name: String| (name.clone(), fs::read_to_string(self.store().join(name)).unwrap());
        entries.map(name).filter(|n| n != "lock").map(content).collect()
    }

    /// The names of address files.
    pub fn addresses(&self) -> Vec<String> {
        self.files().into_keys().filter(|n| n.parse::<IpAddr>().is_ok()).collect()
    }

    /// The names on our list.
    pub fn list(&self) -> Vec<String> {
        let Ok(lists) = fs::read_dir(self.dirs.state.join("host-local")) else { return Vec::new() };
        let entries = lists.flat_map(|l| fs::read_dir(l.unwrap().path()).unwrap());
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != crate::ipam::hostlocal::list::STORE);
        names.sort();
        names
    }

    pub fn put(&self, name: &str, content: &str) {
        fs::create_dir_all(self.store().join(name).parent().unwrap()).unwrap();
        fs::write(self.store().join(name), content).unwrap();
    }
}

pub fn who<'a>(container: &'a str, ifname: &'a str) -> Who<'a> {
    Who { container, ifname }
}

pub fn add(local: &HostLocal, lab: &Lab, container: &str) -> Result<Vec<String>, Code> {
    let lease = local.add(&who(container, "eth0"), &lab.dirs).map_err(|e| e.code)?;
    Ok(lease.ips.iter().map(|ip| ip.address.to_string()).collect())
}

#[test]
fn store_has_the_references_files_and_modes() {
    let lab = Lab::new();
    let local = lab.sets(&[V4, V6]);
    let lease = local.add(&who("c1", "eth0"), &lab.dirs).unwrap();
    let ips: Vec<_> = lease.ips.iter().map(|ip| (ip.address.to_string(), ip.gateway.unwrap().to_string())).collect();
    assert_eq!(ips[0], ("10.1.2.2/24".into(), "10.1.2.1".into()));
    assert_eq!(ips[1], ("2001:db8:42::2/64".into(), "2001:db8:42::1".into()));
    let expected = [
        ("10.1.2.2", "c1\r\neth0"),
        ("2001:db8:42::2", "c1\r\neth0"),
        ("last_reserved_ip.0", "10.1.2.2"),
        ("last_reserved_ip.1", "2001:db8:42::2"),
    ];
    assert_eq!(lab.files(), expected.map(|(k, v)| (k.into(), v.into())).into());
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(lab.store()), mode(lab.root.join("store"))), (0o755, 0o755));
    assert_eq!((mode(lab.store().join("lock")), fs::read(lab.store().join("lock")).unwrap().len()), (0o750, 0));
    assert!(lab.files().into_keys().all(|name| mode(lab.store().join(name)) == 0o600));
    let list = lab.dirs.state.join("host-local");
    assert_eq!((mode(lab.dirs.state.clone()), mode(list), lab.list().len()), (0o700, 0o700, 2));

    local.check(&who("c1", "eth0"), &lab.dirs).unwrap();
    assert_eq!(local.check(&who("c1", "eth1"), &lab.dirs).unwrap_err().code, Code::IpamMissing);
    local.del(&who("c1", "eth0"), &lab.dirs).unwrap();
    local.del(&who("c1", "eth0"), &lab.dirs).unwrap();
    assert_eq!(lab.files().into_keys().collect::<Vec<_>>(), ["last_reserved_ip.0", "last_reserved_ip.1"]);
    assert!(lab.list().is_empty());
}

#[test]
fn routes_and_dns_come_with_the_address() {
    let lab = Lab::new();
    fs::write(lab.root.join("resolv"), "nameserver 192.0.2.1\n").unwrap();
    let ipam = json!({"subnet": V4, "resolvConf": lab.root.join("resolv"), "routes": [{"dst": "192.168.3.4/16"}]});
    let lease = lab.with(ipam, json!({}), "").unwrap().add(&who("c1", "eth0"), &lab.dirs).unwrap();
    assert_eq!(lease.dns.nameservers, ["192.0.2.1"]);
    assert_eq!(lease.routes[0].dst.to_string(), "192.168.3.4/16");
    let missing = lab.with(json!({"subnet": V4, "resolvConf": "/nonexistent/x"}), json!({}), "").unwrap();
    assert_eq!(missing.add(&who("c2", "eth0"), &lab.dirs).unwrap_err().code, Code::IpamConfig);
    assert_eq!(lab.addresses(), ["10.1.2.2"], "nothing was given away before the error");
}

#[test]
fn requested_addresses() {
    let lab = Lab::new();
    assert_eq!(add(&lab.asking(&[V4], &["10.1.2.88"]), &lab, "c1").unwrap(), ["10.1.2.88/24"]);
    assert_eq!(add(&lab.asking(&[V4], &["10.1.2.88"]), &lab, "c2"), Err(Code::IpamTaken));
    assert_eq!(add(&lab.asking(&[V4], &["10.1.2.1"]), &lab, "c2"), Err(Code::IpamTaken), "the gateway");
    assert_eq!(add(&lab.asking(&[V4], &["10.9.9.9"]), &lab, "c2"), Err(Code::IpamTaken), "in no range");
    assert_eq!(add(&lab.asking(&[V4], &["10.1.2.90", "10.1.2.91"]), &lab, "c2"), Err(Code::IpamTaken), "one too many");
    assert_eq!(lab.addresses(), ["10.1.2.88"], "a refused call keeps nothing");
    assert_eq!(add(&lab.sets(&[V4]), &lab, "c2").unwrap(), ["10.1.2.91/24"], "goes on after the last one");
    let both = add(&lab.asking(&[V4, V6], &["2001:db8:42::5"]), &lab, "c3").unwrap();
    assert_eq!(both, ["10.1.2.92/24", "2001:db8:42::5/64"]);
    // Who has an address may ask for another one, and loses both by one DEL.
    assert_eq!(add(&lab.asking(&[V4], &["10.1.2.5"]), &lab, "c1").unwrap(), ["10.1.2.5/24"]);
    lab.sets(&[V4]).del(&who("c1", "eth0"), &lab.dirs).unwrap();
    assert_eq!(lab.addresses(), ["10.1.2.91", "10.1.2.92", "2001:db8:42::5"]);
}

#[test]
fn an_address_out_of_range_is_told_though_the_range_is_full() {
    let lab = Lab::new();
    let small = "10.1.2.0/30";
    add(&lab.sets(&[small]), &lab, "c1").unwrap();
    assert_eq!(add(&lab.sets(&[small]), &lab, "c2"), Err(Code::IpamExhausted));
    let failure = lab.asking(&[small], &["10.9.9.9"]).add(&who("c2", "eth0"), &lab.dirs).unwrap_err();
    assert_eq!((failure.code, failure.msg.contains("10.9.9.9")), (Code::IpamTaken, true), "{failure}");
    assert_eq!(lab.addresses(), ["10.1.2.2"]);
}

#[test]
fn a_failing_set_gives_back_what_the_call_had() {
    let lab = Lab::new();
    let local = lab.sets(&[V4, "172.16.0.0/30"]);
    add(&local, &lab, "c1").unwrap();
    assert_eq!(add(&local, &lab, "c2"), Err(Code::IpamExhausted));
    assert_eq!(lab.addresses(), ["10.1.2.2", "172.16.0.2"]);
    assert_eq!(lab.list().len(), 2);
    assert_eq!(lab.files()["last_reserved_ip.0"], "10.1.2.3", "the round goes on, as in the reference");
    // And nothing that the owner had before: here by a request, which is no duplicate.
    assert_eq!(add(&lab.asking(&[V4, "172.16.0.0/30"], &["10.1.2.77"]), &lab, "c1"), Err(Code::IpamDuplicate));
    assert_eq!(lab.addresses(), ["10.1.2.2", "172.16.0.2"]);
    assert_eq!(add(&local, &lab, "c1"), Err(Code::IpamDuplicate));
    local.check(&who("c1", "eth0"), &lab.dirs).unwrap();
}

#[test]
fn what_others_left_in_the_store() {
    let lab = Lab::new();
    let local = lab.sets(&[V4]);
    lab.put("10.1.2.77", "cid-1");
    lab.put("10.1.2.78", "cid-2\n");
    lab.put("10.1.2.79", "  cid-3\r\neth0 \n");
    lab.put("10.1.2.80", "cid-4\neth0");
    lab.put("README", "hello");
    lab.put("10.1.2.2", "");
    lab.put("below/10.1.2.90", "cid-5\r\neth0");
    fs::write(lab.store().join("10.1.2.3"), [0xff, 0xfe]).unwrap();
    std::os::unix::fs::symlink("/nonexistent/target", lab.store().join("10.1.2.4")).unwrap();
    nix::unistd::mkfifo(&lab.store().join("10.1.2.5"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let check = |c: &str| local.check(&who(c, "eth0"), &lab.dirs).map_err(|e| e.code);
    for known in ["cid-1", "cid-2", "cid-3", "cid-5"] {
        check(known).unwrap();
        assert_eq!(add(&local, &lab, known), Err(Code::IpamDuplicate), "{known}");
    }
    assert_eq!(check("cid-4"), Err(Code::IpamMissing));
    assert_eq!(add(&local, &lab, "new").unwrap(), ["10.1.2.6/24"]);
    for c in ["cid-1", "cid-2", "cid-3", "cid-4", "cid-5", "new"] {
        local.del(&who(c, "eth0"), &lab.dirs).unwrap();
    }
    fs::remove_file(lab.store().join("10.1.2.3")).unwrap();
    for not_readable in ["10.1.2.4", "10.1.2.5"] {
        fs::remove_file(lab.store().join(not_readable)).unwrap();
    }
    fs::remove_dir(lab.store().join("below")).unwrap();
    assert_eq!(lab.files().into_keys().collect::<Vec<_>>(), ["10.1.2.2", "10.1.2.80", "README", "last_reserved_ip.0"]);
}

#[test]
fn a_bare_id_counts_only_where_there_is_no_exact_one() {
    let lab = Lab::new();
    let local = lab.sets(&[V4]);
    add(&local, &lab, "cid-1").unwrap();
    lab.put("10.1.2.77", "cid-1");
    local.del(&who("cid-1", "eth0"), &lab.dirs).unwrap();
    assert_eq!(lab.addresses(), ["10.1.2.77"]);
    local.del(&who("cid-1", "eth0"), &lab.dirs).unwrap();
    assert!(lab.addresses().is_empty());
}

#[test]
fn the_round_begins_anew_where_the_last_one_says_nothing() {
    let lab = Lab::new();
    let local = lab.sets(&[V4]);
    for (i, (text, expected)) in
        [("192.0.2.7", "10.1.2.2"), ("garbage", "10.1.2.3"), ("10.1.2.254", "10.1.2.4"), ("10.1.2.99", "10.1.2.100")]
            .into_iter()
            .enumerate()
    {
        lab.put("last_reserved_ip.0", text);
        assert_eq!(add(&local, &lab, &format!("id-{i}")).unwrap(), [format!("{expected}/24")], "after {text:?}");
        assert_eq!(lab.files()["last_reserved_ip.0"], expected, "cut to its length");
    }
}

#[test]
fn release_needs_only_the_location_and_makes_no_store() {
    let lab = Lab::new();
    let local = lab.sets(&[V4]);
    let text = serde_json::to_string(&local.location()).unwrap();
    let location = serde_json::from_str(&text).unwrap();
    HostLocal::release(&location, &who("c1", "eth0"), &lab.dirs).unwrap();
    assert!(!lab.store().exists());
    add(&local, &lab, "c1").unwrap();
    add(&local, &lab, "c2").unwrap();
    HostLocal::release(&location, &who("c1", "eth0"), &lab.dirs).unwrap();
    assert_eq!((lab.addresses(), lab.list().len()), (vec!["10.1.2.3".to_owned()], 1));
    // The drop-in's DEL makes it, as the reference's does.
    fs::remove_dir_all(lab.store()).unwrap();
    local.del(&who("c1", "eth0"), &lab.dirs).unwrap();
    assert!(lab.store().join("lock").exists());
}

#[test]
fn a_store_that_cannot_be_made_is_named() {
    let lab = Lab::new();
    fs::write(lab.root.join("store"), "no directory").unwrap();
    let local = lab.sets(&[V4]);
    let name = lab.store().display().to_string();
    for failure in [
        local.add(&who("c1", "eth0"), &lab.dirs).unwrap_err(),
        local.del(&who("c1", "eth0"), &lab.dirs).unwrap_err(),
        local.check(&who("c1", "eth0"), &lab.dirs).unwrap_err(),
    ] {
        assert!(failure.code == Code::IpamStore && failure.msg.contains(&name), "{failure}");
    }
}

#[test]
fn list_and_store_on_two_file_systems() {
    let lab = Lab::new();
    on_tmpfs("size=1m", |at| {
        let lab = Lab { dirs: Dirs::new("/nonexistent", at).with_boot("boot-1"), root: lab.root.clone(), _tmp: None };
        let local = lab.sets(&[V4]);
        add(&local, &lab, "c1").unwrap();
        add(&local, &lab, "c2").unwrap();
        assert_eq!(lab.addresses(), ["10.1.2.2", "10.1.2.3"]);
        assert!(lab.list().len() == 2 && lab.list().iter().all(|n| n.ends_with("_copy")), "{:?}", lab.list());
        assert_eq!(add(&local, &lab, "c1"), Err(Code::IpamDuplicate));
        assert_eq!(add(&lab.asking(&[V4], &["10.1.2.3"]), &lab, "c3"), Err(Code::IpamTaken));
        assert_eq!(add(&lab.asking(&[V4], &["10.1.2.9", "10.1.2.8"]), &lab, "c3"), Err(Code::IpamTaken));
        local.del(&who("c1", "eth0"), &lab.dirs).unwrap();
        assert_eq!((lab.addresses(), lab.list().len()), (vec!["10.1.2.3".to_owned()], 1));
        // One more boot.
        let lab = Lab { dirs: lab.dirs.clone().with_boot("boot-2"), ..lab };
        lab.put("10.1.2.50", "other\r\neth0");
        local.del(&who("nobody", "eth0"), &lab.dirs).unwrap();
        assert_eq!((lab.addresses(), lab.list().len()), (vec!["10.1.2.50".to_owned()], 0));
        assert!(!lab.files().contains_key(".trestle.new"));
    });
}

/// The state directory alone: the store is elsewhere.
#[test]
fn a_list_that_cannot_be_written_keeps_no_address() {
    let lab = Lab::new();
    on_tmpfs("size=64k", |at| {
        let lab = Lab { dirs: Dirs::new("/nonexistent", at).with_boot("boot-1"), root: lab.root.clone(), _tmp: None };
        let local = lab.sets(&[V4]);
        for id in ["c1", "c2"] {
            add(&local, &lab, id).unwrap();
        }
        local.ready(&lab.dirs).unwrap();
        fill(at);
        assert_eq!(
            (local.ready(&lab.dirs).unwrap_err().code, add(&local, &lab, "c3")),
            (Code::NotReady, Err(Code::IpamStore))
        );
        make_read_only(at);
        assert_eq!(
            (local.ready(&lab.dirs).unwrap_err().code, add(&local, &lab, "c3")),
            (Code::NotReady, Err(Code::IpamStore))
        );
        local.del(&who("c1", "eth0"), &lab.dirs).unwrap();
        HostLocal::release(&local.location(), &who("c2", "eth0"), &lab.dirs).unwrap();
        assert_eq!((lab.addresses(), lab.list().len()), (Vec::new(), 2));
        nix::mount::mount(None::<&str>, at, None::<&str>, nix::mount::MsFlags::MS_REMOUNT, None::<&str>).unwrap();
        fs::remove_file(at.join("ballast")).unwrap();
        local.del(&who("nobody", "eth0"), &lab.dirs).unwrap();
        assert_eq!(lab.list().len(), 0, "the next call takes them off");
    });
}

#[test]
fn a_full_disk_gives_nothing_away_and_takes_back() {
    on_tmpfs("size=256k", |at| {
        let lab = Lab::at(at);
        let local = lab.sets(&[V4]);
        add(&local, &lab, "c1").unwrap();
        fill(at);
        let before = lab.files();
        let failure = local.add(&who("c2", "eth0"), &lab.dirs).unwrap_err();
        assert_eq!(failure.code, Code::IpamStore);
        assert_eq!((lab.files(), lab.list().len()), (before, 1), "no empty or torn file is left");
        local.check(&who("c1", "eth0"), &lab.dirs).unwrap();
        local.del(&who("c1", "eth0"), &lab.dirs).unwrap();
        assert!(lab.addresses().is_empty() && lab.list().is_empty());
    });
}

#[test]
fn a_read_only_store_is_told_and_not_passed_over() {
    on_tmpfs("size=256k", |at| {
        let lab = Lab::at(at);
        let local = lab.sets(&[V4]);
        add(&local, &lab, "c1").unwrap();
        make_read_only(at);
        assert_eq!(add(&local, &lab, "c2"), Err(Code::IpamStore));
        local.check(&who("c1", "eth0"), &lab.dirs).unwrap();
        assert_eq!(local.del(&who("c1", "eth0"), &lab.dirs).unwrap_err().code, Code::IpamStore);
        local.del(&who("nobody", "eth0"), &lab.dirs).unwrap();
        assert_eq!(lab.addresses(), ["10.1.2.2"]);
    });
}

#[test]
fn a_look_tells_who_has_which_address_in_every_store_of_ours() {
    let lab = Lab::new();
    assert!(held(&lab).is_empty());
    lab.sets(&[V4, V6]).add(&who("c1", "eth0"), &lab.dirs).unwrap();
    lab.put("10.1.2.9", "c0");
    lab.put("no-address", "c1");
    let of = |address: &str, container: &str, ifname: &str| (address.into(), container.into(), ifname.into());
    assert_eq!(
        held(&lab),
        [of("10.1.2.2", "c1", "eth0"), of("10.1.2.9", "c0", ""), of("2001:db8:42::2", "c1", "eth0")]
    );
}

/// Other stores of this machine left out.
fn held(lab: &Lab) -> Vec<(String, String, String)> {
    let all = Held::find(&lab.dirs).unwrap().into_iter().filter(|one| one.store.starts_with(&lab.root));
    all.map(|one| (one.address.to_string(), one.container, one.ifname)).collect()
}
