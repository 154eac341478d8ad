//! The table of stable codes: the same in CNI errors, logs, and later in Events, metrics and admission.
//!
//! `docs/errors.md` has a row for each; a test holds the two together. A code is never given a new meaning.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $cni:literal, $title:literal;)*) => {
        /// A refusal or failure by its stable name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            #[cfg(test)]
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// `TRnnnn`.
            pub fn id(self) -> &'static str {
                match self { $(Code::$name => $id,)* }
            }

            /// The code of that id; another program may know more of them.
            pub fn of_id(id: &str) -> Option<Self> {
                match id { $($id => Some(Code::$name),)* _ => None }
            }

            /// Error code of the CNI result (specification 1.1.0, "Error"; 100 and above are the plugin's own).
            pub fn cni(self) -> u32 {
                match self { $(Code::$name => $cni,)* }
            }

            /// A few words for tables.
            #[cfg(test)]
            pub fn title(self) -> &'static str {
                match self { $(Code::$name => $title,)* }
            }
        }
    };
}

codes! {
    Version = "TR0101", 1, "CNI version not supported";
    Environment = "TR0102", 4, "environment variable missing or invalid";
    NotJson = "TR0103", 6, "standard input is not the JSON that was expected";
    Config = "TR0104", 7, "configuration invalid";
    UnknownKey = "TR0105", 7, "configuration key unknown";
    Conflict = "TR0106", 7, "configuration contradicts itself";
    Io = "TR0107", 5, "input, output or a file failed";
    OwnNamespace = "TR0108", 8, "the pod's network namespace is the plugin's own";
    NodeConfig = "TR0109", 7, "node.json invalid";
    Annotation = "TR0110", 7, "pod annotation invalid";
    NadInvalid = "TR0111", 7, "NetworkAttachmentDefinition invalid";
    MetaConfig = "TR0112", 7, "meta plugin's configuration invalid";
    Kubeconfig = "TR0113", 7, "kubeconfig invalid";
    MacvlanForVm = "TR0201", 100, "macvlan or ipvlan for a virtual machine";
    BridgeNotAllowed = "TR0202", 100, "bridge not allowed by the node's administrator";
    MasterNotAllowed = "TR0203", 100, "master not allowed by the node's administrator";
    NotWithMacvlan = "TR0204", 100, "a bridge option where only macvlan is possible";
    Ipv6ForVm = "TR0205", 100, "IPv6 address from IPAM for a virtual machine";
    ForeignPrimary = "TR0206", 100, "binding on a primary network that is not trestle's";
    GuardWithoutMac = "TR0207", 100, "a guard against spoofed MACs, and the machine's MAC is not known";
    Isolation = "TR0208", 100, "network of another namespace";
    SeveralForGuest = "TR0209", 100, "several addresses for one guest";
    BridgeMissing = "TR0301", 11, "bridge missing on this node";
    NotABridge = "TR0302", 100, "the link of that name is not a bridge";
    BridgeDown = "TR0303", 11, "bridge is down";
    PortState = "TR0304", 11, "bridge port does not forward";
    VlanFiltering = "TR0305", 100, "VLAN asked for, but the bridge does not filter VLANs";
    VlanUplink = "TR0306", 100, "no uplink of the bridge carries the VLAN";
    MtuTooLarge = "TR0307", 100, "MTU larger than the bridge's or the master's";
    MasterMissing = "TR0308", 11, "master interface missing on this node";
    MasterBusy = "TR0309", 100, "master interface is in use by a bridge";
    NameTaken = "TR0310", 100, "an interface of that name is in the pod already";
    NamespaceGone = "TR0311", 5, "the pod's network namespace is not there";
    BindLinkMissing = "TR0312", 11, "the pod's link for the virtual machine is not there";
    VlanNotInForce = "TR0313", 101, "the VLAN is not in force on the port";
    MasterDown = "TR0314", 11, "master interface is down";
    HostNameTaken = "TR0315", 100, "an interface of the host end's name is on the node already";
    AddressInUse = "TR0316", 101, "somebody on the network has the address";
    GatewayAddress = "TR0317", 100, "the bridge has another address than the gateway's";
    Kernel = "TR0401", 101, "the kernel refused";
    Differs = "TR0402", 101, "the kernel's state is not what was attached";
    PacketFilter = "TR0403", 101, "the packet filter refused";
    IpamConfig = "TR0501", 7, "IPAM configuration invalid";
    IpamExhausted = "TR0502", 11, "no address left";
    IpamTaken = "TR0503", 100, "the requested address is taken or not in the range";
    IpamDuplicate = "TR0504", 100, "the container has an address on this network already";
    IpamStore = "TR0505", 5, "the address store failed";
    IpamNothing = "TR0506", 100, "IPAM gave no address";
    PluginMissing = "TR0507", 5, "plugin not found in CNI_PATH";
    PluginFailed = "TR0508", 5, "another plugin failed";
    IpamMissing = "TR0509", 101, "the address is not in the store";
    DhcpNoLease = "TR0510", 11, "no DHCP lease";
    JournalUnwritable = "TR0601", 11, "the journal cannot be written";
    JournalBroken = "TR0602", 5, "an entry of the journal cannot be read";
    Locked = "TR0603", 11, "another call for this container is at work";
    Superseded = "TR0604", 11, "a DEL came after this ADD had started";
    AlreadyAttached = "TR0605", 100, "this interface is attached already";
    NotReady = "TR0701", 50, "the plugin cannot serve any pod";
    DefaultNetwork = "TR0702", 11, "default network not found";
    NotIndicated = "TR0703", 11, "readiness indicator file missing";
    ApiUnreachable = "TR0801", 11, "API server does not answer";
    ApiRefused = "TR0802", 11, "API server refused the request";
    NadMissing = "TR0803", 11, "NetworkAttachmentDefinition missing";
    PodMissing = "TR0804", 11, "pod not found";
    PodReplaced = "TR0805", 11, "pod replaced";
    NoSource = "TR0806", 11, "nobody tells what the pod wants";
    Devices = "TR0807", 11, "device not known";
    VmiMissing = "TR0808", 11, "virtual machine instance not found";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_well_formed() {
        let mut ids: Vec<_> = Code::ALL.iter().map(|c| c.id()).collect();
        assert!(ids.iter().all(|i| i.len() == 6 && i.starts_with("TR") && i[2..].parse::<u16>().is_ok()));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|c| Code::of_id(c.id()) == Some(*c)));
        assert_eq!(Code::of_id("TR0000"), None);
    }

    #[test]
    fn the_page_of_errors_has_each_code() {
        let page = include_str!("../../docs/errors.md");
        let rows: Vec<&str> = page.lines().filter(|l| l.starts_with("| TR")).collect();
        assert_eq!(rows.len(), Code::ALL.len(), "docs/errors.md has another number of rows than the enum");
        for c in Code::ALL {
            let start = format!("| {} | {} | {} |", c.id(), c.cni(), c.title());
            assert!(rows.iter().any(|r| r.starts_with(&start)), "docs/errors.md lacks the row {start}");
        }
    }
}
