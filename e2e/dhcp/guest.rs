//! A guest behind the bind step, and the agent that answers it: at the far end of the tap, as QEMU would be.

use std::fs::File;
use std::net::Ipv4Addr;
use std::process::{Child, Command};
use std::time::Duration;

use dhcproto::v4::{DhcpOption, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Encodable, Encoder};
use serde_json::{Value, json};

use super::{Lends, Program, Server, conf, records};
use crate::attachment::{vm, wire};
use crate::harness::{Lab, Netns, Sniffer, Tap, eventually};
use crate::machine::{LINK, POD, TAP, bind};

const AGENT: Ipv4Addr = Ipv4Addr::new(169, 254, 67, 67);
const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
/// A transaction that can be found in a frame as text.
const XID: &str = "tEsT";
const SOON: Duration = Duration::from_secs(20);
/// For what must not come.
const WHILE: Duration = Duration::from_millis(700);

/// `trestle agent` on the lab's node, killed with the value. No API server is where its kubeconfig says: it begins after the
/// ADD, which would have to ask it for the machine.
struct Agent(Child);

impl Agent {
    fn start(lab: &Lab) -> Self {
        let (kubeconfig, log) = (lab.file("kubeconfig"), lab.file("agent.log"));
        let cluster = json!({"name": "c", "cluster": {"server": "http://127.0.0.1:1"}});
        let context = json!({"name": "c", "context": {"cluster": "c", "user": "u"}});
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [cluster], "contexts": [context],
            "users": [{"name": "u", "user": {"token": "t"}}],
        });
        std::fs::write(&kubeconfig, text.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_trestle"));
        command.args(["agent", "--node", "n1", "--no-metrics", "--kubeconfig", &kubeconfig]);
        command.env("TRESTLE_RUN_DIR", lab.run_dir()).env("TRESTLE_STATE_DIR", lab.state_dir());
        command.stderr(File::options().create(true).append(true).open(log).unwrap());
        Self(lab.node.inside(move || command.spawn().unwrap()))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Guest {
    tap: Tap,
    mac: Vec<u8>,
}

impl Guest {
    fn boot(pod: &Netns) -> Self {
        let mac = pod.link(LINK).mac.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
        Self { tap: Tap::open(pod, TAP, false).unwrap(), mac }
    }

    /// Sends one question and waits for its answer.
    fn ask(&mut self, kind: MessageType, has: Ipv4Addr, options: &[DhcpOption], time: Duration) -> Option<Message> {
        let xid = u32::from_be_bytes(XID.as_bytes().try_into().unwrap());
        let mut message = Message::new_with_id(xid, has, NOBODY, NOBODY, NOBODY, &self.mac);
        for option in [DhcpOption::MessageType(kind)].iter().chain(options) {
            message.opts_mut().insert(option.clone());
        }
        let mut payload = Vec::new();
        message.encode(&mut Encoder::new(&mut payload)).unwrap();
        // A renewal goes to the server's address, by the router's MAC.
        let to = if has == NOBODY { Ipv4Addr::BROADCAST } else { AGENT };
        let destination = if has == NOBODY { [0xff; 6] } else { [2, 0, 0, 0, 0, 0] };
        self.tap.send(&[&destination[..], &self.mac, &[8, 0], &datagram(has, to, &payload)].concat());
        // Ethernet, IPv4 and UDP, none of them with options.
        self.tap.find(XID, time).map(|frame| Message::from_bytes(&frame[42..]).unwrap())
    }

    /// From the first question to the address.
    fn bound(&mut self) -> Message {
        let mut offer = None;
        eventually("an offer", || {
            offer = self.ask(MessageType::Discover, NOBODY, &[], Duration::from_secs(1));
            offer.is_some()
        });
        let offer = offer.unwrap();
        let asked = [DhcpOption::RequestedIpAddress(offer.yiaddr()), DhcpOption::ServerIdentifier(AGENT)];
        let ack = self.ask(MessageType::Request, NOBODY, &asked, SOON).expect("an answer");
        assert_eq!((ack.opts().msg_type(), ack.yiaddr()), (Some(MessageType::Ack), offer.yiaddr()));
        ack
    }

    fn renewed(&mut self, address: Ipv4Addr) -> MessageType {
        let mut answer = None;
        eventually("an answer to a renewal", || {
            answer = self.ask(MessageType::Request, address, &[], Duration::from_secs(1));
            answer.is_some()
        });
        answer.unwrap().opts().msg_type().unwrap()
    }
}

/// IPv4 and UDP from port 68 to port 67, the latter without a checksum.
fn datagram(from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = |more: usize| ((payload.len() + more) as u16).to_be_bytes();
    let mut ip = [&[0x45, 0][..], &length(28), &[0, 0, 0, 0, 64, 17, 0, 0], &from.octets(), &to.octets()].concat();
    let mut sum: u32 = ip.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    [&ip[..], &[0, 68, 0, 67], &length(8), &[0, 0], payload].concat()
}

fn router(message: &Message) -> Option<Ipv4Addr> {
    match message.opts().get(OptionCode::Router)? {
        DhcpOption::Router(all) => all.first().copied(),
        other => panic!("{other:?}"),
    }
}

fn seconds(message: &Message) -> u32 {
    match message.opts().get(OptionCode::AddressLeaseTime) {
        Some(DhcpOption::AddressLeaseTime(seconds)) => *seconds,
        other => panic!("{other:?}"),
    }
}

fn static_ipam(_: &Lab) -> Value {
    json!({
        "type": "static", "addresses": [{"address": "192.0.2.10/24", "gateway": "192.0.2.1"}],
        "routes": [{"dst": "0.0.0.0/0"}], "dns": {"nameservers": ["192.0.2.53"]},
    })
}

fn host_local(lab: &Lab) -> Value {
    let mut ipam = wire(lab)["ipam"].clone();
    ipam["routes"] = json!([{"dst": "0.0.0.0/0"}]);
    ipam
}

/// From us, and nothing of it is heard on the LAN.
fn is_given(ipam: fn(&Lab) -> Value, address: Ipv4Addr, gateway: Ipv4Addr) {
    let (lab, lan, server) = Server::with_lan(Program::Dnsmasq, &Lends::default());
    let pod = lab.pod();
    let sniffer = Sniffer::new(&lan);
    let mut wire = vm(&lab, &pod).with("ipam", ipam(&lab));
    wire.add();
    let mut step = bind(&lab, &pod);
    step.add();
    let _agent = Agent::start(&lab);
    let mut guest = Guest::boot(&pod);
    let ack = guest.bound();
    assert_eq!((ack.yiaddr(), router(&ack), seconds(&ack)), (address, Some(gateway), 86_400));
    let server_id = ack.opts().get(OptionCode::ServerIdentifier);
    assert_eq!(server_id, Some(&DhcpOption::ServerIdentifier(AGENT)));
    assert_eq!(guest.renewed(address), MessageType::Ack);
    let mac = pod.link(LINK).mac;
    let leaked: Vec<_> = sniffer.listen(WHILE).into_iter().filter(|f| f.source() == mac).collect();
    assert!(leaked.is_empty(), "frames of the guest on the LAN: {leaked:02x?}");
    assert_eq!(server.leased(), [], "the LAN's server has heard of it");
    step.del();
    wire.del();
}

#[test]
fn a_static_address() {
    is_given(static_ipam, Ipv4Addr::new(192, 0, 2, 10), Ipv4Addr::new(192, 0, 2, 1));
}

#[test]
fn an_address_of_host_local() {
    is_given(host_local, Ipv4Addr::new(10, 1, 2, 2), Ipv4Addr::new(10, 1, 2, 1));
}

/// Killed, not stopped: nothing is said to the guest, and nothing is asked of it.
#[test]
fn an_agent_that_comes_again_goes_on() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    vm(&lab, &pod).with("ipam", static_ipam(&lab)).add();
    let mut step = bind(&lab, &pod);
    step.add();
    let mut guest = Guest::boot(&pod);
    let agent = Agent::start(&lab);
    let first = guest.bound();
    drop(agent);
    assert!(guest.ask(MessageType::Request, first.yiaddr(), &[], WHILE).is_none(), "nobody is there");
    let _agent = Agent::start(&lab);
    assert_eq!(guest.renewed(first.yiaddr()), MessageType::Ack);
    assert_eq!(guest.renewed(Ipv4Addr::new(192, 0, 2, 99)), MessageType::Nak);
    let again = guest.bound();
    assert_eq!((again.yiaddr(), seconds(&again)), (first.yiaddr(), seconds(&first)));
    step.del();
    let notes = lab.run_dir().join("guests");
    eventually("the agent forgets it", || std::fs::read_dir(&notes).is_ok_and(|mut files| files.next().is_none()));
}

/// By a child of the agent: it enters no namespace itself.
#[test]
fn what_somebody_takes_away_in_the_pod_comes_back() {
    let (lab, _lan) = Lab::with_lan();
    let pod = lab.pod();
    vm(&lab, &pod).with("ipam", static_ipam(&lab)).add();
    let mut step = bind(&lab, &pod);
    step.add();
    for link in [LINK, TAP] {
        pod.run(&format!("tc qdisc del dev {link} ingress"));
    }
    step.fails("CHECK");
    let _agent = Agent::start(&lab);
    eventually("the way to the tap", || pod.run(&format!("tc filter show dev {TAP} ingress")).contains("mirred"));
    step.check();
    Guest::boot(&pod).bound();
}

/// A descriptor in a pod's namespace would keep the namespace, and with it the veth, after the pod.
#[test]
fn an_agent_keeps_no_pod_alive() {
    let (lab, _lan) = Lab::with_lan();
    let mut pod = lab.pod();
    vm(&lab, &pod).with("ipam", static_ipam(&lab)).add();
    bind(&lab, &pod).add();
    let _agent = Agent::start(&lab);
    let mut guest = Guest::boot(&pod);
    guest.bound();
    let host_end = lab.node.other_end(&pod, LINK).name;
    drop(guest);
    pod.remove();
    eventually("the veth goes with its pod", || lab.node.find(&host_end).is_none());
}

/// We hold the lease for the guest, and the guest has it from us.
#[test]
fn an_address_that_the_lan_gives() {
    let (lab, lan, server) = Server::with_lan(Program::Kea, &Lends { seconds: 24, ..Lends::default() });
    let pod = lab.pod();
    let sniffer = Sniffer::new(&lan);
    lab.trestle(conf()).pod(&pod).of_pod("default", POD).ifname(LINK).add();
    bind(&lab, &pod).add();
    let _agent = Agent::start(&lab);
    let mut guest = Guest::boot(&pod);
    let ack = guest.bound();
    let address = Ipv4Addr::new(198, 51, 100, 10);
    assert_eq!((ack.yiaddr(), router(&ack)), (address, Some(Ipv4Addr::new(198, 51, 100, 1))));
    assert!(seconds(&ack) <= 24, "no longer than we have it: {}", seconds(&ack));
    // After the keeper has renewed, the guest gets the new time; until then what is left.
    let got_at = records(&lab)[0]["got_at"].clone();
    let deadline = std::time::Instant::now() + Duration::from_secs(100);
    while records(&lab)[0]["got_at"] == got_at {
        assert!(std::time::Instant::now() < deadline, "the keeper has not renewed");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(guest.renewed(address), MessageType::Ack);
    assert!(
        pod.json(&format!("ip -j -4 addr show dev {LINK}"))[0]["addr_info"][0].is_null(),
        "the address is back on the link"
    );
    let mac = pod.link(LINK).mac;
    let leaked = sniffer.listen(WHILE).into_iter().filter(|f| f.source() == mac).count();
    assert_eq!((leaked, server.leased().len()), (0, 1));
}
