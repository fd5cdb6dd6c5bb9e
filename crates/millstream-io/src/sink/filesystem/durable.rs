//! Steps on a file system that survive a loss of power, and errors that say what to do about them.
//!
//! Never removes or truncates anything by itself.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use millstream_core::{Error, Result};

use crate::failpoint::io_fail_point;

/// Which file a name or a handle stands for, whatever it is called by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl From<&fs::Metadata> for FileId {
    fn from(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Threads that wait for the disk at once: it takes many fsyncs in hardly more time than one. A few are not
/// worth a thread.
const SYNCS_MAX: usize = 16;
const SYNCS_FEW: usize = 4;

/// Makes a file, or the names in a directory, durable.
pub(super) fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|e| failed("make durable", path, e))
}

/// Makes files, and the names in directories, durable.
pub(super) fn sync_each(paths: &BTreeSet<PathBuf>) -> Result<()> {
    let sync_share = |share: &[&PathBuf]| share.iter().try_for_each(|path| sync(path));
    let paths: Vec<_> = paths.iter().collect();
    if paths.len() <= SYNCS_FEW {
        return sync_share(&paths);
    }
    std::thread::scope(|scope| {
        let share = paths.len().div_ceil(SYNCS_MAX);
        let threads: Vec<_> = paths.chunks(share).map(|share| scope.spawn(move || sync_share(share))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(Error::bug("a thread that waits for the disk panicked")))
        })
    })
}

/// Creates a directory and those above it. The directories whose names changed are added to `unsynced`.
pub(super) fn create_dirs(dir: &Path, unsynced: &mut BTreeSet<PathBuf>) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    create_dirs(dir_of(dir), unsynced)?;
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        other => other.map_err(|e| failed("create the directory", dir, e))?,
    }
    unsynced.insert(dir_of(dir).to_path_buf());
    Ok(())
}

/// Puts a file with these bytes in the place of what was there: all of it or nothing, and durably.
pub(super) fn replace(path: &Path, temp: &Path, bytes: &[u8]) -> Result<()> {
    let written = File::create(temp).and_then(|mut file| {
        file.write_all(bytes)?;
        io_fail_point("sink.marker_temp")?;
        file.sync_all()
    });
    written.map_err(|e| failed("write", temp, e))?;
    rename(temp, path)?;
    sync(dir_of(path))
}

/// The directory that holds a name.
pub(super) fn dir_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Moves a file over another one; durable when its directory is synced.
pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| failed("rename into place", to, e))
}

/// Removes a file; answers whether it was there.
pub(super) fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(failed("remove", path, e)),
    }
}

/// The whole file, or `None` where there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", path, e)),
    }
}

/// What the file system said, where, and what to do about it.
pub(super) fn failed(doing: &str, path: &Path, error: io::Error) -> Error {
    let remedy = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room on its disk and start again: the query goes on where it stopped"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "give this user the right to write there, or choose another 'path'"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => "a part of it is a file: choose another 'path'",
        io::ErrorKind::InvalidFilename => "a value of PARTITIONED BY makes the name too long: leave that column out",
        _ => "see to the cause and start again: the query goes on where it stopped",
    };
    Error::sink(format!("cannot {doing} {}: {remedy}", path.display())).caused_by(error)
}
