//! Who the pod is, what its annotations say, and the NADs that they name: from what the runtime hands over, from copies
//! on disk, from the agent, from the API server.
//!
//! Where facts came from makes no difference to the rules above; what follows from them is not this room's business.

mod agent;
mod copies;
mod machine;
mod sources;
#[cfg(test)]
pub mod testing;

use serde_json::Value;

use crate::cni::{Call, json};
use crate::plan::PodFacts;
use crate::types::{Code, Failure, Outcome, PodRef};

pub use agent::Agent;
pub use copies::Copies;
pub use machine::{attachment_facts, machine_of};
pub use sources::{Pod, Sources, Wish};

/// Capability by which containerd and CRI-O hand over all annotations of the pod.
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// What the call itself says: `CNI_ARGS`, and annotations that the runtime hands over.
pub fn pod_facts(call: &Call) -> Outcome<PodFacts> {
    let arg = |key| call.args.get(key).filter(|v| !v.is_empty()).map(str::to_owned);
    // The name alone says already that a pod is a virtual machine's.
    let pod = arg("K8S_POD_NAME").map(|name| PodRef {
        namespace: arg("K8S_POD_NAMESPACE").unwrap_or_default(),
        name,
        uid: arg("K8S_POD_UID"),
    });
    let annotations =
        json::get(&call.conf, "runtimeConfig").and_then(Value::as_object).and_then(|r| json::get(r, ANNOTATIONS));
    let annotations = annotations
        .map(|v| json::from_value(v.clone()))
        .transpose()
        .map_err(|e| Failure::new(Code::Config, format!("runtimeConfig.{ANNOTATIONS}: {e}")))?;
    Ok(PodFacts { pod, annotations, nics: None })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::testing::call;

    fn facts(runtime: Value, args: &str) -> Outcome<PodFacts> {
        pod_facts(&call(&json!({"name": "lan", "runtimeConfig": runtime}), args))
    }

    #[test]
    fn the_pod_out_of_the_arguments() {
        let all = facts(json!(null), "IgnoreUnknown=1;K8S_POD_UID=u1;K8S_POD_NAME=web;K8S_POD_NAMESPACE=prod").unwrap();
        let pod = PodRef { namespace: "prod".into(), name: "web".into(), uid: Some("u1".into()) };
        assert_eq!((all.pod, all.annotations), (Some(pod), None));
        let pod = |args: &str| facts(json!({}), args).unwrap().pod.map(|p| (p.namespace, p.name, p.uid));
        assert_eq!(pod("K8S_POD_NAMESPACE=prod;K8S_POD_NAME=web"), Some(("prod".into(), "web".into(), None)));
        assert_eq!(pod("K8S_POD_NAME=web;K8S_POD_UID="), Some((String::new(), "web".into(), None)));
        assert_eq!(pod("K8S_POD_NAMESPACE=prod"), None);
        assert_eq!(pod("K8S_POD_NAMESPACE=prod;K8S_POD_NAME="), None);
        assert_eq!(pod(""), None);
        assert_eq!(pod("k8s_pod_name=web;nonsense"), None);
    }

    #[test]
    fn annotations_that_the_runtime_hands_over() {
        let told = |annotations: Value| facts(json!({ANNOTATIONS: annotations}), "");
        let some = told(json!({"kubevirt.io/domain": "db", "x": ""})).unwrap().annotations.unwrap();
        assert_eq!((some.len(), some["kubevirt.io/domain"].as_str()), (2, "db"));
        assert_eq!(
            told(json!({})).unwrap().annotations.map(|a| a.len()),
            Some(0),
            "none is another thing than unknown"
        );
        assert_eq!(told(json!(null)).unwrap().annotations, None);
        assert_eq!(
            facts(json!({"IO.Kubernetes.CRI.pod-annotations": {"a": "b"}}), "").unwrap().annotations.map(|a| a.len()),
            Some(1)
        );
        for (wrong, place) in [(json!([]), ANNOTATIONS), (json!("x"), ANNOTATIONS), (json!({"a": 1}), ANNOTATIONS)] {
            let failure = told(wrong.clone()).expect_err(&wrong.to_string());
            assert!(failure.code == Code::Config && failure.msg.contains(place), "{failure}");
        }
        assert_eq!(facts(json!("none of mine"), "").unwrap().annotations, None, "another's place to refuse it");
    }
}
