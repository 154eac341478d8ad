//! Variables that are missing, empty or malformed.

use super::{Table, plain_wire};
use crate::harness::Lab;
use crate::machine::bind;

#[test]
fn missing() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let table = Table::new(&lab, &pod);
    for call in [plain_wire(&lab, &pod), bind(&lab, &pod)] {
        let needed: [(&str, &[&str]); 3] = [
            ("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
            ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]),
            ("CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
        ];
        for (verb, variables) in needed {
            for variable in variables {
                table.refused(&call.clone().without(variable), verb, 4, &[variable]);
                table.refused(&call.clone().env(variable, ""), verb, 4, &[variable]);
            }
        }
        let none = call.without("CNI_CONTAINERID").without("CNI_IFNAME").without("CNI_NETNS");
        table.refused(&none, "ADD", 4, &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"]);
    }
    table.end();
}

#[test]
fn malformed() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let table = Table::new(&lab, &pod);
    let call = plain_wire(&lab, &pod);
    for id in ["../../etc", "a b", "-x", ".", "a/b", "a\nb", "ä"] {
        table.refused(&call.clone().id(id), "ADD", 4, &["CNI_CONTAINERID"]);
    }
    for name in [".", "..", "a/b", "a:b", "a b", "sixteen-letters-", "a\tb"] {
        table.refused(&call.clone().ifname(name), "ADD", 4, &["CNI_IFNAME"]);
    }
    for verb in ["add", "ADDD", "UPDATE", " ADD"] {
        table.refused(&call, verb, 4, &["CNI_COMMAND"]);
    }
    table.end();
}

#[test]
fn arguments() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let table = Table::new(&lab, &pod);
    let call = plain_wire(&lab, &pod);
    for (args, word) in [
        ("FOO", "FOO"),
        ("IgnoreUnknown=1;FOO", "FOO"),
        ("IgnoreUnknown=1;A=b=c", "A=b=c"),
        ("IgnoreUnknown=maybe", "IgnoreUnknown"),
        ("FOO=bar", "FOO"),
    ] {
        table.refused(&call.clone().args(args), "ADD", 4, &["CNI_ARGS", word]);
    }
    table.refused(&call.clone().args("IgnoreUnknown=1;MAC=zz"), "ADD", 7, &["CNI_ARGS", "MAC"]);
    table.refused(&call.clone().args("IgnoreUnknown=1;IP=10.1.2.300"), "ADD", 7, &["10.1.2.300"]);
    table.end();
}

/// Namespaces that are none: a path that is not there, a directory, a device, a file.
#[test]
fn namespaces() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let table = Table::new(&lab, &pod);
    let call = plain_wire(&lab, &pod);
    let file = lab.file("file");
    std::fs::write(&file, "").unwrap();
    for path in ["/no/such/namespace", "/tmp", "/dev/null", "/proc/self/ns/mnt", "relative", &file] {
        table.refused(&call.clone().env("CNI_NETNS", path), "ADD", 5, &[path]);
    }
    table.end();
}

/// DEL is lenient where it can be: what is not there was deleted.
#[test]
fn delete_is_lenient() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let call = plain_wire(&lab, &pod);
    call.clone().env("CNI_NETNS", "/no/such/namespace").del();
    call.clone().without("CNI_NETNS").del();
    call.with("bridge", serde_json::json!("no-such-bridge")).del();
}
