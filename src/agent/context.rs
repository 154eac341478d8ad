//! What each duty of the agent is given: where the files are, which node this is, where to count, whether to act, how to
//! reach the API server, what is known by the watches, and when to end.
//!
//! Cheap to clone, one for each task. Knows no duty, and no duty learns of another one by it but for [`Known`], which the
//! watches fill, and [`Outbox`], which is emptied by `tell`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use super::duties::Wanted;
use super::known::Known;
use super::metrics::{Family, Metrics};
use super::outbox::Outbox;
use crate::api::{Api, Asked, Limits};
use crate::store::Dirs;
use crate::types::{Code, Failure, Outcome};

const REQUESTS: Family =
    Family::counter("trestle_api_requests_total", "Requests to the API server, by verb, resource and outcome.");

#[derive(Clone)]
pub struct Context {
    pub dirs: Dirs,
    /// Name of this node's object.
    pub node: String,
    pub metrics: Metrics,
    /// Say what would be repaired or advertised, and do neither. All other duties are done.
    pub dry_run: bool,
    pub wanted: Wanted,
    /// Without one: the pod's own service account.
    pub kubeconfig: Option<PathBuf>,
    pub known: Arc<Known>,
    pub outbox: Arc<Outbox>,
    /// True when the agent ends.
    pub end: watch::Receiver<bool>,
}

impl Context {
    /// One for each duty: connections belong to the runtime that made them.
    pub fn api(&self, limits: Limits) -> Outcome<Api> {
        let env = |key: &str| -> Option<OsString> { std::env::var_os(key) };
        let found = Api::open(self.kubeconfig.as_deref(), &env, limits)?;
        let none = || {
            Failure::new(Code::Kubeconfig, "no API server: neither a kubeconfig nor a pod's service account")
                .remedy("trestle agent --kubeconfig FILE")
        };
        let metrics = self.metrics.clone();
        let count = move |asked: &Asked<'_>| {
            let labels = [("verb", asked.verb), ("resource", &asked.resource), ("outcome", asked.outcome)];
            metrics.add(&REQUESTS, &labels, 1);
        };
        found.map(|api| api.lasting().counted(Arc::new(count))).ok_or_else(none)
    }

    /// Comes when the agent ends.
    pub async fn ended(&self) {
        // An error: who would say so is gone, which is the same.
        let _ = self.end.clone().wait_for(|end| *end).await;
    }
}
