//! NetworkAttachmentDefinitions: the object, and the network configuration inside it.
//!
//! The rules are Multus 4.3's and libcni's, wherever a configuration comes from (an object, a file, the node's own
//! configuration). Pure: which file stands for an object without a configuration, what a plugin does with its keys, and
//! who may use a network, is not known here.

mod conf;
mod version;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cni::json;
use crate::types::{Code, Failure, Outcome};

#[cfg(test)]
pub use conf::ConfList;
pub use conf::{Conf, parse};

/// Annotation of an object: the resource whose devices its networks are made of.
pub const RESOURCE: &str = "k8s.v1.cni.cncf.io/resourceName";

/// An object, reduced to what a pod's network needs. Kept on disk in this form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nad {
    pub namespace: String,
    pub name: String,
    /// As it was written; empty where a file of the node has it.
    #[serde(default)]
    pub config: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    #[serde(default)]
    pub resource_version: String,
}

impl Nad {
    /// Reads the object as the API server sends it.
    pub fn from_object(v: &Value) -> Outcome<Self> {
        let Some(object) = v.as_object() else { return Err(invalid("the object", "is no JSON object")) };
        let empty = Map::new();
        let metadata = member(object, "metadata", "").map_err(|why| invalid("the object", &why))?.unwrap_or(&empty);
        let (namespace, name) = (text(metadata, "namespace"), text(metadata, "name"));
        let place = format!("{}/{}", shown(&namespace), shown(&name));
        let told = |why: String| invalid(&place, &why);
        let (namespace, name) = (namespace.map_err(told)?, name.map_err(told)?);
        for (key, value) in [("namespace", &namespace), ("name", &name)] {
            if !fits_an_object(value) {
                return Err(told(format!("metadata.{key}: {value:?} is no name that an object can have")));
            }
        }
        let annotations = member(metadata, "annotations", "metadata.").map_err(told)?.unwrap_or(&empty);
        let spec = member(object, "spec", "").map_err(told)?.unwrap_or(&empty);
        Ok(Self {
            config: text(spec, "config").map_err(|why| told(format!("spec.{why}")))?,
            resource: resource(annotations).map_err(|why| told(format!("metadata.annotations.{why}")))?,
            resource_version: text(metadata, "resourceVersion").map_err(|why| told(format!("metadata.{why}")))?,
            namespace,
            name,
        })
    }

    /// Its configuration. One without a name has the object's.
    pub fn conf(&self) -> Outcome<Conf> {
        parse(&self.config, Some(&self.name)).map_err(|f| f.at(format!("network {}/{}", self.namespace, self.name)))
    }
}

fn invalid(place: &str, why: &str) -> Failure {
    Failure::new(Code::NadInvalid, format!("network {place}: {why}")).remedy("correct the NetworkAttachmentDefinition")
}

fn shown(part: &Result<String, String>) -> &str {
    part.as_deref().ok().filter(|p| !p.is_empty()).unwrap_or("?")
}

fn member<'a>(
    object: &'a Map<String, Value>,
    key: &str,
    place: &str,
) -> Result<Option<&'a Map<String, Value>>, String> {
    match json::get(object, key) {
        None => Ok(None),
        Some(Value::Object(o)) => Ok(Some(o)),
        Some(other) => Err(json::JsonError::mismatch("an object", other).under(&format!("{place}{key}")).to_string()),
    }
}

/// A text that may be missing.
fn text(object: &Map<String, Value>, key: &str) -> Result<String, String> {
    match json::get(object, key) {
        None => Ok(String::new()),
        Some(Value::String(s)) => Ok(s.clone()),
        Some(other) => Err(json::JsonError::mismatch("a string", other).under(key).to_string()),
    }
}

/// Keys of annotations are no fields: their case counts.
fn resource(annotations: &Map<String, Value>) -> Result<Option<String>, String> {
    match annotations.get(RESOURCE) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) => Ok(Some(s.clone()).filter(|r| !r.is_empty())),
        Some(other) => Err(json::JsonError::mismatch("a string", other).under(RESOURCE).to_string()),
    }
}

/// Rougher than Kubernetes', which made the object: a name becomes part of a path, and of a URL.
fn fits_an_object(s: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    s.len() <= 253
        && s.bytes().all(|b| inner(b) || b == b'-' || b == b'.')
        && [s.bytes().next(), s.bytes().next_back()].into_iter().all(|end| end.is_some_and(inner))
}

#[cfg(test)]
mod tests;
