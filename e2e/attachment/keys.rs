//! The keys of a configuration: which are known, and which rows of the table they choose.

use serde_json::json;

use super::{OURS, plain, wire};
use crate::harness::{Call, Lab};

/// Misspelt keys are refused with the key that was probably meant, by the verbs that may refuse.
#[test]
fn unknown() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let cases = [
        ("brigde", "bridge"),
        ("mastr", "master"),
        ("vlanTrnk", "vlanTrunk"),
        ("preserveDefaultVlna", "preserveDefaultVlan"),
        ("macspoofcheck", "macspoofchk"),
        ("hairpin", "hairpinMode"),
        ("acceptRa6", "acceptRA"),
        ("ipma", "ipam"),
        ("mtuu", "mtu"),
        ("portisolaton", "portIsolation"),
    ];
    for (wrong, right) in cases {
        let call = plain(&lab, &pod).with("cniVersion", json!("1.1.0")).with(wrong, json!(true));
        for verb in ["ADD", "CHECK", "STATUS"] {
            call.fails(verb).is(7, "TR0105", &[wrong, right]);
        }
        call.del();
        call.with("cni.dev/valid-attachments", json!([])).run("GC").nothing();
    }
    assert!(pod.find("net1").is_none() && lab.journal().is_empty());
}

/// Keys of other programs, in any case of letters, and of runtimes.
#[test]
fn always_accepted() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let mut call = plain(&lab, &pod)
        .with("capabilities", json!({"mac": true, "ips": true}))
        .with("args", json!({"cni": {}}))
        .with("runtimeConfig", json!({}))
        .with("deviceID", json!("0000:03:00.0"))
        .with("PCIBUSID", json!("0000:03:00.0"))
        .with("cni.dev/attachments", json!([]))
        .with("CNI.dev/something-new", json!(1));
    call.add();
    call.check();
    call.del();
    let text =
        serde_json::to_string(call.conf()).unwrap().replace("\"bridge\"", "\"BRIDGE\"").replace("\"ipam\"", "\"Ipam\"");
    let call = call.stdin(text.replace("\"cniVersion\"", "\"CNIversion\"").replace("\"name\"", "\"NAME\""));
    call.run("ADD").ok();
    assert_eq!(pod.link("net1").kind, "veth");
    call.del();
    assert!(pod.find("net1").is_none());
}

/// Two rows of the table at once.
#[test]
fn two_rows() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    for (key, value) in
        [("clusterNetwork", json!("/etc/cni/net.d/10-x.conflist")), ("delegates", json!([{"type": "bridge"}]))]
    {
        plain(&lab, &pod).with(key, value).fails("ADD").is(7, "TR0106", &[key, "bridge"]);
    }
    assert!(pod.find("net1").is_none());
}

/// Under a drop-in's name the program is that drop-in, whatever `type` says; under its own name `type` decides.
#[test]
fn name_before_type() {
    let lab = Lab::new();
    let pod = lab.pod();
    let mut conf = wire(&lab);
    conf["bridge"] = json!("br0");
    let mut call = Call::new(&lab, OURS.dir().join("bridge"), conf.clone()).pod(&pod);
    call.add();
    assert!(lab.node.find("br0").is_some(), "the drop-in makes its bridge");
    call.del();
    for kind in ["bridge", "cnv-bridge"] {
        let lab = Lab::new();
        let pod = lab.pod();
        let mut conf = wire(&lab);
        conf["bridge"] = json!("br0");
        conf["type"] = json!(kind);
        conf["isGateway"] = json!(true);
        let mut call = Call::new(&lab, OURS.dir().join("trestle"), conf).pod(&pod);
        call.add();
        assert_eq!(lab.node.addresses("br0"), ["10.1.2.1/24"], "{kind}");
        call.check();
        call.del();
        assert!(pod.find("eth0").is_none());
    }
}

/// An argument makes a command line of it: an inherited CNI_COMMAND does not turn a tool into an ADD.
#[test]
fn argument_before_environment() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let program = OURS.dir().join("trestle");
    let line = format!("{} --version", program.display());
    let done = pod.inside(|| {
        std::process::Command::new(&program)
            .arg("--version")
            .env("CNI_COMMAND", "ADD")
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap()
    });
    assert!(done.status.success(), "{line}");
    assert!(String::from_utf8_lossy(&done.stdout).contains(env!("CARGO_PKG_VERSION")), "{done:?}");
}

/// STATUS is about the plugin, not about one network's bridge: kubelet would make the node NotReady.
#[test]
fn status() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let call = plain(&lab, &pod).with("cniVersion", json!("1.1.0"));
    call.run("STATUS").nothing();
    call.with("bridge", json!("br9")).run("STATUS").nothing();
}

/// Every version of the protocol, by the shape of its result.
#[test]
fn versions() {
    let (lab, _lan) = Lab::with_lan();
    for version in crate::harness::VERSIONS {
        let pod = lab.pod();
        let mut call = plain(&lab, &pod).with("cniVersion", json!(version));
        let result = call.add();
        assert_eq!(result["cniVersion"], version);
        let address = if version <= "0.2.0" { &result["ip4"]["ip"] } else { &result["ips"][0]["address"] };
        assert_eq!(address.as_str(), Some(pod.addresses("net1")[0].as_str()), "{result}");
        if version >= "0.4.0" {
            call.check();
        } else {
            call.fails("CHECK").is(1, "TR0101", &[version]);
        }
        call.del();
        assert!(pod.find("net1").is_none());
    }
}
