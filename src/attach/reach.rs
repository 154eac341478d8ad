//! To which links of the node another plugin's configuration leads: looked up as the plugins of the reference set do it,
//! before one of them is run. Whether the pod may have them is the plan's word.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::net::{Link, Namespace, Netlink};
use crate::plan::{Found, Lead, shared_lower};
use crate::types::{Mac, Outcome};

use super::facts::default_route_link;

/// What each claim leads to; nothing where there is no such link, and the plugin will say so.
pub async fn reach<'a>(leads: impl Iterator<Item = &'a Lead>) -> Outcome<Vec<Vec<Found>>> {
    let links = Namespace::own()?.netlink()?;
    let mut all = Vec::new();
    for lead in leads {
        let mut found = Vec::new();
        for link in follow(&links, lead).await? {
            found.push(Found { lower: lower(&links, &link).await?, link });
        }
        all.push(found);
    }
    Ok(all)
}

/// The link below that a link upon this one would share with it.
pub async fn lower(links: &Netlink, link: &Link) -> Outcome<Option<Link>> {
    match shared_lower(link) {
        Some(index) => Ok(links.link_at(index).await?),
        None => Ok(None),
    }
}

async fn follow(links: &Netlink, lead: &Lead) -> Outcome<Vec<Link>> {
    Ok(match lead {
        Lead::Name(name) => links.link_by_any_name(name).await?.into_iter().collect(),
        Lead::DefaultRoute => match default_route_link(links).await? {
            Some(index) => links.link_at(index).await?.into_iter().collect(),
            None => Vec::new(),
        },
        Lead::Mac(mac) => match mac.parse::<Mac>() {
            Ok(mac) => links.links().await?.into_iter().filter(|l| l.mac == Some(mac)).collect(),
            Err(_) => Vec::new(),
        },
        Lead::Directories(dirs) => {
            let names: BTreeSet<String> = dirs.iter().flat_map(|dir| expand(dir)).flat_map(|dir| names(&dir)).collect();
            links.links().await?.into_iter().filter(|l| names.contains(&l.name)).collect()
        }
    })
}

/// `virtio*` in a path stands for the directories that begin so.
fn expand(dir: &Path) -> Vec<PathBuf> {
    let Some((above, below)) = dir.to_str().and_then(|d| d.split_once("/virtio*/")) else { return vec![dir.into()] };
    let found = names(Path::new(above)).into_iter().filter(|n| n.starts_with("virtio"));
    found.map(|n| Path::new(above).join(n).join(below)).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::Node;
    use super::*;
    use crate::net::testing::block_on;

    fn reached(node: &Node, lead: Lead) -> Vec<(String, Option<String>)> {
        let found = node.run(|| block_on(reach([&lead].into_iter()))).unwrap().remove(0);
        found.into_iter().map(|f| (f.link.name, f.lower.map(|l| l.name))).collect()
    }

    #[test]
    fn links_are_found_by_all_that_leads_to_them() {
        let node = Node::new();
        let alt = "an-alternative-name-of-the-bridge";
        node.sh(&format!("ip link property add dev br0 altname {alt} altname br-alias"));
        node.sh("ip link set br0 address 02:00:00:00:00:07; ip link add mv0 link br0 type macvlan");
        node.sh("ip addr add 192.0.2.1/24 dev br0; ip route add default via 192.0.2.9");
        let name = |name: &str| reached(&node, Lead::Name(name.into()));
        let br0 = vec![("br0".to_owned(), None)];
        assert_eq!([name("br0"), name("br-alias"), name(alt)], [br0.clone(), br0.clone(), br0.clone()]);
        assert_eq!(name("mv0"), [("mv0".to_owned(), Some("br0".to_owned()))]);
        let long = ["", "none", &"x".repeat(40), &"x".repeat(400)].map(name);
        assert!(long.iter().all(Vec::is_empty), "{long:?}");
        assert_eq!(reached(&node, Lead::DefaultRoute), br0);
        let mac = |mac: &str| reached(&node, Lead::Mac(mac.into()));
        assert_eq!([mac("02-00-00-00-00-07"), mac("02:00:00:00:00:08"), mac("no")], [br0.clone(), vec![], vec![]]);
        let tmp = tempfile::tempdir().unwrap();
        let at = |path: &str| tmp.path().join(path);
        fs::create_dir_all(at("device/virtio3/net/br0")).unwrap();
        fs::create_dir_all(at("other/net/eno9")).unwrap();
        let dirs = |paths: &[&str]| reached(&node, Lead::Directories(paths.iter().map(|p| at(p)).collect()));
        assert_eq!(dirs(&["device/net", "device/virtio*/net"]), br0);
        assert!(dirs(&["other/net", "none/net", "none/virtio*/net"]).is_empty());
    }
}
