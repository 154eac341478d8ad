//! An `ipam` section of type `dhcp`, and the first exchange of an ADD by it: who asks, what the result says, and the record
//! by which the lease is kept and given back.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::client::{Client, End};
use super::{Unkept, is_of_this_boot, remaining};
use crate::cni::{Args, Dns, IpConfig, json};
use crate::failpoint::hit;
use crate::ipam;
use crate::ipam::dhcp::{Follows, Identity, Job, Lease, Start, Step, Why, Wish};
use crate::net::Namespace;
use crate::plan::PodFacts;
use crate::store::{Dirs, LeaseRecord, Leases, wall_clock};
use crate::types::{Code, ContainerId, Failure, IfName, Mac, Outcome};

/// How long ADD asks. A bridge that lets a new port listen and learn first gets that time on top.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the server is asked for a lease of an earlier boot. One that does not know it any more is silent.
const AGAIN: Duration = Duration::from_secs(2);
/// Where the reference's daemon is, unless told otherwise.
const SOCKET: &str = "/run/cni/dhcp.sock";
/// In a job of a keeper, until it says otherwise.
const SECONDS: u32 = 10;
const HOST_NAME: u8 = 12;

/// A section that has been read and found in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Dhcp {
    wish: Wish,
    /// Of all routes.
    priority: Option<u32>,
    /// Of the daemon that the reference plugin would ask.
    socket: PathBuf,
    /// `type: trestle`: asks for all that can be made use of, tells the pod's name, and puts DNS into the result. The
    /// reference plugin does none of these.
    whole: bool,
    /// The address that the pod asks for; it gets this one or none.
    asked: Option<Ipv4Addr>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Raw {
    priority: i64,
    daemon_socket_path: String,
}

/// The link that is to get an address, and whose it is.
pub struct Target<'a> {
    pub dirs: &'a Dirs,
    pub facts: &'a PodFacts,
    pub container: &'a ContainerId,
    pub ifname: &'a IfName,
    /// `name` of the configuration.
    pub network: &'a str,
    pub netns: &'a Path,
    pub namespace: &'a Namespace,
    pub index: u32,
    pub mac: Option<Mac>,
    /// The link's, where the caller has chosen it.
    pub mtu: Option<u32>,
    pub vm: bool,
    /// The caller sets address and routes on the link, and so a keeper may do it again.
    pub sets: bool,
    /// On top of what an ADD may take.
    pub patience: Duration,
}

impl Dhcp {
    /// As the reference plugin reads it.
    pub fn parse(conf: &Map<String, Value>, args: &Args) -> Outcome<Self> {
        let invalid = |why: String| Failure::new(Code::IpamConfig, why);
        let Some(section) = json::get(conf, "ipam").and_then(Value::as_object) else {
            return Err(invalid("the configuration has no \"ipam\" section".into()));
        };
        let of = |key: &str| json::get(section, key).map(|v| (key.to_owned(), v.clone()));
        let own = ["priority", "daemonSocketPath"].into_iter().filter_map(of).collect();
        let raw: Raw = json::from_value(Value::Object(own)).map_err(|e| invalid(format!("ipam: {e}")))?;
        let priority = u32::try_from(raw.priority)
            .map_err(|_| invalid(format!("ipam.priority: {} is not within 0 to 4294967295", raw.priority)))?;
        let priority = (priority != 0).then_some(priority);
        let socket = Some(raw.daemon_socket_path).filter(|path| !path.is_empty()).unwrap_or_else(|| SOCKET.into());
        Ok(Self { wish: Wish::parse(section, args)?, priority, socket: socket.into(), whole: false, asked: None })
    }

    pub fn whole(self) -> Self {
        Self { wish: self.wish.usual(), whole: true, ..self }
    }

    /// Of the addresses that were asked for, with or without a prefix length: that is the server's to say.
    pub fn asking(self, ips: &[String]) -> Outcome<Self> {
        let one = |text: &String| {
            let alone = text.split_once('/').map_or(text.as_str(), |(address, _)| address);
            alone.parse().map_err(|_| {
                Failure::new(Code::IpamConfig, format!("ips: {text:?} is no IPv4 address, and DHCP gives no other"))
            })
        };
        match ips {
            [] => Ok(self),
            [ip] => Ok(Self { asked: Some(one(ip)?), ..self }),
            more => {
                let msg = format!("ips: {} are asked for, and DHCP gives one address", more.join(", "));
                Err(Failure::new(Code::IpamConfig, msg).remedy("ask for one, or use ipam of type static"))
            }
        }
    }

    /// Asks for a lease. When it returns, the record of it lies on the disk.
    pub fn acquire(&self, target: &Target<'_>) -> Outcome<ipam::Lease> {
        let job = self.first(target)?;
        let who = (&job.identity, &job.wish);
        let client = Client::open(target.namespace, target.index, target.mac, who, target.dirs)?;
        let earlier = Earlier::find(target, &job);
        let (lease, since) = self.ask(target, &client, earlier.as_ref())?;
        hit("lease");
        if let Some(asked) = self.asked.filter(|asked| *asked != lease.address) {
            client.release(&lease)?;
            return Err(another(target, asked, &lease));
        }
        let kept = self.keep(target, &job, &lease, since);
        if kept.is_err() {
            client.release(&lease)?;
        } else if !target.vm {
            client.announce(lease.address)?;
        }
        if let Some(earlier) = earlier.filter(|_| kept.is_ok()) {
            earlier.forget(target.dirs);
        }
        let valid =
            remaining(&lease, client.now().saturating_sub(since)).filter(|_| self.whole || !is_kept(&self.socket));
        if let Some(unkept) = Unkept::of(target.dirs, &kept?) {
            tracing::warn!("{unkept}");
        }
        Ok(ipam::Lease { valid, ..self.result(&lease) })
    }

    /// A lease of an earlier boot is asked for again; where it cannot be had, its address is still preferred.
    fn ask(&self, target: &Target<'_>, client: &Client<'_>, earlier: Option<&Earlier>) -> Outcome<(Lease, Duration)> {
        let mut preferred = self.asked.or(earlier.map(|e| e.address));
        if let Some(again) = earlier.filter(|e| e.runs && preferred == Some(e.address)) {
            match client.run(Start::Reboot(again.address), AGAIN + target.patience)? {
                End::Bound { lease, since } => return Ok((lease, since)),
                End::Lost(Why::Taken(_)) => preferred = self.asked,
                End::Lost(why) => {
                    tracing::info!(address = %again.address, ?why, "the lease of the boot before is not given again")
                }
                End::Late(_) => {
                    tracing::info!(address = %again.address, "no server answers for the lease of the boot before")
                }
            }
        }
        let start = preferred.map_or(Start::Discover, Start::Prefer);
        match client.run(start, PATIENCE + target.patience)? {
            End::Bound { lease, since } => Ok((lease, since)),
            End::Late(trouble) => Err(no_lease(target, &trouble)),
            End::Lost(why) => Err(no_lease(target, &format!("{why:?}"))),
        }
    }

    fn first(&self, target: &Target<'_>) -> Outcome<Job> {
        let hardware = target
            .mac
            .ok_or_else(|| Failure::new(Code::Kernel, format!("{}: the link has no MAC address", target.ifname)))?;
        let mut wish = self.wish.clone();
        let named = wish.send.iter().any(|(code, _)| *code == HOST_NAME);
        if let Some(name) = host_name(target).filter(|_| self.whole && !named) {
            wish.send.push((HOST_NAME, name.into_bytes()));
        }
        Ok(Job {
            netns: target.netns.to_path_buf(),
            cookie: target.namespace.id()?.cookie().unwrap_or_default(),
            index: target.index,
            ifname: target.ifname.to_string(),
            identity: identity(target, hardware),
            wish,
            step: Step::First,
            seconds: SECONDS,
            routes: None,
            follows: None,
            priority: self.priority,
            before: None,
        })
    }

    fn keep(&self, target: &Target<'_>, job: &Job, lease: &Lease, since: Duration) -> Outcome<LeaseRecord<Job>> {
        if !lease.mask_given {
            let msg =
                format!("{}: server {} gives {} without a subnet mask", target.ifname, lease.server, lease.address);
            return Err(Failure::new(Code::IpamNothing, msg).remedy("configure option 1 (subnet-mask) on the server"));
        }
        let routes = target.sets.then(|| lease.as_routes(self.priority));
        let most = target.mtu.filter(|_| self.whole);
        let follows = target.sets.then_some(Follows { most, mtu: lease.mtu });
        let job = Job { routes, follows, ..job.with(Step::Renew(lease.clone()), SECONDS) };
        let (container, ifname) = (target.container.clone(), target.ifname.clone());
        let mut record = LeaseRecord::new(target.dirs, container, ifname, target.network, job)?;
        record.got_at = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        record.pod = target.facts.pod.as_ref().map(|p| format!("{}/{}", p.namespace, p.name));
        record.pod_uid = target.facts.pod.as_ref().and_then(|p| p.uid.clone());
        Leases::new(target.dirs).write(&record)?;
        hit("lease recorded");
        Ok(record)
    }

    /// What an IPAM plugin answers.
    pub fn result(&self, lease: &Lease) -> ipam::Lease {
        let gateway = lease.routers.first().map(|g| IpAddr::V4(*g));
        let ip = |address: IpNetwork| IpConfig { interface: None, address, gateway };
        ipam::Lease {
            ips: lease.network().map(ip).into_iter().collect(),
            routes: lease.as_routes(self.priority),
            dns: if self.whole { dns(lease) } else { Dns::default() },
            valid: None,
            mtu: lease.mtu.filter(|_| self.whole),
        }
    }
}

/// What the same client had before this boot. Most pods are another client each time.
struct Earlier {
    container: ContainerId,
    ifname: IfName,
    address: Ipv4Addr,
    /// Its time is not over, as far as the node's clock tells.
    runs: bool,
}

impl Earlier {
    fn find(target: &Target<'_>, job: &Job) -> Option<Self> {
        let names_itself = job.wish.client_id(&job.identity) != job.identity.client_id;
        if !target.vm && !names_itself {
            return None;
        }
        let all = Leases::new(target.dirs).all::<Job>().ok()?;
        let same = |r: &LeaseRecord<Job>| {
            r.network == target.network
                && !is_of_this_boot(target.dirs, r)
                && r.job.wish.client_id(&r.job.identity) == job.wish.client_id(&job.identity)
        };
        let latest = all.into_iter().flatten().filter(same).max_by_key(|r| r.got_at_wall)?;
        let lease = latest.job.held()?;
        let age = wall_clock().abs_diff(latest.got_at_wall);
        let runs = lease.seconds == Lease::FOR_EVER || age < u64::from(lease.seconds);
        Some(Self { address: lease.address, runs, container: latest.container, ifname: latest.ifname })
    }

    /// The new record says it.
    fn forget(&self, dirs: &Dirs) {
        if let Err(failure) = Leases::new(dirs).remove(&self.container, &self.ifname) {
            tracing::warn!(%failure, "a lease of an earlier boot stays until its end");
        }
    }
}

/// Whether a keeper of ours runs as the reference's daemon. A drop-in's address then has no end at first, as the reference's
/// has none: the keeper's first renewal gives it one. Our daemon ends each connection at once, the reference's waits for a
/// question, and keeps no lease that it has not got itself.
pub fn is_kept(socket: &Path) -> bool {
    const ANSWER: Duration = Duration::from_millis(50);
    let ended = |mut c: UnixStream| c.set_read_timeout(Some(ANSWER)).and_then(|()| c.read(&mut [0]));
    UnixStream::connect(socket).and_then(ended).is_ok_and(|read| read == 0)
}

fn dns(lease: &Lease) -> Dns {
    Dns {
        nameservers: lease.dns.iter().map(ToString::to_string).collect(),
        domain: lease.domain.clone(),
        search: lease.search.clone(),
        options: Vec::new(),
    }
}

/// A machine's stays through restarts and migrations; the interface's name stands for its network, as for its MAC.
fn identity(target: &Target<'_>, hardware: Mac) -> Identity {
    let of_vm = || {
        let (pod, vm) = (target.facts.pod.as_ref()?, target.facts.vm_name()?);
        Some(Identity::of_vm(hardware, &pod.namespace, &vm, target.ifname.as_str()))
    };
    let of_pod = || Identity::of_pod(hardware, target.container.as_str(), target.network, target.ifname.as_str());
    if !target.vm {
        return of_pod();
    }
    of_vm().unwrap_or_else(|| {
        tracing::warn!("the machine's name is not known: the server takes each of its pods for another client");
        Identity { broadcast: true, ..of_pod() }
    })
}

/// What the server may enter into its DNS.
fn host_name(target: &Target<'_>) -> Option<String> {
    const LONGEST: usize = 63;
    let vm = || target.facts.vm_name().filter(|_| target.vm);
    let name = vm().or_else(|| target.facts.pod.as_ref().map(|p| p.name.clone()))?;
    let cut = name.get(..LONGEST).unwrap_or(&name).trim_end_matches(['-', '.']).to_owned();
    (!cut.is_empty()).then_some(cut)
}

fn another(target: &Target<'_>, asked: Ipv4Addr, lease: &Lease) -> Failure {
    let (server, address, ifname) = (lease.server, lease.address, target.ifname);
    let msg =
        format!("network {}: DHCP server {server} gives {address}, and {ifname} asks for {asked}", target.network);
    Failure::new(Code::IpamTaken, msg).remedy("reserve it for this client on the server, or ask for none")
}

fn no_lease(target: &Target<'_>, why: &str) -> Failure {
    let msg = format!("network {}: no lease for {}: {why}", target.network, target.ifname);
    Failure::new(Code::DhcpNoLease, msg).remedy(
        "is a DHCP server on this LAN and VLAN? `tcpdump -ni BRIDGE port 67 or port 68` on the node shows both sides",
    )
}
