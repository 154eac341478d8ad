//! Kubelet's pod-resources socket: one gRPC call, `v1.PodResourcesLister/List`, over HTTP/2 on a unix socket.
//!
//! The answer names every pod of the node. It is kept once, as the bytes that came, and only the pod's own part of it
//! is decoded. A gRPC message is five bytes of head and a protobuf; its status stands in the trailers, or, where there
//! is no body, in the headers.

use std::io::ErrorKind;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::{Either, select};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use prost::Message;
use tokio::net::UnixStream;

use super::{Supply, put};
use crate::types::{Code, Failure, Outcome, PodRef};

/// The largest answer that is taken; kubelet's own tools have the same limit.
const LARGEST: usize = 16 << 20;
/// Flow control: with h2's 64 KiB a large answer would come in small pieces, each asked for.
const WINDOW: u32 = 1 << 20;
/// Flag byte and length.
const HEAD: usize = 5;

#[derive(Message)]
struct Listing {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pods: Vec<Bytes>,
}

#[derive(Message)]
struct Pod {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    containers: Vec<Bytes>,
}

#[derive(Message)]
struct Container {
    #[prost(message, repeated, tag = "2")]
    devices: Vec<ContainerDevices>,
}

#[derive(Message)]
struct ContainerDevices {
    #[prost(string, tag = "1")]
    resource_name: String,
    #[prost(string, repeated, tag = "2")]
    device_ids: Vec<String>,
}

enum Refusal {
    /// Kubelet lets 10 calls through at once and 100 a second; at its own restart nobody listens.
    Later(String),
    Final(String),
}

impl From<h2::Error> for Refusal {
    fn from(e: h2::Error) -> Self {
        if e.is_io() || e.is_go_away() { Self::Later(e.to_string()) } else { Self::Final(e.to_string()) }
    }
}

impl From<prost::DecodeError> for Refusal {
    fn from(e: prost::DecodeError) -> Self {
        Self::Final(e.to_string())
    }
}

/// Asks until there is an answer or the time is over. Needs a runtime with sockets and time.
pub(super) async fn list(socket: &Path, pod: &PodRef, within: Duration) -> Outcome<Supply> {
    let mut last = "no answer".to_owned();
    let asking = async {
        loop {
            match call(socket).await.and_then(|answer| devices(answer, pod)) {
                // Pods come in bursts: their plugins should not all come back at once.
                Err(Refusal::Later(why)) => {
                    last = why;
                    tokio::time::sleep(Duration::from_millis(30 + u64::from(std::process::id() % 64))).await;
                }
                Err(Refusal::Final(why)) => return Err(why),
                Ok(supply) => return Ok(supply),
            }
        }
    };
    let answer = match tokio::time::timeout(within, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("{last}, for {} s", within.as_secs_f32())),
    };
    answer.map_err(|why| {
        Failure::new(Code::Devices, format!("kubelet's pod-resources socket {}: {why}", socket.display()))
            .remedy("look after kubelet on this node; the runtime tries again")
    })
}

async fn call(socket: &Path) -> Result<Bytes, Refusal> {
    let stream = UnixStream::connect(socket).await.map_err(|e| match e.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::NotFound | ErrorKind::WouldBlock => Refusal::Later(e.to_string()),
        _ => Refusal::Final(e.to_string()),
    })?;
    let mut client = h2::client::Builder::new();
    client.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).enable_push(false);
    let (sender, connection) = client.handshake(stream).await?;
    // Whoever holds the connection moves its frames; this call is all that it is for.
    match select(pin!(connection), pin!(exchange(sender))).await {
        Either::Left((Ok(()), exchange)) => exchange.await,
        Either::Left((Err(e), _)) => Err(e.into()),
        Either::Right((answer, _)) => answer,
    }
}

async fn exchange(sender: h2::client::SendRequest<Bytes>) -> Result<Bytes, Refusal> {
    let mut sender = sender.ready().await?;
    let request = Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri("http://localhost/v1.PodResourcesLister/List")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(|e| Refusal::Final(e.to_string()))?;
    let (response, mut body) = sender.send_request(request, false)?;
    // The request has no fields, so its message is a head alone.
    body.send_data(Bytes::from_static(&[0; HEAD]), true)?;
    answer(response.await?).await
}

async fn answer(response: Response<h2::RecvStream>) -> Result<Bytes, Refusal> {
    let (head, mut body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(Refusal::Final(format!("HTTP status {}", head.status)));
    }
    if let Some(status) = status(&head.headers) {
        status?;
    }
    let mut message = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        message.extend_from_slice(&data);
        let whole = HEAD + length(&message)?;
        if message.len() > whole {
            return Err(Refusal::Final("more than one message in the answer".into()));
        }
        message.reserve(whole - message.len());
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    status(&trailers).unwrap_or_else(|| Err(Refusal::Final("the answer has no gRPC status".into())))?;
    if message.len() < HEAD || message.len() < HEAD + length(&message)? {
        return Err(Refusal::Final("the answer is cut off".into()));
    }
    message.advance(HEAD);
    Ok(message.freeze())
}

/// Length of the message by its head; none yet while the head is not whole.
fn length(message: &[u8]) -> Result<usize, Refusal> {
    let Some((head, _)) = message.split_first_chunk::<HEAD>() else { return Ok(0) };
    let [compressed, length @ ..] = *head;
    let length = u32::from_be_bytes(length) as usize;
    if compressed != 0 {
        return Err(Refusal::Final("the answer is compressed, and nobody asked for that".into()));
    }
    if length > LARGEST {
        return Err(Refusal::Final(format!("the answer has {length} bytes, more than the {LARGEST} that are taken")));
    }
    Ok(length)
}

/// gRPC's status, if it is among these headers.
fn status(headers: &HeaderMap) -> Option<Result<(), Refusal>> {
    let text = |key| headers.get(key).map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let message = || text("grpc-message").unwrap_or_default();
    Some(match text("grpc-status")?.as_str() {
        "0" => Ok(()),
        // RESOURCE_EXHAUSTED, UNAVAILABLE.
        code @ ("8" | "14") => Err(Refusal::Later(format!("gRPC status {code}: {}", message()))),
        "12" => Err(Refusal::Final("kubelet does not know version v1 of it, which came with Kubernetes 1.20".into())),
        code => Err(Refusal::Final(format!("gRPC status {code}: {}", message()))),
    })
}

fn devices(answer: Bytes, wanted: &PodRef) -> Result<Supply, Refusal> {
    let mut supply = Supply::new();
    for pod in Listing::decode(answer)?.pods {
        let pod = Pod::decode(pod)?;
        if pod.name != wanted.name || pod.namespace != wanted.namespace {
            continue;
        }
        for container in pod.containers {
            for devices in Container::decode(container)?.devices {
                put(&mut supply, &devices.resource_name, devices.device_ids);
            }
        }
    }
    Ok(supply)
}

#[cfg(test)]
mod tests;
