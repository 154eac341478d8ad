//! Single exchanges, packet by packet.

use super::*;
use crate::ipam::dhcp::{Lease, Route, Why, release};

const BEGIN: Duration = Duration::from_secs(1000);

fn ms(n: u64) -> Duration {
    BEGIN + Duration::from_millis(n)
}

fn machine(id: &Identity, start: Start) -> Machine {
    Machine::new(id.clone(), wish(), start, 7, BEGIN)
}

/// The one packet that is to be sent now.
fn sent(machine: &mut Machine) -> (Ipv4Addr, Ipv4Addr, Message) {
    let Some(Action::Send { from, to, payload }) = machine.next() else { panic!("nothing is sent") };
    (from, to, question(&payload))
}

fn offer(q: &Message, n: u8) -> Vec<u8> {
    answer(q, MessageType::Offer, host(n), terms(600))
}

fn ack(q: &Message, n: u8) -> Vec<u8> {
    answer(q, MessageType::Ack, host(n), terms(600))
}

fn nak(q: &Message) -> Vec<u8> {
    answer(q, MessageType::Nak, NOBODY, vec![DhcpOption::Message("not here".into())])
}

fn lease(n: u8) -> Lease {
    let mut m = machine(&pod(1), Start::Discover);
    bind(&mut m, n);
    let Some(Action::Bound(lease)) = m.next() else { panic!("no lease") };
    lease
}

fn bind(m: &mut Machine, n: u8) {
    let (.., discover) = sent(m);
    m.receive(ms(1), SERVER, &offer(&discover, n));
    let (.., request) = sent(m);
    m.receive(ms(2), SERVER, &ack(&request, n));
    assert_eq!(m.next(), Some(Action::Probe(host(n))));
    assert_eq!(m.deadline(), None);
    m.probed(ms(3), false);
}

#[test]
fn an_address_is_preferred_until_it_is_in_use() {
    let mut m = machine(&pod(1), Start::Prefer(host(15)));
    let (.., discover) = sent(&mut m);
    assert_eq!((discover.opts().msg_type(), requested(&discover)), (Some(MessageType::Discover), Some(host(15))));
    // A server need not heed it.
    m.receive(ms(1), SERVER, &offer(&discover, 15));
    let (.., request) = sent(&mut m);
    m.receive(ms(2), SERVER, &ack(&request, 15));
    assert_eq!(m.next(), Some(Action::Probe(host(15))));
    m.probed(ms(3), true);
    let (.., decline) = sent(&mut m);
    assert_eq!(decline.opts().msg_type(), Some(MessageType::Decline));
    m.tick(m.deadline().unwrap());
    let (.., again) = sent(&mut m);
    assert_eq!((again.opts().msg_type(), requested(&again)), (Some(MessageType::Discover), None));
}

#[test]
fn the_way_to_a_lease() {
    let mut m = machine(&pod(1), Start::Discover);
    let (from, to, discover) = sent(&mut m);
    assert_eq!((from, to, discover.flags().broadcast()), (NOBODY, Ipv4Addr::BROADCAST, false));
    m.receive(ms(5), SERVER, &offer(&discover, 10));
    let (.., request) = sent(&mut m);
    assert_eq!((requested(&request), named_server(&request)), (Some(host(10)), Some(SERVER)));
    assert_eq!(request.xid(), discover.xid());
    m.receive(ms(9), SERVER, &ack(&request, 10));
    assert_eq!(m.next(), Some(Action::Probe(host(10))));
    m.probed(ms(400), false);
    let Some(Action::Bound(lease)) = m.next() else { panic!("no lease") };
    assert_eq!((lease.address, lease.prefix, lease.mask_given, lease.server), (host(10), 24, true, SERVER));
    assert_eq!((lease.seconds, lease.t1, lease.t2, m.asked()), (600, 300, 525, ms(5)));
    assert_eq!((m.next(), m.deadline()), (None, None));
}

/// The bytes as RFC 2131 lays them out; a server that is no library of ours must read them.
#[test]
fn a_discover_byte_by_byte() {
    let mut m = machine(&pod(1), Start::Discover);
    let Some(Action::Send { payload, .. }) = m.next() else { panic!("nothing is sent") };
    assert_eq!(payload.len(), 300);
    assert_eq!(payload[..4], [1, 1, 6, 0]);
    assert_eq!(payload[8..28], [0; 20]);
    assert_eq!(payload[28..34], [2, 0, 0x5e, 0x10, 0, 1]);
    assert_eq!(payload[34..236], [0; 202]);
    let options = b"\x63\x82\x53\x63\x35\x01\x01\x37\x09\x01\x79\x21\x03\x06\x0f\x77\x1a\x0c\x39\x02\x05\xc0\x3d\x0f\0cid-1/lan/eth0\xff";
    assert_eq!(payload[236..236 + options.len()], options[..]);
    assert!(payload[236 + options.len()..].iter().all(|b| *b == 0));
}

#[test]
fn questions_are_repeated_quickly_at_first_and_never_often() {
    let mut m = machine(&pod(1), Start::Discover);
    let (mut at, mut times) = (BEGIN, vec![BEGIN]);
    let (.., first) = sent(&mut m);
    while at < BEGIN + Duration::from_secs(3600) {
        at = m.deadline().unwrap();
        m.tick(at - Duration::from_nanos(1));
        assert_eq!(m.next(), None, "not before its time");
        m.tick(at);
        let (.., again) = sent(&mut m);
        assert_eq!(again.xid(), first.xid());
        assert_eq!(u64::from(again.secs()), (at - BEGIN).as_secs());
        times.push(at);
    }
    let gaps: Vec<Duration> = times.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(gaps[0] <= Duration::from_millis(500) && gaps[0] + gaps[1] <= Duration::from_secs(1), "{gaps:?}");
    assert!(gaps[..8].windows(2).all(|w| w[1] > w[0]), "{gaps:?}");
    assert!(gaps.iter().all(|g| *g <= Duration::from_secs(80)) && times.len() < 100, "{gaps:?}");
    assert_eq!(m.trouble(), format!("no DHCP server answered, questions sent: {}", times.len()));
}

#[test]
fn a_server_that_falls_silent_is_not_waited_for() {
    let mut m = machine(&pod(1), Start::Discover);
    let (.., discover) = sent(&mut m);
    m.receive(ms(1), SERVER, &offer(&discover, 10));
    let mut at = ms(1);
    for _ in 0..4 {
        assert!(sent(&mut m).2.opts().has_msg_type(MessageType::Request));
        at = m.deadline().unwrap();
        m.tick(at);
    }
    let (.., again) = sent(&mut m);
    assert!(again.opts().has_msg_type(MessageType::Discover) && again.xid() != discover.xid());
    assert!(at < BEGIN + Duration::from_secs(5));
    assert_eq!(m.trouble(), "server 192.0.2.1 offered 192.0.2.10 and then fell silent");
}

#[test]
fn a_refused_request_begins_again() {
    let mut m = machine(&pod(1), Start::Discover);
    let (.., discover) = sent(&mut m);
    m.receive(ms(1), SERVER, &offer(&discover, 10));
    let (.., request) = sent(&mut m);
    m.receive(ms(2), SERVER, &nak(&request));
    assert_eq!(m.next(), None);
    let at = m.deadline().unwrap();
    m.tick(at);
    bind(&mut m, 11);
    assert!(matches!(m.next(), Some(Action::Bound(l)) if l.address == host(11)));
    assert_eq!(m.trouble(), r#"server 192.0.2.1 refused: "not here""#);
}

#[test]
fn a_taken_address_is_declined_and_not_taken_again() {
    let mut m = machine(&pod(1), Start::Discover);
    let (.., discover) = sent(&mut m);
    m.receive(ms(1), SERVER, &offer(&discover, 10));
    let (.., request) = sent(&mut m);
    m.receive(ms(2), SERVER, &ack(&request, 10));
    assert_eq!(m.next(), Some(Action::Probe(host(10))));
    m.probed(ms(3), true);
    let (.., decline) = sent(&mut m);
    assert!(decline.opts().has_msg_type(MessageType::Decline));
    assert_eq!((requested(&decline), named_server(&decline)), (Some(host(10)), Some(SERVER)));
    let at = m.deadline().unwrap();
    assert!(at <= ms(1003));
    m.tick(at);
    let (.., discover) = sent(&mut m);
    m.receive(at, SERVER, &offer(&discover, 10));
    assert_eq!(m.next(), None, "not a DECLINE for each offer: there are ten seconds between two");
    let later = ms(10_003);
    m.receive(later, SERVER, &offer(&discover, 10));
    assert!(sent(&mut m).2.opts().has_msg_type(MessageType::Decline), "the server did not hear it");
    m.receive(later, SERVER, &offer(&discover, 10));
    assert_eq!(m.next(), None);
    assert_eq!(m.trouble(), "no other address was offered; 192.0.2.10 is in use by another host");
    m.receive(at, SERVER, &offer(&discover, 11));
    assert_eq!(requested(&sent(&mut m).2), Some(host(11)));
}

#[test]
fn a_running_lease_is_renewed() {
    let old = lease(10);
    for (start, to) in [(Start::Renew(old.clone()), SERVER), (Start::Rebind(old.clone()), Ipv4Addr::BROADCAST)] {
        let mut m = machine(&pod(1), start);
        let (from, sent_to, request) = sent(&mut m);
        assert_eq!((from, sent_to, request.ciaddr()), (host(10), to, host(10)));
        assert_eq!((requested(&request), named_server(&request)), (None, None));
        // A server that leaves its mask out has not taken it back.
        let terms = vec![DhcpOption::AddressLeaseTime(u32::MAX)];
        m.receive(ms(1), SERVER, &answer(&request, MessageType::Ack, host(10), terms));
        let Some(Action::Bound(new)) = m.next() else { panic!("not renewed") };
        assert_eq!((new.prefix, new.mask_given, new.seconds, new.t1, new.t2), (24, true, u32::MAX, u32::MAX, u32::MAX));
    }
}

/// Its answers could not come otherwise: see `Identity::broadcast`.
#[test]
fn a_guests_lease_is_renewed_by_broadcast() {
    let old = lease(10);
    for start in [Start::Renew(old.clone()), Start::Rebind(old.clone()), Start::Reboot(old.address)] {
        let mut m = machine(&guest(1), start);
        let (from, to, request) = sent(&mut m);
        assert_eq!((from, to, request.ciaddr()), (NOBODY, Ipv4Addr::BROADCAST, NOBODY));
        assert_eq!((requested(&request), named_server(&request)), (Some(host(10)), None));
        assert!(request.flags().broadcast());
    }
    let Action::Send { from, to, payload } = release(&guest(1), &wish(), &old, 1) else { panic!("not sent") };
    hold_to_the_rules(&question(&payload), from, to, payload.len());
    assert_eq!((from, to), (NOBODY, Ipv4Addr::BROADCAST));
}

#[test]
fn a_release_comes_from_the_leased_address() {
    let Action::Send { from, to, payload } = release(&pod(1), &wish(), &lease(10), 1) else { panic!("not sent") };
    hold_to_the_rules(&question(&payload), from, to, payload.len());
    assert_eq!((from, to), (host(10), SERVER));
}

#[test]
fn a_lease_that_runs_is_lost_by_a_nak_and_by_silence() {
    let old = lease(10);
    for start in [Start::Renew(old.clone()), Start::Rebind(old.clone()), Start::Reboot(old.address)] {
        let mut m = machine(&pod(1), start.clone());
        let (.., request) = sent(&mut m);
        m.receive(ms(1), SERVER, &nak(&request));
        let why = Why::Refused { server: SERVER, text: "not here".into() };
        assert_eq!((m.next(), m.deadline()), (Some(Action::Lost(why)), None));

        let mut m = machine(&pod(1), start);
        let mut at = BEGIN;
        let last = loop {
            match m.next() {
                Some(Action::Send { .. }) => at = m.deadline().unwrap(),
                Some(last) => break last,
                None => m.tick(at),
            }
        };
        assert_eq!((last, m.next()), (Action::Lost(Why::Silent), None));
        assert!(at > ms(4000) && at < ms(12_000), "{at:?}");
    }
}

#[test]
fn after_a_reboot_the_address_is_probed() {
    let mut m = machine(&pod(1), Start::Reboot(host(10)));
    let (from, to, request) = sent(&mut m);
    assert_eq!(
        (from, to, requested(&request), named_server(&request)),
        (NOBODY, Ipv4Addr::BROADCAST, Some(host(10)), None)
    );
    m.receive(ms(1), SERVER, &ack(&request, 10));
    assert_eq!(m.next(), Some(Action::Probe(host(10))));
    m.probed(ms(2), true);
    assert!(sent(&mut m).2.opts().has_msg_type(MessageType::Decline));
    assert_eq!((m.next(), m.deadline()), (Some(Action::Lost(Why::Taken(host(10)))), None));
}

/// Two servers on one LAN: the other one's NAK must not cost the lease, its ACK not bind what it was not asked for.
#[test]
fn only_the_server_that_was_asked_is_heard() {
    let from_other = |q: &Message, kind| {
        let options = [terms(600), vec![DhcpOption::ServerIdentifier(host(2))]].concat();
        answer(q, kind, host(10), options)
    };
    let mut selecting = machine(&pod(1), Start::Discover);
    let (.., discover) = sent(&mut selecting);
    selecting.receive(ms(1), SERVER, &offer(&discover, 10));
    for mut m in [selecting, machine(&pod(1), Start::Renew(lease(10))), machine(&guest(1), Start::Renew(lease(10)))] {
        let (.., request) = sent(&mut m);
        for kind in [MessageType::Ack, MessageType::Nak] {
            m.receive(ms(2), host(2), &from_other(&request, kind));
            assert_eq!(m.next(), None, "{kind:?}");
        }
        assert!(m.trouble().ends_with("an answer of server 192.0.2.2, which was not asked"), "{}", m.trouble());
        m.receive(ms(3), SERVER, &ack(&request, 10));
        assert!(matches!(m.next(), Some(Action::Probe(_) | Action::Bound(_))));
    }
    // Whoever is asked together with all others may answer.
    let mut m = machine(&pod(1), Start::Rebind(lease(10)));
    let (.., request) = sent(&mut m);
    m.receive(ms(2), host(2), &from_other(&request, MessageType::Ack));
    assert!(matches!(m.next(), Some(Action::Bound(l)) if l.server == host(2)));
}

/// An answer that came when the lease was over already: its time counts from the question.
#[test]
fn a_late_ack_is_no_lease() {
    let mut m = machine(&pod(1), Start::Discover);
    let (.., discover) = sent(&mut m);
    m.receive(ms(1), SERVER, &offer(&discover, 10));
    let (.., request) = sent(&mut m);
    m.receive(ms(2001), SERVER, &answer(&request, MessageType::Ack, host(10), terms(2)));
    assert_eq!(m.next(), None);
    assert!(
        m.trouble().ends_with("ignored: server 192.0.2.1 gave 192.0.2.10 for a time that is over"),
        "{}",
        m.trouble()
    );
}

#[test]
fn what_is_configured_as_client_id_is_the_client() {
    let wish = Wish { send: vec![(61, b"\0printer".to_vec()), (12, b"hosty".to_vec())], ..wish() };
    let mut m = Machine::new(pod(1), wish.clone(), Start::Discover, 7, BEGIN);
    let (.., discover) = sent(&mut m);
    assert_eq!(client_id(&discover), b"\0printer");
    assert_eq!(discover.opts().get(OptionCode::Hostname), Some(&DhcpOption::Hostname("hosty".into())));
    let echo = |id: &[u8]| {
        let options = [terms(600), vec![DhcpOption::ClientIdentifier(id.to_vec())]].concat();
        answer(&discover, MessageType::Offer, host(10), options)
    };
    m.receive(ms(1), SERVER, &echo(&pod(1).client_id));
    assert_eq!(m.next(), None, "it is meant for another client");
    m.receive(ms(1), SERVER, &echo(b"\0printer"));
    assert!(sent(&mut m).2.opts().has_msg_type(MessageType::Request));
    let Action::Send { payload, .. } = release(&pod(1), &wish, &lease(10), 1) else { panic!("not sent") };
    let release = question(&payload);
    assert_eq!(client_id(&release), b"\0printer");
    assert!(!release.opts().contains(OptionCode::Hostname), "a RELEASE has no wishes");
}

/// A daemon's flag asks for it. A pod's own questions are sent as ever, but for the flag.
#[test]
fn answers_are_broadcast_where_that_is_wished() {
    for broadcast in [false, true] {
        for start in [Start::Discover, Start::Reboot(host(10)), Start::Renew(lease(10))] {
            let from = if matches!(start, Start::Renew(_)) { host(10) } else { NOBODY };
            let mut m = Machine::new(pod(1), Wish { broadcast, ..wish() }, start, 7, BEGIN);
            let (by, _, question) = sent(&mut m);
            assert_eq!((question.flags().broadcast(), by), (broadcast, from));
        }
    }
}

#[test]
fn all_that_a_server_can_give() {
    let mut m = machine(&pod(1), Start::Discover);
    let (.., discover) = sent(&mut m);
    m.receive(ms(1), SERVER, &offer(&discover, 10));
    let (.., request) = sent(&mut m);
    let options = [
        terms(100),
        vec![
            DhcpOption::Router(vec![host(254), NOBODY, host(253)]),
            DhcpOption::DomainNameServer(vec![host(53), Ipv4Addr::LOCALHOST]),
            DhcpOption::DomainName("factory.example.".into()),
            DhcpOption::Hostname("printer\n".into()),
            DhcpOption::InterfaceMtu(1400),
            DhcpOption::Renewal(20),
            DhcpOption::Rebinding(40),
        ],
    ];
    m.receive(ms(2), SERVER, &answer(&request, MessageType::Ack, host(10), options.concat()));
    m.next();
    m.probed(ms(3), false);
    let Some(Action::Bound(lease)) = m.next() else { panic!("no lease") };
    assert_eq!((lease.routers, lease.dns), (vec![host(254), host(253)], vec![host(53)]));
    assert_eq!((lease.domain.as_deref(), lease.hostname, lease.mtu), (Some("factory.example"), None, Some(1400)));
    assert_eq!(lease.routes, [Route { dst: "0.0.0.0/0".parse().unwrap(), gw: Some(host(254)) }]);
    assert_eq!((lease.seconds, lease.t1, lease.t2), (100, 20, 40));
}
