//! A network configuration: one plugin, or a list of plugins that run one after the other.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cni::json::{self, JsonError};
use crate::types::{Code, Failure, InvalidId, NetworkName, Outcome};

use super::version::negotiate;

/// Written as JSON it is a configuration again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "Value", try_from = "Value")]
pub enum Conf {
    /// Has a `type` and a valid `name`.
    Plugin(Map<String, Value>),
    List(ConfList),
}

#[derive(Debug, Clone, PartialEq)]
pub struct ConfList {
    /// All keys but `plugins`.
    pub raw: Map<String, Value>,
    pub name: String,
    /// What is spoken with the plugins: the newest of `cniVersion` and `cniVersions` that we know. Empty where the list
    /// has none.
    pub version: String,
    /// `cniVersions`.
    pub versions: Vec<String>,
    pub disable_check: bool,
    pub disable_gc: bool,
    pub load_only_inlined: bool,
    /// Each has a `type`.
    pub plugins: Vec<Map<String, Value>>,
}

/// Reads a configuration. `name_if_missing` becomes its name where it has none; without it a name is needed.
/// Where there is both `type` and `plugins`, it is a plugin.
pub fn parse(config: &str, name_if_missing: Option<&str>) -> Outcome<Conf> {
    read(config).and_then(|v| from_value(v, name_if_missing)).map_err(failure)
}

impl Conf {
    pub fn name(&self) -> &str {
        match self {
            Self::Plugin(p) => json::get(p, "name").and_then(Value::as_str).unwrap_or_default(),
            Self::List(l) => &l.name,
        }
    }

    /// What is spoken with its plugins; empty where it says nothing.
    pub fn version(&self) -> &str {
        match self {
            Self::Plugin(p) => json::get(p, "cniVersion").and_then(Value::as_str).unwrap_or_default(),
            Self::List(l) => &l.version,
        }
    }

    /// In the order of ADD.
    pub fn plugins(&self) -> &[Map<String, Value>] {
        match self {
            Self::Plugin(p) => std::slice::from_ref(p),
            Self::List(l) => &l.plugins,
        }
    }

    /// With the `cni-args` of a pod's annotation in `args.cni` of every plugin; of two equal keys theirs counts.
    pub fn with_cni_args(mut self, asked: &Map<String, Value>) -> Outcome<Self> {
        let in_list = matches!(self, Self::List(_));
        for (i, plugin) in self.plugins_mut().iter_mut().enumerate() {
            let place = |e: JsonError| failure(if in_list { e.within(i).under("plugins") } else { e });
            merge(plugin, asked).map_err(|e| place(e).remedy("cni-args need `args` and `args.cni` to be objects"))?;
        }
        Ok(self)
    }

    /// With the device that kubelet gave the pod in every plugin.
    pub fn with_device(mut self, id: &str) -> Self {
        for plugin in self.plugins_mut() {
            set(plugin, "deviceID", id.into());
            set(plugin, "pciBusID", id.into());
        }
        self
    }

    pub fn to_json(&self) -> Value {
        match self {
            Self::Plugin(p) => Value::Object(p.clone()),
            Self::List(l) => {
                let mut out = l.raw.clone();
                out.insert("plugins".into(), l.plugins.iter().cloned().map(Value::Object).collect());
                Value::Object(out)
            }
        }
    }

    fn plugins_mut(&mut self) -> &mut [Map<String, Value>] {
        match self {
            Self::Plugin(p) => std::slice::from_mut(p),
            Self::List(l) => &mut l.plugins,
        }
    }
}

impl From<Conf> for Value {
    fn from(c: Conf) -> Value {
        c.to_json()
    }
}

impl TryFrom<Value> for Conf {
    type Error = JsonError;

    fn try_from(v: Value) -> Result<Self, JsonError> {
        from_value(v, None)
    }
}

fn failure(e: JsonError) -> Failure {
    Failure::new(Code::NadInvalid, e.to_string()).remedy("correct the network configuration")
}

fn read(config: &str) -> Result<Value, JsonError> {
    json::parse(config.as_bytes()).map_err(|e| {
        let start: String = config.trim_start().chars().take(60).collect();
        JsonError::new(format!("{start:?} is not JSON: {e}"))
    })
}

fn object(v: Value) -> Result<Map<String, Value>, JsonError> {
    match v {
        Value::Object(o) => Ok(o),
        other => Err(JsonError::mismatch("an object", &other)),
    }
}

fn from_value(v: Value, name_if_missing: Option<&str>) -> Result<Conf, JsonError> {
    let mut o = object(v)?;
    let name = named(&mut o, name_if_missing)?;
    if !text(&o, "type")?.is_empty() {
        text(&o, "cniVersion")?;
        return Ok(Conf::Plugin(o));
    }
    if json::get(&o, "plugins").is_none() {
        return Err(JsonError::new(format!("network {name:?} has neither `type` nor `plugins`")));
    }
    list(o, name).map(Conf::List)
}

/// The name, which is filled in where it is missing or empty.
fn named(o: &mut Map<String, Value>, name_if_missing: Option<&str>) -> Result<String, JsonError> {
    let own = text(o, "name")?;
    let name = match (own.is_empty(), name_if_missing) {
        (true, None) => return Err(JsonError::new("missing").under("name")),
        (true, Some(filled_in)) => filled_in.to_owned(),
        (false, _) => own.to_owned(),
    };
    name.parse::<NetworkName>().map_err(|e: InvalidId| JsonError::new(e.to_string()).under("name"))?;
    if text(o, "name")?.is_empty() {
        set(o, "name", name.as_str().into());
    }
    Ok(name)
}

fn list(mut raw: Map<String, Value>, name: String) -> Result<ConfList, JsonError> {
    let inlined = take(&mut raw, "plugins");
    let load_only_inlined = switch(&raw, "loadOnlyInlinedPlugins")?;
    let plugins = match inlined {
        None if load_only_inlined => {
            return Err(JsonError::new("missing, though `loadOnlyInlinedPlugins` is set").under("plugins"));
        }
        None => Vec::new(),
        Some(Value::Array(list)) if list.is_empty() => return Err(JsonError::new("the list is empty").under("plugins")),
        Some(Value::Array(list)) => {
            let one = |(i, v)| object(v).and_then(typed).map_err(|e: JsonError| e.within(i).under("plugins"));
            list.into_iter().enumerate().map(one).collect::<Result<_, _>>()?
        }
        Some(other) => return Err(JsonError::mismatch("a list", &other).under("plugins")),
    };
    let versions: Vec<String> = match json::get(&raw, "cniVersions") {
        None => Vec::new(),
        Some(v) => json::from_value(v.clone()).map_err(|e: JsonError| e.under("cniVersions"))?,
    };
    let version = negotiate(text(&raw, "cniVersion")?, &versions)
        .map_err(|wrong| JsonError::new(format!("{wrong:?} is no version")).under("cniVersions"))?;
    Ok(ConfList {
        name,
        version,
        versions,
        disable_check: switch(&raw, "disableCheck")?,
        disable_gc: switch(&raw, "disableGC")?,
        load_only_inlined,
        plugins,
        raw,
    })
}

fn typed(plugin: Map<String, Value>) -> Result<Map<String, Value>, JsonError> {
    match text(&plugin, "type")? {
        "" => Err(JsonError::new("missing").under("type")),
        _ => Ok(plugin),
    }
}

/// A text that may be missing.
fn text<'a>(o: &'a Map<String, Value>, key: &str) -> Result<&'a str, JsonError> {
    match json::get(o, key) {
        None => Ok(""),
        Some(Value::String(s)) => Ok(s),
        Some(other) => Err(JsonError::mismatch("a string", other).under(key)),
    }
}

/// true or false, or one of the two as a text.
fn switch(o: &Map<String, Value>, key: &str) -> Result<bool, JsonError> {
    match json::get(o, key) {
        None => Ok(false),
        Some(Value::Bool(b)) => Ok(*b),
        Some(Value::String(s)) if s.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(s)) if s.eq_ignore_ascii_case("false") => Ok(false),
        Some(other) => Err(JsonError::mismatch("true or false", other).under(key)),
    }
}

/// Removes the member of that name, in any case of letters, with all that it hides.
fn take(o: &mut Map<String, Value>, key: &str) -> Option<Value> {
    let found = json::get(o, key).cloned();
    o.retain(|k, _| !json::same_key(k, key));
    found
}

/// Sets a member so that everybody who reads finds this value, in whatever case of letters it was there before.
fn set(o: &mut Map<String, Value>, key: &str, v: Value) {
    o.retain(|k, _| !json::same_key(k, key));
    o.insert(key.into(), v);
}

fn merge(plugin: &mut Map<String, Value>, asked: &Map<String, Value>) -> Result<(), JsonError> {
    let part = |o: &mut Map<String, Value>, key: &str| match take(o, key) {
        None => Ok(Map::new()),
        Some(v) => object(v),
    };
    let mut args = part(plugin, "args").map_err(|e| e.under("args"))?;
    let mut cni = part(&mut args, "cni").map_err(|e| e.under("cni").under("args"))?;
    for (key, v) in asked {
        // Moved to the end: of two keys that differ in case only, the last counts.
        cni.shift_remove(key);
        cni.insert(key.clone(), v.clone());
    }
    args.insert("cni".into(), Value::Object(cni));
    plugin.insert("args".into(), Value::Object(args));
    Ok(())
}

#[cfg(test)]
mod tests;
