//! Looking at the lab from outside of the plugin: what the kernel has for the picture, and what is left after DEL.
//!
//! Reads only.

use std::collections::BTreeSet;
use std::path::Path;

use super::lan::{self, BRIDGE, GUEST, Lan, MASTER, OWN_LINKS, PREFIX, SUBNET, SWITCH, UPLINK};
use super::picture::{Picture, PodSpot, Spot, Tap};
use super::pods::{self, FALLBACK, VM, VM_TAP};
use super::runtime::{self, Attachment};
use super::world;
use crate::net::{Link, LinkKind, Namespace, Netlink};

pub async fn picture(lan: &Lan, with_guest: bool) -> anyhow::Result<Picture> {
    let node = &lan.on_node;
    let mut picture = Picture {
        lan: SUBNET.into(),
        switch: SWITCH.into(),
        neighbour: lan::spot(&lan.on_neighbour, lan::CARD).await?,
        bridge: lan::spot(node, BRIDGE).await?,
        uplink: lan::spot(node, UPLINK).await?,
        master: lan::spot(node, MASTER).await?,
        on_bridge: Vec::new(),
        on_master: Vec::new(),
    };
    for attachment in [pods::plain(), pods::wire(), pods::fallback()] {
        // What is not attached is not drawn; the table says why.
        let Some(spot) = pod(node, &attachment, with_guest).await? else { continue };
        let side = if attachment.place == FALLBACK { &mut picture.on_master } else { &mut picture.on_bridge };
        side.push(spot);
    }
    Ok(picture)
}

async fn pod(node: &Netlink, a: &Attachment, with_guest: bool) -> anyhow::Result<Option<PodSpot>> {
    let Ok(namespace) = Namespace::open(&world::netns(&a.place)) else { return Ok(None) };
    let inside = namespace.netlink()?;
    let Some(link) = inside.link(&a.ifname).await? else { return Ok(None) };
    let host_end = match (&link.kind, link.lower) {
        (LinkKind::Veth, Some(peer)) => node.link_at(peer).await?.map(|l| l.name),
        _ => None,
    };
    let spot = lan::spot(&inside, &a.ifname).await?;
    let tap = if a.place == VM { tap(&inside, &spot, with_guest).await? } else { None };
    Ok(Some(PodSpot { pod: a.pod.clone(), link: spot, host_end, tap }))
}

async fn tap(inside: &Netlink, link: &Spot, with_guest: bool) -> anyhow::Result<Option<Tap>> {
    let Some(Link { name, kind: LinkKind::Tun { owner, .. }, .. }) = inside.link(VM_TAP).await? else {
        return Ok(None);
    };
    let owner = owner.map_or_else(|| "any uid".to_owned(), |uid| format!("uid {uid}"));
    // The guest has the link's MAC: it was started with it, and the neighbour's table was compared.
    let card = || Spot { name: "eth0".into(), mac: link.mac.clone(), addresses: vec![format!("{GUEST}/{PREFIX}")] };
    Ok(Some(Tap { name, owner, guest: with_guest.then(card) }))
}

/// Links that somebody made in a namespace. Devices that some kernels put into each new one are of other kinds.
pub async fn links_left(namespace: &Namespace) -> anyhow::Result<Vec<String>> {
    let links = namespace.netlink()?.links().await?;
    let made = |l: &Link| {
        matches!(l.kind, LinkKind::Veth | LinkKind::Macvlan { .. } | LinkKind::Tun { .. } | LinkKind::Bridge { .. })
    };
    Ok(links.into_iter().filter(made).map(|l| l.name).collect())
}

/// What is there although every attachment was deleted.
pub async fn left(lan: &Lan, attachments: &[Attachment]) -> anyhow::Result<Vec<String>> {
    let own = |name: &String| !OWN_LINKS.contains(&name.as_str());
    let on_node = links_left(&lan.node).await?.into_iter().filter(own);
    let mut found: Vec<String> = on_node.map(|l| format!("link {l} on the node")).collect();
    for place in attachments.iter().map(|a| a.place.as_str()).collect::<BTreeSet<_>>() {
        let links = links_left(&Namespace::open(&world::netns(place))?).await?;
        found.extend(links.into_iter().map(|l| format!("link {l} in {place}")));
    }
    found.extend(files(&runtime::run_dir().join("journal")).into_iter().map(|f| format!("journal entry {f}")));
    let address = |f: &String| f.rsplit('/').next().is_some_and(|n| n.parse::<std::net::IpAddr>().is_ok());
    let addresses = files(&runtime::address_dir());
    found.extend(addresses.into_iter().filter(address).map(|f| format!("address {f}")));
    Ok(found)
}

/// All plain files below; none where nothing is.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path().display().to_string());
        }
    }
    found
}
