//! A VM's wire: every frame that comes in at one link leaves at another, untouched.
//!
//! An ingress qdisc, and in it a u32 filter that matches anything and has one action: mirred, egress redirect. u32
//! is in every kernel that people run; matchall is not.

use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    TcAction, TcActionAttribute, TcActionMirror, TcActionMirrorOption, TcActionOption, TcActionType, TcAttribute,
    TcFilterMatchAllOption, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage, TcMirror, TcMirrorActionType,
    TcOption, TcU32Key, TcU32Selector, TcU32SelectorFlags,
};

use super::netlink::Ask;
use super::{NetResult, Netlink};

/// Handle `ffff:` of an ingress (or clsact) qdisc, parent of its filters.
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0 };
/// After filters that drop.
const PRIORITY: u16 = 100;

impl Netlink {
    /// EEXIST: `from` has an ingress (or clsact) qdisc already.
    pub async fn redirect(&self, from: u32, to: u32) -> NetResult<()> {
        self.make_ingress(from).await?;
        let done = self.add_redirect(from, to).await;
        if done.is_err() {
            // Nothing is left of what failed; a second failure would not be worth more than the first.
            let _ = self.clear_ingress(from).await;
        }
        done
    }

    /// The qdisc alone. EEXIST as above.
    pub async fn make_ingress(&self, index: u32) -> NetResult<()> {
        let ask = Ask::new("add ingress", format!("to link {index}"));
        let message = RouteNetlinkMessage::NewQueueDiscipline(qdisc(index));
        self.change(ask, message, NLM_F_CREATE | NLM_F_EXCL).await.map(drop)
    }

    /// In the qdisc that is there.
    pub async fn add_redirect(&self, from: u32, to: u32) -> NetResult<()> {
        let ask = Ask::new("redirect", format!("link {from} to link {to}"));
        let message = RouteNetlinkMessage::NewTrafficFilter(filter(from, to));
        self.change(ask, message, NLM_F_CREATE | NLM_F_EXCL).await.map(drop)
    }

    /// Whether the link has an ingress (or clsact) qdisc: there is place for one.
    pub async fn has_ingress(&self, index: u32) -> NetResult<bool> {
        Ok(self.ingress_kind(index).await?.is_some())
    }

    /// Of the one qdisc of either kind that a link has place for.
    pub async fn ingress_kind(&self, index: u32) -> NetResult<Option<String>> {
        let index = index.cast_signed();
        let ask = Ask::new("list qdiscs", format!("of link {index}"));
        let query = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::with_index(index));
        // The kernel lists those of all links.
        let here = |m: RouteNetlinkMessage| match m {
            RouteNetlinkMessage::NewQueueDiscipline(q)
                if q.header.index == index && q.header.parent == TcHandle::INGRESS =>
            {
                let kind = |a| if let TcAttribute::Kind(kind) = a { Some(kind) } else { None };
                Some(q.attributes.into_iter().find_map(kind).unwrap_or_default())
            }
            _ => None,
        };
        Ok(self.dump(ask, query).await?.into_iter().find_map(here))
    }

    /// Index of the link that frames coming in at `from` are redirected to.
    pub async fn redirect_target(&self, from: u32) -> NetResult<Option<u32>> {
        Ok(self.ingress_filters(from).await?.into_iter().flatten().next())
    }

    /// Where the filters at a link's ingress redirect to, `None` for what does not; 0: to a link that is gone. Empty
    /// where there is no filter.
    pub async fn ingress_filters(&self, from: u32) -> NetResult<Vec<Option<u32>>> {
        let mut query = TcMessage::with_index(from.cast_signed());
        query.header.parent = INGRESS;
        let ask = Ask::new("list filters", format!("of link {from}"));
        let found = self.dump(ask, RouteNetlinkMessage::GetTrafficFilter(query)).await?;
        Ok(found.into_iter().map(target).collect())
    }

    /// Takes the ingress qdisc and all its filters away; that it has none is no error. A clsact qdisc is somebody
    /// else's and stays.
    pub async fn clear_ingress(&self, from: u32) -> NetResult<()> {
        let ask = Ask::new("clear ingress", format!("of link {from}"));
        let message = RouteNetlinkMessage::DelQueueDiscipline(qdisc(from));
        match self.change(ask, message, 0).await {
            // ENOENT where a link never had one. EINVAL where the place is empty again or has a clsact: neither handle
            // nor kind are those of what is there.
            Err(e) if !e.gone() && !e.is(Errno::EINVAL) => Err(e),
            _ => Ok(()),
        }
    }
}

fn qdisc(index: u32) -> TcMessage {
    let mut m = TcMessage::with_index(index.cast_signed());
    m.header.parent = TcHandle::INGRESS;
    m.header.handle = INGRESS;
    m.attributes.push(TcAttribute::Kind("ingress".into()));
    m
}

fn filter(from: u32, to: u32) -> TcMessage {
    let mut parms = TcMirror::default();
    parms.eaction = TcMirrorActionType::EgressRedir;
    parms.generic.action = TcActionType::Stolen;
    parms.ifindex = to;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.into()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(parms))]),
    ];
    // One key with mask 0 at offset 0 matches every frame.
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = 1;
    selector.keys = vec![TcU32Key::default()];
    let mut m = TcMessage::with_index(from.cast_signed());
    m.header.parent = INGRESS;
    m.header.info = all_protocols(PRIORITY);
    m.attributes = vec![
        TcAttribute::Kind(TcFilterU32::KIND.into()),
        TcAttribute::Options(vec![
            TcOption::U32(TcFilterU32Option::Selector(selector)),
            TcOption::U32(TcFilterU32Option::Action(vec![action])),
        ]),
    ];
    m
}

/// Priority above, protocol below, the latter in network byte order.
pub(super) fn all_protocols(priority: u16) -> u32 {
    let all = (nix::libc::ETH_P_ALL as u16).to_be();
    u32::from(priority) << 16 | u32::from(all)
}

fn target(m: RouteNetlinkMessage) -> Option<u32> {
    let RouteNetlinkMessage::NewTrafficFilter(m) = m else { return None };
    let options = m.attributes.into_iter().filter_map(|a| match a {
        TcAttribute::Options(o) => Some(o),
        _ => None,
    });
    let actions = options.flatten().filter_map(|o| match o {
        TcOption::U32(TcFilterU32Option::Action(a)) | TcOption::MatchAll(TcFilterMatchAllOption::Action(a)) => Some(a),
        _ => None,
    });
    actions.flatten().flat_map(|a| a.attributes).find_map(|a| match a {
        TcActionAttribute::Options(o) => o.into_iter().find_map(|o| match o {
            TcActionOption::Mirror(TcActionMirrorOption::Parms(p)) if p.eaction == TcMirrorActionType::EgressRedir => {
                Some(p.ifindex)
            }
            _ => None,
        }),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tap;
    use crate::net::testing::{Bench, Frames, block_on, found, frame, name, up};

    /// A pod with `pod0` and a tap beside it, both up.
    async fn with_tap(b: &Bench) -> (u32, u32) {
        let pod = b.pair().await.1.index;
        b.pod_ns.enter(|| tap::create_tap(&name("tap0"), false, 107, 107)).unwrap().unwrap();
        up(&b.pod, "tap0").await;
        (pod, found(&b.pod, "tap0").await.index)
    }

    #[test]
    fn frames_pass_between_the_veth_and_the_tap_in_both_directions() {
        block_on(async {
            let b = Bench::new();
            let (pod, tap) = with_tap(&b).await;
            let host = found(&b.host, "host0").await.index;
            let mut lan = b.host_ns.enter(|| Frames::on_link(host)).unwrap();
            let mut guest = Frames::on_tap(b.pod_ns.enter(|| tap::open_tap(&name("tap0"))).unwrap().unwrap());
            lan.send(&frame("no wire yet"));
            assert!(!guest.receives(&frame("no wire yet"), 50));
            b.pod.redirect(pod, tap).await.unwrap();
            b.pod.redirect(tap, pod).await.unwrap();
            lan.send(&frame("to the guest"));
            assert!(guest.receives(&frame("to the guest"), 2000));
            guest.send(&frame("to the LAN"));
            assert!(lan.receives(&frame("to the LAN"), 2000));
        });
    }

    #[test]
    fn the_pod_itself_sees_nothing_of_what_is_redirected() {
        block_on(async {
            let b = Bench::new();
            let (pod, tap) = with_tap(&b).await;
            b.pod.redirect(pod, tap).await.unwrap();
            let host = found(&b.host, "host0").await.index;
            let mut lan = b.host_ns.enter(|| Frames::on_link(host)).unwrap();
            // A packet socket looks at a link before tc does, so this one is on a bridge that the link is a port of.
            b.pod.create_bridge(&name("br0"), None, false).await.unwrap();
            up(&b.pod, "br0").await;
            let bridge = found(&b.pod, "br0").await.index;
            let port = crate::net::LinkChange { master: Some(bridge), ..Default::default() };
            b.pod.set_link(pod, &port).await.unwrap();
            let mut inside = b.pod_ns.enter(|| Frames::on_link(bridge)).unwrap();
            lan.send(&frame("for the guest only"));
            assert!(!inside.receives(&frame("for the guest only"), 50));
            b.pod.clear_ingress(pod).await.unwrap();
            lan.send(&frame("for anybody"));
            assert!(inside.receives(&frame("for anybody"), 2000));
        });
    }

    #[test]
    fn a_redirect_is_found_again_and_cleared_twice() {
        block_on(async {
            let b = Bench::new();
            let (pod, tap) = with_tap(&b).await;
            assert_eq!(b.pod.redirect_target(pod).await.unwrap(), None);
            b.pod.redirect(pod, tap).await.unwrap();
            assert_eq!(b.pod.redirect_target(pod).await.unwrap(), Some(tap));
            assert_eq!(b.pod.redirect_target(tap).await.unwrap(), None);
            assert!(b.pod.redirect(pod, tap).await.unwrap_err().is(Errno::EEXIST));
            assert_eq!(b.pod.redirect_target(pod).await.unwrap(), Some(tap));
            for _ in 0..2 {
                b.pod.clear_ingress(pod).await.unwrap();
                assert_eq!(b.pod.redirect_target(pod).await.unwrap(), None);
            }
            b.pod.clear_ingress(99).await.unwrap();
        });
    }

    #[test]
    fn it_is_seen_whether_a_link_has_an_ingress_and_what_its_filters_do() {
        block_on(async {
            let b = Bench::new();
            let (pod, tap) = with_tap(&b).await;
            let redirects =
                async || b.pod.ingress_filters(pod).await.unwrap().into_iter().flatten().collect::<Vec<_>>();
            assert!(!b.pod.has_ingress(pod).await.unwrap() && redirects().await.is_empty());
            b.pod.redirect(pod, tap).await.unwrap();
            assert!(b.pod.has_ingress(pod).await.unwrap() && !b.pod.has_ingress(tap).await.unwrap());
            assert_eq!(redirects().await, [tap]);
            b.pod.delete_link(tap).await.unwrap();
            assert_eq!(redirects().await, [0]);
        });
    }

    #[test]
    fn a_redirect_that_fails_leaves_nothing() {
        block_on(async {
            let b = Bench::new();
            let (pod, tap) = with_tap(&b).await;
            let refused = b.pod.redirect(pod, 99).await.unwrap_err();
            assert!(refused.is(Errno::ENODEV), "{refused}");
            // EEXIST here would be the qdisc of the first attempt.
            b.pod.redirect(pod, tap).await.unwrap();
        });
    }
}
