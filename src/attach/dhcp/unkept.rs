//! A lease that nobody on this node keeps: what people are told of it, and until when its address serves. Whether that is
//! logged or told elsewhere is the caller's business.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use jiff::Timestamp;

use super::{is_of_this_boot, remaining};
use crate::ipam::dhcp::Job;
use crate::store::{Dirs, LeaseRecord, Leases, Sole, wall_clock};
use crate::types::{ContainerId, IfName, Outcome};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unkept {
    ifname: IfName,
    network: String,
    address: Ipv4Addr,
    until: Timestamp,
}

impl Unkept {
    /// `None`: a keeper is at work, or the lease has no end.
    pub fn of(dirs: &Dirs, record: &LeaseRecord<Job>) -> Option<Self> {
        if Sole::is_taken(dirs, Sole::KEEPER) || !is_of_this_boot(dirs, record) {
            return None;
        }
        let lease = record.job.held()?;
        let age = Duration::from_nanos(dirs.now()).saturating_sub(Duration::from_millis(record.got_at));
        let end = i64::try_from(wall_clock()).ok()?.checked_add(remaining(lease, age)?.into())?;
        Some(Self {
            ifname: record.ifname.clone(),
            network: record.network.clone(),
            address: lease.address,
            until: Timestamp::from_second(end).ok()?,
        })
    }

    /// The lease of an attachment, by its record, whichever process got it.
    pub fn find(dirs: &Dirs, container: &ContainerId, ifname: &IfName) -> Outcome<Option<Self>> {
        let record = Leases::new(dirs).read::<Job>(container, ifname)?;
        Ok(record.and_then(|record| Self::of(dirs, &record)))
    }
}

impl fmt::Display for Unkept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ifname, network, address, until } = self;
        let until = until.strftime("%Y-%m-%dT%H:%M:%SZ");
        write!(f, "{ifname} of network {network}: lease without keeper until {until}: {address} is not renewed, as ")?;
        f.write_str("neither an agent nor `dhcp daemon` runs on this node")
    }
}

#[cfg(test)]
pub mod testing {
    use serde_json::json;

    use super::*;

    /// Of interface `net1` of container `c1`, by network `lan`: 192.0.2.9 for so many seconds.
    pub fn record(dirs: &Dirs, seconds: u32) -> LeaseRecord<Job> {
        let lease = super::super::tests::lease(seconds);
        let job = json!({
            "netns": "/run/netns/c1", "cookie": 1, "index": 2, "ifname": "net1", "step": {"Renew": lease}, "seconds": 1,
            "wish": {"send": [], "request": []},
            "identity": {"hardware": "02:00:00:00:00:01", "client_id": [], "broadcast": false},
        });
        let job: Job = serde_json::from_value(job).unwrap();
        LeaseRecord::new(dirs, "c1".parse().unwrap(), "net1".parse().unwrap(), "lan", job).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::record;
    use super::*;
    use crate::ipam::dhcp::Lease;

    fn dirs(tmp: &tempfile::TempDir) -> Dirs {
        Dirs::new(tmp.path().join("run"), tmp.path().join("state"))
    }

    #[test]
    fn a_lease_ends_so_many_seconds_after_it_was_got() {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = dirs(&tmp);
        let mut record = record(&dirs, 3600);
        record.got_at = record.got_at.checked_sub(600_000).expect("this machine was started before");
        let (before, unkept, after) = (wall_clock(), Unkept::of(&dirs, &record).unwrap(), wall_clock());
        let end = u64::try_from(unkept.until.as_second()).unwrap();
        assert!((before + 3000..=after + 3000).contains(&end), "{unkept} at {before}");
        let text = unkept.to_string();
        let time = text.strip_prefix("net1 of network lan: lease without keeper until ").expect(&text);
        assert!(time.contains("Z: 192.0.2.9 is not renewed"), "{text}");
    }

    #[test]
    fn nothing_is_to_be_told_of_a_lease_that_is_kept_or_has_no_end_or_is_gone() {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = dirs(&tmp);
        let lease = record(&dirs, 60);
        let find = || Unkept::find(&dirs, &lease.container, &lease.ifname).unwrap();
        assert_eq!(find(), None, "no record");
        Leases::new(&dirs).write(&lease).unwrap();
        assert!(find().is_some());
        let keeper = Sole::try_take(&dirs, Sole::KEEPER).unwrap().unwrap();
        assert_eq!(find(), None);
        drop(keeper);
        assert!(find().is_some(), "the keeper is gone");
        Leases::new(&dirs).write(&record(&dirs, Lease::FOR_EVER)).unwrap();
        assert_eq!(find(), None);
        Leases::new(&dirs).write(&LeaseRecord { boot: "another".into(), ..record(&dirs, 60) }).unwrap();
        assert_eq!(find(), None, "of an earlier boot");
    }
}
