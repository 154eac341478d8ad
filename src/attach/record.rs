//! What the journal keeps of an attachment: enough to undo it without anybody's help.
//!
//! Written with what is intended before the first kernel change, and once more when the kernel has numbered the links.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnetwork::{IpNetwork, Ipv4Network};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cni::{AddResult, Dns, IpConfig, Route};
use crate::ipam::StoreLocation;
use crate::net::{Namespace, NetResult, NsId};
use crate::plan::MadePort;
use crate::store::{Dirs, Entry};
use crate::types::{Code, Failure, IfName, Mac, Mtu, Outcome, PodRef, Role, VlanId};

/// The record of an entry, in the form that its role has.
pub fn read<T: DeserializeOwned>(entry: &Entry) -> Outcome<T> {
    entry.record.parse().map_err(|e| {
        Failure::new(Code::JournalBroken, format!("{}: the record in the journal cannot be read: {e}", entry.id))
            .remedy("a newer trestle wrote it, or somebody edited it")
    })
}

/// Where the attachment of this entry was made; `None` for an entry of another room.
pub fn place(entry: &Entry) -> Outcome<Option<Place>> {
    match entry.id.role {
        Role::Wire | Role::Bind => read(entry).map(Some),
        Role::Ipam | Role::Meta => Ok(None),
    }
}

/// Where an attachment was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    pub netns: PathBuf,
    /// Of the machine. Cookies begin anew with the kernel, so they say nothing of another boot's namespaces.
    #[serde(default)]
    pub boot: String,
    pub pod_ns: NsId,
    pub host_ns: NsId,
}

impl Place {
    /// Whether it was in the boot that goes on. What was in an earlier one is gone with its kernel.
    pub fn of_this_boot(&self, dirs: &Dirs) -> bool {
        self.boot.is_empty() || dirs.boot_id().map_or(true, |boot| boot == self.boot)
    }

    /// Whether this namespace is the pod's.
    pub fn is_in(&self, pod: &Namespace, dirs: &Dirs) -> NetResult<bool> {
        Ok(self.of_this_boot(dirs) && pod.id()? == self.pod_ns)
    }
}

/// Entry of role `wire`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Wire {
    #[serde(flatten)]
    pub place: Place,
    pub link: WireLink,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_index: Option<u32>,
    pub pod_mac: Option<Mac>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam: Option<Ipam>,
    /// A VM's: KubeVirt may rename the pod's end and change its MAC.
    #[serde(default)]
    pub vm: bool,
    #[serde(default)]
    pub masquerade: bool,
    #[serde(default)]
    pub macspoofchk: bool,
    /// A VM's: what the result said, for the bind step that follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<Given>,
    /// The only source that the guard against forged MACs lets pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guarded: Option<Mac>,
    /// Addresses that are masqueraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub masqueraded: Vec<IpNetwork>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WireLink {
    Bridge {
        bridge: IfName,
        host: IfName,
        host_index: Option<u32>,
        native: Option<VlanId>,
        tagged: Vec<VlanId>,
        /// The port has the bridge's own default VLAN besides.
        #[serde(default)]
        keep_default: bool,
        #[serde(default)]
        hairpin: bool,
        #[serde(default)]
        isolated: bool,
    },
    Macvlan {
        master_index: u32,
        mode: String,
        /// The master is one of the pod's own links.
        #[serde(default)]
        in_container: bool,
        /// What people are told where it stands in the place of a bridge that is missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fallback: Option<String>,
    },
}

impl WireLink {
    /// The bridge's port, if it is one.
    pub fn made_port(&self) -> Option<MadePort<'_>> {
        let Self::Bridge { bridge, native, tagged, hairpin, isolated, keep_default, .. } = self else { return None };
        let (native, hairpin, isolated, keep_default) = (*native, *hairpin, *isolated, *keep_default);
        Some(MadePort { bridge: bridge.as_str(), native, tagged, hairpin, isolated, keep_default })
    }
}

/// What releases the addresses.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ipam {
    HostLocal(StoreLocation),
    /// By the lease's own record.
    Dhcp,
    /// A plugin that is run from `CNI_PATH`: its DEL wants what its ADD got.
    Foreign {
        plugin: String,
        conf: Map<String, Value>,
        args: String,
        path: Vec<PathBuf>,
    },
}

/// Entry of role `bind`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bind {
    #[serde(flatten)]
    pub place: Place,
    pub network: String,
    /// The pod's link that the tap is joined to.
    pub link: u32,
    pub tap: IfName,
    pub tap_index: Option<u32>,
    /// The link's ingress qdisc is ours, or is about to be made.
    #[serde(default = "yes")]
    pub ingress: bool,
    pub multi_queue: bool,
    /// Addresses that were on the link: CHECK of the wire counts them as present.
    pub addresses: Vec<IpNetwork>,
    /// None: nothing is given to it, and whatever DHCP it speaks is the LAN's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<Guest>,
    /// The `clsact` at the guest's host end is ours, or is about to be made.
    #[serde(default)]
    pub clsact: bool,
}

/// Records of trestle 0.1 do not say.
fn yes() -> bool {
    true
}

/// A machine behind a bind step, and what it is to be given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Guest {
    /// The other end of the pod's link: the machine is answered there, from this MAC.
    pub host_index: u32,
    pub host_mac: Mac,
    /// The machine's own, the pod's link's when it was bound.
    pub mac: Mac,
    pub mtu: Mtu,
    /// Key of the wire's entry; `None`: another plugin made the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wire: Option<IfName>,
    /// Key of the lease that the address comes from. Then the lease's record tells what is given, and `given` only what
    /// it was at the time of the wire's ADD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<IfName>,
    pub given: Given,
    /// The machine's name, if the pod tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// What the wire's ADD answered, as far as DHCP over IPv4 can tell it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Given {
    pub addresses: Vec<Ipv4Network>,
    /// Of the first address. By itself it is no default route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// The default route too. Each has its gateway, but for a destination that is on the link.
    pub routes: Vec<Route>,
    #[serde(skip_serializing_if = "Dns::is_empty")]
    pub dns: Dns,
}

impl Given {
    pub fn of(result: &AddResult) -> Self {
        let v4 = |ip: &IpConfig| match ip.address {
            IpNetwork::V4(net) => Some((net, ip.gateway)),
            IpNetwork::V6(_) => None,
        };
        let ips: Vec<_> = result.ips.iter().filter_map(v4).collect();
        let gateway = ips.iter().find_map(|(_, gateway)| match gateway {
            Some(IpAddr::V4(gateway)) => Some(*gateway),
            _ => None,
        });
        let routes = result.routes.iter().filter(|r| r.dst.is_ipv4());
        let routes = routes.map(|r| Route { gw: r.gw.or(gateway.map(IpAddr::V4)), ..r.clone() }).collect();
        Self { addresses: ips.into_iter().map(|(net, _)| net).collect(), gateway, routes, dns: result.dns.clone() }
    }
}
