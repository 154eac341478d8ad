//! What a call prints, and with which number it fails: of the specification, of the drop-ins, of what another plugin said.

use serde_json::json;

use super::*;

#[test]
fn the_number_of_a_failure() {
    let trestle = Some(Program::One(Kind::Attachment(Type::Trestle)));
    let drop_ins = [Kind::Attachment(Type::Bridge), Kind::Attachment(Type::Macvlan), Kind::HostLocal, Kind::Static]
        .map(Program::One);
    for code in Code::ALL {
        let failure = Failure::new(*code, "x");
        assert_eq!([trestle, Some(Program::Meta), None].map(|p| number(p, &failure)), [code.cni(); 3]);
        let foreign = Failure { foreign: Some(42), ..failure.clone() };
        for kind in drop_ins {
            let own = if *code == Code::OwnNamespace { 8 } else { 999 };
            assert_eq!((number(Some(kind), &failure), number(Some(kind), &foreign)), (own, 42), "{code} {kind:?}");
        }
        assert_eq!(number(trestle, &foreign), 42, "what another plugin said passes");
    }
}

#[test]
fn one_document_on_standard_output_and_no_other_word() {
    let missing = Run::new("trestle", "ADD").on(&with(conf("trestle"), json!({"bridge": "br-lan"})));
    assert_eq!(missing.code(), 5);
    assert!(missing.stdout.ends_with("}\n") && missing.stdout.lines().count() == 1, "{missing:?}");
    let said = missing.json();
    assert_eq!(said["cniVersion"], "1.1.0");
    assert!(said["msg"].as_str().unwrap().starts_with("TR0311: network namespace /nonexistent/netns"), "{said}");

    let static_ip = json!({"ipam": {"type": "static", "addresses": [{"address": "10.1.2.3/24"}]}});
    let result = Run::new("static", "ADD").on(&with(conf("bridge"), static_ip.clone()));
    assert!(result.success && result.json()["ips"][0]["address"] == "10.1.2.3/24", "{result:?}");
    for verb in ["DEL", "STATUS", "GC"] {
        let silent = Run::new("static", verb).on(&with(conf("bridge"), static_ip.clone()));
        assert_eq!(silent, Seen { success: true, stdout: String::new() }, "{verb}");
    }
    let versions = Run::new("macvlan", "VERSION").raw("not read");
    assert!(versions.success && versions.json()["supportedVersions"].as_array().unwrap().len() == 7);
    assert_eq!(Run::new("bridge", "").raw(""), Seen { success: true, stdout: String::new() }, "told on standard error");
}

#[test]
fn the_protocols_own_failures_keep_their_numbers_for_all() {
    for program in ["trestle", "bridge", "macvlan", "host-local", "static"] {
        let ty = conf(program);
        let run = |verb: &str| Run::new(program, verb);
        assert_eq!(run("ADD").raw("{").code(), 6, "{program}");
        assert_eq!(run("ADD").on(&with(ty.clone(), json!({"name": "a/b"}))).code(), 7);
        assert_eq!(run("ADD").on(&with(ty.clone(), json!({"cniVersion": "2.0.0"}))).code(), 1);
        assert_eq!(run("CHECK").on(&with(ty.clone(), json!({"cniVersion": "0.3.1"}))).code(), 1);
        assert_eq!(run("add").on(&ty).code(), 4);
        assert_eq!(run("ADD").var("CNI_IFNAME", "").on(&ty).code(), 4);
    }
    let unknown = Run::new("trestle", "ADD").on(&conf("ptp"));
    assert_eq!(unknown.code(), 7);
    let said = unknown.json();
    assert!(
        said["msg"].as_str().unwrap().contains("\"ptp\"") && said["details"].as_str().unwrap().contains("host-local")
    );
    let as_ipam = Run::new("dhcp", "ADD").on(&conf("bridge"));
    assert!(
        as_ipam.code() == 999 && as_ipam.json()["msg"].as_str().unwrap().contains("ipam"),
        "not one more attachment"
    );
}

#[test]
fn numbers_of_trestle_and_of_the_drop_ins() {
    let add = |program, more| Run::new(program, "ADD").on(&with(conf(program), more)).code();
    assert_eq!(add("trestle", json!({"bridge": "br0", "brigde": 1})), 7);
    assert_eq!(add("bridge", json!({"vlan": 5000})), 999);
    assert_eq!(add("macvlan", json!({"mode": "x"})), 999);
    assert_eq!(add("host-local", json!({"ipam": {"type": "host-local"}})), 999);
    assert_eq!(add("static", json!({})), 999);
    let args = Run::new("bridge", "ADD").var("CNI_ARGS", "FOO=1").on(&conf("bridge"));
    assert_eq!(args.code(), 999);
}

#[test]
fn an_output_that_nobody_reads_is_a_failure() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let env = |name: &str| (name == "CNI_COMMAND").then(|| "VERSION".into());
    assert_eq!(run("trestle", &env, &mut std::io::empty(), &mut Closed), FAILURE);
}
