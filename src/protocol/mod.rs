//! What plugin and agent say to each other over `<run>/agent.sock`: a line of JSON each, asked and answered in turn.
//!
//! ```text
//! plugin  {"v":1,"pod":{...}}        agent  {"v":1,"pod":{...}}
//!         {"v":1,"networks":{...}}          {"v":1,"networks":[...]}
//!         {"v":1,"untold":{}}               (no answer)
//!         {"v":1,"event":{...}}             (no answer)
//!                                           {"v":1,"wait":7000}   an answer comes, but not at once
//!                                           {"v":1,"error":{...}}
//! ```
//! Members that one side does not know are passed over, so that either may be the newer one; what would be understood
//! wrongly raises the version. Pure: neither socket nor file is known here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::nad::Nad;
use crate::store::Dirs;
use crate::types::{Code, Failure, Outcome, PodRef};
use crate::vmi::{Nics, Owner};

const VERSION: u32 = 1;
/// Of a request; answers have no limit, as the agent is trusted.
pub const LONGEST_REQUEST: u64 = 64 * 1024;

pub fn socket(dirs: &Dirs) -> PathBuf {
    dirs.run.join("agent.sock")
}

/// A file that each agent leaves: this node is to have one, also after a boot, when nobody has made the socket yet.
pub fn mark(dirs: &Dirs) -> PathBuf {
    dirs.state.join("agent")
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ask {
    /// All about a pod: its facts, and the networks that it names.
    Pod(AskPod),
    Networks(AskNetworks),
    /// Something was put down for the agent to tell.
    Untold {},
    Event(Complaint),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AskPod {
    pub pod: PodRef,
    /// Where a default network lives that its annotation names without a namespace.
    #[serde(default)]
    pub home: String,
    /// What the node's configuration names, wanted for each pod; they need not be objects.
    #[serde(default)]
    pub also: Vec<Name>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AskNetworks {
    pub names: Vec<Name>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Name {
    pub namespace: String,
    pub name: String,
}

/// For an Event. The agent knows itself whether there is a virtual machine to tell it to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Complaint {
    pub pod: PodRef,
    pub reason: String,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Say {
    Pod(Told),
    Networks(Vec<Found>),
    /// Milliseconds until the answer is there at the latest: the API server is being asked.
    Wait(u64),
    Error(Trouble),
}

/// A pod as the API server has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told {
    pub pod: PodRef,
    /// Those that [`is_read`].
    pub annotations: BTreeMap<String, String>,
    /// The virtual machine instance that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmi: Option<Vmi>,
    #[serde(default)]
    pub networks: Vec<Found>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Vmi {
    #[serde(flatten)]
    pub owner: Owner,
    /// Where the pod's annotations leave open what only the instance says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nics: Option<OfNics>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OfNics {
    Known(Nics),
    Error(Trouble),
}

/// What is known of a NAD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    #[serde(flatten)]
    pub name: Name,
    #[serde(flatten)]
    pub is: Is,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Is {
    Network(Nad),
    /// As it was so many seconds ago; the API server does not answer.
    Stale(Nad, u64),
    Error(Trouble),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trouble {
    /// `TRnnnn`
    pub code: String,
    pub message: String,
    #[serde(default)]
    pub remedy: String,
}

impl From<&Failure> for Trouble {
    fn from(f: &Failure) -> Self {
        Self { code: f.code.id().into(), message: f.msg.clone(), remedy: f.remedy.clone() }
    }
}

impl From<Trouble> for Failure {
    /// A code of a newer agent is one that this program does not tell apart.
    fn from(t: Trouble) -> Self {
        Self::new(Code::of_id(&t.code).unwrap_or(Code::NoSource), t.message).remedy(t.remedy)
    }
}

/// A pod's network-status that is not told yet, in `<state>/untold`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Untold {
    pub version: u32,
    pub pod: PodRef,
    /// The annotation's text.
    pub status: String,
    /// Sentences about networks that came from copies which may be out of date.
    #[serde(default)]
    pub stale: Vec<String>,
    /// What else the pod is to hear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
}

/// An Event about a network that is attached, and not as its people may think.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Note {
    pub reason: String,
    pub message: String,
}

/// Whether the plugin reads an annotation; the others are neither kept nor sent.
pub fn is_read(key: &str) -> bool {
    const ALL: [&str; 2] = ["kubernetes.io/config.source", "k8s.v1.cni.cncf.io/networks"];
    const OF: [&str; 4] = ["v1.multus-cni.io/", "kubevirt.io/", "trestle.network/", "network.kubevirt.io/"];
    ALL.contains(&key) || OF.iter().any(|prefix| key.starts_with(prefix))
}

#[derive(Serialize, Deserialize)]
struct Line<T> {
    v: u32,
    #[serde(flatten)]
    what: T,
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

/// With its end of line.
pub fn line<T: Serialize>(what: T) -> Vec<u8> {
    // Plain structures with text as keys: there is nothing that could fail.
    let mut line = serde_json::to_vec(&Line { v: VERSION, what }).unwrap_or_default();
    line.push(b'\n');
    line
}

pub fn read<T: serde::de::DeserializeOwned>(line: &[u8]) -> Outcome<T> {
    let bad = |why: String| Failure::new(Code::NotJson, format!("the agent's socket: {why}"));
    let Version { v } = serde_json::from_slice(line).map_err(|e| bad(e.to_string()))?;
    if v != VERSION {
        return Err(bad(format!("version {v} is spoken there, {VERSION} here")));
    }
    serde_json::from_slice::<Line<T>>(line).map(|l| l.what).map_err(|e| bad(e.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn name() -> Name {
        Name { namespace: "prod".into(), name: "lan".into() }
    }

    fn pod() -> PodRef {
        PodRef { namespace: "prod".into(), name: "web".into(), uid: Some("u1".into()) }
    }

    #[test]
    fn what_is_written_is_read() {
        let nad = Nad {
            namespace: "prod".into(),
            name: "lan".into(),
            config: "{\"type\":\"trestle\"}\n".into(),
            resource: None,
            resource_version: "7".into(),
        };
        let trouble = Trouble::from(&Failure::new(Code::NadMissing, "no").remedy("make one"));
        let is = [Is::Network(nad.clone()), Is::Stale(nad, 90), Is::Error(trouble.clone())];
        let networks: Vec<Found> = is.into_iter().map(|is| Found { name: name(), is }).collect();
        let annotations = BTreeMap::from([("kubevirt.io/domain".to_owned(), "db\n".to_owned())]);
        let nics = Nics { queues: BTreeMap::from([("lan".into(), 4)]), ..Nics::default() };
        let owner = Owner { name: "db".into(), uid: "v".into() };
        let told = |nics| Told {
            pod: pod(),
            annotations: annotations.clone(),
            vmi: Some(Vmi { owner: owner.clone(), nics }),
            networks: networks.clone(),
        };
        let pods = [None, Some(OfNics::Known(nics)), Some(OfNics::Error(trouble.clone()))].map(|n| Say::Pod(told(n)));
        for say in pods.into_iter().chain([Say::Networks(networks.clone()), Say::Wait(7000), Say::Error(trouble)]) {
            let line = line(&say);
            assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1, "one line");
            assert_eq!(read::<Say>(&line).unwrap(), say);
        }
        let complaint = Complaint { pod: pod(), reason: "r".into(), message: "m".into() };
        let ask_pod = AskPod { pod: pod(), home: "kube-system".into(), also: vec![name()] };
        for ask in [
            Ask::Pod(ask_pod),
            Ask::Networks(AskNetworks { names: vec![name()] }),
            Ask::Untold {},
            Ask::Event(complaint),
        ] {
            assert_eq!(read::<Ask>(&line(&ask)).unwrap(), ask);
        }
    }

    /// The words themselves: an agent of one release speaks with a plugin of another.
    #[test]
    fn the_form_of_a_request_is_this() {
        let ask = Ask::Pod(AskPod { pod: pod(), home: String::new(), also: vec![] });
        let v: Value = serde_json::from_slice(&line(&ask)).unwrap();
        let pod = json!({"namespace": "prod", "name": "web", "uid": "u1"});
        assert_eq!(v, json!({"v": 1, "pod": {"pod": pod, "home": "", "also": []}}));
        let newer = br#"{"v":1,"hint":3,"pod":{"pod":{"namespace":"a","name":"b"},"new":true}}"#;
        assert!(matches!(read::<Ask>(newer).unwrap(), Ask::Pod(p) if p.pod.name == "b"));
    }

    #[test]
    fn another_version_and_garbage_are_refused() {
        for line in ["", "{}", "[1]", "{\"v\":1}", "{\"v\":1,\"fly\":{}}", "\u{0}", "{\"v\":\"1\",\"untold\":{}}"] {
            assert_eq!(read::<Ask>(line.as_bytes()).unwrap_err().code, Code::NotJson, "{line}");
        }
        let failure = read::<Say>(br#"{"v":2,"wait":1}"#).unwrap_err();
        assert!(failure.msg.contains("version 2"), "{failure}");
    }

    #[test]
    fn annotations_that_are_read() {
        for key in [
            "kubevirt.io/domain",
            "trestle.network/queues",
            crate::annotation::NETWORKS,
            crate::annotation::DEFAULT_NETWORK,
        ] {
            assert!(is_read(key), "{key}");
        }
        assert!(!is_read(crate::annotation::STATUS) && !is_read("kubectl.kubernetes.io/last-applied-configuration"));
    }

    #[test]
    fn a_failure_keeps_its_code() {
        let failure = Failure::new(Code::PodReplaced, "m").remedy("r");
        assert_eq!(Failure::from(Trouble::from(&failure)), failure);
        let newer = Trouble { code: "TR9999".into(), message: "m".into(), remedy: String::new() };
        assert_eq!(Failure::from(newer).code, Code::NoSource);
    }
}
