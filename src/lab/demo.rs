//! The play itself: pods are attached, pings go across, the refusal comes, everything is taken down.
//!
//! Each step goes into the report, and a step that fails does not keep the others from being shown. Knows the order
//! and what each step has to prove; how a LAN, a guest or a plugin is run is next door.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use ipnetwork::Ipv4Network;
use tokio::runtime::Runtime;

use super::guest::linux::Kit;
use super::guest::{Guest, QEMU, Spec, What};
use super::lan::{self, BRIDGE, GUEST, Lan, NEIGHBOUR, PREFIX};
use super::ping::ping;
use super::pods::{self, FALLBACK, FALLBACK_ADDRESS, PLAIN, REFUSED, VM, VM_LINK, VM_TAP};
use super::report::{Kind, Report};
use super::runtime::{self, Answer, Attachment, call};
use super::{survey, world};
use crate::net::{Link, Namespace};

/// Where a ping starts or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Neighbour,
    Plain,
    Fallback,
    Guest,
}

const PINGS: [(End, End); 8] = [
    (End::Neighbour, End::Plain),
    (End::Plain, End::Neighbour),
    (End::Neighbour, End::Fallback),
    (End::Fallback, End::Neighbour),
    (End::Neighbour, End::Guest),
    (End::Guest, End::Neighbour),
    (End::Guest, End::Plain),
    (End::Plain, End::Guest),
];

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Neighbour => "neighbour",
            Self::Plain => "plain pod",
            Self::Fallback => "macvlan pod",
            Self::Guest => "guest",
        }
    }

    /// The network namespace that it speaks from.
    fn place(self) -> &'static str {
        match self {
            Self::Neighbour => "neighbour",
            Self::Plain => PLAIN,
            Self::Fallback => FALLBACK,
            Self::Guest => VM,
        }
    }
}

/// A lab that stands.
pub struct Demo {
    pub report: Report,
    pub attachments: Vec<Attachment>,
    guest: Option<Guest>,
    lan: Lan,
    runtime: Runtime,
}

pub fn async_runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_io().build().context("cannot start the event loop")
}

impl Demo {
    /// In a world that was just entered; `kit` for a real Linux guest.
    pub fn play(world: &world::World, kit: Option<&Kit>) -> anyhow::Result<Self> {
        let runtime = async_runtime()?;
        let start = std::time::Instant::now();
        let lan = runtime.block_on(Lan::build()).context("cannot build the lab's LAN")?;
        let mut demo = Self { report: Report::default(), attachments: Vec::new(), guest: None, lan, runtime };
        let what = "BUILD a LAN, a neighbour on it, a node with a bridge";
        demo.report.record(Kind::Build, what, start.elapsed(), Ok(None));
        let bridge = demo.bridge();
        demo.attach(pods::plain(), true);
        demo.attach(pods::fallback(), true);
        demo.attach(pods::wire(), true);
        match &world.no_tap {
            Some(why) => demo.report.leave_out("the VM's bind step, its guest and the guest's pings", why.as_str()),
            None => demo.virtual_machine(kit),
        }
        demo.pings(world.no_tap.is_some());
        demo.refusal();
        demo.checks();
        demo.bridge_unmoved(bridge);
        let drawn = demo.runtime.block_on(survey::picture(&demo.lan, demo.guest.is_some()));
        match drawn {
            Ok(picture) => demo.report.picture = Some(picture),
            Err(e) => demo.report.record(Kind::Fact, "SEEN  the picture", Duration::ZERO, Err(e)),
        }
        Ok(demo)
    }

    fn attach(&mut self, mut attachment: Attachment, new_place: bool) {
        let what = format!("ADD   {}", attachment.what);
        let attachments = &mut self.attachments;
        self.report.step(Kind::Add, what, || {
            if new_place {
                world::make_namespace(&attachment.place)?;
            }
            let answer = call("ADD", &attachment).and_then(Answer::done);
            attachment.result = answer.as_ref().ok().cloned();
            // Also after a failure, as runtimes do: DEL must find nothing then.
            attachments.push(attachment);
            let result = answer?;
            let addresses = result["ips"].as_array().into_iter().flatten().filter_map(|ip| ip["address"].as_str());
            let addresses: Vec<_> = addresses.collect();
            Ok((!addresses.is_empty()).then(|| addresses.join(", ")))
        });
    }

    fn virtual_machine(&mut self, kit: Option<&Kit>) {
        self.attach(pods::bind(), false);
        let kind = if kit.is_some() { "Linux under QEMU" } else { "a TCP/IP stack" };
        let what = format!("START guest on {VM_TAP} as uid {QEMU}");
        let runtime = &self.runtime;
        let mut started = None;
        self.report.step(Kind::Build, what, || {
            started = Some(start_guest(runtime, kit)?);
            Ok(Some(format!("{kind}, without any capability")))
        });
        self.guest = started;
    }

    fn pings(&mut self, no_guest: bool) {
        for (from, to) in PINGS {
            if no_guest && [from, to].contains(&End::Guest) {
                continue;
            }
            let address = self.address(to);
            let shown = address.as_ref().map_or_else(|_| "no address".to_owned(), Ipv4Addr::to_string);
            let what = format!("PING  {} → {} {shown}", from.name(), to.name());
            let outcome = address.and_then(|address| self.ping(from, address));
            let time = outcome.as_ref().copied().unwrap_or_default();
            self.report.record(Kind::Ping, what, time, outcome.map(|_| None));
        }
        if !no_guest {
            let (runtime, lan) = (&self.runtime, &self.lan);
            let what = "SEEN  the neighbour knows the guest by its pod link's MAC";
            self.report.step(Kind::Fact, what, || runtime.block_on(guest_mac_at_neighbour(lan)));
        }
    }

    fn address(&self, end: End) -> anyhow::Result<Ipv4Addr> {
        match end {
            End::Neighbour => Ok(NEIGHBOUR),
            End::Guest => Ok(GUEST),
            End::Fallback => Ok(FALLBACK_ADDRESS),
            End::Plain => {
                let result = self.attachments.iter().find(|a| a.place == PLAIN).and_then(|a| a.result.as_ref());
                let text = result.and_then(|r| r["ips"][0]["address"].as_str()).context("the pod is not attached")?;
                Ok(text.parse::<Ipv4Network>()?.ip())
            }
        }
    }

    fn ping(&mut self, from: End, to: Ipv4Addr) -> anyhow::Result<Duration> {
        let time = match from {
            End::Guest => self.guest.as_mut().context("there is no guest")?.ping(to)?,
            _ => Namespace::open(&world::netns(from.place()))?.enter(|| ping(to))??,
        };
        time.context("no answer")
    }

    fn refusal(&mut self) {
        let attachment = pods::refused();
        // A runtime deletes after a failed ADD too.
        self.attachments.push(attachment.clone());
        let what = format!("ADD   {}: refused", attachment.what);
        self.report.step(Kind::Refusal, what, || {
            let namespace = world::make_namespace(REFUSED)?;
            match call("ADD", &attachment)? {
                Answer::Refused { code: 100, msg, details } if msg.contains("TR0201") => {
                    let left = self.runtime.block_on(survey::links_left(&namespace))?;
                    ensure!(left.is_empty(), "refused, but it left {}", left.join(", "));
                    Ok(Some(format!("code 100: {}", runtime::sentence(&msg, &details))))
                }
                other => bail!("it should be refused with code 100 and TR0201, but: {other:?}"),
            }
        });
    }

    fn checks(&mut self) {
        for attachment in self.attachments.iter().filter(|a| a.result.is_some()) {
            let what = format!("CHECK {}", attachment.what);
            self.report.step(Kind::Check, what, || call("CHECK", attachment)?.done().map(|_| None));
        }
    }

    fn bridge(&self) -> anyhow::Result<Link> {
        self.runtime.block_on(lan::link(&self.lan.on_node, BRIDGE))
    }

    fn bridge_unmoved(&mut self, before: anyhow::Result<Link>) {
        let after = self.bridge();
        self.report.step(Kind::Fact, format!("SEEN  {BRIDGE} has kept its own MAC and MTU"), || {
            let (before, after) = (before?, after?);
            let of = |l: &Link| format!("{} and {}", l.mac.map(|m| m.to_string()).unwrap_or_default(), l.mtu);
            ensure!(of(&before) == of(&after), "{}, now {}", of(&before), of(&after));
            Ok(None)
        });
    }

    /// Takes everything down and says so in the report.
    pub fn end(mut self) -> Report {
        drop(self.guest.take());
        take_down(&mut self.report, &self.runtime, &self.lan, &self.attachments);
        self.report
    }
}

fn start_guest(runtime: &Runtime, kit: Option<&Kit>) -> anyhow::Result<Guest> {
    let netns = world::netns(VM);
    let link = runtime.block_on(async {
        let pod = Namespace::open(&netns)?.netlink()?;
        lan::link(&pod, VM_LINK).await
    })?;
    let (tap, mac) = (VM_TAP.parse()?, link.mac.context("the pod's link has no MAC")?);
    let mtu = i64::from(link.mtu).try_into()?;
    let address = Ipv4Network::new(GUEST, PREFIX)?;
    let dir = Path::new(world::DIR);
    let (what, patience) = match kit {
        None => (What::Stack { tap, mac, mtu, address }, Duration::from_secs(10)),
        // Emulated, and on a busy machine.
        Some(kit) => (What::Program { argv: kit.prepare(dir, &tap, mac, mtu, address)? }, Duration::from_secs(100)),
    };
    let spec = Spec { parent: std::process::id(), netns, uid: QEMU, what };
    Guest::start(&spec, &dir.join("guest.log"), patience)
}

async fn guest_mac_at_neighbour(lan: &Lan) -> anyhow::Result<Option<String>> {
    let pod = Namespace::open(&world::netns(VM))?.netlink()?;
    let wanted = lan::link(&pod, VM_LINK).await?.mac;
    let card = lan::link(&lan.on_neighbour, lan::CARD).await?.index;
    let known = lan.on_neighbour.neighbours(card).await?.into_iter().find(|n| n.ip == GUEST).and_then(|n| n.mac);
    let show = |mac: Option<crate::types::Mac>| mac.map_or_else(|| "none".to_owned(), |m| m.to_string());
    ensure!(known.is_some() && known == wanted, "it knows {}, the link has {}", show(known), show(wanted));
    Ok(Some(format!("{GUEST} is at {}", show(known))))
}

/// DEL of everything, last first, and a look at what is left.
pub fn take_down(report: &mut Report, runtime: &Runtime, lan: &Lan, attachments: &[Attachment]) {
    for attachment in attachments.iter().rev() {
        let what = format!("DEL   {}", attachment.what);
        report.step(Kind::Del, what, || call("DEL", attachment)?.done().map(|_| None));
    }
    report.step(Kind::Del, "SEEN  no link, journal entry or address is left", || {
        let left = runtime.block_on(survey::left(lan, attachments))?;
        ensure!(left.is_empty(), "left: {}", left.join(", "));
        Ok(None)
    });
}
