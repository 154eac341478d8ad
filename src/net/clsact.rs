//! Filters that drop, at a link's ingress and egress: a [`Sieve`] in cls_bpf with direct action, which needs neither
//! bpf(2) nor the actions that small kernels lack.
//!
//! A packet socket sees a frame before the ingress hook, and PACKET_QDISC_BYPASS goes past the egress hook. The qdisc
//! `clsact` may be somebody else's: ours is one filter of its own priority and handle, and goes alone.

use nix::errno::Errno;
use rtnetlink::packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, Nla};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};

use super::bpf::{OP, Sieve};
use super::netlink::Ask;
use super::tc::all_protocols;
use super::{NetResult, Netlink};

/// Before those whose priority the kernel chooses (0xc000 and less), and before the redirect to a tap.
const PRIORITY: u16 = 67;
/// Which of the filters of this priority is ours.
const HANDLE: u32 = 0x7472;
/// Its kind.
pub const CLSACT: &str = "clsact";
/// Handle `ffff:`, of which a link has one: `clsact` or `ingress`.
const QDISC: TcHandle = TcHandle { major: 0xffff, minor: 0 };
const OPS_LEN: u16 = 4;
const OPS: u16 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Has its place on a qdisc `ingress` too.
    Ingress,
    Egress,
}

impl Netlink {
    /// Makes a link's qdisc `clsact`; false: it has one already. EEXIST: it has an `ingress` instead, beside which there
    /// is no place.
    pub async fn make_clsact(&self, index: u32) -> NetResult<bool> {
        let ask = Ask::new("add clsact", format!("to link {index}"));
        let message = RouteNetlinkMessage::NewQueueDiscipline(clsact(index));
        match self.change(ask, message, NLM_F_CREATE | NLM_F_EXCL).await {
            Err(e) if e.is(Errno::EEXIST) && self.has_clsact(index).await? => Ok(false),
            done => done.map(|_| true),
        }
    }

    async fn has_clsact(&self, index: u32) -> NetResult<bool> {
        Ok(self.ingress_kind(index).await?.is_some_and(|kind| kind == CLSACT))
    }

    /// Takes the qdisc away, unless somebody's filter is there. That it has none, or an `ingress`, is no error.
    pub async fn clear_clsact(&self, index: u32) -> NetResult<()> {
        for hook in [Hook::Ingress, Hook::Egress] {
            match self.filters_at(index, hook).await {
                Ok(filters) if filters.is_empty() => {}
                Err(e) if e.gone() => return Ok(()),
                found => return found.map(drop),
            }
        }
        let ask = Ask::new("clear clsact", format!("of link {index}"));
        absent_is_fine(self.change(ask, RouteNetlinkMessage::DelQueueDiscipline(clsact(index)), 0).await.map(drop))
    }

    /// In the place of the one that is there, if there is one. ENOENT or EINVAL: the link has no qdisc for it.
    pub async fn put_sieve(&self, index: u32, hook: Hook, sieve: &Sieve) -> NetResult<()> {
        let program = sieve.program();
        let mut m = filter(index, hook);
        let options = vec![
            TcFilterBpfOption::Other(DefaultNla::new(OPS_LEN, ((program.len() / OP) as u16).to_ne_bytes().to_vec())),
            TcFilterBpfOption::Other(DefaultNla::new(OPS, program)),
            TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
        ];
        m.attributes.push(TcAttribute::Options(options.into_iter().map(TcOption::Bpf).collect()));
        let ask = Ask::new("add filter", format!("to link {index}"));
        self.change(ask, RouteNetlinkMessage::NewTrafficFilter(m), NLM_F_CREATE).await.map(drop)
    }

    /// Whether it is there, with this very program.
    pub async fn has_sieve(&self, index: u32, hook: Hook, sieve: &Sieve) -> NetResult<bool> {
        let program = sieve.program();
        Ok(self.filters_at(index, hook).await?.iter().any(|m| is_ours(m) && ops(m).as_ref() == Some(&program)))
    }

    /// That it is not there is no error.
    pub async fn take_sieve(&self, index: u32, hook: Hook) -> NetResult<()> {
        let ask = Ask::new("remove filter", format!("of link {index}"));
        absent_is_fine(self.change(ask, RouteNetlinkMessage::DelTrafficFilter(filter(index, hook)), 0).await.map(drop))
    }

    async fn filters_at(&self, index: u32, hook: Hook) -> NetResult<Vec<TcMessage>> {
        let mut query = TcMessage::with_index(index.cast_signed());
        query.header.parent = parent(hook);
        let ask = Ask::new("list filters", format!("of link {index}"));
        let found = match self.dump(ask, RouteNetlinkMessage::GetTrafficFilter(query)).await {
            // Without a qdisc there the kernel lists nothing, or has no such parent.
            Err(e) if e.is(Errno::EINVAL) || e.is(Errno::ENOENT) => Vec::new(),
            found => found?,
        };
        Ok(found
            .into_iter()
            .filter_map(|m| match m {
                RouteNetlinkMessage::NewTrafficFilter(m) => Some(m),
                _ => None,
            })
            .collect())
    }
}

fn absent_is_fine(done: NetResult<()>) -> NetResult<()> {
    match done {
        // EINVAL where there is no qdisc, or one of another kind; ENOENT where there is no filter.
        Err(e) if !e.gone() && !e.is(Errno::EINVAL) => Err(e),
        _ => Ok(()),
    }
}

fn clsact(index: u32) -> TcMessage {
    let mut m = TcMessage::with_index(index.cast_signed());
    m.header.parent = TcHandle::CLSACT;
    m.header.handle = QDISC;
    m.attributes.push(TcAttribute::Kind(CLSACT.into()));
    m
}

fn parent(hook: Hook) -> TcHandle {
    let minor = match hook {
        Hook::Ingress => TcHandle::MIN_INGRESS,
        Hook::Egress => TcHandle::MIN_EGRESS,
    };
    TcHandle { minor, ..QDISC }
}

fn filter(index: u32, hook: Hook) -> TcMessage {
    let mut m = TcMessage::with_index(index.cast_signed());
    m.header.parent = parent(hook);
    m.header.handle = HANDLE.into();
    m.header.info = all_protocols(PRIORITY);
    m.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.into()));
    m
}

fn is_ours(m: &TcMessage) -> bool {
    m.header.info >> 16 == u32::from(PRIORITY) && m.header.handle == HANDLE.into()
}

fn ops(m: &TcMessage) -> Option<Vec<u8>> {
    let options = m.attributes.iter().filter_map(|a| match a {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    options.flatten().find_map(|o| match o {
        TcOption::Bpf(TcFilterBpfOption::Other(nla)) if nla.kind() == OPS => {
            let mut value = vec![0; nla.value_len()];
            nla.emit_value(&mut value);
            Some(value)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;
    use crate::net::bpf::Sender;
    use crate::net::frame::{self, Macs};
    use crate::net::packet::PacketSocket;
    use crate::net::testing::{Bench, Frames, block_on, found, frame, name, up};
    use crate::net::{LinkChange, Namespace};
    use crate::types::Mac;

    const GUEST: Mac = Mac::new([2, 0, 0, 0, 0, 1]);
    const STRANGER: Mac = Mac::new([0xfe, 0, 0, 0, 0, 1]);
    const LAN: Mac = Mac::new([2, 0, 0, 0, 0, 0x1a]);
    const ID: Ipv4Addr = Ipv4Addr::new(169, 254, 67, 67);
    /// Long enough for a frame without padding, which a bridge with br_netfilter cuts off.
    const DATAGRAM: &[u8] = b"a datagram of some length";
    /// A frame that stays away is waited for so long.
    const LITTLE: u16 = 60;

    fn datagram(source: Mac, ports: (u16, u16)) -> Vec<u8> {
        let macs = Macs { source, destination: frame::EVERYBODY };
        let mut f = frame::udp(macs, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, DATAGRAM);
        f[34..36].copy_from_slice(&ports.0.to_be_bytes());
        f[36..38].copy_from_slice(&ports.1.to_be_bytes());
        f
    }

    fn question(source: Mac) -> Vec<u8> {
        datagram(source, (68, 67))
    }

    fn answer(source: Mac) -> Vec<u8> {
        datagram(source, (67, 68))
    }

    /// The same with four bytes of options in its IPv4 header.
    fn with_options(mut f: Vec<u8>) -> Vec<u8> {
        f[14] = 0x46;
        f[17] += 4;
        f.splice(34..34, [1, 1, 1, 0]);
        summed(f)
    }

    fn later_fragment(mut f: Vec<u8>) -> Vec<u8> {
        f[20..22].copy_from_slice(&[0, 5]);
        summed(f)
    }

    /// br_netfilter drops a header whose checksum is wrong.
    fn summed(mut f: Vec<u8>) -> Vec<u8> {
        let end = 14 + usize::from(f[14] & 15) * 4;
        f[24..26].copy_from_slice(&[0, 0]);
        let sum: u32 = f[14..end].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        f[24..26].copy_from_slice(&sum.to_be_bytes());
        f
    }

    /// A bridge with a LAN on one port and a pod's veth on another, the filters on both of its ends.
    struct Wire {
        b: Bench,
        _lan_ns: Namespace,
        host: crate::net::Link,
        pod: crate::net::Link,
        lan: Frames,
        in_pod: Frames,
    }

    async fn wire() -> Wire {
        let b = Bench::new();
        let (host, pod) = b.pair().await;
        b.host.create_bridge(&name("br0"), None, false).await.unwrap();
        let lan_ns = crate::net::testing::fresh();
        let (port, far) = (name("port0"), name("lan0"));
        b.host.create_veth(&crate::net::testing::veth(&port, &far, &lan_ns)).await.unwrap();
        let bridge = found(&b.host, "br0").await.index;
        for link in ["host0", "port0"] {
            let index = found(&b.host, link).await.index;
            b.host
                .set_link(index, &LinkChange { master: Some(bridge), up: Some(true), ..Default::default() })
                .await
                .unwrap();
        }
        up(&b.host, "br0").await;
        let there = lan_ns.netlink().unwrap();
        up(&there, "lan0").await;
        let far = found(&there, "lan0").await.index;
        let lan = lan_ns.enter(|| Frames::of_all_kinds_on(far)).unwrap();
        let in_pod = b.pod_ns.enter(|| Frames::of_all_kinds_on(pod.index)).unwrap();
        let mut wire = Wire { b, _lan_ns: lan_ns, host, pod, lan, in_pod };
        // The bridge's ports forward a moment after they are up.
        assert!((0..100).any(|_| wire.reaches_lan(&frame("to begin"), 50)));
        assert!((0..100).any(|_| wire.reaches_pod(&frame("to begin"), 50)));
        wire
    }

    impl Wire {
        async fn filters(&self) {
            let mac = self.host.mac.unwrap();
            assert!(self.b.host.make_clsact(self.host.index).await.unwrap());
            for (hook, sieve) in [
                (Hook::Ingress, Sieve { udp_to: 67, arp_for: Some(ID), from: Sender::AllBut(STRANGER) }),
                (Hook::Egress, Sieve { udp_to: 68, arp_for: None, from: Sender::Only(mac) }),
            ] {
                self.b.host.put_sieve(self.host.index, hook, &sieve).await.unwrap();
                assert!(self.b.host.has_sieve(self.host.index, hook, &sieve).await.unwrap());
            }
        }

        /// Whether what the pod's end sends comes out at the LAN. The bridge floods each of them.
        fn reaches_lan(&mut self, frame: &[u8], milliseconds: u16) -> bool {
            self.in_pod.send(frame);
            self.lan.receives(frame, milliseconds)
        }

        fn reaches_pod(&mut self, frame: &[u8], milliseconds: u16) -> bool {
            self.lan.send(frame);
            self.in_pod.receives(frame, milliseconds)
        }
    }

    #[test]
    fn a_guests_questions_stay_and_all_else_goes_out() {
        block_on(async {
            let mut w = wire().await;
            assert!(w.reaches_lan(&question(GUEST), 2000), "without filters");
            w.filters().await;
            let ours = w.b.host_ns.enter(|| Frames::of_all_kinds_on(w.host.index)).unwrap();
            let mut ours = ours;
            for kept in [
                question(GUEST),
                with_options(question(GUEST)),
                datagram(GUEST, (1068, 67)),
                frame::arp(GUEST, Ipv4Addr::UNSPECIFIED, ID),
            ] {
                assert!(!w.reaches_lan(&kept, LITTLE), "{kept:x?}");
                assert!(ours.receives(&kept, 2000), "a packet socket on the host's end hears it");
            }
            for passes in [
                question(STRANGER),
                with_options(question(STRANGER)),
                later_fragment(question(GUEST)),
                datagram(GUEST, (67, 68)),
                datagram(GUEST, (68, 69)),
                frame::arp(GUEST, Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(169, 254, 67, 68)),
                frame::arp(STRANGER, Ipv4Addr::UNSPECIFIED, ID),
                frame("anything"),
            ] {
                assert!(w.reaches_lan(&passes, 2000), "{passes:x?}");
            }
            // A packet socket has the tag beside the frame.
            for (tag, passes) in [(0xa000u16, false), (5, true)] {
                let mut tagged = question(GUEST);
                tagged.splice(12..12, [[0x81, 0], tag.to_be_bytes()].concat());
                w.in_pod.send(&tagged);
                let milliseconds = if passes { 2000 } else { LITTLE };
                assert_eq!(w.lan.receives(&question(GUEST), milliseconds), passes, "tag {tag:x}");
            }
        });
    }

    #[test]
    fn nobody_else_speaks_as_the_hosts_end() {
        block_on(async {
            let mut w = wire().await;
            w.filters().await;
            let us = w.host.mac.unwrap();
            assert!(!w.reaches_pod(&answer(us), LITTLE) && !w.reaches_pod(&with_options(answer(us)), LITTLE));
            for passes in [answer(LAN), datagram(us, (67, 69)), later_fragment(answer(us)), frame("anything")] {
                assert!(w.reaches_pod(&passes, 2000), "{passes:x?}");
            }
            // As the one who answers does.
            let mut past = w.b.host_ns.enter(|| Frames::past_qdiscs_on(w.host.index)).unwrap();
            past.send(&answer(us));
            assert!(w.in_pod.receives(&answer(us), 2000));
        });
    }

    #[test]
    fn no_answer_but_ours_goes_by_the_redirect() {
        block_on(async {
            let mut w = wire().await;
            let us = w.host.mac.unwrap();
            w.b.pod_ns.enter(|| crate::net::tap::create_tap(&name("tap0"), false, 107, 107)).unwrap().unwrap();
            up(&w.b.pod, "tap0").await;
            let tap = found(&w.b.pod, "tap0").await.index;
            w.b.pod.redirect(w.pod.index, tap).await.unwrap();
            let only_ours = Sieve { udp_to: 68, arp_for: None, from: Sender::AllBut(us) };
            w.b.pod.put_sieve(w.pod.index, Hook::Ingress, &only_ours).await.unwrap();
            assert_eq!(w.b.pod.redirect_target(w.pod.index).await.unwrap(), Some(tap));
            let opened = w.b.pod_ns.enter(|| crate::net::tap::open_tap(&name("tap0"))).unwrap().unwrap();
            let mut guest = Frames::on_tap(opened);
            // A tap's carrier comes a moment after it was opened.
            assert!((0..100).any(|_| {
                w.lan.send(&frame("to begin"));
                guest.receives(&frame("to begin"), 50)
            }));
            let client = PacketSocket::open(&w.b.pod_ns, w.pod.index).unwrap();
            for (frame, passes) in [
                (answer(us), true),
                (answer(LAN), false),
                (with_options(answer(LAN)), false),
                (later_fragment(answer(LAN)), true),
                (datagram(LAN, (67, 69)), true),
                (question(LAN), true),
                (frame::arp(LAN, ID, ID), true),
                (frame("anything"), true),
            ] {
                w.lan.send(&frame);
                assert_eq!(guest.receives(&frame, if passes { 2000 } else { LITTLE }), passes, "{frame:x?}");
            }
            // A client of ours on the link heard the LAN's answer.
            let mut from = Vec::new();
            while let Some(heard) = client.receive().unwrap() {
                from.push(heard);
                client.wait(Duration::ZERO).unwrap();
            }
            assert!(
                from.iter().any(|h| matches!(h, frame::Heard::Udp { payload, .. } if payload == DATAGRAM)),
                "{from:?}"
            );
        });
    }

    #[test]
    fn a_clsact_of_somebody_elses_is_shared_and_stays() {
        block_on(async {
            let w = wire().await;
            let (net, index) = (&w.b.host, w.host.index);
            let sieve = Sieve { udp_to: 67, arp_for: None, from: Sender::Only(GUEST) };
            let without = net.put_sieve(index, Hook::Egress, &sieve).await.unwrap_err();
            assert!(without.is(Errno::EINVAL) || without.gone(), "{without}");
            assert!(net.make_clsact(index).await.unwrap() && !net.make_clsact(index).await.unwrap());
            for _ in 0..2 {
                net.put_sieve(index, Hook::Egress, &sieve).await.unwrap();
            }
            let changed = Sieve { udp_to: 68, ..sieve };
            assert!(!net.has_sieve(index, Hook::Egress, &changed).await.unwrap());
            net.put_sieve(index, Hook::Egress, &changed).await.unwrap();
            assert!(net.has_sieve(index, Hook::Egress, &changed).await.unwrap());
            assert!(!net.has_sieve(index, Hook::Ingress, &changed).await.unwrap());
            net.clear_clsact(index).await.unwrap();
            assert!(net.has_clsact(index).await.unwrap(), "a filter is there");
            for _ in 0..2 {
                net.take_sieve(index, Hook::Egress).await.unwrap();
                net.clear_clsact(index).await.unwrap();
                assert!(!net.has_ingress(index).await.unwrap());
            }
            net.redirect(index, found(net, "port0").await.index).await.unwrap();
            let refused = net.make_clsact(index).await.unwrap_err();
            assert!(refused.is(Errno::EEXIST), "{refused}");
            net.clear_clsact(index).await.unwrap();
            assert!(net.has_ingress(index).await.unwrap(), "another kind's stays");
            net.take_sieve(99, Hook::Ingress).await.unwrap();
            net.clear_clsact(99).await.unwrap();
        });
    }
}
