//! Looks up each wanted network's configuration: in the meta plugin's own, in a NAD, in a file.

use serde_json::{Map, Value};

use crate::nad::{Conf, Nad};
use crate::resolve::Pod;
use crate::types::{Code, Failure, Outcome};

use super::config::MetaConf;
use super::files;
use super::networks::{Source, Wanted};
use super::outside::World;
use super::run;
use super::settle::Known;

/// In order; a chain without plugins is no network.
pub async fn gather(
    world: &World<'_>,
    conf: &MetaConf,
    version: &str,
    pod: &Pod,
    wanted: Vec<Wanted<'_>>,
) -> Outcome<Vec<Known>> {
    let claims = world.claims(pod);
    let mut devices = world.devices(pod.facts.pod.as_ref(), claims.as_ref());
    let mut found = Vec::with_capacity(wanted.len());
    for one in wanted {
        if let Some(mut known) = look_up(world, conf, version, one).await? {
            if let (Some(resource), Some(devices)) = (&known.resource, &mut devices) {
                known.device = devices.take(resource).await?;
            }
            found.push(known);
        }
    }
    Ok(found)
}

pub async fn look_up(world: &World<'_>, conf: &MetaConf, version: &str, wanted: Wanted<'_>) -> Outcome<Option<Known>> {
    let known = |conf: Conf, name: Option<String>, resource| Known {
        name: name.unwrap_or_else(|| conf.name().to_owned()),
        conf,
        selection: None,
        master: wanted.master,
        chosen: wanted.chosen,
        resource,
        device: None,
    };
    Ok(Some(match wanted.source {
        Source::Inline(map) => known(inline(map)?, None, None),
        Source::Named(name) if name.contains('/') => known(of_file(&files::by_path(name.as_ref())?, name)?, None, None),
        Source::Named(name) => match named(world, conf, name).await? {
            Named::Nad(nad) => {
                let of_nad = of_nad(conf, &nad)?;
                known(of_nad, Some(format!("{}/{}", nad.namespace, nad.name)), nad.resource)
            }
            Named::File(map) => known(of_file(&map, name)?, None, None),
        },
        Source::Selected(selection) => {
            let nad = world.nad(&selection.namespace, &selection.name).await?;
            let of_nad = of_nad(conf, &nad)?;
            let name = format!("{}/{}", selection.namespace, selection.name);
            Known { selection: Some(*selection), ..known(of_nad, Some(name), nad.resource) }
        }
        Source::Chain { name, dir } => match files::auxiliary(dir, name, version)? {
            Some(map) => known(of_file(&map, name)?, None, None),
            None => return Ok(None),
        },
    }))
}

/// A delegate of the meta plugin's own configuration.
pub fn inline(map: &Map<String, Value>) -> Outcome<Conf> {
    run::to_conf(map).map_err(|f| Failure { code: Code::MetaConfig, ..f }.at("delegates"))
}

fn of_file(map: &Map<String, Value>, place: &str) -> Outcome<Conf> {
    run::to_conf(map).map_err(|f| Failure { code: Code::MetaConfig, ..f }.at(format!("network {place}")))
}

/// A NAD without a configuration means the file of its name.
fn of_nad(conf: &MetaConf, nad: &Nad) -> Outcome<Conf> {
    let place = || format!("network {}/{}", nad.namespace, nad.name);
    if !nad.config.is_empty() {
        return nad.conf();
    }
    match files::by_name(&conf.conf_dir, &nad.name)? {
        Some(map) => run::to_conf(&map).map_err(|f| f.at(place())),
        None => Err(Failure::new(
            Code::NadMissing,
            format!("{} has no configuration, and no file of {} has its name", place(), conf.conf_dir.display()),
        )
        .remedy("put a CNI configuration into spec.config")),
    }
}

enum Named {
    Nad(Nad),
    File(Map<String, Value>),
}

/// A NAD of the meta plugin's namespace first, then a file; where there is neither, both are told.
async fn named(world: &World<'_>, conf: &MetaConf, name: &str) -> Outcome<Named> {
    let cause = match world.nad(&conf.multus_namespace, name).await {
        Ok(nad) => return Ok(Named::Nad(nad)),
        Err(cause) => cause,
    };
    if !matches!(cause.code, Code::NadMissing | Code::NoSource) {
        tracing::warn!(name, failure = %cause, "a file of that name serves, if there is one");
    }
    if let Some(map) = files::by_name(&conf.conf_dir, name)? {
        return Ok(Named::File(map));
    }
    // Who could not be asked may have it: that is the failure then.
    if !matches!(cause.code, Code::NadMissing | Code::NoSource) {
        return Err(cause.at(format!("network {name}")));
    }
    Err(Failure::new(
        Code::DefaultNetwork,
        format!("network {name}: {}; no configuration of that name in {}", cause.msg, conf.conf_dir.display()),
    )
    .remedy("set clusterNetwork and defaultNetworks to NADs, to names in confDir, or to paths"))
}
