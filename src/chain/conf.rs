//! The two forms of a network's configuration as one, and the configuration that each plugin gets of it.

use serde_json::{Map, Value};

use crate::cni::{AddResult, Verb, Version, json};
use crate::nad::Conf;
use crate::types::{Code, Failure, Outcome};

pub struct Parts<'a> {
    pub name: &'a str,
    /// What is spoken with the plugins; empty means 0.1.0.
    pub version: &'a str,
    pub plugins: &'a [Map<String, Value>],
    pub disable_check: bool,
    pub disable_gc: bool,
}

impl<'a> Parts<'a> {
    pub fn of(conf: &'a Conf) -> Outcome<Self> {
        let (disable_check, disable_gc) = match conf {
            Conf::Plugin(_) => (false, false),
            Conf::List(list) => (list.disable_check, list.disable_gc),
        };
        let (name, version, plugins) = (conf.name(), conf.version(), conf.plugins());
        let parts = Self { name, version, plugins, disable_check, disable_gc };
        match parts.plugins.len() {
            0 => Err(Failure::new(Code::Config, format!("network {}: plugins: the list is empty", parts.name))),
            _ => Ok(parts),
        }
    }

    /// Whether the network's version has the verb.
    pub fn has(&self, verb: Verb) -> Outcome<bool> {
        let text = if self.version.is_empty() { Version::V0_1_0.as_str() } else { self.version };
        verb.since().reached_by(text).ok_or_else(|| {
            let msg = format!("network {}: cniVersion: {text:?} is no version", self.name);
            Failure::new(Code::Config, msg).remedy("set it to 1.0.0")
        })
    }

    /// A plugin's configuration under the network's name and version.
    pub fn named(&self, plugin: &Map<String, Value>) -> Map<String, Value> {
        let mut conf = plugin.clone();
        set(&mut conf, "name", self.name.into());
        set(&mut conf, "cniVersion", self.version.into());
        conf
    }

    /// The same for one attachment: with the result so far, and the values of the capabilities that it declares.
    pub fn build(
        &self,
        plugin: &Map<String, Value>,
        prev: Option<Value>,
        runtime: &Map<String, Value>,
    ) -> Map<String, Value> {
        let mut conf = self.named(plugin);
        if let Some(prev) = prev {
            set(&mut conf, "prevResult", prev);
        }
        let declared = json::get(plugin, "capabilities").and_then(Value::as_object);
        let declared = declared.into_iter().flatten().filter(|(_, on)| **on == Value::Bool(true));
        let given: Map<String, Value> =
            declared.filter_map(|(key, _)| runtime.get(key).map(|v| (key.clone(), v.clone()))).collect();
        // One that the configuration itself has stays where nothing takes its place.
        if !given.is_empty() {
            set(&mut conf, "runtimeConfig", Value::Object(given));
        }
        conf
    }

    /// A result that was kept, in the network's version.
    pub fn prev(&self, kept: &Value) -> Outcome<Option<Value>> {
        if kept.is_null() {
            return Ok(None);
        }
        let own = if self.version.is_empty() { Ok(Version::V0_1_0) } else { self.version.parse() };
        let (result, told) = AddResult::read(kept.clone(), own.as_ref().ok().copied())?;
        // A plugin that answered in a version of its own, in a network whose version we do not know.
        result.to_json(own.unwrap_or(told)).map(Some)
    }

    /// DEL has it from 0.4.0 on, as CHECK, and does without where it cannot be had.
    pub fn prev_for_del(&self, kept: Option<&Value>) -> Option<Value> {
        let kept = kept.filter(|_| self.has(Verb::Check).unwrap_or(false))?;
        self.prev(kept).unwrap_or_else(|failure| {
            tracing::warn!(%failure, network = self.name, "DEL goes without the result of ADD");
            None
        })
    }
}

/// `type`; empty where there is none.
pub fn type_of(plugin: &Map<String, Value>) -> &str {
    json::get(plugin, "type").and_then(Value::as_str).unwrap_or_default()
}

/// Sets a key, and takes away what a plugin could take for it.
pub fn set(conf: &mut Map<String, Value>, key: &str, value: Value) {
    conf.retain(|k, _| k == key || !json::same_key(k, key));
    conf.insert(key.into(), value);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(v: Value) -> Map<String, Value> {
        v.as_object().cloned().unwrap()
    }

    fn list(version: &str) -> Conf {
        crate::chain::tests::list(version, json!([{"type": "a"}]))
    }

    #[test]
    fn which_verbs_a_version_has() {
        let has = |version: &str, verb| Parts::of(&list(version)).unwrap().has(verb);
        assert_eq!(
            (has("", Verb::Check), has("0.3.1", Verb::Check), has("0.4", Verb::Check)),
            (Ok(false), Ok(false), Ok(true))
        );
        assert_eq!(
            (has("1.0.0", Verb::Status), has("1.1.0", Verb::Gc), has("9.0.0", Verb::Gc)),
            (Ok(false), Ok(true), Ok(true))
        );
        assert_eq!(has("one", Verb::Check).unwrap_err().msg, "network n: cniVersion: \"one\" is no version");
    }

    #[test]
    fn a_plugin_gets_what_it_declares_under_the_networks_name() {
        let conf = list("1.0.0");
        let parts = Parts::of(&conf).unwrap();
        let runtime = object(json!({"mac": "m", "ips": ["i"], "bandwidth": {"x": 1}, "Aliases": 1}));
        let plugin = object(json!({"NAME": "mine", "type": "a", "CniVersion": "0.1.0", "n": 9007199254740993u64,
            "Capabilities": {"mac": true, "bandwidth": false, "ips": "true", "aliases": true, "dns": true},
            "runtimeConfig": {"old": 1}}));
        let built = parts.build(&plugin, Some(json!({"cniVersion": "1.0.0"})), &runtime);
        assert_eq!(
            Value::Object(built),
            json!({"name": "n", "type": "a", "cniVersion": "1.0.0", "n": 9007199254740993u64,
                "Capabilities": {"mac": true, "bandwidth": false, "ips": "true", "aliases": true, "dns": true},
                "runtimeConfig": {"mac": "m"}, "prevResult": {"cniVersion": "1.0.0"}})
        );
        let none = parts.build(&plugin, None, &object(json!({"portMappings": []})));
        assert_eq!((none.get("runtimeConfig"), none.get("prevResult")), (Some(&json!({"old": 1})), None));
    }

    #[test]
    fn a_kept_result_comes_in_the_networks_version() {
        let prev = |version: &str, kept: Value| {
            let conf = list(version);
            let parts = Parts::of(&conf).unwrap();
            (parts.prev(&kept), parts.prev_for_del(Some(&kept)))
        };
        let kept = json!({"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.1/24"}]});
        let old = json!({"cniVersion": "0.4.0", "ips": [{"address": "10.0.0.1/24", "version": "4"}], "dns": {}});
        assert_eq!(prev("0.4.0", kept.clone()), (Ok(Some(old.clone())), Some(old)));
        assert_eq!(prev("0.3.1", kept.clone()).1, None);
        assert_eq!(prev("1.0.0", json!(null)), (Ok(None), None));
        assert_eq!(prev("9.9.9", kept.clone()), (Ok(Some(kept.clone())), Some(kept)));
        let (check, del) = prev("1.0.0", json!({"ips": "none"}));
        assert!(check.is_err() && del.is_none());
    }

    #[test]
    fn an_empty_list_is_none() {
        let empty = crate::chain::tests::list("1.0.0", json!([]));
        assert_eq!(Parts::of(&empty).err().unwrap().msg, "network n: plugins: the list is empty");
    }
}
