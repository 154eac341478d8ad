//! Another boot: no pod of an earlier one lives, so what was recorded in it is released; what others made is not.
//!
//! A test cannot boot the machine. It lets later calls see another boot's id (a file mounted over the kernel's, for
//! them alone), and wipes the run directory, as a boot does.

use serde_json::json;

use crate::attachment::{plain, wire};
use crate::harness::{Kind, Lab, store_files};

fn reboot(lab: &Lab) {
    lab.reboot();
    let _ = std::fs::remove_dir_all(lab.run_dir());
}

/// The node died without a DEL: the first call of the new boot releases the addresses.
#[test]
fn addresses_are_released() {
    let (lab, _lan) = Lab::with_lan();
    let (mut one, mut two, new) = (lab.pod(), lab.pod(), lab.pod());
    plain(&lab, &one).id("one").add();
    plain(&lab, &two).id("two").add();
    reboot(&lab);
    one.remove();
    two.remove();
    assert_eq!(store_files(&lab.store()).len(), 2);
    plain(&lab, &new).id("new").add();
    assert_eq!(store_files(&lab.store()).into_values().collect::<Vec<_>>(), ["new\r\nnet1"]);
}

/// The drop-in `host-local` has the same memory.
#[test]
fn addresses_of_the_drop_in() {
    let lab = Lab::new();
    let pod = lab.pod();
    let conf = json!({"cniVersion": "1.0.0", "name": "lan", "type": "host-local", "ipam": wire(&lab)["ipam"]});
    lab.trestle(conf.clone()).pod(&pod).id("one").add();
    reboot(&lab);
    lab.trestle(conf).pod(&pod).id("new").add();
    assert_eq!(store_files(&lab.store()).into_values().collect::<Vec<_>>(), ["new\r\neth0"]);
}

/// What the reference reserved, and what somebody changed since, is not ours to release.
#[test]
fn addresses_of_others_stay() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    let conf = json!({"cniVersion": "1.0.0", "name": "lan", "type": "host-local", "ipam": wire(&lab)["ipam"]});
    lab.call(Kind::Reference, conf.clone()).pod(&pod).id("theirs").add();
    lab.trestle(conf.clone()).pod(&pod).id("ours").add();
    lab.trestle(conf.clone()).pod(&pod).id("changed").add();
    std::fs::write(format!("{}/lan/10.1.2.4", lab.store()), "somebody\r\neth0").unwrap();
    reboot(&lab);
    lab.trestle(conf).pod(&pod).id("new").add();
    let mut owners: Vec<String> = store_files(&lab.store()).into_values().collect();
    owners.sort();
    assert_eq!(owners, ["new\r\neth0", "somebody\r\neth0", "theirs\r\neth0"]);
}

/// Only the run directory is new, the boot is the same: living pods keep their addresses.
#[test]
fn same_boot() {
    let (lab, _lan) = Lab::with_lan();
    let (old, new) = (lab.pod(), lab.pod());
    let mut call = plain(&lab, &old);
    call.add();
    std::fs::remove_dir_all(lab.run_dir()).unwrap();
    plain(&lab, &new).add();
    assert_eq!(store_files(&lab.store()).len(), 2);
    assert_eq!(new.addresses("net1"), ["10.1.2.3/24"]);
}

/// Without our list there is nothing that we know of: adopt, release nothing.
#[test]
fn without_our_list() {
    let (lab, _lan) = Lab::with_lan();
    let (old, new) = (lab.pod(), lab.pod());
    let mut call = plain(&lab, &old);
    call.add();
    std::fs::remove_dir_all(lab.state_dir()).unwrap();
    std::fs::remove_dir_all(lab.run_dir()).unwrap();
    plain(&lab, &new).add();
    assert_eq!(store_files(&lab.store()).len(), 2);
    call.del();
    assert_eq!(store_files(&lab.store()).len(), 1);
}
