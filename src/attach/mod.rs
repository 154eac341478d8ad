//! Carries out a [`crate::plan::Plan`], and undoes it: ADD, CHECK, DEL and GC of attachments.
//!
//! ```text
//! facts ─→ plan ─→ journal ─→ link ─→ guard ─→ IPAM ─→ addresses, up ─→ verify ─→ result
//!                     └────────────── on failure, DEL or GC: undo, from the record ┘
//! ```
//! Decides no rule (plan does), knows no wire format (cni does), and speaks to the kernel through net alone. What was
//! made is in the journal before it is made; DEL and GC need nothing else.

mod address;
mod asked;
mod bridge;
mod carrier;
mod check;
mod del;
pub mod dhcp;
mod facts;
mod fence;
mod filters;
mod gateway;
mod gc;
mod given;
mod guest;
mod ipam;
mod joined;
mod macvlan;
mod mend;
mod reach;
mod record;
mod served;
mod status;
#[cfg(test)]
pub mod tests;
mod undo;
mod wire;

use std::time::Duration;

use serde_json::{Map, Value};

use crate::cni::{AddResult, Call, Dns};
use crate::net::{Namespace, Netlink, Settings};
use crate::plan::{Asker, Chooser, PodFacts, conf, dropin};
use crate::store::{ContainerLock, Dirs, Journal, NodeConfig, process_start};
use crate::types::{AttachmentId, Code, ContainerId, Failure, IfName, Outcome, Role};

pub use asked::with_addresses;
pub use carrier::{fallback, outlets};
pub use del::del;
pub use fence::{Fence, SERVER_ID, fences};
pub use filters::{Missing, PodRules, amiss, rules};
pub use gc::{gc, take};
pub use joined::{Finding, Joined, Round, joined, mend};
pub use mend::{Node, PodPort, ports};
pub use reach::reach;
pub use record::{Guest, Place, place};
pub use served::{Served, Terms, guests, served};
pub use status::{journal_is_writable, status};

/// How long a call waits for another one of the same container. A runtime gives up after minutes, not seconds.
const LOCK_WAIT: Duration = Duration::from_secs(20);

/// What a configuration's `type` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Trestle,
    Bridge,
    Macvlan,
}

/// The container's lock, the search for a later DEL and the mark of a DEL belong to the outermost call of a container
/// alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Outermost,
    /// Within a call that holds the lock: the meta plugin's, in this process or above it.
    Inner,
}

/// One call, with what is known around it.
#[derive(Debug)]
pub struct Job<'a> {
    pub call: &'a Call,
    pub dirs: &'a Dirs,
    pub node: &'a NodeConfig,
    pub facts: &'a PodFacts,
    pub container: &'a ContainerId,
    pub ifname: &'a IfName,
    /// When the call began, on the boot clock in nanoseconds, if that is not when this process started.
    pub started: Option<u64>,
    pub level: Level,
    pub chooser: Chooser,
}

impl<'a> Job<'a> {
    fn journal(&self) -> Journal<'a> {
        Journal(self.dirs)
    }

    fn id(&self, role: Role) -> AttachmentId {
        AttachmentId { container: self.container.clone(), ifname: self.ifname.clone(), role }
    }

    fn asker(&self) -> Asker<'a> {
        let network = self.call.name.as_str();
        Asker { container: self.container, ifname: self.ifname, network, facts: self.facts, chooser: self.chooser }
    }

    fn lock(&self) -> Outcome<Option<ContainerLock>> {
        match self.level {
            Level::Outermost => ContainerLock::lock(self.dirs, self.container, LOCK_WAIT).map(Some),
            Level::Inner => Ok(None),
        }
    }

    /// For an undo, which works without a lock where none can be made.
    fn lock_for_undo(&self) -> Outcome<Option<ContainerLock>> {
        match self.level {
            Level::Outermost => ContainerLock::for_undo(self.dirs, self.container, LOCK_WAIT),
            Level::Inner => Ok(None),
        }
    }

    /// The namespace that the runtime names.
    fn pod_namespace(&self) -> Outcome<Namespace> {
        let Some(path) = &self.call.netns else { return Err(Failure::new(Code::Environment, "CNI_NETNS not set")) };
        Ok(Namespace::open(path)?)
    }
}

/// Both sides of an attachment, opened.
struct Sides {
    host: Namespace,
    host_links: Netlink,
    pod: Namespace,
    pod_links: Netlink,
    pod_settings: Settings,
}

impl Sides {
    fn open(job: &Job<'_>) -> Outcome<Self> {
        let pod = job.pod_namespace()?;
        let host = Namespace::own()?;
        let (pod_links, pod_settings) = pod.enter_once(&host)?;
        Ok(Self { host_links: host.netlink()?, host, pod, pod_links, pod_settings })
    }

    /// For the journal.
    fn place(&self, job: &Job<'_>) -> Outcome<Place> {
        Ok(Place {
            pod: job.facts.pod.clone(),
            netns: job.call.netns.clone().unwrap_or_default(),
            boot: job.dirs.boot_id()?,
            pod_ns: self.pod.id()?,
            host_ns: self.host.id()?,
        })
    }
}

/// What a call is about, once its configuration is read.
enum Asked {
    Wire(WireConf),
    Bind(conf::BindConf),
}

/// Configuration of a wire, by `type`.
enum WireConf {
    Trestle(Box<conf::Attachment>),
    Bridge(Box<dropin::BridgeConf>),
    Macvlan(Box<dropin::MacvlanConf>),
}

impl WireConf {
    fn parse(call: &Call, ty: Type) -> Outcome<Asked> {
        Ok(Asked::Wire(match ty {
            Type::Trestle => match conf::parse(call)? {
                conf::Conf::Attachment(a) => Self::Trestle(a),
                conf::Conf::Bind(b) => return Ok(Asked::Bind(b)),
            },
            Type::Bridge => Self::Bridge(Box::new(dropin::bridge(call)?)),
            Type::Macvlan => Self::Macvlan(Box::new(dropin::macvlan(call)?)),
        }))
    }

    fn ipam(&self) -> Option<&Map<String, Value>> {
        match self {
            Self::Trestle(c) => c.ipam.as_ref(),
            Self::Bridge(c) => c.ipam.as_ref(),
            Self::Macvlan(c) => c.ipam.as_ref(),
        }
    }

    fn dns(&self) -> &Dns {
        match self {
            Self::Trestle(c) => &c.dns,
            Self::Bridge(c) => &c.dns,
            Self::Macvlan(c) => &c.dns,
        }
    }

    fn gives_addresses(&self) -> bool {
        self.ipam().is_some() || self.bare_ips()
    }

    /// Addresses that a pod asked for, though the network has no IPAM.
    fn bare_ips(&self) -> bool {
        matches!(self, Self::Trestle(c) if c.bare_ips)
    }
}

/// The result has a form in the call's version: one that has none is a failure, and undone as any other.
pub async fn add(job: &Job<'_>, ty: Type) -> Outcome<AddResult> {
    let done = attached(job, ty).await;
    if done.is_err() {
        refused(job.dirs, job.container, job.ifname);
    }
    done
}

/// Notes that an ADD failed, unless something of the attachment is there. A runtime's DEL follows, and without an entry
/// it would go by names, of which one may be somebody else's: that may be what the ADD was refused for.
pub fn refused(dirs: &Dirs, container: &ContainerId, ifname: &IfName) {
    let journal = Journal(dirs);
    let id = |role| AttachmentId { container: container.clone(), ifname: ifname.clone(), role };
    if [Role::Wire, Role::Bind].into_iter().all(|role| journal.read(&id(role)).is_ok_and(|entry| entry.is_none()))
        && let Err(failure) = journal.mark_refused(container, ifname)
    {
        tracing::warn!(%failure, "a DEL will not know that this ADD made nothing");
    }
}

async fn attached(job: &Job<'_>, ty: Type) -> Outcome<AddResult> {
    let asked = WireConf::parse(job.call, ty)?;
    if !matches!(&asked, Asked::Wire(conf) if conf.gives_addresses()) {
        // The oldest versions' results are addresses, and nothing else: no use to begin.
        AddResult::default().must_fit(job.call.version)?;
    }
    let _lock = job.lock()?;
    let started = || job.started.unwrap_or_else(process_start);
    if job.level == Level::Outermost && job.journal().superseded(job.container, started) {
        return Err(Failure::new(
            Code::Superseded,
            format!("container {} was deleted after this ADD had started", job.container),
        ));
    }
    match asked {
        Asked::Bind(conf) => guest::add(job, &conf).await,
        Asked::Wire(conf) => wire::add(job, &conf).await,
    }
}

pub async fn check(job: &Job<'_>, ty: Type) -> Outcome<()> {
    let asked = WireConf::parse(job.call, ty)?;
    let _lock = job.lock()?;
    match asked {
        Asked::Bind(_) => guest::check(job).await,
        Asked::Wire(conf) => check::wire(job, &conf).await,
    }
}
