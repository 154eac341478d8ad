//! An API server for a benchmark: objects that never change, by plain http on the loopback; it keeps what it was asked.
//!
//! It answers in JSON whatever was asked for, which a client that wishes for protobuf has to take too. What is written
//! to an object is kept with the request and changes nothing.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde_json::{Value, json};

/// One request. The body is JSON or protobuf.
pub struct Request {
    pub method: String,
    pub path: String,
    pub body: Vec<u8>,
}

#[derive(Clone)]
pub struct Server {
    pub port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Objects by path.
    pub fn start(objects: HashMap<String, Value>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let server = Self { port: listener.local_addr()?.port(), seen: Arc::default() };
        let objects: Arc<HashMap<_, _>> = Arc::new(objects.into_iter().map(|(k, v)| (k, v.to_string())).collect());
        let keeper = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (keeper, objects) = (keeper.clone(), objects.clone());
                // A client that goes away in the middle is no fault of this side.
                thread::spawn(move || keeper.talk(stream, &objects).ok());
            }
        });
        Ok(server)
    }

    /// What was asked since the last time.
    pub fn take(&self) -> Vec<Request> {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn talk(&self, stream: TcpStream, objects: &HashMap<String, String>) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(&stream);
        while let Some(request) = read(&mut reader)? {
            let (code, body) = answer(&request, objects);
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
            let head = "content-type: application/json\r\ncontent-length:";
            (&stream).write_all(format!("HTTP/1.1 {code}\r\n{head} {}\r\n\r\n{body}", body.len()).as_bytes())?;
        }
        Ok(())
    }
}

fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header == "\r\n" {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Request { method, path, body }))
}

fn answer(request: &Request, objects: &HashMap<String, String>) -> (&'static str, String) {
    if request.method == "POST" && request.path.ends_with("/events") {
        let event = json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e", "namespace": "n"}});
        return ("201 Created", event.to_string());
    }
    let path = request.path.strip_suffix("/status").filter(|_| request.method != "GET").unwrap_or(&request.path);
    match objects.get(path) {
        Some(object) => ("200 OK", object.clone()),
        None => {
            let message = format!("{path} not found");
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
                "message": message, "code": 404});
            ("404 Not Found", status.to_string())
        }
    }
}
