//! `CNI_NETNS` is the plugin's own namespace: refused, and no link of it is anybody's pod's.

use serde_json::json;

use super::*;

#[test]
fn its_own_namespace_is_not_a_pods() {
    let own = format!("/proc/{}/ns/net", std::process::id());
    let lan = json!({"bridge": "no-such-br", "ipam": {}});
    fresh()
        .enter(|| {
            // Another namespace than the program's.
            let run = |program, verb| Run::new(program, verb).var("CNI_NETNS", &own);
            assert_eq!(
                run("trestle", "ADD").on(&with(conf("trestle"), lan.clone())).code(),
                11,
                "the bridge is what is missing"
            );
        })
        .unwrap();
    let own = format!("/proc/self/task/{}/ns/net", nix::unistd::gettid());
    let run = |program, verb| Run::new(program, verb).var("CNI_NETNS", &own);
    for program in ["trestle", "bridge", "macvlan", "host-local", "static"] {
        assert_eq!(run(program, "ADD").on(&with(conf(program), lan.clone())).code(), 8, "{program}");
    }
    let ipam = json!({"ipam": {"type": "static", "addresses": [{"address": "10.1.2.3/24"}]}});
    for value in ["1", "TRUE"] {
        assert!(run("static", "ADD").var("CNI_NETNS_OVERRIDE", value).on(&with(conf("static"), ipam.clone())).success);
    }
    assert_eq!(run("static", "ADD").var("CNI_NETNS_OVERRIDE", "yes").on(&with(conf("static"), ipam)).code(), 8);
    for verb in ["STATUS", "GC"] {
        let seen = run("bridge", verb).on(&conf("bridge"));
        assert!(seen.success, "a variable that the verb does not know: {seen:?}");
    }
}

#[test]
fn a_del_in_the_own_namespace_releases_and_touches_no_link() {
    let own = format!("/proc/self/task/{}/ns/net", nix::unistd::gettid());
    for (program, success) in [("trestle", true), ("bridge", false), ("host-local", false)] {
        let add = Run::new("host-local", "ADD");
        let ipam = json!({"type": "host-local", "dataDir": add.tmp.path(), "subnet": "10.1.2.0/24"});
        let both = with(conf("host-local"), json!({"ipam": ipam}));
        assert!(add.on(&both).success);
        assert!(add.tmp.path().join("lan/10.1.2.2").exists());
        let del = Run::new(program, "DEL").var("CNI_NETNS", &own).var("CNI_IFNAME", "lo");
        // The address is net1's; lo is a link that this namespace has.
        assert_eq!(
            del.on(&with(both.clone(), json!({"type": program, "bridge": "br0"}))).success,
            success,
            "{program}"
        );
        assert!(add.tmp.path().join("lan/10.1.2.2").exists());
        let del = Run::new(program, "DEL").var("CNI_NETNS", &own);
        let seen = del.on(&with(both, json!({"type": program, "bridge": "br0"})));
        assert!(!add.tmp.path().join("lan/10.1.2.2").exists(), "{program}: the address is released");
        assert_eq!(seen.success, success);
        if !success {
            assert_eq!(seen.code(), 8);
        }
    }
}

#[test]
fn links_of_the_own_namespace_are_nobodys_pods() {
    fresh()
        .enter(|| {
            let own = format!("/proc/self/task/{}/ns/net", nix::unistd::gettid());
            let here = Namespace::own().unwrap();
            let (net1, peer) = (name("net1"), name("peer"));
            block_on(async { here.netlink().unwrap().create_veth(&veth(&net1, &peer, &here)).await.unwrap() });
            for program in ["trestle", "bridge", "macvlan"] {
                let lan = with(conf(program), json!({"bridge": "br0", "master": "eno1"}));
                Run::new(program, "DEL").var("CNI_NETNS", &own).on(&lan);
                let left = block_on(async { here.netlink().unwrap().link("net1").await.unwrap() });
                assert!(left.is_some(), "{program} deleted a link of the node");
            }
        })
        .unwrap();
}
