//! The Event that a person sees under a pod, or under a virtual machine.

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::types::PodRef;

/// Limits of the API server's validation.
const LONGEST_MESSAGE: usize = 1024;
const LONGEST_REASON: usize = 128;
const LONGEST_NAME: usize = 253;

pub struct Event<'a> {
    pub about: &'a PodRef,
    /// What kind of object that is.
    pub on: On,
    /// One word in camel case.
    pub reason: &'a str,
    pub message: &'a str,
    pub warning: bool,
    /// Who says so: the node's name may be in it.
    pub component: &'a str,
    /// The same words about the same object are one Event as long as the API server keeps it, whoever says them.
    pub once: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    Pod,
    /// KubeVirt's running machine.
    Vmi,
}

impl On {
    fn kind(self) -> (&'static str, &'static str) {
        match self {
            Self::Pod => ("v1", "Pod"),
            Self::Vmi => ("kubevirt.io/v1", "VirtualMachineInstance"),
        }
    }
}

impl Event<'_> {
    /// As core/v1 has it; `now` gives the name its end, as client-go does, so that two never meet; or those do that are one.
    pub(super) fn object(&self, now: Timestamp) -> Value {
        let end = match &self.about.uid {
            Some(uid) if self.once => format!(".{:016x}", self.digest(uid)),
            _ => format!(".{:x}", now.as_nanosecond()),
        };
        let base = cut(&self.about.name, LONGEST_NAME - end.len());
        let seconds = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let (version, kind) = self.on.kind();
        let mut about = json!({
            "apiVersion": version, "kind": kind, "namespace": self.about.namespace, "name": self.about.name,
        });
        if let Some(uid) = &self.about.uid {
            about["uid"] = json!(uid);
        }
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"namespace": self.about.namespace, "name": format!("{base}{end}")},
            "involvedObject": about,
            "reason": cut(self.reason, LONGEST_REASON),
            "message": cut(self.message, LONGEST_MESSAGE),
            "type": if self.warning { "Warning" } else { "Normal" },
            "source": {"component": self.component},
            "reportingComponent": self.component,
            "firstTimestamp": seconds,
            "lastTimestamp": seconds,
            "count": 1,
        })
    }
}

impl Event<'_> {
    fn digest(&self, uid: &str) -> u64 {
        let digest: [u8; 32] = Sha256::digest([uid, self.reason, self.message].join("\0")).into();
        digest.iter().take(8).fold(0, |all, byte| all << 8 | u64::from(*byte))
    }
}

/// At most so many bytes, no character in two.
fn cut(text: &str, longest: usize) -> &str {
    let end = (0..=longest.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_as_kubernetes_takes_it() {
        let pod = PodRef { namespace: "prod".into(), name: "web".into(), uid: Some("u1".into()) };
        let event = Event {
            about: &pod,
            on: On::Pod,
            reason: "NoNetwork",
            message: "why",
            warning: true,
            component: "trestle",
            once: false,
        };
        let v = event.object("2026-01-02T03:04:05.000000006Z".parse().unwrap());
        assert_eq!(v["metadata"]["name"], "web.1886caf21c963206");
        assert_eq!(v["involvedObject"]["uid"], "u1");
        assert_eq!(v["involvedObject"]["kind"], "Pod");
        assert_eq!((v["type"].as_str(), v["lastTimestamp"].as_str()), (Some("Warning"), Some("2026-01-02T03:04:05Z")));
        let unknown = PodRef { uid: None, ..pod.clone() };
        let v = Event { about: &unknown, warning: false, ..event }.object(Timestamp::UNIX_EPOCH);
        assert!(v["involvedObject"].get("uid").is_none() && v["type"] == "Normal", "{v}");
    }

    #[test]
    fn the_same_words_about_one_object_have_one_name() {
        let vmi = PodRef { namespace: "prod".into(), name: "db".into(), uid: Some("v1".into()) };
        let event = |about: &PodRef, message: &str, once| {
            let event = Event { about, on: On::Vmi, reason: "r", message, warning: false, component: "t", once };
            event.object(Timestamp::now())["metadata"]["name"].as_str().unwrap().to_owned()
        };
        let name = event(&vmi, "m", true);
        assert!(name.starts_with("db.") && name.len() == 19, "{name}");
        assert_eq!(event(&vmi, "m", true), name);
        let anew = PodRef { uid: Some("v2".into()), ..vmi.clone() };
        let unknown = PodRef { uid: None, ..vmi.clone() };
        for other in
            [event(&vmi, "n", true), event(&anew, "m", true), event(&vmi, "m", false), event(&unknown, "m", true)]
        {
            assert_ne!(other, name);
        }
    }

    #[test]
    fn of_a_machine() {
        let vmi = PodRef { namespace: "prod".into(), name: "db".into(), uid: None };
        let event =
            Event { about: &vmi, on: On::Vmi, reason: "r", message: "m", warning: true, component: "t", once: false };
        let v = event.object(Timestamp::UNIX_EPOCH);
        assert_eq!(v["involvedObject"]["kind"], "VirtualMachineInstance");
        assert_eq!(v["involvedObject"]["apiVersion"], "kubevirt.io/v1");
    }

    #[test]
    fn nothing_is_longer_than_the_server_takes() {
        let pod = PodRef { namespace: "n".into(), name: "p".repeat(253), uid: None };
        let long = "\u{20ac}".repeat(500);
        let event = Event {
            about: &pod,
            on: On::Pod,
            reason: &long,
            message: &long,
            warning: true,
            component: "t",
            once: false,
        };
        let v = event.object(Timestamp::now());
        assert_eq!(v["metadata"]["name"].as_str().unwrap().len(), 253);
        assert_eq!(v["message"].as_str().unwrap().len(), 1023);
        assert_eq!(v["reason"].as_str().unwrap().len(), 126);
        assert_eq!(cut("abc", 5), "abc");
    }
}
