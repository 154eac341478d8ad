//! What is wrong with a value, and where it stands.

use std::fmt;

use serde::de;
use serde_json::Value;

use crate::types::{Code, Failure};

/// `ipam.ranges[0].subnet`: expected a string, found 3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    /// Empty for the whole document.
    pub path: String,
    /// Lower case, no full stop.
    pub msg: String,
}

impl JsonError {
    pub fn new(msg: impl Into<String>) -> Self {
        Self { path: String::new(), msg: msg.into() }
    }

    pub fn mismatch(expected: impl fmt::Display, found: &Value) -> Self {
        Self::new(format!("expected {expected}, found {}", brief(found)))
    }

    /// The same error, seen from the object that has the key.
    pub fn under(mut self, key: &str) -> Self {
        let separator = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{key}{separator}{}", self.path);
        self
    }

    /// The same error, seen from the list that has the element.
    pub fn within(self, index: usize) -> Self {
        self.under(&format!("[{index}]"))
    }
}

/// A value as a message can have it: short, and no nested text.
fn brief(v: &Value) -> String {
    match v {
        Value::Object(_) => "an object".into(),
        Value::Array(_) => "a list".into(),
        Value::String(s) if s.chars().nth(40).is_some() => {
            format!("{:?} and more", s.chars().take(40).collect::<String>())
        }
        other => other.to_string(),
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.msg) } else { write!(f, "{}: {}", self.path, self.msg) }
    }
}

impl std::error::Error for JsonError {}

impl de::Error for JsonError {
    fn custom<T: fmt::Display>(msg: T) -> Self {
        Self::new(msg.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new("missing").under(field)
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        Self::new(format!("not a known key; known are {}", known.join(", "))).under(field)
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        Self::new(format!("expected one of {}, found {found:?}", known.join(", ")))
    }
}

impl From<JsonError> for Failure {
    fn from(e: JsonError) -> Self {
        Failure::new(Code::Config, e.to_string())
    }
}
