//! Random calls, and after each the same outcome and the same store as a model in memory, written down from the
//! reference's behaviour: naive, and without a list. Other programs give away and release in between, and the machine
//! boots.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Lab, who};
use crate::types::Code;

/// Range sets of a configuration: first, last and gateway of each range, and its subnet.
type Ranges = &'static [&'static [(&'static str, &'static str, &'static str, &'static str)]];

const CONFIGURATIONS: [Ranges; 4] = [
    &[&[("10.0.0.1", "10.0.0.6", "10.0.0.1", "10.0.0.0/29")]],
    &[&[("10.0.0.3", "10.0.0.9", "10.0.0.5", "10.0.0.0/28"), ("10.9.0.1", "10.9.0.2", "10.9.0.1", "10.9.0.0/30")]],
    &[&[("10.0.0.1", "10.0.0.4", "10.0.0.99", "10.0.0.0/29")], &[("fd00::ffff", "fd00::1:2", "fd00::1", "fd00::/64")]],
    &[
        &[("fd00::1:0", "fd00::1:1", "fd00::1", "fd00::/64")],
        &[("10.9.0.2", "10.9.0.2", "10.9.0.1", "10.9.0.0/30")],
        &[("10.0.0.4", "10.0.0.6", "10.0.0.6", "10.0.0.0/29")],
    ],
];

const CONTAINERS: [&str; 4] = ["a", "ab", "abc", "b"];
const INTERFACES: [&str; 2] = ["eth0", "eth1"];
const ADDRESSES: [&str; 9] =
    ["10.0.0.1", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.9.0.2", "fd00::ffff", "fd00::1:0", "fd00::1:1", "192.0.2.1"];

#[derive(Debug, Clone)]
enum Step {
    Configure(usize),
    Add {
        owner: (usize, usize),
        requested: Vec<usize>,
    },
    Del {
        owner: (usize, usize),
    },
    Check {
        owner: (usize, usize),
    },
    /// Another program, which knows nothing of our list.
    ForeignAdd {
        owner: (usize, usize),
        address: usize,
        bare: bool,
    },
    ForeignDel {
        address: usize,
    },
    /// It releases one of ours and gives it to somebody else.
    ForeignTake {
        owner: (usize, usize),
        pick: usize,
    },
    Boot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let owner = || (0..CONTAINERS.len(), 0..INTERFACES.len());
    let requested = prop_oneof![
        4 => Just(vec![]),
        2 => proptest::collection::vec(0..ADDRESSES.len(), 1..3),
    ];
    let step = prop_oneof![
        1 => (0..CONFIGURATIONS.len()).prop_map(Step::Configure),
        8 => (owner(), requested).prop_map(|(owner, requested)| Step::Add { owner, requested }),
        4 => owner().prop_map(|owner| Step::Del { owner }),
        2 => owner().prop_map(|owner| Step::Check { owner }),
        2 => (owner(), 0..ADDRESSES.len(), any::<bool>())
            .prop_map(|(owner, address, bare)| Step::ForeignAdd { owner, address, bare }),
        1 => (0..ADDRESSES.len()).prop_map(|address| Step::ForeignDel { address }),
        2 => (owner(), 0..9usize).prop_map(|(owner, pick)| Step::ForeignTake { owner, pick }),
        1 => Just(Step::Boot),
    ];
    proptest::collection::vec(step, 1..60)
}

#[derive(Default)]
struct Model {
    files: BTreeMap<String, String>,
    /// Given away by us in this boot, and in the one before.
    ours: BTreeSet<String>,
    stale: BTreeSet<String>,
}

/// From `first` to `last`, with the gateway that is passed over.
fn addresses(range: &(&str, &str, &str, &str)) -> Vec<(IpAddr, bool)> {
    let [first, last, gateway]: [IpAddr; 3] = [range.0, range.1, range.2].map(|a| a.parse().unwrap());
    let number = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    };
    let address = |n: u128| match first {
        IpAddr::V4(_) => IpAddr::from(u32::try_from(n).unwrap().to_be_bytes()),
        IpAddr::V6(_) => IpAddr::from(n.to_be_bytes()),
    };
    (number(first)..=number(last)).map(address).map(|ip| (ip, ip == gateway)).collect()
}

impl Model {
    fn boot(&mut self) {
        self.stale.append(&mut self.ours);
    }

    fn expire(&mut self) {
        for address in std::mem::take(&mut self.stale) {
            self.files.remove(&address);
        }
    }

    fn owned(&self, container: &str, ifname: &str) -> (Vec<String>, Vec<String>) {
        let with = |content: &str| {
            let is = |(name, text): (&String, &String)| (text == content).then(|| name.clone());
            self.files.iter().filter(|(n, _)| !n.starts_with("last")).filter_map(is).collect()
        };
        (with(&format!("{container}\r\n{ifname}")), with(container))
    }

    fn add(&mut self, ranges: Ranges, owner: (&str, &str), requested: &[&str]) -> Result<Vec<String>, Code> {
        self.expire();
        let mut wanted: Vec<IpAddr> = requested.iter().map(|a| a.parse().unwrap()).collect();
        let mut given = Vec::new();
        let outcome = self.take_all(ranges, owner, &mut wanted, &mut given);
        let outcome = outcome.and(if wanted.is_empty() { Ok(()) } else { Err(Code::IpamTaken) });
        if let Err(code) = outcome {
            for address in given {
                self.files.remove(&address);
                self.ours.remove(&address);
            }
            return Err(code);
        }
        Ok(given)
    }

    fn take_all(
        &mut self,
        ranges: Ranges,
        (container, ifname): (&str, &str),
        wanted: &mut Vec<IpAddr>,
        given: &mut Vec<String>,
    ) -> Result<(), Code> {
        for (i, set) in ranges.iter().enumerate() {
            let all: Vec<(IpAddr, bool)> = set.iter().flat_map(addresses).collect();
            let within = |ip: &IpAddr| all.iter().any(|(a, _)| a == ip);
            let free = |ip: &IpAddr| !self.files.contains_key(&ip.to_string());
            let address = if let Some(ip) = wanted.iter().copied().find(within) {
                wanted.retain(|w| *w != ip);
                let is_gateway = all.iter().any(|(a, gateway)| *a == ip && *gateway);
                if is_gateway || !free(&ip) {
                    return Err(Code::IpamTaken);
                }
                ip
            } else {
                let (exact, bare) = self.owned(container, ifname);
                if exact.iter().chain(&bare).any(|a| a.parse().is_ok_and(|ip| within(&ip))) {
                    return Err(Code::IpamDuplicate);
                }
                let last = self.files.get(&format!("last_reserved_ip.{i}")).and_then(|text| text.parse().ok());
                let begin = last.and_then(|last: IpAddr| all.iter().position(|(a, _)| *a == last)).map_or(0, |p| p + 1);
                let round = all[begin..].iter().chain(&all[..begin]);
                let mut candidates = round.filter(|(_, gateway)| !gateway).map(|(ip, _)| *ip);
                let in_any =
                    |ip: &IpAddr| ranges.iter().flat_map(|s| s.iter()).flat_map(addresses).any(|(a, _)| a == *ip);
                let full = if wanted.iter().all(in_any) { Code::IpamExhausted } else { Code::IpamTaken };
                candidates.find(free).ok_or(full)?
            };
            let name = address.to_string();
            self.files.insert(name.clone(), format!("{container}\r\n{ifname}"));
            self.files.insert(format!("last_reserved_ip.{i}"), name.clone());
            self.ours.insert(name.clone());
            given.push(name);
        }
        Ok(())
    }

    fn del(&mut self, container: &str, ifname: &str) {
        self.expire();
        let (exact, bare) = self.owned(container, ifname);
        for name in if exact.is_empty() { bare } else { exact } {
            self.files.remove(&name);
            self.ours.remove(&name);
        }
    }

    fn foreign_del(&mut self, address: &str) {
        self.files.remove(address);
        self.ours.remove(address);
        self.stale.remove(address);
    }
}

fn configuration(ranges: Ranges) -> Value {
    let range =
        |r: &(&str, &str, &str, &str)| json!({"rangeStart": r.0, "rangeEnd": r.1, "gateway": r.2, "subnet": r.3});
    json!({"ranges": ranges.iter().map(|set| set.iter().map(range).collect()).collect::<Vec<Vec<Value>>>()})
}

fn run(steps: Vec<Step>) {
    let mut lab = Lab::new();
    let mut model = Model::default();
    let mut ranges = CONFIGURATIONS[0];
    let mut boots = 1;
    for (n, step) in steps.into_iter().enumerate() {
        let name = |(c, i): (usize, usize)| (CONTAINERS[c], INTERFACES[i]);
        let local = |more: Value| lab.with(configuration(ranges), more, "").unwrap();
        match &step {
            Step::Configure(i) => ranges = CONFIGURATIONS[*i],
            Step::Add { owner, requested } => {
                let (container, ifname) = name(*owner);
                let mut ips: Vec<&str> = requested.iter().map(|i| ADDRESSES[*i]).collect();
                ips.dedup();
                let lease = local(json!({"runtimeConfig": {"ips": ips}})).add(&who(container, ifname), &lab.dirs);
                let got = lease.map(|l| l.ips.iter().map(|ip| ip.address.ip().to_string()).collect());
                let expected = model.add(ranges, (container, ifname), &ips);
                assert_eq!(got.map_err(|e| e.code), expected, "step {n}, {step:?}");
            }
            Step::Del { owner } => {
                let (container, ifname) = name(*owner);
                local(json!({})).del(&who(container, ifname), &lab.dirs).unwrap();
                model.del(container, ifname);
            }
            Step::Check { owner } => {
                let (container, ifname) = name(*owner);
                let (exact, bare) = model.owned(container, ifname);
                let got = local(json!({})).check(&who(container, ifname), &lab.dirs).is_ok();
                assert_eq!(got, !exact.is_empty() || !bare.is_empty(), "step {n}, {step:?}");
            }
            Step::ForeignAdd { owner, address, bare } => {
                let ((container, ifname), address) = (name(*owner), ADDRESSES[*address]);
                let content = if *bare { container.into() } else { format!("{container}\r\n{ifname}") };
                if !model.files.contains_key(address) {
                    lab.put(address, &content);
                    model.files.insert(address.into(), content);
                }
            }
            Step::ForeignDel { address } => {
                let _ = std::fs::remove_file(lab.store().join(ADDRESSES[*address]));
                model.foreign_del(ADDRESSES[*address]);
            }
            Step::ForeignTake { owner, pick } => {
                let (container, ifname) = name(*owner);
                let Some(address) = model.ours.iter().nth(*pick).cloned() else { continue };
                std::fs::remove_file(lab.store().join(&address)).unwrap();
                model.foreign_del(&address);
                let content = format!("{container}\r\n{ifname}");
                lab.put(&address, &content);
                model.files.insert(address, content);
            }
            Step::Boot => {
                boots += 1;
                lab.dirs = lab.dirs.clone().with_boot(&format!("boot-{boots}"));
                model.boot();
            }
        }
        assert_eq!(lab.files(), model.files, "after step {n}, {step:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_calls_leave_the_store_as_the_model_has_it(steps in steps()) {
        run(steps);
    }
}
