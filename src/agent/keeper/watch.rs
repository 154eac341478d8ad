//! Which files in a directory have changed, by inotify. Events are a shortcut: whoever uses this looks at everything from
//! time to time, as a directory may be replaced, events be lost, or inotify not be had at all.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::PathBuf;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
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
}

impl Watch {
    pub fn new(folder: PathBuf) -> Self {
        let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
        #[expect(deprecated, reason = "sound here: an Inotify owns its descriptor, and never gives another one")]
        let registered = |inotify| AsyncFd::new(Events(inotify));
        let events = Inotify::init(flags).map_err(Into::into).and_then(registered);
        if let Err(failure) = &events {
            tracing::warn!(%failure, "no inotify: new leases are seen somewhat later");
        }
        Self { folder, events: events.ok(), watched: None }
    }

    /// Of the directory that is at the path now. One that is watched already stays so.
    pub fn renew(&mut self) {
        let Some(events) = &self.events else { return };
        let now = events.get_ref().0.add_watch(&self.folder, WHAT).ok();
        if let Some(before) = self.watched
            && now != Some(before)
        {
            // Gone with its directory, unless that was moved.
            let _ = events.get_ref().0.rm_watch(before);
        }
        self.watched = now;
    }

    /// Names that have changed; None: anything may have. Safe to be dropped while it waits.
    pub async fn changed(&self) -> Option<Vec<String>> {
        let Some(events) = &self.events else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = events.readable().await else { return std::future::pending().await };
            let Ok(read) = ready.try_io(|fd| Ok(fd.get_ref().0.read_events()?)) else { continue };
            let all = read.ok()?;
            if all.iter().any(|e| e.name.is_none()) {
                return None;
            }
            let mut names: Vec<String> =
                all.into_iter().filter_map(|e| e.name?.into_string().ok()).filter(|n| n.ends_with(".json")).collect();
            names.sort();
            names.dedup();
            if !names.is_empty() {
                return Some(names);
            }
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
}
