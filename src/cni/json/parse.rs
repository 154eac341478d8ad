//! From bytes to a value, keeping which of two equal keys came last.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::JsonError;

/// Reads one document; anything but blanks after it is an error.
///
/// Bytes that are not UTF-8 become U+FFFD, as in Go. Nesting deeper than 128 is an error.
pub fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    let text = String::from_utf8_lossy(bytes);
    match serde_json::from_str::<Ordered>(&text) {
        Ok(Ordered(v)) => Ok(v),
        Err(e) => Err(JsonError::new(e.to_string())),
    }
}

/// A `Value` whose objects list their members in the order in which each was last set. `Value`'s own reader leaves a
/// repeated key at its first place, and then the order against the same key in another case is lost.
struct Ordered(Value);

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(OrderedVisitor).map(Ordered)
    }
}

struct OrderedVisitor;

impl<'de> Visitor<'de> for OrderedVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Ordered(v)) = seq.next_element()? {
            list.push(v);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((key, Ordered(v))) = members.next_entry::<String, _>()? {
            if object.contains_key(&key) {
                if v.is_null() {
                    continue;
                }
                object.shift_remove(&key);
            }
            object.insert(key, v);
        }
        Ok(Value::Object(object))
    }
}
