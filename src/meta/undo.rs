//! Undoes a pod's networks from its record, in reverse: a failed ADD, DEL, GC.
//!
//! Goes on after a failure and tells all of them. Nothing is written before; the entry goes last, and stays, with what
//! has been undone noted in it, if anything failed.

use crate::types::{Failure, NetworkName, Outcome};

use super::outside;
use super::record::{Attached, Kept, Record};
use super::run::Pod;

/// `count`: how many of the networks, from the first on. `Ok`: nothing of the pod is left.
pub async fn undo(
    pod: &Pod<'_>,
    kept: &Kept<'_>,
    network: &NetworkName,
    mut record: Record,
    count: usize,
) -> Outcome<()> {
    let failures = networks(pod, &mut record.networks[..count]).await;
    match Failure::first_of(failures) {
        Ok(()) => kept.forget(),
        Err(failure) => {
            // DEL works where nothing can be written, too: it undoes all once more then.
            if let Err(e) = kept.update(network, &record) {
                tracing::warn!(failure = %e, "what has been undone is not noted");
            }
            Err(failure)
        }
    }
}

pub async fn networks(pod: &Pod<'_>, list: &mut [Attached]) -> Vec<Failure> {
    let mut failures = Vec::new();
    for one in list.iter_mut().rev().filter(|n| !n.undone) {
        match pod.del(one).await {
            Ok(()) => one.undone = true,
            Err(failure) => {
                tracing::error!(%failure, "a network is not undone");
                failures.push(failure);
            }
        }
        if let Some(file) = &one.info_file {
            outside::remove_info(file);
        }
    }
    failures
}
