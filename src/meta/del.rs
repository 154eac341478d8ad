//! DEL: from the pod's record alone. Where there is none: from Multus' cache, if Multus attached the pod; else the
//! networks that the configuration itself has, which is what a failed ADD may have begun; else there is nothing.

use crate::plan::PodFacts;
use crate::resolve::pod_facts;
use crate::store::{ContainerLock, Journal};
use crate::types::{Failure, Outcome};

use super::config::{self, Cluster, MetaConf};
use super::record::{Attached, Found, Kept, Record};
use super::settle::{self, Known, base_args, check_args};
use super::{Job, LOCK_WAIT, files, gather, plugin_path, run, undo};

pub async fn del(job: &Job<'_>) -> Outcome<()> {
    let lock = ContainerLock::for_undo(job.dirs, job.container, LOCK_WAIT)?;
    let id = job.id();
    let kept = Kept { dirs: job.dirs, id: &id };
    // What the pod is does not change what was made for it.
    let facts = pod_facts(job.call).unwrap_or_default();
    match kept.find()? {
        Some(found) => {
            let (record, count) = whole(job, found);
            let (path, args, cni_dir) = (record.path.clone(), record.args.clone(), record.cni_dir.clone());
            undo::undo(&job.at(&facts).by(&path, &args), &kept, &job.call.name, record, count).await?;
            job.cache(&cni_dir).remove();
        }
        None => {
            without_record(job, &facts).await?;
            // One that cannot be read.
            kept.forget()?;
        }
    }
    let marked = Journal(job.dirs).mark_deleted(job.container);
    drop(lock);
    marked
}

/// What is on disk has foreign plugins' networks alone; Multus' cache, if that is left, has all.
fn whole(job: &Job<'_>, found: Found) -> (Record, usize) {
    let owed = matches!(found, Found::Owed(_));
    let (record, count) = found.opened();
    match job.cache(&record.cni_dir).networks().filter(|all| owed && all.len() >= count) {
        Some(networks) => {
            let count = networks.len();
            (Record { networks, ..record }, count)
        }
        None => (record, count),
    }
}

async fn without_record(job: &Job<'_>, facts: &PodFacts) -> Outcome<()> {
    let conf = config::read(job.call)?;
    check_args(&job.call.args)?;
    let (path, args) = (plugin_path(&conf, job.call), base_args(&job.call.args));
    let bare = job.at(facts);
    let at = bare.by(&path, &args);
    let cache = job.cache(&conf.cni_dir);
    if let Some(mut networks) = cache.networks() {
        tracing::info!(networks = networks.len(), "undone from Multus' cache");
        Failure::first_of(undo::networks(&at, &mut networks).await)?;
        return cache.forget(&networks);
    }
    let mut networks = of_configuration(job, &conf)?;
    Failure::first_of(undo::networks(&at, &mut networks).await)
}

/// The delegates; or the cluster's network where a file has it. A NAD is not asked for.
pub fn of_configuration(job: &Job<'_>, conf: &MetaConf) -> Outcome<Vec<Attached>> {
    let confs = match &conf.cluster {
        Cluster::Inline(list) => list.iter().map(gather::inline).collect::<Outcome<Vec<_>>>()?,
        Cluster::Named { default, .. } => {
            let found = if default.contains('/') {
                files::by_path(default.as_ref()).map(Some)
            } else {
                files::by_name(&conf.conf_dir, default)
            };
            let conf = found.and_then(|map| map.as_ref().map(run::to_conf).transpose());
            if let Err(failure) = &conf {
                tracing::warn!(%failure, "the cluster's network is not known: nothing of it is undone");
            }
            conf.ok().flatten().into_iter().collect()
        }
    };
    let known = |(index, conf): (usize, crate::nad::Conf)| Known {
        name: conf.name().to_owned(),
        conf,
        selection: None,
        master: index == 0,
        chosen: false,
        resource: None,
        device: None,
    };
    let known = confs.into_iter().enumerate().map(known).collect();
    settle::settle(job.call, &PodFacts::default(), (job.container, job.ifname), &conf.runtime, known)
}
