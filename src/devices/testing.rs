//! A kubelet that answers on a socket of its own, and an API server that is a map.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response};
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};

use super::{Objects, Supply};
use crate::types::{Outcome, PodRef};

pub fn pod(uid: &str) -> PodRef {
    PodRef { namespace: "default".into(), name: "web".into(), uid: Some(uid.into()) }
}

pub fn supply(resources: &[(&str, &[&str])]) -> Supply {
    resources.iter().map(|(r, ids)| ((*r).into(), ids.iter().map(|id| (*id).into()).collect())).collect()
}

/// What the fake kubelet does with one request, in their order; the last one for all further requests.
#[derive(Clone)]
pub enum Does {
    Answers(Vec<u8>),
    /// Status and message, without a body.
    Refuses(&'static str, &'static str),
    /// Body as it is, then these trailers.
    Sends(Vec<u8>, Option<&'static str>),
    HttpError,
    /// Ends the connection before the answer.
    HangsUp,
    Sleeps,
}

/// Begins to answer; the socket is there when it returns.
pub fn kubelet(dir: &Path, does: Vec<Does>) -> PathBuf {
    let path = dir.join("kubelet.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let mut does = does.into_iter();
        let mut next = does.next().expect("something to do");
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, next.clone()));
            next = does.next().unwrap_or(next);
        }
    });
    path
}

async fn serve(stream: UnixStream, does: Does) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((mut request, respond))) = connection.accept().await {
        assert_eq!(request.uri().path(), "/v1.PodResourcesLister/List");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        assert_eq!(request.headers()["te"], "trailers");
        if matches!(does, Does::HangsUp) {
            return;
        }
        let does = does.clone();
        tokio::spawn(async move {
            let mut asked = BytesMut::new();
            while let Some(data) = request.body_mut().data().await {
                asked.extend_from_slice(&data.unwrap());
            }
            assert_eq!(asked[..], [0; 5], "an empty message");
            reply(respond, does).await;
        });
    }
}

async fn reply(mut respond: h2::server::SendResponse<Bytes>, does: Does) {
    let head = Response::builder().header("content-type", "application/grpc");
    let (body, status) = match does {
        Does::Answers(message) => (framed(&message), Some("0")),
        Does::Sends(body, status) => (body, status),
        Does::Refuses(status, message) => {
            let head = head.header("grpc-status", status).header("grpc-message", message);
            return drop(respond.send_response(head.body(()).unwrap(), true).unwrap());
        }
        Does::HttpError => return drop(respond.send_response(head.status(503).body(()).unwrap(), true).unwrap()),
        Does::HangsUp | Does::Sleeps => return std::future::pending().await,
    };
    let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
    // A client that has seen enough closes the stream in the middle.
    let _ = stream.send_data(body.into(), status.is_none());
    if let Some(status) = status {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.parse().unwrap());
        let _ = stream.send_trailers(trailers);
    }
}

pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat()
}

/// Objects by kind and name, and what was asked for.
#[derive(Default)]
pub struct FakeApi {
    pub objects: BTreeMap<String, Value>,
    pub asked: RefCell<Vec<String>>,
}

impl FakeApi {
    pub fn with(objects: impl IntoIterator<Item = (&'static str, Value)>) -> Self {
        Self { objects: objects.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(), ..Self::default() }
    }

    fn ask(&self, what: String) -> Option<Value> {
        let found = self.objects.get(&what).cloned();
        self.asked.borrow_mut().push(what);
        found
    }
}

impl Objects for FakeApi {
    async fn pod(&self, pod: &PodRef) -> Outcome<Option<Value>> {
        Ok(self.ask(format!("pod {pod}")))
    }

    async fn claim(&self, namespace: &str, name: &str) -> Outcome<Option<Value>> {
        Ok(self.ask(format!("claim {namespace}/{name}")))
    }

    async fn slices(&self, node: &str, driver: &str) -> Outcome<Vec<Value>> {
        let list = self.ask(format!("slices {node} {driver}")).unwrap_or(json!([]));
        Ok(list.as_array().unwrap().clone())
    }
}
