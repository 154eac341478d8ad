//! The other documents: errors, the answer to VERSION, and the list that comes with GC.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::types::{Code, ContainerId, Failure, Outcome};

use super::Version;
use super::json::{self, JsonError};

/// The error object. `code` is the number for this caller: the drop-in plugins have fewer than we do.
pub fn error_json(version: Option<Version>, code: u32, f: &Failure) -> Value {
    let mut out = Map::new();
    if let Some(v) = version {
        out.insert("cniVersion".into(), v.as_str().into());
    }
    out.insert("code".into(), code.into());
    out.insert("msg".into(), format!("{}: {}", f.code, f.msg).into());
    if !f.remedy.is_empty() {
        out.insert("details".into(), f.remedy.as_str().into());
    }
    Value::Object(out)
}

/// The answer to VERSION.
pub fn version_json() -> Value {
    json!({ "cniVersion": Version::NEWEST.as_str(), "supportedVersions": Version::ALL.map(Version::as_str) })
}

/// Reads what another plugin printed on failure; `None` if it is no error object.
pub fn foreign_error(plugin: &str, stdout: &[u8]) -> Option<Failure> {
    #[derive(Deserialize)]
    struct Wire {
        #[serde(default)]
        code: u32,
        #[serde(default)]
        msg: String,
        #[serde(default)]
        details: String,
    }
    let v = json::parse(stdout).ok().filter(Value::is_object)?;
    let e: Wire = json::from_value(v).ok().filter(|e: &Wire| e.code != 0 || !e.msg.is_empty())?;
    let mut f = Failure::new(Code::PluginFailed, format!("plugin {plugin}: {}", e.msg)).remedy(e.details);
    f.foreign = Some(e.code).filter(|c| *c != 0);
    Some(f)
}

/// The attachments that GC must keep, by container and interface; `None` if the runtime gave no list.
pub fn valid_attachments(conf: &Map<String, Value>) -> Outcome<Option<Vec<(ContainerId, String)>>> {
    #[derive(Deserialize)]
    struct Wire {
        #[serde(rename = "containerID")]
        container: ContainerId,
        ifname: String,
    }
    const KEY: &str = "cni.dev/valid-attachments";
    let Some(list) = json::get(conf, KEY) else { return Ok(None) };
    let list: Vec<Wire> = json::from_value(list.clone()).map_err(|e: JsonError| e.under(KEY))?;
    Ok(Some(list.into_iter().map(|w| (w.container, w.ifname)).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(v: Value) -> Map<String, Value> {
        v.as_object().cloned().unwrap()
    }

    #[test]
    fn errors() {
        let f = Failure::new(Code::BridgeMissing, "bridge br-lna is not on this node").remedy("did you mean br-lan?");
        assert_eq!(
            error_json(Some(Version::V1_0_0), 11, &f),
            json!({ "cniVersion": "1.0.0", "code": 11, "msg": "TR0301: bridge br-lna is not on this node",
                "details": "did you mean br-lan?" })
        );
        let f = Failure::new(Code::Config, "x");
        assert_eq!(error_json(None, 999, &f).to_string(), r#"{"code":999,"msg":"TR0104: x"}"#);
    }

    #[test]
    fn versions() {
        assert_eq!(
            version_json().to_string(),
            r#"{"cniVersion":"1.1.0","supportedVersions":["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#
        );
    }

    #[test]
    fn errors_of_other_plugins_keep_their_code() {
        let f = foreign_error("my-ipam", br#"{"code":11,"msg":"later","details":"pool empty"}"#).unwrap();
        assert_eq!((f.code, f.foreign), (Code::PluginFailed, Some(11)));
        assert_eq!(f.to_string(), "TR0508: plugin my-ipam: later (pool empty)");
        assert_eq!(foreign_error("p", br#"{"msg":"m"}"#).unwrap().foreign, None);
        for no_error in [&b""[..], b"panic: x", b"{}", b"null", b"[]", br#"{"code":"x","msg":"m"}"#, br#"{"ips":[]}"#] {
            assert_eq!(foreign_error("p", no_error), None, "{}", String::from_utf8_lossy(no_error));
        }
    }

    #[test]
    fn the_list_of_gc() {
        let keep = |v| valid_attachments(&conf(v)).map(|l| l.map(|l| l.len()));
        assert_eq!(keep(json!({ "name": "n" })), Ok(None));
        assert_eq!(keep(json!({ "cni.dev/valid-attachments": null })), Ok(None));
        assert_eq!(keep(json!({ "cni.dev/valid-attachments": [] })), Ok(Some(0)));
        let two = json!({ "CNI.dev/Valid-Attachments": [
            { "containerID": "a", "ifname": "eth0" }, { "CONTAINERID": "b", "IfName": "net1" }] });
        let list = valid_attachments(&conf(two)).unwrap().unwrap();
        assert_eq!(list[1], ("b".parse().unwrap(), "net1".into()));
        for (bad, place) in [
            (json!({}), "cni.dev/valid-attachments: expected a list"),
            (json!([{ "ifname": "eth0" }]), "cni.dev/valid-attachments[0].containerID: missing"),
            (
                json!([{ "containerID": "a/b", "ifname": "e" }]),
                "cni.dev/valid-attachments[0].containerID: container id",
            ),
        ] {
            let f = valid_attachments(&conf(json!({ "cni.dev/valid-attachments": bad }))).unwrap_err();
            assert!(f.code == Code::Config && f.msg.starts_with(place), "{f}");
        }
    }
}
