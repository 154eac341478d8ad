//! Shell scripts in the place of plugins: what each gets, and what is made of what it says.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

use serde_json::json;

use super::*;

struct Bin {
    tmp: tempfile::TempDir,
    path: Vec<PathBuf>,
}

impl Bin {
    /// A directory with one plugin `p`.
    fn with(script: &str) -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let path = vec!["/nonexistent/bin".into(), tmp.path().to_path_buf()];
        let bin = Self { tmp, path };
        fs::write(bin.file("p"), format!("#!/bin/sh\ncd {}\n{script}\n", bin.tmp.path().display())).unwrap();
        fs::set_permissions(bin.file("p"), fs::Permissions::from_mode(0o755)).unwrap();
        bin
    }

    fn file(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    fn call<T>(&self, conf: Value, f: impl FnOnce(&Delegate<'_>) -> T) -> T {
        let netns = Some(Path::new("/run/netns/x"));
        let (plugin, path, conf) = ("p", &self.path[..], conf.as_object().unwrap());
        let (container, ifname, args) = ("c1", "net1", "IgnoreUnknown=1;A=b");
        f(&Delegate { plugin, path, verb: Verb::Add, container, ifname, netns, args, conf })
    }

    fn add(&self) -> Outcome<Answer> {
        self.call(json!({"cniVersion": "1.0.0", "name": "n"}), |d| d.add())
    }
}

#[test]
fn what_a_plugin_gets() {
    let bin = Bin::with("cat >in; env >env; echo '{}'");
    bin.call(json!({"name": "n", "z": 9007199254740993u64, "a": [1.5, null]}), |d| d.run()).unwrap();
    assert_eq!(bin.text("in"), r#"{"name":"n","z":9007199254740993,"a":[1.5,null]}"#);
    let env = bin.text("env");
    let path = format!("CNI_PATH=/nonexistent/bin:{}", bin.tmp.path().display());
    for line in [
        "CNI_COMMAND=ADD",
        "CNI_CONTAINERID=c1",
        "CNI_NETNS=/run/netns/x",
        "CNI_IFNAME=net1",
        "CNI_ARGS=IgnoreUnknown=1;A=b",
        &path,
        "TRESTLE_LOCK_HELD=c1",
    ] {
        assert!(env.lines().any(|l| l == line), "{line} is not in\n{env}");
    }
    assert!(env.lines().any(|l| l.starts_with("PATH=")), "the rest is inherited\n{env}");
    let conf = Map::new();
    let (plugin, path, verb) = ("p", &bin.path[..], Verb::Status);
    Delegate { plugin, path, verb, container: "", ifname: "", netns: None, args: "", conf: &conf }.run().unwrap();
    let env = bin.text("env");
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"] {
        assert!(env.lines().any(|l| l == format!("{name}=")), "{name} is set, to nothing\n{env}");
    }
    assert!(!env.contains(LOCK_HELD));
}

#[test]
fn results() {
    let answer = |printed: &str, conf: Value| Bin::with(&format!("echo '{printed}'")).call(conf, |d| d.add());
    let version = |printed: &str, conf: Value| answer(printed, conf).map(|a| a.version);
    assert_eq!(version(r#"{"cniVersion": "0.4.0"}"#, json!({"cniVersion": "1.0.0"})), Ok(Version::V0_4_0));
    assert_eq!(version("{}", json!({"CNIVersion": "1.0.0"})), Ok(Version::V1_0_0));
    assert_eq!(version("null", json!({"cniVersion": ""})), Ok(Version::V0_1_0));
    assert_eq!(version(r#"{"cniVersion": "1.0.0"}"#, json!({"cniVersion": "9.9.9"})), Ok(Version::V1_0_0));
    let ips = answer(r#"{"ip4": {"ip": "10.0.0.5/24"}}"#, json!({"cniVersion": "0.2.0"})).unwrap().result.ips;
    assert_eq!(ips[0].address.to_string(), "10.0.0.5/24");
    for (printed, said) in [
        ("", "result of plugin p: "),
        ("hello", "\"hello\""),
        ("[]", "result of plugin p: "),
        (r#"{"ips": [{"address": "x"}]}"#, "result of plugin p: ips[0].address"),
        (r#"{"cniVersion": "2.0.0"}"#, "result of plugin p: result: cniVersion \"2.0.0\" is not supported"),
    ] {
        let failure = answer(printed, json!({"cniVersion": "1.0.0"})).unwrap_err();
        assert!(failure.msg.contains(said), "{printed}: {failure}");
    }
    let neither = version("{}", json!({"cniVersion": "9.9.9"})).unwrap_err();
    assert_eq!((neither.code, neither.msg.as_str()), (Code::Version, "result of plugin p: result: no cniVersion"));
    let silent = Bin::with("echo no result; echo to the log >&2");
    silent.call(json!({}), |d| d.run()).expect("what a DEL prints is not looked at");
}

#[test]
fn failures() {
    let failure = |script: &str| Bin::with(&format!("cat >/dev/null\n{script}")).add().unwrap_err();
    let own = failure(r#"echo '{"code": 11, "msg": "later", "details": "pool empty"}'; echo x >&2; exit 3"#);
    assert_eq!((own.code, own.foreign), (Code::PluginFailed, Some(11)));
    assert_eq!(own.to_string(), "TR0508: plugin p: later (pool empty)");
    for (script, msg) in [
        ("exit 2", "plugin p: exit status: 2, without a word"),
        ("echo oops; echo why >&2; exit 1", "plugin p: exit status: 1: \"oops\""),
        ("echo why >&2; exit 1", "plugin p: exit status: 1: \"why\""),
        ("echo '{\"ips\": []}'; exit 1", "plugin p: exit status: 1: \"{\\\"ips\\\": []}\""),
        ("printf 'a\\377b'; kill -9 $$", "plugin p: signal: 9 (SIGKILL): \"a\u{fffd}b\""),
    ] {
        let failure = failure(script);
        assert_eq!((failure.code, failure.foreign, failure.msg.as_str()), (Code::PluginFailed, None, msg));
    }
    let long = failure("head -c 5000 /dev/zero | tr '\\0' x; exit 1").msg;
    assert!(long.ends_with("xxx\"...") && long.len() < 400, "{long}");
    let (missing, none) = (find("q", &["/a".into(), "/b".into()]), find("", &[]));
    let missing = missing.unwrap_err();
    assert_eq!((missing.code, missing.msg.as_str()), (Code::PluginMissing, "plugin q is not in CNI_PATH (/a, /b)"));
    assert_eq!(none.unwrap_err().msg, "type: \"\" is not the name of a plugin");
    let bin = Bin::with("");
    for evil in ["../p", "a/p", "/bin/sh", ".", ".."] {
        assert_eq!(find(evil, &bin.path).unwrap_err().code, Code::Config, "{evil}");
    }
    fs::set_permissions(bin.file("p"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(find("p", &bin.path).unwrap_err().code, Code::PluginMissing, "not to be run");
}

#[test]
fn a_plugin_that_cannot_be_started() {
    let bin = Bin::with("");
    fs::write(bin.file("p"), "#!/nonexistent/interpreter\n").unwrap();
    let failure = bin.add().unwrap_err();
    assert!(failure.code == Code::PluginFailed && failure.msg.contains("p cannot be run: "), "{failure}");
}

/// Neither waits for the other, though no pipe holds what both have to say.
#[test]
fn much_to_read_and_much_to_say() {
    let bin = Bin::with(
        "head -c 70000 /dev/zero | tr '\\0' ' ' >&2; head -c 300000 /dev/zero | tr '\\0' ' '; cat >in; echo '{}'",
    );
    let text = "x".repeat(300_000);
    bin.call(json!({"cniVersion": "1.0.0", "text": text}), |d| d.add()).unwrap();
    assert!(bin.text("in").contains(&text));
    let deaf = Bin::with("exec <&-; echo '{}'");
    deaf.call(json!({"cniVersion": "1.0.0", "text": text}), |d| d.add()).expect("it need not read");
}

#[test]
fn slow_ones_are_waited_for() {
    let begin = Instant::now();
    Bin::with("sleep 0.4; echo '{}'").add().unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(400));
}

/// As `cp` does it, which writes into the file that is there.
#[test]
fn one_that_is_being_replaced_is_waited_for() {
    let bin = Bin::with("echo '{}'");
    let replace = OpenOptions::new().write(true).mode(0o755).open(bin.file("p")).unwrap();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(700));
            drop::<File>(replace);
        });
        bin.add().unwrap();
    });
    assert!(begin.elapsed() >= Duration::from_millis(700));
    let forever = OpenOptions::new().write(true).open(bin.file("p")).unwrap();
    let begin = Instant::now();
    let failure = bin.add().unwrap_err();
    assert!(failure.msg.contains("Text file busy"), "{failure}");
    assert!((4..8).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
    drop(forever);
}
