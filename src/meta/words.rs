//! `logFile`, `logLevel`, `logToStderr` and `logOptions`: where a meta plugin's words go. Read before anything else is, so
//! nothing here is refused; what makes no sense is left out, and ADD tells it.

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::cni::json;
use crate::logging::Wishes;

use super::is_meta;

/// Multus' levels, each with ours.
const LEVELS: [(&str, &str); 4] = [("panic", "error"), ("error", "error"), ("verbose", "info"), ("debug", "debug")];
const MEGABYTE: u64 = 1024 * 1024;

pub fn wishes(conf: &Map<String, Value>) -> Wishes {
    if is_meta(conf) != Ok(true) {
        return Wishes::default();
    }
    let text = |key: &str| json::get(conf, key).and_then(Value::as_str).filter(|t| !t.is_empty());
    let options = json::get(conf, "logOptions").and_then(Value::as_object);
    let size = options.and_then(|o| json::get(o, "maxSize")).and_then(Value::as_u64).filter(|n| *n > 0);
    Wishes {
        file: text("logFile").map(PathBuf::from),
        level: text("logLevel").and_then(level),
        silent: json::get(conf, "logToStderr") == Some(&Value::Bool(false)),
        limit: size.map(|n| n.saturating_mul(MEGABYTE)),
    }
}

fn level(text: &str) -> Option<&'static str> {
    LEVELS.iter().find(|(theirs, _)| theirs.eq_ignore_ascii_case(text)).map(|(_, ours)| *ours)
}

/// What is wrong with the level, as Multus warns of it too.
pub fn odd_level(conf: &Map<String, Value>) -> Option<String> {
    let text = json::get(conf, "logLevel").and_then(Value::as_str).filter(|t| !t.is_empty())?;
    let known = LEVELS.map(|(theirs, _)| theirs).join(", ");
    level(text).is_none().then(|| format!("logLevel: {text:?} is none of {known}: not used"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_keys_of_multus() {
        let of = |v: Value| wishes(v.as_object().unwrap());
        let all = of(json!({"delegates": [], "LogFile": "/l", "logLevel": "Verbose", "logToStderr": false,
            "logOptions": {"maxSize": 2, "maxAge": 1}}));
        let want = Wishes { file: Some("/l".into()), level: Some("info"), silent: true, limit: Some(2 * 1024 * 1024) };
        assert_eq!(all, want);
        for none in [
            json!({"delegates": []}),
            json!({"delegates": [], "logFile": "", "logLevel": "loud", "logToStderr": true, "logOptions": {}}),
            json!({"bridge": "b", "logFile": "/l"}),
        ] {
            assert_eq!(of(none.clone()), Wishes::default(), "{none}");
        }
        let odd = |level: &str| odd_level(json!({"logLevel": level}).as_object().unwrap());
        assert!(odd("loud").unwrap().contains("\"loud\""));
        assert_eq!((odd("debug"), odd("")), (None, None));
    }
}
