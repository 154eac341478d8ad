//! Stand-in, until the room itself is there: the two forms of a network's configuration.

use serde_json::{Map, Value};

#[derive(Debug, Clone, PartialEq)]
pub enum Conf {
    Plugin(Map<String, Value>),
    List(ConfList),
}

#[derive(Debug, Clone, PartialEq, Default)]
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
