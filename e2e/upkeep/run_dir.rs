//! `/run` is full or read-only: ADD fails before it changes anything, DEL works.

use nix::mount::{MsFlags, mount};

use crate::attachment::{nic, plain, vm};
use crate::harness::{Call, Lab, Netns, Snapshot};
use crate::machine::bind;
use serde_json::json;

/// Puts a file system of its own, and a small one, at the run directory.
fn tiny(lab: &Lab, options: &str) {
    std::fs::create_dir_all(lab.run_dir()).unwrap();
    mount(Some("tmpfs"), &lab.run_dir(), Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
}

fn fill(lab: &Lab) {
    let ballast = std::fs::File::create(lab.run_dir().join("ballast")).unwrap();
    let mut writer = std::io::BufWriter::new(ballast);
    while std::io::Write::write_all(&mut writer, &[0; 4096]).is_ok() {}
}

fn fill_names(lab: &Lab) {
    let mut n = 0;
    while std::fs::write(lab.run_dir().join(format!("ballast{n}")), "").is_ok() {
        n += 1;
    }
}

fn read_only(lab: &Lab) {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, &lab.run_dir(), None::<&str>, flags, None::<&str>).unwrap();
}

/// Attaches, brings the trouble about, and looks at the next ADD and at the DEL of what is there.
#[track_caller]
fn in_trouble<'l>(lab: &'l Lab, pods: &[Netns; 2], call: impl Fn(&Netns) -> Call<'l>, trouble: fn(&Lab)) {
    let [pod, other] = pods;
    let empty = Snapshot::of(lab, &[pod, other]);
    let mut attached = call(pod);
    attached.add();
    trouble(lab);
    let before = Snapshot::of(lab, &[pod, other]);
    let refused = call(other);
    refused.fails("ADD").is(11, "TR0601", &[lab.run_dir().to_str().unwrap()]);
    before.same(&Snapshot::of(lab, &[pod, other]), "after the ADD that failed");
    refused.del();
    let del = attached.run("DEL");
    assert!(del.status.success(), "DEL: {} {}", del.stdout, del.stderr);
    attached.del();
    empty.same(&Snapshot::of(lab, &[pod, other]), "after DEL");
}

/// The same in each trouble that leaves files removable.
fn full(call: for<'l> fn(&'l Lab, &Netns) -> Call<'l>) {
    for (options, trouble) in [("size=128k", fill as fn(&Lab)), ("size=1m,nr_inodes=48", fill_names)] {
        let (lab, _lan) = Lab::with_lan();
        let _far = nic(&lab, "nic0");
        let pods = [lab.pod(), lab.pod()];
        tiny(&lab, options);
        in_trouble(&lab, &pods, |pod| call(&lab, pod), trouble);
    }
}

#[test]
fn full_port() {
    full(|lab, pod| plain(lab, pod).with("macspoofchk", json!(true)));
}

#[test]
fn full_fallback() {
    full(|lab, pod| plain(lab, pod).with("bridge", json!(null)).with("master", json!("nic0")));
}

#[test]
fn full_wire() {
    full(vm);
}

/// The first ADD of a node whose `/run` is full already.
#[test]
fn full_from_the_start() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    tiny(&lab, "size=64k");
    fill(&lab);
    let before = Snapshot::of(&lab, &[&pod]);
    for call in [plain(&lab, &pod), vm(&lab, &pod)] {
        call.fails("ADD").is(11, "TR0601", &[]);
        call.del();
        before.same(&Snapshot::of(&lab, &[&pod]), "after ADD and DEL");
    }
}

#[test]
fn full_and_bound() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    tiny(&lab, "size=128k");
    let before = Snapshot::of(&lab, &[&pod]);
    let (mut wire, mut bound) = (vm(&lab, &pod), bind(&lab, &pod));
    wire.add();
    let wired = Snapshot::of(&lab, &[&pod]);
    fill(&lab);
    bound.fails("ADD").is(11, "TR0601", &[]);
    wired.same(&Snapshot::of(&lab, &[&pod]), "after the bind that failed");
    std::fs::remove_file(lab.run_dir().join("ballast")).unwrap();
    bound.add();
    fill(&lab);
    bound.del();
    wire.del();
    before.same(&Snapshot::of(&lab, &[&pod]), "after both DELs");
}

/// Read-only: entries cannot be removed, but all that they stand for is.
#[test]
fn read_only_run() {
    let (lab, _lan) = Lab::with_lan();
    let (pod, other) = (lab.pod(), lab.pod());
    tiny(&lab, "size=1m");
    let links = lab.node.links().len();
    let mut call = plain(&lab, &pod).with("macspoofchk", json!(true));
    call.add();
    read_only(&lab);
    let before = Snapshot::of(&lab, &[&pod, &other]);
    plain(&lab, &other).fails("ADD").is(11, "TR0601", &[]);
    before.same(&Snapshot::of(&lab, &[&pod, &other]), "after the ADD that failed");
    for _ in 0..2 {
        call.del();
        assert_eq!((pod.names(), lab.node.links().len()), (vec!["lo".to_owned()], links));
        assert_eq!(lab.node.filters(), Vec::<String>::new());
        assert!(crate::harness::store_files(&lab.store()).is_empty());
    }
}
