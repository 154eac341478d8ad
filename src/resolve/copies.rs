//! Copies of NADs on disk: whoever reads one from the API server writes its copy.
//!
//! They are good without asking while the agent vouches for them: it watches NADs, keeps the copies true, and touches
//! its stamp. Without it a copy is only what was true once.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::nad::Nad;
use crate::store::{Dirs, read_file, remove_file, write_whole};
use crate::types::{Code, Outcome};

/// How long the agent's word holds.
const VOUCHED: Duration = Duration::from_secs(30);
/// Of the file's form. What an older program cannot read is as good as not there.
const VERSION: u32 = 1;

pub struct Copies<'a> {
    dirs: &'a Dirs,
}

/// A copy, and when it was made.
pub struct Copy {
    pub nad: Nad,
    pub age: Duration,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    nad: Nad,
}

impl<'a> Copies<'a> {
    pub fn new(dirs: &'a Dirs) -> Self {
        Self { dirs }
    }

    /// The stamp was touched less than 30 s ago and since this boot. A boot id in it must be this boot's: a run
    /// directory on a disk outlives one, and a clock without a battery starts in the past.
    pub fn vouched(&self) -> bool {
        let path = self.dirs.run.join("alive");
        let touched = std::fs::metadata(&path).and_then(|m| m.modified()).ok();
        // A stamp of the future is a clock that was set back: it says nothing.
        let Some(age) = touched.and_then(|t| SystemTime::now().duration_since(t).ok()) else { return false };
        if age >= VOUCHED || age >= Duration::from_nanos(self.dirs.now()) {
            return false;
        }
        let Ok(Some(text)) = read_file(&path) else { return false };
        let boot = String::from_utf8_lossy(&text).trim().to_owned();
        boot.is_empty() || self.dirs.boot_id().is_ok_and(|now| now == boot)
    }

    /// What cannot be read is not there.
    pub fn read(&self, namespace: &str, name: &str) -> Option<Copy> {
        let path = self.path(namespace, name)?;
        let bytes = read_file(&path).ok()??;
        let file: File = serde_json::from_slice(&bytes).ok()?;
        let same = file.version == VERSION && file.nad.namespace == namespace && file.nad.name == name;
        let made = std::fs::metadata(&path).and_then(|m| m.modified()).ok()?;
        let age = SystemTime::now().duration_since(made).unwrap_or_default();
        same.then_some(Copy { nad: file.nad, age })
    }

    /// A copy that cannot be written is a request more for the next pod, and no failure of this one. `false`: it was not.
    pub fn write(&self, nad: &Nad) -> bool {
        let Some(path) = self.path(&nad.namespace, &nad.name) else { return true };
        let written = serde_json::to_vec(&File { version: VERSION, nad: nad.clone() })
            .map_err(Into::into)
            .and_then(|bytes| write_whole(&path, &bytes));
        if let Err(e) = &written {
            tracing::warn!(path = %path.display(), error = %e, "the copy of the network cannot be written");
        }
        written.is_ok()
    }

    /// The API server says that there is no such NAD. `false`: it is there still.
    pub fn forget(&self, namespace: &str, name: &str) -> bool {
        let Some(path) = self.path(namespace, name) else { return true };
        let removed = remove_file(&path);
        if let Err(e) = &removed {
            tracing::warn!(path = %path.display(), error = %e, "the copy of a network that is gone cannot be removed");
        }
        removed.is_ok()
    }

    /// Namespace and name of each copy there is, readable or not.
    pub fn names(&self) -> Vec<(String, String)> {
        let list = |dir: &std::path::Path| -> Vec<String> {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries.filter_map(|e| e.file_name().into_string().ok()).collect()
        };
        let root = self.dirs.state.join("nads");
        let of = |namespace: String| {
            let names = list(&root.join(&namespace));
            let names = names.into_iter().filter_map(|n| n.strip_suffix(".json").map(str::to_owned));
            names.map(move |name| (namespace.clone(), name)).collect::<Vec<_>>()
        };
        list(&root).into_iter().flat_map(of).collect()
    }

    /// The agent's word that all copies are true, as of now.
    pub fn vouch(&self) -> Outcome<()> {
        let path = self.dirs.run.join("alive");
        let boot = self.dirs.boot_id()?;
        write_whole(&path, boot.as_bytes()).map_err(|e| crate::store::failed(Code::Io, "write", &path, &e))
    }

    /// Nothing is vouched for any more, at once. What cannot be taken back ends by itself.
    pub fn withdraw(&self) {
        if let Err(failure) = remove_file(&self.dirs.run.join("alive")) {
            tracing::warn!(%failure, "the copies of networks count as true for some seconds more");
        }
    }

    /// Names come from a pod's annotation: none of them may lead elsewhere.
    fn path(&self, namespace: &str, name: &str) -> Option<PathBuf> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        let safe = |s: &str| !s.is_empty() && s.len() <= 253 && s.bytes().all(plain) && !s.starts_with('.');
        // Longer than a file name (255 bytes) together with what follows it: kept by nobody.
        let fits = name.len() <= 200;
        (safe(namespace) && safe(name) && fits)
            .then(|| self.dirs.state.join("nads").join(namespace).join(format!("{name}.json")))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File as OnDisk, FileTimes};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    pub fn nad(config: &str) -> Nad {
        Nad {
            namespace: "prod".into(),
            name: "lan".into(),
            config: config.into(),
            resource: None,
            resource_version: "7".into(),
        }
    }

    fn stamp(dirs: &Dirs, text: &str, age: i64) {
        fs::create_dir_all(&dirs.run).unwrap();
        fs::write(dirs.run.join("alive"), text).unwrap();
        set_age(&dirs.run.join("alive"), age);
    }

    fn set_age(path: &Path, seconds: i64) {
        let now = SystemTime::now();
        let change = Duration::from_secs(seconds.unsigned_abs());
        let time = if seconds < 0 { now + change } else { now - change };
        OnDisk::options().write(true).open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
    }

    fn dirs(tmp: &tempfile::TempDir) -> Dirs {
        let up = Duration::from_secs(20).as_nanos();
        Dirs::new(tmp.path().join("run"), tmp.path().join("state"))
            .with_boot("b1")
            .with_clock(u64::try_from(up).unwrap())
    }

    #[test]
    fn the_stamp_vouches_for_half_a_minute_of_this_boot() {
        let tmp = tempfile::tempdir().unwrap();
        let young = dirs(&tmp);
        assert!(!Copies::new(&young).vouched(), "no stamp");
        let old = young.clone().with_clock(u64::MAX);
        for (text, age, up_20s, up_long) in [
            ("b1", 0, true, true),
            ("b1\n", 19, true, true),
            ("", 5, true, true),
            ("b1", 25, false, true),
            ("b1", 31, false, false),
            ("b1", -20, false, false),
            ("b0", 1, false, false),
        ] {
            stamp(&young, text, age);
            let got = (Copies::new(&young).vouched(), Copies::new(&old).vouched());
            assert_eq!(got, (up_20s, up_long), "{text:?} {age} s old");
        }
    }

    #[test]
    fn a_copy_is_written_for_root_alone_and_read_again() {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = dirs(&tmp);
        let copies = Copies::new(&dirs);
        assert!(copies.read("prod", "lan").is_none());
        copies.write(&nad("one"));
        copies.write(&nad("two"));
        let path = dirs.state.join("nads/prod/lan.json");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
        set_age(&path, 90);
        let copy = copies.read("prod", "lan").unwrap();
        assert_eq!(copy.nad, nad("two"));
        assert!((90..95).contains(&copy.age.as_secs()));
        copies.forget("prod", "lan");
        copies.forget("prod", "lan");
        assert!(copies.read("prod", "lan").is_none());
    }

    #[test]
    fn what_is_torn_newer_or_anothers_is_not_there() {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = dirs(&tmp);
        let copies = Copies::new(&dirs);
        copies.write(&nad("x"));
        let path = dirs.state.join("nads/prod/lan.json");
        let good = fs::read_to_string(&path).unwrap();
        for bad in [&good[..20], "", &good.replace(":1,", ":2,"), &good.replace("lan", "other")] {
            fs::write(&path, bad).unwrap();
            assert!(copies.read("prod", "lan").is_none(), "{bad}");
        }
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        let tmp = tempfile::tempdir().unwrap();
        let dirs = dirs(&tmp);
        let copies = Copies::new(&dirs);
        let long = "n".repeat(201);
        for (ns, name) in [("..", "x"), ("a", "../x"), ("a/b", "x"), ("", "x"), ("a", ""), ("A", "x"), ("a", &long)] {
            assert!(copies.path(ns, name).is_none(), "{ns} {name}");
            copies.write(&Nad { namespace: ns.into(), name: name.into(), ..nad("x") });
            assert!(copies.read(ns, name).is_none());
        }
        assert!(!dirs.state.exists());
    }
}
