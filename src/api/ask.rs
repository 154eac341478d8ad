//! One question to the API server, asked again while that helps and while there is time.
//!
//! Passing troubles are a server that says so (429, 5xx), a connection that is refused, reset or silent. All others
//! are told at once: rights, certificates, names that nobody knows.

use std::error::Error;
use std::io::ErrorKind;
use std::time::Duration;

use http::response::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::asked::{self, Asked, TIMEOUT};
use super::{Api, connect};
use crate::types::{Code, Failure, Outcome};

/// Between two tries, as Multus has it.
const PAUSE: Duration = Duration::from_millis(250);

pub const JSON: &str = "application/json";

pub struct Question {
    /// For people: verb and object.
    pub what: String,
    pub method: Method,
    pub path: String,
    pub accept: &'static str,
    pub media: &'static str,
    pub body: Vec<u8>,
}

impl Question {
    pub fn get(what: String, path: String) -> Self {
        Self { what, method: Method::GET, path, accept: JSON, media: "", body: Vec::new() }
    }
}

/// A success, or one of the refusals that a caller may know how to take: 404, 409, 410, 422.
pub struct Answer {
    pub status: StatusCode,
    pub body: Vec<u8>,
}

enum Trouble {
    /// Why, and how long the server asked us to wait.
    Passing(String, Duration),
    Lasting(Failure),
}

impl Api {
    pub(super) async fn ask(&self, question: &Question) -> Outcome<Answer> {
        let began = Instant::now();
        let spent = || self.spent.as_ref().map(|s| s.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        let left = self.limits.total.saturating_sub(spent().map_or(Duration::ZERO, |s| *s));
        let answer = self.persist(question, began + left).await;
        if let Some(mut spent) = spent() {
            *spent += began.elapsed();
        }
        answer
    }

    async fn persist(&self, question: &Question, end: Instant) -> Outcome<Answer> {
        let mut why = "the time for it is used up by questions before".to_owned();
        let mut told = Instant::now() >= end;
        loop {
            let left = end.saturating_duration_since(Instant::now()).min(self.limits.request);
            let answer = timeout(left, self.once(question)).await;
            if answer.is_err() {
                self.count(question, TIMEOUT);
            }
            let pause = match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(Trouble::Lasting(failure))) => return Err(failure),
                Ok(Err(Trouble::Passing(reason, pause))) => {
                    why = reason;
                    pause
                }
                // What is left at the end may be too short for any answer: the reason before it tells more.
                Err(_) if left < self.limits.request && told => PAUSE,
                Err(_) => {
                    why = format!("no answer within {:.1} s", left.as_secs_f32());
                    PAUSE
                }
            };
            told = true;
            if Instant::now() + pause >= end {
                return Err(self.unreachable(question, &why));
            }
            tracing::debug!(question = question.what, why, "the API server is asked again");
            sleep(pause).await;
        }
    }

    async fn once(&self, question: &Question) -> Result<Answer, Trouble> {
        let whole = self.whole(question).await;
        self.count(question, &asked::outcome(whole.as_ref().ok().map(|(head, _)| head.status)));
        let (head, body) = whole?;
        let answer = Answer { status: head.status, body };
        match head.status {
            s if s.is_success() => Ok(answer),
            StatusCode::NOT_FOUND | StatusCode::CONFLICT | StatusCode::GONE | StatusCode::UNPROCESSABLE_ENTITY => {
                Ok(answer)
            }
            s if s.is_server_error() || s == StatusCode::TOO_MANY_REQUESTS => {
                Err(Trouble::Passing(format!("answers {}", words(&answer)), wait(s, &head.headers)))
            }
            _ => Err(Trouble::Lasting(self.refused(question, &answer))),
        }
    }

    async fn whole(&self, question: &Question) -> Result<(Parts, Vec<u8>), Trouble> {
        let (head, body) = self.send(question).await?.into_parts();
        let body = body.collect().await.map_err(|e| self.trouble(question, &e))?;
        Ok((head, body.to_bytes().to_vec()))
    }

    fn count(&self, question: &Question, outcome: &str) {
        if let Some(count) = &self.count {
            count(&Asked::new(question, outcome));
        }
    }

    async fn send(&self, question: &Question) -> Result<Response<Body>, Trouble> {
        let client = self.client().await.map_err(Trouble::Lasting)?;
        let request = self.request(question).map_err(Trouble::Lasting)?;
        client.send(request).await.map_err(|e| self.trouble(question, &e))
    }

    /// An answer that comes in pieces, asked for once: its head must be there within the limit of one request.
    pub(super) async fn open_answer(&self, question: &Question) -> Outcome<Response<Body>> {
        let sent = timeout(self.limits.request, self.send(question)).await;
        self.count(
            question,
            &match &sent {
                Ok(sent) => asked::outcome(sent.as_ref().ok().map(Response::status)),
                Err(_) => TIMEOUT.to_owned(),
            },
        );
        match sent {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(Trouble::Lasting(failure))) => Err(failure),
            Ok(Err(Trouble::Passing(why, _))) => Err(self.unreachable(question, &why)),
            Err(_) => {
                let why = format!("no answer within {:.1} s", self.limits.request.as_secs_f32());
                Err(self.unreachable(question, &why))
            }
        }
    }

    /// Set up at the first question. A program that gives credentials may take its time: it runs on a thread of its
    /// own, which ends with the process if need be.
    async fn client(&self) -> Outcome<&kube::Client> {
        let limit = self.limits.connect;
        let build = || async move {
            if !self.settings.runs_a_program() {
                return connect::client(&self.settings, limit);
            }
            let (settings, runtime) = (self.settings.clone(), tokio::runtime::Handle::current());
            let (done, result) = tokio::sync::oneshot::channel();
            std::thread::spawn(move || {
                let _within = runtime.enter();
                let _ = done.send(connect::client(&settings, limit));
            });
            let lost = |_| Failure::new(Code::Kubeconfig, "the program for credentials did not come to an end");
            result.await.map_err(lost)?
        };
        self.client.get_or_try_init(build).await
    }

    fn request(&self, question: &Question) -> Outcome<Request<Body>> {
        let bad = |e: &dyn Error| Failure::new(Code::ApiRefused, format!("{}: {e}", question.what));
        let mut request = Request::builder()
            .method(question.method.clone())
            .uri(&question.path)
            .header(header::ACCEPT, question.accept)
            .body(Body::from(question.body.clone()))
            .map_err(|e| bad(&e))?;
        if !question.media.is_empty() {
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(question.media));
        }
        if let Some(path) = &self.settings.token_file {
            let place = || format!("tokenFile {}", path.display());
            let token = std::fs::read_to_string(path)
                .map_err(|e| Failure::new(Code::Kubeconfig, format!("{}: {e}", place())))?;
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))
                .map_err(|_| Failure::new(Code::Kubeconfig, format!("{}: holds no token", place())))?;
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        Ok(request)
    }

    fn trouble(&self, question: &Question, e: &kube::Error) -> Trouble {
        let why = match e {
            // kube's own words for it are no help to anybody.
            kube::Error::Service(inner) => chain(inner.as_ref()),
            other => chain(other),
        };
        if passes(e) {
            return Trouble::Passing(why, PAUSE);
        }
        Trouble::Lasting(self.unreachable(question, &why))
    }

    pub(super) fn unreachable(&self, question: &Question, why: &str) -> Failure {
        let msg = format!("API server {}: {}: {why}", self.settings.server(), question.what);
        Failure::new(Code::ApiUnreachable, msg)
            .remedy("the runtime tries again; look after the address, the network and the credentials")
    }

    pub(super) fn refused(&self, question: &Question, answer: &Answer) -> Failure {
        self.refusal(&question.what, answer)
    }

    pub(super) fn refusal(&self, what: &str, answer: &Answer) -> Failure {
        let msg = format!("API server {}: {what}: {}", self.settings.server(), words(answer));
        let remedy = match answer.status {
            StatusCode::UNAUTHORIZED if self.settings.unsent_credentials => {
                "no credentials are sent over plain http: let the kubeconfig name an https:// server"
            }
            StatusCode::UNAUTHORIZED => "renew the credentials that the kubeconfig names",
            StatusCode::FORBIDDEN => "give this user the right (verb and resource are in the message)",
            _ => "see the message",
        };
        Failure::new(Code::ApiRefused, msg).remedy(remedy)
    }

    pub(super) fn not_json(&self, what: &str, e: &serde_json::Error) -> Failure {
        let msg = format!("API server {}: {what}: the answer is not JSON: {e}", self.settings.server());
        Failure::new(Code::ApiRefused, msg).remedy("look whether something else listens at that address")
    }
}

/// Number and message of an answer; Kubernetes wraps the latter in an object.
fn words(answer: &Answer) -> String {
    const LONGEST: usize = 300;
    let object: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let message = object.as_ref().and_then(|o| o.get("message")).and_then(Value::as_str);
    let text = message.map_or_else(|| String::from_utf8_lossy(&answer.body).trim().to_owned(), str::to_owned);
    let short: String = text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("{} {short}", answer.status.as_u16()).trim_end().to_owned()
}

/// A server that sheds load says for how long; a failing one is asked at our own pace.
fn wait(status: StatusCode, headers: &HeaderMap) -> Duration {
    let told = headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    let told = told.filter(|_| status == StatusCode::TOO_MANY_REQUESTS).map(Duration::from_secs);
    told.unwrap_or(PAUSE).max(PAUSE)
}

/// Whether the same may go well in a moment. A certificate that is refused is an I/O error too, of kind InvalidData.
fn passes(e: &(dyn Error + 'static)) -> bool {
    const KINDS: [ErrorKind; 9] = [
        ErrorKind::ConnectionRefused,
        ErrorKind::ConnectionReset,
        ErrorKind::ConnectionAborted,
        ErrorKind::BrokenPipe,
        ErrorKind::NotConnected,
        ErrorKind::UnexpectedEof,
        ErrorKind::TimedOut,
        ErrorKind::HostUnreachable,
        ErrorKind::NetworkUnreachable,
    ];
    causes(e).any(|e| {
        let io = e.downcast_ref::<std::io::Error>().is_some_and(|e| KINDS.contains(&e.kind()));
        io || e.downcast_ref::<hyper::Error>().is_some_and(|e| e.is_incomplete_message() || e.is_canceled())
    })
}

fn causes<'a>(e: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(e);
    std::iter::from_fn(move || {
        let e = next?;
        next = e.source();
        Some(e)
    })
}

/// An error with its causes, each once: some libraries put the cause into their own text, others do not.
pub fn chain(e: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for part in causes(e).map(ToString::to_string) {
        if !text.contains(&part) {
            text = if text.is_empty() { part } else { format!("{text}: {part}") };
        }
    }
    text
}
