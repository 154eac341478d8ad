//! Where the addresses of an attachment come from: host-local, static and dhcp in this process, any other IPAM plugin by
//! the CNI protocol.

use serde_json::{Map, Value, json};

use crate::cni::{AddResult, Call, Verb, Version, json};
use crate::delegate::{self, Delegate};
use crate::failpoint::hit;
use crate::ipam::{Fixed, HostLocal, Lease, Who};
use crate::store::Dirs;
use crate::types::{AttachmentId, Code, Failure, Outcome};

use super::dhcp::{self, Dhcp, Target};
use super::{Job, WireConf, asked, record};

/// An IPAM section that has been read and found in order.
pub enum Ipam<'a> {
    None,
    HostLocal(Box<HostLocal>),
    Fixed(Fixed),
    Dhcp(Dhcp),
    Foreign { plugin: String, call: &'a Call },
}

impl<'a> Ipam<'a> {
    /// Nothing is changed yet, so a mistake in the section costs nothing.
    pub fn prepare(job: &Job<'a>, conf: &WireConf) -> Outcome<Self> {
        let call = job.call;
        let Some(section) = conf.ipam() else {
            return if conf.bare_ips() { Ok(Self::Fixed(bare(call)?)) } else { Ok(Self::None) };
        };
        let ipam = match conf {
            WireConf::Trestle(_) => Self::read_asked(call, section)?,
            WireConf::Bridge(_) | WireConf::Macvlan(_) => Self::read(call, section)?,
        };
        match &ipam {
            Self::Foreign { plugin, .. } => find(plugin, call)?,
            Self::HostLocal(h) => h.must_be_possible()?,
            _ => {}
        }
        Ok(ipam)
    }

    fn read(call: &'a Call, section: &Map<String, Value>) -> Outcome<Self> {
        Ok(match type_of(section) {
            "host-local" => Self::HostLocal(Box::new(HostLocal::parse(&call.conf, &call.args)?)),
            "static" => Self::Fixed(Fixed::parse(&call.conf, &call.args)?),
            "dhcp" => Self::Dhcp(Dhcp::parse(&call.conf, &call.args)?),
            other => Self::Foreign { plugin: other.to_owned(), call },
        })
    }

    /// As [`Self::read`], where of the three ways to ask for addresses the first counts alone.
    fn read_asked(call: &'a Call, section: &Map<String, Value>) -> Outcome<Self> {
        Ok(match type_of(section) {
            "host-local" => {
                let (conf, args) = asked::first_for_host_local(call);
                Self::HostLocal(Box::new(HostLocal::parse(&conf, &args)?))
            }
            "static" => {
                let (conf, args) = asked::first(call);
                Self::Fixed(Fixed::parse(&conf, &args)?)
            }
            "dhcp" => Self::Dhcp(Dhcp::parse(&call.conf, &call.args)?.whole().asking(&asked::addresses(call))?),
            _ => Self::read(call, section)?,
        })
    }

    /// What the journal needs to release the addresses.
    pub fn record(&self) -> Option<record::Ipam> {
        match self {
            Self::None | Self::Fixed(_) => None,
            Self::HostLocal(h) => Some(record::Ipam::HostLocal(h.location())),
            Self::Dhcp(_) => Some(record::Ipam::Dhcp),
            Self::Foreign { plugin, call } => Some(record::Ipam::Foreign {
                plugin: plugin.clone(),
                conf: call.conf.clone(),
                args: call.args.as_str().to_owned(),
                path: call.path.clone(),
            }),
        }
    }

    /// `over`: the pod's link, for who asks over it.
    pub fn add(&self, job: &Job<'_>, over: &Target<'_>) -> Outcome<Lease> {
        let lease = match self {
            Self::None => return Ok(Lease::default()),
            Self::HostLocal(h) => h.add(&who(job), job.dirs)?,
            Self::Fixed(f) => f.add(),
            Self::Dhcp(d) => d.acquire(over)?,
            Self::Foreign { plugin, call } => from_result(foreign(job, call, plugin, Verb::Add).add()?.result),
        };
        hit("ipam");
        if lease.ips.is_empty() {
            return Err(Failure::new(Code::IpamNothing, "IPAM gave no address")
                .remedy("configure an address, or leave ipam out"));
        }
        as_old_plugins_see_it(lease, job.call.version)
    }

    pub fn check(&self, job: &Job<'_>) -> Outcome<()> {
        match self {
            Self::None => Ok(()),
            Self::HostLocal(h) => h.check(&who(job), job.dirs),
            Self::Fixed(f) => f.check(job.call.prev_result()?.as_ref()),
            Self::Dhcp(_) => dhcp::check(job.call, job.dirs, job.container, job.ifname),
            Self::Foreign { plugin, call } => foreign(job, call, plugin, Verb::Check).run(),
        }
    }
}

/// Addresses that a pod asked for are static ones where the network has no IPAM.
fn bare(call: &Call) -> Outcome<Fixed> {
    let (mut conf, args) = asked::first(call);
    conf.retain(|key, _| !key.eq_ignore_ascii_case("ipam"));
    conf.insert("ipam".into(), json!({"type": "static"}));
    Fixed::parse(&conf, &args)
}

fn who<'a>(job: &Job<'a>) -> Who<'a> {
    Who { container: job.container.as_str(), ifname: job.ifname.as_str() }
}

fn type_of(section: &Map<String, Value>) -> &str {
    json::get(section, "type").and_then(Value::as_str).unwrap_or_default()
}

fn from_result(result: AddResult) -> Lease {
    Lease { ips: result.ips, routes: result.routes, dns: result.dns, valid: None, mtu: None }
}

/// Up to 0.2.0 the result of an IPAM plugin has one address for each family, and routes only of such a family.
fn as_old_plugins_see_it(lease: Lease, version: Version) -> Outcome<Lease> {
    let (valid, mtu) = (lease.valid, lease.mtu);
    let seen =
        AddResult { ips: lease.ips, routes: lease.routes, dns: lease.dns, ..AddResult::default() }.through(version)?;
    Ok(Lease { valid, mtu, ..from_result(seen) })
}

fn foreign<'a>(job: &Job<'a>, call: &'a Call, plugin: &'a str, verb: Verb) -> Delegate<'a> {
    Delegate {
        plugin,
        path: &call.path,
        verb,
        container: job.container.as_str(),
        ifname: job.ifname.as_str(),
        netns: call.netns.as_deref(),
        args: call.args.as_str(),
        conf: &call.conf,
    }
}

/// Whether the plugin could be run; a name that is none is the section's mistake.
fn find(plugin: &str, call: &Call) -> Outcome<()> {
    match delegate::find(plugin, &call.path) {
        Err(f) if f.code == Code::Config => {
            Err(Failure { code: Code::IpamConfig, msg: format!("ipam.{}", f.msg), ..f })
        }
        found => found.map(drop),
    }
}

/// Releases by what the journal kept.
pub fn release(dirs: &Dirs, id: &AttachmentId, place: &record::Place, ipam: &record::Ipam) -> Outcome<()> {
    let (container, ifname) = (id.container.as_str(), id.ifname.as_str());
    match ipam {
        record::Ipam::HostLocal(location) => HostLocal::release(location, &Who { container, ifname }, dirs)?,
        // Given back before the link went.
        record::Ipam::Dhcp => return Ok(()),
        record::Ipam::Foreign { plugin, conf, args, path } => {
            let netns = Some(place.netns.as_path());
            let delegate = Delegate { plugin, path, verb: Verb::Del, container, ifname, netns, args, conf };
            delegate.run()?;
        }
    }
    hit("released");
    Ok(())
}

/// Before a DEL changes anything: whether it could release by this section.
pub fn must_be_releasable(job: &Job<'_>, section: &Map<String, Value>) -> Outcome<()> {
    match type_of(section) {
        // The one keeps nothing, and the other has a record: nothing of their sections is looked at.
        "static" | "dhcp" => Ok(()),
        "host-local" => HostLocal::parse(&job.call.conf, &job.call.args).map(drop),
        plugin => find(plugin, job.call),
    }
}

/// What the original does at DEL: by the configuration alone.
pub async fn release_by_conf(job: &Job<'_>, section: &Map<String, Value>) -> Outcome<()> {
    match type_of(section) {
        "" | "static" => Ok(()),
        "dhcp" => release_lease(job).await,
        "host-local" => HostLocal::parse(&job.call.conf, &job.call.args)?.del(&who(job), job.dirs),
        plugin => foreign(job, job.call, plugin, Verb::Del).run(),
    }
}

/// The same for `type: trestle`, where nothing tells that an address was ever given: what cannot be read or run did
/// not give one, and a DEL that fails would keep the pod from going.
pub async fn release_what_can_be(job: &Job<'_>) -> Outcome<()> {
    let call = job.call;
    let Some(section) = json::get(&call.conf, "ipam").and_then(Value::as_object) else { return Ok(()) };
    let done = match type_of(section) {
        "" | "static" => Ok(()),
        "dhcp" => release_lease(job).await,
        "host-local" => {
            let (conf, args) = asked::first_for_host_local(call);
            HostLocal::parse(&conf, &args).and_then(|h| HostLocal::release(&h.location(), &who(job), job.dirs))
        }
        plugin => find(plugin, call).and_then(|()| foreign(job, call, plugin, Verb::Del).run()),
    };
    match done {
        Err(e) if matches!(e.code, Code::IpamConfig | Code::PluginMissing) => {
            tracing::warn!(failure = %e, "no address is released");
            Ok(())
        }
        other => other,
    }
}

/// By the lease's own record, if there is one.
pub async fn release_lease(job: &Job<'_>) -> Outcome<()> {
    dhcp::release(job.dirs, job.container, job.ifname).await
}

/// Whether addresses could be had: each of ours is written down, in store or lease, before it is given away.
pub fn status(call: &Call, dirs: &Dirs) -> Outcome<()> {
    let Some(section) = json::get(&call.conf, "ipam").and_then(Value::as_object) else { return Ok(()) };
    match type_of(section) {
        "" => Ok(()),
        "host-local" => HostLocal::parse(&call.conf, &call.args)?.ready(dirs),
        "static" => Ok(()),
        "dhcp" => Dhcp::parse(&call.conf, &call.args).and_then(|_| dirs.must_have_room()),
        plugin => {
            find(plugin, call)?;
            let path = &call.path;
            let (args, conf) = (call.args.as_str(), &call.conf);
            let delegate =
                Delegate { plugin, path, verb: Verb::Status, container: "", ifname: "", netns: None, args, conf };
            delegate.run()
        }
    }
}
