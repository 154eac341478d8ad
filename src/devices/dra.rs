//! Devices by dynamic resource allocation (resource.k8s.io/v1, Kubernetes 1.34): pod to claims, claim to the devices
//! that were allocated, and from the ResourceSlices of node and driver what a device is called for networks.
//!
//! Claims may hold devices that are no network's business (a GPU beside a VF): those without the two attributes are
//! passed over. A claim that Kubernetes made for an extended resource promises the network's resource by name, so there
//! anything else is a failure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Supply, put};
use crate::types::{Code, Failure, Outcome, PodRef};

/// Attributes by which a driver publishes a device for networks.
const DEVICE_ID: &str = "k8s.cni.cncf.io/deviceID";
const RESOURCE: &str = "k8s.cni.cncf.io/resourceName";

/// What is read of the API server, as the objects' JSON. `None`: there is no such object.
pub trait Objects {
    async fn pod(&self, pod: &PodRef) -> Outcome<Option<Value>>;
    async fn claim(&self, namespace: &str, name: &str) -> Outcome<Option<Value>>;
    /// The ResourceSlices that have this `spec.nodeName` and `spec.driver`.
    async fn slices(&self, node: &str, driver: &str) -> Outcome<Vec<Value>>;
}

/// A device as the scheduler names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    driver: String,
    pool: String,
    device: String,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.driver, self.pool, self.device)
    }
}

/// What its slice says of a device.
struct Published {
    id: String,
    resource: Option<String>,
}

/// One element of a claim's allocation.
struct Allocated {
    request: String,
    name: Name,
}

pub(super) async fn add<O: Objects>(objects: &O, pod: &PodRef, supply: &mut Supply) -> Outcome<()> {
    let object = objects.pod(pod).await?.ok_or_else(|| {
        Failure::new(Code::PodMissing, format!("pod {pod} is not there")).remedy("nothing: the pod was deleted")
    })?;
    if !is(&object, pod)? {
        return Ok(());
    }
    let node = text(&object, "/spec/nodeName").unwrap_or_default();
    let mut slices = Slices { objects, node, listed: BTreeSet::new(), devices: BTreeMap::new() };
    for claim in claims(&object) {
        let mut mapped = 0;
        for Allocated { name, .. } in allocated(objects, &pod.namespace, claim).await? {
            match slices.published(&name).await? {
                Some(Published { id, resource: Some(resource) }) => {
                    put(supply, resource, [id.clone()]);
                    mapped += 1;
                }
                _ => tracing::debug!(claim, device = %name, "not published for networks"),
            }
        }
        if mapped == 0 {
            tracing::info!(claim, "no device of the claim is published for networks");
        }
    }
    match object.pointer("/status/extendedResourceClaimStatus").filter(|s| !s.is_null()) {
        Some(status) => extended(&mut slices, &pod.namespace, status, supply).await,
        None => Ok(()),
    }
}

/// Whether the object is that pod, and may have claims at all. A static pod's object has a UID of its own; no claim
/// can name such a pod.
fn is(object: &Value, pod: &PodRef) -> Outcome<bool> {
    let annotation = |key| object.pointer("/metadata/annotations").and_then(|a| a.get(key)).and_then(Value::as_str);
    if annotation("kubernetes.io/config.source").is_some_and(|source| source != "api") {
        return Ok(false);
    }
    match (text(object, "/metadata/uid"), pod.uid.as_deref()) {
        (Some(is), Some(asked)) if is != asked && !asked.is_empty() => {
            Err(Failure::new(Code::PodReplaced, format!("pod {pod} has UID {is} now, the call was for {asked}"))
                .remedy("nothing: the runtime asks again for the new one"))
        }
        _ => Ok(true),
    }
}

/// The pod's claims by the names of their objects. The status has those that were made from a template, and only them;
/// a claim that the pod names itself stands in the specification.
fn claims(pod: &Value) -> BTreeSet<&str> {
    let named = |place| list(pod, place).iter().filter_map(|c| text(c, "/resourceClaimName"));
    named("/status/resourceClaimStatuses").chain(named("/spec/resourceClaims")).collect()
}

async fn allocated<O: Objects>(objects: &O, namespace: &str, claim: &str) -> Outcome<Vec<Allocated>> {
    let failed = |why: &str| {
        Failure::new(Code::Devices, format!("ResourceClaim {namespace}/{claim}: {why}"))
            .remedy("look at the claim's status and at its driver")
    };
    let object = objects.claim(namespace, claim).await?.ok_or_else(|| failed("not there"))?;
    let results = object.pointer("/status/allocation/devices/results").and_then(Value::as_array);
    let results = results.ok_or_else(|| failed("no device is allocated"))?;
    let read = |result: &Value| {
        let field = |key: &str| text(result, key).map(str::to_owned);
        let name = Name { driver: field("/driver")?, pool: field("/pool")?, device: field("/device")? };
        Some(Allocated { request: field("/request")?, name })
    };
    results
        .iter()
        .map(|r| read(r).ok_or_else(|| failed("an allocation lacks request, driver, pool or device")))
        .collect()
}

async fn extended<O: Objects>(
    slices: &mut Slices<'_, O>,
    namespace: &str,
    status: &Value,
    supply: &mut Supply,
) -> Outcome<()> {
    let claim = text(status, "/resourceClaimName").unwrap_or_default();
    let failed = |why: String| {
        Failure::new(Code::Devices, format!("ResourceClaim {namespace}/{claim} of the pod's extended resources: {why}"))
            .remedy("the device's driver must publish it under the resource's name")
    };
    let allocated = allocated(slices.objects, namespace, claim).await?;
    for mapping in list(status, "/requestMappings") {
        let field = |key| text(mapping, key).unwrap_or_default();
        let (request, resource) = (field("/requestName"), field("/resourceName"));
        let mut granted = allocated.iter().filter(|a| a.request == request).peekable();
        if granted.peek().is_none() {
            return Err(failed(format!("nothing is allocated for request {request}")));
        }
        for Allocated { name, .. } in granted {
            let Some(Published { id, resource: published }) = slices.published(name).await? else {
                return Err(failed(format!("device {name} has no attribute {DEVICE_ID} in a ResourceSlice")));
            };
            match published.as_deref() {
                Some(published) if published == resource => put(supply, resource, [id.clone()]),
                Some(published) => {
                    return Err(failed(format!("device {name}: {RESOURCE} is {published}, expected {resource}")));
                }
                None => return Err(failed(format!("device {name} has no attribute {RESOURCE}, expected {resource}"))),
            }
        }
    }
    Ok(())
}

/// What drivers publish on the pod's node. A slice may have hundreds of kilobytes: of each only the two attributes stay.
struct Slices<'a, O> {
    objects: &'a O,
    node: &'a str,
    listed: BTreeSet<String>,
    devices: BTreeMap<Name, Published>,
}

impl<O: Objects> Slices<'_, O> {
    async fn published(&mut self, name: &Name) -> Outcome<Option<&Published>> {
        if self.listed.insert(name.driver.clone()) {
            let mut slices = self.objects.slices(self.node, &name.driver).await?;
            // A pool that is published anew has slices of both generations for a while: the newer ones come last.
            slices.sort_by_key(|s| s.pointer("/spec/pool/generation").and_then(Value::as_i64));
            for slice in &slices {
                self.read(slice);
            }
        }
        Ok(self.devices.get(name))
    }

    fn read(&mut self, slice: &Value) {
        let (Some(driver), Some(pool)) = (text(slice, "/spec/driver"), text(slice, "/spec/pool/name")) else { return };
        for device in list(slice, "/spec/devices") {
            let attribute = |key| {
                let value = device.get("attributes")?.get(key)?.get("string")?.as_str()?;
                (!value.is_empty()).then(|| value.to_owned())
            };
            if let (Some(name), Some(id)) = (text(device, "/name"), attribute(DEVICE_ID)) {
                let name = Name { driver: driver.into(), pool: pool.into(), device: name.into() };
                self.devices.insert(name, Published { id, resource: attribute(RESOURCE) });
            }
        }
    }
}

fn text<'a>(object: &'a Value, place: &str) -> Option<&'a str> {
    object.pointer(place).and_then(Value::as_str)
}

fn list<'a>(object: &'a Value, place: &str) -> &'a [Value] {
    object.pointer(place).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests;
