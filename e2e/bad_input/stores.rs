//! Files that are not what they should be: the address store, the journal, the state directory.

use super::plain_wire;
use crate::harness::{Lab, Netns, Snapshot, store_files};

/// A file where the store's directory should be, and the like. Where the store cannot even be looked at, the entry may
/// stay in the journal until somebody has mended it; no link stays.
#[test]
fn address_store() {
    let file = |lab: &Lab| std::fs::write(lab.store(), "").unwrap();
    let network_is_a_file = |lab: &Lab| {
        std::fs::create_dir_all(lab.store()).unwrap();
        std::fs::write(format!("{}/lan", lab.store()), "").unwrap();
    };
    let lock_is_a_directory = |lab: &Lab| std::fs::create_dir_all(format!("{}/lan/lock", lab.store())).unwrap();
    let last_is_a_directory =
        |lab: &Lab| std::fs::create_dir_all(format!("{}/lan/last_reserved_ip.0/x", lab.store())).unwrap();
    for damage in [file as fn(&Lab), network_is_a_file, lock_is_a_directory, last_is_a_directory] {
        let (lab, _lan) = Lab::with_lan();
        let pod = lab.pod();
        damage(&lab);
        mended(&lab, &pod, &lab.store());
    }
}

/// ADD fails and names the path; when the path is gone, DEL and another life work.
#[track_caller]
fn mended(lab: &Lab, pod: &Netns, path: &str) {
    let links = lab.node.names();
    let mut call = plain_wire(lab, pod);
    let error = call.fails("ADD");
    assert_eq!(error.code, 5, "{error:?}");
    error.names(&[path]);
    assert_eq!((pod.names(), lab.node.names()), (vec!["lo".to_owned()], links));
    if std::fs::metadata(path).unwrap().is_dir() {
        std::fs::remove_dir_all(path).unwrap();
    } else {
        std::fs::remove_file(path).unwrap();
    }
    call.del();
    assert!(lab.journal().is_empty(), "{:?}", lab.journal());
    call.add();
    call.del();
}

/// Entries that mean nothing take their address, and hinder nobody.
#[test]
fn odd_entries() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let dir = format!("{}/lan", lab.store());
    std::fs::create_dir_all(format!("{dir}/10.1.2.3")).unwrap();
    std::fs::write(format!("{dir}/10.1.2.2"), [0xff, 0xfe, 0]).unwrap();
    std::fs::write(format!("{dir}/last_reserved_ip.0"), [0xff; 5000]).unwrap();
    std::fs::write(format!("{dir}/notes.txt"), "do not delete").unwrap();
    std::os::unix::fs::symlink("/no/such/file", format!("{dir}/10.1.2.4")).unwrap();
    let mut call = plain_wire(&lab, &pod);
    call.add();
    assert_eq!(pod.addresses("net1"), ["10.1.2.5/24"]);
    call.check();
    call.del();
    assert!(!store_files(&lab.store()).contains_key("lan/10.1.2.5"));
    assert!(std::fs::exists(format!("{dir}/notes.txt")).unwrap());
}

/// The container's own entry is torn or of a later version: CHECK and ADD say which file it is; the pod is not lost.
#[test]
fn journal_entry() {
    for text in
        ["", "{", "null", "[]", "{}", r#"{"version": 99}"#, r#"{"version": "1"}"#, r#"{"version": 1, "record": 7}"#]
    {
        let (lab, _lan) = Lab::with_lan();
        let pod = lab.pod();
        let mut call = plain_wire(&lab, &pod);
        call.add();
        let file = lab.journal()[0].clone();
        std::fs::write(&file, text).unwrap();
        let name = file.to_str().unwrap();
        for verb in ["CHECK", "ADD"] {
            let error = call.fails(verb);
            assert_eq!(error.code, 5, "{verb} {text:?}: {error:?}");
            error.names(&["TR0602", name]);
        }
        let reply = call.run("DEL");
        assert!(!reply.stderr.contains("panicked"), "{reply:?}");
        if !reply.status.success() {
            reply.error().is(5, "TR0602", &[name]);
        }
    }
}

/// A torn entry of one container is no matter of another.
#[test]
fn journal_entry_of_another() {
    let (lab, _lan) = Lab::with_lan();
    let (torn, pod) = (lab.pod(), lab.pod());
    plain_wire(&lab, &torn).add();
    std::fs::write(&lab.journal()[0], "{").unwrap();
    let mut call = plain_wire(&lab, &pod);
    call.add();
    call.check();
    call.del();
}

/// Strange things in the run directory: files where directories should be.
#[test]
fn run_directory() {
    let is_a_file = |lab: &Lab| std::fs::write(lab.run_dir(), "").unwrap();
    let journal_is_a_file = |lab: &Lab| {
        std::fs::create_dir_all(lab.run_dir()).unwrap();
        std::fs::write(lab.run_dir().join("journal"), "").unwrap();
    };
    let locks_is_a_file = |lab: &Lab| {
        std::fs::create_dir_all(lab.run_dir()).unwrap();
        std::fs::write(lab.run_dir().join("locks"), "").unwrap();
    };
    for damage in [is_a_file as fn(&Lab), journal_is_a_file, locks_is_a_file] {
        let (lab, _lan) = Lab::with_lan();
        let pod = lab.pod();
        damage(&lab);
        let before = Snapshot::of(&lab, &[&pod]);
        let error = plain_wire(&lab, &pod).fails("ADD");
        assert!([5, 11].contains(&error.code), "{error:?}");
        error.names(&[lab.run_dir().to_str().unwrap()]);
        before.same(&Snapshot::of(&lab, &[&pod]), "after the failure");
    }
}

/// The state directory is a file: neither node.json nor our list of addresses can be read or kept.
#[test]
fn state_directory() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    std::fs::write(lab.state_dir(), "").unwrap();
    mended(&lab, &pod, lab.state_dir().to_str().unwrap());
}
