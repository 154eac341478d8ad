//! `trestle lab` as a person runs it: the whole play, twice; as JSON; killed at any moment; and the one that stands.
//!
//! Needs root. The labs of these tests have a directory of their own for the notice of the one that stands, so that a
//! developer's lab is left alone.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const TRESTLE: &str = env!("CARGO_BIN_EXE_trestle");

/// A lab command whose processes can be told from all others by their environment.
struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(TRESTLE);
        command.arg("lab").args(args).env("TRESTLE_RUN_DIR", self.dir.path()).env("LC_ALL", "C.UTF-8");
        command
    }

    fn run(&self, args: &[&str]) -> (i32, String) {
        let Output { status, stdout, stderr } = self.command(args).output().unwrap();
        let text = String::from_utf8(stdout).unwrap() + &String::from_utf8_lossy(&stderr);
        (status.code().unwrap_or(-1), text)
    }

    /// Processes of this lab: each has its directory in its environment, the guest in the argument of its parent.
    fn processes(&self) -> Vec<String> {
        let marker = format!("TRESTLE_RUN_DIR={}", self.dir.path().display());
        let all = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let ours = all.filter(|p| {
            let environ = std::fs::read(p.path().join("environ")).unwrap_or_default();
            environ.split(|b| *b == 0).any(|v| v == marker.as_bytes())
        });
        ours.map(|p| p.file_name().into_string().unwrap()).collect()
    }

    fn wait_for_the_end(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.processes().is_empty() {
            assert!(Instant::now() < deadline, "processes are left: {:?}", self.processes());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A test that fails leaves no lab standing.
impl Drop for Lab {
    fn drop(&mut self) {
        if self.dir.path().join("trestle-lab.json").exists() {
            let _ = self.command(&["down"]).stdout(Stdio::null()).status();
        }
    }
}

/// Some of the fail points at which a lab can be killed while it builds; only a debug build has them.
fn places() -> Vec<String> {
    let lab = Lab::new();
    let log = lab.dir.path().join("places");
    let status = lab.command(&[]).env("TRESTLE_FAIL_LOG", &log).stdout(Stdio::null()).status().unwrap();
    assert!(status.success());
    let passed = std::fs::read_to_string(log).unwrap_or_default().lines().count();
    assert_eq!(passed > 10, cfg!(debug_assertions), "{passed} places");
    (1..=passed).step_by(3).map(|n| n.to_string()).collect()
}

/// What a lab could leave on the machine. `/tmp` and others' mounts change for other reasons.
fn traces() -> BTreeSet<String> {
    let listed = |dir: &'static str| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
        entries.map(move |e| format!("{dir}/{}", e.file_name().to_string_lossy()))
    };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mounts.lines().filter(|l| l.contains("trestle-lab")).map(str::to_owned).collect::<Vec<_>>();
    listed("/run")
        .chain(listed("/sys/class/net"))
        .filter(|n| n.contains("trestle-lab") || n.contains("/net/tr"))
        .chain(mounts)
        .collect()
}

#[test]
fn the_whole_play_twice() {
    let before = traces();
    let lab = Lab::new();
    for _ in 0..2 {
        let start = Instant::now();
        let (code, text) = lab.run(&[]);
        assert_eq!(code, 0, "{text}");
        assert!(start.elapsed() < Duration::from_secs(120));
        assert!(text.contains("All 8 pings came through, and the refusal came."), "{text}");
        assert!(text.contains("TR0201"), "{text}");
        assert!(!text.contains('\x1b'), "colour although this is no terminal");
        assert!(text.contains("192.0.2.77") && text.contains("tap094a367b026"), "{text}");
    }
    lab.wait_for_the_end();
    assert_eq!(traces(), before);
    assert_eq!(std::fs::read_dir(lab.dir.path()).unwrap().count(), 0);
}

/// `script` gives the program a terminal for all three streams.
#[test]
fn on_a_terminal_there_is_colour_unless_it_is_unwanted() {
    let lab = Lab::new();
    let on_a_terminal = |no_color: &str| {
        let mut command = Command::new("script");
        command.args(["-qec", &format!("{TRESTLE} -v lab"), "/dev/null"]).stdin(Stdio::null());
        command.env("TRESTLE_RUN_DIR", lab.dir.path()).env("TERM", "xterm").env("NO_COLOR", no_color);
        let Output { status, stdout, .. } = command.output().unwrap();
        let text = String::from_utf8(stdout).unwrap();
        assert!(status.success(), "{text}");
        text
    };
    assert!(on_a_terminal("").contains("\x1b[32mok"));
    assert!(!on_a_terminal("1").contains('\x1b'));
}

#[test]
fn json_tells_the_same() {
    let (code, text) = Lab::new().run(&["-o", "json"]);
    assert_eq!(code, 0, "{text}");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["verdict"], "ok");
    assert_eq!(json["leftOut"], serde_json::json!([]));
    let steps = json["steps"].as_array().unwrap();
    let of = |kind: &str| steps.iter().filter(|s| s["kind"] == kind && s["ok"] == true).count();
    assert_eq!((of("add"), of("ping"), of("refusal"), of("check"), of("del")), (4, 8, 1, 4, 6));
    let guest = &json["picture"]["onBridge"][1];
    assert_eq!(guest["tap"]["guest"]["mac"], guest["link"]["mac"]);
    assert_eq!(guest["tap"]["owner"], "uid 107");
    assert_eq!(json["picture"]["onMaster"].as_array().unwrap().len(), 1);
}

#[test]
fn a_killed_run_leaves_nothing() {
    let before = traces();
    for n in 0..24 {
        let lab = Lab::new();
        let mut child = lab.command(&[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(n * 11));
        child.kill().unwrap();
        child.wait().unwrap();
        lab.wait_for_the_end();
        assert_eq!(traces(), before);
        assert_eq!(std::fs::read_dir(lab.dir.path()).unwrap().count(), 0);
    }
    for place in places() {
        let lab = Lab::new();
        let status = lab.command(&[]).env("TRESTLE_FAIL_AT", &place).stdout(Stdio::null()).status().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "at place {place}");
        lab.wait_for_the_end();
        assert_eq!(traces(), before);
    }
    assert_eq!(Lab::new().run(&[]).0, 0, "the next run is not disturbed");
}

#[test]
fn one_that_stands_can_be_looked_at_and_taken_down() {
    let before = traces();
    let lab = Lab::new();
    let (code, text) = lab.run(&["shell"]);
    assert!(code == 1 && text.contains("no lab is up"), "{text}");
    let (code, text) = lab.run(&["up"]);
    assert!(code == 0 && text.contains("trestle lab down"), "{code} {text}");
    let (code, text) = lab.run(&["up"]);
    assert!(code == 1 && text.contains("a lab is up already"), "{text}");
    // A play beside it does not mind.
    assert_eq!(lab.run(&[]).0, 0);
    assert!(lab.processes().len() >= 2, "keeper and guest");
    let (code, text) = lab.run(&["shell", "vm", "--", "cat", "/proc/self/net/dev"]);
    assert!(code == 0 && text.contains("tap094a367b026"), "{text}");
    let (code, text) = lab.run(&["shell", "node", "--", "sh", "-c", "cat /proc/self/net/dev; exit 7"]);
    assert!(code == 7 && text.contains("br-lan") && text.contains("eno1"), "{code} {text}");
    let (code, text) = lab.run(&["down"]);
    assert!(code == 0 && text.contains("Taken down, and nothing is left."), "{text}");
    lab.wait_for_the_end();
    assert_eq!(traces(), before);
    assert_eq!(std::fs::read_dir(lab.dir.path()).unwrap().count(), 0);
    let (code, text) = lab.run(&["down"]);
    assert!(code == 0 && text.contains("No lab is up."), "{text}");
}

#[test]
fn a_killed_keeper_takes_its_lab_along() {
    let before = traces();
    let lab = Lab::new();
    assert_eq!(lab.run(&["up"]).0, 0);
    assert!(lab.processes().len() >= 2, "keeper and guest");
    let notice = lab.dir.path().join("trestle-lab.json");
    let standing: serde_json::Value = serde_json::from_slice(&std::fs::read(&notice).unwrap()).unwrap();
    let pid = standing["pid"].to_string();
    assert!(Path::new("/proc").join(&pid).exists());
    assert!(Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    lab.wait_for_the_end();
    assert_eq!(traces(), before);
    let (code, text) = lab.run(&["down"]);
    assert!(code == 0 && text.contains("No lab is up."), "{text}");
    assert!(!notice.exists());
    // Also one that was killed while it built.
    for place in places() {
        let Output { status, stderr, .. } = lab.command(&["up"]).env("TRESTLE_FAIL_AT", &place).output().unwrap();
        assert_eq!(status.code(), Some(1), "{}", String::from_utf8_lossy(&stderr));
        lab.wait_for_the_end();
        assert!(!notice.exists());
    }
    // And one whose `up` was killed: it ends too, or it stands already, and `down` knows of it.
    for n in 0..8 {
        let mut up = lab.command(&["up"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(n * 40));
        up.kill().unwrap();
        up.wait().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !lab.processes().is_empty() && lab.run(&["down"]).0 != 0 {
            assert!(Instant::now() < deadline, "neither up nor gone");
            std::thread::sleep(Duration::from_millis(10));
        }
        lab.wait_for_the_end();
    }
    assert_eq!(lab.run(&["up"]).0, 0);
    assert_eq!(lab.run(&["down"]).0, 0);
    assert!(!notice.exists());
}

/// Where there is no tap, the rest is shown, and the exit code says that it is not all.
#[test]
fn what_cannot_be_shown_is_told() {
    let lab = Lab::new();
    let script = r#"mount --make-rprivate / && mount -t tmpfs none /dev/net && exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh", TRESTLE, "lab"]).env("TRESTLE_RUN_DIR", lab.dir.path());
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = String::from_utf8(stdout).unwrap() + &String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(3), "{text}");
    assert!(text.contains("left out: the VM's bind step") && text.contains("modprobe tun"), "{text}");
    assert!(text.contains("4 of 4 pings came through") && text.contains("TR0201"), "{text}");
    lab.wait_for_the_end();
}

/// How much an ordinary user sees depends on the machine (`/dev/net/tun`, `/etc/subuid`), but it is told either way.
#[test]
fn an_ordinary_user_sees_what_the_kernel_allows() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    // Where the build lies, the user may not look.
    let program = lab.dir.path().join("trestle");
    std::fs::copy(TRESTLE, &program).unwrap();
    std::fs::set_permissions(lab.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program).arg("lab").current_dir("/");
    let Output { status, stdout, stderr } = command.env("TRESTLE_RUN_DIR", lab.dir.path()).output().unwrap();
    let text = String::from_utf8(stdout).unwrap() + &String::from_utf8_lossy(&stderr);
    match status.code() {
        Some(0) => assert!(text.contains("All 8 pings came through"), "{text}"),
        Some(3) => assert!(text.contains("4 of 4 pings") && text.contains("left out: "), "{text}"),
        other => panic!("{other:?}: {text}"),
    }
    assert!(text.contains("TR0201"), "{text}");
    lab.wait_for_the_end();
}

#[test]
#[ignore = "needs QEMU, busybox-static and a kernel in / or in TRESTLE_LAB_CACHE"]
fn a_real_linux_guest() {
    let (code, text) = Lab::new().run(&["--guest", "qemu"]);
    assert!(code == 0 && text.contains("Linux under QEMU"), "{text}");
}
