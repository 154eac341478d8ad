//! The meta plugin's own configuration: the keys of Multus, with their meaning there.
//!
//! Keys match in any case of letters, unknown ones are passed over, as in Multus. What is deprecated, or has no meaning
//! here, is accepted and told to the log. Networks are not looked up here.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::cni::{Call, json};
use crate::types::{Code, Failure, Outcome};

const CONF_DIR: &str = "/etc/cni/multus/net.d";
const CNI_DIR: &str = "/var/lib/cni/multus";
const BIN_DIR: &str = "/opt/cni/bin";
const SYSTEM_NAMESPACE: &str = "kube-system";
const GLOBAL_NAMESPACE: &str = "default";

/// Keys that only a meta plugin's configuration has: one of them without any network is a mistake to be told.
const OWN_KEYS: [&str; 12] = [
    "clusterNetwork",
    "delegates",
    "defaultNetworks",
    "systemNamespaces",
    "multusNamespace",
    "namespaceIsolation",
    "globalNamespaces",
    "confDir",
    "cniDir",
    "binDir",
    "kubeconfig",
    "readinessindicatorfile",
];

/// Keys of Multus' daemon, of its entry point, and of its documentation that the thin plugin does not read.
const WITHOUT_MEANING: [&str; 14] = [
    "allowTryDeleteOnErr",
    "cniConf",
    "cniConfigDir",
    "chrootDir",
    "connectionLimit",
    "daemonSocketDir",
    "enablePprof",
    "forceCNIVersion",
    "metricsPort",
    "multusAutoconfigDir",
    "multusConfigFile",
    "multusMasterCNI",
    "perNodeCertificate",
    "socketDir",
];

/// As it stands in the JSON.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Raw {
    delegates: Option<Vec<Map<String, Value>>>,
    cluster_network: String,
    default_networks: Option<Vec<String>>,
    system_namespaces: Option<Vec<String>>,
    multus_namespace: String,
    namespace_isolation: bool,
    global_namespaces: String,
    conf_dir: String,
    cni_dir: String,
    bin_dir: String,
    kubeconfig: String,
    readinessindicatorfile: String,
    retry_delete_on_error: Option<bool>,
    #[serde(rename = "auxiliaryCNIChainName")]
    auxiliary_chain: String,
    runtime_config: Option<Map<String, Value>>,
    log_options: Option<Map<String, Value>>,
}

/// Which networks every pod gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Cluster {
    /// `delegates`: the first is the pod's default network.
    Inline(Vec<Map<String, Value>>),
    /// `clusterNetwork`, by a name or a path, and `defaultNetworks`.
    Named { default: String, more: Vec<String> },
}

#[derive(Debug, Clone, PartialEq)]
pub struct MetaConf {
    pub cluster: Cluster,
    pub system_namespaces: Vec<String>,
    pub multus_namespace: String,
    /// With `namespaceIsolation`: whose NADs any pod may name.
    pub isolation: Option<Vec<String>>,
    pub conf_dir: PathBuf,
    pub cni_dir: PathBuf,
    pub bin_dir: PathBuf,
    pub kubeconfig: Option<PathBuf>,
    pub readiness: Option<PathBuf>,
    pub auxiliary_chain: Option<String>,
    /// What the runtime gives by capability.
    pub runtime: Map<String, Value>,
    /// For the log, once per ADD.
    pub notes: Vec<String>,
}

/// Whether a configuration is a meta plugin's; both a meta plugin's and an attachment's is a contradiction.
pub fn is_meta(conf: &Map<String, Value>) -> Outcome<bool> {
    let has = |key: &str| json::get(conf, key).is_some_and(|v| v.as_str() != Some(""));
    let first = |keys: &[&'static str]| keys.iter().copied().find(|k| has(k));
    match (first(&OWN_KEYS[..2]), first(&["bridge", "master"])) {
        (Some(meta), Some(wire)) => Err(Failure::new(
            Code::Conflict,
            format!("{meta} makes it a meta plugin's configuration, {wire} an attachment's"),
        )
        .remedy("use a configuration of its own for each")),
        (Some(_), None) => Ok(true),
        (None, Some(_)) => Ok(false),
        (None, None) => Ok(first(&OWN_KEYS).is_some()),
    }
}

fn bad(msg: impl Into<String>) -> Failure {
    Failure::new(Code::MetaConfig, msg)
}

pub fn read(call: &Call) -> Outcome<MetaConf> {
    let raw: Raw = json::from_value(Value::Object(call.conf.clone())).map_err(|e| bad(e.to_string()))?;
    // Of no use here, as in Multus; but what cannot be read is refused, as there.
    call.prev_result().map_err(|f| Failure { code: Code::MetaConfig, ..f })?;
    let notes = notes(&call.conf, &raw);
    let some = |s: String| Some(s).filter(|s| !s.is_empty());
    let path = |s: String, default: &str| PathBuf::from(if s.is_empty() { default } else { &s });
    let auxiliary_chain = some(raw.auxiliary_chain);
    Ok(MetaConf {
        cluster: cluster(raw.delegates, raw.cluster_network, raw.default_networks.unwrap_or_default())?,
        system_namespaces: raw.system_namespaces.unwrap_or_else(|| vec![SYSTEM_NAMESPACE.into()]),
        multus_namespace: some(raw.multus_namespace).unwrap_or_else(|| SYSTEM_NAMESPACE.into()),
        isolation: raw.namespace_isolation.then(|| global(&raw.global_namespaces)),
        conf_dir: path(raw.conf_dir, CONF_DIR),
        cni_dir: path(raw.cni_dir, CNI_DIR),
        bin_dir: path(raw.bin_dir, BIN_DIR),
        kubeconfig: some(raw.kubeconfig).map(PathBuf::from),
        readiness: some(raw.readinessindicatorfile).map(PathBuf::from),
        auxiliary_chain,
        runtime: raw.runtime_config.unwrap_or_default(),
        notes,
    })
}

fn cluster(delegates: Option<Vec<Map<String, Value>>>, named: String, more: Vec<String>) -> Outcome<Cluster> {
    if !named.is_empty() {
        return Ok(Cluster::Named { default: named, more });
    }
    let delegates = delegates.unwrap_or_default();
    if delegates.is_empty() {
        return Err(bad("neither delegates nor clusterNetwork name a network")
            .remedy("set clusterNetwork to the file of the cluster's own network"));
    }
    Ok(Cluster::Inline(delegates))
}

/// A list that is there takes the place of `default`.
fn global(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec![GLOBAL_NAMESPACE.into()];
    }
    text.split(',').map(|ns| ns.trim().to_owned()).collect()
}

fn notes(conf: &Map<String, Value>, raw: &Raw) -> Vec<String> {
    let mut notes = Vec::new();
    let delegates = raw.delegates.as_ref().is_some_and(|d| !d.is_empty());
    if delegates && !raw.cluster_network.is_empty() {
        notes.push("delegates: not used, as there is a clusterNetwork".into());
    }
    if raw.default_networks.as_ref().is_some_and(|d| !d.is_empty()) && raw.cluster_network.is_empty() {
        notes.push("defaultNetworks: not used without a clusterNetwork; list them in delegates".into());
    }
    if raw.retry_delete_on_error == Some(false) {
        notes.push("retryDeleteOnError: what is owed to a plugin that failed is kept in any case".into());
    }
    notes.extend(super::words::odd_level(conf));
    let options = raw.log_options.iter().flat_map(|o| o.keys());
    let unused = options.filter(|k| !json::same_key(k, "maxSize")).map(|k| format!("logOptions.{k}"));
    let keys = conf.keys().filter(|k| WITHOUT_MEANING.iter().any(|w| json::same_key(k, w))).cloned();
    notes.extend(keys.chain(unused).map(|k| format!("{k}: accepted, has no meaning here")));
    notes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plan::testing::call;

    fn conf(v: Value) -> Outcome<MetaConf> {
        let mut all = json!({"cniVersion": "1.0.0", "name": "multus-cni-network", "type": "trestle"});
        all.as_object_mut().unwrap().extend(v.as_object().unwrap().clone());
        read(&call(&all, ""))
    }

    #[test]
    fn defaults_are_those_of_multus() {
        let c = conf(json!({"clusterNetwork": "cn"})).unwrap();
        assert_eq!(c.cluster, Cluster::Named { default: "cn".into(), more: vec![] });
        assert_eq!((c.multus_namespace.as_str(), c.system_namespaces), ("kube-system", vec!["kube-system".to_owned()]));
        assert_eq!(c.conf_dir.to_str(), Some("/etc/cni/multus/net.d"));
        assert_eq!(c.cni_dir.to_str(), Some("/var/lib/cni/multus"));
        assert_eq!(c.bin_dir.to_str(), Some("/opt/cni/bin"));
        assert_eq!((c.isolation, c.kubeconfig, c.readiness, c.auxiliary_chain), (None, None, None, None));
        assert!(c.notes.is_empty() && c.runtime.is_empty());
    }

    #[test]
    fn every_key_in_any_case() {
        let c = conf(json!({"ClusterNetwork": "/etc/cni/net.d/10-x.conflist", "DEFAULTNETWORKS": ["a"],
            "systemnamespaces": [], "MultusNamespace": "mns", "namespaceISOLATION": true, "globalNamespaces": "x, y ,z",
            "confdir": "/c", "CNIDIR": "/d", "bindir": "/b", "KubeConfig": "/k", "readinessIndicatorFile": "/r",
            "retryDeleteOnError": true, "auxiliarycnichainname": "aux", "runtimeConfig": {"mac": "x"},
            "capabilities": {"mac": true}, "logFile": "/l", "logLevel": "debug", "logToStderr": false, "foo": {}}))
        .unwrap();
        let named = Cluster::Named { default: "/etc/cni/net.d/10-x.conflist".into(), more: vec!["a".into()] };
        assert_eq!((c.cluster, c.system_namespaces.len(), c.multus_namespace.as_str()), (named, 0, "mns"));
        assert_eq!(c.isolation, Some(["x", "y", "z"].map(String::from).to_vec()));
        let paths =
            [Some(&c.conf_dir), Some(&c.cni_dir), Some(&c.bin_dir), c.kubeconfig.as_ref(), c.readiness.as_ref()];
        assert_eq!(paths.map(|p| p.unwrap().to_str().unwrap()), ["/c", "/d", "/b", "/k", "/r"]);
        assert_eq!((c.auxiliary_chain.as_deref(), c.runtime.len(), c.notes.len()), (Some("aux"), 1, 0));
        let isolated = |v: Value| conf(v).unwrap().isolation;
        let on = json!({"clusterNetwork": "c", "namespaceIsolation": true, "globalNamespaces": ""});
        assert_eq!(isolated(on), Some(vec!["default".into()]));
        assert_eq!(isolated(json!({"clusterNetwork": "c", "globalNamespaces": "x"})), None);
    }

    #[test]
    fn what_has_no_meaning_is_told() {
        let c = conf(json!({"clusterNetwork": "cn", "delegates": [{"type": "x"}], "allowTryDeleteOnErr": true,
            "socketdir": "/s", "logOptions": {"maxSize": 1, "maxAge": 2}, "retryDeleteOnError": false}))
        .unwrap();
        let told = c.notes.join("\n");
        for part in ["delegates", "allowTryDeleteOnErr", "socketdir", "logOptions.maxAge", "retryDeleteOnError"] {
            assert!(told.contains(part), "{part} is not in {told}");
        }
        assert!(!told.contains("maxSize"));
        let c = conf(json!({"delegates": [{"type": "x"}], "defaultNetworks": ["a"]})).unwrap();
        assert!(c.notes.len() == 1 && c.notes[0].starts_with("defaultNetworks"), "{:?}", c.notes);
    }

    #[test]
    fn mistakes_name_their_key() {
        for (wrong, part) in [
            (json!({}), "neither delegates nor clusterNetwork"),
            (json!({"delegates": []}), "neither delegates nor clusterNetwork"),
            (json!({"delegates": ["x"]}), "delegates[0]"),
            (json!({"delegates": {}}), "delegates"),
            (json!({"clusterNetwork": 5}), "clusterNetwork"),
            (json!({"clusterNetwork": "c", "namespaceIsolation": "yes"}), "namespaceIsolation"),
            (json!({"clusterNetwork": "c", "defaultNetworks": "a"}), "defaultNetworks"),
            (json!({"clusterNetwork": "c", "prevResult": {"ips": "no"}}), "prevResult"),
        ] {
            let f = conf(wrong.clone()).expect_err(&wrong.to_string());
            assert!(f.code == Code::MetaConfig && f.msg.contains(part), "{wrong}: {f}");
        }
    }

    #[test]
    fn which_configurations_are_a_meta_plugins() {
        let is = |v: Value| is_meta(v.as_object().unwrap());
        for yes in [
            json!({"clusterNetwork": "x"}),
            json!({"Delegates": []}),
            json!({"kubeconfig": "/k"}),
            json!({"clusterNetwork": "x", "delegates": []}),
        ] {
            assert_eq!(is(yes.clone()), Ok(true), "{yes}");
        }
        for no in [json!({}), json!({"bridge": "b"}), json!({"master": "m", "binDir": "/x"}), json!({"args": {}})] {
            assert_eq!(is(no.clone()), Ok(false), "{no}");
        }
        for both in [json!({"bridge": "b", "delegates": []}), json!({"clusterNetwork": "c", "master": "m"})] {
            assert_eq!(is(both).unwrap_err().code, Code::Conflict);
        }
        assert_eq!(is(json!({"clusterNetwork": "", "bridge": "b"})), Ok(false), "empty is as good as absent");
    }
}
