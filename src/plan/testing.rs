//! What the tests of this room share: calls, pods, links as a node would have them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Asker, Chooser, NodeFacts, PodFacts, Port};
use crate::cni::{Call, Request, read};
use crate::net::{Link, LinkKind, PortVlan};
use crate::types::{ContainerId, IfName, PodRef};

/// An ADD with this configuration and these CNI_ARGS.
pub fn call(conf: &Value, args: &str) -> Call {
    let env = |name: &str| {
        let value = match name {
            "CNI_COMMAND" => "ADD",
            "CNI_CONTAINERID" => "c1",
            "CNI_NETNS" => "/run/netns/c1",
            "CNI_IFNAME" => "net1",
            "CNI_PATH" => "/opt/cni/bin",
            "CNI_ARGS" => args,
            _ => return None,
        };
        Some(value.into())
    };
    match read(&env, &mut conf.to_string().as_bytes()) {
        Ok(Request::Call(call)) => *call,
        other => panic!("{conf}: {other:?}"),
    }
}

/// Whom a rule is asked for.
pub struct Pod {
    pub container: ContainerId,
    pub ifname: IfName,
    pub facts: PodFacts,
}

impl Pod {
    /// `annotations`: none where nobody handed them over.
    pub fn new(name: &str, ifname: &str, annotations: Option<&[(&str, &str)]>) -> Self {
        let annotations =
            annotations.map(|a| a.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>());
        let pod = Some(PodRef { namespace: "default".into(), name: name.into(), uid: None });
        Self {
            container: "c1".parse().unwrap(),
            ifname: ifname.parse().unwrap(),
            facts: PodFacts { pod, annotations, nics: None },
        }
    }

    pub fn plain() -> Self {
        Self::new("web", "net1", None)
    }

    /// As a delegate of Multus sees it: known by its name alone.
    pub fn machine() -> Self {
        Self::new("virt-launcher-db-abcde", "pod094a367b026", None)
    }

    pub fn asks(&self) -> Asker<'_> {
        self.chosen_by(Chooser::Unknown)
    }

    pub fn chosen_by(&self, chooser: Chooser) -> Asker<'_> {
        Asker { container: &self.container, ifname: &self.ifname, network: "lan", facts: &self.facts, chooser }
    }
}

pub fn link(index: u32, name: &str, kind: LinkKind) -> Link {
    Link {
        index,
        name: name.into(),
        mac: None,
        mtu: 1500,
        up: true,
        lower_up: true,
        promisc: false,
        kind,
        master: None,
        lower: None,
        lower_nsid: None,
        alias: None,
        port: None,
    }
}

pub fn bridge(index: u32, name: &str) -> Link {
    link(index, name, LinkKind::Bridge { vlan_filtering: false })
}

pub fn port(link: Link, vids: &[u32]) -> Port {
    let vlan = |v: &u32| PortVlan { vid: (*v).try_into().unwrap(), pvid: *v == 1, untagged: *v == 1 };
    Port { link, vlans: vids.iter().map(vlan).collect() }
}

/// `node1` with the bridges `br-lan` and `br-dmz`, and `eno1`.
pub fn node() -> NodeFacts {
    let links = vec![link(2, "eno1", LinkKind::Hardware), bridge(3, "br-lan"), bridge(4, "br-dmz")];
    NodeFacts { node: "node1".into(), links, random: [[0x10; 6], [0x20; 6]], ..NodeFacts::default() }
}
