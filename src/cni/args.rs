//! `CNI_ARGS`: pairs `KEY=value`, joined by `;`. The case of keys counts, unlike in JSON.

use crate::types::{Code, Failure, Outcome};

/// The pairs as they came. Nothing is refused before somebody is strict about them: a meta plugin hands on what it
/// does not know, a plugin with arguments of its own refuses it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Args(String);

impl Args {
    pub fn new(raw: impl Into<String>) -> Self {
        Self(raw.into())
    }

    /// The variable's own text, for a plugin that is run by us.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn items(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split(';').filter(|_| !self.0.is_empty())
    }

    /// The pairs that are well formed, in their order.
    pub fn pairs(&self) -> impl DoubleEndedIterator<Item = (&str, &str)> {
        self.items().filter_map(pair)
    }

    /// The last value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs().rfind(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// Whether keys that nobody knows are to be passed over; false where the value is no boolean.
    pub fn ignore_unknown(&self) -> bool {
        self.get("IgnoreUnknown").and_then(boolean) == Some(true)
    }

    /// Refuses items that are no pairs, a senseless `IgnoreUnknown`, and, unless that is set, all keys but the known.
    pub fn strict(&self, known: &[&str]) -> Outcome<()> {
        let bad = |msg: String| Failure::new(Code::Environment, format!("CNI_ARGS: {msg}"));
        if let Some(item) = self.items().find(|i| pair(i).is_none()) {
            return Err(bad(format!("{item:?} is no pair KEY=value")));
        }
        if let Some((_, v)) = self.pairs().find(|(k, v)| *k == "IgnoreUnknown" && boolean(v).is_none()) {
            return Err(bad(format!("IgnoreUnknown is {v:?}, but must be 1, true, 0 or false")));
        }
        let unknown: Vec<&str> =
            self.pairs().map(|(k, _)| k).filter(|k| *k != "IgnoreUnknown" && !known.contains(k)).collect();
        if unknown.is_empty() || self.ignore_unknown() {
            return Ok(());
        }
        Err(bad(format!("unknown keys {}", unknown.join(", ")))
            .remedy("set IgnoreUnknown=1 in CNI_ARGS to pass over them"))
    }
}

fn pair(item: &str) -> Option<(&str, &str)> {
    item.split_once('=').filter(|(_, v)| !v.contains('='))
}

fn boolean(s: &str) -> Option<bool> {
    match s.to_ascii_lowercase().as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_in_their_order_the_last_one_wins() {
        let args = Args::new("IgnoreUnknown=1;MAC=a;K8S_POD_NAME=p;odd;MAC=b;mac=c;EMPTY=");
        assert_eq!(args.get("MAC"), Some("b"));
        assert_eq!((args.get("EMPTY"), args.get("odd"), args.get("Mac")), (Some(""), None, None));
        assert_eq!(args.pairs().count(), 6);
        assert!(args.ignore_unknown());
        assert_eq!(Args::default().pairs().count(), 0);
    }

    /// Each line was run against the reference's `static`, which knows IP and GATEWAY.
    #[test]
    fn who_is_strict_refuses_what_the_reference_refuses() {
        for good in [
            "",
            "IgnoreUnknown=1;A=1",
            "IgnoreUnknown=TRUE;A=1",
            "A=1;IgnoreUnknown=1",
            "IgnoreUnknown=0;IgnoreUnknown=1;A=1",
            "IP=10.0.0.1/24",
            "GATEWAY=10.0.0.1;IP=10.0.0.2/24",
            "IgnoreUnknown=0",
            "IgnoreUnknown=1;=1",
        ] {
            assert_eq!(Args::new(good).strict(&["IP", "GATEWAY"]), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("A=1", "unknown keys A"),
            ("A=1;K8S_POD_NAME=x;IP=1", "unknown keys A, K8S_POD_NAME"),
            ("ip=10.0.0.1/24", "unknown keys ip"),
            ("IgnoreUnknown=0;A=1", "unknown keys A"),
            ("IgnoreUnknown=1;IgnoreUnknown=0;A=1", "unknown keys A"),
            (" IgnoreUnknown=1;A=1", "unknown keys  IgnoreUnknown, A"),
            ("IgnoreUnknown=maybe", "IgnoreUnknown is \"maybe\""),
            ("IgnoreUnknown=;IgnoreUnknown=1", "IgnoreUnknown is \"\""),
            ("IgnoreUnknown=1;FOO", "\"FOO\" is no pair"),
            ("IgnoreUnknown=1;", "\"\" is no pair"),
            ("IgnoreUnknown=1;A=b=c", "\"A=b=c\" is no pair"),
        ] {
            let f = Args::new(bad).strict(&["IP", "GATEWAY"]).unwrap_err();
            assert_eq!(f.code, Code::Environment);
            assert!(f.msg.starts_with(&format!("CNI_ARGS: {why}")), "{bad}: {f}");
        }
    }
}
