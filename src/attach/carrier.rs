//! By which links of the node an attachment's frames leave it, and what people should know of that.

use crate::net::{Link, LinkKind, Namespace};
use crate::plan::is_uplink;
use crate::store::{Dirs, Entry, Journal};
use crate::types::{AttachmentId, ContainerId, IfName, Outcome, PodRef, Role};

use super::record::{self, Wire, WireLink};

/// The way out of one attachment.
pub struct Outlet {
    pub entry: Entry,
    pub pod: Option<PodRef>,
    /// What people are told where it is a macvlan because the bridge is not there.
    pub fallback: Option<String>,
    by: By,
}

enum By {
    Bridge(String),
    Master(u32),
}

/// Of the attachments that the journal has of this boot and this node. A record that cannot be read is others' to tell
/// of.
pub fn outlets(entries: &[Entry], dirs: &Dirs, host: &Namespace) -> Outcome<Vec<Outlet>> {
    let here = host.id()?;
    let of = |entry: &Entry| {
        let wire: Wire = record::read(entry).ok()?;
        if !wire.place.of_this_boot(dirs) || wire.place.host_ns != here {
            return None;
        }
        let (by, fallback) = match wire.link {
            WireLink::Bridge { bridge, .. } => (By::Bridge(bridge.to_string()), None),
            // Of the pod's own links.
            WireLink::Macvlan { in_container: true, .. } => return None,
            WireLink::Macvlan { master_index, fallback, .. } => (By::Master(master_index), fallback),
        };
        Some(Outlet { entry: entry.clone(), pod: wire.place.pod, fallback, by })
    };
    Ok(entries.iter().filter(|e| e.id.role == Role::Wire).filter_map(of).collect())
}

impl Outlet {
    /// Uplinks of its bridge, or its master; none of an island.
    pub fn links<'l>(&self, all: &'l [Link]) -> Vec<&'l Link> {
        match &self.by {
            By::Master(index) => all.iter().filter(|l| l.index == *index).collect(),
            By::Bridge(name) => {
                let bridge = all.iter().find(|l| matches!(l.kind, LinkKind::Bridge { .. }) && l.name == *name);
                let Some(bridge) = bridge.map(|b| b.index) else { return Vec::new() };
                all.iter().filter(|l| l.master == Some(bridge) && is_uplink(l)).collect()
            }
        }
    }

    /// What is wrong, where none of them has a carrier.
    pub fn cut(&self, all: &[Link]) -> Option<String> {
        let links = self.links(all);
        if links.is_empty() || links.iter().any(|l| l.lower_up) {
            return None;
        }
        let names = links.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().join(", ");
        let which = match &self.by {
            By::Master(_) => format!("{names} has no carrier"),
            By::Bridge(bridge) => format!("no uplink of {bridge} has a carrier ({names})"),
        };
        Some(format!("{which}: nothing beyond this node is reached"))
    }
}

/// How people are told of a macvlan in a bridge's place.
pub(super) fn fallback_words(why: &str, master: &IfName) -> String {
    format!("{why}: macvlan on {master}; the node itself cannot be reached over it")
}

/// These words, if the attachment is one.
pub fn fallback(dirs: &Dirs, container: &ContainerId, ifname: &IfName) -> Outcome<Option<String>> {
    let id = AttachmentId { container: container.clone(), ifname: ifname.clone(), role: Role::Wire };
    let Some(entry) = Journal(dirs).read(&id)? else { return Ok(None) };
    match record::read::<Wire>(&entry)?.link {
        WireLink::Macvlan { fallback, .. } => Ok(fallback),
        WireLink::Bridge { .. } => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{bridge, link};

    #[test]
    fn a_bridge_is_cut_off_when_its_last_uplink_is() {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(tmp.path().join("run"), tmp.path().join("state"));
        let id = AttachmentId { container: "c".parse().unwrap(), ifname: "net1".parse().unwrap(), role: Role::Wire };
        Journal(&dirs).write(&id, &"lan".parse().unwrap(), &0).unwrap();
        let entry = Journal(&dirs).read(&id).unwrap().unwrap();
        let outlet = Outlet { entry, pod: None, fallback: None, by: By::Bridge("br-lan".into()) };
        let port = |index, name, lower_up, kind| Link { master: Some(1), lower_up, ..link(index, name, kind) };
        let up = |name, lower_up| port(2, name, lower_up, LinkKind::Hardware);
        let pod = port(9, "tr0", true, LinkKind::Veth);
        let cut = |ports: &[Link]| outlet.cut(&[&[bridge(1, "br-lan")], ports].concat());
        assert_eq!(cut(std::slice::from_ref(&pod)), None, "an island has nothing to lose");
        assert_eq!(cut(&[up("eno1", true), up("eno2", false)]), None);
        let words = cut(&[up("eno1", false), up("eno2", false), pod]).unwrap();
        assert!(words.starts_with("no uplink of br-lan has a carrier (eno1, eno2)"), "{words}");
        assert_eq!(outlet.cut(&[]), None, "the bridge is not there: others tell");
    }
}
