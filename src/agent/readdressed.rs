//! Pods whose lease gave them another address than their ADD: network-status and journal follow.
//!
//! Each lease that is taken up is looked at, as the keeper before may have had nobody to tell. Where a call is at work on
//! the pod it is tried again. Which lease a pod has is the keeper's knowledge, what follows from it is `meta`'s.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use super::context::Context;
use crate::ipam::dhcp::Job;
use crate::meta::{Followed, readdress};
use crate::store::{LeaseRecord, Leases};
use crate::types::{ContainerId, IfName};

const AGAIN: Duration = Duration::from_secs(5);

/// Of which lease.
type Key = (ContainerId, IfName);

pub fn channel() -> (Held, UnboundedReceiver<Key>) {
    let (tell, heard) = unbounded_channel();
    (Held(tell), heard)
}

/// Where the keeper says what it holds.
pub struct Held(UnboundedSender<Key>);

impl Held {
    pub fn say(&self, record: &LeaseRecord<Job>) {
        // Whoever listens ends with the agent.
        let _ = self.0.send((record.container.clone(), record.ifname.clone()));
    }
}

/// Never ends.
pub async fn run(ctx: &Context, mut heard: UnboundedReceiver<Key>) {
    let mut waiting: HashMap<Key, Instant> = HashMap::new();
    loop {
        let next = waiting.values().min().copied();
        let key = tokio::select! {
            Some(key) = heard.recv() => key,
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                let due = waiting.iter().min_by_key(|(_, at)| **at).map(|(key, _)| key.clone());
                let Some(key) = due else { continue };
                key
            }
        };
        waiting.remove(&key);
        if !follow(ctx, &key) {
            waiting.insert(key, Instant::now() + AGAIN);
        }
    }
}

/// By the record as it is now. `false`: to be tried again.
fn follow(ctx: &Context, (container, ifname): &Key) -> bool {
    let followed = Leases::new(&ctx.dirs).read::<Job>(container, ifname).and_then(|record| match record {
        Some(record) => readdress(&ctx.dirs, &record),
        None => Ok(Followed::Same),
    });
    match followed {
        Ok(Followed::Same) => true,
        Ok(Followed::Busy) => false,
        Ok(Followed::PutDown) => {
            tracing::info!(%container, %ifname, "another address than at ADD: network-status follows");
            ctx.outbox.knock();
            true
        }
        Err(failure) => {
            tracing::warn!(%container, %ifname, %failure, "network-status does not follow the lease");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::agent::keeper::tests::{job, lease};
    use crate::agent::testing::context;
    use crate::ipam::dhcp::Step;
    use crate::store::{ContainerLock, Journal, Pending};
    use crate::types::{AttachmentId, Role};

    #[tokio::test(start_paused = true)]
    async fn a_status_is_put_down_once_nobody_is_at_work_on_the_pod() {
        let tmp = tempfile::tempdir().unwrap();
        let ctx = context(tmp.path());
        let (container, ifname): Key = ("c1".parse().unwrap(), "net1".parse().unwrap());
        let job = job(1).with(Step::Renew(lease(7, 600)), 1);
        let record = LeaseRecord::new(&ctx.dirs, container.clone(), ifname, "lan", job).unwrap();
        Leases::new(&ctx.dirs).write(&record).unwrap();
        let net1 = json!({"name": "lan", "conf": {}, "ifname": "net1",
            "result": {"cniVersion": "1.0.0",
            "interfaces": [{"name": "net1", "sandbox": "/run/netns/p"}], "ips": [{"address": "10.0.0.1/16", "interface": 0}]}});
        let entry = json!({"pod": {"namespace": "prod", "name": "web"}, "boot": "b1", "netns": "/run/netns/p", "args": "",
            "path": [], "cni_dir": "/nonexistent", "networks": [net1]});
        let id = AttachmentId { container: container.clone(), ifname: "eth0".parse().unwrap(), role: Role::Meta };
        Journal(&ctx.dirs).write(&id, &"m".parse().unwrap(), &entry).unwrap();
        let untold = || Pending::untold(&ctx.dirs).all::<serde_json::Value>().unwrap().len();
        let (held, heard) = channel();
        let lock = ContainerLock::try_lock(&ctx.dirs, &container).unwrap();
        held.say(&record);
        let pod = async {
            tokio::time::sleep(AGAIN * 3).await;
            assert_eq!(untold(), 0, "a call is at work");
            drop(lock);
            tokio::time::sleep(AGAIN * 2).await;
            assert_eq!(untold(), 1);
            ctx.outbox.knocked().await;
        };
        tokio::select! {
            () = run(&ctx, heard) => panic!("it ended"),
            () = pod => {}
        }
    }
}
