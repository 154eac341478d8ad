//! Configurations in files: by their `name`, the first of a directory, one by its path, and plugins that are chained
//! to it.
//!
//! Reads as the CNI library and Multus do, but for this: a broken file does not hide the others when one is searched by
//! name.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::cni::json;
use crate::types::{Code, Failure, NetworkName, Outcome};

const SINGLE: [&str; 2] = ["conf", "json"];
const LIST: &str = "conflist";

fn not_found(msg: String) -> Failure {
    Failure::new(Code::DefaultNetwork, msg)
}

/// Files with one of these endings, sorted by name; a missing directory has none.
fn files(dir: &Path, endings: &[&str]) -> Outcome<Vec<PathBuf>> {
    let list = || -> io::Result<Vec<PathBuf>> {
        match std::fs::read_dir(dir) {
            Ok(entries) => entries.map(|e| Ok(e?.path())).collect(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    };
    let mut found = list().map_err(|e| not_found(format!("{} cannot be listed: {e}", dir.display())))?;
    found.retain(|p| p.extension().is_some_and(|e| endings.iter().any(|wanted| e == *wanted)) && p.is_file());
    found.sort();
    Ok(found)
}

fn object(path: &Path) -> Outcome<Map<String, Value>> {
    let bad = |why: String| Failure::new(Code::MetaConfig, format!("{}: {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => not_found(format!("{} is not there", path.display())),
        _ => not_found(format!("{} cannot be read: {e}", path.display())),
    })?;
    match json::parse(&bytes).map_err(|e| bad(e.to_string()))? {
        Value::Object(map) => Ok(map),
        _ => Err(bad("is no JSON object".into())),
    }
}

/// Of a network's file: what its ending promises must be in it.
fn network(path: &Path) -> Outcome<Map<String, Value>> {
    let conf = object(path)?;
    let key = if is_list(path) { "plugins" } else { "type" };
    if json::get(&conf, key).is_none() {
        return Err(Failure::new(Code::MetaConfig, format!("{} has no {key}", path.display())));
    }
    Ok(conf)
}

fn is_list(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == LIST)
}

fn name_of(conf: &Map<String, Value>) -> &str {
    json::get(conf, "name").and_then(Value::as_str).unwrap_or_default()
}

/// The configuration of that name in a directory.
pub fn by_name(dir: &Path, name: &str) -> Outcome<Option<Map<String, Value>>> {
    for path in files(dir, &[SINGLE[0], SINGLE[1], LIST])? {
        match network(&path) {
            Ok(conf) if name_of(&conf) == name => return Ok(Some(conf)),
            Ok(_) => {}
            Err(failure) => tracing::warn!(%failure, "a file is passed over"),
        }
    }
    Ok(None)
}

/// What `clusterNetwork` or `defaultNetworks` name by a path.
pub fn by_path(path: &Path) -> Outcome<Map<String, Value>> {
    if path.is_dir() {
        // A broken one is not passed over: pods would get another network than the cluster's.
        return match files(path, &[SINGLE[0], SINGLE[1], LIST])?.first() {
            Some(first) => network(first),
            None => Err(not_found(format!("{} has no network configuration in it", path.display()))),
        };
    }
    let conf = network(path)?;
    if !is_list(path) || json::get(&conf, "loadOnlyInlinedPlugins") == Some(&Value::Bool(true)) {
        return Ok(conf);
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    let more = chained(dir, name_of(&conf))?;
    Ok(with_plugins(conf, more))
}

/// Plugins of `<dir>/<name>/*.conf`.
fn chained(dir: &Path, name: &str) -> Outcome<Vec<Value>> {
    // A name with a separator would lead elsewhere.
    let name: NetworkName =
        name.parse().map_err(|e| Failure::new(Code::MetaConfig, format!("{}: {e}", dir.display())))?;
    files(&dir.join(name.as_str()), &[SINGLE[0]])?.iter().map(|p| object(p).map(Value::Object)).collect()
}

fn with_plugins(mut conf: Map<String, Value>, more: Vec<Value>) -> Map<String, Value> {
    if more.is_empty() {
        return conf;
    }
    let mut all = json::get(&conf, "plugins").and_then(Value::as_array).cloned().unwrap_or_default();
    all.extend(more);
    conf.retain(|key, _| !json::same_key(key, "plugins"));
    conf.insert("plugins".into(), all.into());
    conf
}

/// The auxiliary chain; `None` where no plugin is in it.
pub fn auxiliary(dir: &Path, name: &str, version: &str) -> Outcome<Option<Map<String, Value>>> {
    let more = chained(dir, name)?;
    if more.is_empty() {
        return Ok(None);
    }
    let first = json!({"type": "passthru", "name": "passthru-cni"});
    let plugins: Vec<Value> = std::iter::once(first).chain(more).collect();
    let list = json!({"cniVersion": version, "name": name, "plugins": plugins});
    Ok(list.as_object().cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn new(files: &[(&str, &str)]) -> Self {
            let dir = Self(tempfile::tempdir().unwrap());
            for (name, text) in files {
                let path = dir.0.path().join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            dir
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }
    }

    const REC: &str = r#"{"name": "one", "type": "rec"}"#;
    const LISTED: &str = r#"{"name": "two", "plugins": [{"type": "rec"}]}"#;

    #[test]
    fn by_the_name_in_it_and_past_what_is_broken() {
        let d = Dir::new(&[
            ("1-bad.conf", "{"),
            ("2.txt", REC),
            ("3.conf", r#"{"name": "other", "type": "x"}"#),
            ("4.json", REC),
            ("5.conflist", LISTED),
        ]);
        let dir = d.0.path();
        assert_eq!(by_name(dir, "one").unwrap().unwrap()["type"], "rec");
        assert!(by_name(dir, "two").unwrap().unwrap().contains_key("plugins"));
        assert_eq!(by_name(dir, "three").unwrap(), None);
        assert_eq!(by_name(&d.path("nowhere"), "one").unwrap(), None);
    }

    #[test]
    fn a_directory_means_its_first_file() {
        let d = Dir::new(&[("20-b.conf", REC), ("10-a.conflist", LISTED), ("00-readme.txt", "no")]);
        assert_eq!(by_path(d.0.path()).unwrap()["name"], "two");
        let broken = Dir::new(&[("10-a.conf", "{"), ("20-b.conf", REC)]);
        let failure = by_path(broken.0.path()).unwrap_err();
        assert!(failure.msg.contains("10-a.conf"), "{failure}");
        let empty = Dir::new(&[]);
        assert_eq!(by_path(empty.0.path()).unwrap_err().code, Code::DefaultNetwork);
    }

    #[test]
    fn plugins_of_the_folder_of_its_name_are_chained() {
        let list = |extra: &str| format!(r#"{{"name": "cnf", {extra} "plugins": [{{"type": "rec"}}]}}"#);
        let d = Dir::new(&[
            ("10-x.conflist", &list("")),
            ("11-y.conflist", &list(r#""loadOnlyInlinedPlugins": true,"#)),
            ("cnf/20-b.conf", r#"{"type": "recb", "added": 1}"#),
            ("cnf/10-a.conf", r#"{"type": "reca"}"#),
            ("cnf/30-c.json", r#"{"type": "recc"}"#),
        ]);
        let types = |conf: Map<String, Value>| {
            let plugins = conf["plugins"].as_array().unwrap();
            plugins.iter().map(|p| p["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(types(by_path(&d.path("10-x.conflist")).unwrap()), ["rec", "reca", "recb"]);
        assert_eq!(types(by_path(&d.path("11-y.conflist")).unwrap()), ["rec"]);
        let aux = auxiliary(d.0.path(), "cnf", "1.0.0").unwrap().unwrap();
        assert_eq!((aux["name"].as_str(), aux["cniVersion"].as_str()), (Some("cnf"), Some("1.0.0")));
        assert_eq!(types(aux), ["passthru", "reca", "recb"]);
        assert_eq!(auxiliary(d.0.path(), "none", "1.0.0").unwrap(), None);
    }

    #[test]
    fn mistakes_name_the_file() {
        let d = Dir::new(&[("x.conf", "{"), ("y.conf", r#"{"name": "y"}"#), ("z.conflist", REC), ("l.conf", "[]")]);
        for (file, code) in [
            ("x.conf", Code::MetaConfig),
            ("y.conf", Code::MetaConfig),
            ("z.conflist", Code::MetaConfig),
            ("l.conf", Code::MetaConfig),
            ("nope.conf", Code::DefaultNetwork),
        ] {
            let failure = by_path(&d.path(file)).unwrap_err();
            assert!(failure.code == code && failure.msg.contains(file), "{failure}");
        }
        let odd = Dir::new(&[("10-x.conflist", r#"{"name": "../x", "plugins": [{"type": "rec"}]}"#)]);
        assert_eq!(by_path(&odd.path("10-x.conflist")).unwrap_err().code, Code::MetaConfig);
    }
}
