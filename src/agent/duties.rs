//! Joins the duties that know neither the watches nor the command line to the agent: hands each what it needs, and makes
//! metrics and Events of what it says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::context::Context;
use super::keeper::{BootClock, Children, Keeper, News, Report, keep};
use super::metrics::{self, Family};
use super::{advertise, guests, readdressed, repair, tell};
use crate::api::Limits;
use crate::attach;
use crate::ipam::dhcp::Job;
use crate::meta;
use crate::plan::BridgeRule;
use crate::store::{Dirs, Entry, Journal, LeaseRecord, NodeConfig};
use crate::types::{ContainerId, Failure, Outcome, PodRef, Role};

/// Between two attempts to be the node's keeper.
const PAUSE: Duration = Duration::from_secs(1);

const LEASES: Family = Family::gauge("trestle_leases", "DHCP leases that are kept.");
const NEWS: Family = Family::counter("trestle_lease_news_total", "What happened to DHCP leases.");

/// What the command line says of these duties.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Bridges by these names count; none: those that pods' networks may name.
    pub bridges: Vec<String>,
    pub require_uplink: bool,
    /// Where metrics are asked for; none: nowhere.
    pub metrics: Option<SocketAddr>,
}

pub async fn advertise(ctx: Context) -> Outcome<()> {
    let part = Duration::from_secs(5);
    let api = ctx.api(Limits { connect: Duration::from_secs(3), request: part, total: part * 2 })?;
    let rule = BridgeRule {
        globs: ctx.wanted.bridges.clone(),
        allow: NodeConfig::read(&ctx.dirs)?.allow_bridges,
        require_uplink: ctx.wanted.require_uplink,
    };
    let node = advertise::ThisNode::new(&api, &ctx.node);
    tokio::select! {
        done = advertise::run(&ctx, rule, &node) => done,
        () = ctx.ended() => Ok(()),
    }
}

pub async fn repair(ctx: Context) -> Outcome<()> {
    let tell = |said: &repair::Said| {
        if let Some(pod) = &said.pod {
            tell::complain(&ctx, pod, said.kind.reason(said.done), &said.text);
        }
    };
    let children = Children::of_this_program(&ctx.dirs);
    tokio::select! {
        done = repair::run(&ctx, &tell, &children) => done,
        () = ctx.ended() => Ok(()),
    }
}

pub async fn metrics(ctx: Context) -> Outcome<()> {
    let Some(address) = ctx.wanted.metrics else { return Ok(()) };
    let listener = metrics::bind(address)?;
    tokio::select! {
        done = metrics::serve(listener, ctx.metrics.clone()) => done,
        () = ctx.ended() => Ok(()),
    }
}

pub async fn calls(ctx: Context) -> Outcome<()> {
    tokio::select! {
        done = metrics::listen(&ctx.dirs, &ctx.metrics) => done,
        () = ctx.ended() => Ok(()),
    }
}

pub async fn leases(ctx: Context) -> Outcome<()> {
    loop {
        let (held, heard) = readdressed::channel();
        let keeper = Keeper {
            dirs: ctx.dirs.clone(),
            exchange: Children::of_this_program(&ctx.dirs),
            clock: BootClock,
            report: Told { ctx: ctx.clone(), held },
            root: PathBuf::new(),
        };
        tokio::select! {
            done = keep(keeper) => done?,
            () = readdressed::run(&ctx, heard) => {}
            () = ctx.ended() => return Ok(()),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

pub async fn guests(ctx: Context) -> Outcome<()> {
    tokio::select! {
        done = guests::run(&ctx, guests::OfMachine(ctx.clone())) => done,
        () = ctx.ended() => Ok(()),
    }
}

struct Told {
    ctx: Context,
    held: readdressed::Held,
}

impl Report for Told {
    fn lease(&self, record: &LeaseRecord<Job>, news: &News) {
        let (label, event) = words(record, news);
        self.ctx.metrics.add(&NEWS, &[("news", label)], 1);
        let Some((namespace, name)) = record.pod.as_deref().and_then(|pod| pod.split_once('/')) else { return };
        if let Some((reason, text)) = event {
            let pod = PodRef { namespace: namespace.into(), name: name.into(), uid: record.pod_uid.clone() };
            tell::complain(
                &self.ctx,
                &pod,
                reason,
                &format!("{} of network {}: {text}", record.ifname, record.network),
            );
        }
    }

    fn torn(&self, name: &str, why: &Failure) {
        self.ctx.metrics.add(&NEWS, &[("news", "torn")], 1);
        let Some((container, ifname)) = name.trim_end_matches(".json").rsplit_once('~') else { return };
        let pod = container.parse().ok().and_then(|container| pod_of(&self.ctx.dirs, &container));
        if let Some(pod) = pod {
            let text = format!(
                "{ifname}: its lease is not renewed, and the address vanishes at its end: re-create the pod; {}",
                why.msg
            );
            tell::complain(&self.ctx, &pod, "LeaseUnreadable", &text);
        }
    }

    fn held(&self, record: &LeaseRecord<Job>) {
        self.held.say(record);
    }

    fn kept(&self, count: usize) {
        self.ctx.metrics.set(&LEASES, &[], count as f64);
    }
}

/// By the journal.
fn pod_of(dirs: &Dirs, container: &ContainerId) -> Option<PodRef> {
    let entries = Journal(dirs).of_container(container).ok()?;
    let pod = |entry: Entry| match entry.id.role {
        Role::Meta => meta::place(&entry).ok()?.pod,
        _ => attach::place(&entry).ok()??.pod,
    };
    entries.into_iter().flatten().find_map(pod)
}

/// For the metric, and for people where they should know.
fn words(record: &LeaseRecord<Job>, news: &News) -> (&'static str, Option<(&'static str, String)>) {
    let now = || record.job.held().map_or_else(|| "an address".into(), |lease| lease.address.to_string());
    match news {
        News::Renewed => ("renewed", None),
        News::Got => ("got", Some(("LeaseRegained", format!("it has {} again", now())))),
        News::Changed { before } => {
            ("changed", Some(("AddressChanged", format!("it has {} in place of {before}", now()))))
        }
        News::Unkept(time) => {
            let text =
                format!("lease without keeper until now, for {} s: no agent ran; it is kept again", time.as_secs());
            ("unkept", Some(("LeaseUnkept", text)))
        }
        News::Amended(text) => ("amended", Some(("LeaseChanged", format!("the DHCP server gives {text}")))),
        News::Silent => ("silent", None),
        News::Refused(why) => {
            let text = format!("the address must not be used any more, another one is asked for: {why}");
            ("refused", Some(("LeaseRefused", text)))
        }
        // The Event is that of the refusal.
        News::Lost { refused: true } => ("lost", None),
        News::Lost { refused: false } => {
            let text = "the lease ran out, as no DHCP server has renewed it: no address until one gives one";
            ("lost", Some(("LeaseLost", text.into())))
        }
        News::Forgotten => ("forgotten", None),
        News::Failed => ("failed", None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::testing::context;
    use crate::ipam::dhcp::Step;
    use crate::types::{AttachmentId, Code};

    #[test]
    fn what_happens_to_a_lease_is_counted_and_the_bad_news_become_events() {
        let tmp = tempfile::tempdir().unwrap();
        let ctx = context(tmp.path());
        let told = Told { ctx: ctx.clone(), held: readdressed::channel().0 };
        let (container, ifname) = ("c1".parse().unwrap(), "net1".parse().unwrap());
        let job = crate::agent::keeper::tests::job(1);
        let mut record = LeaseRecord::new(&ctx.dirs, container, ifname, "lan", job).unwrap();
        told.lease(&record, &News::Lost { refused: false });
        assert!(ctx.outbox.take_events().is_empty(), "nobody knows whose it is");
        (record.pod, record.pod_uid) = (Some("prod/web".into()), Some("u1".into()));
        told.lease(&record, &News::Renewed);
        assert!(ctx.outbox.take_events().is_empty());
        told.lease(&record, &News::Lost { refused: false });
        told.lease(&record, &News::Lost { refused: true });
        let events = ctx.outbox.take_events();
        assert_eq!((events.len(), events[0].reason.as_str()), (1, "LeaseLost"));
        assert_eq!(events[0].about.uid.as_deref(), Some("u1"), "another pod of that name is not blamed");
        assert!(events[0].text.starts_with("net1 of network lan: "), "{}", events[0].text);
        // After that the pod must not be left with bad news alone.
        record.job.step = Step::Renew(crate::agent::keeper::tests::lease(9, 60));
        told.lease(&record, &News::Got);
        told.lease(&record, &News::Changed { before: [10, 0, 0, 7].into() });
        told.lease(&record, &News::Refused("server 10.0.0.1: wrong network".into()));
        let texts: Vec<String> = ctx.outbox.take_events().into_iter().map(|e| e.text).collect();
        assert!(texts[0].ends_with(": it has 10.0.0.9 again"), "{texts:?}");
        assert!(texts[1].ends_with(": it has 10.0.0.9 in place of 10.0.0.7"), "{texts:?}");
        assert!(texts[2].contains("server 10.0.0.1: wrong network") && !texts[2].contains("ran out"), "{texts:?}");
        let id = AttachmentId { container: "c1".parse().unwrap(), ifname: "net1".parse().unwrap(), role: Role::Meta };
        let entry = json!({"pod": {"namespace": "prod", "name": "web", "uid": "u1"}, "boot": "b1", "netns": "/run/netns/p",
            "args": "", "path": [], "cni_dir": "/nonexistent", "networks": []});
        Journal(&ctx.dirs).write(&id, &"m".parse().unwrap(), &entry).unwrap();
        told.torn("c1~net1.json", &Failure::new(Code::JournalBroken, "c1~net1.json is torn"));
        told.torn("c2~net1.json", &Failure::new(Code::JournalBroken, "c2~net1.json is torn"));
        let events = ctx.outbox.take_events();
        assert_eq!((events.len(), events[0].reason.as_str()), (1, "LeaseUnreadable"), "one pod is known");
        assert_eq!(events[0].about.uid.as_deref(), Some("u1"));
        told.kept(3);
        let text = ctx.metrics.text();
        for line in [
            "trestle_leases 3",
            "trestle_lease_news_total{news=\"lost\"} 3",
            "trestle_lease_news_total{news=\"torn\"} 2",
            "trestle_lease_news_total{news=\"renewed\"} 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
