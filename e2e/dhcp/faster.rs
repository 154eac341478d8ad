//! An ADD on a bridge whose first question is lost, beside the reference plugin in the same run. A port that does not
//! forward yet loses it, as a rule; here the server comes when it has passed, so that it is lost for both. The
//! reference asks again after ten seconds. (Where nothing is lost the reference is the faster one: it does not ask
//! whether somebody has the address.)

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{Lends, Program, Server};
use crate::harness::{Kind, Lab, Netns, Seen, Sniffer, eventually};

/// What the issue asks for.
const AT_LEAST: f64 = 5.0;
/// IPv4 and UDP to a DHCP server's port.
fn is_question(seen: &Seen) -> bool {
    seen.bytes.get(12..14) == Some(&[8, 0])
        && seen.bytes.get(23) == Some(&17)
        && seen.bytes.get(36..38) == Some(&[0, 67])
}

fn add(lab: &Lab, kind: Kind, pod: &Netns, socket: &str) -> Duration {
    let conf = json!({"cniVersion": "1.0.0", "name": "lan", "type": "bridge", "bridge": "br-lan",
                      "ipam": {"type": "dhcp", "daemonSocketPath": socket}});
    let mut call = lab.call(kind, conf).pod(pod);
    let start = Instant::now();
    call.add();
    let took = start.elapsed();
    call.del();
    took
}

#[test]
fn than_the_reference() {
    let (lab, lan) = Lab::with_lan();
    let socket = lab.file("dhcp.sock");
    let mut daemon = Command::new(Kind::Reference.dir().join("dhcp"));
    daemon.args(["daemon", "-socketpath", &socket]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut daemon = lab.node.inside(move || daemon.spawn().unwrap());
    eventually("the reference's daemon is ready", || std::path::Path::new(&socket).exists());
    let took = |kind| {
        // On the node, which sees it also where its port does not let it on.
        let (pod, sniffer) = (lab.pod(), Sniffer::new(&lab.node));
        thread::scope(|scope| {
            let server = scope.spawn(|| {
                eventually("the first question", || sniffer.listen(Duration::from_millis(10)).iter().any(is_question));
                Server::of(Program::Dnsmasq, &lab, &lan, &Lends::default())
            });
            let took = add(&lab, kind, &pod, &socket);
            server.join().unwrap();
            took
        })
    };
    let (reference, ours) = (took(Kind::Reference), took(Kind::Trestle));
    let _ = daemon.kill();
    let _ = daemon.wait();
    let ratio = reference.as_secs_f64() / ours.as_secs_f64();
    eprintln!(
        "ADD with DHCP on a bridge, first question lost: reference {reference:?}, ours {ours:?}, {ratio:.1} times"
    );
    assert!(ratio >= AT_LEAST, "the reference takes only {ratio:.1} times as long");
}
