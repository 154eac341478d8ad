//! Whole calls: what is printed, with which number, and where the words go. Nothing of it touches a namespace: the
//! calls fail before, or are those of IPAM.

mod numbers;
mod own_namespace;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::json;

use super::*;
use crate::net::testing::{block_on, fresh, name, veth};
use crate::protocol::Told;
use crate::resolve::testing::agent;
use crate::store::{ContainerLock, full};
use crate::types::PodRef;

/// A run of the program, in directories of its own.
struct Run {
    tmp: tempfile::TempDir,
    program: &'static str,
    vars: Vec<(&'static str, String)>,
}

/// What a runtime sees.
#[derive(Debug, PartialEq)]
struct Seen {
    success: bool,
    stdout: String,
}

impl Seen {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    fn code(&self) -> u64 {
        assert!(!self.success, "{self:?}");
        self.json()["code"].as_u64().unwrap()
    }
}

impl Run {
    fn new(program: &'static str, verb: &str) -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let path = |name: &str| tmp.path().join(name).to_str().unwrap().to_owned();
        let vars = vec![
            ("CNI_COMMAND", verb.to_owned()),
            ("CNI_CONTAINERID", "c1".into()),
            ("CNI_NETNS", "/nonexistent/netns".into()),
            ("CNI_IFNAME", "net1".into()),
            ("CNI_PATH", "/nonexistent/bin".into()),
            ("TRESTLE_RUN_DIR", path("run")),
            ("TRESTLE_STATE_DIR", path("state")),
        ];
        Self { tmp, program, vars }
    }

    fn var(mut self, name: &'static str, value: &str) -> Self {
        self.vars.push((name, value.into()));
        self
    }

    fn node_json(self, text: &str) -> Self {
        std::fs::create_dir_all(self.tmp.path().join("state")).unwrap();
        std::fs::write(self.tmp.path().join("state/node.json"), text).unwrap();
        self
    }

    fn on(&self, stdin: &Value) -> Seen {
        self.raw(&stdin.to_string())
    }

    fn raw(&self, stdin: &str) -> Seen {
        let env = |name: &str| self.vars.iter().rfind(|(k, _)| *k == name).map(|(_, v)| v.into());
        let mut out = Vec::new();
        let code = run(self.program, &env, &mut stdin.as_bytes(), &mut out);
        Seen { success: code == SUCCESS, stdout: String::from_utf8(out).unwrap() }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.tmp.path().join("state/trestle.log")).unwrap_or_default()
    }
}

fn conf(ty: &str) -> Value {
    json!({"cniVersion": "1.1.0", "name": "lan", "type": ty})
}

fn with(mut conf: Value, more: Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        conf[key] = value.clone();
    }
    conf
}

#[test]
fn the_programs_name_decides_before_the_type() {
    let call = |ty: &str| {
        let conf = conf(ty).to_string();
        let env =
            |name: &str| (name.starts_with("CNI_")).then(|| if name == "CNI_COMMAND" { "ADD" } else { "x" }.into());
        match cni::read(&env, &mut conf.as_bytes()) {
            Ok(Request::Call(call)) => *call,
            other => panic!("{other:?}"),
        }
    };
    let (trestle, bridge, macvlan) = (Type::Trestle, Type::Bridge, Type::Macvlan);
    let attachment = Kind::Attachment;
    for (program, ty, kind) in [
        ("trestle", "trestle", attachment(trestle)),
        ("trestle", "bridge", attachment(bridge)),
        ("trestle", "cnv-bridge", attachment(bridge)),
        ("trestle", "macvlan", attachment(macvlan)),
        ("trestle", "host-local", Kind::HostLocal),
        ("trestle", "static", Kind::Static),
        ("", "trestle", attachment(trestle)),
        ("trestle-1.2", "bridge", attachment(bridge)),
        // As an IPAM plugin it gets the main plugin's type.
        ("host-local", "bridge", Kind::HostLocal),
        ("static", "trestle", Kind::Static),
        ("bridge", "trestle", attachment(bridge)),
        ("cnv-bridge", "cnv-bridge", attachment(bridge)),
        ("macvlan", "ptp", attachment(macvlan)),
        ("dhcp", "bridge", Kind::Dhcp),
        ("trestle", "dhcp", Kind::Dhcp),
    ] {
        assert_eq!(Program::decide(program, &call(ty)), Ok(Program::One(kind)), "{program} {ty}");
    }
    for (program, ty) in [("trestle", "ptp"), ("trestle", "Bridge"), ("trestle", "")] {
        assert_eq!(Program::decide(program, &call(ty)).unwrap_err().code, Code::Config, "{program} {ty}");
    }
}

/// As `bridge` that flannel runs, which the meta plugin runs: it must not wait for its own caller.
#[test]
fn within_a_call_of_ours_the_lock_is_held_already() {
    let run = Run::new("bridge", "DEL").var("CNI_NETNS", "").var(delegate::LOCK_HELD, "c1");
    let dirs = Dirs::new(run.tmp.path().join("run"), run.tmp.path().join("state"));
    let _lock = ContainerLock::lock(&dirs, &"c1".parse().unwrap(), Duration::ZERO).unwrap();
    let begin = Instant::now();
    assert!(run.on(&conf("bridge")).success);
    assert!(begin.elapsed() < Duration::from_secs(10), "it waited");
    let marks = std::fs::read_dir(dirs.run.join("marks")).map_or(0, Iterator::count);
    assert_eq!(marks, 0, "the mark of a DEL is its caller's too");
    let call = |id: &str| {
        let vars: HashMap<&str, &str> = [(delegate::LOCK_HELD, id)].into();
        let env = |key: &str| vars.get(key).map(OsString::from);
        lock_level(&env, &crate::plan::testing::call(&conf("bridge"), ""))
    };
    assert_eq!([call("c1"), call("c2"), call("")], [Level::Inner, Level::Outermost, Level::Outermost]);
}

#[test]
fn what_an_administrator_wrote_wrongly() {
    let lan = with(conf("trestle"), json!({"bridge": "br-lan"}));
    for verb in ["ADD", "CHECK", "STATUS"] {
        let seen = Run::new("trestle", verb).node_json(r#"{"allowBridge": []}"#).on(&lan);
        assert_eq!(seen.code(), 7, "{verb}");
        assert!(seen.json()["msg"].as_str().unwrap().contains("node.json"));
    }
    for verb in ["DEL", "GC"] {
        assert!(Run::new("trestle", verb).node_json("{").on(&lan).success, "{verb} needs nobody");
    }
}

#[test]
fn status_tells_what_each_pod_would_meet_and_no_more() {
    let status = |more| Run::new("trestle", "STATUS").on(&with(conf("trestle"), more));
    assert!(status(json!({"bridge": "no-such-bridge"})).success, "an absent bridge makes no node not ready");
    assert!(status(json!({"bridge": "x", "ipam": {"type": "host-local", "subnet": "10.0.0.0/24"}})).success);
    assert_eq!(status(json!({"bridge": "x", "mtuu": 1})).code(), 7);
    assert_eq!(status(json!({"bridge": "x", "ipam": {"type": "host-local"}})).code(), 7);
    assert_eq!(status(json!({"bridge": "x", "ipam": {"type": "gone"}})).code(), 50);
    let drop_in = Run::new("bridge", "STATUS").on(&with(conf("bridge"), json!({"ipam": {"type": "gone"}})));
    assert_eq!(drop_in.code(), 999);
    for spoil in [full::fill as fn(&Path), full::make_read_only] {
        full::on_tmpfs("size=64k", |at| {
            let run = Run::new("trestle", "STATUS").var("TRESTLE_RUN_DIR", at.to_str().unwrap());
            let lan = with(conf("trestle"), json!({"bridge": "x"}));
            assert!(run.on(&lan).success);
            assert_eq!(std::fs::read_dir(at).unwrap().count(), 0, "nothing is left of the question");
            spoil(at);
            let seen = run.on(&lan);
            assert_eq!(seen.code(), 50);
            assert!(seen.json()["msg"].as_str().unwrap().starts_with("TR0701"));
        });
        full::on_tmpfs("size=64k", |at| {
            let status = |program, more| {
                let run = Run::new(program, "STATUS").var("TRESTLE_STATE_DIR", at.to_str().unwrap());
                run.on(&with(with(conf("trestle"), json!({"bridge": "x"})), more))
            };
            let host_local = json!({"ipam": {"type": "host-local", "subnet": "10.0.0.0/24"}});
            assert!(status("trestle", host_local.clone()).success);
            spoil(at);
            assert!(status("trestle", json!({})).success, "no address, and so nothing to keep");
            assert_eq!(status("trestle", host_local.clone()).code(), 50);
            assert_eq!(status("trestle", json!({"ipam": {"type": "dhcp"}})).code(), 50);
            assert_eq!(
                (status("bridge", host_local.clone()).code(), status("host-local", host_local).code()),
                (999, 999)
            );
        });
    }
}

#[test]
fn a_line_of_the_log_has_the_pod_and_the_reason() {
    let run = Run::new("trestle", "ADD").var("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web");
    run.on(&with(conf("trestle"), json!({"bridge": "br-lan"})));
    let log = run.log();
    assert_eq!(log.lines().count(), 1, "{log}");
    for part in [
        "ERROR",
        "verb=ADD",
        "pod=prod/web",
        "network=lan",
        "interface=net1",
        "container=c1",
        "failed failure=TR0311: ",
    ] {
        assert!(log.contains(part), "{part:?} is not in {log}");
    }
    let unknown = Run::new("trestle", "ADD");
    unknown.on(&conf("ptp"));
    assert!(unknown.log().contains("\"ptp\" is none that trestle knows"), "{}", unknown.log());
    let silent = Run::new("static", "DEL");
    silent.on(&conf("static"));
    assert_eq!(silent.log(), "");
    let talkative = Run::new("static", "DEL").node_json(r#"{"logLevel": "debug"}"#);
    talkative.on(&conf("static"));
    assert!(talkative.log().contains("DEBUG") && talkative.log().contains("done"), "{}", talkative.log());
}

#[test]
fn host_local_by_itself() {
    let run = Run::new("host-local", "ADD");
    let ipam = json!({"type": "host-local", "dataDir": run.tmp.path(), "subnet": "10.1.2.0/24"});
    let lan = with(conf("bridge"), json!({"ipam": ipam}));
    let verb = |verb: &str| Run {
        vars: [run.vars.clone(), vec![("CNI_COMMAND", verb.into())]].concat(),
        ..Run::new("host-local", verb)
    };
    let added = run.on(&lan);
    assert_eq!(added.json()["ips"][0]["address"], "10.1.2.2/24");
    assert!(verb("CHECK").on(&lan).success);
    let valid = |list: Value| with(lan.clone(), json!({"cni.dev/valid-attachments": list}));
    assert!(verb("GC").on(&lan).success && verb("GC").on(&valid(json!([]))).success);
    assert!(verb("CHECK").on(&lan).success, "as young as the call");
    assert!(verb("DEL").on(&lan).success && verb("DEL").on(&lan).success);
    assert_eq!(verb("CHECK").on(&lan).code(), 999);
    // What cannot be told in an old form is not kept.
    let twice = json!({"ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "10.1.3.0/24"}]], "type": "host-local", "dataDir": run.tmp.path()});
    assert_eq!(run.on(&with(lan, json!({"ipam": twice, "cniVersion": "0.2.0"}))).code(), 999);
    assert!(!run.tmp.path().join("lan/10.1.2.3").exists());
}

#[test]
fn names_of_the_program() {
    for (argv0, name) in [
        (Some("/opt/cni/bin/bridge"), "bridge"),
        (Some("trestle"), "trestle"),
        (Some(""), ""),
        (None, ""),
        (Some("/"), ""),
    ] {
        assert_eq!(program_name(argv0.map(OsString::from)), name);
    }
}

#[test]
fn a_configuration_with_networks_is_the_meta_plugins() {
    let kind = |program: &str, conf: Value, verb: &str| {
        let env = |name: &str| name.starts_with("CNI_").then(|| if name == "CNI_COMMAND" { verb } else { "x" }.into());
        match cni::read(&env, &mut conf.to_string().as_bytes()) {
            Ok(Request::Call(call)) => Program::decide(program, &call),
            other => panic!("{other:?}"),
        }
    };
    let attachment = Program::One(Kind::Attachment(Type::Trestle));
    let meta = with(conf("trestle"), json!({"clusterNetwork": "/etc/cni/net.d/10-x.conflist"}));
    assert_eq!(kind("trestle", meta.clone(), "ADD"), Ok(Program::Meta));
    assert_eq!(
        kind("bridge", meta.clone(), "ADD"),
        Ok(Program::One(Kind::Attachment(Type::Bridge))),
        "the name decides first"
    );
    assert_eq!(kind("trestle", with(conf("trestle"), json!({"bridge": "br-lan"})), "ADD"), Ok(attachment));
    assert_eq!(
        kind("trestle", with(conf("bridge"), json!({"delegates": []})), "ADD"),
        Ok(Program::One(Kind::Attachment(Type::Bridge)))
    );
    let both = with(meta, json!({"bridge": "br-lan"}));
    for verb in ["ADD", "CHECK", "STATUS"] {
        assert_eq!(kind("trestle", both.clone(), verb).unwrap_err().code, Code::Conflict, "{verb}");
    }
    for verb in ["DEL", "GC"] {
        assert_eq!(kind("trestle", both.clone(), verb), Ok(Program::Meta), "{verb}");
    }
}

#[test]
fn the_meta_plugin_answers_with_codes_of_the_specification_and_writes_where_it_is_told() {
    let run = Run::new("trestle", "ADD");
    let file = run.tmp.path().join("meta.log");
    let conf = with(
        conf("trestle"),
        json!({"delegates": [], "logFile": file, "logLevel": "debug", "logToStderr": false, "socketDir": "/x"}),
    );
    let seen = run.on(&conf);
    assert_eq!(seen.code(), 7);
    assert!(seen.json()["msg"].as_str().unwrap().starts_with("TR0112: "), "{seen:?}");
    assert!(std::fs::read_to_string(&file).unwrap().contains("TR0112"));
    assert_eq!(run.log(), "");
    let gone = Run::new("trestle", "DEL").on(&with(conf, json!({"delegates": "x"})));
    assert_eq!(gone.code(), 7, "no entry, and nothing else can be read");
}

/// Below Multus, which hands no annotations on: those of a machine's pod are the agent's.
#[test]
fn a_machines_wishes_come_by_the_agent() {
    let run = Run::new("trestle", "ADD").var("CNI_IFNAME", "pod094a367b026");
    let pod = "K8S_POD_NAMESPACE=prod;K8S_POD_NAME=virt-launcher-db-abcde;K8S_POD_UID=u1";
    let run = run.var("CNI_ARGS", &format!("IgnoreUnknown=1;{pod}"));
    let dirs = Dirs::new(run.tmp.path().join("run"), run.tmp.path().join("state"));
    let lan = with(conf("trestle"), json!({"bridge": "br-lan", "ipam": {"type": "static"}}));
    let told = |wish: &str| {
        let _ = std::fs::remove_file(crate::protocol::socket(&dirs));
        let about = PodRef { namespace: "prod".into(), name: "virt-launcher-db-abcde".into(), uid: Some("u1".into()) };
        let networks = r#"[{"name":"br-lan","interface":"pod094a367b026"}]"#;
        let annotations = [
            ("kubevirt.io/domain", "db"),
            ("k8s.v1.cni.cncf.io/networks", networks),
            ("network.kubevirt.io/addresses", wish),
        ];
        let annotations = annotations.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        agent(&dirs, Some(Told { pod: about, annotations, vmi: None, networks: vec![] }));
    };
    told(r#"{"lna": ["192.0.2.10/24"]}"#);
    let misspelt = run.on(&lan);
    assert_eq!(misspelt.code(), 7);
    assert!(misspelt.stdout.contains("lna"), "{misspelt:?}");
    told(r#"{"lan": ["192.0.2.10/24"]}"#);
    let env = |name: &str| run.vars.iter().rfind(|(k, _)| *k == name).map(|(_, v)| v.into());
    let Ok(Request::Call(call)) = cni::read(&env, &mut lan.to_string().as_bytes()) else { panic!("{lan}") };
    let ifname = call.ifname.clone().unwrap();
    let wishes = |ty| block_on(machines(ty, &call, &ifname, &dirs, pod_facts(&call).unwrap()));
    for ty in [Type::Trestle, Type::Bridge] {
        let (facts, asked) = wishes(ty).unwrap();
        assert_eq!(asked.unwrap().conf["runtimeConfig"], json!({"ips": ["192.0.2.10/24"]}));
        assert!(facts.annotations.is_some());
    }
    std::fs::remove_file(crate::protocol::socket(&dirs)).unwrap();
    agent(&dirs, None);
    assert_eq!(run.on(&lan).code(), 11, "{}", run.log());
    let (facts, asked) = wishes(Type::Bridge).unwrap();
    assert!(facts.annotations.is_none() && asked.is_none(), "a drop-in does without");
    std::fs::remove_file(crate::protocol::socket(&dirs)).unwrap();
    assert!(wishes(Type::Trestle).unwrap().1.is_none(), "no agent on this node");
}
