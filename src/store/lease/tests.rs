use serde_json::json;

use super::super::full::{fill, on_tmpfs};
use super::*;

struct Place {
    dirs: Dirs,
    _tmp: tempfile::TempDir,
}

fn place() -> Place {
    let tmp = tempfile::tempdir().unwrap();
    let dirs = Dirs::new(tmp.path().join("run"), tmp.path().join("state")).with_boot("b1").with_clock(5_000_000_000);
    Place { dirs, _tmp: tmp }
}

fn record(dirs: &Dirs, container: &str, job: Value) -> LeaseRecord<Value> {
    LeaseRecord::new(dirs, container.parse().unwrap(), "net1".parse().unwrap(), "lan", job).unwrap()
}

#[test]
fn what_is_written_is_read_and_removed() {
    let p = place();
    let leases = Leases::new(&p.dirs);
    assert!(leases.all::<Value>().unwrap().is_empty() && leases.list().unwrap().is_empty());
    let lease = record(&p.dirs, "c1", json!({"address": "192.0.2.7"}));
    assert_eq!((lease.made, lease.got_at, &*lease.boot), (5000, 5000, "b1"));
    leases.write(&lease).unwrap();
    assert_eq!(leases.read(&lease.container, &lease.ifname).unwrap().as_ref(), Some(&lease));
    let [(name, _)] = &leases.list().unwrap()[..] else { panic!("one file") };
    assert_eq!(name, "c1~net1.json");
    assert_eq!(leases.read_named(name).unwrap(), Some(lease.clone()));
    leases.remove(&lease.container, &lease.ifname).unwrap();
    leases.remove(&lease.container, &lease.ifname).unwrap();
    assert_eq!(leases.read::<Value>(&lease.container, &lease.ifname).unwrap(), None);
    assert_eq!(names(&leases.folder()).unwrap(), Vec::<String>::new(), "no temporary name is left");
}

#[test]
fn a_renewal_never_brings_back_what_was_removed() {
    let p = place();
    let leases = Leases::new(&p.dirs);
    let mut lease = record(&p.dirs, "c1", json!(1));
    assert!(!leases.replace(&lease).unwrap(), "it was never there");
    leases.write(&lease).unwrap();
    let before = leases.list().unwrap();
    lease.job = json!(2);
    lease.got_at += 10;
    assert!(leases.replace(&lease).unwrap());
    assert_eq!(leases.read(&lease.container, &lease.ifname).unwrap().as_ref(), Some(&lease));
    assert_ne!(leases.list().unwrap(), before, "a version of its own");
    let later = LeaseRecord { made: 6000, ..record(&p.dirs, "c1", json!("of a later ADD")) };
    leases.write(&later).unwrap();
    assert!(!leases.replace(&lease).unwrap());
    assert_eq!(leases.read(&lease.container, &lease.ifname).unwrap(), Some(later.clone()));
    leases.remove(&later.container, &later.ifname).unwrap();
    assert!(!leases.replace(&later).unwrap());
    assert_eq!(names(&leases.folder()).unwrap(), Vec::<String>::new());
}

#[test]
fn torn_files_are_named_and_hide_nothing() {
    let p = place();
    let leases = Leases::new(&p.dirs);
    let lease = record(&p.dirs, "c1", json!({"address": "192.0.2.7"}));
    leases.write(&lease).unwrap();
    let whole = fs::read(leases.folder().join("c1~net1.json")).unwrap();
    for (i, cut) in [0, 1, whole.len() / 2, whole.len() - 2].into_iter().enumerate() {
        fs::write(leases.folder().join(format!("t{i}~net1.json")), &whole[..cut]).unwrap();
    }
    let other = String::from_utf8(whole.clone()).unwrap().replace("192.0.2.7", "192.0.2.8");
    fs::write(leases.folder().join("flipped~net1.json"), other).unwrap();
    let newer = String::from_utf8(whole).unwrap().replace(r#""version":1"#, r#""version":2"#);
    fs::write(leases.folder().join("newer~net1.json"), newer).unwrap();
    fs::write(leases.folder().join("c9~net1.json.77.new"), "left by a killed writer").unwrap();
    let all = leases.all::<Value>().unwrap();
    let (good, bad): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    assert_eq!(good, [Ok(lease)]);
    let bad: Vec<Failure> = bad.into_iter().filter_map(Result::err).collect();
    assert!(bad.len() == 6 && bad.iter().all(|f| f.code == Code::JournalBroken), "{bad:?}");
    assert!(bad.iter().any(|f| f.msg.contains("flipped~net1.json") && f.msg.contains("checksum")), "{bad:?}");
    assert!(bad.iter().any(|f| f.msg.contains("newer~net1.json has version 2")), "{bad:?}");
}

#[test]
fn a_torn_one_is_mended_by_a_keeper_that_knows_better() {
    let p = place();
    let leases = Leases::new(&p.dirs);
    let lease = record(&p.dirs, "c1", json!(1));
    leases.write(&lease).unwrap();
    fs::write(leases.folder().join("c1~net1.json"), "{").unwrap();
    assert!(leases.replace(&lease).unwrap());
    assert_eq!(leases.read(&lease.container, &lease.ifname).unwrap(), Some(lease));
}

#[test]
fn a_full_disk_leaves_the_record_before() {
    on_tmpfs("size=64k", |at| {
        let dirs = Dirs::new("/nonexistent", at).with_boot("b1");
        let leases = Leases::new(&dirs);
        let lease = record(&dirs, "old", json!(1));
        leases.write(&lease).unwrap();
        fill(at);
        let renewed = LeaseRecord { got_at: 9, job: json!("x".repeat(5000)), ..lease.clone() };
        assert_eq!(leases.replace(&renewed).unwrap_err().code, Code::JournalUnwritable);
        assert_eq!(leases.write(&record(&dirs, "new", json!(2))).unwrap_err().code, Code::JournalUnwritable);
        assert_eq!(leases.all::<Value>().unwrap(), [Ok(lease.clone())]);
        leases.remove(&lease.container, &lease.ifname).unwrap();
        assert_eq!(names(&leases.folder()).unwrap(), Vec::<String>::new());
    });
}

#[test]
fn where_one_is_torn_the_copy_serves_and_alone_it_is_nothing() {
    let p = place();
    let leases = Leases::new(&p.dirs);
    let mut lease = record(&p.dirs, "c1", json!(1));
    let (path, copy) = (leases.folder().join("c1~net1.json"), leases.folder().join("c1~net1.json.copy"));
    leases.write(&lease).unwrap();
    lease.got_at += 10;
    assert!(leases.replace(&lease).unwrap());
    for torn in ["", "{", "{}"] {
        fs::write(&path, torn).unwrap();
        assert_eq!(leases.read(&lease.container, &lease.ifname).unwrap().as_ref(), Some(&lease));
        assert_eq!(leases.read_kept("c1~net1.json").unwrap(), Some((lease.clone(), true)));
        assert_eq!(leases.all::<Value>().unwrap().len(), 1);
    }
    fs::write(&copy, "{").unwrap();
    assert_eq!(leases.read::<Value>(&lease.container, &lease.ifname).unwrap_err().code, Code::JournalBroken);
    leases.write(&lease).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(leases.read::<Value>(&lease.container, &lease.ifname).unwrap(), None);
    assert!(leases.all::<Value>().unwrap().is_empty() && leases.list().unwrap().is_empty());
    fs::File::options().write(true).open(&copy).unwrap().set_modified(SystemTime::now() - 2 * STALE).unwrap();
    leases.sweep().unwrap();
    assert!(!copy.exists());
    leases.write(&lease).unwrap();
    fs::File::options().write(true).open(&copy).unwrap().set_modified(SystemTime::now() - 2 * STALE).unwrap();
    leases.sweep().unwrap();
    assert!(copy.exists(), "of one that is there");
}

#[test]
fn only_old_left_overs_are_swept() {
    let p = place();
    let leases = Leases::new(&p.dirs);
    leases.write(&record(&p.dirs, "c1", json!(1))).unwrap();
    let (young, old) = (leases.folder().join("a.json.1.new"), leases.folder().join("b.json.1.new"));
    fs::write(&young, "").unwrap();
    fs::File::create(&old).unwrap().set_modified(SystemTime::now() - 2 * STALE).unwrap();
    leases.sweep().unwrap();
    assert!(young.exists() && !old.exists());
    assert_eq!(leases.all::<Value>().unwrap().len(), 1);
}
