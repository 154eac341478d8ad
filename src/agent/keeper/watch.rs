//! Which files in a directory have changed, or in the directories in it, by inotify. Events are a shortcut: whoever
//! uses this looks at everything from time to time, as a directory may be replaced, events be lost, or inotify not be
//! had at all.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::PathBuf;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::unix::AsyncFd;

const WHAT: AddWatchFlags = AddWatchFlags::IN_MOVED_TO
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// nix' own lends its descriptor in one form, and tokio wants it in the other.
struct Events(Inotify);

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

pub struct Watch {
    folder: PathBuf,
    events: Option<AsyncFd<Events>>,
    watched: Option<WatchDescriptor>,
    /// Of a tree: the directories in it, by name.
    inner: Option<HashMap<WatchDescriptor, String>>,
}

/// What one event says.
enum Word {
    Changed(String),
    Anything,
    Nothing,
}

impl Watch {
    pub fn new(folder: PathBuf) -> Self {
        let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
        #[expect(deprecated, reason = "sound here: an Inotify owns its descriptor, and never gives another one")]
        let registered = |inotify| AsyncFd::new(Events(inotify));
        let events = Inotify::init(flags).map_err(Into::into).and_then(registered);
        if let Err(failure) = &events {
            tracing::warn!(%failure, "no inotify: what is new is seen somewhat later");
        }
        Self { folder, events: events.ok(), watched: None, inner: None }
    }

    /// Also of the directories in it. What has changed then is named by its directory, and that itself is not seen until
    /// [`Watch::renew`].
    pub fn of_tree(folder: PathBuf) -> Self {
        Self { inner: Some(HashMap::new()), ..Self::new(folder) }
    }

    /// Of the directories that are at the paths now. One that is watched already stays so.
    pub fn renew(&mut self) {
        let Some(events) = &self.events else { return };
        let what = if self.inner.is_some() { WHAT | AddWatchFlags::IN_CREATE } else { WHAT };
        let now = events.get_ref().0.add_watch(&self.folder, what).ok();
        if let Some(before) = self.watched
            && now != Some(before)
        {
            // Gone with its directory, unless that was moved.
            let _ = events.get_ref().0.rm_watch(before);
        }
        self.watched = now;
        if let Some(inner) = &mut self.inner {
            let there = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
            // A file among them is refused (IN_ONLYDIR), and one that is watched keeps its number.
            let watch = |entry: std::fs::DirEntry| {
                let number = events.get_ref().0.add_watch(&entry.path(), WHAT).ok()?;
                Some((number, entry.file_name().into_string().ok()?))
            };
            *inner = there.filter_map(watch).collect();
        }
    }

    /// Names that have changed; None: anything may have. Safe to be dropped while it waits.
    pub async fn changed(&self) -> Option<Vec<String>> {
        let Some(events) = &self.events else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = events.readable().await else { return std::future::pending().await };
            let Ok(read) = ready.try_io(|fd| Ok(fd.get_ref().0.read_events()?)) else { continue };
            let mut names = BTreeSet::new();
            for event in read.ok()? {
                match self.word(event) {
                    Word::Changed(name) => drop(names.insert(name)),
                    Word::Anything => return None,
                    Word::Nothing => {}
                }
            }
            if !names.is_empty() {
                return Some(names.into_iter().collect());
            }
        }
    }

    fn word(&self, event: InotifyEvent) -> Word {
        let inner = self.inner.as_ref().and_then(|inner| inner.get(&event.wd));
        let Some(name) = event.name else { return inner.map_or(Word::Anything, |name| Word::Changed(name.clone())) };
        let Ok(name) = name.into_string() else { return Word::Nothing };
        let record = name.ends_with(".json");
        match inner {
            Some(directory) if record => Word::Changed(directory.clone()),
            None if record || self.inner.is_some() => Word::Changed(name),
            _ => Word::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn names_of_what_changed() {
        let tmp = tempfile::tempdir().unwrap();
        let folder = tmp.path().join("leases");
        let mut watch = Watch::new(folder.clone());
        watch.renew();
        let soon = Duration::from_secs(20);
        std::fs::create_dir(&folder).unwrap();
        for _ in 0..2 {
            watch.renew();
            std::fs::write(folder.join("a.json.1.new"), "").unwrap();
            std::fs::rename(folder.join("a.json.1.new"), folder.join("a.json")).unwrap();
            let names = tokio::time::timeout(soon, watch.changed()).await.unwrap();
            assert_eq!(names, Some(vec!["a.json".into()]));
            std::fs::remove_dir_all(&folder).unwrap();
            while tokio::time::timeout(soon, watch.changed()).await.unwrap().is_some() {}
            std::fs::create_dir(&folder).unwrap();
        }
    }

    /// As the journal is written: a directory for each container, which comes and goes with its files.
    #[tokio::test]
    async fn names_of_directories_in_which_something_changed() {
        let tmp = tempfile::tempdir().unwrap();
        let folder = tmp.path().join("journal");
        std::fs::create_dir(&folder).unwrap();
        let mut watch = Watch::of_tree(folder.clone());
        watch.renew();
        let soon = Duration::from_secs(20);
        let one = |name: &str| Some(vec![name.to_owned()]);
        for _ in 0..2 {
            std::fs::create_dir(folder.join("c1")).unwrap();
            assert_eq!(tokio::time::timeout(soon, watch.changed()).await.unwrap(), one("c1"));
            watch.renew();
            watch.renew();
            for act in ["written", "removed"] {
                let file = folder.join("c1/net1.bind.json");
                match act {
                    "written" => {
                        std::fs::write(folder.join("c1/net1.bind.json.1.new"), "").unwrap();
                        std::fs::rename(folder.join("c1/net1.bind.json.1.new"), file).unwrap();
                    }
                    _ => std::fs::remove_file(file).unwrap(),
                }
                assert_eq!(tokio::time::timeout(soon, watch.changed()).await.unwrap(), one("c1"), "{act}");
            }
            std::fs::remove_dir(folder.join("c1")).unwrap();
            assert_eq!(tokio::time::timeout(soon, watch.changed()).await.unwrap(), one("c1"), "the directory");
            watch.renew();
            // Whatever is still said of it.
            while tokio::time::timeout(Duration::from_millis(50), watch.changed()).await.is_ok() {}
        }
    }
}
