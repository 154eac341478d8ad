//! The type `host-local`: one address out of each range set, kept in a store on this node.
//!
//! The store is the reference plugin's to the letter, and may be shared with it. Beside it we remember what we gave
//! away in which boot: addresses of an earlier boot, whose pods are all gone, are released by the first ADD, DEL or GC
//! of a new one, and by the agent. What others gave away is never touched.

mod boot;
mod config;
mod disk;
mod held;
mod list;
mod range;
mod resolv;

#[cfg(test)]
mod tests;

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::boot::Outlived;
use self::config::Config;
use self::disk::Disk;
pub use self::held::Held;
use self::range::RangeSet;
use super::{Lease, Who, invalid};
use crate::cni::{Args, Dns, IpConfig};
use crate::store::Dirs;
use crate::types::{Code, Failure, NetworkName, Outcome};

#[derive(Debug, Clone, PartialEq)]
pub struct HostLocal(Config);

/// `NAME_MAX` of Linux `limits.h`; and its `PATH_MAX`, less what the names in the store need.
const NAME_MAX: usize = 255;
const PATH_MAX: usize = 4096 - 128;

/// All that a DEL must know where the configuration is not at hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreLocation {
    pub data_dir: PathBuf,
    pub network: NetworkName,
}

impl StoreLocation {
    /// Where the address files are.
    pub fn directory(&self) -> PathBuf {
        self.data_dir.join(self.network.as_str())
    }

    /// Refuses a place that no file system can have. The kernel says it only when it gets that far down the path.
    fn must_be_possible(&self) -> Outcome<()> {
        let refused = |key: &str, reason: String| {
            Err(invalid(format!("{key}: {reason}"))
                .remedy(format!("correct {key}: host-local keeps its files in dataDir/name")))
        };
        let network = self.network.as_str().len();
        if network > NAME_MAX {
            return refused("name", format!("{network} bytes long, and a directory's name has {NAME_MAX} at most"));
        }
        let path = self.data_dir.as_os_str().as_encoded_bytes();
        if path.contains(&0) {
            return refused("ipam.dataDir", format!("{:?} has a NUL byte", self.data_dir));
        }
        if path.split(|byte| *byte == b'/').any(|part| part.len() > NAME_MAX) || path.len() + network > PATH_MAX {
            return refused(
                "ipam.dataDir",
                format!("{:.80}... is too long for a path", self.data_dir.to_string_lossy()),
            );
        }
        match fs::metadata(&self.data_dir) {
            // A file in its place is somebody's doing, and can be undone: no call succeeds until it is.
            Err(e) if disk::is_nowhere(&e) && !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                refused("ipam.dataDir", format!("{}: {e}", self.data_dir.display()))
            }
            _ => Ok(()),
        }
    }
}

impl HostLocal {
    pub fn parse(conf: &Map<String, Value>, args: &Args) -> Outcome<Self> {
        config::parse(conf, args).map(Self)
    }

    pub fn location(&self) -> StoreLocation {
        self.0.location.clone()
    }

    /// Whether there could be a store at all; no DEL asks for it.
    pub fn must_be_possible(&self) -> Outcome<()> {
        self.0.location.must_be_possible()
    }

    /// Whether addresses could be given away: each is written down in the state directory.
    pub fn ready(&self, dirs: &Dirs) -> Outcome<()> {
        self.must_be_possible()?;
        dirs.must_have_room()
    }

    /// One address of each range set, or none at all.
    pub fn add(&self, who: &Who, dirs: &Dirs) -> Outcome<Lease> {
        self.must_be_possible()?;
        let dns = self.0.resolv_conf.as_deref().map(resolv::read).transpose()?.unwrap_or_else(Dns::default);
        let mut disk = Disk::open(&self.0.location, dirs)?;
        disk.tidy_and_look()?;
        let mut call = Call { disk, who, wanted: self.0.requested.clone(), given: Vec::new() };
        match call.take(&self.0.sets) {
            Ok(()) => Ok(Lease { ips: call.given, routes: self.0.routes.clone(), dns, valid: None, mtu: None }),
            Err(failure) => Err(call.undo(failure)),
        }
    }

    /// Whether any address of the owner is there, whichever it is.
    pub fn check(&self, who: &Who, dirs: &Dirs) -> Outcome<()> {
        let location = &self.0.location;
        let mut disk = Disk::open(location, dirs)?;
        disk.look()?;
        if disk.has(who) {
            return Ok(());
        }
        Err(Failure::new(Code::IpamMissing, format!("{who} has no address in {}", location.directory().display()))
            .remedy("it was released meanwhile, or ADD went to another store: re-create the pod"))
    }

    /// Releases all of the owner's addresses; none is fine.
    pub fn del(&self, who: &Who, dirs: &Dirs) -> Outcome<()> {
        match self.must_be_possible() {
            Ok(()) => release_from(Disk::open(&self.0.location, dirs)?, who),
            // Nothing was ever given away there, and a DEL that fails would keep the pod from going.
            Err(failure) => {
                tracing::warn!(%failure, "no address is released");
                Ok(())
            }
        }
    }

    /// Releases what we gave away in this store to owners that are not valid any more, unless it is as young as the
    /// call. Returns how many addresses those were.
    pub fn gc(&self, valid: &dyn Fn(&Who) -> bool, before: SystemTime, dirs: &Dirs) -> Outcome<usize> {
        let Some(mut disk) = Disk::open_existing(&self.0.location, dirs)? else { return Ok(0) };
        disk.tidy_and_look()?;
        // A file's time comes from a clock that is behind by up to one tick of the kernel (10 ms).
        let margin = Duration::from_secs(1);
        disk.collect(|who, made| made + margin < before && !valid(who))
    }

    /// The same as `del`, from what the journal kept. A store that is not there is not made.
    pub fn release(location: &StoreLocation, who: &Who, dirs: &Dirs) -> Outcome<()> {
        Disk::open_existing(location, dirs)?.map_or(Ok(()), |disk| release_from(disk, who))
    }
}

fn release_from(mut disk: Disk, who: &Who) -> Outcome<()> {
    disk.tidy_and_look()?;
    disk.release(who)
}

/// One ADD: what is still wanted, and what was given so far.
struct Call<'a> {
    disk: Disk,
    who: &'a Who<'a>,
    wanted: Vec<IpAddr>,
    given: Vec<IpConfig>,
}

impl Call<'_> {
    fn take(&mut self, sets: &[RangeSet]) -> Outcome<()> {
        let had = self.disk.addresses(self.who);
        for (i, set) in sets.iter().enumerate() {
            let ip = match self.wanted.iter().position(|ip| set.range_of(*ip).is_some()) {
                Some(position) => self.requested(i, set, self.wanted[position])?,
                None => self.next_free(i, set, &had).map_err(|full| self.not_in_range(sets, full))?,
            };
            self.wanted.retain(|wanted| *wanted != ip.address.ip());
            self.given.push(ip);
        }
        if self.wanted.is_empty() {
            return Ok(());
        }
        let left: Vec<String> = self.wanted.iter().map(ToString::to_string).collect();
        Err(Failure::new(Code::IpamTaken, format!("no range set has room for the requested {}", left.join(", ")))
            .remedy("ask for one address of each range set at most, and within its ranges"))
    }

    /// What the pod can do something about comes before a range that is full.
    fn not_in_range(&self, sets: &[RangeSet], full: Failure) -> Failure {
        let nowhere = self.wanted.iter().find(|ip| sets.iter().all(|set| set.range_of(**ip).is_none()));
        match nowhere.filter(|_| full.code == Code::IpamExhausted) {
            Some(ip) => Failure::new(Code::IpamTaken, format!("the requested address {ip} is in no range set"))
                .remedy("ask for an address within a range"),
            None => full,
        }
    }

    /// An owner may ask for an address although it has another one.
    fn requested(&mut self, index: usize, set: &RangeSet, ip: IpAddr) -> Outcome<IpConfig> {
        let taken = |why: String| Failure::new(Code::IpamTaken, format!("the requested address {ip} {why}"));
        let range = set.range_of(ip).ok_or_else(|| taken(format!("is not in {set}")))?;
        if ip == range.gateway() {
            return Err(taken(format!("is the gateway of {range}")));
        }
        if !self.disk.reserve(ip, self.who, index)? {
            return Err(taken(format!("of {set} is taken")).remedy("ask for another address, or remove its owner"));
        }
        Ok(config_of(range, ip))
    }

    fn next_free(&mut self, index: usize, set: &RangeSet, had: &[IpAddr]) -> Outcome<IpConfig> {
        if let Some(ip) = had.iter().find(|ip| set.range_of(**ip).is_some()) {
            return Err(Failure::new(Code::IpamDuplicate, format!("{} has {ip} of {set} already", self.who))
                .remedy("DEL the container's interface first"));
        }
        let last = self.disk.last_reserved(index);
        for (ip, range) in set.candidates(last) {
            if self.disk.reserve(ip, self.who, index)? {
                return Ok(config_of(range, ip));
            }
        }
        Err(Failure::new(Code::IpamExhausted, format!("no address is left in range set {index}: {set}"))
            .remedy("enlarge the range or remove pods; `trestle doctor` names addresses whose pod it does not find"))
    }

    /// Takes back what this call gave, and nothing that the owner had before.
    fn undo(mut self, failure: Failure) -> Failure {
        let mut failure = failure;
        for ip in std::mem::take(&mut self.given) {
            if let Err(second) = self.disk.give_back(ip.address.ip(), self.who) {
                failure.msg = format!("{}; and {}", failure.msg, second.msg);
            }
        }
        failure
    }
}

fn config_of(range: &range::Range, ip: IpAddr) -> IpConfig {
    IpConfig { interface: None, address: range.with_prefix(ip), gateway: Some(range.gateway()) }
}
