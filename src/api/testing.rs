//! An API server for tests, of this room and of others: on the loopback, one thread for each connection, answers by a
//! closure. It keeps what it was asked.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Api, Limits};

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// By lower-case name.
    pub headers: HashMap<String, String>,
    pub body: String,
    /// The how manieth connection it came by, from 0.
    pub connection: usize,
}

impl Seen {
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

pub enum Reply {
    Json(u16, Value),
    /// With headers of its own.
    With(u16, Vec<(&'static str, &'static str)>, String),
    /// The connection is cut instead.
    Reset,
    /// Pieces as they come, until nobody sends any more.
    Pieces(std::sync::mpsc::Receiver<String>),
    /// Nothing, for so long; then the connection is closed.
    Silence(Duration),
}

/// Kubernetes' own shape of a refusal.
pub fn status(code: u16, message: &str) -> Reply {
    Reply::Json(
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}),
    )
}

pub struct Fake {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

type Answer = Arc<Mutex<dyn FnMut(&Seen) -> Reply + Send>>;

impl Fake {
    pub fn new(answer: impl FnMut(&Seen) -> Reply + Send + 'static) -> Self {
        Self::serve(TcpListener::bind("127.0.0.1:0").unwrap(), None, answer)
    }

    /// With TLS if there is a configuration for it.
    pub fn serve(
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        answer: impl FnMut(&Seen) -> Reply + Send + 'static,
    ) -> Self {
        let (address, seen) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let (answer, log): (Answer, _) = (Arc::new(Mutex::new(answer)), seen.clone());
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().enumerate() {
                let (stream, answer, log, tls) = (stream.unwrap(), answer.clone(), log.clone(), tls.clone());
                thread::spawn(move || match tls {
                    None => talk(&mut BufReader::new(&stream), &stream, connection, &answer, &log),
                    Some(tls) => {
                        let tls = rustls::ServerConnection::new(tls).unwrap();
                        let inner = rustls::StreamOwned::new(tls, stream.try_clone().unwrap());
                        talk(&mut BufReader::new(inner), &stream, connection, &answer, &log);
                    }
                });
            }
        });
        Self { address, seen }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Method and path of each request.
    pub fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Asks this server by plain http, with a kubeconfig in `dir`.
    pub fn api(&self, dir: &Path, limits: Limits) -> Api {
        api(&kubeconfig(dir, &json!({"server": self.url()}), &json!({})), limits)
    }
}

fn talk<S: Read + Write>(
    stream: &mut BufReader<S>,
    socket: &TcpStream,
    connection: usize,
    answer: &Answer,
    log: &Mutex<Vec<Seen>>,
) {
    while let Some(seen) = request(stream, connection) {
        log.lock().unwrap().push(seen.clone());
        let reply = (answer.lock().unwrap())(&seen);
        let (code, headers, body) = match reply {
            Reply::Json(code, value) => (code, vec![("content-type", "application/json")], value.to_string()),
            Reply::With(code, headers, body) => (code, headers, body),
            Reply::Silence(time) => return thread::sleep(time),
            Reply::Pieces(pieces) => {
                let head = "HTTP/1.1 200 X\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
                let mut said = stream.say(head.as_bytes());
                for piece in pieces {
                    said = said.and_then(|()| stream.say(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()));
                }
                if said.and_then(|()| stream.say(b"0\r\n\r\n")).is_err() {
                    return;
                }
                continue;
            }
            Reply::Reset => {
                // Closed at once with data unsent: a RST, as from a server that was killed.
                let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::Linger, &linger).unwrap();
                return;
            }
        };
        let mut text = format!("HTTP/1.1 {code} X\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.push_str(&body);
        if stream.say(text.as_bytes()).is_err() {
            return;
        }
    }
}

/// Writing on what is being read from.
trait Conversation {
    fn say(&mut self, bytes: &[u8]) -> std::io::Result<()>;
}

impl<S: Read + Write> Conversation for BufReader<S> {
    fn say(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.get_mut().write_all(bytes)?;
        self.get_mut().flush()
    }
}

fn request(stream: &mut impl BufRead, connection: usize) -> Option<Seen> {
    let mut line = || {
        let mut text = String::new();
        stream.read_line(&mut text).ok().filter(|n| *n > 0)?;
        Some(text.trim_end().to_owned())
    };
    let first = line()?;
    let mut parts = first.split(' ');
    let (method, path) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    let mut headers = HashMap::new();
    while let Some((name, value)) = line()?.split_once(':') {
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |l| l.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Seen { method, path, headers, body: String::from_utf8(body).unwrap(), connection })
}

/// A kubeconfig with this cluster and this user (JSON is YAML).
pub fn kubeconfig(dir: &Path, cluster: &Value, user: &Value) -> PathBuf {
    let path = dir.join("kubeconfig");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "other", "cluster": {"server": "http://192.0.2.1"}}, {"name": "k", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    });
    std::fs::write(&path, text.to_string()).unwrap();
    path
}

pub fn api(kubeconfig: &Path, limits: Limits) -> Api {
    Api::open(Some(kubeconfig), &|_| None, limits).unwrap().unwrap()
}

/// Short enough for a test that waits them out.
pub fn short() -> Limits {
    let ms = Duration::from_millis;
    Limits { connect: ms(500), request: ms(700), total: ms(1200) }
}
