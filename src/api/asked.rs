//! What was asked, and what came of it, for somebody who counts: verb, resource and outcome, few enough for labels.
//!
//! One word for each request that was sent or meant to be: a question that is asked again counts again. Knows nothing of
//! who counts, nor where.

use std::sync::Arc;

use http::{Method, StatusCode};

use super::ask::Question;

/// Hears of each request when its answer is there, or when none comes.
pub type Count = Arc<dyn Fn(&Asked<'_>) + Send + Sync>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked<'a> {
    /// As Kubernetes' own rules have it.
    pub verb: &'static str,
    /// In the plural, a part of it after a slash: `pods/status`.
    pub resource: String,
    /// The status of the answer, [`TIMEOUT`] or [`UNREACHABLE`].
    pub outcome: &'a str,
}

pub const TIMEOUT: &str = "timeout";
pub const UNREACHABLE: &str = "unreachable";

impl<'a> Asked<'a> {
    pub(super) fn new(question: &Question, outcome: &'a str) -> Self {
        let (path, query) = question.path.split_once('?').unwrap_or((&question.path, ""));
        let mut parts = path.trim_start_matches('/').split('/');
        // Core's objects have no group.
        let group = if parts.next() == Some("api") { 1 } else { 2 };
        let mut parts = parts.skip(group).peekable();
        if parts.peek() == Some(&"namespaces") {
            parts.nth(1);
        }
        let plural = parts.next().unwrap_or_default();
        let (name, part) = (parts.next(), parts.next());
        let resource = part.map_or_else(|| plural.to_owned(), |part| format!("{plural}/{part}"));
        let verb = match question.method {
            Method::PATCH => "patch",
            Method::POST => "create",
            _ if name.is_some() => "get",
            _ if query.split('&').any(|q| q == "watch=1") => "watch",
            _ => "list",
        };
        Self { verb, resource, outcome }
    }
}

/// Of an answer's head, or of none.
pub(super) fn outcome(status: Option<StatusCode>) -> String {
    status.map_or_else(|| UNREACHABLE.to_owned(), |s| s.as_u16().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_and_resources() {
        for (method, path, verb, resource) in [
            (Method::GET, "/api/v1/namespaces/prod/pods/web", "get", "pods"),
            (Method::PATCH, "/api/v1/namespaces/prod/pods/web/status", "patch", "pods/status"),
            (Method::GET, "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1&resourceVersion=0", "list", "pods"),
            (
                Method::GET,
                "/api/v1/nodes?fieldSelector=metadata.name%3Dn1&watch=1&allowWatchBookmarks=true",
                "watch",
                "nodes",
            ),
            (Method::GET, "/api/v1/nodes/n1", "get", "nodes"),
            (Method::PATCH, "/api/v1/nodes/n1/status", "patch", "nodes/status"),
            (Method::POST, "/api/v1/namespaces/namespaces/events", "create", "events"),
            (
                Method::GET,
                "/apis/kubevirt.io/v1/namespaces/a/virtualmachineinstances/b",
                "get",
                "virtualmachineinstances",
            ),
            (Method::GET, "/apis/resource.k8s.io/v1/resourceslices?fieldSelector=x", "list", "resourceslices"),
        ] {
            let question = Question { method, ..Question::get(String::new(), path.into()) };
            let asked = Asked::new(&question, "200");
            assert_eq!((asked.verb, asked.resource.as_str(), asked.outcome), (verb, resource, "200"), "{path}");
        }
    }
}
