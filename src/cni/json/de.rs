//! The reader behind `from_value`: folds the keys of structs, and says of each mistake where it stands.

use serde::de::{
    DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor, value::StringDeserializer,
};
use serde::forward_to_deserialize_any;
use serde_json::{Map, Value};

use super::{JsonError, same_key};

pub(super) struct Reader(pub(super) Value);

impl Reader {
    fn whole<'de, V: Visitor<'de>>(self, visitor: V, min: i128, max: i128) -> Result<V::Value, JsonError> {
        let number = match &self.0 {
            Value::Number(n) => n.as_u64().map(i128::from).or_else(|| n.as_i64().map(i128::from)),
            _ => None,
        };
        match number.filter(|n| (min..=max).contains(n)) {
            None => Err(JsonError::mismatch(whole_number(min, max), &self.0)),
            Some(n) => match (u64::try_from(n), i64::try_from(n)) {
                (Ok(n), _) => visitor.visit_u64(n),
                (_, Ok(n)) => visitor.visit_i64(n),
                _ => Err(JsonError::mismatch(whole_number(min, max), &self.0)),
            },
        }
    }
}

fn whole_number(min: i128, max: i128) -> String {
    match max {
        _ if max == i64::MAX.into() => "a whole number".into(),
        _ if max == u64::MAX.into() => "a whole number from 0".into(),
        _ => format!("a whole number from {min} to {max}"),
    }
}

macro_rules! whole_numbers {
    ($($method:ident $type:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
            self.whole(visitor, $type::MIN.into(), $type::MAX.into())
        })*
    };
}

impl<'de> Deserializer<'de> for Reader {
    type Error = JsonError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b) => visitor.visit_bool(b),
            Value::Number(n) => match (n.as_u64(), n.as_i64(), n.as_f64()) {
                (Some(n), _, _) => visitor.visit_u64(n),
                (_, Some(n), _) => visitor.visit_i64(n),
                (_, _, Some(n)) => visitor.visit_f64(n),
                _ => Err(JsonError::mismatch("a number of 64 bits", &Value::Number(n))),
            },
            Value::String(s) => visitor.visit_string(s),
            Value::Array(list) => visitor.visit_seq(Elements::new(list)),
            Value::Object(object) => visitor.visit_map(Members::new(object, &[])),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Bool(b) => visitor.visit_bool(b),
            other => Err(JsonError::mismatch("true or false", &other)),
        }
    }

    whole_numbers! {
        deserialize_i8 i8 deserialize_i16 i16 deserialize_i32 i32 deserialize_i64 i64
        deserialize_u8 u8 deserialize_u16 u16 deserialize_u32 u32 deserialize_u64 u64
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Number(_) => self.deserialize_any(visitor),
            other => Err(JsonError::mismatch("a number", &other)),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::String(s) => visitor.visit_string(s),
            other => Err(JsonError::mismatch("a string", &other)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, JsonError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Null => visitor.visit_seq(Elements::new(Vec::new())),
            Value::Array(list) => visitor.visit_seq(Elements::new(list)),
            other => Err(JsonError::mismatch("a list", &other)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.deserialize_struct("", &[], visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Null => visitor.visit_map(Members::new(Map::new(), fields)),
            Value::Object(object) => visitor.visit_map(Members::new(object, fields)),
            other => Err(JsonError::mismatch("an object", &other)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::String(s) => visitor.visit_enum(s.into_deserializer()),
            other => Err(JsonError::mismatch("a string", &other)),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

struct Elements {
    rest: std::vec::IntoIter<Value>,
    next: usize,
}

impl Elements {
    fn new(list: Vec<Value>) -> Self {
        Self { rest: list.into_iter(), next: 0 }
    }
}

impl<'de> SeqAccess<'de> for Elements {
    type Error = JsonError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, JsonError> {
        let Some(v) = self.rest.next() else { return Ok(None) };
        let index = self.next;
        self.next += 1;
        seed.deserialize(Reader(v)).map(Some).map_err(|e| e.within(index))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// The members of an object; of a struct each field once, under its own name.
struct Members {
    rest: serde_json::map::IntoIter,
    current: Option<(String, Value)>,
}

impl Members {
    fn new(object: Map<String, Value>, fields: &[&str]) -> Self {
        let members = if fields.is_empty() { object } else { folded(object, fields) };
        Self { rest: members.into_iter(), current: None }
    }
}

/// Renames each member to the field that Go would set with it; later ones replace earlier ones, nulls set nothing.
fn folded(object: Map<String, Value>, fields: &[&str]) -> Map<String, Value> {
    let mut out = Map::new();
    for (key, v) in object.into_iter().filter(|(_, v)| !v.is_null()) {
        let field = fields.iter().find(|f| **f == key).or_else(|| fields.iter().find(|f| same_key(f, &key)));
        out.insert(field.map_or(key, |f| (*f).to_owned()), v);
    }
    out
}

impl<'de> MapAccess<'de> for Members {
    type Error = JsonError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, JsonError> {
        let Some((key, v)) = self.rest.next() else { return Ok(None) };
        let name: StringDeserializer<JsonError> = key.clone().into_deserializer();
        self.current = Some((key, v));
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, JsonError> {
        let (key, v) = self.current.take().ok_or_else(|| JsonError::new("a value was read before its key"))?;
        seed.deserialize(Reader(v)).map_err(|e| e.under(&key))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}
