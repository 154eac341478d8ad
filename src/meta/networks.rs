//! Which networks a pod gets, in their order, before any of them is looked up.
//!
//! Pure: configuration and annotations in, a list out. Master first; then inline delegates or defaultNetworks, then
//! what the pod's annotation asks for, then the auxiliary chain. The place in this list names the interface.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::annotation::{self, Selection};
use crate::types::{Code, Failure, Outcome, PodRef};

use super::config::{Cluster, MetaConf};

/// Where a network's configuration is.
#[derive(Debug, PartialEq)]
pub enum Source<'a> {
    Inline(&'a Map<String, Value>),
    /// A NAD's name, a configuration's name, or a path.
    Named(&'a str),
    /// A NAD that the pod asks for.
    Selected(Box<Selection>),
    /// Files beside the cluster's own network.
    Chain {
        name: &'a str,
        dir: &'a Path,
    },
}

#[derive(Debug, PartialEq)]
pub struct Wanted<'a> {
    pub source: Source<'a>,
    /// The pod's default network: it has the runtime's interface name, and its result is the pod's.
    pub master: bool,
    /// The pod's own wish, bound by what the node's administrator allows.
    pub chosen: bool,
}

pub fn wanted<'a>(
    conf: &'a MetaConf,
    pod: Option<&PodRef>,
    annotations: Option<&BTreeMap<String, String>>,
) -> Outcome<Vec<Wanted<'a>>> {
    let namespace = pod.map_or("", |p| p.namespace.as_str());
    let mut list = clusters_own(conf, namespace);
    let annotation = |key: &str| annotations.and_then(|a| a.get(key));
    if let Some(text) = annotation(annotation::DEFAULT_NETWORK) {
        let selection = annotation::default_network(text, &conf.multus_namespace)?;
        // Multus forgets namespaceIsolation here. A bare name is the administrator's own NAD, for all to use.
        if selection.namespace != conf.multus_namespace {
            isolated(conf, namespace, &selection)?;
        }
        list[0] = Wanted { source: Source::Selected(Box::new(selection)), master: true, chosen: true };
    }
    if let Some(text) = annotation(annotation::NETWORKS) {
        for selection in annotation::selections(text, namespace)? {
            isolated(conf, namespace, &selection)?;
            list.push(Wanted { source: Source::Selected(Box::new(selection)), master: false, chosen: true });
        }
    }
    list.extend(auxiliary(conf)?);
    Ok(list)
}

/// What every pod gets; never empty.
fn clusters_own<'a>(conf: &'a MetaConf, namespace: &str) -> Vec<Wanted<'a>> {
    let of_all = |(i, source)| Wanted { source, master: i == 0, chosen: false };
    match &conf.cluster {
        Cluster::Inline(list) => list.iter().map(Source::Inline).enumerate().map(of_all).collect(),
        Cluster::Named { default, more } => {
            let system = conf.system_namespaces.iter().any(|s| s == namespace);
            let more = more.iter().filter(|_| !system);
            std::iter::once(default).chain(more).map(|n| Source::Named(n)).enumerate().map(of_all).collect()
        }
    }
}

/// The master alone: what STATUS and GC ask for, which know no pod.
pub fn master(conf: &MetaConf) -> Wanted<'_> {
    clusters_own(conf, "").swap_remove(0)
}

fn isolated(conf: &MetaConf, namespace: &str, selection: &Selection) -> Outcome<()> {
    let Some(global) = &conf.isolation else { return Ok(()) };
    let of = &selection.namespace;
    if of == namespace || global.contains(of) {
        return Ok(());
    }
    Err(Failure::new(
        Code::Isolation,
        format!("network {of}/{}: a pod of namespace {namespace} may not use networks of {of}", selection.name),
    )
    .remedy(format!("namespaceIsolation is on: use a network of {namespace} or of {}", global.join(", "))))
}

fn auxiliary(conf: &MetaConf) -> Outcome<Option<Wanted<'_>>> {
    let Some(name) = &conf.auxiliary_chain else { return Ok(None) };
    let path = match &conf.cluster {
        Cluster::Named { default, .. } => default,
        Cluster::Inline(_) => "",
    };
    let Some(dir) = Path::new(path).parent().filter(|_| path.contains('/')) else {
        return Err(Failure::new(
            Code::MetaConfig,
            format!("auxiliaryCNIChainName {name}: clusterNetwork {path:?} is no path"),
        )
        .remedy("the chain's files lie beside the cluster network's: set clusterNetwork to its path"));
    };
    Ok(Some(Wanted { source: Source::Chain { name, dir }, master: false, chosen: false }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::meta::config;
    use crate::plan::testing::call;

    fn conf(v: Value) -> MetaConf {
        let mut all = json!({"cniVersion": "1.0.0", "name": "m"});
        all.as_object_mut().unwrap().extend(v.as_object().unwrap().clone());
        config::read(&call(&all, "")).unwrap()
    }

    fn inline() -> MetaConf {
        conf(json!({"delegates": [{"name": "d0", "type": "x"}, {"name": "d1", "type": "y"}]}))
    }

    /// What `wanted` gives, in short: `*` for the master, `!` for the pod's own wish.
    fn list(conf: &MetaConf, namespace: &str, annotations: &[(&str, &str)]) -> Outcome<String> {
        let pod = PodRef { namespace: namespace.into(), name: "p".into(), uid: None };
        let annotations = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let short = |w: &Wanted<'_>| {
            let what = match &w.source {
                Source::Inline(m) => m["name"].as_str().unwrap().to_owned(),
                Source::Named(n) => format!("<{n}>"),
                Source::Selected(s) => format!("{}/{}", s.namespace, s.name),
                Source::Chain { name, dir } => format!("{}:{name}", dir.display()),
            };
            format!("{what}{}{}", if w.master { "*" } else { "" }, if w.chosen { "!" } else { "" })
        };
        let found = wanted(conf, Some(&pod), Some(&annotations))?;
        Ok(found.iter().map(short).collect::<Vec<_>>().join(" "))
    }

    const NETS: &str = annotation::NETWORKS;
    const DEFAULT: &str = annotation::DEFAULT_NETWORK;

    #[test]
    fn the_order() {
        let short = |c: &MetaConf, a: &[(&str, &str)]| list(c, "prod", a).unwrap();
        assert_eq!(short(&inline(), &[]), "d0* d1");
        assert_eq!(short(&inline(), &[(NETS, "")]), "d0* d1");
        assert_eq!(short(&inline(), &[(NETS, "a,other/b@x")]), "d0* d1 prod/a! other/b!");
        assert_eq!(short(&inline(), &[(DEFAULT, "d"), (NETS, "a")]), "kube-system/d*! d1 prod/a!");
        let c =
            conf(json!({"clusterNetwork": "/n/10-x.conflist", "defaultNetworks": ["e", "f"], "multusNamespace": "mns",
            "auxiliaryCNIChainName": "aux"}));
        assert_eq!(short(&c, &[(NETS, "a")]), "</n/10-x.conflist>* <e> <f> prod/a! /n:aux");
        assert_eq!(short(&c, &[(DEFAULT, "d")]), "mns/d*! <e> <f> /n:aux");
        assert_eq!(list(&c, "kube-system", &[]).unwrap(), "</n/10-x.conflist>* /n:aux");
        assert_eq!(master(&c).source, Source::Named("/n/10-x.conflist"));
    }

    #[test]
    fn without_annotations_the_clusters_own_alone() {
        assert_eq!(wanted(&inline(), None, None).unwrap().len(), 2);
    }

    #[test]
    fn isolation() {
        let on = json!({"delegates": [{"name": "d0", "type": "x"}], "namespaceIsolation": true});
        let c = conf(on.clone());
        for (ns, nets, good) in [
            ("other", "c", true),
            ("other", "c,default/a", true),
            ("default", "other/c", false),
            ("other", "default/a,third/b", false),
        ] {
            let found = list(&c, ns, &[(NETS, nets)]);
            assert_eq!(found.is_ok(), good, "{ns} {nets} {found:?}");
            if let Err(f) = found {
                assert_eq!(f.code, Code::Isolation);
            }
        }
        assert_eq!(list(&c, "default", &[(DEFAULT, "other/c")]).unwrap_err().code, Code::Isolation);
        assert!(list(&c, "prod", &[(DEFAULT, "d")]).is_ok(), "the administrator's namespace");
        let mut x = on;
        x["globalNamespaces"] = json!("x, other");
        assert!(list(&conf(x.clone()), "default", &[(NETS, "other/c")]).is_ok());
        assert!(list(&conf(x), "other", &[(NETS, "default/a")]).is_err(), "the list takes default's place");
    }

    #[test]
    fn the_chain_needs_a_path() {
        for c in [
            json!({"clusterNetwork": "name", "auxiliaryCNIChainName": "aux"}),
            json!({"delegates": [{"name": "d0", "type": "x"}], "auxiliaryCNIChainName": "aux"}),
        ] {
            let f = list(&conf(c), "p", &[]).unwrap_err();
            assert!(f.code == Code::MetaConfig && f.msg.contains("aux"), "{f}");
        }
    }

    #[test]
    fn a_default_network_must_be_one() {
        assert_eq!(list(&inline(), "p", &[(DEFAULT, "a,b")]).unwrap_err().code, Code::Annotation);
    }
}
