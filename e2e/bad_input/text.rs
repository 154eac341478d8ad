//! Standard input that is no configuration at all, and its members of the protocol.

use serde_json::json;

use super::{Table, changed, plain_wire};
use crate::harness::{Call, Kind, Lab};

#[test]
fn not_json() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let table = Table::new(&lab, &pod);
    let call = plain_wire(&lab, &pod);
    let texts: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b" \n".to_vec(),
        b"{".to_vec(),
        b"{\"cniVersion\": \"1.0.0\", \"name\": \"lan\"".to_vec(),
        b"[]".to_vec(),
        b"7".to_vec(),
        b"\"x\"".to_vec(),
        b"{} {}".to_vec(),
        b"{\"name\": \"a\xff\"".to_vec(),
        b"\0\0\0".to_vec(),
        b"{'name': 'lan'}".to_vec(),
        "[".repeat(100_000).into_bytes(),
        "{\"a\":".repeat(50_000).into_bytes(),
    ];
    for text in texts {
        for verb in ["ADD", "DEL", "CHECK"] {
            table.refused(&call.clone().stdin(text.clone()), verb, 6, &[]);
        }
    }
    table.end();
}

/// Deep nesting in a member that nobody reads, and in one that is read.
#[test]
fn deep_nesting() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let call = plain_wire(&lab, &pod);
    for key in ["deviceID", "ipam", "args"] {
        let text = call.conf().to_string();
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        let text = text.replacen('{', &format!("{{\"{key}\": {deep},"), 1);
        let reply = call.clone().stdin(text).run("ADD");
        // Too deep is not JSON for us; where it is read, it must be an error all the same.
        if !reply.status.success() {
            assert_eq!(reply.error().code, 6, "{key}");
        } else {
            call.del();
        }
    }
}

#[test]
fn members_of_the_protocol() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let table = Table::new(&lab, &pod);
    let call = plain_wire(&lab, &pod);
    let rows = [
        ("name", json!(null), 7, "name"),
        ("name", json!(""), 7, "name"),
        ("name", json!("a/b"), 7, "name"),
        ("name", json!(" lan"), 7, "name"),
        ("name", json!("-lan"), 7, "name"),
        ("name", json!(7), 6, "name"),
        ("name", json!(["lan"]), 6, "name"),
        ("cniVersion", json!(1.0), 6, "cniVersion"),
        ("cniVersion", json!({}), 6, "cniVersion"),
        ("cniVersion", json!("1.0"), 1, "1.0"),
        ("cniVersion", json!("9.9.9"), 1, "9.9.9"),
        ("cniVersion", json!("v1.0.0"), 1, "v1.0.0"),
    ];
    for (path, value, code, word) in rows {
        table.refused(&changed(&call, path, value), "ADD", code, &[word]);
    }
    table.refused(&call.clone().stdin("null"), "ADD", 7, &["name"]);
    table.end();
}

/// Our own name, and a type that nobody knows.
#[test]
fn unknown_type() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let table = Table::new(&lab, &pod);
    let program = Kind::Trestle.dir().join("trestle");
    let base = plain_wire(&lab, &pod);
    for (value, word) in [
        (json!("trestel"), "trestel"),
        (json!("calico"), "calico"),
        (json!(""), "type"),
        (json!(null), "type"),
        (json!(7), "type"),
    ] {
        let call = changed(&base, "type", value.clone());
        let call = if value.is_null() { call.with("type", json!(null)) } else { call };
        table.refused(&Call::by(call, program.clone()), "ADD", 7, &[word]);
    }
    table.end();
}
