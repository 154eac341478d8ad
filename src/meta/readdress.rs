//! A pod whose DHCP lease is another one now than at ADD: the journal's result of that network follows, so that CHECK
//! holds, and the pod's network-status is put down anew, to be told.
//!
//! It takes the container's lock as the agent does: it only tries. Which lease is held is others' knowledge.

use crate::attach::dhcp::as_leased;
use crate::cni::AddResult;
use crate::ipam::dhcp::Job as Held;
use crate::protocol::Untold;
use crate::store::{ContainerLock, Dirs, Entry, Journal, LeaseRecord, Pending};
use crate::types::{Code, Failure, Outcome, Role};

use super::record::{Attached, Record};
use super::retold;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followed {
    /// There is nothing to follow: the address is that of the journal, or the pod is none of ours.
    Same,
    /// A status waits to be told.
    PutDown,
    /// A call is at work on the container: later.
    Busy,
}

pub fn readdress(dirs: &Dirs, lease: &LeaseRecord<Held>) -> Outcome<Followed> {
    // Without the lock, as there is mostly nothing to do.
    if find(dirs, lease)?.is_none() {
        return Ok(Followed::Same);
    }
    let Some(_lock) = ContainerLock::try_lock(dirs, &lease.container)? else { return Ok(Followed::Busy) };
    let Some((entry, record)) = find(dirs, lease)? else { return Ok(Followed::Same) };
    let network = entry.network.parse().map_err(|e| Failure::new(Code::JournalBroken, format!("{}: {e}", entry.id)))?;
    // The status first: a process that is killed in between finds that the journal has not followed yet.
    if let Some((pod, status)) = record.pod.clone().zip(retold::text(&record)?) {
        let (pending, container, ifname) = (Pending::untold(dirs), &entry.id.container, &entry.id.ifname);
        // What ADD had to say besides may still wait.
        let before: Option<Untold> = pending.read(container, ifname).unwrap_or_default();
        let (stale, notes) = before.map(|b| (b.stale, b.notes)).unwrap_or_default();
        pending.note(container, ifname, &Untold { version: 1, pod, status, stale, notes })?;
    }
    Journal(dirs).write(&entry.id, &network, &record)?;
    Ok(Followed::PutDown)
}

/// The pod's entry with the network's result as it is now; `None` where it is so already.
fn find(dirs: &Dirs, lease: &LeaseRecord<Held>) -> Outcome<Option<(Entry, Record)>> {
    // One that cannot be read has nobody's address.
    for entry in Journal(dirs).of_container(&lease.container)?.into_iter().flatten() {
        if entry.id.role != Role::Meta {
            continue;
        }
        let mut record = Record::read(&entry)?;
        let one = record.networks.iter_mut().find(|n| n.ifname == lease.ifname && !n.bind && !n.undone);
        if record.boot == lease.boot
            && let Some(one) = one
            && follow(one, lease)?
        {
            return Ok(Some((entry, record)));
        }
    }
    Ok(None)
}

fn follow(one: &mut Attached, lease: &LeaseRecord<Held>) -> Outcome<bool> {
    let Some(raw) = &one.result else { return Ok(false) };
    let (result, version) = AddResult::read(raw.clone(), None)?;
    let Some(now) = as_leased(&result, lease) else { return Ok(false) };
    one.result = Some(now.to_json(version)?);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::record::testing::{attached, record};
    use super::super::record::{Kept, key};
    use super::*;
    use crate::ipam::dhcp::Lease;
    use crate::types::PodRef;

    fn held(dirs: &Dirs, address: &str, router: &str) -> LeaseRecord<Held> {
        let lease: Lease = serde_json::from_value(json!({
            "address": address, "prefix": 24, "mask_given": true, "server": router, "routers": [router],
            "routes": [{"dst": "0.0.0.0/0", "gw": router}], "dns": [], "domain": null, "search": [], "mtu": null,
            "hostname": null, "seconds": 60, "t1": 30, "t2": 50,
        }))
        .unwrap();
        let job: Held = serde_json::from_value(json!({
            "netns": "/run/netns/pod", "cookie": 1, "index": 2, "ifname": "net1", "wish": {"send": [], "request": []},
            "identity": {"hardware": "02:00:5e:10:00:01", "client_id": [0, 1], "broadcast": false},
            "step": {"Renew": lease}, "seconds": 1, "routes": [],
        }))
        .unwrap();
        LeaseRecord::new(dirs, "c1".parse().unwrap(), "net1".parse().unwrap(), "lan", job).unwrap()
    }

    fn result(ifname: &str, ip: &str, gateway: &str) -> Value {
        let sandbox = "/run/netns/pod";
        json!({"cniVersion": "1.0.0", "interfaces": [{"name": "br-lan"}, {"name": ifname, "sandbox": sandbox}],
            "ips": [{"interface": 1, "address": format!("{ip}/24"), "gateway": gateway}],
            "routes": [{"dst": "0.0.0.0/0", "gw": gateway}]})
    }

    /// The statuses that are put down, and what the journal says of `net1`.
    fn look(dirs: &Dirs) -> (Vec<Untold>, Value) {
        let id = key(&"c1".parse().unwrap(), &"eth0".parse().unwrap());
        let record = Record::read(&Journal(dirs).read(&id).unwrap().unwrap()).unwrap();
        let untold = Pending::untold(dirs).all::<Untold>().unwrap().into_iter().map(Result::unwrap).collect();
        (untold, record.networks[1].result.clone().unwrap())
    }

    fn pod(boot: &str) -> (tempfile::TempDir, Dirs) {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(tmp.path().join("run"), tmp.path().join("state")).with_boot(boot);
        let id = key(&"c1".parse().unwrap(), &"eth0".parse().unwrap());
        let of = |name: &str, ifname: &str, ip: &str, gateway: &str| Attached {
            result: Some(result(ifname, ip, gateway)),
            ..attached(name, ifname, json!({"name": name, "type": "trestle"}))
        };
        let networks =
            vec![of("cbr", "eth0", "10.244.0.7", "10.244.0.1"), of("prod/lan", "net1", "192.0.2.150", "192.0.2.1")];
        let about = PodRef { namespace: "prod".into(), name: "web".into(), uid: Some("u1".into()) };
        let record = Record { pod: Some(about), ..record(networks) };
        Kept { dirs: &dirs, id: &id }.begin(&"m".parse().unwrap(), &record).unwrap();
        (tmp, dirs)
    }

    #[test]
    fn another_address_is_put_down_to_be_told_and_the_journal_follows() {
        let (_tmp, dirs) = pod("b");
        assert_eq!(readdress(&dirs, &held(&dirs, "192.0.2.150", "192.0.2.1")), Ok(Followed::Same));
        let lease = held(&dirs, "198.51.100.50", "198.51.100.1");
        let call = ContainerLock::try_lock(&dirs, &lease.container).unwrap();
        assert_eq!(readdress(&dirs, &lease), Ok(Followed::Busy));
        assert!(look(&dirs).0.is_empty());
        drop(call);
        assert_eq!(readdress(&dirs, &lease), Ok(Followed::PutDown));
        let (untold, in_journal) = look(&dirs);
        assert_eq!(in_journal, result("net1", "198.51.100.50", "198.51.100.1"));
        assert_eq!(untold[0].pod.uid.as_deref(), Some("u1"));
        let told: Value = serde_json::from_str(&untold[0].status).unwrap();
        assert_eq!(told[0]["ips"], json!(["10.244.0.7"]));
        let net1 = json!({"name": "prod/lan", "interface": "net1", "ips": ["198.51.100.50"], "dns": {},
            "gateway": ["198.51.100.1"]});
        assert_eq!(told[1], net1);
        assert_eq!(readdress(&dirs, &lease), Ok(Followed::Same), "once");
    }

    #[test]
    fn what_is_nobodys_business_is_left() {
        let (_tmp, dirs) = pod("b");
        let other = LeaseRecord { container: "c2".parse().unwrap(), ..held(&dirs, "198.51.100.50", "198.51.100.1") };
        assert_eq!(readdress(&dirs, &other), Ok(Followed::Same), "not wired by the meta plugin");
        let later = dirs.clone().with_boot("later");
        assert_eq!(readdress(&dirs, &held(&later, "198.51.100.50", "198.51.100.1")), Ok(Followed::Same));
        assert!(look(&dirs).0.is_empty());
    }
}
