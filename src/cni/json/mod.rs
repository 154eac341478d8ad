//! JSON as Go's `encoding/json` reads it, since that is what configurations were written against: keys match in any
//! case, the last of two equal keys wins, null is the same as absent, unknown keys are ignored.
//!
//! What a key means is not known here. Left out of Go's ways: two objects under equal keys are not merged; of two equal
//! keys only the last is checked for its type; an escaped lone surrogate, a number that no double holds, and nesting
//! deeper than 128 are errors.

mod de;
mod error;
mod parse;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub use error::JsonError;
pub use parse::parse;

/// Reads a value into a type, matching the fields of its structs as Go does.
///
/// Fields that may be missing need `Option` or `#[serde(default)]`. `#[serde(flatten)]` and `#[serde(untagged)]` hide
/// the names of the fields from the reader, so that they would match in their exact case only. Maps keep their keys as
/// they are, as in Go.
pub fn from_value<T: DeserializeOwned>(v: Value) -> Result<T, JsonError> {
    T::deserialize(de::Reader(v))
}

/// The member of that name, in any case of letters; of several the last one that is not null.
pub fn get<'a>(obj: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    obj.iter().filter(|(k, v)| !v.is_null() && same_key(k, key)).map(|(_, v)| v).next_back()
}

/// Whether Go takes one key for the other. Right for names of ASCII letters, which all keys of CNI are: besides the
/// other case, Unicode folds the long s and the Kelvin sign onto them.
pub fn same_key(a: &str, b: &str) -> bool {
    a == b || a.chars().map(fold).eq(b.chars().map(fold))
}

fn fold(c: char) -> char {
    match c {
        '\u{17f}' => 'S',
        '\u{212a}' => 'K',
        _ => c.to_ascii_uppercase(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;
    use serde::Deserialize;

    use super::*;
    use crate::types::VlanId;

    fn object(text: &str) -> Map<String, Value> {
        match parse(text.as_bytes()).unwrap() {
            Value::Object(o) => o,
            other => panic!("{other} is no object"),
        }
    }

    #[test]
    fn keys_match_as_in_go() {
        for (text, found) in [
            (r#"{"MTU":1}"#, Some(1)),
            (r#"{"mtu":1,"MTU":2}"#, Some(2)),
            (r#"{"MTU":2,"mtu":1}"#, Some(1)),
            // The exact key stands first in the text, but was set last.
            (r#"{"mtu":1,"MTU":2,"mtu":3}"#, Some(3)),
            (r#"{"mtu":1,"MTU":null}"#, Some(1)),
            (r#"{"mtu":1,"mtu":null}"#, Some(1)),
            (r#"{"mtu":null}"#, None),
            (r#"{"mtu2":1}"#, None),
            (r#"{}"#, None),
        ] {
            assert_eq!(get(&object(text), "mtu").and_then(Value::as_u64), found, "{text}");
        }
        assert!(same_key("mas\u{212a}", "MASk") && same_key("i\u{17f}Gateway", "isgateway"));
        assert!(!same_key("\u{131}d", "id") && !same_key("id", "idd") && !same_key("stra\u{df}e", "STRASSE"));
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Outer {
        ipam: Inner,
        vlan: Option<VlanId>,
        mode: Option<Mode>,
        is_gateway: bool,
        small: Option<u8>,
        signed: Option<i64>,
        ratio: Option<f64>,
        list: Vec<String>,
        raw: Option<Value>,
        table: BTreeMap<String, String>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Inner {
        ranges: Vec<Range>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Range {
        subnet: String,
        range_start: Option<String>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Bridge,
        Vepa,
    }

    fn outer(text: &str) -> Result<Outer, String> {
        from_value(parse(text.as_bytes()).map_err(|e| e.to_string())?).map_err(|e| e.to_string())
    }

    #[test]
    fn structs_are_read_in_any_case() {
        let text = r#"{"IPAM":{"Ranges":[{"SUBNET":"a","RANGESTART":"b"},{"subnet":"c","rangestart":null}]},"Vlan":7,
            "mode":"vepa","IS_GATEWAY":true,"signed":-3,"ratio":1,"list":null,"Raw":{"A":[1]},
            "table":{"K":"v"},"x":{}}"#;
        let range =
            |subnet: &str, start: Option<&str>| Range { subnet: subnet.into(), range_start: start.map(Into::into) };
        let want = Outer {
            ipam: Inner { ranges: vec![range("a", Some("b")), range("c", None)] },
            vlan: Some(VlanId::try_from(7).unwrap()),
            mode: Some(Mode::Vepa),
            is_gateway: true,
            signed: Some(-3),
            ratio: Some(1.0),
            raw: Some(serde_json::json!({ "A": [1] })),
            table: BTreeMap::from([("K".into(), "v".into())]),
            ..Outer::default()
        };
        assert_eq!(outer(text), Ok(want));
        assert_eq!(outer("null"), Ok(Outer::default()));
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        for (text, told) in [
            (r#"{"ipam":{"ranges":[{"subnet":3}]}}"#, "ipam.ranges[0].subnet: expected a string, found 3"),
            (r#"{"IPAM":{"RANGES":[{"subnet":"a"},{}]}}"#, "ipam.ranges[1].subnet: missing"),
            (r#"{"ipam":{"ranges":{"a":1}}}"#, "ipam.ranges: expected a list, found an object"),
            (r#"{"ipam":"host-local"}"#, "ipam: expected an object, found \"host-local\""),
            (r#"{"ipam":[1]}"#, "ipam: expected an object, found a list"),
            (r#"{"vlan":4095}"#, "vlan: VLAN 4095 is not within 1 to 4094"),
            (r#"{"vlan":-1}"#, "vlan: expected a whole number from 0 to 4294967295, found -1"),
            (r#"{"small":256}"#, "small: expected a whole number from 0 to 255, found 256"),
            (r#"{"small":1.0}"#, "small: expected a whole number from 0 to 255, found 1.0"),
            (r#"{"signed":9223372036854775808}"#, "signed: expected a whole number, found 9223372036854775808"),
            (r#"{"ratio":"1"}"#, "ratio: expected a number, found \"1\""),
            (r#"{"is_gateway":"yes"}"#, "is_gateway: expected true or false, found \"yes\""),
            (r#"{"mode":"Bridge"}"#, "mode: expected one of bridge, vepa, found \"Bridge\""),
            (r#"{"mode":{"bridge":1}}"#, "mode: expected a string, found an object"),
            (r#"{"list":["a",null]}"#, "list[1]: expected a string, found null"),
            (r#"{"table":{"K":1}}"#, "table.K: expected a string, found 1"),
            ("[]", "expected an object, found a list"),
            ("{} x", "trailing characters at line 1 column 4"),
            ("", "EOF while parsing a value at line 1 column 0"),
        ] {
            assert_eq!(outer(text).unwrap_err(), told, "{text}");
        }
        let long = outer(&format!(r#"{{"ipam":"{}"}}"#, "x".repeat(5000))).unwrap_err();
        assert!(long.len() < 120, "{long}");
    }

    #[test]
    fn bytes_that_are_no_text() {
        assert_eq!(object("{\"a\":\"\u{fffd}\"}"), *parse(b"{\"a\":\"\xff\"}").unwrap().as_object().unwrap());
        assert!(parse(b"\xff{}").is_err() && parse("[".repeat(100_000).as_bytes()).is_err());
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Keys {
        ask: Option<u8>,
        mtu: Option<u8>,
    }

    /// Writes a key in other letters that fold onto it, by the bits of a number.
    fn disguise(key: &str, bits: u16) -> String {
        let letter = |(i, c): (usize, char)| match (c, bits >> (2 * i) & 3) {
            (c, 0) => c,
            ('k', 3) => '\u{212a}',
            ('s', 3) => '\u{17f}',
            (c, _) => c.to_ascii_uppercase(),
        };
        key.chars().enumerate().map(letter).collect()
    }

    /// What Go does, told in another way: full case mapping, one pass, each value that is not null overwriting.
    fn oracle(members: &[(String, Option<u8>)], key: &str) -> Option<u8> {
        let plain = |k: &str| k.to_uppercase().to_lowercase();
        members.iter().fold(None, |found, (k, v)| if plain(k) == key { v.or(found) } else { found })
    }

    proptest! {
        #[test]
        fn folding_is_the_oracles(
            drawn in vec((select(vec!["ask", "mtu", "other"]), any::<u16>(), any::<Option<u8>>()), 0..9)
        ) {
            let members: Vec<_> = drawn.into_iter().map(|(k, bits, v)| (disguise(k, bits), v)).collect();
            let one = |(k, v): &(String, Option<u8>)| format!("{k:?}:{}", v.map_or("null".into(), |v| v.to_string()));
            let text = format!("{{{}}}", members.iter().map(one).collect::<Vec<_>>().join(","));
            let read = object(&text);
            let by_name = |key| get(&read, key).and_then(Value::as_u64).map(|n| n as u8);
            let want = Keys { ask: oracle(&members, "ask"), mtu: oracle(&members, "mtu") };
            prop_assert_eq!(&Keys { ask: by_name("ask"), mtu: by_name("mtu") }, &want, "{}", text);
            prop_assert_eq!(&from_value::<Keys>(Value::Object(read)).unwrap(), &want, "{}", text);
        }
    }
}
