//! What the rules do to packets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use super::*;

const PORT: u16 = 9000;
const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(400);

/// A socket inside, at this address; port 0 is any.
fn socket(ns: &Ns, address: &str, port: u16) -> UdpSocket {
    let socket = ns.run(|| UdpSocket::bind((address.parse::<IpAddr>().unwrap(), port)).unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    socket
}

/// The address that this text was heard from, if it was within the time. It is sent again and again: what is sent
/// before a link has its carrier or a bridge's port forwards is lost.
fn source(ear: &UdpSocket, voice: &UdpSocket, to: &str, text: &str, wait: Duration) -> Option<String> {
    let (to, end) = (to.parse::<IpAddr>().unwrap(), Instant::now() + wait);
    let mut buffer = [0; 64];
    while Instant::now() < end {
        voice.send_to(text.as_bytes(), (to, PORT)).unwrap();
        match ear.recv_from(&mut buffer) {
            Ok((length, from)) if buffer[..length] == *text.as_bytes() => return Some(from.ip().to_string()),
            // An earlier text, sent once more than it was needed.
            Ok(_) => {}
            // A thread that ends may interrupt a `recv` that has a deadline.
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(e) => panic!("{text}: {e}"),
        }
    }
    None
}

/// pod 10.1.1.2 ─ host 10.1.1.1, 192.0.2.1 ─ outside 192.0.2.2; the same with fd01:: and fd02::.
fn routed() -> (Ns, Ns, Ns) {
    let (pod, host, outside) = (Ns::new(), Ns::new(), Ns::new());
    host.sh(&format!(
        "ip link add in type veth peer name eth0 netns {}
         ip link add out type veth peer name eth0 netns {}
         ip addr add 10.1.1.1/24 dev in; ip addr add 192.0.2.1/24 dev out
         ip addr add fd01::1/64 dev in nodad; ip addr add fd02::1/64 dev out nodad
         ip link set in up; ip link set out up
         sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        pod.path(),
        outside.path()
    ));
    let end = "ip link set eth0 up; ip addr add $4/24 dev eth0; ip addr add $6/64 dev eth0 nodad
               ip route add default via $G4; ip -6 route add default via $G6";
    let fill = |a4: &str, a6: &str, g4: &str, g6: &str| {
        end.replace("$4", a4).replace("$6", a6).replace("$G4", g4).replace("$G6", g6)
    };
    pod.sh(&fill("10.1.1.2", "fd01::2", "10.1.1.1", "fd01::1"));
    outside.sh(&fill("192.0.2.2", "fd02::2", "192.0.2.1", "fd02::1"));
    (pod, host, outside)
}

#[test]
fn a_pod_is_heard_under_the_hosts_address() {
    let (pod, host, outside) = routed();
    let attached = Pod::new("one", &["10.1.1.2/24", "fd01::2/64"]);
    let ears = (socket(&outside, "192.0.2.2", PORT), socket(&outside, "fd02::2", PORT));
    let sources = |what: &str| {
        // New sockets each time: what conntrack knows of an earlier flow would decide for the same ports.
        let voices = (socket(&pod, "10.1.1.2", 0), socket(&pod, "fd01::2", 0));
        let v4 = source(&ears.0, &voices.0, "192.0.2.2", what, LONG).expect(what);
        let v6 = source(&ears.1, &voices.1, "fd02::2", what, LONG).expect(what);
        (v4, v6)
    };
    let plain = ("10.1.1.2".to_string(), "fd01::2".to_string());
    let masqueraded = ("192.0.2.1".to_string(), "fd02::1".to_string());
    assert_eq!(sources("before"), plain);
    host.run(|| add_masquerade(&attached.masquerade()).unwrap());
    assert_eq!(sources("with"), masqueraded);
    host.run(|| remove_masquerade(&attached.masquerade()).unwrap());
    assert_eq!(sources("after"), plain);
}

#[test]
fn multicast_and_the_own_network_keep_their_source() {
    let (_pod, host, outside) = routed();
    // The pod's address on the host itself: its multicast then passes the same hook without a multicast router, and
    // leaves by the link that has the address.
    host.sh("ip addr add 10.1.1.2/32 dev out; ip route add 10.1.1.77/32 dev out");
    outside.sh("ip addr add 10.1.1.77/32 dev eth0");
    let ear = socket(&outside, "0.0.0.0", PORT);
    ear.join_multicast_v4(&Ipv4Addr::new(239, 1, 1, 1), &Ipv4Addr::new(192, 0, 2, 2)).unwrap();
    let attached = Pod::new("one", &["10.1.1.2/24"]);
    host.run(|| add_masquerade(&attached.masquerade()).unwrap());
    let source = |to: &str| source(&ear, &socket(&host, "10.1.1.2", 0), to, to, LONG).expect(to);
    assert_eq!(source("192.0.2.2"), "192.0.2.1");
    assert_eq!(source("239.1.1.1"), "10.1.1.2");
    assert_eq!(source("10.1.1.77"), "10.1.1.2");
}

/// pod and neighbour on one bridge, with fixed neighbour entries: no ARP decides whether a datagram comes through.
#[test]
fn frames_with_another_mac_do_not_pass_the_guard() {
    let (pod, host, neighbour) = (Ns::new(), Ns::new(), Ns::new());
    host.sh(&format!(
        "ip link add br0 type bridge; ip link set br0 up
         ip link add port-one type veth peer name eth0 netns {}
         ip link add port-two type veth peer name eth0 netns {}
         for l in port-one port-two; do ip link set $l master br0 up; done",
        pod.path(),
        neighbour.path()
    ));
    let mac = Mac::local([8; 6]);
    let end = |mac: &str, own: &str, to: &str, at: &str| {
        format!(
            "ip link set eth0 address {mac}; ip addr add {own}/24 dev eth0; ip link set eth0 up
             ip neigh replace {to} lladdr {at} dev eth0 nud permanent"
        )
    };
    pod.sh(&end(&mac.to_string(), "10.5.0.1", "10.5.0.2", "0a:00:00:00:00:02"));
    neighbour.sh(&end("0a:00:00:00:00:02", "10.5.0.2", "10.5.0.1", &mac.to_string()));
    let ear = socket(&neighbour, "10.5.0.2", PORT);
    let voice = socket(&pod, "10.5.0.1", 0);
    let passes = |text: &str| source(&ear, &voice, "10.5.0.2", text, LONG).is_some();
    let stays_out = |text: &str| source(&ear, &voice, "10.5.0.2", text, SHORT).is_none();
    let set_mac = |mac: &str| {
        pod.sh(&format!("ip link set eth0 address {mac}; ip neigh replace 10.5.0.2 lladdr 0a:00:00:00:00:02 dev eth0"));
    };
    assert!(passes("own MAC, no guard"));
    set_mac("0a:00:00:00:00:99");
    assert!(passes("forged MAC, no guard"));

    let guarded = Pod::new("one", &[]);
    assert_eq!(guarded.mac, mac);
    host.run(|| add_spoof_guard(&guarded.guard()).unwrap());
    assert!(stays_out("forged MAC"));
    set_mac(&mac.to_string());
    assert!(passes("own MAC"));
    set_mac("0a:00:00:00:00:99");
    assert!(stays_out("forged MAC again"));
    host.run(|| remove_spoof_guard("one", "eth0").unwrap());
    assert!(passes("forged MAC, guard gone"));
}
