//! Where a CNI call's words go: standard error, and a file that the node's owner can find.
//!
//! `/var/log/trestle.log`, two files of 10 MiB, level info if `node.json` says no other; beside the state where that
//! was moved. Standard output belongs to the protocol. A word that cannot be written is lost: a full disk must not fail
//! a pod, nor a runtime that closed our standard error. A subscriber of its own and not tracing-subscriber's registry:
//! that one's tables cost a call that says nothing as much as a netlink request does.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::fcntl::{Flock, FlockArg};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::store::{Dirs, make_dir};

const LIMIT: u64 = 10 * 1024 * 1024;

/// What a configuration says of the log, over `node.json` and the usual place.
#[derive(Debug, Default, PartialEq)]
pub struct Wishes {
    pub file: Option<PathBuf>,
    pub level: Option<&'static str>,
    /// Nothing on standard error.
    pub silent: bool,
    /// Bytes at which a file is full.
    pub limit: Option<u64>,
}

/// One call: its span's fields stand before each of its words.
struct Log {
    path: PathBuf,
    level: Level,
    silent: bool,
    limit: u64,
    call: Mutex<String>,
}

/// In force until the guard is dropped. `level`: `logLevel` of `node.json`.
pub fn start(dirs: &Dirs, level: Option<&str>, wishes: Wishes) -> DefaultGuard {
    let level = wishes.level.or(level).and_then(|l| l.parse().ok()).unwrap_or(Level::INFO);
    let path = wishes.file.unwrap_or_else(|| log_file(dirs));
    let (silent, limit) = (wishes.silent, wishes.limit.unwrap_or(LIMIT));
    tracing::subscriber::set_default(Log { path, level, silent, limit, call: Mutex::new(String::new()) })
}

fn log_file(dirs: &Dirs) -> PathBuf {
    if dirs.state == Path::new("/var/lib/trestle") {
        "/var/log/trestle.log".into()
    } else {
        dirs.state.join("trestle.log")
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        if let Ok(mut call) = self.call.lock() {
            span.record(&mut Text(&mut call));
        }
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = String::new();
        let _ = SystemTime.format_time(&mut Writer::new(&mut line));
        let _ = write!(line, " {}", event.metadata().level());
        if let Ok(call) = self.call.lock() {
            line.push_str(&call);
        }
        event.record(&mut Text(&mut line));
        // What another plugin said may have several lines, and only the first would tell whose it is.
        let mut line = line.replace(char::is_control, " ");
        line.push('\n');
        // One write to a file that is open for appending: lines of calls at the same time do not mix.
        let _ = open(&self.path, self.limit).and_then(|mut file| file.write_all(line.as_bytes()));
        if !self.silent {
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The file to write to; a full one is put aside before.
fn open(path: &Path, limit: u64) -> io::Result<File> {
    let append = || OpenOptions::new().create(true).append(true).mode(0o640).open(path);
    let file = match append() {
        // The first word on a node, with a state that was moved.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), make_dir)?;
            append()?
        }
        opened => opened?,
    };
    if file.metadata()?.len() < limit {
        return Ok(file);
    }
    // Of several processes that find it full one renames it. A second rename would put the new file in the place of
    // the old one, and what that says would be lost.
    let Ok(full) = Flock::lock(file, FlockArg::LockExclusive) else { return append() };
    if path.metadata().is_ok_and(|there| full.metadata().is_ok_and(|mine| mine.ino() == there.ino())) {
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    append()
}

/// ` key=value` for each field; the message without its key.
struct Text<'a>(&'a mut String);

impl Visit for Text<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(dirs: &Dirs) -> String {
        std::fs::read_to_string(log_file(dirs)).unwrap()
    }

    #[test]
    fn a_line_has_time_level_call_and_words() {
        let tmp = tempfile::tempdir().unwrap();
        // The directory is made with the first word.
        let dirs = Dirs::new("/nonexistent", tmp.path().join("state"));
        let guard = start(&dirs, None, Wishes::default());
        assert!(!dirs.state.exists(), "nothing to say");
        tracing::info_span!("cni", verb = %"ADD", container = "c1").in_scope(|| {
            tracing::warn!(bridge = %"br-lan", mtu = 1500, "no uplink");
            tracing::debug!("not written");
            tracing::error!(failure = %"plugin x:\n\u{1b}[31mlines", "failed");
        });
        drop(guard);
        let text = text(&dirs);
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
        let (first, second) = rest.split_once('\n').unwrap();
        assert_eq!(first, "WARN verb=ADD container=c1 no uplink bridge=br-lan mtu=1500");
        assert!(second.ends_with(" ERROR verb=ADD container=c1 failed failure=plugin x:  [31mlines\n"), "{second:?}");
    }

    #[test]
    fn the_file_is_beside_a_state_that_was_moved() {
        assert_eq!(log_file(&Dirs::new("/run/trestle", "/var/lib/trestle")), Path::new("/var/log/trestle.log"));
        assert_eq!(log_file(&Dirs::new("/run/trestle", "/srv/t")), Path::new("/srv/t/trestle.log"));
    }

    #[test]
    fn the_level_is_the_nodes() {
        let tmp = tempfile::tempdir().unwrap();
        for (level, lines) in [(Some("error"), 1), (Some("debug"), 3), (Some("nonsense"), 2), (None, 2)] {
            let dirs = Dirs::new("/nonexistent", tmp.path().join(level.unwrap_or("none")));
            let guard = start(&dirs, level, Wishes::default());
            tracing::error!("1");
            tracing::info!("2");
            tracing::debug!("3");
            drop(guard);
            assert_eq!(text(&dirs).lines().count(), lines, "{level:?}");
        }
    }

    #[test]
    fn a_place_that_cannot_be_written_fails_nothing() {
        let guard = start(&Dirs::new("/nonexistent", "/proc/nonexistent"), None, Wishes::default());
        tracing::error!("lost");
        drop(guard);
    }

    #[test]
    fn a_full_file_makes_room() {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = Dirs::new("/nonexistent", tmp.path());
        File::create(log_file(&dirs)).unwrap().set_len(LIMIT).unwrap();
        let guard = start(&dirs, None, Wishes::default());
        tracing::error!("first");
        tracing::error!("second");
        drop(guard);
        assert_eq!(std::fs::metadata(tmp.path().join("trestle.log.1")).unwrap().len(), LIMIT);
        assert_eq!(text(&dirs).lines().count(), 2);
    }

    /// Eight processes at once; a lost file would be lines that are nowhere.
    #[test]
    fn one_of_many_puts_the_full_file_aside() {
        let tmp = tempfile::tempdir().unwrap();
        let (path, aside) = (tmp.path().join("trestle.log"), tmp.path().join("trestle.log.1"));
        for round in 0..50 {
            std::fs::write(&path, format!("round {round}\n{}", "x".repeat(100))).unwrap();
            let barrier = std::sync::Barrier::new(8);
            std::thread::scope(|s| {
                for _ in 0..8 {
                    s.spawn(|| {
                        barrier.wait();
                        open(&path, 100).unwrap().write_all(b"1\n").unwrap();
                    });
                }
            });
            let all = std::fs::read_to_string(&path).unwrap() + &std::fs::read_to_string(&aside).unwrap();
            assert!(all.contains(&format!("round {round}\n")), "{all:?}");
        }
    }
}
