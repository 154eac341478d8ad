//! This node's object at the API server, and the watch that tells when it is not as it should be.
//!
//! kubelet writes a Node often (its conditions, its images); only what somebody did to the bridges' keys is passed on.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::version;
use crate::agent::watch::{SILENCE, jittered};
use crate::api::{Api, Change, Collection, Watch};
use crate::types::Outcome;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

pub trait NodeObject {
    async fn get(&self) -> Outcome<Option<Value>>;
    async fn patch(&self, body: &Value) -> Outcome<()>;
    /// Comes when the object is `wrong` in a version after this one, or when that cannot be known any more.
    async fn changed(&self, version: &str, wrong: &dyn Fn(&Value) -> bool);
    /// The pod of a bridge-marker on this node.
    async fn marker(&self) -> Outcome<Option<String>>;
}

pub struct ThisNode<'a> {
    api: &'a Api,
    name: &'a str,
    /// Goes on from one wait to the next.
    watch: Mutex<Option<Watch>>,
}

impl<'a> ThisNode<'a> {
    pub fn new(api: &'a Api, name: &'a str) -> Self {
        Self { api, name, watch: Mutex::default() }
    }

    /// The object after its next change; `None`: what happened meanwhile is not known any more. `from`: where the next watch
    /// goes on.
    async fn next(&self, watch: &mut Option<Watch>, from: &mut String) -> Outcome<Option<Value>> {
        loop {
            let Some(open) = watch else {
                *watch = self.api.watch(&Collection::node(self.name)?, from).await?;
                if watch.is_none() {
                    return Ok(None);
                }
                continue;
            };
            let change = timeout(SILENCE, open.next()).await;
            open.version().clone_into(from);
            match change {
                Ok(Ok(Some(Change::Is(node)))) => return Ok(Some(node)),
                Ok(Ok(Some(Change::Alive | Change::Gone(_)))) => continue,
                Ok(Ok(Some(Change::Expired))) => {
                    *watch = None;
                    return Ok(None);
                }
                Ok(Err(failure)) => {
                    *watch = None;
                    return Err(failure);
                }
                // Ended by the server, as it does every few minutes; or it has forgotten us. One that does so at once is not
                // to be asked in a circle.
                Ok(Ok(None)) | Err(_) => *watch = None,
            }
            sleep(jittered(FIRST_PAUSE)).await;
        }
    }
}

impl NodeObject for ThisNode<'_> {
    async fn get(&self) -> Outcome<Option<Value>> {
        self.api.get_node(self.name).await
    }

    async fn patch(&self, body: &Value) -> Outcome<()> {
        self.api.patch_node_status(self.name, body).await
    }

    async fn changed(&self, version: &str, wrong: &dyn Fn(&Value) -> bool) {
        let mut watch = self.watch.lock().await;
        let (mut from, mut pause) = (version.to_owned(), FIRST_PAUSE);
        loop {
            match self.next(&mut watch, &mut from).await {
                Ok(Some(node)) if self::version(&node) != version && wrong(&node) => return,
                Ok(Some(_)) => pause = FIRST_PAUSE,
                Ok(None) => return sleep(jittered(FIRST_PAUSE)).await,
                Err(failure) => {
                    tracing::debug!(%failure, pause = pause.as_secs(), "the node is not watched");
                    sleep(jittered(pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    async fn marker(&self) -> Outcome<Option<String>> {
        // The label of bridge-marker's own manifests, and of the cluster-network-addons-operator.
        Ok(self.api.labelled_pods(self.name, "app", "bridge-marker").await?.into_iter().next())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use serde_json::json;

    use super::*;
    use crate::api::testing::{Fake, Reply, short, status};
    use crate::net::testing::block_on;

    const SOON: Duration = Duration::from_secs(10);

    fn line(version: &str, amount: &str) -> String {
        let object = json!({"metadata": {"name": "n1", "resourceVersion": version}, "amount": amount});
        format!("{}\n", json!({"type": "MODIFIED", "object": object}))
    }

    #[test]
    fn only_what_is_wrong_wakes_and_a_watch_that_breaks_goes_on_from_where_it_was() {
        let tmp = tempfile::tempdir().unwrap();
        let (first, receive) = channel();
        let (second, again) = channel();
        let mut answers = vec![Reply::Pieces(again), status(503, "not now"), Reply::Pieces(receive)];
        let fake = Fake::new(move |_| answers.pop().unwrap_or_else(|| status(410, "too old")));
        let api = fake.api(tmp.path(), short()).lasting();
        let node = ThisNode::new(&api, "n1");
        let wrong = |node: &Value| node["amount"] == "0";
        first.send(line("5", "0")).unwrap();
        first.send(line("6", "1k")).unwrap();
        block_on(async {
            let none = timeout(Duration::from_millis(300), node.changed("5", &wrong)).await;
            assert!(none.is_err(), "the one is what was read, the other in order");
            first.send(line("7", "0")).unwrap();
            timeout(SOON, node.changed("6", &wrong)).await.expect("set to 0");
            assert_eq!(fake.seen().len(), 1, "one watch for all waits");
            first.send(line("8", "1k")).unwrap();
            drop(first);
            second.send(line("9", "0")).unwrap();
            timeout(SOON, node.changed("7", &wrong)).await.expect("set to 0 again");
            drop(second);
            timeout(SOON, node.changed("9", &wrong)).await.expect("expired");
        });
        let from = |version: &str| {
            format!(
                "nodes?fieldSelector=metadata.name%3Dn1&watch=1&allowWatchBookmarks=true&timeoutSeconds=290&resourceVersion={version}"
            )
        };
        let lines = fake.lines();
        assert!(lines[0].ends_with(&from("5")) && lines[1].ends_with(&from("8")), "{lines:?}");
    }
}
