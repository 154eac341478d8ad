//! CHECK: every network of the pod, with the result of its ADD.
//!
//! By the protocol, whoever carries them out. But for one case: beside inline delegates, Multus' own form of configuration,
//! others' plugins have never been sent a CHECK for what a pod asked for; some fail it in good order, and a runtime kills
//! the pod for it. There the link that they left is looked at, and no more.

use serde_json::Value;

use crate::cni::{Verb, json};
use crate::net::Namespace;
use crate::resolve::pod_facts;
use crate::types::{Code, Failure, Outcome};

use super::config::{self, Cluster};
use super::del::of_configuration;
use super::record::{Attached, Found, Kept};
use super::run::{Foreign, Pod};
use super::settle::{base_args, check_args};
use super::{Job, plugin_path};

pub async fn check(job: &Job<'_>) -> Outcome<()> {
    let conf = config::read(job.call)?;
    check_args(&job.call.args)?;
    let lock = job.lock()?;
    let id = job.id();
    let found = Kept { dirs: job.dirs, id: &id }.find()?;
    let (path, args, networks) = match found {
        Some(Found::Whole(record)) => {
            if record.networks.iter().any(|n| n.result.is_none()) {
                return Err(differs(job, "ADD did not come to its end"));
            }
            (record.path, record.args, record.networks)
        }
        Some(Found::Owed(_)) => return Err(differs(job, "it was attached in an earlier boot, or the journal is lost")),
        None => {
            let cache = job.cache(&conf.cni_dir);
            let networks = match (cache.networks(), &conf.cluster) {
                (Some(networks), _) => networks,
                // Multus asks its delegates, whoever attached them.
                (None, Cluster::Inline(_)) => of_configuration(job, &conf)?,
                (None, Cluster::Named { .. }) => return Err(differs(job, "nobody has attached it")),
            };
            (plugin_path(&conf, job.call), base_args(&job.call.args), networks)
        }
    };
    let facts = pod_facts(job.call)?;
    let as_multus = matches!(conf.cluster, Cluster::Inline(_));
    let checked = all(&job.at(&facts).by(&path, &args), &networks, as_multus).await;
    drop(lock);
    checked
}

/// All are asked, and all that fail are told.
async fn all(pod: &Pod<'_>, networks: &[Attached], as_multus: bool) -> Outcome<()> {
    let mut failures = Vec::new();
    for one in networks {
        if !can_be_checked(one) {
            tracing::info!(network = %one.name, "not checked: its cniVersion has no CHECK");
            continue;
        }
        let foreign = if as_multus && one.chosen && !one.master { Foreign::LeftAlone } else { Foreign::Run };
        failures.extend(pod.check(one, foreign).await.err());
        failures.extend(link(pod, one).await.err());
    }
    Failure::first_of(failures)
}

/// The link that ADD left in the pod must be there yet. By its number: KubeVirt renames a VM's.
async fn link(pod: &Pod<'_>, one: &Attached) -> Outcome<()> {
    let (Some(index), Some(path)) = (one.link, pod.netns) else { return Ok(()) };
    let links = Namespace::open(path)?.netlink()?;
    match links.link_at(index).await? {
        Some(_) => Ok(()),
        None => {
            let msg = format!("network {}: interface {} is not in the pod any more", one.name, one.ifname);
            Err(Failure::new(Code::Differs, msg).remedy("re-create the pod"))
        }
    }
}

/// A network of an older version is no reason against the whole pod, unless it is the pod's default one, for which
/// Multus answers so too.
fn can_be_checked(one: &Attached) -> bool {
    let version = json::get(&one.conf, "cniVersion").and_then(Value::as_str).and_then(|v| v.parse().ok());
    one.master || version.is_none_or(|v: crate::cni::Version| v >= Verb::Check.since())
}

fn differs(job: &Job<'_>, why: &str) -> Failure {
    Failure::new(Code::Differs, format!("container {}: {why}", job.container)).remedy("re-create the pod")
}
