//! The kernel's state, asked of iproute2 and nft.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::Netns;
use super::lab::files_below;

/// What `ip -d -j addr` says of one link.
#[derive(Debug, Clone)]
pub struct Link {
    pub name: String,
    pub index: u64,
    pub mac: String,
    pub mtu: u64,
    pub up: bool,
    pub kind: String,
    pub master: Option<String>,
    /// Index of the other end, or of the link below.
    pub lower: Option<u64>,
    pub alias: Option<String>,
    /// With their prefix length, without link-local ones.
    pub addresses: Vec<String>,
    pub raw: Value,
}

impl Link {
    fn of(raw: &Value) -> Self {
        let text = |v: &Value| v.as_str().map(str::to_owned);
        Self {
            name: text(&raw["ifname"]).unwrap(),
            index: raw["ifindex"].as_u64().unwrap(),
            mac: text(&raw["address"]).unwrap_or_default(),
            mtu: raw["mtu"].as_u64().unwrap(),
            up: raw["flags"].as_array().unwrap().iter().any(|f| f == "UP"),
            kind: text(&raw["linkinfo"]["info_kind"]).unwrap_or_default(),
            master: text(&raw["master"]),
            lower: raw["link_index"].as_u64(),
            alias: text(&raw["ifalias"]),
            addresses: addresses(raw),
            raw: raw.clone(),
        }
    }

    /// A member of the data of the link's kind: `vlan_filtering`, `mode`, `user`.
    pub fn data(&self, key: &str) -> &Value {
        &self.raw["linkinfo"]["info_data"][key]
    }

    /// A member of the data of the bridge port that it is: `hairpin`, `isolated`, `state`.
    pub fn port(&self, key: &str) -> &Value {
        &self.raw["linkinfo"]["info_slave_data"][key]
    }
}

impl Netns {
    pub fn links(&self) -> Vec<Link> {
        self.json("ip -d -j addr show").as_array().unwrap().iter().map(Link::of).collect()
    }

    pub fn find(&self, name: &str) -> Option<Link> {
        self.links().into_iter().find(|l| l.name == name)
    }

    #[track_caller]
    pub fn link(&self, name: &str) -> Link {
        self.find(name).unwrap_or_else(|| panic!("no link {name}; there are {:?}", self.names()))
    }

    pub fn names(&self) -> Vec<String> {
        self.links().into_iter().map(|l| l.name).collect()
    }

    /// The end in this namespace of a veth whose other end is `name` in `pod`.
    #[track_caller]
    pub fn other_end(&self, pod: &Netns, name: &str) -> Link {
        let lower = pod.link(name).lower;
        let found = self.links().into_iter().find(|l| Some(l.index) == lower);
        found.unwrap_or_else(|| panic!("{name} has no other end on the node: {:?}", self.names()))
    }

    #[track_caller]
    pub fn addresses(&self, link: &str) -> Vec<String> {
        self.link(link).addresses
    }

    /// Routes that somebody added: `DST`, `DST via GW`, with ` dev LINK`. Multicast, local and the kernel's own are left out.
    pub fn routes(&self) -> Vec<String> {
        let mut all = Vec::new();
        for family in ["-4", "-6"] {
            for route in self.json(&format!("ip {family} -j route show table all")).as_array().unwrap() {
                // What the kernel made for an address, what is no way out, and what a VM's link has to show to KubeVirt:
                // a route for a type of service that no packet has.
                let shown = !route["tos"].is_null();
                if shown || route["protocol"] == "kernel" || !route["type"].is_null() && route["type"] != "unicast" {
                    continue;
                }
                let part =
                    |key: &str, word: &str| route[key].as_str().map(|v| format!(" {word} {v}")).unwrap_or_default();
                all.push(format!("{}{}{}", route["dst"].as_str().unwrap(), part("gateway", "via"), part("dev", "dev")));
            }
        }
        all.sort();
        all
    }

    /// Rules and chains of the packet filter that belong to an attachment: masquerading and the spoof guard of both
    /// back ends. What both leave behind (tables, base chains) does not count.
    pub fn filters(&self) -> Vec<String> {
        let listed = self.json("nft -j list ruleset");
        let mut found = Vec::new();
        for object in listed["nftables"].as_array().unwrap() {
            if let Some(name) = object["chain"]["name"].as_str().filter(|n| of_attachment(n)) {
                found.push(format!("chain {name}"));
            }
            let rule = &object["rule"];
            let chain = rule["chain"].as_str().unwrap_or_default();
            let expr = rule["expr"].to_string();
            if chain == "masq_checks" || of_attachment(chain) || expr.contains("cni-br-iface") || expr.contains("CNI-")
            {
                found.push(format!("rule of {chain}: {expr}"));
            }
        }
        found.sort();
        found
    }

    /// Queueing disciplines and filters of the namespace's links, without the kernel's defaults.
    pub fn traffic_control(&self) -> Vec<String> {
        let kinds = self.json("tc -j qdisc show");
        let kinds = kinds.as_array().unwrap().iter().map(|q| (q["dev"].as_str().unwrap(), q["kind"].as_str().unwrap()));
        kinds
            .filter(|(_, kind)| ["ingress", "clsact"].contains(kind))
            .map(|(dev, kind)| format!("{dev}: {kind}"))
            .collect()
    }
}

fn addresses(raw: &Value) -> Vec<String> {
    let infos = raw["addr_info"].as_array().into_iter().flatten();
    infos
        .filter(|a| a["scope"] != "link")
        .map(|a| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"]))
        .collect()
}

fn of_attachment(chain: &str) -> bool {
    chain.starts_with("CNI-") || chain.starts_with("cni-br-iface")
}

/// The addresses that are taken in a host-local store, with their files' contents.
pub fn store_files(dir: &str) -> BTreeMap<String, String> {
    let mut taken = BTreeMap::new();
    for file in files_below(Path::new(dir)) {
        let name = file.file_name().unwrap().to_str().unwrap();
        if name == "lock" || name.starts_with("last_reserved_ip") {
            continue;
        }
        let below = file.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
        taken.insert(below, std::fs::read_to_string(&file).unwrap_or_default());
    }
    taken
}
