//! Bridge ports that the journal has, held against the kernel, and put right: what another program did to them behind
//! their pods' backs.
//!
//! Looks without a lock, and acts with the container's, after a second look: an ADD or DEL under way is never met. What
//! is right and what may be mended, `plan` says. No frame passes a port before its VLANs and flags are back.

use std::collections::HashMap;

use crate::failpoint::hit;
use crate::net::{Link, LinkChange, LinkKind, Namespace, NetResult, Netlink, PortVlan};
use crate::plan::{self, Mend, PortVlans, Verdict};
use crate::store::{Dirs, Entry, Journal};
use crate::types::{Outcome, PodRef, Role};

use super::bridge::{add_vlans, set_vlans};
use super::record::{self, Wire, WireLink};

/// The node's links as they were at one time.
pub struct Node {
    links: HashMap<u32, Link>,
    bridges: HashMap<String, u32>,
    vlans: HashMap<u32, Vec<PortVlan>>,
}

impl Node {
    pub async fn look(net: &Netlink) -> NetResult<Self> {
        let all = net.links().await?;
        let filtering = |l: &Link| l.kind == LinkKind::Bridge { vlan_filtering: true };
        let vlans = if all.iter().any(filtering) { net.all_vlans().await? } else { HashMap::new() };
        let is_bridge = |l: &&Link| matches!(l.kind, LinkKind::Bridge { .. });
        let bridges = all.iter().filter(is_bridge).map(|l| (l.name.clone(), l.index)).collect();
        Ok(Self { links: all.into_iter().map(|l| (l.index, l)).collect(), bridges, vlans })
    }

    pub fn bridges(&self) -> impl Iterator<Item = u32> {
        self.bridges.values().copied()
    }
}

/// A pod's port on a bridge, by its entry.
pub struct PodPort {
    pub entry: Entry,
    pub index: u32,
    pub pod: Option<PodRef>,
    pub bridge: String,
    wire: Wire,
}

/// The ports that the journal has of this boot and this node, whose ADD has come to its end.
pub fn ports(entries: &[Entry], dirs: &Dirs, host: &Namespace) -> Outcome<Vec<PodPort>> {
    let here = host.id()?;
    let mut found = Vec::new();
    for entry in entries.iter().filter(|e| e.id.role == Role::Wire) {
        let wire: Wire = match record::read(entry) {
            Ok(wire) => wire,
            Err(failure) => {
                tracing::error!(%failure, "an entry of the journal is left as it is");
                continue;
            }
        };
        let WireLink::Bridge { bridge, host_index: Some(index), .. } = &wire.link else { continue };
        if wire.place.of_this_boot(dirs) && wire.place.host_ns == here && wire.pod_index.is_some() {
            let (index, bridge, pod) = (*index, bridge.to_string(), wire.place.pod.clone());
            found.push(PodPort { entry: entry.clone(), index, pod, bridge, wire });
        }
    }
    Ok(found)
}

impl PodPort {
    /// Nothing to be said of a port that is gone: its pod goes, too.
    pub fn look(&self, node: &Node) -> Verdict {
        let Some(port) = node.links.get(&self.index) else { return Verdict::Sound };
        let bridge = node.bridges.get(&self.bridge).and_then(|i| node.links.get(i));
        self.judge(port, bridge, node.vlans.get(&self.index).map_or(&[], Vec::as_slice))
    }

    fn judge(&self, port: &Link, bridge: Option<&Link>, vlans: &[PortVlan]) -> Verdict {
        // A number that came back to another link after this one's.
        if port.kind != LinkKind::Veth || port.lower != self.wire.pod_index {
            return Verdict::Sound;
        }
        self.wire.link.made_port().map_or(Verdict::Sound, |made| plan::port(&made, port, bridge, vlans))
    }

    /// What was done; `None` where somebody is at work on the container, or there is nothing to do any more.
    pub async fn mend(&self, dirs: &Dirs, net: &Netlink) -> Outcome<Option<Mend>> {
        let Some(_lock) = Journal(dirs).hold(&self.entry)? else { return Ok(None) };
        let Some(port) = net.link_at(self.index).await? else { return Ok(None) };
        let bridge = net.link(&self.bridge).await?;
        match self.judge(&port, bridge.as_ref(), &net.vlans(self.index).await?) {
            Verdict::Mend(mend) => {
                self.carry_out(net, &mend).await?;
                Ok(Some(mend))
            }
            Verdict::Sound | Verdict::Leave(_) => Ok(None),
        }
    }

    async fn carry_out(&self, net: &Netlink, mend: &Mend) -> NetResult<()> {
        let flags = LinkChange { hairpin: mend.hairpin, isolated: mend.isolated, ..LinkChange::default() };
        let Some(bridge) = mend.join else {
            // Those that belong there first: frames of theirs go on passing.
            add_vlans(net, mend.native, &mend.tagged, self.index).await?;
            for vid in &mend.foreign {
                net.delete_vlan(self.index, *vid).await?;
                hit("foreign vlan removed");
            }
            let any = mend.hairpin.or(mend.isolated).is_some();
            return if any { net.set_link(self.index, &flags).await } else { Ok(()) };
        };
        // Down, so that nothing passes by the VLAN that the bridge gives each new port.
        let join = LinkChange { up: Some(false), mtu: mend.mtu, ..LinkChange::default() };
        net.set_link(self.index, &join).await?;
        hit("port down");
        let joined = self.join(net, bridge, mend, flags).await;
        if joined.is_err() {
            // Half a guard is none. Without a bridge it does no harm, and is looked at again.
            let off = LinkChange { up: Some(true), master: Some(0), ..LinkChange::default() };
            net.set_link(self.index, &off).await?;
        }
        joined
    }

    async fn join(&self, net: &Netlink, bridge: u32, mend: &Mend, flags: LinkChange<'_>) -> NetResult<()> {
        net.set_link(self.index, &LinkChange { master: Some(bridge), ..LinkChange::default() }).await?;
        hit("port on its bridge");
        if mend.native.is_some() || !mend.tagged.is_empty() {
            let WireLink::Bridge { keep_default, .. } = &self.wire.link else { return Ok(()) };
            let (native, tagged) = (mend.native, mend.tagged.clone());
            set_vlans(net, &PortVlans { native, tagged, keep_default: *keep_default }, self.index).await?;
        }
        net.set_link(self.index, &LinkChange { up: Some(true), ..flags }).await?;
        hit("port up again");
        Ok(())
    }
}
