//! The pure rules: what an attachment's configuration, its pod and its node make of it, a [`Plan`] or a refusal.
//!
//! Sees neither kernel nor API server nor clock nor file: all facts come in as values, so each rule is tested in
//! microseconds. A `Plan` is the only key to carrying something out.

mod allow;
pub mod conf;
pub mod dropin;
mod foreign;
mod health;
mod machine;
mod pod;
mod port;
mod rules;
#[cfg(test)]
pub mod testing;
mod uplink;

pub use allow::Allow;
pub use foreign::{Found, Lead, foreign, may_have};
pub use health::{BridgeRule, Health, bridges};
pub use pod::{PodFacts, Use, derived_mac, hex, network_hash};
pub use port::{MadePort, Mend, Verdict, port};
pub use rules::{
    BindFacts, bind, bridge, drop_in_host_end, guest_addresses, host_end, macvlan, may_be_host_end, shared_lower,
    trestle, vm_addresses,
};
pub use uplink::{Port, is_uplink};

use crate::net::{Link, MacvlanMode};
use crate::types::{ContainerId, IfName, Mac, Mtu, PodRef, VlanId};

/// `IFALIASZ` of Linux `if.h` is 256, and the policy in net/core/rtnetlink.c takes one byte less of it, as bytes, not as
/// text: the NUL byte with which our messages end a text counts. A longer one is ERANGE.
const ALIAS_MAX: usize = 254;

/// What an attachment will be. Made by the functions of this module alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    Bridge(BridgeWire),
    Macvlan(MacvlanWire),
}

/// A veth whose host's end is a port of a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeWire {
    pub bridge: IfName,
    /// For the drop-in: make the bridge where it is not there, and see to its flags.
    pub make: Option<MakeBridge>,
    pub host: IfName,
    /// `None`: the kernel's choice.
    pub host_mac: Option<Mac>,
    pub host_mtu: Option<Mtu>,
    pub pod_mac: Option<Mac>,
    pub pod_mtu: Option<Mtu>,
    pub hairpin: bool,
    pub isolated: bool,
    pub vlan: PortVlans,
    pub macspoofchk: bool,
    pub form: Form,
    pub gateway: Option<Gateway>,
    pub masquerade: Masquerade,
    /// The pod's end stays down (`disableContainerInterface`).
    pub leave_down: bool,
    /// Text of the host end's alias, for people: `NAMESPACE/POD NETWORK`.
    pub alias: Option<String>,
    pub verify: Verify,
}

/// Whether the pod's packets leave the node under the node's address (drop-in `bridge`, `ipMasq`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Masquerade {
    Off,
    /// By nftables, whichever backend was asked for: the effect is the same.
    On,
    /// A backend that nobody has. As in the reference it is refused only where it would be used: after IPAM, whose
    /// `last_reserved_ip` moves on.
    Unknown(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MakeBridge {
    pub mtu: Option<Mtu>,
    pub vlan_filtering: bool,
    pub promisc: bool,
}

/// Addresses of the pods' gateway on the bridge (drop-in `bridge`, `isGateway`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    pub default_route: bool,
    pub force_address: bool,
    /// The address goes onto an interface of this VLAN, beside the bridge.
    pub vlan: Option<VlanId>,
}

/// VLANs of the bridge port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortVlans {
    /// Frames without a tag belong to it.
    pub native: Option<VlanId>,
    pub tagged: Vec<VlanId>,
    /// The port keeps the VLAN that the bridge gives each port (its `vlan_default_pvid`, 1).
    pub keep_default: bool,
}

impl PortVlans {
    pub fn any(&self) -> bool {
        self.native.is_some() || !self.tagged.is_empty()
    }
}

/// How the pod's end behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A VM's: silent, no route.
    Vm,
    /// A plain pod's on a LAN: addresses by SLAAC, no default route by RA unless asked for.
    Lan { accept_ra: bool },
    /// As the reference plugin `bridge` leaves it.
    ReferenceBridge { enable_dad: bool },
    /// As the reference plugin `macvlan` leaves it.
    ReferenceMacvlan,
}

/// How much is looked at before ADD succeeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    Nothing,
    /// The state of the bridge port.
    Port,
    /// Port state, VLANs and MTU.
    Wire,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacvlanWire {
    pub master: IfName,
    pub master_index: u32,
    /// The master is in the pod's namespace.
    pub in_container: bool,
    pub mode: MacvlanMode,
    pub mtu: Option<Mtu>,
    pub mac: Option<Mac>,
    pub bc_queue_len: Option<u32>,
    pub form: Form,
    /// Why it is a macvlan though the NAD names a bridge.
    pub fallback: Option<String>,
}

/// The bind step: tap and redirects beside a link that is in the pod already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindPlan {
    pub network: String,
    pub link: u32,
    pub tap: IfName,
    pub mtu: Mtu,
    pub multi_queue: bool,
}

/// Who chose a network. The meta plugin knows; a call of the runtime's or of Multus' does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chooser {
    Unknown,
    /// The cluster's default network, and what the configuration adds for every pod.
    Administrator,
    /// A pod's annotations: whoever may write a NAD is bound by `allowBridges` and `allowMasters`.
    Pod,
}

/// Whom an attachment is for.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    pub container: &'a ContainerId,
    pub ifname: &'a IfName,
    pub network: &'a str,
    pub facts: &'a PodFacts,
    pub chooser: Chooser,
}

impl Asker<'_> {
    /// Whether the administrator's lists bind it. `unless_known`: what holds where nobody tells who chose it.
    fn is_bound(&self, unless_known: bool) -> bool {
        match self.chooser {
            Chooser::Unknown => unless_known,
            Chooser::Administrator => false,
            Chooser::Pod => true,
        }
    }

    fn namespace(&self) -> Option<&str> {
        self.facts.pod.as_ref().map(|p: &PodRef| p.namespace.as_str()).filter(|n| !n.is_empty())
    }

    /// `default/web`; a runtime that names no namespace leaves the name alone.
    fn pod(&self) -> Option<String> {
        let pod = self.facts.pod.as_ref()?;
        Some(if pod.namespace.is_empty() { pod.name.clone() } else { pod.to_string() })
    }

    /// For a person: `pod default/web`, or the container's id.
    pub fn who(&self) -> String {
        self.pod().map_or_else(|| format!("container {}", self.container), |p| format!("pod {p}"))
    }

    /// As long as the kernel takes it.
    fn alias(&self) -> Option<String> {
        let mut alias = format!("{} {}", self.pod()?, self.network);
        if let Some(end) = (0..=ALIAS_MAX).rev().find(|i| alias.is_char_boundary(*i)) {
            alias.truncate(end);
        }
        Some(alias)
    }
}

/// What is known of the node, as far as this attachment needs it.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    pub node: String,
    /// Derives VMs' MACs (`seed` of `node.json`).
    pub seed: String,
    pub allow: Allow,
    /// The link of the bridge's name.
    pub bridge: Option<Link>,
    pub master: Option<Link>,
    /// The link that a macvlan upon the master would be on, where that is not the master.
    pub master_lower: Option<Link>,
    /// Bridge that the master is a port of.
    pub master_of: Option<String>,
    /// All links of the node; looked up only where a refusal names them.
    pub links: Vec<Link>,
    /// Ports of the bridge, looked up only where a VLAN is asked for.
    pub ports: Vec<Port>,
    /// For MAC addresses that nobody asked for: the pod's and the host's end.
    pub random: [[u8; 6]; 2],
}
