//! Whole calls of the meta plugin: what the plugins are asked, in which order, and what is left. The plugins are scripts
//! that write down how they were called; the pod is a network namespace of its own, so these need root.

mod trouble;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;
use crate::cni::{self, Request};
use crate::net::testing::block_on;
use crate::net::{Namespace, testing};
use crate::store::{Journal, full};
use crate::types::Code;

const SCRIPT: &str = r#"#!/bin/sh
D=@DIR@
T=${0##*/}
echo "$T $CNI_COMMAND $CNI_IFNAME" >> $D/calls
echo "$CNI_ARGS" >> $D/args
cat >> $D/stdin; echo >> $D/stdin
if [ -e $D/fail.$T.$CNI_COMMAND ]; then echo "{\"code\": 11, \"msg\": \"injected failure of $T\"}"; exit 1; fi
[ $CNI_COMMAND = ADD ] && echo "{\"cniVersion\": \"1.0.0\", \"interfaces\": [{\"name\": \"$CNI_IFNAME\", \"sandbox\": \"$CNI_NETNS\"}]}"
exit 0
"#;

fn namespace() -> File {
    let make = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("kernel tests need root (CAP_SYS_ADMIN)");
        File::open("/proc/thread-self/ns/net").unwrap()
    };
    std::thread::scope(|s| s.spawn(make).join().unwrap())
}

struct Bed {
    tmp: tempfile::TempDir,
    dirs: Dirs,
    pod: File,
    conf: Value,
    args: String,
    node: NodeConfig,
}

impl Bed {
    /// Plugins `rec`, `reca` and `recb`; NADs a and b of `default`, and c of `other`.
    fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(tmp.path().join("run"), tmp.path().join("state"));
        let bed = Self {
            conf: json!({"cniVersion": "1.0.0", "name": "meta", "type": "trestle", "binDir": tmp.path().join("bin"),
                "cniDir": tmp.path().join("cni"), "confDir": tmp.path().join("conf"),
                "delegates": [{"cniVersion": "1.0.0", "name": "default-net", "type": "rec"}]}),
            args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod1;K8S_POD_UID=u1".into(),
            pod: namespace(),
            node: NodeConfig::default(),
            dirs,
            tmp,
        };
        for plugin in ["rec", "reca", "recb"] {
            bed.plugin(plugin);
        }
        bed.nad("default", "a", json!({"cniVersion": "1.0.0", "name": "net-a", "type": "reca"}));
        bed.nad("default", "b", json!({"cniVersion": "1.0.0", "name": "net-b", "type": "recb"}));
        bed.nad("other", "c", json!({"cniVersion": "1.0.0", "name": "net-c", "type": "reca"}));
        bed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }

    fn plugin(&self, name: &str) {
        fs::create_dir_all(self.path("bin")).unwrap();
        let path = self.path("bin").join(name);
        fs::write(&path, SCRIPT.replace("@DIR@", self.tmp.path().to_str().unwrap())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn nad(&self, namespace: &str, name: &str, conf: Value) {
        let dir = self.dirs.state.join("nads").join(namespace);
        fs::create_dir_all(&dir).unwrap();
        let nad = crate::nad::Nad {
            namespace: namespace.into(),
            name: name.into(),
            config: conf.to_string(),
            resource: None,
            resource_version: "1".into(),
        };
        let copy = json!({"version": 1, "nad": nad});
        fs::write(dir.join(format!("{name}.json")), copy.to_string()).unwrap();
        // Somebody vouches for it.
        fs::create_dir_all(&self.dirs.run).unwrap();
        fs::write(self.dirs.run.join("alive"), "").unwrap();
    }

    /// What the pod asks for, as the runtime hands it over.
    fn asks(mut self, networks: &str) -> Self {
        self.conf["runtimeConfig"] =
            json!({"io.kubernetes.cri.pod-annotations": {crate::annotation::NETWORKS: networks}});
        self
    }

    /// With the default network in a file, as a node has it, and not inline, as Multus has it.
    fn by_file(mut self) -> Self {
        let path = self.path("10-default.conf");
        fs::write(&path, self.conf["delegates"][0].to_string()).unwrap();
        self.conf.as_object_mut().unwrap().remove("delegates");
        self.conf["clusterNetwork"] = path.to_str().into();
        self
    }

    fn fails(&self, plugin: &str, verb: &str) {
        fs::write(self.path(&format!("fail.{plugin}.{verb}")), "").unwrap();
    }

    fn works(&self, plugin: &str, verb: &str) {
        fs::remove_file(self.path(&format!("fail.{plugin}.{verb}"))).unwrap();
    }

    fn netns(&self) -> String {
        format!("/proc/self/fd/{}", self.pod.as_raw_fd())
    }

    fn call(&self, verb: &str, conf: &Value) -> Call {
        let netns = self.netns();
        let env = |name: &str| {
            let value = match name {
                "CNI_COMMAND" => verb,
                "CNI_CONTAINERID" => "c1",
                "CNI_NETNS" => &netns,
                "CNI_IFNAME" => "eth0",
                "CNI_PATH" => "/nonexistent/bin",
                "CNI_ARGS" => &self.args,
                _ => return None,
            };
            Some(value.into())
        };
        match cni::read(&env, &mut conf.to_string().as_bytes()) {
            Ok(Request::Call(call)) => *call,
            other => panic!("{conf}: {other:?}"),
        }
    }

    fn at<T>(&self, verb: &str, conf: &Value, run: impl AsyncFnOnce(&Job<'_>) -> T) -> T {
        let call = self.call(verb, conf);
        let none = |_: &str| None;
        let (container, ifname) = (call.container.clone().unwrap(), call.ifname.clone().unwrap());
        let started = self.dirs.now();
        let job = Job {
            call: &call,
            dirs: &self.dirs,
            node: &self.node,
            env: &none,
            container: &container,
            ifname: &ifname,
            started: Some(started),
        };
        block_on(run(&job))
    }

    fn add(&self) -> Outcome<Value> {
        self.at("ADD", &self.conf, async |job| add(job).await)
    }

    fn check(&self) -> Outcome<()> {
        self.at("CHECK", &self.conf, async |job| check(job).await)
    }

    fn del(&self) -> Outcome<()> {
        self.at("DEL", &self.conf, async |job| del(job).await)
    }

    fn gc(&self, valid: Value) -> Outcome<()> {
        let mut conf = self.conf.clone();
        conf["cniVersion"] = "1.1.0".into();
        conf["cni.dev/valid-attachments"] = valid;
        let call = self.call("GC", &conf);
        block_on(gc(&call, &self.dirs, &self.node, self.dirs.now()))
    }

    /// What the plugins were asked since the last time, as `plugin VERB interface`.
    fn calls(&self) -> String {
        self.taken("calls").trim().replace('\n', ", ")
    }

    fn taken(&self, what: &str) -> String {
        let text = fs::read_to_string(self.path(what)).unwrap_or_default();
        let _ = fs::remove_file(self.path(what));
        text
    }

    fn stdins(&self) -> Vec<Value> {
        self.taken("stdin").lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    /// Entries of the journal, and files of what is owed.
    fn left(&self) -> (usize, usize) {
        let owed = fs::read_dir(self.dirs.state.join("pending")).map_or(0, Iterator::count);
        (Journal(&self.dirs).all().unwrap().len(), owed)
    }
}

#[test]
fn a_pod_comes_and_goes() {
    let bed = Bed::new().by_file().asks("a,other/c@x1,b");
    let result = bed.add().unwrap();
    assert_eq!((&result["cniVersion"], &result["interfaces"][0]["name"]), (&json!("1.0.0"), &json!("eth0")));
    assert_eq!(bed.calls(), "rec ADD eth0, reca ADD net1, reca ADD x1, recb ADD net3");
    assert_eq!(bed.left(), (1, 1));
    let entry = Journal(&bed.dirs).all().unwrap().remove(0).unwrap();
    let pod = Namespace::open(bed.netns().as_ref()).unwrap();
    assert!(place(&entry).unwrap().pod_ns == Some(pod.id().unwrap()));
    assert!(bed.path("cni/c1").exists(), "the way back to Multus is open");
    bed.taken("stdin");
    bed.check().unwrap();
    assert_eq!(bed.calls(), "rec CHECK eth0, reca CHECK net1, reca CHECK x1, recb CHECK net3");
    assert!(bed.stdins().iter().all(|s| s["prevResult"]["interfaces"].is_array()));
    // Nothing but the journal is needed.
    fs::remove_dir_all(bed.dirs.state.join("nads")).unwrap();
    bed.del().unwrap();
    assert_eq!(bed.calls(), "recb DEL net3, reca DEL x1, reca DEL net1, rec DEL eth0");
    assert!(bed.stdins().iter().all(|s| s["prevResult"]["interfaces"].is_array()));
    assert_eq!(bed.left(), (0, 0));
    assert!(!bed.path("cni/c1").exists());
    assert!(fs::read_dir(bed.path("cni/results")).unwrap().next().is_none());
    bed.del().unwrap();
    assert_eq!(bed.calls(), "rec DEL eth0", "by the configuration: what a failed ADD may have begun");
}

#[test]
fn del_needs_no_configuration_that_can_be_read() {
    let mut bed = Bed::new().asks("a");
    bed.add().unwrap();
    bed.calls();
    bed.conf = json!({"cniVersion": "1.0.0", "name": "meta", "type": "trestle", "delegates": "broken"});
    bed.args = "nonsense".into();
    bed.del().unwrap();
    assert_eq!(bed.calls(), "reca DEL net1, rec DEL eth0");
    assert_eq!(bed.del().unwrap_err().code, Code::MetaConfig, "but without an entry there is nothing else");
}

#[test]
fn a_failing_network_undoes_all() {
    let bed = Bed::new().asks("a,b,other/c");
    bed.fails("recb", "ADD");
    let failure = bed.add().unwrap_err();
    assert!(failure.foreign == Some(11) && failure.msg.contains("default/b"), "{failure}");
    assert_eq!(bed.calls(), "rec ADD eth0, reca ADD net1, recb ADD net2, recb DEL net2, reca DEL net1, rec DEL eth0");
    assert_eq!(bed.left(), (0, 0));
}

#[test]
fn what_cannot_be_undone_is_told_after_the_cause_and_stays_for_del() {
    let bed = Bed::new().asks("a,b");
    bed.fails("recb", "ADD");
    bed.fails("reca", "DEL");
    bed.fails("rec", "DEL");
    let failure = bed.add().unwrap_err();
    let place = |text: &str| failure.msg.find(text).unwrap_or_else(|| panic!("{text} in {failure}"));
    assert!(place("failure of recb") < place("failure of reca"), "{failure}");
    assert!(place("failure of reca") < place("default-net"), "{failure}");
    assert_eq!(bed.left(), (1, 1));
    bed.calls();
    bed.works("reca", "DEL");
    assert!(bed.del().is_err());
    assert_eq!(bed.calls(), "reca DEL net1, rec DEL eth0", "recb's is undone already");
    bed.works("rec", "DEL");
    bed.del().unwrap();
    assert_eq!((bed.calls().as_str(), bed.left()), ("rec DEL eth0", (0, 0)));
}

#[test]
fn a_link_that_was_there_before_survives() {
    let bed = Bed::new().asks("a");
    let pod = Namespace::open(bed.netns().as_ref()).unwrap();
    block_on(async {
        let (one, other) = (testing::name("net1"), testing::name("other0"));
        pod.netlink().unwrap().create_veth(&testing::veth(&one, &other, &pod)).await.unwrap();
    });
    let failure = bed.add().unwrap_err();
    assert!(failure.code == Code::NameTaken && failure.msg.contains("net1"), "{failure}");
    assert_eq!((bed.calls().as_str(), bed.left()), ("rec ADD eth0, rec DEL eth0", (0, 0)));
    block_on(async { testing::found(&pod.netlink().unwrap(), "net1").await });
}

#[test]
fn refusals_before_anything_is_made() {
    let refused = |bed: Bed, code| {
        let failure = bed.add().unwrap_err();
        assert!(failure.code == code, "{failure}");
        assert_eq!((bed.calls().as_str(), bed.left()), ("", (0, 0)));
    };
    refused(Bed::new().asks("a,nope"), Code::NoSource);
    refused(Bed::new().asks("a@x,b@x"), Code::NameTaken);
    refused(Bed::new().asks("a,"), Code::Annotation);
    let mut odd = Bed::new().asks("a");
    odd.args += ";EXTRA=a=b";
    refused(odd, Code::Environment);
    let late = Bed::new();
    Journal(&late.dirs).mark_deleted(&"c1".parse().unwrap()).unwrap();
    let started = Some(0);
    let failure = late.at("ADD", &late.conf, async |job| add(&Job { started, ..*job }).await).unwrap_err();
    assert_eq!(failure.code, Code::Superseded);
}

#[test]
fn a_second_add_is_refused_and_changes_nothing() {
    let bed = Bed::new().asks("a");
    bed.add().unwrap();
    bed.calls();
    assert_eq!(bed.add().unwrap_err().code, Code::AlreadyAttached);
    assert_eq!((bed.calls().as_str(), bed.left()), ("", (1, 1)));
}

#[test]
fn requests_are_in_the_add_and_not_in_the_del() {
    let bed = Bed::new().asks(r#"[{"name": "a", "mac": "02:00:00:00:00:99", "ips": ["10.9.0.8/24"]}]"#);
    bed.add().unwrap();
    let args = bed.taken("args");
    assert!(args.lines().nth(1).unwrap().ends_with(";MAC=02:00:00:00:00:99;IP=10.9.0.8/24"), "{args}");
    assert!(!args.lines().next().unwrap().contains("MAC="), "{args}");
    bed.del().unwrap();
    assert!(!bed.taken("args").contains("MAC="));
}

#[test]
fn without_anybody_to_ask_inline_delegates_are_all() {
    let bed = Bed::new();
    bed.add().unwrap();
    assert_eq!(bed.calls(), "rec ADD eth0");
    let mut named = Bed::new();
    named.conf.as_object_mut().unwrap().remove("delegates");
    named.conf["clusterNetwork"] = "a".into();
    assert_eq!(named.add().unwrap_err().code, Code::NoSource, "no pod starts half wired");
}

#[test]
fn after_a_reboot_foreign_plugins_get_their_del() {
    let bed = Bed::new().asks("a");
    bed.add().unwrap();
    bed.calls();
    fs::remove_dir_all(&bed.dirs.run).unwrap();
    bed.del().unwrap();
    assert_eq!((bed.calls().as_str(), bed.left()), ("reca DEL net1, rec DEL eth0", (0, 0)));
    assert!(!bed.path("cni/c1").exists());
}

#[test]
fn multus_cache_of_ours_serves_where_all_else_is_lost() {
    let bed = Bed::new().asks("a@x7");
    bed.add().unwrap();
    bed.calls();
    fs::remove_dir_all(&bed.dirs.run).unwrap();
    fs::remove_dir_all(bed.dirs.state.join("pending")).unwrap();
    bed.del().unwrap();
    assert_eq!(bed.calls(), "reca DEL x7, rec DEL eth0");
    assert!(!bed.path("cni/c1").exists());
}

#[test]
fn pods_of_multus_are_taken_over() {
    let bed = Bed::new();
    let conf = |name: &str, ty: &str| json!({"cniVersion": "1.0.0", "name": name, "type": ty});
    legacy::testing::write(
        &bed.path("cni"),
        "c1",
        &[("default-net", "", conf("default-net", "rec")), ("default/b", "pod1", conf("net-b", "recb"))],
    );
    bed.check().unwrap();
    assert_eq!(bed.calls(), "rec CHECK eth0, recb CHECK pod1");
    bed.fails("recb", "DEL");
    assert!(bed.del().unwrap_err().msg.contains("recb"));
    bed.works("recb", "DEL");
    bed.calls();
    bed.del().unwrap();
    assert_eq!(bed.calls(), "recb DEL pod1, rec DEL eth0");
    assert!(!bed.path("cni/c1").exists());
}

#[test]
fn check_tells_each_network_that_fails() {
    let bed = Bed::new().by_file().asks("a,b");
    bed.add().unwrap();
    bed.fails("reca", "CHECK");
    bed.fails("recb", "CHECK");
    let failure = bed.check().unwrap_err();
    assert!(failure.msg.contains("reca") && failure.msg.contains("recb"), "{failure}");
}

#[test]
fn beside_inline_delegates_others_plugins_get_no_check_but_their_link_is_looked_at() {
    let bed = Bed::new().asks("a,b");
    bed.fails("reca", "CHECK");
    let pod = Namespace::open(bed.netns().as_ref()).unwrap();
    bed.add().unwrap();
    let key = record::key(&"c1".parse().unwrap(), &"eth0".parse().unwrap());
    bed.calls();
    bed.check().unwrap();
    assert_eq!(bed.calls(), "rec CHECK eth0");
    // As if the plugin had made this link.
    let lo = block_on(async { testing::found(&pod.netlink().unwrap(), "lo").await.index });
    let edit = |link: u32| {
        let entry = Journal(&bed.dirs).read(&key).unwrap().unwrap();
        let mut record: Value = entry.record.parse().unwrap();
        record["networks"][1]["link"] = link.into();
        Journal(&bed.dirs).write(&key, &entry.network.parse().unwrap(), &record).unwrap();
    };
    edit(lo);
    bed.check().unwrap();
    edit(lo + 70);
    let failure = bed.check().unwrap_err();
    assert!(failure.code == Code::Differs && failure.msg.contains("net1"), "{failure}");
}

#[test]
fn gc_obeys_the_runtimes_list() {
    let bed = Bed::new().asks("a");
    bed.add().unwrap();
    bed.calls();
    bed.gc(json!([{"containerID": "c1", "ifname": "eth0"}])).unwrap();
    assert_eq!((bed.calls().as_str(), bed.left()), ("", (1, 1)));
    bed.gc(Value::Null).unwrap();
    assert_eq!(bed.left(), (1, 1), "a missing list collects nothing");
    let mut other = bed.conf.clone();
    other["name"] = "another".into();
    other["cniVersion"] = "1.1.0".into();
    other["cni.dev/valid-attachments"] = json!([]);
    let call = bed.call("GC", &other);
    block_on(gc(&call, &bed.dirs, &NodeConfig::default(), bed.dirs.now())).unwrap();
    assert_eq!(bed.left(), (1, 1), "another network's pod");
    bed.gc(json!([])).unwrap();
    assert_eq!((bed.calls().as_str(), bed.left()), ("reca DEL net1, rec DEL eth0", (0, 0)));
}

#[test]
fn gc_finds_what_is_owed_since_an_earlier_boot() {
    let bed = Bed::new().asks("a");
    bed.add().unwrap();
    bed.calls();
    fs::remove_dir_all(&bed.dirs.run).unwrap();
    bed.gc(json!([])).unwrap();
    assert_eq!(bed.left(), (0, 1), "the pod's namespace is there: `/run` was wiped under it");
    let bed = Bed { dirs: bed.dirs.clone().with_boot("another"), ..bed };
    bed.gc(json!([])).unwrap();
    assert_eq!((bed.calls().as_str(), bed.left()), ("reca DEL net1, rec DEL eth0", (0, 0)));
}

#[test]
fn the_clusters_network_by_name_path_and_default_network() {
    let mut bed = Bed::new().asks("a");
    let conf = bed.conf.as_object_mut().unwrap();
    conf.remove("delegates");
    conf.insert("clusterNetwork".into(), "cn".into());
    conf.insert("defaultNetworks".into(), json!(["b"]));
    conf.insert("multusNamespace".into(), "default".into());
    bed.nad("default", "cn", json!({"cniVersion": "1.0.0", "name": "net-cn", "type": "rec"}));
    bed.add().unwrap();
    assert_eq!(bed.calls(), "rec ADD eth0, recb ADD net1, reca ADD net2");
    bed.del().unwrap();
    bed.calls();
    let file = bed.path("10-x.conflist");
    fs::write(
        &file,
        json!({"cniVersion": "1.0.0", "name": "cnf", "plugins": [{"type": "rec"}, {"type": "recb"}]}).to_string(),
    )
    .unwrap();
    bed.conf["clusterNetwork"] = file.to_str().unwrap().into();
    bed.conf["defaultNetworks"] = Value::Null;
    bed.add().unwrap();
    assert_eq!(bed.calls(), "rec ADD eth0, recb ADD eth0, reca ADD net1");
    bed.del().unwrap();
    assert_eq!(bed.calls(), "reca DEL net1, recb DEL eth0, rec DEL eth0");
    bed.conf["clusterNetwork"] = "nope".into();
    let failure = bed.add().unwrap_err();
    assert!(failure.code == Code::DefaultNetwork && failure.msg.contains("nope"), "{failure}");
    bed.del().unwrap();
}

fn status_of(bed: &Bed, conf: &Value) -> Outcome<()> {
    let mut conf = conf.clone();
    conf["cniVersion"] = "1.1.0".into();
    let call = bed.call("STATUS", &conf);
    block_on(status(&call, &bed.dirs, &Ok(NodeConfig::default()), &|_| None))
}

#[test]
fn status_fails_where_the_default_network_is_missing() {
    let bed = Bed::new();
    status_of(&bed, &bed.conf).unwrap();
    let mut named = bed.conf.clone();
    named.as_object_mut().unwrap().remove("delegates");
    named["clusterNetwork"] = "nope".into();
    assert_eq!(status_of(&bed, &named).unwrap_err().code, Code::NotReady);
    let mut waits = bed.conf.clone();
    waits["readinessindicatorfile"] = "/nonexistent/ready".into();
    assert_eq!(status_of(&bed, &waits).unwrap_err().code, Code::NotReady);
    let mut lost = bed.conf.clone();
    lost["kubeconfig"] = "/nonexistent/kubeconfig".into();
    let failure = status_of(&bed, &lost).unwrap_err();
    assert!(failure.code == Code::NotReady && failure.msg.contains("/nonexistent/kubeconfig"), "{failure}");
}

/// Where no pod can do without.
#[test]
fn status_fails_where_no_state_can_be_written() {
    full::on_tmpfs("size=64k", |at| {
        let mut bed = Bed::new();
        bed.dirs = Dirs::new(bed.path("run"), at);
        let with = |network: Value| {
            let mut conf = bed.conf.clone();
            conf["delegates"] = json!([network]);
            conf
        };
        let own = |ipam: Value| with(json!({"cniVersion": "1.1.0", "name": "d", "type": "bridge", "ipam": ipam}));
        let (foreign, plain) = (with(json!({"cniVersion": "1.0.0", "name": "d", "type": "rec"})), own(json!({})));
        let addresses = own(json!({"type": "host-local", "subnet": "10.9.0.0/24"}));
        for conf in [&foreign, &plain, &addresses] {
            status_of(&bed, conf).unwrap();
        }
        full::fill(at);
        status_of(&bed, &plain).expect("nothing of it lies there");
        for conf in [&foreign, &addresses] {
            let failure = status_of(&bed, conf).unwrap_err();
            assert!(failure.code == Code::NotReady && failure.msg.contains("No space left"), "{failure}");
        }
        crate::resolve::testing::agent(&bed.dirs, None);
        assert_eq!(status_of(&bed, &plain).unwrap_err().code, Code::NotReady, "each pod's status is put down");
        full::make_read_only(at);
        assert!(status_of(&bed, &foreign).unwrap_err().msg.contains("Read-only"));
        assert_eq!(fs::read_dir(at).unwrap().count(), 1, "the ballast alone");
    });
}
