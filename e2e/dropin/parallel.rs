//! Many calls at once on one store.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{bridge_conf, host_local, ips};
use crate::harness::{Kind, Lab, Running, both, store_files};

const MANY: usize = 50;

/// 50 ADDs of host-local at once, each by the kind that `kind_of` names; then all DELs at once.
fn on_one_store(kind_of: impl Fn(usize) -> Kind) {
    let lab = Lab::new();
    let pod = lab.pod();
    let conf =
        json!({"cniVersion": "1.0.0", "name": "net", "type": "host-local", "ipam": host_local(&lab, "10.1.2.0/24")});
    let calls: Vec<_> =
        (0..MANY).map(|n| lab.call(kind_of(n), conf.clone()).pod(&pod).id(&format!("pod-{n}"))).collect();
    let running: Vec<Running> = calls.iter().map(|call| call.start("ADD")).collect();
    let results: Vec<Value> = running.into_iter().map(|r| r.wait().ok()).collect();
    let given: BTreeSet<String> = results.iter().flat_map(ips).collect();
    assert_eq!(given.len(), MANY, "each has an address of its own: {given:?}");
    let taken = store_files(&lab.store());
    assert_eq!(taken.len(), MANY);
    for (result, n) in results.iter().zip(0..) {
        let address = ips(result)[0].replace("/24", "");
        assert_eq!(taken[&format!("net/{address}")], format!("pod-{n}\r\neth0"));
    }
    let running: Vec<Running> = calls.iter().map(|call| call.start("DEL")).collect();
    for done in running {
        done.wait().nothing();
    }
    assert!(store_files(&lab.store()).is_empty());
}

both! {
    fn host_local_fifty(kind: Kind) {
        on_one_store(|_| kind);
    }

    /// Whole attachments: links, addresses, a bridge that the first of them makes.
    fn bridge_twenty(kind: Kind) {
        let lab = Lab::new();
        let pods: Vec<_> = (0..20).map(|_| lab.pod()).collect();
        let conf = bridge_conf(&lab);
        // The reference fails where two of them make the bridge at once; that is its matter, so it is made before.
        lab.node.run("ip link add br0 type bridge");
        let calls: Vec<_> =
            pods.iter().map(|pod| lab.call(kind, conf.clone()).pod(pod).with("isGateway", json!(true))).collect();
        let running: Vec<Running> = calls.iter().map(|call| call.start("ADD")).collect();
        let results: Vec<Value> = running.into_iter().map(|r| r.wait().ok()).collect();
        assert_eq!(results.iter().flat_map(ips).collect::<BTreeSet<_>>().len(), pods.len());
        for (result, pod) in results.iter().zip(&pods) {
            assert_eq!(pod.addresses("eth0"), ips(result));
            assert_eq!(lab.node.other_end(pod, "eth0").master.as_deref(), Some("br0"));
        }
        let running: Vec<Running> = calls.iter().map(|call| call.start("DEL")).collect();
        for done in running {
            done.wait().nothing();
        }
        assert!(store_files(&lab.store()).is_empty());
        assert!(pods.iter().all(|pod| pod.find("eth0").is_none()));
    }
}

/// Both at work on one store: the same lock, the same files.
#[test]
fn host_local_fifty_mixed() {
    on_one_store(|n| if n % 2 == 0 { Kind::Reference } else { Kind::Trestle });
}
