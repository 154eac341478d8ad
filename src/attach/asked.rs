//! Addresses that are asked for: `runtimeConfig.ips`, `args.cni.ips`, `IP` in CNI_ARGS. For `type: trestle` the first of
//! the three that says anything counts alone; the plugins whose place the drop-ins take add them up.

use serde_json::{Map, Value, json};

use crate::cni::{Args, Call, json};

/// What is left of a configuration and its CNI_ARGS.
pub type Heard = (Map<String, Value>, Args);

/// Of CNI_ARGS an IPAM gets what is its own: of the others the caller has made sure already.
pub fn first(call: &Call) -> Heard {
    let mut conf = call.conf.clone();
    if has_ips(section(&conf, &["runtimeConfig"])) {
        forget_args(&mut conf);
        return (conf, Args::default());
    }
    if has_ips(section(&conf, &["args", "cni"])) {
        return (conf, Args::default());
    }
    let own: Vec<String> =
        call.args.pairs().filter(|(k, _)| matches!(*k, "IP" | "GATEWAY")).map(|(k, v)| format!("{k}={v}")).collect();
    (conf, Args::new(own.join(";")))
}

/// The same for host-local, which takes one address in CNI_ARGS, where a meta plugin puts a list, and has gateways of
/// its own.
pub fn first_for_host_local(call: &Call) -> Heard {
    let (mut conf, args) = first(call);
    let ips: Vec<&str> =
        args.get("IP").into_iter().flat_map(|ips| ips.split(',')).map(str::trim).filter(|ip| !ip.is_empty()).collect();
    if !ips.is_empty() {
        forget_args(&mut conf);
        conf.insert("args".into(), json!({"cni": {"ips": ips}}));
    }
    (conf, Args::default())
}

/// The addresses alone, as they were written.
pub fn addresses(call: &Call) -> Vec<String> {
    let (conf, args) = first(call);
    let listed =
        [&["runtimeConfig"][..], &["args", "cni"]].into_iter().filter_map(|path| section(&conf, path)).find_map(ips_of);
    match listed {
        Some(ips) => ips.iter().map(|ip| ip.as_str().map_or_else(|| ip.to_string(), str::to_owned)).collect(),
        None => args
            .get("IP")
            .into_iter()
            .flat_map(|ips| ips.split(','))
            .map(|ip| ip.trim().to_owned())
            .filter(|ip| !ip.is_empty())
            .collect(),
    }
}

/// The call with these addresses asked for, as a runtime would ask; one that asks for some itself as it is.
pub fn with_addresses(call: &Call, ips: &[String]) -> Call {
    let mut call = call.clone();
    let by_args = call.args.get("IP").is_some_and(|ip| !ip.is_empty());
    let sections: [&[&str]; 2] = [&["runtimeConfig"], &["args", "cni"]];
    if by_args || sections.iter().any(|path| has_ips(section(&call.conf, path))) {
        tracing::warn!("the network's own element asks for addresses: the machine's annotation is not used for it");
        return call;
    }
    let mut runtime = section(&call.conf, &["runtimeConfig"]).cloned().unwrap_or_default();
    runtime.retain(|key, _| !key.eq_ignore_ascii_case("ips"));
    runtime.insert("ips".into(), json!(ips));
    call.conf.retain(|key, _| !key.eq_ignore_ascii_case("runtimeConfig"));
    call.conf.insert("runtimeConfig".into(), runtime.into());
    call
}

fn section<'a>(conf: &'a Map<String, Value>, path: &[&str]) -> Option<&'a Map<String, Value>> {
    path.iter().try_fold(conf, |map, key| json::get(map, key)?.as_object())
}

fn has_ips(section: Option<&Map<String, Value>>) -> bool {
    section.and_then(ips_of).is_some()
}

fn ips_of(section: &Map<String, Value>) -> Option<&Vec<Value>> {
    json::get(section, "ips").and_then(Value::as_array).filter(|ips| !ips.is_empty())
}

fn forget_args(conf: &mut Map<String, Value>) {
    conf.retain(|key, _| !key.eq_ignore_ascii_case("args"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::tests::call;

    fn heard(conf: Value, args: &str) -> (Value, Value, String) {
        let call = call(&conf, &[("CNI_ARGS", args)]);
        let (conf, args) = first(&call);
        let (for_host_local, none) = first_for_host_local(&call);
        assert_eq!(none, Args::default());
        (Value::Object(conf), Value::Object(for_host_local), args.as_str().to_owned())
    }

    #[test]
    fn addresses_alone() {
        let of = |conf: Value, args: &str| addresses(&call(&conf, &[("CNI_ARGS", args)]));
        let both = json!({"name": "lan", "runtimeConfig": {"ips": ["10.0.0.1/24", 5]}, "args": {"cni": {"ips": ["10.0.0.2"]}}});
        assert_eq!(of(both, "IP=10.0.0.3"), ["10.0.0.1/24", "5"]);
        assert_eq!(of(json!({"name": "lan", "args": {"cni": {"ips": ["10.0.0.2"]}}}), "IP=10.0.0.3"), ["10.0.0.2"]);
        assert_eq!(of(json!({"name": "lan"}), "IP=10.0.0.3, 10.0.0.4"), ["10.0.0.3", "10.0.0.4"]);
        assert!(of(json!({"name": "lan"}), "").is_empty());
    }

    #[test]
    fn addresses_of_an_annotation_are_asked_for_as_a_runtime_asks() {
        let ips = ["10.0.0.7/24".to_owned()];
        let with = |conf: Value, args: &str| with_addresses(&call(&conf, &[("CNI_ARGS", args)]), &ips).conf;
        let empty = json!({"name": "lan", "RuntimeConfig": {"IPs": [], "mac": "m"}});
        let want = json!({"name": "lan", "runtimeConfig": {"ips": ["10.0.0.7/24"], "mac": "m"}});
        assert_eq!(Value::Object(with(empty, "K8S_POD_NAME=web;IP=")), want);
        let own = json!({"name": "lan", "args": {"cni": {"ips": ["10.0.0.1"]}}});
        assert_eq!(Value::Object(with(own.clone(), "")), own);
        let none = json!({"name": "lan"});
        assert_eq!(Value::Object(with(none.clone(), "IP=10.0.0.3")), none);
    }

    #[test]
    fn the_first_way_that_says_anything_counts_alone() {
        let conf = |runtime: Value, args: Value| json!({"name": "lan", "bridge": "br0", "runtimeConfig": {"ips": runtime, "mac": "m"}, "ARGS": {"cni": {"ips": args}}});
        let (both, _, args) = heard(conf(json!(["10.0.0.1"]), json!(["10.0.0.2"])), "IP=10.0.0.3;IgnoreUnknown=1");
        assert_eq!(both["runtimeConfig"], json!({"ips": ["10.0.0.1"], "mac": "m"}));
        assert_eq!((both.get("ARGS"), args.as_str()), (None, ""));
        let (second, local, args) = heard(conf(json!([]), json!(["10.0.0.2"])), "IP=10.0.0.3;GATEWAY=10.0.0.9");
        assert_eq!((&second["ARGS"], args.as_str()), (&json!({"cni": {"ips": ["10.0.0.2"]}}), ""));
        assert_eq!(second, local);
        let (_, local, args) = heard(
            conf(json!(null), json!([])),
            "IgnoreUnknown=1;K8S_POD_NAME=web;IP=10.0.0.3, 10.0.0.4;GATEWAY=10.0.0.9",
        );
        assert_eq!(args, "IP=10.0.0.3, 10.0.0.4;GATEWAY=10.0.0.9", "of a pod's name IPAM knows nothing");
        assert_eq!(local["args"], json!({"cni": {"ips": ["10.0.0.3", "10.0.0.4"]}}));
        let (plain, local, args) = heard(json!({"name": "lan"}), "");
        assert_eq!((plain, args.as_str()), (local, ""));
    }
}
