//! A host and a pod in namespaces of their own, a veth between them, and a client with the guest's MAC at the pod's end.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::testing::{Client, MAC, ROUTER, bind, hold, lease_record, unbind};
use super::*;
use crate::agent::testing::{Cluster, context, eventually, pod_object, vmi_object};
use crate::api::On;
use crate::attach::SERVER_ID;
use crate::ipam::dhcp::server::DhcpOptions;
use crate::ipam::dhcp::{Lease, Route, Start, Step, Why};
use crate::net::frame::{Arp, Heard};
use crate::net::testing::{Bench, block_on, found, fresh, up, veth};
use crate::store::Leases;
use crate::types::{Code, Mac};

const SOON: Duration = Duration::from_secs(20);
/// For what must not come.
const WHILE: Duration = Duration::from_millis(400);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

struct Node {
    bench: Bench,
    host: Arc<Namespace>,
    ctx: Context,
    end: (u32, Mac, u32),
    pod: u32,
    dir: tempfile::TempDir,
}

impl Node {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = Bench::new();
        let (host, pod) = bench.pair().await;
        let other = fresh();
        let host_ns = Arc::new(std::mem::replace(&mut bench.host_ns, other));
        Self {
            ctx: context(dir.path()),
            end: (host.index, host.mac.unwrap(), pod.index),
            pod: pod.index,
            host: host_ns,
            bench,
            dir,
        }
    }

    fn agent(&self, source: impl Source) -> Task {
        let (ctx, host) = (self.ctx.clone(), Arc::clone(&self.host));
        Task(tokio::spawn(async move { serve(&ctx, host, source).await.unwrap() }).abort_handle())
    }

    fn bind(&self, lease: bool) {
        bind(&self.ctx.dirs, &self.host, "c1", self.end, lease);
    }

    fn client(&self) -> Client {
        Client::open(&self.bench.pod_ns, self.pod)
    }

    fn guests(&self, count: usize) -> bool {
        self.ctx.metrics.text().lines().any(|line| line == format!("trestle_guests {count}"))
    }

    fn questions(&self, labels: &str) -> bool {
        self.ctx.metrics.text().contains(&format!("trestle_guest_questions_total{{{labels}}}"))
    }
}

#[test]
fn a_guest_gets_its_address_and_a_restart_is_not_seen() {
    block_on(async {
        let node = Node::new().await;
        node.bind(false);
        let agent = node.agent(());
        let client = node.client();
        let lease = client.ask(Start::Discover, SOON).await.unwrap();
        assert_eq!((lease.address, lease.server, lease.routers.as_slice()), (ADDRESS, SERVER_ID, &[ROUTER][..]));
        assert_eq!((lease.seconds, lease.hostname.as_deref()), (86_400, Some("testvm")));
        let events = node.ctx.outbox.take_events();
        assert!(events.iter().all(|m| m.once), "another node's agent may have told it");
        let told: Vec<_> = events.iter().map(|m| (m.on, m.warning, &*m.reason, &*m.text)).collect();
        let text = "lan: 192.0.2.10/24 by 192.0.2.1, DNS 192.0.2.53, MTU 1400";
        assert_eq!(told, [(On::Pod, false, "AddressGiven", text)]);
        for labels in [r#"kind="discover",answer="offer""#, r#"kind="request",answer="ack""#] {
            assert!(node.questions(labels), "{}", node.ctx.metrics.text());
        }
        drop(agent);
        let _agent = node.agent(());
        let renewed = client.ask(Start::Renew(lease.clone()), SOON).await.unwrap();
        assert_eq!(renewed, lease);
        assert_eq!(node.ctx.outbox.take_events(), [], "it was told before");
    });
}

#[test]
fn guests_come_and_go() {
    block_on(async {
        let node = Node::new().await;
        let _agent = node.agent(());
        let client = node.client();
        eventually("it is at work", || node.guests(0)).await;
        assert_eq!(client.ask(Start::Discover, WHILE).await, Err(Why::Silent));
        for _ in 0..2 {
            node.bind(false);
            // By the directory's events, not by the look every ten seconds.
            let began = Instant::now();
            eventually("it is served", || node.guests(1)).await;
            assert!(began.elapsed() < LOOK / 2, "{:?}", began.elapsed());
            client.ask(Start::Discover, SOON).await.unwrap();
            unbind(&node.ctx.dirs, "c1");
            eventually("it is served no more", || node.guests(0)).await;
            assert_eq!(client.ask(Start::Discover, WHILE).await, Err(Why::Silent));
        }
        assert!(std::fs::read_dir(node.ctx.dirs.run.join("guests")).unwrap().next().is_none(), "notes are left");
    });
}

/// Our own client asks for the guest as well, from its own MAC and over the same veth.
#[test]
fn who_is_not_the_guest_is_not_answered() {
    block_on(async {
        let node = Node::new().await;
        node.bind(false);
        let _agent = node.agent(());
        let mut client = node.client();
        client.source = Mac::new([0xfe, 0, 0, 0, 0, 9]);
        assert_eq!(client.ask(Start::Discover, WHILE).await, Err(Why::Silent));
        client.source = MAC;
        client.ask(Start::Discover, SOON).await.unwrap();
    });
}

#[test]
fn a_link_that_is_another_one_by_now_is_left_alone() {
    block_on(async {
        let node = Node::new().await;
        let other = Mac::new([0xfe, 0, 0, 0, 0, 9]);
        bind(&node.ctx.dirs, &node.host, "c1", (node.end.0, other, node.pod + 1), false);
        let _agent = node.agent(());
        eventually("it is known", || node.guests(1)).await;
        assert_eq!(node.client().ask(Start::Discover, WHILE).await, Err(Why::Silent));
    });
}

/// As udev does it to a link whose MAC is the kernel's own choice.
#[test]
fn a_host_end_that_got_another_mac_is_the_same_one() {
    block_on(async {
        let node = Node::new().await;
        let as_bound = Mac::new([0xfe, 0, 0, 0, 0, 9]);
        bind(&node.ctx.dirs, &node.host, "c1", (node.end.0, as_bound, node.pod), false);
        let _agent = node.agent(());
        node.client().ask(Start::Discover, SOON).await.unwrap();
    });
}

/// Each at its own port; what one of them is told goes by its port alone.
#[test]
fn two_guests_of_one_mac_are_two() {
    block_on(async {
        let node = Node::new().await;
        node.bind(false);
        let other_pod = fresh();
        let (here, there) = ("other0".parse().unwrap(), "there0".parse().unwrap());
        node.bench.host.create_veth(&veth(&here, &there, &other_pod)).await.unwrap();
        let inside = other_pod.netlink().unwrap();
        up(&inside, "there0").await;
        up(&node.bench.host, "other0").await;
        let (end, pod) = (found(&node.bench.host, "other0").await, found(&inside, "there0").await.index);
        bind(&node.ctx.dirs, &node.host, "c2", (end.index, end.mac.unwrap(), pod), true);
        let leased = Ipv4Addr::new(198, 51, 100, 10);
        let mut record = lease_record(&node.ctx.dirs, leased, 600);
        record.container = "c2".parse().unwrap();
        Leases::new(&node.ctx.dirs).write(&record).unwrap();
        let _agent = node.agent(());
        eventually("both are served", || node.guests(2)).await;
        let (one, two) = (node.client(), Client::open(&other_pod, pod));
        let (one, two) = tokio::join!(one.ask(Start::Discover, SOON), two.ask(Start::Discover, SOON));
        assert_eq!((one.unwrap().address, two.unwrap().address), (ADDRESS, leased));
    });
}

#[test]
fn the_servers_address_is_found() {
    block_on(async {
        let node = Node::new().await;
        node.bind(false);
        let _agent = node.agent(());
        let client = node.client();
        client.ask(Start::Discover, SOON).await.unwrap();
        client.socket.ask(MAC, ROUTER).unwrap();
        client.socket.ask(MAC, SERVER_ID).unwrap();
        let began = Instant::now();
        loop {
            if let Some(Heard::Arp(arp)) = client.socket.receive().unwrap() {
                assert_eq!(arp, Arp { mac: node.end.1, sender: SERVER_ID, target: Ipv4Addr::UNSPECIFIED });
                return;
            }
            assert!(began.elapsed() < SOON, "no answer");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
}

#[test]
fn a_lease_that_we_hold_for_the_guest() {
    block_on(async {
        let node = Node::new().await;
        let (first, second) = (Ipv4Addr::new(198, 51, 100, 10), Ipv4Addr::new(198, 51, 100, 11));
        node.bind(true);
        let _agent = node.agent(());
        let client = node.client();
        assert_eq!(client.ask(Start::Discover, WHILE).await, Err(Why::Silent), "there is none");
        hold(&node.ctx.dirs, first, 600);
        let lease = client.ask(Start::Discover, SOON).await.unwrap();
        assert_eq!((lease.address, lease.server, lease.mtu), (first, SERVER_ID, Some(1300)));
        assert!((1..=600).contains(&lease.seconds), "{}", lease.seconds);
        // Our keeper's renewal brought another router, DNS server and MTU: the guest's own brings it them.
        let mut renewed = lease_record(&node.ctx.dirs, first, 600);
        let Step::Renew(held) = &mut renewed.job.step else { panic!() };
        let router = Ipv4Addr::new(198, 51, 100, 9);
        (held.routers, held.dns, held.mtu) = (vec![router], vec![router], Some(1200));
        held.routes = vec![Route { dst: "0.0.0.0/0".parse().unwrap(), gw: Some(router) }];
        Leases::new(&node.ctx.dirs).write(&renewed).unwrap();
        let lease = client.ask(Start::Renew(lease), SOON).await.unwrap();
        assert_eq!((lease.routers, lease.dns, lease.mtu), (vec![router], vec![router], Some(1200)));
        let lease = client.ask(Start::Discover, SOON).await.unwrap();
        hold(&node.ctx.dirs, second, Lease::FOR_EVER);
        let refused = client.ask(Start::Renew(lease), SOON).await.unwrap_err();
        assert!(matches!(&refused, Why::Refused { text, .. } if text.contains("198.51.100.11")), "{refused:?}");
        let lease = client.ask(Start::Discover, SOON).await.unwrap();
        assert_eq!((lease.address, lease.seconds), (second, Lease::FOR_EVER));
        let texts: Vec<String> = node.ctx.outbox.take_events().into_iter().map(|m| m.text).collect();
        assert!(texts.len() == 2 && texts[1].starts_with("lan: 198.51.100.11/24 by 198.51.100.1,"), "{texts:?}");
    });
}

/// An API server that is away, until it is not.
struct Away(Arc<AtomicBool>);

impl Source for Away {
    async fn wanted(&self, _: &Served) -> Outcome<Wanted> {
        if self.0.load(Ordering::Relaxed) {
            return Err(Failure::new(Code::ApiUnreachable, "away"));
        }
        tokio::time::sleep(Duration::from_millis(600)).await;
        let options = DhcpOptions { boot_file_name: Some("b".into()), ..DhcpOptions::default() };
        Ok(Wanted { hostname: Some("by-the-vmi".into()), options })
    }
}

#[test]
fn what_the_owner_set_is_waited_for_and_kept() {
    block_on(async {
        let node = Node::new().await;
        node.bind(false);
        let away = Arc::new(AtomicBool::new(false));
        let agent = node.agent(Away(Arc::clone(&away)));
        let lease = node.client().ask(Start::Discover, SOON).await.unwrap();
        assert_eq!(lease.hostname.as_deref(), Some("by-the-vmi"), "the first question waited");
        drop(agent);
        away.store(true, Ordering::Relaxed);
        let _agent = node.agent(Away(away));
        let began = Instant::now();
        let lease = node.client().ask(Start::Discover, SOON).await.unwrap();
        assert_eq!(lease.hostname.as_deref(), Some("by-the-vmi"), "it was kept");
        assert!(began.elapsed() < Duration::from_secs(4), "nobody had to be asked: {:?}", began.elapsed());
    });
}

#[test]
fn an_owner_who_cannot_be_asked_does_not_keep_a_guest_waiting() {
    block_on(async {
        let node = Node::new().await;
        node.bind(false);
        let _agent = node.agent(Away(Arc::new(AtomicBool::new(true))));
        let began = Instant::now();
        let lease = node.client().ask(Start::Discover, SOON).await.unwrap();
        assert_eq!((lease.address, lease.hostname.as_deref()), (ADDRESS, Some("testvm")));
        assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    });
}

#[test]
fn a_machine_is_asked_what_its_guest_is_to_hear() {
    block_on(async {
        let node = Node::new().await;
        let cluster = Cluster::new(node.dir.path());
        let mut launcher = pod_object("virt-launcher-testvm-abcde", "u1", &json!({}));
        launcher["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "name": "testvm", "uid": "v1"}]);
        cluster.put_silently(&launcher);
        let mut vmi = vmi_object("testvm", "v1", 1);
        vmi["spec"]["hostname"] = json!("db");
        cluster.put_vmi(&vmi);
        node.bind(false);
        let _agent = node.agent(OfMachine(node.ctx.clone()));
        let lease = node.client().ask(Start::Discover, SOON).await.unwrap();
        assert_eq!((lease.address, lease.hostname.as_deref()), (ADDRESS, Some("db")));
        let notes = Notes::read(&node.ctx.dirs, &"c1".parse().unwrap(), &"net1".parse().unwrap());
        assert_eq!(notes.wanted.unwrap().options.tftp_server_name.as_deref(), Some("192.0.2.9"));
    });
}
