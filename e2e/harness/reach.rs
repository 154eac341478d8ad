//! Whether one namespace reaches another, by a datagram that is asked for until it comes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::Netns;

/// Sends from one namespace to an address in another; the source that the receiver saw.
#[track_caller]
pub fn reached(from: &Netns, to: &Netns, address: &str) -> IpAddr {
    try_for(from, to, address, Duration::from_secs(5))
        .unwrap_or_else(|| panic!("{} does not reach {address} in {}", from.name(), to.name()))
}

#[track_caller]
pub fn unreached(from: &Netns, to: &Netns, address: &str) {
    let source = try_for(from, to, address, Duration::from_millis(800));
    assert_eq!(source, None, "{} must not reach {address} in {}", from.name(), to.name());
}

fn try_for(from: &Netns, to: &Netns, address: &str, time: Duration) -> Option<IpAddr> {
    let address: IpAddr = address.parse().unwrap();
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let bind = move || UdpSocket::bind(SocketAddr::new(any, 0)).unwrap();
    let (server, client) = (to.inside(bind), from.inside(bind));
    server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let target = SocketAddr::new(address, server.local_addr().unwrap().port());
    let start = Instant::now();
    while start.elapsed() < time {
        // Without a route it fails at once; the route may come (a tentative address, a port that learns).
        let _ = client.send_to(b"hello", target);
        if let Ok((_, source)) = server.recv_from(&mut [0; 16]) {
            return Some(source.ip());
        }
    }
    None
}
