//! Where something besides the networks fails, too: an undo, a file, the API server; and where somebody else is at work.

use std::time::Duration;

use super::*;
use crate::store::ContainerLock;

fn pending(bed: &Bed) -> PathBuf {
    bed.dirs.state.join("pending/c1~eth0.json")
}

#[test]
fn a_network_that_was_never_begun_needs_no_del() {
    let bed = Bed::new().asks("a,bad");
    bed.nad("default", "bad", json!({"cniVersion": "1.0.0", "name": "bad", "type": "bridge", "mtu": "abc"}));
    bed.fails("rec", "DEL");
    let failure = bed.add().unwrap_err();
    assert!(failure.msg.contains("mtu") && failure.msg.contains("injected failure of rec"), "{failure}");
    assert_eq!(
        (bed.calls().as_str(), bed.left()),
        ("rec ADD eth0, reca ADD net1, reca DEL net1, rec DEL eth0", (1, 1))
    );
    bed.works("rec", "DEL");
    bed.del().unwrap();
    assert_eq!((bed.calls().as_str(), bed.left()), ("rec DEL eth0", (0, 0)));
}

#[test]
fn a_kill_before_a_network_that_nobody_accepts_keeps_no_pod() {
    let bed = Bed::new().asks("bad");
    bed.nad("default", "bad", json!({"cniVersion": "1.0.0", "name": "bad", "type": "bridge", "mtu": "abc"}));
    bed.fails("rec", "DEL");
    bed.add().unwrap_err();
    // As if nobody had noted that the second was never begun.
    let key = record::key(&"c1".parse().unwrap(), &"eth0".parse().unwrap());
    let entry = Journal(&bed.dirs).read(&key).unwrap().unwrap();
    let mut record: Value = entry.record.parse().unwrap();
    record["networks"][1]["undone"] = false.into();
    Journal(&bed.dirs).write(&key, &entry.network.parse().unwrap(), &record).unwrap();
    bed.works("rec", "DEL");
    bed.del().unwrap();
    assert_eq!(bed.left(), (0, 0));
}

#[test]
fn a_torn_file_of_what_is_owed_keeps_no_pod() {
    let bed = Bed::new().asks("a");
    bed.add().unwrap();
    bed.calls();
    fs::remove_dir_all(&bed.dirs.run).unwrap();
    fs::write(pending(&bed), "{").unwrap();
    bed.del().unwrap();
    assert_eq!((bed.calls().as_str(), bed.left()), ("reca DEL net1, rec DEL eth0", (0, 0)));
}

#[test]
fn one_broken_delegate_of_multus_cache_does_not_hide_the_others() {
    let bed = Bed::new();
    let conf = |name: &str, ty: &str| json!({"cniVersion": "1.0.0", "name": name, "type": ty});
    legacy::testing::write(
        &bed.path("cni"),
        "c1",
        &[
            ("default-net", "", conf("default-net", "rec")),
            ("default/a", "", conf("net-a", "reca")),
            ("default/b", "", conf("net-b", "recb")),
        ],
    );
    let path = bed.path("cni/c1");
    let mut list: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    list[1]["Bytes"] = "!".into();
    fs::write(&path, list.to_string()).unwrap();
    bed.del().unwrap();
    assert_eq!(bed.calls(), "recb DEL net2, rec DEL eth0");
    assert!(!path.exists());
}

/// With a default network whose plugin collects, and no cache that names its pods besides.
fn collecting() -> Bed {
    let mut bed = Bed::new().asks("a");
    bed.conf["delegates"][0]["cniVersion"] = "1.1.0".into();
    bed.add().unwrap();
    bed.calls();
    bed.taken("stdin");
    fs::remove_dir_all(bed.path("cni")).unwrap();
    bed
}

#[test]
fn gc_tells_plugins_of_a_pod_that_somebody_is_at_work_on() {
    let bed = collecting();
    let lock = ContainerLock::lock(&bed.dirs, &"c1".parse().unwrap(), Duration::ZERO).unwrap();
    bed.gc(json!([])).unwrap();
    assert_eq!((bed.calls().as_str(), bed.left()), ("rec GC", (1, 1)));
    assert_eq!(bed.stdins()[0]["cni.dev/valid-attachments"], json!([{"containerID": "c1", "ifname": "eth0"}]));
    drop(lock);
    bed.gc(json!([])).unwrap();
    assert_eq!(bed.left(), (0, 0));
    assert_eq!(bed.stdins().last().unwrap()["cni.dev/valid-attachments"], json!([]));
}

#[test]
fn gc_keeps_what_others_attached_to_the_clusters_network() {
    let bed = collecting();
    let wire = |container: &str, ifname: &str, network: &str| {
        let id = AttachmentId {
            container: container.parse().unwrap(),
            ifname: ifname.parse().unwrap(),
            role: crate::types::Role::Wire,
        };
        Journal(&bed.dirs).write(&id, &network.parse().unwrap(), &json!({})).unwrap();
    };
    wire("c1", "eth0", "default-net");
    wire("podman1", "eth0", "default-net");
    wire("podman1", "eth1", "another");
    bed.gc(json!([])).unwrap();
    let kept = bed.stdins().last().unwrap()["cni.dev/valid-attachments"].clone();
    assert_eq!(kept, json!([{"containerID": "podman1", "ifname": "eth0"}]), "and nothing of the pod that is gone");
}

#[test]
fn gc_asks_no_plugin_where_nobody_knows_who_lives() {
    let bed = collecting();
    let entry = bed.dirs.run.join("journal/c1/eth0.meta.json");
    fs::write(&entry, r#"{"version": 99}"#).unwrap();
    bed.gc(json!([])).unwrap();
    assert_eq!(bed.calls(), "");
    assert!(entry.exists());
}

#[test]
fn copies_start_a_pod_while_the_api_server_is_away_and_its_status_waits() {
    let mut bed = Bed::new().asks("a");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = json!({"server": format!("http://{nobody}")});
    bed.conf["kubeconfig"] = crate::api::testing::kubeconfig(bed.tmp.path(), &server, &json!({})).to_str().into();
    bed.node.api_timeout = Some(Duration::from_millis(300));
    fs::remove_file(bed.dirs.run.join("alive")).unwrap();
    bed.add().unwrap();
    let untold = bed.dirs.state.join("untold/c1~eth0.json");
    let kept: Value = serde_json::from_slice(&fs::read(&untold).unwrap()).unwrap();
    assert_eq!((&kept["pod"]["name"], &kept["pod"]["uid"]), (&json!("pod1"), &json!("u1")));
    assert!(kept["status"].as_str().unwrap().contains("default/a") && kept["stale"][0].is_string(), "{kept}");
    bed.del().unwrap();
    assert!(!untold.exists());
}
