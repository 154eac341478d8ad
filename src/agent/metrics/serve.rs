//! Hands out `/metrics`, `/healthz` and `/readyz` by HTTP, to whoever asks: three fixed texts, so the protocol's first
//! line is all that is read of a request.
//!
//! One answer a connection. A client that is slow, or says too much, is cut off; more than a few at once wait.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, listen, setsockopt, socket, sockopt,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Metrics;
use crate::types::{Code, Failure, Outcome};

/// For one connection, from its first byte to its last.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longer than any scraper's request.
const LONGEST: usize = 16 << 10;
const AT_ONCE: usize = 8;
/// Connections that the kernel holds while they wait.
const BACKLOG: i32 = 128;
/// Descriptors may be used up for a moment.
const PAUSE: Duration = Duration::from_millis(200);

pub fn bind(address: SocketAddr) -> Outcome<TcpListener> {
    let bound = open(address).or_else(|e| fallback(address, &e).map_or(Err(e), open));
    bound.map_err(|e| {
        Failure::new(Code::Io, format!("cannot listen on {address} for metrics: {e}"))
            .remedy("let --metrics name another address, or none")
    })
}

/// `[::]` is all addresses, IPv4's too, whatever the node's `net.ipv6.bindv6only` says.
fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &false)?;
    }
    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::new(BACKLOG)?)?;
    TcpListener::from_std(fd.into())
}

/// A kernel without IPv6 has IPv4's addresses yet.
fn fallback(address: SocketAddr, e: &io::Error) -> Option<SocketAddr> {
    let all = address.is_ipv6() && address.ip().is_unspecified();
    let none = matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL));
    (all && none).then(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
}

/// Until its future is dropped.
pub async fn serve(listener: TcpListener, metrics: Metrics) -> Outcome<()> {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(turn) = room.clone().acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((stream, _)) => {
                let metrics = metrics.clone();
                tokio::spawn(async move {
                    // Who went away does not want it any more.
                    let _ = timeout(PATIENCE, answer(stream, &metrics)).await;
                    drop(turn);
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, "a connection for metrics is not taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, metrics: &Metrics) -> io::Result<()> {
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !ended(&request) {
        let len = stream.read(&mut piece).await?;
        if len == 0 || request.len() + len > LONGEST {
            return Ok(());
        }
        request.extend_from_slice(&piece[..len]);
    }
    let (status, media, body, head) = reply(&request, metrics);
    let mut text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {media}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    if !head {
        text.push_str(&body);
    }
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

fn ended(request: &[u8]) -> bool {
    request.windows(4).any(|w| w == b"\r\n\r\n") || request.windows(2).any(|w| w == b"\n\n")
}

/// Status, media type, body, and whether the body is not sent.
fn reply(request: &[u8], metrics: &Metrics) -> (&'static str, &'static str, String, bool) {
    const TEXT: &str = "text/plain; charset=utf-8";
    let line = request.split(|b| *b == b'\r' || *b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let head = method == "HEAD";
    if method != "GET" && !head {
        return ("405 Method Not Allowed", TEXT, "GET\n".into(), false);
    }
    match target.split('?').next().unwrap_or_default() {
        "/metrics" => ("200 OK", "text/plain; version=0.0.4; charset=utf-8", metrics.text(), head),
        "/healthz" => ("200 OK", TEXT, "ok\n".into(), head),
        "/readyz" => match metrics.waiting() {
            none if none.is_empty() => ("200 OK", TEXT, "ok\n".into(), head),
            waiting => ("503 Service Unavailable", TEXT, format!("waits for: {}\n", waiting.join(", ")), head),
        },
        _ => ("404 Not Found", TEXT, "/metrics /healthz /readyz\n".into(), head),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Namespace;
    use crate::net::testing::{block_on, fresh, up};

    const CALLS: super::super::Family = super::super::Family::counter("trestle_test_total", "Calls.");

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[test]
    fn three_pages_and_nothing_else() {
        block_on(async {
            let metrics = Metrics::default();
            metrics.add(&CALLS, &[], 3);
            metrics.expect("watch");
            let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(serve(listener, metrics.clone()));
            let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
            let text = ask(address, &get("/metrics?x=1")).await;
            assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\n# HELP trestle_test_total Calls.\n# TYPE trestle_test_total counter\ntrestle_test_total 3\n"), "{text}");
            assert!(ask(address, &get("/healthz")).await.ends_with("\r\n\r\nok\n"));
            let waits = ask(address, &get("/readyz")).await;
            assert!(waits.starts_with("HTTP/1.1 503 ") && waits.ends_with("waits for: watch\n"), "{waits}");
            metrics.working("watch", true);
            assert!(ask(address, &get("/readyz")).await.starts_with("HTTP/1.1 200 "));
            assert!(ask(address, &get("/")).await.starts_with("HTTP/1.1 404 "));
            assert!(ask(address, "POST /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405 "));
            let head = ask(address, "HEAD /healthz HTTP/1.1\r\n\r\n").await;
            assert!(head.contains("content-length: 3\r\n") && head.ends_with("\r\n\r\n"), "{head}");
            let again = bind(address).unwrap_err();
            assert!(again.msg.contains("127.0.0.1") && !again.remedy.is_empty());
        });
    }

    /// What a node's administrator may have set, in a namespace that has it.
    #[test]
    fn all_addresses_are_those_of_both_families() {
        fresh()
            .enter(|| {
                std::fs::write("/proc/sys/net/ipv6/bindv6only", "1").unwrap();
                block_on(async {
                    let links = Namespace::own().unwrap().netlink().unwrap();
                    up(&links, "lo").await;
                    let listener = bind("[::]:0".parse().unwrap()).unwrap();
                    let port = listener.local_addr().unwrap().port();
                    tokio::spawn(serve(listener, Metrics::default()));
                    for ip in ["127.0.0.1", "::1"] {
                        let address = SocketAddr::new(ip.parse().unwrap(), port);
                        assert!(ask(address, "GET /healthz HTTP/1.1\r\n\r\n").await.ends_with("ok\n"), "{ip}");
                    }
                });
            })
            .unwrap();
    }

    #[test]
    fn a_kernel_without_ipv6_is_asked_for_ipv4() {
        let (all, one): (SocketAddr, SocketAddr) = ("[::]:9477".parse().unwrap(), "[::1]:9477".parse().unwrap());
        for errno in [libc::EAFNOSUPPORT, libc::EADDRNOTAVAIL] {
            let e = io::Error::from_raw_os_error(errno);
            assert_eq!(fallback(all, &e), Some("0.0.0.0:9477".parse().unwrap()));
            assert_eq!(fallback(one, &e), None, "somebody means that one");
        }
        assert_eq!(fallback(all, &io::Error::from_raw_os_error(libc::EADDRINUSE)), None);
    }

    #[test]
    fn who_says_too_much_or_nothing_is_cut_off_and_the_next_one_is_served() {
        block_on(async {
            let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(serve(listener, Metrics::default()));
            let silent: Vec<_> = {
                let mut all = Vec::new();
                for _ in 0..AT_ONCE - 1 {
                    all.push(TcpStream::connect(address).await.unwrap());
                }
                all
            };
            let mut much = TcpStream::connect(address).await.unwrap();
            // It may be cut off in the middle of this.
            let _ = much.write_all(&vec![b'x'; 2 * LONGEST]).await;
            assert_eq!(much.read(&mut [0; 16]).await.unwrap_or(0), 0);
            assert!(ask(address, "GET /healthz HTTP/1.1\r\n\r\n").await.ends_with("ok\n"));
            drop(silent);
        });
    }
}
