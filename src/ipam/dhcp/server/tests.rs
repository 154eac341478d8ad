use std::time::Duration;

use dhcproto::v4::{DhcpOption, OptionCode, UnknownOption};
use proptest::prelude::*;

use super::*;
use crate::ipam::dhcp::message::{MAX_SIZE, REQUEST_LIST, REQUESTED_ADDRESS, Reply as Read};
use crate::ipam::dhcp::options::{CLASSLESS_ROUTES, DNS, HOST_NAME, MTU, ROUTERS, SEARCH};
use crate::ipam::dhcp::tests::question;
use crate::ipam::dhcp::{Action, Identity, Lease, Machine, Route, Start, Wish};

const MAC: Mac = Mac::new([2, 0, 0x5e, 0x10, 0, 1]);
const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const SERVER_ID: Ipv4Addr = Ipv4Addr::new(169, 254, 67, 67);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

fn gift() -> Gift {
    let lease = Lease {
        address: ADDRESS,
        prefix: 24,
        mask_given: true,
        server: SERVER_ID,
        routers: vec![],
        routes: vec![
            Route { dst: "198.51.100.0/24".parse().unwrap(), gw: Some(Ipv4Addr::new(192, 0, 2, 2)) },
            Route { dst: "0.0.0.0/0".parse().unwrap(), gw: Some(ROUTER) },
        ],
        dns: vec![Ipv4Addr::new(192, 0, 2, 53)],
        domain: Some("example.org".into()),
        search: vec!["a.example.org".into(), "example.org".into()],
        mtu: Some(1400),
        hostname: Some("db".into()),
        seconds: 0,
        t1: 0,
        t2: 0,
    };
    Gift { hardware: MAC, lease: lease.for_seconds(86_400), options: DhcpOptions::default(), link_mtu: 1500 }
}

/// One question, as a client would put it that knows no more than RFC 2131.
#[derive(Clone, Default)]
struct Ask {
    client: Option<Ipv4Addr>,
    options: Vec<(u8, Vec<u8>)>,
    broadcast: bool,
}

impl Ask {
    fn with(mut self, code: u8, value: &[u8]) -> Self {
        self.options.push((code, value.to_vec()));
        self
    }

    fn requested(self, address: Ipv4Addr) -> Self {
        self.with(REQUESTED_ADDRESS, &address.octets())
    }

    fn server(self, server: Ipv4Addr) -> Self {
        self.with(SERVER, &server.octets())
    }

    fn has(self, client: Ipv4Addr) -> Self {
        Self { client: Some(client), ..self }
    }

    fn bytes(&self, kind: MessageType) -> Vec<u8> {
        let client = self.client.unwrap_or(NOBODY);
        let mut message = Message::new_with_id(0x0102_0304, client, NOBODY, NOBODY, NOBODY, &MAC.bytes());
        if self.broadcast {
            message.set_flags(Flags::default().set_broadcast());
        }
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        for (code, value) in &self.options {
            message.opts_mut().insert(DhcpOption::Unknown(UnknownOption::new((*code).into(), value.clone())));
        }
        let mut bytes = Vec::new();
        message.encode(&mut Encoder::new(&mut bytes)).unwrap();
        bytes
    }

    fn turn(&self, kind: MessageType, gift: &Gift) -> Turn {
        turn(&self.bytes(kind), MAC, Some(gift)).expect("a question of this client")
    }

    fn reply(&self, kind: MessageType) -> Option<Reply> {
        self.turn(kind, &gift()).reply
    }

    fn verdict(&self, kind: MessageType) -> Option<Verdict> {
        self.reply(kind).map(|r| r.verdict)
    }
}

fn ask() -> Ask {
    Ask::default()
}

/// The codes in an answer, in the order in which they stand there.
fn order(payload: &[u8]) -> Vec<u8> {
    let (mut rest, mut codes) = (&payload[240..], Vec::new());
    while let [code @ 1..=254, length, tail @ ..] = rest {
        codes.push(*code);
        rest = &tail[usize::from(*length)..];
    }
    assert_eq!(rest.first(), Some(&END), "it ends");
    codes
}

#[test]
fn each_state_of_a_client_has_its_answer() {
    use MessageType::{Decline, Discover, Inform, Release, Request};
    let other = Ipv4Addr::new(192, 0, 2, 99);
    for (what, ask, kind, verdict) in [
        ("init", ask(), Discover, Some(Verdict::Offer)),
        ("init, with a wish", ask().requested(other), Discover, Some(Verdict::Offer)),
        ("selecting us", ask().server(SERVER_ID).requested(ADDRESS), Request, Some(Verdict::Ack)),
        ("selecting what we never offered", ask().server(SERVER_ID).requested(other), Request, Some(Verdict::Nak)),
        ("selecting another", ask().server(ROUTER).requested(ADDRESS), Request, None),
        ("selecting nonsense", ask().with(SERVER, &[169, 254]).requested(ADDRESS), Request, None),
        ("after a reboot", ask().requested(ADDRESS), Request, Some(Verdict::Ack)),
        ("after a reboot, elsewhere before", ask().requested(other), Request, Some(Verdict::Nak)),
        ("renewing", ask().has(ADDRESS), Request, Some(Verdict::Ack)),
        ("renewing what was given before", ask().has(other), Request, Some(Verdict::Nak)),
        ("asking for nothing", ask(), Request, None),
        ("asking what there is", ask().has(other), Inform, Some(Verdict::Told)),
        ("asking without an address", ask(), Inform, None),
        ("giving back", ask().has(ADDRESS).server(SERVER_ID), Release, None),
        ("declining", ask().requested(ADDRESS).server(SERVER_ID), Decline, None),
    ] {
        assert_eq!(ask.verdict(kind), verdict, "{what}");
        assert_eq!(turn(&ask.bytes(kind), MAC, None).unwrap().reply, None, "{what}, with nothing to give");
    }
    let declined = ask().requested(ADDRESS).server(SERVER_ID).turn(Decline, &gift());
    assert_eq!((declined.kind, declined.address), (Kind::Decline, Some(ADDRESS)));
}

#[test]
fn whose_question_it_is_not() {
    let good = ask().bytes(MessageType::Discover);
    assert!(turn(&good, MAC, Some(&gift())).is_some());
    assert_eq!(turn(&good, Mac::new([2, 0, 0x5e, 0x10, 0, 2]), Some(&gift())), None, "another machine's");
    for (what, at, byte) in [
        ("an answer", 0, 2),
        ("no Ethernet", 1, 6),
        ("a long address", 2, 16),
        ("relayed", 27, 1),
        ("no cookie", 236, 0),
        ("a server's kind", 242, 5),
        ("a kind of its own", 242, 99),
        ("BOOTP", 240, 0),
    ] {
        let mut bad = good.clone();
        bad[at] = byte;
        assert_eq!(turn(&bad, MAC, Some(&gift())), None, "{what}");
    }
    for length in 0..243 {
        assert_eq!(turn(&good[..length], MAC, Some(&gift())), None, "{length} bytes");
    }
}

#[test]
fn where_an_answer_goes() {
    use MessageType::{Discover, Inform, Request};
    let loud = Ask { broadcast: true, ..ask() };
    let other = Ipv4Addr::new(192, 0, 2, 99);
    for (what, ask, kind, to, client, yours) in [
        ("an offer", ask(), Discover, ADDRESS, NOBODY, ADDRESS),
        ("an offer, loud", loud.clone(), Discover, Ipv4Addr::BROADCAST, NOBODY, ADDRESS),
        ("a renewal", loud.clone().has(ADDRESS), Request, ADDRESS, ADDRESS, ADDRESS),
        ("after a reboot", ask().requested(ADDRESS), Request, ADDRESS, NOBODY, ADDRESS),
        ("a refusal", ask().has(other), Request, Ipv4Addr::BROADCAST, NOBODY, NOBODY),
        ("what there is", ask().has(other), Inform, other, other, NOBODY),
    ] {
        let reply = ask.reply(kind).unwrap();
        let message = question(&reply.payload);
        assert_eq!((reply.to, message.ciaddr(), message.yiaddr()), (to, client, yours), "{what}");
        assert_eq!((message.xid(), message.flags().broadcast()), (0x0102_0304, ask.broadcast), "{what}");
        assert_eq!((message.opcode(), message.chaddr()), (Opcode::BootReply, &MAC.bytes()[..]), "{what}");
        assert!(reply.payload.len() >= 300, "{what}");
    }
}

#[test]
fn options_come_in_the_clients_order() {
    let list = [HOST_NAME, 250, DNS, CLASSLESS_ROUTES, ROUTERS, SUBNET_MASK, DNS];
    let ask = ask().with(REQUEST_LIST, &list).with(CLIENT_ID, b"\x01\x02\0\x5e\x10\0\x01");
    let offer = ask.reply(MessageType::Discover).unwrap();
    let first = [MESSAGE_TYPE, SERVER, CLIENT_ID, LEASE_TIME, T1, T2, SUBNET_MASK];
    assert_eq!(order(&offer.payload), [&first[..], &[HOST_NAME, DNS, CLASSLESS_ROUTES, ROUTERS]].concat());
    let read = Read::read(&offer.payload).unwrap();
    assert_eq!(read.option(CLIENT_ID), Some(&b"\x01\x02\0\x5e\x10\0\x01"[..]));
    assert_eq!(read.option(ROUTERS), Some(&[192, 0, 2, 1][..]), "for who does not ask for 121");
    let told = ask.has(ADDRESS).reply(MessageType::Inform).unwrap();
    assert!(!order(&told.payload).iter().any(|c| [LEASE_TIME, T1, T2].contains(c)), "an INFORM gets no time");
    let refused = Ask::default().with(REQUEST_LIST, &list).requested(ROUTER).reply(MessageType::Request).unwrap();
    assert_eq!(order(&refused.payload), [MESSAGE_TYPE, SERVER, TEXT]);
}

#[test]
fn a_client_without_a_list_gets_all() {
    let offer = ask().reply(MessageType::Discover).unwrap();
    let mut got = order(&offer.payload);
    got.sort();
    assert_eq!(got, [1, 3, 6, 12, 15, 26, 28, 51, 53, 54, 58, 59, 119, 121]);
}

#[test]
fn what_the_machines_owner_set_is_given_asked_for_or_not() {
    let options = DhcpOptions {
        boot_file_name: Some("pxe/undionly.kpxe".into()),
        tftp_server_name: Some("192.0.2.69".into()),
        ntp_servers: vec![Ipv4Addr::new(192, 0, 2, 123), Ipv4Addr::new(192, 0, 2, 124)],
        private: [(240, "blue"), (66, "x"), (223, "y"), (255, "z")].map(|(code, v)| (code, v.to_owned())).into(),
    };
    let gift = Gift { options, ..gift() };
    let offer = ask().with(REQUEST_LIST, &[240, SUBNET_MASK]).turn(MessageType::Discover, &gift).reply.unwrap();
    assert_eq!(order(&offer.payload)[6..], [240, 66, 67, 42]);
    let read = Read::read(&offer.payload).unwrap();
    for (code, value) in
        [(66, &b"192.0.2.69"[..]), (67, b"pxe/undionly.kpxe"), (42, &[192, 0, 2, 123, 192, 0, 2, 124]), (240, b"blue")]
    {
        assert_eq!(read.option(code), Some(value), "{code}");
    }
    let message = question(&offer.payload);
    assert_eq!(message.siaddr(), Ipv4Addr::new(192, 0, 2, 69));
    assert!(message.fname().unwrap().starts_with(b"pxe/undionly.kpxe\0"));
    let refused = ask().requested(ROUTER).turn(MessageType::Request, &gift).reply.unwrap();
    assert_eq!(question(&refused.payload).siaddr(), NOBODY);
}

#[test]
fn an_answer_is_no_larger_than_the_client_takes() {
    let long = "x".repeat(200);
    let private = (224..=254).map(|code| (code, long.clone())).collect();
    let options = DhcpOptions { private, ..DhcpOptions::default() };
    let gift = Gift { options, ..gift() };
    for (asked, link_mtu, least, most) in [
        (None, 1500, 340, 548),
        (Some(100_u16), 1500, 340, 548),
        (Some(1472), 1500, 1200, 1444),
        (Some(u16::MAX), 1500, 1200, 1472),
        (Some(u16::MAX), 1400, 1100, 1372),
        (Some(u16::MAX), 9000, 6000, 8972),
    ] {
        let ask = asked.map_or(ask(), |size| ask().with(MAX_SIZE, &size.to_be_bytes()));
        let gift = Gift { link_mtu, ..gift.clone() };
        let offer = ask.turn(MessageType::Discover, &gift).reply.unwrap();
        let length = offer.payload.len();
        assert!((least..=most).contains(&length), "{asked:?} over {link_mtu}: {length} bytes");
        assert!(order(&offer.payload).starts_with(&[MESSAGE_TYPE, SERVER, LEASE_TIME, T1, T2, SUBNET_MASK]));
    }
}

#[test]
fn a_list_longer_than_an_option_comes_in_parts() {
    let mut gift = Gift { link_mtu: 9000, ..gift() };
    let route = |n: u8| Route { dst: format!("198.18.{n}.0/24").parse().unwrap(), gw: Some(ROUTER) };
    gift.lease.routes = (0..60).map(route).collect();
    let ask = ask().with(MAX_SIZE, &9000_u16.to_be_bytes()).with(REQUEST_LIST, &[CLASSLESS_ROUTES]);
    let offer = ask.turn(MessageType::Discover, &gift).reply.unwrap();
    assert_eq!(order(&offer.payload).iter().filter(|c| **c == CLASSLESS_ROUTES).count(), 2);
    let read = Read::read(&offer.payload).unwrap();
    assert_eq!(read.option(CLASSLESS_ROUTES).unwrap().len(), 60 * 8);
}

/// Lets this program's own client ask: it goes through a whole exchange, and then renews.
fn bound(gift: &Gift, start: Start) -> Option<Lease> {
    let mut id = Identity::of_vm(MAC, "default", "db", "lan");
    id.broadcast = false;
    let wish = Wish::default().usual();
    let now = Duration::from_secs(1000);
    let mut machine = Machine::new(id, wish, start, 7, now);
    loop {
        match machine.next()? {
            Action::Send { payload, .. } => {
                if let Some(reply) = turn(&payload, MAC, Some(gift)).unwrap().reply {
                    machine.receive(now, SERVER_ID, &reply.payload);
                }
            }
            Action::Probe(_) => machine.probed(now, false),
            Action::Bound(lease) => return Some(lease),
            Action::Lost(_) => return None,
        }
    }
}

#[test]
fn a_changed_address_is_told_by_a_refusal() {
    let before = bound(&gift(), Start::Discover).unwrap();
    let mut after = gift();
    after.lease.address = Ipv4Addr::new(192, 0, 2, 11);
    for start in [Start::Renew(before.clone()), Start::Rebind(before.clone()), Start::Reboot(before.address)] {
        assert_eq!(bound(&after, start), None);
    }
    assert_eq!(bound(&after, Start::Discover).unwrap().address, after.lease.address);
}

fn host() -> impl Strategy<Value = Ipv4Addr> {
    // Neither a network's own address nor its broadcast, whatever the prefix.
    any::<u32>().prop_map(|n| Ipv4Addr::new(10, (n >> 16) as u8, (n >> 8) as u8, n as u8 | 1 & !2))
}

fn label() -> impl Strategy<Value = String> {
    "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"
}

fn domain() -> impl Strategy<Value = String> {
    prop::collection::vec(label(), 1..4).prop_map(|labels| labels.join("."))
}

fn route() -> impl Strategy<Value = Route> {
    (any::<u32>(), 0..=32_u8, prop::option::of(host())).prop_filter_map("a loopback", |(n, prefix, gw)| {
        let network = ipnetwork::Ipv4Network::new(Ipv4Addr::from(n), prefix).unwrap();
        let dst = ipnetwork::Ipv4Network::new(network.network(), prefix).unwrap();
        (!dst.ip().is_loopback()).then_some(Route { dst, gw })
    })
}

fn gifts() -> impl Strategy<Value = Gift> {
    let hosts = || prop::collection::vec(host(), 0..4);
    let names = (prop::option::of(domain()), prop::collection::vec(domain(), 0..3), prop::option::of(label()));
    let seconds = prop_oneof![1..100_u32, any::<u32>().prop_map(|n| n.max(1)), Just(Lease::FOR_EVER)];
    let routes = prop::collection::vec(route(), 1..6);
    (host(), 1..=30_u8, hosts(), hosts(), routes, names, prop::option::of(68..9000_u16), seconds).prop_filter_map(
        "an address of the whole network",
        |(address, prefix, routers, dns, routes, (domain, search, hostname), mtu, seconds)| {
            let network = ipnetwork::Ipv4Network::new(address, prefix).unwrap();
            if [network.network(), network.broadcast()].contains(&address) {
                return None;
            }
            let server = SERVER_ID;
            let (t1, t2) = (0, 0);
            let lease = Lease {
                address,
                prefix,
                mask_given: true,
                server,
                routers,
                routes,
                dns,
                domain,
                search,
                mtu,
                hostname,
                seconds,
                t1,
                t2,
            };
            let lease = lease.for_seconds(seconds);
            Some(Gift { hardware: MAC, lease, options: DhcpOptions::default(), link_mtu: 1500 })
        },
    )
}

proptest! {
    #[test]
    fn what_is_given_is_what_a_client_gets(gift in gifts()) {
        let mut expected = gift.lease.clone();
        let default = expected.routes.iter().find(|r| r.dst.prefix() == 0).and_then(|r| r.gw);
        if expected.routers.is_empty() {
            expected.routers.extend(default);
        }
        let got = bound(&gift, Start::Discover).unwrap();
        prop_assert_eq!(&got, &expected);
        prop_assert_eq!(bound(&gift, Start::Renew(got.clone())), Some(expected.clone()));
        prop_assert_eq!(bound(&gift, Start::Rebind(got.clone())), Some(expected.clone()));
        prop_assert_eq!(bound(&gift, Start::Reboot(got.address)), Some(expected));
    }

    #[test]
    fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..700), real in any::<bool>()) {
        let mut question = if real { ask().bytes(MessageType::Discover) } else { Vec::new() };
        question.truncate(244);
        question.extend(bytes);
        for gift in [None, Some(&gift())] {
            if let Some(Turn { reply: Some(reply), .. }) = turn(&question, MAC, gift) {
                prop_assert!((300..=1472).contains(&reply.payload.len()));
                order(&reply.payload);
            }
        }
    }

    #[test]
    fn an_address_that_is_not_given_is_never_confirmed(
        requested in prop::option::of(host()), client in prop::option::of(host()), server in prop::option::of(host()),
    ) {
        let mut ask = Ask { client, ..ask() };
        for (code, value) in [(REQUESTED_ADDRESS, requested), (SERVER, server)] {
            ask.options.extend(value.map(|a| (code, a.octets().to_vec())));
        }
        let verdict = ask.verdict(MessageType::Request);
        prop_assert!(verdict.is_none() || verdict == Some(Verdict::Nak), "{verdict:?}");
    }
}

/// Another decoder than our own reads all of it.
#[test]
fn dhcproto_reads_what_is_written() {
    let offer = ask().reply(MessageType::Discover).unwrap();
    let message = question(&offer.payload);
    let got = |code| message.opts().get(code).cloned();
    assert_eq!(got(OptionCode::SubnetMask), Some(DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0))));
    assert_eq!(got(OptionCode::BroadcastAddr), Some(DhcpOption::BroadcastAddr(Ipv4Addr::new(192, 0, 2, 255))));
    assert_eq!(got(OptionCode::AddressLeaseTime), Some(DhcpOption::AddressLeaseTime(86_400)));
    assert_eq!(got(OptionCode::Renewal), Some(DhcpOption::Renewal(43_200)));
    assert_eq!(got(OptionCode::Rebinding), Some(DhcpOption::Rebinding(75_600)));
    assert_eq!(got(OptionCode::InterfaceMtu), Some(DhcpOption::InterfaceMtu(1400)));
    let Some(DhcpOption::DomainSearch(names)) = got(OptionCode::from(SEARCH)) else { panic!("{message}") };
    assert_eq!(names.iter().map(|n| n.to_ascii()).collect::<Vec<_>>(), ["a.example.org.", "example.org."]);
    assert!(message.opts().contains(OptionCode::from(MTU)));
}
