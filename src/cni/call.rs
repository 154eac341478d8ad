//! One call of the runtime, read out of environment and standard input, in the order in which the reference library
//! looks at them: environment, name, version. Whoever holds a [`Call`] has all that its verb needs.

use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::PathBuf;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::types::{Code, ContainerId, Failure, IfName, InvalidId, NetworkName, Outcome};

use super::json::{self, JsonError};
use super::version::UnknownVersion;
use super::{AddResult, Args, Verb, Version};

type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What the runtime wants of us.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// No `CNI_COMMAND`: somebody ran the plugin by hand and is told what it is.
    About,
    /// VERSION, which has neither a network nor a standard input.
    Version,
    Call(Box<Call>),
}

/// ADD, DEL, CHECK, STATUS or GC.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub verb: Verb,
    pub version: Version,
    /// There for ADD, DEL and CHECK.
    pub container: Option<ContainerId>,
    /// There for ADD and CHECK.
    pub netns: Option<PathBuf>,
    /// There for ADD, DEL and CHECK.
    pub ifname: Option<IfName>,
    pub args: Args,
    pub path: Vec<PathBuf>,
    /// `CNI_NETNS_OVERRIDE`: the plugin's own namespace may be the pod's.
    pub netns_override: bool,
    pub name: NetworkName,
    /// `type`; empty where there is none or it is no string.
    pub type_name: String,
    /// The whole configuration.
    pub conf: Map<String, Value>,
}

impl Call {
    /// A call of this configuration, as [`read`] makes it; also for a plugin that is carried out without being run.
    pub fn new(verb: Verb, given: Given, conf: Map<String, Value>) -> Outcome<Self> {
        let name = network_name(&conf)?;
        let version = version(&conf, verb)?;
        Ok(Self {
            verb,
            version,
            container: given.container,
            netns: given.netns,
            ifname: given.ifname,
            args: given.args,
            path: given.path,
            netns_override: given.netns_override,
            name,
            type_name: json::get(&conf, "type").and_then(Value::as_str).unwrap_or_default().to_owned(),
            conf,
        })
    }

    /// The result of the ADD before, if the runtime handed it over. Where it does not tell its version, it is the
    /// call's.
    pub fn prev_result(&self) -> Outcome<Option<AddResult>> {
        let Some(v) = json::get(&self.conf, "prevResult") else { return Ok(None) };
        AddResult::from_json_or(v.clone(), self.version).map(Some).map_err(|f| f.at("prevResult"))
    }
}

/// Reads a call. Standard input is not touched before the environment is found in order.
pub fn read(env: Env<'_>, stdin: &mut dyn Read) -> Result<Request, Failure> {
    let Some(command) = env("CNI_COMMAND").filter(|c| !c.is_empty()) else { return Ok(Request::About) };
    let Some(verb) = command.to_str().and_then(Verb::from_command) else {
        return Err(Failure::new(Code::Environment, format!("CNI_COMMAND {command:?} is no command"))
            .remedy(format!("use one of {}", Verb::ALL.map(Verb::as_str).join(", "))));
    };
    if verb == Verb::Version {
        return Ok(Request::Version);
    }
    let given = Given::read(env, verb)?;
    let conf = read_conf(stdin)?;
    Ok(Request::Call(Box::new(Call::new(verb, given, conf)?)))
}

/// What the variables tell, an empty one counting as missing.
#[derive(Debug, Clone, Default)]
pub struct Given {
    pub container: Option<ContainerId>,
    pub netns: Option<PathBuf>,
    pub ifname: Option<IfName>,
    pub args: Args,
    pub path: Vec<PathBuf>,
    pub netns_override: bool,
}

impl Given {
    fn read(env: Env<'_>, verb: Verb) -> Outcome<Self> {
        let mut vars = Vars { env, missing: Vec::new(), invalid: Vec::new() };
        let attachment = verb.names_an_attachment();
        // What a verb does not need is not looked at either: a STATUS does not fail for somebody else's variable.
        let container = if attachment { vars.parsed("CNI_CONTAINERID") } else { None };
        let netns =
            if matches!(verb, Verb::Add | Verb::Check) { vars.needed("CNI_NETNS") } else { vars.get("CNI_NETNS") };
        let ifname = if attachment { vars.parsed("CNI_IFNAME") } else { None };
        let path = vars.needed("CNI_PATH");
        let args = vars.get("CNI_ARGS").unwrap_or_default();
        let switch = vars.get("CNI_NETNS_OVERRIDE").unwrap_or_default();
        vars.verdict(verb)?;
        Ok(Self {
            container,
            netns: netns.map(PathBuf::from),
            ifname,
            args: Args::new(args.to_string_lossy()),
            path: path.iter().flat_map(std::env::split_paths).filter(|p| !p.as_os_str().is_empty()).collect(),
            netns_override: switch == "1" || switch.eq_ignore_ascii_case("true"),
        })
    }
}

/// Reads variables and gathers what is wrong with them, so that one message has all of it.
struct Vars<'a> {
    env: Env<'a>,
    missing: Vec<&'static str>,
    invalid: Vec<String>,
}

impl Vars<'_> {
    fn get(&self, name: &str) -> Option<OsString> {
        (self.env)(name).filter(|v| !v.is_empty())
    }

    fn needed(&mut self, name: &'static str) -> Option<OsString> {
        let value = self.get(name);
        if value.is_none() {
            self.missing.push(name);
        }
        value
    }

    fn parsed<T: FromStr<Err: fmt::Display>>(&mut self, name: &'static str) -> Option<T> {
        let value = self.needed(name)?;
        let Some(text) = value.to_str() else {
            self.invalid.push(format!("{name}: {value:?} is not UTF-8"));
            return None;
        };
        text.parse().map_err(|e| self.invalid.push(format!("{name}: {e}"))).ok()
    }

    fn verdict(self, verb: Verb) -> Outcome<()> {
        let mut wrong = self.invalid;
        if !self.missing.is_empty() {
            wrong.insert(0, format!("{} not set or empty", self.missing.join(", ")));
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Failure::new(Code::Environment, format!("{verb}: {}", wrong.join("; "))))
    }
}

fn read_conf(stdin: &mut dyn Read) -> Outcome<Map<String, Value>> {
    // Most configurations fit: read(2) twice, not a dozen times.
    let mut bytes = Vec::with_capacity(4096);
    stdin.read_to_end(&mut bytes).map_err(|e| Failure::new(Code::Io, format!("standard input cannot be read: {e}")))?;
    if bytes.trim_ascii().is_empty() {
        return Err(not_json(JsonError::new("empty")).remedy("hand the network configuration over on standard input"));
    }
    match json::parse(&bytes).map_err(not_json)? {
        Value::Object(conf) => Ok(conf),
        // Go takes it for an object without members; the name is missing then.
        Value::Null => Ok(Map::new()),
        other => Err(not_json(JsonError::mismatch("an object", &other))),
    }
}

fn network_name(conf: &Map<String, Value>) -> Outcome<NetworkName> {
    let name = match json::get(conf, "name") {
        None => "",
        Some(Value::String(s)) => s,
        Some(other) => return Err(not_json(JsonError::mismatch("a string", other).under("name"))),
    };
    if name.is_empty() {
        return Err(Failure::new(Code::Config, "the network configuration has no name").remedy("set the key `name`"));
    }
    name.parse().map_err(|e: InvalidId| Failure::new(Code::Config, e.to_string()))
}

/// A missing or empty `cniVersion` means 0.1.0. Versions are compared as texts: "1.0" is none.
fn version(conf: &Map<String, Value>, verb: Verb) -> Outcome<Version> {
    let text = match json::get(conf, "cniVersion") {
        None => "",
        Some(Value::String(s)) => s,
        Some(other) => return Err(not_json(JsonError::mismatch("a string", other).under("cniVersion"))),
    };
    let text = if text.is_empty() { Version::V0_1_0.as_str() } else { text };
    let since = verb.since();
    if since > Version::V0_1_0 {
        // Only these verbs take the text apart in the reference, and then with another code for one that is no version.
        match since.reached_by(text) {
            None => return Err(not_json(JsonError::new(format!("{text:?} is no version")).under("cniVersion"))),
            Some(false) => {
                return Err(Failure::new(Code::Version, format!("cniVersion {text}: {verb} needs {since} or newer")));
            }
            Some(true) => {}
        }
    }
    text.parse().map_err(|e: UnknownVersion| {
        Failure::new(Code::Version, e.to_string()).remedy(format!("use one of {}", Version::list()))
    })
}

fn not_json(e: JsonError) -> Failure {
    Failure::new(Code::NotJson, e.to_string()).at("standard input")
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::ffi::OsStringExt;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const CONF: &str = r#"{"cniVersion":"1.1.0","name":"lan","type":"bridge"}"#;

    /// The environment of a good call.
    fn env(verb: &str) -> Vec<(&'static str, OsString)> {
        let pairs = [
            ("CNI_CONTAINERID", "cid-1"),
            ("CNI_NETNS", "/run/netns/c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin::/usr/lib/cni"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web"),
            ("CNI_COMMAND", verb),
        ];
        pairs.map(|(k, v)| (k, v.into())).into()
    }

    fn read_in(env: &[(&str, OsString)], stdin: &[u8]) -> Result<Request, Failure> {
        read(&|name| env.iter().rfind(|(k, _)| *k == name).map(|(_, v)| v.clone()), &mut &stdin[..])
    }

    /// With further variables; an empty one stands for a missing one too, so both are tried.
    fn read_with(verb: &str, more: &[(&'static str, &str)], stdin: &str) -> Result<Request, Failure> {
        let mut vars = env(verb);
        vars.extend(more.iter().map(|(k, v)| (*k, OsString::from(v))));
        let found = read_in(&vars, stdin.as_bytes());
        vars.retain(|(k, _)| more.iter().all(|(m, v)| m != k || !v.is_empty()));
        assert_eq!(read_in(&vars, stdin.as_bytes()), found, "empty and missing variables differ: {more:?}");
        found
    }

    fn call(verb: &str, more: &[(&'static str, &str)], stdin: &str) -> Call {
        match read_with(verb, more, stdin) {
            Ok(Request::Call(call)) => *call,
            other => panic!("{other:?}"),
        }
    }

    fn code(found: Result<Request, Failure>) -> u32 {
        found.map_or_else(|f| f.code.cni(), |_| 0)
    }

    struct Unreadable;

    impl Read for Unreadable {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("gone"))
        }
    }

    #[test]
    fn a_whole_call() {
        let c = call("ADD", &[], CONF);
        assert_eq!((c.verb, c.version), (Verb::Add, Version::V1_1_0));
        assert_eq!((c.container.unwrap().as_str(), c.ifname.unwrap().as_str()), ("cid-1", "eth0"));
        assert_eq!((c.name.as_str(), c.type_name.as_str(), c.conf.len()), ("lan", "bridge", 3));
        assert_eq!(c.netns, Some(PathBuf::from("/run/netns/c1")));
        assert_eq!(c.path, ["/opt/cni/bin", "/usr/lib/cni"].map(PathBuf::from));
        assert_eq!(c.args.get("K8S_POD_NAME"), Some("web"));
        assert!(!c.netns_override);
        for (value, on) in [("1", true), ("true", true), ("TRUE", true), ("yes", false), ("0", false), ("", false)] {
            assert_eq!(call("ADD", &[("CNI_NETNS_OVERRIDE", value)], CONF).netns_override, on, "{value}");
        }
        assert_eq!(call("DEL", &[("CNI_NETNS", "")], CONF).netns, None);
        let bare = [("CNI_CONTAINERID", "a/b"), ("CNI_NETNS", ""), ("CNI_IFNAME", "")];
        assert_eq!((call("GC", &bare, CONF).container, call("STATUS", &bare, CONF).ifname), (None, None));
        assert_eq!(call("ADD", &[], r#"{"NAME":"lan","Type":3}"#).type_name, "");
    }

    #[test]
    fn neither_network_nor_input() {
        let read = |command: &str| read(&|k| (k == "CNI_COMMAND").then(|| command.into()), &mut Unreadable);
        assert_eq!(read(""), Ok(Request::About));
        assert_eq!(read("VERSION"), Ok(Request::Version));
        assert_eq!(read_in(&[], b""), Ok(Request::About));
    }

    /// The environment comes first: nothing of these touches standard input.
    #[test]
    fn variables() {
        for (verb, more, msg) in [
            ("ADD", &[("CNI_CONTAINERID", "")][..], "ADD: CNI_CONTAINERID not set or empty"),
            ("ADD", &[("CNI_NETNS", "")], "ADD: CNI_NETNS not set or empty"),
            ("CHECK", &[("CNI_NETNS", "")], "CHECK: CNI_NETNS not set or empty"),
            ("DEL", &[("CNI_IFNAME", "")], "DEL: CNI_IFNAME not set or empty"),
            ("DEL", &[("CNI_PATH", "")], "DEL: CNI_PATH not set or empty"),
            ("STATUS", &[("CNI_PATH", "")], "STATUS: CNI_PATH not set or empty"),
            ("GC", &[("CNI_PATH", "")], "GC: CNI_PATH not set or empty"),
            (
                "ADD",
                &[("CNI_CONTAINERID", "a/b"), ("CNI_NETNS", ""), ("CNI_IFNAME", ""), ("CNI_PATH", "")],
                "ADD: CNI_NETNS, CNI_IFNAME, CNI_PATH not set or empty; CNI_CONTAINERID: container id \"a/b\": must \
                 begin with a letter or digit and have only letters, digits, '_', '.' or '-'",
            ),
            ("ADD", &[("CNI_COMMAND", "add")], "CNI_COMMAND \"add\" is no command"),
            ("ADD", &[("CNI_COMMAND", "UPDATE")], "CNI_COMMAND \"UPDATE\" is no command"),
        ] {
            let mut vars = env(verb);
            vars.extend(more.iter().map(|(k, v)| (*k, OsString::from(v))));
            let f = read(&|name| vars.iter().rfind(|(k, _)| *k == name).map(|(_, v)| v.clone()), &mut Unreadable)
                .unwrap_err();
            assert_eq!((f.code, f.msg.as_str()), (Code::Environment, msg));
            assert_eq!(code(read_with(verb, more, "hello")), 4);
        }
        for id in ["a/b", "-a", "a b", ".a", "a\nb"] {
            assert_eq!(code(read_with("DEL", &[("CNI_CONTAINERID", id)], CONF)), 4, "{id:?}");
        }
        for name in ["aaaaaaaaaaaaaaaa", "a/b", "a:b", ".", "..", "a b", "a\tb"] {
            assert_eq!(code(read_with("ADD", &[("CNI_IFNAME", name)], CONF)), 4, "{name:?}");
        }
        assert_eq!(call("ADD", &[("CNI_IFNAME", "eth0.5-x@y"), ("CNI_CONTAINERID", "A9_.-z")], CONF).verb, Verb::Add);
        let mut vars = env("ADD");
        vars.push(("CNI_IFNAME", OsString::from_vec(vec![b'e', 0xff])));
        assert_eq!(read_in(&vars, CONF.as_bytes()).unwrap_err().msg, "ADD: CNI_IFNAME: \"e\\xFF\" is not UTF-8");
    }

    #[test]
    fn input_that_cannot_be_read() {
        let vars = env("ADD");
        let found = read(&|name| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| v.clone()), &mut Unreadable);
        assert_eq!(found.unwrap_err(), Failure::new(Code::Io, "standard input cannot be read: gone"));
    }

    /// The codes are those of the reference library, run with the same input.
    #[test]
    fn configurations() {
        for (stdin, want) in [
            ("", 6),
            (" \n", 6),
            (r#"{"cniVersion":"1.1.0","name":"x""#, 6),
            ("hello", 6),
            ("[]", 6),
            (r#""x""#, 6),
            ("3", 6),
            (r#"{"cniVersion":"1.1.0","name":"x"} x"#, 6),
            (r#"{"cniVersion":"1.1.0","name":"x"}{}"#, 6),
            ("\u{feff}{\"name\":\"x\"}", 6),
            ("null", 7),
            (r#"{"cniVersion":"1.1.0"}"#, 7),
            (r#"{"name":""}"#, 7),
            (r#"{"name":null}"#, 7),
            (r#"{"cniVersion":1}"#, 7),
            (r#"{"name":"a/b"}"#, 7),
            (r#"{"name":"-a"}"#, 7),
            (r#"{"name":"a b"}"#, 7),
            (r#"{"name":".."}"#, 7),
            (r#"{"name":"nét"}"#, 7),
            (r#"{"name":"a\n"}"#, 7),
            (r#"{"name":3}"#, 6),
            (r#"{"name":["x"]}"#, 6),
            (r#"{"name":3,"cniVersion":1}"#, 6),
            (r#"{"name":"x","cniVersion":1}"#, 6),
            (r#"{"name":"x","cniVersion":[]}"#, 6),
            (r#"{"name":"x","cniVersion":"1.2.0"}"#, 1),
            (r#"{"name":"x","cniVersion":"1.0"}"#, 1),
            (r#"{"name":"x","cniVersion":"abc"}"#, 1),
            (r#"{"name":"x"}"#, 0),
            (r#"{"name":"x","cniVersion":""}"#, 0),
            (r#"{"name":"x","cniVersion":null}"#, 0),
            (r#"{"name":"a/b","NAME":"x"}"#, 0),
            ("\n\t {\"name\":\"9Net_a.b-c\"}\n\n", 0),
        ] {
            assert_eq!(code(read_with("ADD", &[], stdin)), want, "{stdin}");
            assert_eq!(code(read_with("DEL", &[], stdin)), want, "{stdin}");
        }
        assert_eq!(call("ADD", &[], r#"{"name":"x"}"#).version, Version::V0_1_0);
        let f = read_with("ADD", &[], r#"{"name":3}"#).unwrap_err();
        assert_eq!(f.msg, "standard input: name: expected a string, found 3");
    }

    #[test]
    fn verbs_need_versions() {
        let conf = |v: &str| format!(r#"{{"name":"x","cniVersion":"{v}"}}"#);
        for verb in [Verb::Add, Verb::Del, Verb::Check, Verb::Status, Verb::Gc] {
            for v in Version::ALL {
                let want = if v < verb.since() { 1 } else { 0 };
                assert_eq!(code(read_with(verb.as_str(), &[], &conf(v.as_str()))), want, "{verb} {v}");
            }
        }
        // The reference takes the text apart for these, and finds what is no version at all to be bad input.
        for verb in ["CHECK", "STATUS", "GC"] {
            for (v, want) in
                [("abc", 6), ("1.0.0.0", 6), (" 1.0.0", 6), ("0.3", 1), ("1.2.0", 1), ("9.9.9", 1), ("", 1)]
            {
                assert_eq!(code(read_with(verb, &[], &conf(v))), want, "{verb} {v:?}");
            }
        }
        let f = read_with("CHECK", &[], &conf("0.3.1")).unwrap_err();
        assert_eq!(f.msg, "cniVersion 0.3.1: CHECK needs 0.4.0 or newer");
    }

    #[test]
    fn the_result_before() {
        let conf = |more: &str| format!(r#"{{"name":"x","cniVersion":"1.0.0"{more}}}"#);
        let prev = |more: &str| call("DEL", &[], &conf(more)).prev_result();
        assert_eq!(prev(""), Ok(None));
        assert_eq!(prev(r#","prevResult":null"#), Ok(None));
        // Without a version of its own it has the call's.
        let ips = r#"{"ips":[{"address":"10.1.2.3/24"}]}"#;
        assert_eq!(prev(&format!(r#","PREVRESULT":{ips}"#)).unwrap().unwrap().ips.len(), 1);
        let f = prev(r#","prevResult":{"ips":[{"address":"10.1.2.3"}]}"#).unwrap_err();
        assert!(f.msg.starts_with("prevResult: ips[0].address: \"10.1.2.3\""), "{f}");
    }

    /// A good configuration with some bytes overwritten, or any bytes.
    fn stdin() -> impl Strategy<Value = Vec<u8>> {
        let good = format!(r#"{},"prevResult":{{"ips":[{{"address":"10.1.2.3/24"}}]}}}}"#, &CONF[..CONF.len() - 1]);
        let damaged = vec((0..good.len(), any::<u8>()), 0..4).prop_map(move |strokes| {
            let mut bytes = good.clone().into_bytes();
            strokes.into_iter().for_each(|(at, b)| bytes[at] = b);
            bytes
        });
        prop_oneof![damaged, vec(any::<u8>(), 0..200)]
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            verb in prop::sample::select(Verb::ALL.to_vec()),
            stdin in stdin(),
            vars in vec((0..6usize, vec(any::<u8>(), 0..40)), 0..3),
        ) {
            let mut env = env(verb.as_str());
            for (i, bytes) in vars {
                env[i].1 = OsString::from_vec(bytes);
            }
            if let Ok(Request::Call(call)) = read_in(&env, &stdin) {
                let _ = call.prev_result();
                let _ = call.args.strict(&["MAC"]);
                let _ = crate::cni::valid_attachments(&call.conf);
                prop_assert_eq!(call.container.is_some(), call.verb.names_an_attachment());
                prop_assert!(!call.path.iter().any(|p| p.as_os_str().is_empty()));
            }
        }
    }
}
