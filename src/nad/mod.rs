//! NetworkAttachmentDefinitions: the object. A stand-in until the room itself is there.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::types::{Code, Failure, Outcome};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nad {
    pub namespace: String,
    pub name: String,
    pub config: String,
    pub resource: Option<String>,
    pub resource_version: String,
}

impl Nad {
    pub fn from_object(v: &Value) -> Outcome<Self> {
        let text = |path: &str| v.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let missing = || Failure::new(Code::NadInvalid, "metadata.namespace or metadata.name is missing");
        Ok(Self {
            namespace: text("/metadata/namespace").ok_or_else(missing)?,
            name: text("/metadata/name").ok_or_else(missing)?,
            config: text("/spec/config").unwrap_or_default(),
            resource: text("/metadata/annotations/k8s.v1.cni.cncf.io~1resourceName"),
            resource_version: text("/metadata/resourceVersion").unwrap_or_default(),
        })
    }
}
