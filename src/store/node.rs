//! `node.json`: what the administrator says about this node. Absent means defaults; what is there must be right.
//!
//! Here it is only read. Whether a bridge is allowed, by which globs and with which defaults, `plan` decides.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Dirs;
use super::file::read_file;
use crate::types::{Code, Failure, Outcome, nearest};

const KEYS: [&str; 6] = ["seed", "bindingNad", "allowBridges", "allowMasters", "apiTimeout", "logLevel"];
const RULE_KEYS: [&str; 2] = ["glob", "namespaces"];
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeConfig {
    /// UID of the namespace kube-system: what makes derived MACs differ between clusters.
    pub seed: String,
    /// `namespace/name` of the NAD that KubeVirt's binding names; `None` is the default one.
    pub binding_nad: Option<String>,
    /// Which bridges the networks that a pod asks for may use; `None` means the default rules.
    pub allow_bridges: Option<Vec<Allow>>,
    pub allow_masters: Option<Vec<Allow>>,
    /// For all questions to the API server in one call.
    pub api_timeout: Option<Duration>,
    /// One of `error`, `warn`, `info`, `debug`, `trace`.
    pub log_level: Option<String>,
}

/// One rule of an allow list.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Allow {
    pub glob: String,
    /// Pods' namespaces that it holds for; `None`: all.
    #[serde(default)]
    pub namespaces: Option<Vec<String>>,
}

impl NodeConfig {
    pub fn read(dirs: &Dirs) -> Outcome<Self> {
        let path = dirs.state.join("node.json");
        let bytes = read_file(&path).map_err(|e| bad(&path, &format!("cannot be read: {e}")))?;
        bytes.map_or_else(|| Ok(Self::default()), |bytes| parse(&bytes).map_err(|why| bad(&path, &why)))
    }
}

fn bad(path: &Path, why: &str) -> Failure {
    Failure::new(Code::NodeConfig, format!("{}: {why}", path.display()))
        .remedy("correct the file, or remove it for the defaults")
}

/// All that is wrong, in one sentence.
fn parse(bytes: &[u8]) -> Result<NodeConfig, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|e| format!("is not JSON: {e}"))?;
    let Value::Object(object) = value else { return Err("is no JSON object".into()) };
    let mut wrong = unknown_keys(&object, &KEYS, "");
    let mut reader = Reader { object, wrong: Vec::new() };
    let config = NodeConfig {
        seed: reader.text("seed").unwrap_or_default(),
        binding_nad: reader.text("bindingNad").filter(|n| !n.is_empty()),
        allow_bridges: reader.rules("allowBridges"),
        allow_masters: reader.rules("allowMasters"),
        api_timeout: reader.seconds("apiTimeout"),
        log_level: reader.text("logLevel"),
    };
    if config.binding_nad.as_deref().is_some_and(|n| !is_namespaced(n)) {
        reader.wrong.push("\"bindingNad\" must be NAMESPACE/NAME".into());
    }
    if config.log_level.as_deref().is_some_and(|l| !LEVELS.contains(&l)) {
        reader.wrong.push(format!("\"logLevel\" must be one of {}", LEVELS.join(", ")));
    }
    wrong.append(&mut reader.wrong);
    if wrong.is_empty() { Ok(config) } else { Err(wrong.join("; ")) }
}

fn is_namespaced(name: &str) -> bool {
    name.split_once('/').is_some_and(|(ns, n)| !ns.is_empty() && !n.is_empty() && !n.contains('/'))
}

fn unknown_keys(object: &Map<String, Value>, known: &[&str], place: &str) -> Vec<String> {
    let unknown = object.keys().filter(|k| !known.contains(&k.as_str()));
    unknown
        .map(|key| match nearest(key, known.iter().copied()) {
            Some(near) => format!("unknown key \"{place}{key}\", did you mean \"{near}\"?"),
            None => format!("unknown key \"{place}{key}\" (known are {})", known.join(", ")),
        })
        .collect()
}

/// Takes typed members out of an object and collects what was wrong with them. `null` is absent.
struct Reader {
    object: Map<String, Value>,
    wrong: Vec<String>,
}

impl Reader {
    fn value(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|v| !v.is_null())
    }

    fn text(&mut self, key: &str) -> Option<String> {
        match self.value(key)? {
            Value::String(text) => Some(text.clone()),
            _ => self.refuse(key, "must be a string"),
        }
    }

    fn seconds(&mut self, key: &str) -> Option<Duration> {
        let seconds = self.value(key)?.as_f64().filter(|s| *s > 0.0 && *s <= 3600.0);
        match seconds {
            Some(seconds) => Some(Duration::from_secs_f64(seconds)),
            None => self.refuse(key, "must be a number of seconds, above 0 and up to 3600"),
        }
    }

    fn rules(&mut self, key: &str) -> Option<Vec<Allow>> {
        let Value::Array(list) = self.value(key)?.clone() else {
            return self.refuse(key, "must be a list of {\"glob\": ..., \"namespaces\": [...]}");
        };
        let mut rules = Vec::new();
        for (i, item) in list.into_iter().enumerate() {
            if let Value::Object(object) = &item {
                self.wrong.extend(unknown_keys(object, &RULE_KEYS, &format!("{key}[{i}].")));
            }
            match serde_json::from_value::<Allow>(item) {
                Ok(rule) if rule.glob.is_empty() => self.wrong.push(format!("\"{key}[{i}].glob\" is empty")),
                Ok(rule) => rules.push(rule),
                Err(e) => self.wrong.push(format!("\"{key}[{i}]\": {e}")),
            }
        }
        Some(rules)
    }

    fn refuse<T>(&mut self, key: &str, why: &str) -> Option<T> {
        self.wrong.push(format!("\"{key}\" {why}"));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn read(text: &str) -> Outcome<NodeConfig> {
        let tmp = tempfile::tempdir().unwrap();
        fs::write(tmp.path().join("node.json"), text).unwrap();
        NodeConfig::read(&Dirs::new("/nonexistent", tmp.path()))
    }

    #[test]
    fn absent_and_empty_mean_defaults() {
        let none = NodeConfig::read(&Dirs::new("/nonexistent", "/nonexistent")).unwrap();
        assert_eq!(none, NodeConfig::default());
        assert_eq!(read("{}").unwrap(), none);
        assert_eq!(read(r#"{"seed": null, "allowBridges": null}"#).unwrap(), none);
    }

    #[test]
    fn every_key_is_read() {
        let config = read(
            r#"{"seed": "uid", "bindingNad": "ns/nad", "allowBridges": [{"glob": "br-*"}, {"glob": "x?", "namespaces": ["a", "b"]}],
                "allowMasters": [], "apiTimeout": 2.5, "logLevel": "debug"}"#,
        )
        .unwrap();
        let bridges = config.allow_bridges.unwrap();
        assert_eq!((config.seed.as_str(), config.binding_nad.as_deref()), ("uid", Some("ns/nad")));
        assert_eq!((bridges[0].glob.as_str(), bridges[0].namespaces.as_ref()), ("br-*", None));
        assert_eq!(bridges[1].namespaces.as_deref(), Some(["a".to_owned(), "b".to_owned()].as_slice()));
        assert_eq!(config.allow_masters, Some(vec![]), "an empty list allows nothing, unlike no list");
        assert_eq!(config.api_timeout, Some(Duration::from_millis(2500)));
        assert_eq!(config.log_level.as_deref(), Some("debug"));
    }

    #[test]
    fn all_mistakes_are_told_at_once_with_file_and_key() {
        let failure = read(
            r#"{"sed": 1, "bindingNad": "nad", "allowBridge": [], "allowMasters": [{"globb": "x"}], "apiTimeout": "7s",
                "logLevel": "loud", "colour": 1}"#,
        )
        .unwrap_err();
        assert_eq!(failure.code, Code::NodeConfig);
        for part in [
            "node.json",
            "\"sed\", did you mean \"seed\"",
            "\"bindingNad\" must be",
            "\"allowBridge\", did you mean \"allowBridges\"",
            "\"allowMasters[0].globb\", did you mean \"glob\"",
            "\"apiTimeout\" must be",
            "\"logLevel\" must be one of error",
            "unknown key \"colour\" (known are",
        ] {
            assert!(failure.msg.contains(part), "{part} is not in {}", failure.msg);
        }
    }

    #[test]
    fn what_is_no_object_or_no_json_is_refused() {
        for text in ["", "[]", "{\"seed\": \"x\"", "{\"seed\": \"a\"} trailing"] {
            let failure = read(text).unwrap_err();
            assert_eq!(failure.code, Code::NodeConfig);
            assert!(failure.msg.contains("node.json"));
        }
    }
}
