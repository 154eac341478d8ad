//! Stand-in, until the room itself is there: the two forms of a network's configuration.

use serde_json::{Map, Value};

use crate::cni::json;

#[derive(Debug, Clone, PartialEq)]
pub enum Conf {
    Plugin(Map<String, Value>),
    List(ConfList),
}

#[derive(Debug, Clone, PartialEq)]
pub struct ConfList {
    pub raw: Map<String, Value>,
    pub name: String,
    pub version: String,
    pub versions: Vec<String>,
    pub disable_check: bool,
    pub disable_gc: bool,
    pub load_only_inlined: bool,
    pub plugins: Vec<Map<String, Value>>,
}

impl Conf {
    pub fn name(&self) -> &str {
        match self {
            Self::Plugin(p) => json::get(p, "name").and_then(Value::as_str).unwrap_or_default(),
            Self::List(l) => &l.name,
        }
    }

    pub fn version(&self) -> &str {
        match self {
            Self::Plugin(p) => json::get(p, "cniVersion").and_then(Value::as_str).unwrap_or_default(),
            Self::List(l) => &l.version,
        }
    }

    pub fn plugins(&self) -> &[Map<String, Value>] {
        match self {
            Self::Plugin(p) => std::slice::from_ref(p),
            Self::List(l) => &l.plugins,
        }
    }
}
