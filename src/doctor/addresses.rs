//! Addresses of `host-local`: those whose pod nobody on this node knows. A runtime that loses a pod without a DEL leaves
//! its address taken, and a range can run out that way.
//!
//! A pod is known by the journal, or by libcni's cache of results, which containerd and CRI-O keep: so pods count whose
//! wires the reference plugins made.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::entries::fate_of;
use super::{Finding, count};
use crate::agent::{Fate, fate};
use crate::ipam::Held;
use crate::store::{Dirs, Journal};

/// libcni, `CacheDir`.
const RESULTS: &str = "/var/lib/cni/results";
/// More would hide the rest of the report.
const NAMED: usize = 8;

pub fn examine(dirs: &Dirs) -> Vec<Finding> {
    let held = match Held::find(dirs) {
        Ok(held) => held,
        Err(failure) => return vec![Finding::of("addresses", &failure)],
    };
    // What is wrong with the journal, `entries` tells; without it nobody is called unknown.
    let Ok(all) = Journal(dirs).all() else { return Vec::new() };
    if all.iter().any(Result::is_err) {
        return vec![Finding::note("addresses", "not compared with pods, as the journal cannot be read")];
    }
    let mut living = of_runtime(Path::new(RESULTS));
    let ours = all.into_iter().flatten().filter(|entry| !matches!(fate_of(entry, dirs), Ok(Fate::Gone)));
    living.extend(ours.map(|entry| entry.id.container.to_string()));
    compare(&held, &living)
}

pub fn compare(held: &[Held], living: &BTreeSet<String>) -> Vec<Finding> {
    let (known, lost): (Vec<_>, Vec<_>) = held.iter().partition(|one| living.contains(&one.container));
    let mut findings =
        vec![Finding::ok("addresses", count(known.len(), "of a pod of this node", "of pods of this node"))];
    let stores: BTreeSet<&PathBuf> = lost.iter().map(|one| &one.store).collect();
    findings.extend(stores.into_iter().map(|store| {
        let here: Vec<_> = lost.iter().filter(|one| &one.store == store).collect();
        let names: Vec<_> = here.iter().take(NAMED).map(|one| format!("{} ({})", one.address, short(one))).collect();
        let more = here.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        Finding::note("addresses", format!("taken, but no pod of theirs was found: {}{more}", names.join(", ")))
            .remedy(format!("see that nobody uses them, then remove the files of these names in {}", store.display()))
    }));
    findings
}

fn short(one: &Held) -> String {
    let id: String = one.container.chars().take(13).collect();
    format!("{id} {}", one.ifname).trim().to_owned()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cached {
    container_id: String,
    /// Since libcni 1.2.
    #[serde(default, rename = "netns")]
    netns: PathBuf,
}

/// Containers that the runtime's library has a result of, and whose namespace is there or cannot be told.
pub fn of_runtime(results: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(results).into_iter().flatten().flatten();
    let cached = files.filter_map(|file| serde_json::from_slice::<Cached>(&fs::read(file.path()).ok()?).ok());
    let lives = |one: &Cached| one.netns.as_os_str().is_empty() || fate(&one.netns, None) != Fate::Gone;
    cached.filter(lives).map(|one| one.container_id).collect()
}
