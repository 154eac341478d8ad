//! Fuzz targets: what strangers write and this program reads. Built by `e2e/fuzz` only.
//!
//! A crate without a library has one binary for all of them; `TRESTLE_FUZZ` names the target. An input is text as a
//! person would write it, so that the corpus in `e2e/corpus` can be read; only `dhcp` and `guest` take packets. Besides
//! "does not panic" each target asserts what the rooms above rely on.
#![allow(unsafe_code, reason = "the macro exports the function that libFuzzer calls")]

mod dhcp;

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use crate::annotation::{self, Selection, StatusEntry};
use crate::cni::{self, AddResult, Call, Request, Version, json, valid_attachments};
use crate::nad::{self, Conf, Nad};
use crate::resolve::pod_facts;
use crate::types::{IfName, NetworkName};

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| match std::env::var("TRESTLE_FUZZ").as_deref() {
    Ok("annotation") => |data| annotations(&String::from_utf8_lossy(data)),
    Ok("nad") => |data| nads(&String::from_utf8_lossy(data)),
    Ok("cni") => |data| call(&String::from_utf8_lossy(data)),
    Ok("dhcp") => dhcp::turns,
    Ok("guest") => dhcp::question,
    other => panic!("TRESTLE_FUZZ names no target: {other:?}"),
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));

/// Both annotations that ask for networks.
fn annotations(text: &str) {
    let several = annotation::selections(text, "default").unwrap_or_default();
    let single = annotation::default_network(text, "kube-system");
    for one in several.iter().chain(&single) {
        assert!(is_safe(&one.name) && is_safe(&one.namespace), "{one:?}");
        assert!(one.interface.as_ref().is_none_or(|i| i.parse::<IfName>().is_ok()), "{one:?}");
        let arguments = one.ips.iter().flatten().chain(&one.mac).chain(&one.infiniband_guid);
        assert!(arguments.into_iter().all(|a| !a.contains([';', '='])), "{one:?} would break CNI_ARGS");
    }
    if several.iter().any(|s| s.cni_args.as_ref().is_some_and(|a| a.values().any(has_float))) {
        return;
    }
    let printed = serde_json::to_string(&several).expect("a selection has a form in JSON");
    assert_eq!(annotation::selections(&printed, "other"), Ok(several.clone()));
    assert_eq!(serde_json::from_str::<Vec<Selection>>(&printed).expect("a record is read again"), several);
}

fn is_safe(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0'])
}

/// A configuration, and the same text as an object of the API server.
fn nads(text: &str) {
    if let Ok(conf) = nad::parse(text, Some("nad")) {
        configuration(&conf);
    }
    let Ok(v) = json::parse(text.as_bytes()) else { return };
    if let Ok(nad) = Nad::from_object(&v) {
        assert!(is_safe(&nad.name) && is_safe(&nad.namespace), "{nad:?}");
        let copy = serde_json::to_string(&nad).expect("an object has a form in JSON");
        assert_eq!(serde_json::from_str::<Nad>(&copy).expect("a copy is read again"), nad);
        if let Ok(conf) = nad.conf() {
            configuration(&conf);
        }
    }
}

fn configuration(conf: &Conf) {
    assert!(conf.name().parse::<NetworkName>().is_ok() && !conf.plugins().is_empty());
    for plugin in conf.plugins() {
        assert!(json::get(plugin, "type").is_some_and(|t| t.as_str().is_some_and(|t| !t.is_empty())));
    }
    let written = conf.to_json();
    if !has_float(&written) {
        assert_eq!(nad::parse(&written.to_string(), None).as_ref(), Ok(conf));
    }
    let device = conf.clone().with_device("0000:03:02.3");
    assert!(device.plugins().iter().all(|p| json::get(p, "deviceID") == Some(&"0000:03:02.3".into())));
    let asked: Map<String, Value> = conf.plugins()[0].clone();
    if let Ok(with) = conf.clone().with_cni_args(&asked) {
        assert!(with.plugins().iter().all(|p| asked.iter().all(|(k, v)| p["args"]["cni"].get(k) == Some(v))));
    }
}

/// serde_json reads the last digit of some fractions another way than it writes it.
fn has_float(v: &Value) -> bool {
    match v {
        Value::Number(n) => n.is_f64(),
        Value::Array(list) => list.iter().any(has_float),
        Value::Object(o) => o.values().any(has_float),
        _ => false,
    }
}

/// A call: lines `NAME=value`, an empty line, standard input.
fn call(text: &str) {
    let (head, stdin) = text.split_once("\n\n").unwrap_or((text, ""));
    let env: HashMap<&str, &str> = head.lines().filter_map(|l| l.split_once('=')).collect();
    let lookup = |name: &str| env.get(name).map(OsString::from);
    let Ok(Request::Call(call)) = cni::read(&lookup, &mut stdin.as_bytes()) else { return };
    request(&call);
}

fn request(call: &Call) {
    let _ = (valid_attachments(&call.conf), pod_facts(call), call.args.strict(&["IP", "MAC"]));
    assert!(call.args.pairs().all(|(k, v)| !k.contains(';') && !v.contains(';')));
    let Ok(Some(result)) = call.prev_result() else { return };
    for version in Version::ALL {
        let Ok(written) = result.to_json(version) else { continue };
        let again = AddResult::from_json(written.clone()).expect("a result that was written is read");
        assert_eq!(again.to_json(version).as_ref(), Ok(&written), "{version}");
    }
    let entries = annotation::entries(&result, "default/lan", true, call.conf.get("device"));
    assert!(entries.iter().filter(|e| e.default).count() <= 1);
    let text = annotation::status_text(&entries);
    let read = json::parse(text.as_bytes()).and_then(json::from_value::<Vec<StatusEntry>>);
    assert_eq!(read, Ok(entries), "{text}");
}
