//! A node's object: read, and its status patched. Of its pods, those with a label.

use http::{Method, StatusCode};
use serde_json::Value;

use super::ask::Question;
use super::{Api, MERGE, is_name};
use crate::types::{Code, Failure, Outcome};

impl Api {
    pub async fn get_node(&self, name: &str) -> Outcome<Option<Value>> {
        if !is_name(name) {
            return Ok(None);
        }
        let what = format!("get node {name}");
        let answer = self.ask(&Question::get(what.clone(), format!("/api/v1/nodes/{name}"))).await?;
        if answer.status == StatusCode::NOT_FOUND { Ok(None) } else { self.value(&what, &answer).map(Some) }
    }

    /// One merge patch: `null` takes a key away. Safe to be asked twice.
    pub async fn patch_node_status(&self, name: &str, patch: &Value) -> Outcome<()> {
        if !is_name(name) {
            return Err(Failure::new(Code::ApiRefused, format!("node {name:?}: no node has such a name")));
        }
        let path = format!("/api/v1/nodes/{name}/status");
        let question = Question {
            method: Method::PATCH,
            media: MERGE,
            body: patch.to_string().into_bytes(),
            ..Question::get(format!("patch the status of node {name}"), path)
        };
        let answer = self.ask(&question).await?;
        if answer.status.is_success() { Ok(()) } else { Err(self.refused(&question, &answer)) }
    }

    /// Running pods of a node with this label (`key=value`), as `namespace/name`.
    pub async fn labelled_pods(&self, node: &str, key: &str, value: &str) -> Outcome<Vec<String>> {
        if !is_name(node) {
            return Ok(Vec::new());
        }
        let what = format!("list pods with {key}={value} on node {node}");
        let path = format!(
            "/api/v1/pods?labelSelector={key}%3D{value}&fieldSelector=spec.nodeName%3D{node}%2Cstatus.phase%3DRunning&limit=5"
        );
        let answer = self.ask(&Question::get(what.clone(), path)).await?;
        let list = self.value(&what, &answer)?;
        let items = list.get("items").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let part = |v: &Value, key: &str| v.pointer(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(items.iter().map(|v| format!("{}/{}", part(v, "/metadata/namespace"), part(v, "/metadata/name"))).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::testing::{Fake, Reply, short, status};
    use crate::net::testing::block_on;

    #[test]
    fn a_node_is_read_and_its_status_patched() {
        let tmp = tempfile::tempdir().unwrap();
        let fake = Fake::new(|seen| match seen.line().as_str() {
            "GET /api/v1/nodes/n1" => Reply::Json(200, json!({"metadata": {"name": "n1"}})),
            "PATCH /api/v1/nodes/n1/status" => Reply::Json(200, json!({})),
            _ => status(404, "no such thing"),
        });
        let api = fake.api(tmp.path(), short());
        let patch = json!({"status": {"capacity": {"a/b": "1k", "a/c": null}}});
        block_on(async {
            assert_eq!(api.get_node("n1").await.unwrap().unwrap()["metadata"]["name"], "n1");
            assert_eq!(api.get_node("n2").await.unwrap(), None);
            assert_eq!(api.get_node("../pods").await.unwrap(), None);
            api.patch_node_status("n1", &patch).await.unwrap();
            assert_eq!(api.patch_node_status("n2", &patch).await.unwrap_err().code, Code::ApiRefused);
            assert!(api.patch_node_status("N/1", &patch).await.is_err());
        });
        let seen = fake.seen();
        assert_eq!(seen.len(), 4, "what can be no name is not asked for");
        assert_eq!((seen[2].json(), seen[2].headers["content-type"].as_str()), (patch, "application/merge-patch+json"));
    }

    #[test]
    fn pods_are_found_by_their_label() {
        let tmp = tempfile::tempdir().unwrap();
        let pod = json!({"metadata": {"namespace": "kube-system", "name": "bridge-marker-x1"}});
        let fake = Fake::new(move |_| Reply::Json(200, json!({"items": [pod]})));
        let found = block_on(fake.api(tmp.path(), short()).labelled_pods("n1", "app", "bridge-marker")).unwrap();
        assert_eq!(found, ["kube-system/bridge-marker-x1"]);
        assert!(fake.lines()[0].contains("labelSelector=app%3Dbridge-marker&fieldSelector=spec.nodeName%3Dn1"));
    }
}
