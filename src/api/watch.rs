//! All objects of a kind, and what becomes of them: list, then watch.
//!
//! Objects are read one by one out of the answer and handed on, so that a thousand of them never lie in memory in full.
//! Who asks keeps the version that a list or a watch ended with, and decides when to ask again.

use http::StatusCode;
use http_body_util::BodyExt;
use kube::client::Body;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::ask::{JSON, Question, chain};
use super::{Api, is_name};
use crate::types::{Code, Failure, Outcome};

/// Only `metadata` of each object; a server that does not know this form sends all.
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
/// After this time the server ends a watch; kube-apiserver's own are of 5 to 10 minutes.
const WATCH_SECONDS: u32 = 290;
/// More than any object has: etcd takes 1.5 MiB.
const LONGEST_LINE: usize = 8 << 20;

/// Which objects.
#[derive(Debug, Clone)]
pub struct Collection {
    /// For people.
    what: &'static str,
    path: String,
    selector: String,
    metadata_only: bool,
}

impl Collection {
    pub fn nads() -> Self {
        let path = "/apis/k8s.cni.cncf.io/v1/network-attachment-definitions".into();
        Self { what: "network-attachment-definitions", path, selector: String::new(), metadata_only: false }
    }

    /// Their metadata alone.
    pub fn pods_of(node: &str) -> Outcome<Self> {
        if !is_name(node) {
            return Err(Failure::new(Code::Environment, format!("{node:?} is no name of a node")));
        }
        let selector = format!("fieldSelector=spec.nodeName%3D{node}&");
        Ok(Self { what: "pods of this node", path: "/api/v1/pods".into(), selector, metadata_only: true })
    }

    /// One node's object.
    pub fn node(name: &str) -> Outcome<Self> {
        if !is_name(name) {
            return Err(Failure::new(Code::Environment, format!("{name:?} is no name of a node")));
        }
        let selector = format!("fieldSelector=metadata.name%3D{name}&");
        Ok(Self { what: "this node", path: "/api/v1/nodes".into(), selector, metadata_only: false })
    }
}

/// What came of a list.
#[derive(Debug, PartialEq, Eq)]
pub enum Listed {
    /// As of this version.
    Whole(String),
    /// The server does not know the version that was asked for (any more, or not yet): ask for none.
    Expired,
}

/// What a watch tells.
#[derive(Debug, PartialEq)]
pub enum Change {
    /// New or other than before.
    Is(Value),
    Gone(Value),
    /// Nothing happened until now.
    Alive,
    /// What happened since the version asked for is not known any more: list again.
    Expired,
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(default)]
    metadata: Meta,
    #[serde(borrow, default)]
    items: Vec<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct Meta {
    #[serde(default, rename = "resourceVersion")]
    version: String,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    object: &'a RawValue,
}

impl Api {
    /// At least as new as `version`: "0" takes what the server has in memory, "" what is written.
    pub async fn list(&self, of: &Collection, version: &str, each: &mut dyn FnMut(Value)) -> Outcome<Listed> {
        let newer = if matches!(version, "" | "0") { "" } else { "&resourceVersionMatch=NotOlderThan" };
        let question = Question {
            accept: if of.metadata_only { METADATA_LIST } else { JSON },
            ..Question::get(
                format!("list {}", of.what),
                format!("{}?{}resourceVersion={version}{newer}", of.path, of.selector),
            )
        };
        let answer = self.ask_for_versions(&question).await?;
        let Some(body) = answer else { return Ok(Listed::Expired) };
        let not_json = |e| self.not_json(&question.what, &e);
        let list: List<'_> = serde_json::from_slice(&body).map_err(not_json)?;
        for item in list.items {
            each(serde_json::from_str(item.get()).map_err(not_json)?);
        }
        Ok(Listed::Whole(list.metadata.version))
    }

    /// `None`: the version is too old or too new.
    async fn ask_for_versions(&self, question: &Question) -> Outcome<Option<Vec<u8>>> {
        let answer = self.ask(question).await?;
        match answer.status {
            s if s.is_success() => Ok(Some(answer.body)),
            StatusCode::GONE => Ok(None),
            _ => Err(self.refused(question, &answer)),
        }
    }

    /// From `version` on. `None`: that is not known any more.
    pub async fn watch(&self, of: &Collection, version: &str) -> Outcome<Option<Watch>> {
        let what = format!("watch {}", of.what);
        let path = format!(
            "{}?{}watch=1&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={version}",
            of.path, of.selector
        );
        let question =
            Question { accept: if of.metadata_only { METADATA } else { JSON }, ..Question::get(what.clone(), path) };
        let response = self.open_answer(&question).await?;
        match response.status() {
            s if s.is_success() => {
                let body = response.into_body();
                Ok(Some(Watch { what, body, buffer: Vec::new(), looked: 0, version: version.to_owned() }))
            }
            StatusCode::GONE => Ok(None),
            s if s.is_server_error() || s == StatusCode::TOO_MANY_REQUESTS => {
                Err(self.unreachable(&question, &format!("answers {}", s.as_u16())))
            }
            status => {
                let body = response.into_body().collect().await;
                let body = body.map(|b| b.to_bytes().to_vec()).unwrap_or_default();
                Err(self.refused(&question, &super::ask::Answer { status, body }))
            }
        }
    }
}

/// An answer without an end, a line for each change.
pub struct Watch {
    what: String,
    body: Body,
    buffer: Vec<u8>,
    /// So many bytes of the buffer have no end of line.
    looked: usize,
    version: String,
}

impl Watch {
    /// Of the last change: from here another watch goes on.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// `None`: the server ended it, as it does every few minutes. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Outcome<Option<Change>> {
        loop {
            if let Some(line) = self.line() {
                if let Some(change) = self.change(&line)? {
                    return Ok(Some(change));
                }
                continue;
            }
            let broken = |why: &str| Failure::new(Code::ApiUnreachable, format!("{}: {why}", self.what));
            if self.buffer.len() > LONGEST_LINE {
                return Err(broken("a line without an end"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(e)) => return Err(broken(&chain(&e))),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let Some(end) = self.buffer[self.looked..].iter().position(|b| *b == b'\n') else {
            self.looked = self.buffer.len();
            return None;
        };
        let line = self.buffer.drain(..=self.looked + end).collect();
        self.looked = 0;
        Some(line)
    }

    /// `None`: one that an older or newer server knows, and that says nothing of an object.
    fn change(&mut self, line: &[u8]) -> Outcome<Option<Change>> {
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        let bad = |e: serde_json::Error| Failure::new(Code::ApiRefused, format!("{}: not JSON: {e}", self.what));
        let Line { kind, object } = serde_json::from_slice(line).map_err(bad)?;
        let object: Value = serde_json::from_str(object.get()).map_err(bad)?;
        if kind == "ERROR" {
            return self.error(&object).map(Some);
        }
        if let Some(version) = object.pointer("/metadata/resourceVersion").and_then(Value::as_str) {
            self.version = version.to_owned();
        }
        Ok(match kind.as_str() {
            "ADDED" | "MODIFIED" => Some(Change::Is(object)),
            "DELETED" => Some(Change::Gone(object)),
            "BOOKMARK" => Some(Change::Alive),
            _ => None,
        })
    }

    fn error(&self, status: &Value) -> Outcome<Change> {
        if status.get("code").and_then(Value::as_u64) == Some(StatusCode::GONE.as_u16().into()) {
            return Ok(Change::Expired);
        }
        let why = status.get("message").and_then(Value::as_str).unwrap_or("an error without a message");
        Err(Failure::new(Code::ApiUnreachable, format!("{}: {why}", self.what)))
    }
}
