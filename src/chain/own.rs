//! The plugins that this program is itself: carried out in this process, with the call that they would have got.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Network, Place, Site};
use crate::attach::{self, Job, Level, Type};
use crate::cni::{AddResult, Args, Call, Given, Verb};
use crate::delegate::Answer;
use crate::ipam;
use crate::plan::PodFacts;
use crate::store::{Journal, process_start};
use crate::types::{Code, Failure, Outcome, Role};

/// What this program is under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Attachment(Type),
    HostLocal,
    Static,
    Dhcp,
}

impl Kind {
    /// `cnv-bridge` is the name that OpenShift gives the bridge plugin.
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "trestle" => Self::Attachment(Type::Trestle),
            "bridge" | "cnv-bridge" => Self::Attachment(Type::Bridge),
            "macvlan" => Self::Attachment(Type::Macvlan),
            "host-local" => Self::HostLocal,
            "static" => Self::Static,
            "dhcp" => Self::Dhcp,
            _ => return None,
        })
    }
}

pub async fn add(kind: Kind, network: &Network<'_>, place: &Place<'_>, conf: Map<String, Value>) -> Outcome<Answer> {
    let call = call(Verb::Add, network, place, conf)?;
    if place.netns.is_none() {
        return Err(Failure::new(Code::Environment, "CNI_NETNS not set"));
    }
    let printed = match kind {
        Kind::Attachment(ty) => attach::add(&job(&call, network, place), ty).await?.to_json(call.version)?,
        Kind::HostLocal => ipam::host_local(&call, place.site.dirs)?.unwrap_or_default(),
        Kind::Static => ipam::fixed(&call)?.unwrap_or_default(),
        Kind::Dhcp => attach::dhcp::plugin(&call, place.site.dirs, place.facts).await?.unwrap_or_default(),
    };
    // As another plugin's, so that the next one hears what it would have heard of a run.
    let (result, version) = AddResult::read(printed, Some(call.version))?;
    Ok(Answer { result, version })
}

/// Of a configuration that no attachment can be made by.
fn is_refusal(code: Code) -> bool {
    matches!(code, Code::Config | Code::Conflict | Code::IpamConfig | Code::PluginMissing)
}

/// Whether the journal has something of the network.
pub fn left(network: &Network<'_>, place: &Place<'_>) -> bool {
    let all = Journal(place.site.dirs).of_container(place.container).unwrap_or_default();
    all.iter().flatten().any(|e| e.id.ifname == *network.ifname && matches!(e.id.role, Role::Wire | Role::Bind))
}

pub async fn check(kind: Kind, network: &Network<'_>, place: &Place<'_>, conf: Map<String, Value>) -> Outcome<()> {
    let call = call(Verb::Check, network, place, conf)?;
    match kind {
        Kind::Attachment(ty) => attach::check(&job(&call, network, place), ty).await,
        Kind::HostLocal => ipam::host_local(&call, place.site.dirs).map(drop),
        Kind::Static => ipam::fixed(&call).map(drop),
        Kind::Dhcp => attach::dhcp::plugin(&call, place.site.dirs, place.facts).await.map(drop),
    }
}

pub async fn del(kind: Kind, network: &Network<'_>, place: &Place<'_>, conf: Map<String, Value>) -> Outcome<()> {
    let call = match call(Verb::Del, network, place, conf) {
        Ok(call) => call,
        // An ADD of it was refused.
        Err(failure) => {
            tracing::warn!(%failure, "nothing was ever attached by this configuration");
            return Ok(());
        }
    };
    match kind {
        Kind::Attachment(ty) => match attach::del(&job(&call, network, place), ty).await {
            // Its ADD was refused for it, too.
            Err(failure) if is_refusal(failure.code) && !left(network, place) => {
                tracing::warn!(%failure, "nothing was ever attached by this configuration");
                Ok(())
            }
            done => done,
        },
        Kind::HostLocal => ipam::host_local(&call, place.site.dirs).map(drop),
        Kind::Static => Ok(()),
        Kind::Dhcp => attach::dhcp::plugin(&call, place.site.dirs, place.facts).await.map(drop),
    }
}

/// STATUS or GC.
pub async fn of_the_node(kind: Kind, verb: Verb, site: &Site<'_>, conf: Map<String, Value>) -> Outcome<()> {
    let call = Call::new(verb, Given { path: site.path.to_vec(), ..Given::default() }, conf)?;
    match (kind, verb) {
        (Kind::Attachment(_), Verb::Gc) => {
            attach::gc(&call, site.dirs, site.started.unwrap_or_else(process_start)).await
        }
        (Kind::Attachment(ty), _) => attach::status(&call, ty, site.dirs, &Ok(site.node.clone())),
        (Kind::HostLocal, _) => ipam::host_local(&call, site.dirs).map(drop),
        (Kind::Static, _) => ipam::fixed(&call).map(drop),
        (Kind::Dhcp, _) => attach::dhcp::plugin(&call, site.dirs, &PodFacts::default()).await.map(drop),
    }
}

fn call(verb: Verb, network: &Network<'_>, place: &Place<'_>, conf: Map<String, Value>) -> Outcome<Call> {
    let given = Given {
        container: Some(place.container.clone()),
        netns: place.netns.map(Path::to_path_buf),
        ifname: Some(network.ifname.clone()),
        args: Args::new(network.args),
        path: place.site.path.to_vec(),
        netns_override: false,
    };
    Call::new(verb, given, conf)
}

fn job<'a>(call: &'a Call, network: &Network<'a>, place: &Place<'a>) -> Job<'a> {
    let Site { dirs, node, started, .. } = place.site;
    Job {
        call,
        dirs,
        node,
        facts: place.facts,
        container: place.container,
        ifname: network.ifname,
        started,
        // The caller of a chain has the lock.
        level: Level::Inner,
        chooser: place.chooser,
    }
}
