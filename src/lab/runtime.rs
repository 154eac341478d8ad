//! The container runtime's part: runs this very program as a CNI plugin, as containerd or CRI-O under Multus would:
//! `CNI_*` in the environment, the configuration on standard input, in the node's namespaces.
//!
//! Knows the protocol from the caller's side and nothing of what the plugin does with it.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::child::Lines;
use super::world;

/// kubelet gives a sandbox four minutes; nothing here is that slow.
const PATIENCE: Duration = Duration::from_secs(30);
pub const VERSION: &str = "1.0.0";

/// One network of one pod, as a runtime remembers it for CHECK and DEL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attachment {
    /// For people.
    pub what: String,
    /// Name of the pod's network namespace, and of its container.
    pub place: String,
    pub pod: String,
    pub ifname: String,
    pub conf: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
}

/// A plugin's answer: a result, or an error object of the protocol.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Done(Value),
    Refused { code: u64, msg: String, details: String },
}

impl Answer {
    /// Success, or the plugin's words as an error.
    pub fn done(self) -> anyhow::Result<Value> {
        match self {
            Self::Done(value) => Ok(value),
            Self::Refused { code, msg, details } => bail!("code {code}: {}", sentence(&msg, &details)),
        }
    }
}

pub fn sentence(msg: &str, details: &str) -> String {
    if details.is_empty() { msg.to_owned() } else { format!("{msg} ({details})") }
}

/// Where the plugin keeps its things, below the lab's directory.
pub fn run_dir() -> PathBuf {
    Path::new(world::DIR).join("run")
}

pub fn address_dir() -> PathBuf {
    Path::new(world::DIR).join("addresses")
}

pub fn call(verb: &str, a: &Attachment) -> anyhow::Result<Answer> {
    let log = std::fs::File::options().create(true).append(true).open(Path::new(world::DIR).join("plugin.log"))?;
    let log = if tracing::enabled!(tracing::Level::INFO) { Stdio::inherit() } else { Stdio::from(log) };
    #[expect(clippy::disallowed_methods, reason = "the lab is the runtime")]
    let mut command = Command::new("/proc/self/exe");
    command.arg0("trestle").env_clear().envs(environment(verb, a));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().context("cannot start the plugin")?;
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        bail!("the plugin's process has no pipes");
    };
    // It may answer before it has read everything.
    let _ = input.write_all(configuration(verb, a).to_string().as_bytes());
    drop(input);
    let said = Lines::new(OwnedFd::from(output)).all(Instant::now() + PATIENCE);
    if said.is_err() {
        let _ = child.kill();
    }
    let status = child.wait()?;
    answer(verb, status.success(), &said.with_context(|| format!("{verb} did not end"))?)
}

fn environment(verb: &str, a: &Attachment) -> Vec<(&'static str, String)> {
    let netns = world::netns(&a.place).display().to_string();
    let args = [
        "IgnoreUnknown=true".to_owned(),
        "K8S_POD_NAMESPACE=default".to_owned(),
        format!("K8S_POD_NAME={}", a.pod),
        format!("K8S_POD_INFRA_CONTAINER_ID={}", container(a)),
    ];
    vec![
        ("CNI_COMMAND", verb.to_owned()),
        ("CNI_CONTAINERID", container(a)),
        ("CNI_NETNS", netns),
        ("CNI_IFNAME", a.ifname.clone()),
        ("CNI_ARGS", args.join(";")),
        ("CNI_PATH", "/opt/cni/bin".to_owned()),
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("TRESTLE_RUN_DIR", run_dir().display().to_string()),
        ("TRESTLE_STATE_DIR", Path::new(world::DIR).join("state").display().to_string()),
    ]
}

fn container(a: &Attachment) -> String {
    format!("trestle-lab-{}", a.place)
}

/// CHECK and DEL get the result of ADD along, as the specification has it.
fn configuration(verb: &str, a: &Attachment) -> Value {
    let mut conf = a.conf.clone();
    if let (Some(result), "CHECK" | "DEL") = (&a.result, verb) {
        conf["prevResult"] = result.clone();
    }
    conf
}

fn answer(verb: &str, success: bool, said: &[u8]) -> anyhow::Result<Answer> {
    let text = || String::from_utf8_lossy(&said[..said.len().min(400)]).trim().to_owned();
    if success && (said.is_empty() || verb != "ADD") {
        return if verb == "ADD" { bail!("ADD succeeded without a result") } else { Ok(Answer::Done(json!(null))) };
    }
    let value: Value = serde_json::from_slice(said).with_context(|| format!("{verb} said no JSON: {:?}", text()))?;
    if success {
        return Ok(Answer::Done(value));
    }
    let Some(code) = value["code"].as_u64() else { bail!("{verb} failed without a code: {:?}", text()) };
    let word = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    Ok(Answer::Refused { code, msg: word("msg"), details: word("details") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment {
            what: "a pod".into(),
            place: "pod".into(),
            pod: "shop-0".into(),
            ifname: "net1".into(),
            conf: json!({"cniVersion": VERSION, "name": "lan", "type": "trestle", "bridge": "br-lan"}),
            result: Some(json!({"cniVersion": VERSION})),
        }
    }

    #[test]
    fn the_previous_result_goes_along_where_the_specification_says() {
        assert_eq!(configuration("ADD", &attachment()).get("prevResult"), None);
        assert_eq!(configuration("CHECK", &attachment())["prevResult"]["cniVersion"], VERSION);
        assert_eq!(configuration("DEL", &attachment())["bridge"], "br-lan");
    }

    #[test]
    fn the_environment_is_a_runtimes() {
        let env = environment("ADD", &attachment());
        let of = |key: &str| env.iter().find(|(k, _)| *k == key).unwrap().1.clone();
        assert_eq!(of("CNI_NETNS"), "/run/netns/pod");
        assert_eq!(of("CNI_CONTAINERID"), "trestle-lab-pod");
        assert!(of("CNI_ARGS").contains(";K8S_POD_NAME=shop-0;"));
    }

    #[test]
    fn answers_are_told_apart() {
        let refused =
            answer("ADD", false, br#"{"code": 100, "msg": "TR0201: no", "details": "use a bridge"}"#).unwrap();
        assert_eq!(refused.clone().done().unwrap_err().to_string(), "code 100: TR0201: no (use a bridge)");
        assert!(matches!(refused, Answer::Refused { code: 100, .. }));
        assert_eq!(answer("ADD", true, b"{}").unwrap(), Answer::Done(json!({})));
        assert_eq!(answer("DEL", true, b"").unwrap(), Answer::Done(json!(null)));
        for (verb, success, said) in [("ADD", true, ""), ("ADD", true, "x"), ("DEL", false, ""), ("DEL", false, "{}")] {
            assert!(answer(verb, success, said.as_bytes()).is_err(), "{verb} {success} {said}");
        }
    }
}
