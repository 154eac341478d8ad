use proptest::prelude::*;

use super::*;
use crate::plan::testing::Pod;
use crate::vmi::Nics;

/// As KubeVirt makes them: networks lan and dmz, lan with the binding.
const HASHED: &str = r#"[{"name":"br-lan","namespace":"p","interface":"pod094a367b026"},
    {"name":"br-dmz","namespace":"p","interface":"poda393efd3bab"},
    {"name":"trestle-binding","namespace":"trestle-system","cni-args":{"logicNetworkName":"lan"}}]"#;
const ORDINAL: &str = r#"[{"name":"br-lan","interface":"net1"},{"name":"br-dmz","interface":"net2"}]"#;

fn facts(annotations: &[(&str, &str)], nics: Option<Nics>) -> PodFacts {
    let mut all = vec![("kubevirt.io/domain", "db")];
    all.extend(annotations);
    PodFacts { nics, ..Pod::new("virt-launcher-db-abcde", "net1", Some(&all)).facts }
}

fn nics() -> Nics {
    let secondary = vec!["lan".into(), "dmz".into()];
    Nics { queues: [("lan".to_owned(), 4)].into(), secondary, ..Nics::default() }
}

fn asked(facts: &PodFacts, ifname: &str) -> Outcome<Option<String>> {
    facts.addresses(&ifname.parse().unwrap()).map(|ips| ips.map(|ips| ips.join(" ")))
}

#[test]
fn addresses_go_to_the_interface_of_their_network() {
    let wish = r#"{"lan":["192.0.2.10/24"],"dmz":["198.51.100.7/24","198.51.100.8/24"]}"#;
    let of = facts(&[(annotation::NETWORKS, HASHED), (ADDRESSES, wish)], None);
    assert_eq!(asked(&of, "pod094a367b026"), Ok(Some("192.0.2.10/24".into())));
    assert_eq!(asked(&of, "poda393efd3bab"), Ok(Some("198.51.100.7/24 198.51.100.8/24".into())));
    assert_eq!((asked(&of, "eth0"), asked(&of, "net3")), (Ok(None), Ok(None)));
    let none = facts(&[(annotation::NETWORKS, HASHED), (ADDRESSES, r#"{"lan":[]}"#)], None);
    assert_eq!(asked(&none, "pod094a367b026"), Ok(None));
    assert_eq!(asked(&facts(&[(annotation::NETWORKS, HASHED)], None), "pod094a367b026"), Ok(None));
}

#[test]
fn where_the_name_leads_nowhere_the_description_does() {
    let wish = (ADDRESSES, r#"{"dmz":["198.51.100.7/24"]}"#);
    let ordinal = facts(&[(annotation::NETWORKS, ORDINAL), wish], Some(nics()));
    assert_eq!(asked(&ordinal, "net2"), Ok(Some("198.51.100.7/24".into())));
    assert_eq!(asked(&ordinal, "net1"), Ok(None));
    let primary = Nics { primary: Some("dmz".into()), secondary: vec![], ..nics() };
    let replaced = facts(&[("v1.multus-cni.io/default-network", "br-dmz"), wish], Some(primary));
    assert_eq!(asked(&replaced, "eth0"), Ok(Some("198.51.100.7/24".into())));
    let unknown = facts(&[(annotation::NETWORKS, ORDINAL), wish], None);
    let failure = asked(&unknown, "net2").unwrap_err();
    assert!(failure.msg.contains("\"dmz\"") && failure.msg.contains("poda393efd3bab"), "{failure}");
}

/// As with OVN-Kubernetes, whose networks take the pod's own place: that network's addresses are none of ours.
#[test]
fn the_pods_own_network_is_left_alone() {
    let wish = r#"{"primary-udn":["192.168.200.25","fd00::25"],"lan":["192.0.2.10/24"]}"#;
    let own = r#"[{"name":"default","namespace":"ovn","ips":["192.168.200.25/24"]}]"#;
    let annotations = [(annotation::NETWORKS, HASHED), (ADDRESSES, wish), ("v1.multus-cni.io/default-network", own)];
    let of = facts(&annotations, Some(Nics { pod: Some("primary-udn".into()), ..nics() }));
    assert_eq!((asked(&of, "eth0"), asked(&of, "pod094a367b026")), (Ok(None), Ok(Some("192.0.2.10/24".into()))));
    assert!(asked(&facts(&annotations, Some(nics())), "eth0").unwrap_err().msg.contains("primary-udn"));
}

#[test]
fn mistakes_are_quoted_and_the_nearest_name_is_told() {
    for (wish, nics, part, remedy) in [
        (r#"{"lna":["192.0.2.10/24"]}"#, Some(nics()), "\"lna\": the machine has no such network", "did you mean lan?"),
        (r#"{"lna":["192.0.2.10/24"]}"#, None, "no interface pod", "did you mean lan?"),
        (r#"{"uplink":["192.0.2.10/24"]}"#, Some(nics()), "it has dmz, lan", "names of its networks"),
        (r#"{"lan":["192.0.2.300/24"]}"#, None, "lan: \"192.0.2.300/24\" is no IP address", "like {\"lan\""),
        (r#"{"dmz":["x"],"lan":["192.0.2.1/24"]}"#, None, "dmz: \"x\"", "like"),
        (r#"{"lan":"192.0.2.10/24"}"#, None, "expected a sequence", "like"),
        ("192.0.2.10/24", None, "\"192.0.2.10/24\"", "like"),
    ] {
        let of = facts(&[(annotation::NETWORKS, HASHED), (ADDRESSES, wish)], nics);
        let failure = asked(&of, "pod094a367b026").expect_err(wish);
        assert_eq!(failure.code, Code::Annotation, "{wish}");
        assert!(failure.msg.contains(ADDRESSES) && failure.msg.contains(part), "{wish}: {failure}");
        assert!(failure.remedy.contains(remedy), "{wish}: {}", failure.remedy);
    }
}

#[test]
fn of_plain_pods_it_is_nobodys_wish() {
    let plain = Pod::new("web", "net1", Some(&[(ADDRESSES, "nonsense"), (annotation::NETWORKS, ORDINAL)])).facts;
    assert_eq!((asked(&plain, "net1"), plain.needs_nics()), (Ok(None), false));
    let named = Pod::new("virt-launcher-x", "net1", Some(&[(ADDRESSES, "nonsense")])).facts;
    assert_eq!(asked(&named, "net1"), Ok(None), "by its name alone it is no machine's");
}

#[test]
fn who_needs_the_description() {
    let needs = |annotations: &[(&str, &str)]| facts(annotations, None).needs_nics();
    let (hashed, ordinal) = ((annotation::NETWORKS, HASHED), (annotation::NETWORKS, ORDINAL));
    let lan = (ADDRESSES, r#"{"lan":["192.0.2.10/24"]}"#);
    assert!(needs(&[hashed]), "a bind step, and no number of queues");
    assert!(!needs(&[hashed, (QUEUES, r#"{"lan":1}"#)]));
    assert!(needs(&[hashed, (QUEUES, r#"{"dmz":1}"#)]));
    assert!(!needs(&[hashed, (QUEUES, "?")]), "refused in any case");
    assert!(!needs(&[ordinal]) && needs(&[ordinal, lan]) && needs(&[lan]));
    assert!(!needs(&[hashed, lan, (QUEUES, r#"{"lan":1}"#)]));
    assert!(needs(&[hashed, (ADDRESSES, r#"{"lna":[]}"#), (QUEUES, r#"{"lan":1}"#)]), "to name the nearest");
    assert!(!needs(&[(annotation::NETWORKS, "[")]));
}

#[test]
fn queues_come_from_the_annotation_else_from_the_description() {
    let with = |v, nics| facts(&[(QUEUES, v)], nics);
    assert_eq!(with(r#"{"lan":2}"#, Some(nics())).queues("lan"), Ok(Some(2)), "the annotation goes first");
    assert_eq!(with("{}", Some(nics())).queues("lan"), Ok(Some(4)));
    assert_eq!(with(r#"{"lan":4}"#, None).queues("dmz"), Ok(None));
    assert_eq!(facts(&[], Some(nics())).queues("dmz"), Ok(None));
    assert_eq!(Pod::plain().facts.queues("lan"), Ok(None));
    for bad in ["4", r#"{"lan":0}"#, r#"{"lan":257}"#, r#"{"lan":"2"}"#] {
        let failure = with(bad, Some(nics())).queues("lan").unwrap_err();
        assert!(failure.msg.contains(QUEUES), "{failure}");
    }
}

proptest! {
    /// They become part of CNI_ARGS.
    #[test]
    fn whatever_is_written_an_address_is_one(text in r#"[\[\]{}",:;=./0-9a-f lan]{0,60}"#, ip in "\\PC{0,30}") {
        for wish in [text, serde_json::json!({"lan": [ip]}).to_string()] {
            let of = facts(&[(annotation::NETWORKS, HASHED), (ADDRESSES, &wish)], None);
            if let Ok(Some(ips)) = of.addresses(&"pod094a367b026".parse().unwrap()) {
                prop_assert!(ips.iter().all(|ip| !ip.contains([';', '=', ',', ' '])), "{ips:?}");
            }
        }
    }
}
