//! Calls that meet: DEL while ADD is at work, GC while ADD is at work, many at once, two runtimes on one node.
//!
//! An ADD is held where a test wants it by an IPAM plugin of the test's own, which waits for a file.

mod collect;
mod during_add;
mod many;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::harness::{Call, Lab, eventually};

/// A directory with the IPAM plugin `slow`: its ADD waits until [`release`], its DEL and CHECK do nothing.
fn slow_ipam(lab: &Lab) -> String {
    let dir = lab.file("slow-ipam");
    std::fs::create_dir_all(&dir).unwrap();
    let script = format!(
        r#"#!/bin/sh
cat > /dev/null
[ "$CNI_COMMAND" = ADD ] || exit 0
: > {dir}/waiting
while [ ! -e {dir}/go ]; do sleep 0.02; done
echo '{{"cniVersion": "1.0.0", "ips": [{{"address": "10.1.2.9/24"}}]}}'
"#
    );
    let file = format!("{dir}/slow");
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    dir
}

/// The call with the slow plugin as its IPAM.
fn slow<'l>(lab: &'l Lab, call: Call<'l>) -> Call<'l> {
    let dir = slow_ipam(lab);
    call.path(&dir).with("ipam", json!({"type": "slow"}))
}

/// Waits until an ADD has got as far as its IPAM.
fn waits_in_ipam(lab: &Lab) {
    let waiting = lab.file("slow-ipam/waiting");
    eventually("ADD reaches its IPAM plugin", || std::fs::exists(&waiting).unwrap());
}

fn release(lab: &Lab) {
    std::fs::write(lab.file("slow-ipam/go"), "").unwrap();
}
