//! An agent for tests: one that knows one pod.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;

use crate::protocol::{self, Say, Told};
use crate::store::Dirs;

/// Whatever it is asked, this is the answer. `None`: nobody listens any more.
pub fn agent(dirs: &Dirs, told: Option<Told>) {
    std::fs::create_dir_all(&dirs.run).unwrap();
    let listener = UnixListener::bind(protocol::socket(dirs)).unwrap();
    let Some(told) = told else { return };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            for _ in BufReader::new(&stream).lines() {
                (&stream).write_all(&protocol::line(Say::Pod(told.clone()))).unwrap();
            }
        }
    });
}
