//! Multus' cache in `cniDir`, both ways: a pod that thin Multus attached is checked and deleted by it, and each pod of
//! ours gets one, so that the way back to Multus is open.
//!
//! `<cniDir>/<container>` is a list of delegates, each with its configuration in base64; `<cniDir>/results/` is the
//! CNI library's, one file for each network with result and values by capability. Multus' DEL could do without, as long
//! as the pod is at the API server. Its GC could not: to the default network's plugins it names who is in `results`, and
//! a living pod of ours would lose its address. Not synced, and nothing of ours hangs on it while there is a record.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use base64::alphabet;
use base64::engine::{DecodePaddingMode, Engine, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::cni::json;
use crate::store::{failed, remove_file, write_whole};
use crate::types::{Code, ContainerId, IfName, Outcome};

use super::record::Attached;
use super::{outside, run};

pub struct Cache<'a> {
    pub dir: &'a Path,
    pub container: &'a ContainerId,
    /// `CNI_IFNAME`: Multus does not write the default network's.
    pub master: &'a IfName,
}

/// One delegate, as far as it is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Delegate {
    #[serde(rename = "Name")]
    name: String,
    #[serde(rename = "ifnameRequest")]
    interface: String,
    #[serde(rename = "deviceID")]
    device: String,
    #[serde(rename = "Bytes")]
    bytes: String,
}

/// A result, as the CNI library writes it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cached {
    kind: String,
    #[serde(rename = "containerId")]
    container: String,
    #[serde(rename = "ifName")]
    ifname: String,
    #[serde(rename = "networkName")]
    network: String,
    #[serde(rename = "capabilityArgs")]
    runtime: Map<String, Value>,
    result: Option<Value>,
}

const KIND: &str = "cniCacheV1";

impl Cache<'_> {
    /// `None`: Multus did not attach it, or the file cannot be read, which the log tells.
    pub fn networks(&self) -> Option<Vec<Attached>> {
        let path = self.path();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => return None,
            Err(e) => {
                tracing::error!(error = %e, file = %path.display(), "Multus' cache cannot be read");
                return None;
            }
        };
        let list = json::parse(&bytes).and_then(json::from_value::<Vec<Delegate>>);
        let told = |e: &str| tracing::error!(error = e, file = %path.display(), "passed over in Multus' cache");
        let list = list.inspect_err(|e| told(&e.to_string())).ok()?;
        // One that is broken does not hide the others.
        let each = list.into_iter().enumerate().map(|(i, d)| self.attached(i, d).inspect_err(|e| told(e)));
        Some(each.flatten().collect::<Vec<_>>()).filter(|n| !n.is_empty())
    }

    fn attached(&self, index: usize, delegate: Delegate) -> Result<Attached, String> {
        let bytes = BASE64.decode(&delegate.bytes).map_err(|e| format!("delegate {index}: Bytes: {e}"))?;
        let conf = match json::parse(&bytes) {
            Ok(Value::Object(conf)) => conf,
            _ => return Err(format!("delegate {index}: its configuration is no JSON object")),
        };
        let network = run::to_conf(&conf).map_err(|f| format!("delegate {index}: {f}"))?.name().to_owned();
        let ifname = match delegate.interface.as_str() {
            "" if index == 0 => self.master.clone(),
            "" => format!("net{index}").parse().map_err(|e| format!("delegate {index}: {e}"))?,
            asked => asked.parse().map_err(|e| format!("delegate {index}: {e}"))?,
        };
        let cached = self.result(&network, &ifname).unwrap_or_default();
        let device = Some(delegate.device).filter(|d| !d.is_empty());
        let info_file = device.is_some().then(|| outside::info_file(&delegate.name, self.container, &ifname));
        Ok(Attached {
            link: None,
            name: delegate.name,
            conf,
            ifname,
            runtime: cached.runtime,
            asked: String::new(),
            master: index == 0,
            chosen: false,
            bind: false,
            resource: None,
            device,
            info_file,
            default_route: None,
            result: cached.result,
            undone: false,
        })
    }

    fn path(&self) -> PathBuf {
        self.dir.join(self.container.as_str())
    }

    fn result_path(&self, network: &str, ifname: &IfName) -> PathBuf {
        self.dir.join("results").join(format!("{network}-{}-{ifname}", self.container))
    }

    fn result(&self, network: &str, ifname: &IfName) -> Option<Cached> {
        // A network's name is no path here: one with a separator has no result.
        let path = Some(self.result_path(network, ifname)).filter(|_| !network.contains('/'))?;
        cached(&path)
    }

    /// For Multus. What cannot be written costs nothing but the way back.
    pub fn write(&self, netns: &Path, networks: &[Attached]) {
        let written = self.write_all(netns, networks);
        if let Err(e) = written {
            tracing::warn!(error = %e, dir = %self.dir.display(), "Multus' cache is not written: no way back for this pod");
        }
    }

    fn write_all(&self, netns: &Path, networks: &[Attached]) -> io::Result<()> {
        let file = |path: &Path, value: &Value| write_whole(path, value.to_string().as_bytes());
        file(&self.path(), &networks.iter().map(|n| self.delegate(n)).collect())?;
        let mut all = Ok(());
        for one in networks {
            let name = name_of(&one.conf);
            let result = json!({"kind": KIND, "containerId": self.container, "ifName": one.ifname, "networkName": name,
                "netns": netns, "config": BASE64.encode(Value::Object(one.conf.clone()).to_string()),
                "capabilityArgs": one.runtime, "result": one.result});
            if !name.contains('/') {
                all = all.and(file(&self.result_path(name, &one.ifname), &result));
            }
        }
        all
    }

    fn delegate(&self, one: &Attached) -> Value {
        let version = json::get(&one.conf, "cniVersion");
        let brief = |keys: Value| {
            let mut all = json!({"cniVersion": version, "name": name_of(&one.conf)});
            if let (Value::Object(all), Value::Object(keys)) = (&mut all, keys) {
                all.extend(keys);
            }
            all
        };
        // Of a list, Multus looks at the number of plugins; what is run is in Bytes.
        let (conf, list) = match (json::get(&one.conf, "type"), json::get(&one.conf, "plugins")) {
            (None, Some(Value::Array(plugins))) => {
                let types = plugins.iter().filter_map(Value::as_object).map(|p| json!({"type": json::get(p, "type")}));
                (brief(json!({})), brief(json!({"plugins": types.collect::<Vec<_>>()})))
            }
            (kind, _) => (brief(json!({"type": kind})), json!({"plugins": null})),
        };
        let mut out = json!({"Conf": conf, "ConfList": list, "Name": one.name, "IsFilterV4Gateway": false,
            "IsFilterV6Gateway": false, "Bytes": BASE64.encode(Value::Object(one.conf.clone()).to_string())});
        if !one.master || one.ifname != *self.master {
            out["ifnameRequest"] = json!(one.ifname);
        }
        for (key, value) in [("deviceID", &one.device), ("resourceName", &one.resource)] {
            if let Some(value) = value {
                out[key] = json!(value);
            }
        }
        out
    }

    /// Whatever there is of it. Gone is success.
    pub fn remove(&self) {
        if let Some(networks) = self.networks()
            && let Err(failure) = self.forget(&networks)
        {
            tracing::warn!(%failure, "Multus' cache is left where it is");
        }
    }

    /// Once all is undone. The list goes last.
    pub fn forget(&self, networks: &[Attached]) -> Outcome<()> {
        let remove = |path: PathBuf| remove_file(&path).map(drop).map_err(|e| failed(Code::Io, "remove", &path, &e));
        for one in networks {
            let name = name_of(&one.conf);
            if !name.contains('/') {
                remove(self.result_path(name, &one.ifname))?;
            }
        }
        remove(self.path())
    }
}

fn name_of(conf: &Map<String, Value>) -> &str {
    json::get(conf, "name").and_then(Value::as_str).unwrap_or_default()
}

fn cached(path: &Path) -> Option<Cached> {
    let value = json::parse(&std::fs::read(path).ok()?).ok()?;
    json::from_value::<Cached>(value).ok().filter(|c| c.kind == KIND)
}

/// Who is on a network by Multus' doing: GC's list must have them, too.
pub fn attachments(dir: &Path, network: &str) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(dir.join("results")).into_iter().flatten().flatten();
    let results = entries.filter_map(|e| cached(&e.path()));
    results.filter(|c| c.network == network).map(|c| (c.container, c.ifname)).collect()
}

/// As Go writes it; read also without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
pub mod testing {
    use super::*;

    /// What Multus leaves for a pod with these networks: name, interface asked for, configuration.
    pub fn write(dir: &Path, container: &str, networks: &[(&str, &str, Value)]) {
        std::fs::create_dir_all(dir.join("results")).unwrap();
        let list = networks.iter().map(|(name, ifname, conf)| {
            json!({"Conf": {}, "ConfList": {"plugins": null}, "Name": name, "ifnameRequest": ifname,
                "IsFilterV4Gateway": false, "ConfListPlugin": false, "Bytes": BASE64.encode(conf.to_string())})
        });
        std::fs::write(dir.join(container), Value::Array(list.collect()).to_string()).unwrap();
        for (index, (_, ifname, conf)) in networks.iter().enumerate() {
            let ifname = match (*ifname, index) {
                ("", 0) => "eth0".to_owned(),
                ("", i) => format!("net{i}"),
                (asked, _) => asked.to_owned(),
            };
            let name = conf["name"].as_str().unwrap();
            let result = json!({"kind": KIND, "containerId": container, "ifName": ifname, "networkName": name,
                "capabilityArgs": {"mac": "x"}, "result": {"cniVersion": "1.0.0", "dns": {}}});
            std::fs::write(dir.join("results").join(format!("{name}-{container}-{ifname}")), result.to_string())
                .unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::record::testing::attached;

    #[test]
    fn what_is_written_for_multus_is_read_as_multus_own() {
        let tmp = tempfile::tempdir().unwrap();
        let (container, master) = ("c1".parse().unwrap(), "eth0".parse().unwrap());
        let dir = tmp.path().join("multus");
        let cache = Cache { dir: &dir, container: &container, master: &master };
        let list = json!({"cniVersion": "1.0.0", "name": "l", "plugins": [{"type": "rec", "x": 1}, {"type": "recb"}]});
        let mut networks = vec![
            attached("default-net", "eth0", json!({"cniVersion": "1.0.0", "name": "d", "type": "rec"})),
            attached("ns/l", "net1", list),
        ];
        for one in &mut networks {
            one.result = Some(json!({"cniVersion": "1.0.0"}));
            one.runtime = json!({"mac": "m"}).as_object().unwrap().clone();
        }
        cache.write("/run/netns/pod".as_ref(), &networks);
        assert_eq!(cache.networks().unwrap(), networks);
        let text = std::fs::read(dir.join("c1")).unwrap();
        let delegates: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(delegates[0]["Conf"]["type"], "rec");
        assert_eq!((&delegates[0]["ConfList"]["plugins"], delegates[0].get("ifnameRequest")), (&Value::Null, None));
        assert_eq!(delegates[1]["ConfList"]["plugins"], json!([{"type": "rec"}, {"type": "recb"}]));
        assert_eq!(delegates[1]["ifnameRequest"], "net1");
        cache.remove();
        assert!(cache.networks().is_none() && std::fs::read_dir(dir.join("results")).unwrap().next().is_none());
        cache.remove();
        let nowhere = Cache { dir: Path::new("/proc/nonexistent"), ..cache };
        nowhere.write("/run/netns/pod".as_ref(), &networks);
    }

    #[test]
    fn networks_with_their_results_and_nothing_left() {
        let tmp = tempfile::tempdir().unwrap();
        let (container, master) = ("c1".parse().unwrap(), "eth0".parse().unwrap());
        let cache = Cache { dir: tmp.path(), container: &container, master: &master };
        assert!(cache.networks().is_none());
        let list = json!({"cniVersion": "1.0.0", "name": "l", "plugins": [{"type": "rec"}]});
        let confs = [("default-net", "", json!({"name": "d", "type": "rec"})), ("ns/l", "pod1", list)];
        testing::write(tmp.path(), "c1", &confs);
        let networks = cache.networks().unwrap();
        let seen: Vec<_> = networks.iter().map(|n| (n.name.as_str(), n.ifname.as_str(), n.master)).collect();
        assert_eq!(seen, [("default-net", "eth0", true), ("ns/l", "pod1", false)]);
        assert_eq!((&networks[1].runtime["mac"], networks[1].result.is_some()), (&json!("x"), true));
        assert_eq!(attachments(tmp.path(), "l"), [("c1".to_owned(), "pod1".to_owned())]);
        cache.forget(&networks).unwrap();
        assert!(cache.networks().is_none() && attachments(tmp.path(), "l").is_empty());
        cache.forget(&networks).unwrap();
    }

    #[test]
    fn a_name_too_long_for_a_file_leaves_nothing_behind() {
        let tmp = tempfile::tempdir().unwrap();
        let (container, master) = ("a".repeat(64).parse().unwrap(), "eth0".parse().unwrap());
        let cache = Cache { dir: tmp.path(), container: &container, master: &master };
        let long = json!({"cniVersion": "1.0.0", "name": "n".repeat(190), "type": "rec"});
        let networks = [
            attached("default-net", "eth0", long),
            attached("ns/l", "net1", json!({"cniVersion": "1.0.0", "name": "l", "type": "rec"})),
        ];
        cache.write("/run/netns/pod".as_ref(), &networks);
        let results = || std::fs::read_dir(tmp.path().join("results")).unwrap().count();
        assert_eq!((cache.path().exists(), results()), (true, 1), "the others have theirs");
        cache.remove();
        assert_eq!((cache.path().exists(), results()), (false, 0));
    }

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        let tmp = tempfile::tempdir().unwrap();
        let (container, master) = ("c1".parse().unwrap(), "eth0".parse().unwrap());
        let cache = Cache { dir: tmp.path(), container: &container, master: &master };
        for text in ["", "{", "{}", "[]", r#"[{"Bytes": "!"}]"#, r#"[{"Bytes": "e30="}]"#, r#"[{"Bytes": 5}]"#] {
            std::fs::write(tmp.path().join("c1"), text).unwrap();
            assert!(cache.networks().is_none(), "{text}");
        }
    }
}
