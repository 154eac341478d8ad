//! DHCP leases: whether somebody keeps them, and which should have been renewed by now.

use super::{Finding, count};
use crate::ipam::dhcp::{Job, Lease};
use crate::store::{Dirs, LeaseRecord, Leases, Sole};

/// A renewal is asked for at T1 and again and again after it: late is who has half of the rest behind it.
const LATE: u64 = 2;

pub fn examine(dirs: &Dirs) -> Vec<Finding> {
    let all = match Leases::new(dirs).all::<Job>() {
        Ok(all) => all,
        Err(failure) => return vec![Finding::of("leases", &failure)],
    };
    let kept = Sole::is_taken(dirs, Sole::KEEPER);
    let mut findings: Vec<Finding> =
        all.iter().filter_map(|one| one.as_ref().err()).map(|failure| Finding::of("leases", failure)).collect();
    let living: Vec<_> =
        all.into_iter().flatten().filter(|r| dirs.boot_id().is_ok_and(|boot| boot == r.boot)).collect();
    findings.insert(0, keeper(&living, kept, dirs.now()));
    if kept {
        findings.extend(living.iter().filter_map(|record| overdue(record, dirs.now())));
    }
    findings
}

fn keeper(living: &[LeaseRecord<Job>], kept: bool, now: u64) -> Finding {
    let text = count(living.len(), "lease", "leases");
    if kept || living.is_empty() {
        return Finding::ok("leases", if kept { format!("{text}, a keeper is at work") } else { "none".into() });
    }
    let first = living.iter().filter_map(|r| left(r, r.job.held()?, now)).min();
    let until = first.map_or_else(|| "none of them ends".into(), |s| format!("the first one ends in {s} s"));
    Finding::trouble("leases", format!("{text} without a keeper: {until}"))
        .remedy("start the agent, or `trestle dhcp daemon`; it takes them up by itself")
}

fn overdue(record: &LeaseRecord<Job>, now: u64) -> Option<Finding> {
    let lease = record.job.held()?;
    let left = left(record, lease, now)?;
    let rest = u64::from(lease.seconds - lease.t1.min(lease.seconds));
    let who = record.pod.as_deref().unwrap_or(record.container.as_str());
    let about = format!("lease of {who}");
    let text = format!("{} on {} of network {}", lease.address, record.ifname, record.network);
    if left == 0 {
        return Some(Finding::trouble(about, format!("{text}: ran out, no DHCP server answers")));
    }
    (left * LATE < rest).then(|| {
        Finding::trouble(about, format!("{text}: not renewed yet, ends in {left} s"))
            .remedy("look whether the DHCP server answers on that network")
    })
}

/// Seconds until the end; none where there is none.
fn left(record: &LeaseRecord<Job>, lease: &Lease, now: u64) -> Option<u64> {
    let age = (now / 1_000_000).saturating_sub(record.got_at) / 1000;
    (lease.seconds != Lease::FOR_EVER).then(|| u64::from(lease.seconds).saturating_sub(age))
}
