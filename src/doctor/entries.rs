//! The journal: entries that nobody can read, and those whose pod's namespace is gone.

use super::{Finding, count};
use crate::agent::{Fate, fate};
use crate::attach;
use crate::meta;
use crate::store::{Dirs, Entry, Journal};
use crate::types::{Outcome, Role};

pub fn examine(dirs: &Dirs) -> Vec<Finding> {
    let all = match Journal(dirs).all() {
        Ok(all) => all,
        Err(failure) => return vec![Finding::of("journal", &failure)],
    };
    let mut findings = Vec::new();
    let (mut living, mut gone) = (0, Vec::new());
    for entry in all {
        match entry.and_then(|entry| Ok((fate_of(&entry, dirs)?, entry))) {
            Err(failure) => findings.push(Finding::of("journal", &failure)),
            Ok((Fate::Gone, entry)) => gone.push(entry.id.to_string()),
            Ok(_) => living += 1,
        }
    }
    findings.insert(0, Finding::ok("journal", count(living, "entry of a living pod", "entries of living pods")));
    if !gone.is_empty() {
        let text = format!("of pods that are gone: {}", gone.join(", "));
        findings.push(
            Finding::note("journal", text)
                .remedy("the runtime's DEL or GC takes them away, or within two minutes the agent's sweep"),
        );
    }
    findings
}

pub fn fate_of(entry: &Entry, dirs: &Dirs) -> Outcome<Fate> {
    if entry.id.role == Role::Meta {
        let place = meta::place(entry)?;
        let here = place.boot.is_empty() || dirs.boot_id().map_or(true, |now| now == place.boot);
        return Ok(if here { fate(&place.netns, place.pod_ns.as_ref()) } else { Fate::Gone });
    }
    let Some(place) = attach::place(entry)? else { return Ok(Fate::Unknown) };
    Ok(if place.of_this_boot(dirs) { fate(&place.netns, Some(&place.pod_ns)) } else { Fate::Gone })
}
