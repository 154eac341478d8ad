//! Networks of scripts, of our own plugins on a real kernel, and of both.

mod foreign;
mod own;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::{Done, Network, Place, Site};
use crate::nad::{Conf, ConfList};
use crate::net::testing::block_on;
use crate::plan::{Chooser, PodFacts};
use crate::store::{Dirs, NodeConfig};
use crate::types::{IfName, Outcome, PodRef};

/// A directory of plugins that note what they were asked, and what they got.
pub struct Bin {
    tmp: tempfile::TempDir,
    path: Vec<PathBuf>,
}

impl Bin {
    pub fn new() -> Self {
        let tmp = tempfile::tempdir().unwrap();
        Self { path: vec![tmp.path().to_path_buf()], tmp }
    }

    /// One that answers this to ADD, and nothing to the rest.
    pub fn plugin(&self, name: &str, result: &Value) {
        self.script(name, &format!("ADD) echo '{result}';;"));
    }

    /// One that fails at this verb with this code, and else has an empty result.
    pub fn failing(&self, name: &str, verb: &str, code: u32) {
        let error = json!({"code": code, "msg": format!("{name} will not")});
        self.script(name, &format!("{verb}) echo '{error}'; exit 1;; ADD) echo '{{}}';;"));
    }

    /// With the arms of a `case` for the verbs.
    pub fn script(&self, name: &str, arms: &str) {
        let here = self.tmp.path().display();
        let script = format!(
            "#!/bin/sh\nw=$CNI_COMMAND.{name}\ncat >{here}/$w.in\nenv >{here}/$w.env\necho $w >>{here}/log\n\
             case $CNI_COMMAND in {arms} esac\n"
        );
        let file = self.tmp.path().join(name);
        fs::write(&file, script).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What was run since the last time, in order: `ADD.a DEL.b`.
    pub fn log(&self) -> String {
        let file = self.tmp.path().join("log");
        let log = fs::read_to_string(&file).unwrap_or_default();
        let _ = fs::remove_file(file);
        log.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The configuration of the last run: `ADD.a`.
    pub fn got(&self, run: &str) -> Value {
        serde_json::from_slice(&fs::read(self.tmp.path().join(format!("{run}.in"))).unwrap()).unwrap()
    }

    pub fn env(&self, run: &str, key: &str) -> Option<String> {
        let env = fs::read_to_string(self.tmp.path().join(format!("{run}.env"))).unwrap();
        let line = env.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        line.map(str::to_owned)
    }
}

/// A list called `n`.
pub fn list(version: &str, plugins: Value) -> Conf {
    let plugins = plugins.as_array().unwrap().iter().map(|p| p.as_object().cloned().unwrap()).collect();
    Conf::List(ConfList {
        raw: Map::new(),
        name: "n".into(),
        version: version.into(),
        versions: Vec::new(),
        disable_check: false,
        disable_gc: false,
        load_only_inlined: false,
        plugins,
    })
}

pub fn single(conf: Value) -> Conf {
    Conf::Plugin(conf.as_object().cloned().unwrap())
}

/// A network and whom it is for.
pub struct At<'a> {
    pub conf: Conf,
    pub path: &'a [PathBuf],
    pub dirs: Dirs,
    pub node: NodeConfig,
    pub netns: PathBuf,
    pub ifname: IfName,
    pub runtime: Map<String, Value>,
    pub facts: PodFacts,
    pub chooser: Chooser,
}

impl<'a> At<'a> {
    /// `net1` of pod default/web, container `c1`, chosen by the pod.
    pub fn new(conf: Conf, bin: &'a Bin) -> Self {
        let pod = Some(PodRef { namespace: "default".into(), name: "web".into(), uid: None });
        Self {
            conf,
            path: &bin.path,
            dirs: Dirs::new(bin.tmp.path().join("run"), bin.tmp.path().join("state")),
            node: NodeConfig::default(),
            netns: "/nonexistent/netns".into(),
            ifname: "net1".parse().unwrap(),
            runtime: Map::new(),
            facts: PodFacts { pod, annotations: Some([].into()), nics: None },
            chooser: Chooser::Pod,
        }
    }

    fn call<T>(&self, f: impl AsyncFnOnce(&Network<'_>, &Place<'_>) -> T) -> T {
        let container = "c1".parse().unwrap();
        let (ifname, args) = (&self.ifname, "IgnoreUnknown=1;K8S_POD_NAME=web");
        let network = Network { conf: &self.conf, ifname, runtime: &self.runtime, args, device: None };
        let netns = Some(self.netns.as_path());
        let (site, chooser) = (self.site(), self.chooser);
        let place = Place { site, container: &container, netns, facts: &self.facts, chooser };
        block_on(f(&network, &place))
    }

    fn site(&self) -> Site<'_> {
        Site { path: self.path, dirs: &self.dirs, node: &self.node, started: Some(self.dirs.now()) }
    }

    pub fn add(&self) -> Outcome<Done> {
        self.call(async |network, place| super::add(network, place).await.map_err(|f| f.cause))
    }

    pub fn check(&self, prev: &Value) -> Outcome<()> {
        self.call(async |network, place| super::check(network, place, prev, super::Foreign::Run).await)
    }

    pub fn del(&self, prev: Option<&Value>) -> Outcome<()> {
        self.call(async |network, place| super::del(network, place, prev).await)
    }

    pub fn status(&self) -> Outcome<()> {
        block_on(super::status(&self.conf, &self.site()))
    }

    pub fn gc(&self, valid: &[(&str, &str)]) -> Outcome<()> {
        let valid: Vec<(String, String)> = valid.iter().map(|(c, i)| ((*c).into(), (*i).into())).collect();
        block_on(super::gc(&self.conf, &self.site(), &valid))
    }
}
