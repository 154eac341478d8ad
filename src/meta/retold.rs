//! A pod's network-status once more, out of what the journal has of its networks: for an agent whose own note of it is
//! torn.

use std::net::IpAddr;

use crate::annotation;
use crate::cni::AddResult;
use crate::store::Entry;
use crate::types::{Outcome, PodRef};

use super::outside;
use super::record::{Attached, Record};

/// `None`: its ADD has not come to its end, or nobody knows whose it is.
pub fn status_of(entry: &Entry) -> Outcome<Option<(PodRef, String)>> {
    let record = Record::read(entry)?;
    let status = text(&record)?;
    Ok(record.pod.zip(status))
}

/// `None`: a network of it has no result.
pub fn text(record: &Record) -> Outcome<Option<String>> {
    let mut entries = Vec::new();
    for one in record.networks.iter().filter(|n| !n.bind) {
        let Some(result) = shown(one)? else { return Ok(None) };
        let info = one.info_file.as_deref().and_then(outside::read_info);
        entries.extend(annotation::entries(&result, &one.name, one.master, info.as_ref()));
    }
    Ok((!entries.is_empty()).then(|| annotation::status_text(&entries)))
}

/// As ADD shows it: a default route that the pod asked for itself is in the result, and not shown at its network.
fn shown(one: &Attached) -> Outcome<Option<AddResult>> {
    let Some(raw) = &one.result else { return Ok(None) };
    let (mut result, _) = AddResult::read(raw.clone(), None)?;
    let own = |gw: IpAddr| result.ips.iter().any(|ip| ip.gateway == Some(gw));
    let asked: Vec<IpAddr> = one.default_route.iter().flatten().copied().filter(|gw| !own(*gw)).collect();
    result.routes.retain(|r| r.dst.prefix() != 0 || r.gw.is_none_or(|gw| !asked.contains(&gw)));
    Ok(Some(result))
}
