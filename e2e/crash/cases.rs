//! The attachments that are killed.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::{Case, Stage};
use crate::attachment::{plain, vm, wire};
use crate::harness::Call;
use crate::machine::{LINK, bind};

/// A plain pod's port, with all that may hang on it.
pub const PORT: Case = Case { prepare: |_| (), call: port, may_leave: |seen| seen, steps: 8 };

/// The macvlan fallback.
pub const FALLBACK: Case = Case { prepare: |_| (), call: fallback, may_leave: |seen| seen, steps: 6 };

/// A machine's wire.
pub const WIRE: Case = Case { prepare: |_| (), call: machine, may_leave: |seen| seen, steps: 8 };

/// The bind step, on a wire that is there and stays.
pub const BIND: Case = Case {
    prepare: |stage| drop(vm(&stage.lab, &stage.pod).add()),
    call: |stage| bind(&stage.lab, &stage.pod),
    // Bind takes the addresses off; undoing it need not give them back, as the whole pod goes.
    may_leave: |seen| seen.without_addresses(LINK),
    steps: 6,
};

/// The drop-in bridge, which makes its bridge, its gateway, and rules of both kinds.
pub const DROP_IN_BRIDGE: Case =
    Case { prepare: |_| (), call: drop_in_bridge, may_leave: |seen| seen.without_bridge("br0"), steps: 12 };

pub const DROP_IN_MACVLAN: Case = Case { prepare: |_| (), call: drop_in_macvlan, may_leave: |seen| seen, steps: 6 };

fn port(stage: &Stage) -> Call<'_> {
    let mut ipam = wire(&stage.lab)["ipam"].clone();
    ipam["routes"] = json!([{"dst": "192.0.2.0/24"}]);
    let call = plain(&stage.lab, &stage.pod).with("ipam", ipam).with("macspoofchk", json!(true));
    call.with("hairpinMode", json!(true)).with("mtu", json!(1400))
}

fn fallback(stage: &Stage) -> Call<'_> {
    plain(&stage.lab, &stage.pod).with("bridge", json!("br9")).with("master", json!("nic0"))
}

fn machine(stage: &Stage) -> Call<'_> {
    vm(&stage.lab, &stage.pod)
}

fn drop_in_bridge(stage: &Stage) -> Call<'_> {
    let mut conf = wire(&stage.lab);
    conf["type"] = json!("bridge");
    conf["bridge"] = json!("br0");
    for key in ["isDefaultGateway", "ipMasq", "macspoofchk"] {
        conf[key] = json!(true);
    }
    stage.lab.trestle(conf).pod(&stage.pod).of_pod("default", "web-1")
}

fn drop_in_macvlan(stage: &Stage) -> Call<'_> {
    let mut conf = wire(&stage.lab);
    conf["type"] = json!("macvlan");
    conf["master"] = json!("nic0");
    conf.as_object_mut().unwrap().remove("bridge");
    stage.lab.trestle(conf).pod(&stage.pod).of_pod("default", "web-1")
}

/// A plain pod's port with a lease.
pub const DHCP: Case = Case {
    prepare: Stage::serve,
    call: |stage| leased(plain(&stage.lab, &stage.pod)),
    may_leave: |seen| seen,
    steps: 10,
};

/// A machine's wire with a lease.
pub const DHCP_MACHINE: Case = Case { call: |stage| leased(vm(&stage.lab, &stage.pod)), ..DHCP };

fn leased(call: Call<'_>) -> Call<'_> {
    call.with("ipam", json!({"type": "dhcp"}))
}

/// A plain pod's port with an IPAM plugin that is not ours; its leases lie in the store's place, so that one shows.
pub const FOREIGN_IPAM: Case = Case {
    prepare: |stage| {
        let (dir, leases) = (stage.lab.file("foreign"), format!("{}/lan", stage.lab.store()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::create_dir_all(&leases).unwrap();
        let script = format!(
            r#"#!/bin/sh
cat > /dev/null
lease={leases}/$CNI_CONTAINERID.$CNI_IFNAME
case $CNI_COMMAND in
ADD) : > $lease; echo '{{"cniVersion": "1.0.0", "ips": [{{"address": "10.1.2.9/24"}}]}}' ;;
DEL) rm -f $lease ;;
esac
"#
        );
        std::fs::write(format!("{dir}/ledger"), script).unwrap();
        std::fs::set_permissions(format!("{dir}/ledger"), Permissions::from_mode(0o755)).unwrap();
    },
    call: |stage| {
        let dir = stage.lab.file("foreign");
        plain(&stage.lab, &stage.pod).path(&dir).with("ipam", json!({"type": "ledger"}))
    },
    may_leave: |seen| seen,
    steps: 8,
};
