use crate::net::testing::block_on;
use prost::Message;

use super::*;
use crate::devices::testing::{Does, framed, kubelet, pod, supply};

const SOON: Duration = Duration::from_secs(5);

fn described(name: &str, namespace: &str, containers: &[&[(&str, &[&str])]]) -> Bytes {
    let containers = containers.iter().map(|devices| {
        let devices = devices.iter().map(|(resource, ids)| ContainerDevices {
            resource_name: (*resource).into(),
            device_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        });
        Container { devices: devices.collect() }.encode_to_vec().into()
    });
    Pod { name: name.into(), namespace: namespace.into(), containers: containers.collect() }.encode_to_vec().into()
}

fn listing() -> Vec<u8> {
    let pods = vec![
        described("web", "other", &[&[("x.io/vf", &["not mine"])]]),
        described("web", "default", &[&[("x.io/vf", &["b"]), ("x.io/vf", &["a"])], &[("x.io/vf", &["a", "c"])]]),
        described("web2", "default", &[&[("x.io/vf", &["not mine"])]]),
        described("none", "default", &[]),
    ];
    Listing { pods }.encode_to_vec()
}

fn asked(does: Vec<Does>, within: Duration) -> Outcome<Supply> {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let socket = kubelet(dir.path(), does);
        list(&socket, &pod("u1"), within).await
    })
}

#[test]
fn the_devices_of_one_pod_out_of_all_pods() {
    let mine = supply(&[("x.io/vf", &["a", "b", "c"])]);
    assert_eq!(asked(vec![Does::Answers(listing())], SOON).unwrap(), mine);
    assert_eq!(asked(vec![Does::Answers(Vec::new())], SOON).unwrap(), Supply::new());
}

/// Bytes as kubelet 1.34 sends them: the fields that this program does not know stand between those that it does.
#[test]
fn fields_of_newer_kubelets_are_passed_over() {
    let devices = b"\x0a\x07x.io/vf\x12\x0c0000:03:02.3\x1a\x04\x0a\x02\x08\x01";
    let cpus_memory_claims = b"\x1a\x02\x02\x03\x22\x08\x0a\x06memory\x2a\x0d\x0a\x03vfs\x12\x06vf-abc";
    let container = [&b"\x0a\x01c\x12"[..], &[devices.len() as u8], &devices[..], cpus_memory_claims].concat();
    let pod =
        [&b"\x0a\x03web\x12\x07default\x1a"[..], &[container.len() as u8], &container[..], b"\x22\x01\x02"].concat();
    let answer = [&b"\x0a"[..], &[pod.len() as u8], &pod[..]].concat();
    let found = asked(vec![Does::Answers(answer)], SOON).unwrap();
    assert_eq!(found, supply(&[("x.io/vf", &["0000:03:02.3"])]));
}

#[test]
fn an_answer_of_many_megabytes() {
    let mut answer = listing();
    let big = "x".repeat(100_000);
    for _ in 0..100 {
        answer.extend(Listing { pods: vec![described(&big, "default", &[])] }.encode_to_vec());
    }
    assert_eq!(asked(vec![Does::Answers(answer)], SOON).unwrap(), supply(&[("x.io/vf", &["a", "b", "c"])]));
}

#[test]
fn a_busy_or_restarting_kubelet_is_asked_again() {
    let busy = Does::Refuses("8", "rejected by rate limit");
    let starting = Does::Refuses("14", "");
    let does = vec![busy.clone(), starting, Does::HangsUp, Does::Answers(listing())];
    assert_eq!(asked(does, SOON).unwrap().len(), 1);
    let failure = asked(vec![busy], Duration::from_millis(300)).unwrap_err();
    assert!(failure.code == Code::Devices && failure.msg.contains("rejected by rate limit"), "{failure}");
}

#[test]
fn nobody_listens_and_then_somebody_does() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("kubelet.sock");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let failure = list(&socket, &pod("u1"), Duration::from_millis(150)).await.unwrap_err();
        assert!(failure.msg.contains("refused") && failure.msg.contains("kubelet.sock"), "{failure}");
        let late = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            std::fs::remove_file(&socket).unwrap();
            kubelet(dir.path(), vec![Does::Answers(listing())]);
        };
        let me = pod("u1");
        let (found, ()) = futures_util::future::join(list(&socket, &me, SOON), late).await;
        assert_eq!(found.unwrap().len(), 1);
    });
}

#[test]
fn a_silent_kubelet_is_given_up() {
    let failure = asked(vec![Does::Sleeps], Duration::from_millis(200)).unwrap_err();
    assert!(failure.code == Code::Devices && failure.msg.contains("no answer, for 0.2 s"), "{failure}");
}

#[test]
fn what_is_no_answer_is_refused_at_once() {
    let whole = framed(&listing());
    let mut compressed = whole.clone();
    compressed[0] = 1;
    let mut huge = vec![0];
    huge.extend((LARGEST as u32 + 1).to_be_bytes());
    for (does, word) in [
        (Does::Refuses("12", "unknown service v1.PodResourcesLister"), "1.20"),
        (Does::Refuses("7", "no"), "gRPC status 7: no"),
        (Does::HttpError, "503"),
        (Does::Sends(whole.clone(), None), "no gRPC status"),
        (Does::Sends(whole.clone(), Some("13")), "gRPC status 13"),
        (Does::Sends(whole[..whole.len() - 1].to_vec(), Some("0")), "cut off"),
        (Does::Sends(whole[..3].to_vec(), Some("0")), "cut off"),
        (Does::Sends(Vec::new(), Some("0")), "cut off"),
        (Does::Sends([whole.clone(), whole.clone()].concat(), Some("0")), "more than one message"),
        (Does::Sends(compressed, Some("0")), "compressed"),
        (Does::Sends(huge, Some("0")), "16777217"),
        (Does::Answers(b"\x0a\x7fweb".to_vec()), "decode"),
        (Does::Answers(b"\x0a\x02\x0a\x7f".to_vec()), "decode"),
    ] {
        let failure = asked(vec![does], SOON).unwrap_err();
        assert!(failure.code == Code::Devices && failure.msg.contains(word), "{word}: {failure}");
        assert!(!failure.msg.contains("for 5 s"), "{failure}");
    }
}
