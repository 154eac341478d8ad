//! One exchange with a server, as one process hands it to another: what to do for which link, and what came of it.
//!
//! A lease's record on disk has such a job in it: the step that is to be done next. Whoever has read it knows all that
//! keeping the lease needs.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Identity, Lease, Wish};
use crate::cni;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub netns: PathBuf,
    /// Of the namespace: at the path may be another one by now. 0 where the kernel has none (before Linux 5.14).
    pub cookie: u64,
    /// Of the link inside, which may have another name by now.
    pub index: u32,
    pub ifname: String,
    pub identity: Identity,
    pub wish: Wish,
    pub step: Step,
    /// Give up after.
    pub seconds: u32,
    /// The routes that belong to the address, where ADD has put both on the link. None: others did, or a guest has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<cni::Route>>,
    /// How the link's MTU follows what a later answer says. None: it does not, as nobody wrote down what that would need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follows: Option<Follows>,
    /// Of all routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Without a lease: the address of the one that was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Ipv4Addr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follows {
    /// The MTU that the link was made with, which no server raises. None: the server's word on it is not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<u32>,
    /// The server's, as of the last answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

impl Follows {
    /// The link's MTU by the last answer.
    pub fn link_mtu(&self) -> Option<u32> {
        self.most.map(|most| self.mtu.map_or(most, |mtu| most.min(mtu.into())))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    First,
    Renew(Lease),
    Rebind(Lease),
    Reboot(Ipv4Addr),
    Release(Lease),
    /// It has run out: the address comes off the link.
    Drop(Lease),
}

impl Job {
    /// The lease that the step is about.
    pub fn held(&self) -> Option<&Lease> {
        match &self.step {
            Step::Renew(lease) | Step::Rebind(lease) | Step::Release(lease) | Step::Drop(lease) => Some(lease),
            Step::First | Step::Reboot(_) => None,
        }
    }

    /// What there is to do next, once this lease is held.
    pub fn bound(&self, lease: Lease) -> Self {
        let routes = self.routes.as_ref().map(|_| self.routes_of(&lease));
        let follows = self.follows.clone().map(|follows| Follows { mtu: lease.mtu, ..follows });
        Self { routes, follows, before: None, step: Step::Renew(lease), ..self.clone() }
    }

    /// The routes that belong to a lease of this link.
    pub fn routes_of(&self, lease: &Lease) -> Vec<cni::Route> {
        // Older records tell the priority by their routes alone.
        let priority = self.priority.or_else(|| self.routes.iter().flatten().find_map(|r| r.priority));
        lease.as_routes(priority)
    }

    /// The same link and client, and something else to do.
    pub fn with(&self, step: Step, seconds: u32) -> Self {
        Self { step, seconds, ..self.clone() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Bound(Lease),
    /// By the server, which says why.
    Refused(String),
    Silent,
    /// The namespace or the link is no longer there.
    Gone,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipam::dhcp::Route;
    use crate::types::Mac;

    fn lease(gateways: &[(&str, &str)], mtu: Option<u16>) -> Lease {
        let route = |(dst, gw): &(&str, &str)| Route { dst: dst.parse().unwrap(), gw: gw.parse().ok() };
        Lease {
            address: [192, 0, 2, 7].into(),
            prefix: 24,
            mask_given: true,
            server: [192, 0, 2, 1].into(),
            routers: vec![],
            routes: gateways.iter().map(route).collect(),
            dns: vec![[192, 0, 2, 53].into(), [192, 0, 2, 54].into()],
            domain: None,
            search: vec![],
            mtu,
            hostname: None,
            seconds: 100,
            t1: 50,
            t2: 87,
        }
    }

    fn job(routes: Option<Vec<cni::Route>>, follows: Option<Follows>) -> Job {
        Job {
            netns: "/proc/self/ns/net".into(),
            cookie: 1,
            index: 2,
            ifname: "net1".into(),
            identity: Identity::of_vm(Mac::new([2, 0, 0, 0, 0, 1]), "prod", "db", "lan"),
            wish: Wish::default(),
            step: Step::First,
            seconds: 1,
            priority: routes.as_ref().map(|_| 7),
            before: None,
            routes,
            follows,
        }
    }

    #[test]
    fn routes_and_mtu_are_the_last_answers() {
        let (one, two) = (lease(&[("0.0.0.0/0", "192.0.2.1")], None), lease(&[("10.0.0.0/8", "")], Some(1400)));
        let follows = Follows { most: Some(1450), mtu: None };
        let before = job(Some(one.as_routes(Some(7))), Some(follows.clone()));
        assert_eq!(before.follows.as_ref().unwrap().link_mtu(), Some(1450));
        let next = before.bound(two.clone());
        let told = serde_json::to_value(next.routes.as_ref().unwrap()).unwrap();
        assert_eq!(told, serde_json::json!([{"dst": "10.0.0.0/8", "gw": "0.0.0.0", "scope": 253, "priority": 7}]));
        assert_eq!((next.follows.as_ref().unwrap().link_mtu(), next.held()), (Some(1400), Some(&two)));
        let larger = next.bound(lease(&[], Some(9000)));
        assert_eq!(larger.follows.unwrap().link_mtu(), Some(1450), "never more than the link was made with");
        // Of an earlier version, which has the priority with the routes alone; and a machine's.
        let old = Job { priority: None, ..job(Some(one.as_routes(Some(7))), None) };
        assert_eq!(old.bound(two.clone()).routes, Some(two.as_routes(Some(7))));
        assert_eq!(job(None, Some(follows)).bound(two).routes, None);
    }

    #[test]
    fn what_is_new_is_said_and_another_order_is_not() {
        let (a, b) = (("0.0.0.0/0", "192.0.2.1"), ("10.0.0.0/8", "192.0.2.9"));
        let (before, mut now) = (lease(&[a, b], None), lease(&[b, a], None));
        now.dns.reverse();
        assert_eq!(now.amends(&before), None);
        now = Lease { mtu: Some(1400), domain: Some("lab.test".into()), ..lease(&[b], None) };
        now.dns.pop();
        let text = "routes 10.0.0.0/8 by 192.0.2.9 instead of 0.0.0.0/0 by 192.0.2.1 and 10.0.0.0/8 by 192.0.2.9, \
            DNS 192.0.2.53 instead of 192.0.2.53 and 192.0.2.54, domains lab.test instead of none, MTU 1400 instead of none";
        assert_eq!(now.amends(&before).as_deref(), Some(text));
    }
}
