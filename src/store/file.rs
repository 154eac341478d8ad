//! The few things done with files, each with the path in its error: directories for root alone, files that are whole
//! or not there, removal where "already gone" is success.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::failpoint;
use crate::types::{Code, Failure, Outcome};

/// A failure that names the path and what was tried with it.
pub fn failed(code: Code, act: &str, path: &Path, e: &io::Error) -> Failure {
    Failure::new(code, format!("cannot {act} {}: {e}", path.display()))
}

/// For writing below the run directory: a place that is full or read-only has a code of its own, since there a call
/// gives up before it has changed anything.
pub fn unwritable(act: &str, path: &Path, e: &io::Error) -> Failure {
    if full(e) {
        return failed(Code::JournalUnwritable, act, path, e)
            .remedy("free space on that file system, or mount it writable; the runtime tries again");
    }
    failed(Code::Io, act, path, e)
}

/// No space, no inode, no quota, or mounted read-only.
pub fn full(e: &io::Error) -> bool {
    let errno = e.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::ENOSPC | Errno::EROFS | Errno::EDQUOT))
}

/// Found out by writing: a file system that is full or read-only shows itself in no other way.
pub fn must_be_writable(dir: &Path) -> Outcome<()> {
    let probe = dir.join(format!("status.{}", std::process::id()));
    let written = make_dir(dir).and_then(|()| fs::write(&probe, b"?"));
    // Also what was made and could not be filled.
    let _ = fs::remove_file(&probe);
    written.map_err(|e| {
        Failure::new(Code::NotReady, format!("nothing can be written in {}: {e}", dir.display()))
            .remedy("free space there, or mount it writable")
    })
}

/// A directory for root alone, with its parents.
pub fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file under a temporary name and renames it, so that no reader ever sees a part of it. Not synced. The
/// directory is made if it is not there: it may vanish between the two calls when somebody else empties it.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary(path);
    for _ in 0..100 {
        match write_and_rename(&temporary, path, bytes) {
            Err(e) if e.kind() == ErrorKind::NotFound => match make_dir(parent(path)) {
                // std's word for one that was there and is gone before it looks again.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                made => made?,
            },
            Err(e) => {
                // What there is of it takes space that others need, and is worth nothing.
                let _ = fs::remove_file(&temporary);
                return Err(e);
            }
            Ok(()) => return Ok(()),
        }
    }
    Err(io::Error::other("the directory is removed again and again"))
}

fn write_and_rename(temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(temporary)?;
    file.write_all(bytes)?;
    failpoint::hit("store: temporary file written");
    fs::rename(temporary, path)?;
    failpoint::hit("store: file renamed");
    Ok(())
}

/// As [`write_whole`], and on the disk when it returns. No pod is wired without either the kernel that holds the wire or
/// this file.
pub fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    synced(path, bytes, |temporary| fs::rename(temporary, path)).map(drop)
}

/// The bytes are on the disk when it returns, and the name once another file beside it is synced.
pub fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<()> {
    placed(path, bytes, |temporary| fs::rename(temporary, path))
}

/// As [`write_synced`], but only in the place of a file that is there and that `still` accepts just before: `false` if it
/// is not. Whoever removed it meanwhile does not find it again.
pub fn replace_synced(path: &Path, bytes: &[u8], still: impl FnOnce() -> bool) -> io::Result<bool> {
    let exchanged = synced(path, bytes, |temporary| {
        if !still() {
            return Err(ErrorKind::NotFound.into());
        }
        exchange(temporary, path)
    });
    match exchanged {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        other => other.map(|()| true),
    }
}

/// Writes and syncs the temporary file, puts it in its place by `place`, syncs the directory.
fn synced(path: &Path, bytes: &[u8], place: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    placed(path, bytes, place)?;
    // The rename itself, so that the file is found under its name.
    let directory = File::open(parent(path)).and_then(|dir| dir.sync_all());
    failpoint::hit("store: directory synced");
    directory
}

fn placed(path: &Path, bytes: &[u8], place: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let temporary = temporary(path);
    let open = || OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary);
    let written = match open() {
        Err(e) if e.kind() == ErrorKind::NotFound => make_dir(parent(path)).and_then(|()| open()),
        other => other,
    }
    .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_data()))
    .and_then(|()| {
        failpoint::hit("store: temporary file synced");
        place(&temporary)
    });
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
        return written;
    }
    failpoint::hit("store: file renamed");
    Ok(())
}

/// Fails with "not found" where nothing is at the path, in one step with the rename.
fn exchange(temporary: &Path, path: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RenameFlags::RENAME_EXCHANGE) {
        // What lies under the temporary name now is the old one.
        Ok(()) => fs::remove_file(temporary),
        // A file system that cannot (NFS, ZFS before 2.2): a look and a rename, with microseconds between the two.
        Err(Errno::EINVAL | Errno::ENOSYS) => {
            fs::symlink_metadata(path)?;
            fs::rename(temporary, path)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Ends in `.new`, which no finished file does; the process id keeps two writers apart.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    name.into()
}

pub fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// There is no such file. One whose name is too long there cannot be.
fn is_missing(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename)
}

/// `None` where there is no such file.
pub fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if is_missing(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Removes a file; `false` if it was gone already.
pub fn remove_file(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => {
            failpoint::hit("store: file removed");
            Ok(true)
        }
        Err(e) if is_missing(&e) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The names in a directory; a missing one is empty.
pub fn names(dir: &Path) -> Outcome<Vec<String>> {
    let list = || -> io::Result<Vec<String>> {
        match fs::read_dir(dir) {
            Ok(entries) => entries.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect(),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    };
    list().map_err(|e| failed(Code::Io, "list", dir, &e))
}
