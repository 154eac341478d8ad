//! Decides addresses: `host-local` out of ranges and a store on disk that it shares with the reference plugin, and
//! `static` out of the configuration.
//!
//! This room knows files and the wire format, neither the kernel nor the API server: what it gives away, others put
//! on a link. What it refuses or fails at has an IPAM code.

pub mod dhcp;
mod fixed;
mod hostlocal;
mod plugin;

use std::fmt;

use serde_json::{Map, Value};

use crate::cni::{Args, Dns, IpConfig, Route, Version, json};
use crate::types::{Code, Failure, Outcome};

pub use fixed::Fixed;
pub use hostlocal::{Held, HostLocal, Outlived, StoreLocation};
pub use plugin::{fixed, host_local};

/// What an attachment gets.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lease {
    pub ips: Vec<IpConfig>,
    pub routes: Vec<Route>,
    pub dns: Dns,
    /// Seconds that the addresses may be used, unless somebody renews them; None: for ever.
    pub valid: Option<u32>,
    /// What the network says of itself.
    pub mtu: Option<u16>,
}

/// Whom an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Who<'a> {
    pub container: &'a str,
    pub ifname: &'a str,
}

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container, self.ifname)
    }
}

/// The sections of a configuration that an IPAM plugin reads, and nothing else of it.
fn sections(conf: &Map<String, Value>) -> Outcome<Value> {
    if json::get(conf, "ipam").is_none() {
        return Err(invalid("the configuration has no \"ipam\" section"));
    }
    let of = |key: &str| json::get(conf, key).map(|v| (key.to_owned(), v.clone()));
    Ok(Value::Object(["ipam", "args", "runtimeConfig"].into_iter().filter_map(of).collect()))
}

/// Up to CNI 0.2.0 a result had room for one address of a family.
fn check_families(conf: &Map<String, Value>, families: impl Iterator<Item = bool>) -> Outcome<()> {
    let (mut v4, mut v6) = (0, 0);
    families.for_each(|is_v4| if is_v4 { v4 += 1 } else { v6 += 1 });
    let version = json::get(conf, "cniVersion").and_then(Value::as_str).unwrap_or_default();
    let old = version.parse::<Version>().map_or(true, |v| v < Version::V0_3_0);
    if old && (v4 > 1 || v6 > 1) {
        return Err(invalid(format!("CNI version {version:?} has no room for more than one address of a family"))
            .remedy("set \"cniVersion\" to 0.3.0 or later"));
    }
    Ok(())
}

/// What is wrong with `CNI_ARGS` counts as the plugin's own configuration, as in the plugins whose place this takes.
fn strict(args: &Args, known: &[&str]) -> Outcome<()> {
    args.strict(known).map_err(|e| Failure { code: Code::IpamConfig, ..e })
}

fn invalid(msg: impl Into<String>) -> Failure {
    Failure::new(Code::IpamConfig, msg)
}
