//! What was given away in an earlier boot, and what was given away by others; garbage collection.

use std::fs;
use std::time::{Duration, SystemTime};

use super::{Lab, V4, V6, add, who};
use crate::ipam::Outlived;
use crate::types::Code;

fn rebooted(lab: Lab) -> Lab {
    Lab { dirs: lab.dirs.clone().with_boot("boot-2"), ..lab }
}

#[test]
fn the_first_add_of_a_boot_releases_ours_and_nothing_else() {
    let lab = Lab::new();
    let local = lab.sets(&[V4, V6]);
    add(&local, &lab, "c1").unwrap();
    add(&local, &lab, "c2").unwrap();
    lab.put("10.1.2.40", "c9\r\neth0");
    lab.put("10.1.2.41", "c9");
    let lab = rebooted(lab);
    local.check(&who("c1", "eth0"), &lab.dirs).unwrap();
    assert_eq!(lab.addresses().len(), 6, "CHECK changes nothing");
    assert_eq!(add(&local, &lab, "c3").unwrap(), ["10.1.2.4/24", "2001:db8:42::4/64"]);
    assert_eq!(lab.addresses(), ["10.1.2.4", "10.1.2.40", "10.1.2.41", "2001:db8:42::4"]);
    assert_eq!(lab.list().len(), 2);
    // The same id again, in the new boot.
    add(&local, &lab, "c1").unwrap();
    assert_eq!(add(&local, &lab, "c1"), Err(Code::IpamDuplicate));
}

#[test]
fn without_a_call_they_are_found_and_released_too() {
    let lab = Lab::new();
    let local = lab.sets(&[V4, V6]);
    add(&local, &lab, "c1").unwrap();
    lab.put("10.1.2.40", "c9\r\neth0");
    assert_eq!(Outlived::find(&lab.dirs).unwrap(), [], "of this boot");
    let lab = rebooted(lab);
    add(&lab.sets(&["10.9.0.0/24"]), &lab, "c2").unwrap();
    let lab = Lab { dirs: lab.dirs.clone().with_boot("boot-3"), ..lab };
    let found = Outlived::find(&lab.dirs).unwrap();
    assert_eq!(found.iter().map(|o| o.addresses).collect::<Vec<_>>(), [1], "the second ADD had released the first's");
    assert_eq!(found[0].location.directory(), fs::canonicalize(lab.store()).unwrap());
    assert_eq!(found[0].release(&lab.dirs).unwrap(), 1);
    assert_eq!(lab.addresses(), ["10.1.2.40"]);
    assert_eq!(Outlived::find(&lab.dirs).unwrap(), []);
    let other = Lab { dirs: lab.dirs.clone().with_machine("machine-2"), ..lab };
    assert_eq!(Outlived::find(&other.dirs).unwrap(), []);
}

#[test]
fn a_store_that_cannot_be_found_is_left() {
    let lab = Lab::new();
    add(&lab.sets(&[V4]), &lab, "c1").unwrap();
    let lists = fs::read_dir(lab.dirs.state.join("host-local")).unwrap();
    let link = lists.map(|l| l.unwrap().path().join("store")).next().unwrap();
    let lab = rebooted(lab);
    assert_eq!(Outlived::find(&lab.dirs).unwrap().len(), 1);
    fs::remove_file(link).unwrap();
    assert_eq!(Outlived::find(&lab.dirs).unwrap(), [], "an older version's list, not of the default store");
}

#[test]
fn a_full_range_is_free_again_after_a_boot() {
    let lab = Lab::new();
    let local = lab.sets(&["10.1.2.0/29"]);
    for i in 0..5 {
        add(&local, &lab, &format!("c{i}")).unwrap();
    }
    assert_eq!(add(&local, &lab, "more"), Err(Code::IpamExhausted));
    let lab = rebooted(lab);
    assert_eq!(add(&local, &lab, "more").unwrap(), ["10.1.2.2/29"]);
}

#[test]
fn del_and_gc_release_too() {
    for gc in [false, true] {
        let lab = Lab::new();
        let local = lab.sets(&[V4]);
        add(&local, &lab, "c1").unwrap();
        let lab = rebooted(lab);
        if gc {
            local.gc(&|_| true, SystemTime::now(), &lab.dirs).unwrap();
        } else {
            local.del(&who("nobody", "eth0"), &lab.dirs).unwrap();
        }
        assert!(lab.addresses().is_empty() && lab.list().is_empty());
    }
}

#[test]
fn a_file_that_is_not_ours_any_more_is_kept() {
    let lab = Lab::new();
    let local = lab.sets(&[V4]);
    for c in ["c1", "c2", "c3"] {
        add(&local, &lab, c).unwrap();
    }
    // Rewritten in place; removed and given away by another program, even to the same owner.
    fs::write(lab.store().join("10.1.2.2"), "else\r\neth0").unwrap();
    fs::remove_file(lab.store().join("10.1.2.3")).unwrap();
    fs::write(lab.store().join("10.1.2.3"), "c2\r\neth0").unwrap();
    let lab = rebooted(lab);
    local.del(&who("nobody", "eth0"), &lab.dirs).unwrap();
    assert_eq!(lab.addresses(), ["10.1.2.2", "10.1.2.3"]);
    assert!(lab.list().is_empty());
}

#[test]
fn a_file_that_lost_its_content_with_the_power_is_released() {
    let lab = Lab::new();
    let local = lab.sets(&[V4]);
    add(&local, &lab, "c1").unwrap();
    fs::OpenOptions::new().write(true).truncate(true).open(lab.store().join("10.1.2.2")).unwrap();
    lab.put("10.1.2.9", "");
    let lab = rebooted(lab);
    local.del(&who("nobody", "eth0"), &lab.dirs).unwrap();
    assert_eq!(lab.addresses(), ["10.1.2.9"], "an empty file of somebody else is kept");
}

#[test]
fn without_a_list_everything_is_adopted_and_nothing_released() {
    let lab = Lab::new();
    let local = lab.sets(&[V4]);
    add(&local, &lab, "c1").unwrap();
    fs::remove_dir_all(&lab.dirs.state).unwrap();
    let lab = rebooted(lab);
    assert_eq!(add(&local, &lab, "c1"), Err(Code::IpamDuplicate));
    add(&local, &lab, "c2").unwrap();
    local.check(&who("c1", "eth0"), &lab.dirs).unwrap();
    local.del(&who("c1", "eth0"), &lab.dirs).unwrap();
    assert_eq!(lab.addresses(), ["10.1.2.3"]);
}

#[test]
fn a_list_of_another_machine_releases_nothing() {
    let lab = Lab::new();
    let local = lab.sets(&[V4]);
    add(&local, &lab, "c1").unwrap();
    let dirs = lab.dirs.clone().with_machine("machine-2").with_boot("boot-9");
    let lab = Lab { dirs, ..lab };
    add(&local, &lab, "c2").unwrap();
    assert_eq!(local.gc(&|_| false, SystemTime::now() + Duration::from_secs(60), &lab.dirs).unwrap(), 1);
    assert_eq!(lab.addresses(), ["10.1.2.2"]);
}

#[test]
fn what_others_released_leaves_the_list() {
    let lab = Lab::new();
    let local = lab.sets(&[V4]);
    add(&local, &lab, "c1").unwrap();
    add(&local, &lab, "c2").unwrap();
    fs::remove_file(lab.store().join("10.1.2.2")).unwrap();
    add(&local, &lab, "c1").unwrap();
    let list = lab.list();
    assert!(list.len() == 2 && list[0].starts_with("10.1.2.3_") && list[1].starts_with("10.1.2.4_"), "{list:?}");
}

#[test]
fn what_others_gave_away_after_us_is_theirs() {
    let lab = Lab::new();
    let local = lab.sets(&[V4]);
    add(&local, &lab, "c1").unwrap();
    fs::remove_file(lab.store().join("10.1.2.2")).unwrap();
    lab.put("10.1.2.2", "c2\r\neth0");
    local.check(&who("c2", "eth0"), &lab.dirs).unwrap();
    assert_eq!(local.check(&who("c1", "eth0"), &lab.dirs).unwrap_err().code, Code::IpamMissing);
    local.del(&who("c1", "eth0"), &lab.dirs).unwrap();
    assert_eq!(add(&local, &lab, "c2"), Err(Code::IpamDuplicate));
    assert_eq!((lab.addresses(), lab.list().len()), (vec!["10.1.2.2".to_owned()], 0));
}

#[test]
fn gc_collects_only_ours_that_are_old_and_not_valid() {
    let lab = Lab::new();
    let local = lab.sets(&[V4]);
    for c in ["valid", "dead"] {
        add(&local, &lab, c).unwrap();
    }
    lab.put("10.1.2.50", "foreign\r\neth0");
    lab.put("10.1.2.51", "dead\r\neth0");
    let valid = |who: &crate::ipam::Who| who.container == "valid" && who.ifname == "eth0";
    let now = SystemTime::now();
    assert_eq!(local.gc(&valid, now, &lab.dirs).unwrap(), 0, "as young as the call");
    assert_eq!(local.gc(&valid, now + Duration::from_secs(5), &lab.dirs).unwrap(), 1);
    assert_eq!(lab.addresses(), ["10.1.2.2", "10.1.2.50", "10.1.2.51"]);
    assert_eq!(lab.list().len(), 1);
    let other = Lab::new();
    assert_eq!(other.sets(&[V4]).gc(&valid, now, &other.dirs).unwrap(), 0);
    assert!(!other.store().exists(), "GC makes no store");
}

#[test]
fn networks_and_data_directories_have_lists_of_their_own() {
    let (a, b) = (Lab::new(), Lab::new());
    let b = Lab { dirs: a.dirs.clone(), ..b };
    add(&a.sets(&[V4]), &a, "c1").unwrap();
    add(&b.sets(&[V4]), &b, "c1").unwrap();
    assert_eq!(fs::read_dir(a.dirs.state.join("host-local")).unwrap().count(), 2);
    let b = rebooted(b);
    add(&b.sets(&[V4]), &b, "c2").unwrap();
    assert_eq!((a.addresses(), b.addresses()), (vec!["10.1.2.2".to_owned()], vec!["10.1.2.3".to_owned()]));
    // Another way to the same directory is the same store.
    let link = a.root.join("link");
    std::os::unix::fs::symlink(a.root.join("store"), &link).unwrap();
    let mut location = a.sets(&[V4]).location();
    location.data_dir = link;
    super::HostLocal::release(&location, &who("c1", "eth0"), &a.dirs).unwrap();
    assert!(a.addresses().is_empty());
    assert_eq!(a.list().len(), 1);
}
