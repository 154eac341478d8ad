//! The node: what its administrator has said, whether the plugin can write where it must, and the bridges.

use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use super::Finding;
use crate::net::{Link, Namespace};
use crate::plan::{self, BridgeRule, Health};
use crate::store::{Dirs, NodeConfig};
use crate::types::Outcome;

pub async fn examine(dirs: &Dirs, rule: BridgeRule) -> Vec<Finding> {
    let (config, allow) = match NodeConfig::read(dirs) {
        Ok(config) => (Finding::ok("node.json", "can be read, or is not there"), config.allow_bridges),
        // Every call reads it, so none can succeed.
        Err(failure) => (Finding::of("node.json", &failure), None),
    };
    let mut findings = vec![config];
    findings.extend([&dirs.run, &dirs.state].map(|dir| writable(dir)));
    match links().await {
        Ok(links) => findings.extend(bridges(&links, &BridgeRule { allow, ..rule })),
        Err(failure) => findings.push(Finding::of("bridges", &failure)),
    }
    findings
}

fn writable(dir: &Path) -> Finding {
    let about = dir.display().to_string();
    match access(dir, AccessFlags::W_OK) {
        Ok(()) => Finding::ok(about, "can be written"),
        Err(Errno::ENOENT) => Finding::ok(about, "is not there: the first pod's call makes it"),
        Err(e) => Finding::trouble(about, format!("cannot be written: {}", e.desc()))
            .remedy("no pod starts until it can be; `doctor` itself must be root to say so"),
    }
}

async fn links() -> Outcome<Vec<Link>> {
    Ok(Namespace::own()?.netlink()?.links().await?)
}

pub fn bridges(links: &[Link], rule: &BridgeRule) -> Vec<Finding> {
    let found: Vec<Finding> = plan::bridges(links, rule)
        .into_iter()
        .map(|(name, health)| match health {
            Health::Healthy => Finding::ok(format!("bridge {name}"), "healthy: pods and machines can be put onto it"),
            Health::Unhealthy(why) => Finding::trouble(format!("bridge {name}"), format!("not healthy: {why}"))
                .remedy("until then the scheduler sends no pod here that needs it"),
        })
        .collect();
    if !found.is_empty() {
        return found;
    }
    let text = "none that counts: plain pods get macvlan where their network names a master, machines are refused";
    vec![
        Finding::note("bridges", text)
            .remedy("make one by the node's own network configuration, or see `allowBridges`"),
    ]
}
