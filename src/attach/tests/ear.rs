//! Where a test hears frames, and says some: a tap on the bridge, or a guest's.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Node;
use crate::net::tap;
use crate::net::testing::frame;
use crate::plan::hex;
use crate::types::IfName;

/// A port of the bridge where a test hears what is flooded, but for what the bridge itself says.
pub struct Ear {
    tap: File,
    deaf_to: String,
}

impl Ear {
    pub fn on(node: &Node) -> Self {
        let name = "ear0".parse().unwrap();
        node.run(|| tap::create_tap(&name, false, 0, 0).unwrap());
        let tap = node.run(|| open(&name));
        node.sh("ip link set ear0 master br0 up");
        // Host ends of ours never give it another one.
        let bridge = node.link("br0").mac.unwrap();
        Self { tap: tap.into(), deaf_to: hex(&bridge.bytes()) }
    }

    /// A tap's own end.
    pub fn of(tap: OwnedFd) -> Self {
        Self { tap: tap.into(), deaf_to: String::new() }
    }

    /// The first frame within this time, as hexadecimal digits.
    pub fn hears(&mut self, wait: Duration) -> Option<String> {
        let (end, mut frame) = (Instant::now() + wait, [0; 2048]);
        loop {
            let left = PollTimeout::try_from(end.saturating_duration_since(Instant::now())).unwrap();
            let mut ready = [PollFd::new(self.tap.as_fd(), PollFlags::POLLIN)];
            // A thread that ends may interrupt it.
            match poll(&mut ready, left) {
                Err(Errno::EINTR) => {}
                done if done.unwrap() == 0 => return None,
                _ => {
                    let len = self.tap.read(&mut frame).unwrap();
                    let frame = hex(&frame[..len]);
                    if frame[12..24] != self.deaf_to {
                        return Some(frame);
                    }
                }
            }
        }
    }
}

/// A child of another test that is about to start its program holds all descriptors for a moment, and a tap has one
/// reader.
pub fn open(name: &IfName) -> OwnedFd {
    loop {
        match tap::open_tap(name) {
            Err(e) if e.is(Errno::EBUSY) => std::thread::sleep(Duration::from_millis(1)),
            opened => return opened.unwrap(),
        }
    }
}

/// Whether a frame with this text is heard. It is said again and again: a tap that is opened has its carrier at once,
/// but sends only a moment later.
pub fn crosses(voice: &mut Ear, ear: &mut Ear, text: &str) -> bool {
    let frame = frame(text);
    (0..50).any(|_| {
        voice.tap.write_all(&frame).unwrap();
        std::iter::from_fn(|| ear.hears(Duration::from_millis(100))).any(|heard| heard == hex(&frame))
    })
}
