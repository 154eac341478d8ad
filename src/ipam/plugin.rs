//! `host-local` and `static` as plugins of their own: what each answers to each verb.

use std::collections::HashSet;
use std::time::SystemTime;

use serde_json::Value;

use super::{Fixed, HostLocal, Lease, Who};
use crate::cni::{AddResult, Call, Verb, valid_attachments};
use crate::store::Dirs;
use crate::types::{Code, Failure, Outcome};

pub fn host_local(call: &Call, dirs: &Dirs) -> Outcome<Option<Value>> {
    let store = HostLocal::parse(&call.conf, &call.args)?;
    let who = || match (&call.container, &call.ifname) {
        (Some(c), Some(i)) => Ok(Who { container: c.as_str(), ifname: i.as_str() }),
        _ => Err(Failure::new(Code::Environment, "CNI_CONTAINERID or CNI_IFNAME not set")),
    };
    match call.verb {
        Verb::Add => {
            let lease = store.add(&who()?, dirs)?;
            let result = result_of(lease).to_json(call.version);
            if result.is_err() {
                store.del(&who()?, dirs)?;
            }
            return result.map(Some);
        }
        Verb::Check => store.check(&who()?, dirs)?,
        Verb::Del => store.del(&who()?, dirs)?,
        Verb::Gc => {
            if let Some(valid) = valid_attachments(&call.conf)? {
                let keep: HashSet<(&str, &str)> = valid.iter().map(|(c, i)| (c.as_str(), i.as_str())).collect();
                store.gc(&|who| keep.contains(&(who.container, who.ifname)), SystemTime::now(), dirs)?;
            }
        }
        Verb::Status => store.ready(dirs)?,
        Verb::Version => {}
    }
    Ok(None)
}

pub fn fixed(call: &Call) -> Outcome<Option<Value>> {
    match call.verb {
        Verb::Add => result_of(Fixed::parse(&call.conf, &call.args)?.add()).to_json(call.version).map(Some),
        Verb::Check => Fixed::parse(&call.conf, &call.args)?.check(call.prev_result()?.as_ref()).map(|()| None),
        _ => Ok(None),
    }
}

fn result_of(lease: Lease) -> AddResult {
    AddResult { ips: lease.ips, routes: lease.routes, dns: lease.dns, ..AddResult::default() }
}
