//! The contract of durable storage: as much of a file system as the log, the checkpoints and the tests need.
//!
//! What was appended is durable after `sync` of its file; a created, renamed or removed name is durable
//! after `sync_dir` of its directory. Anything else may be there or not after a crash, in any order.

mod real;
pub mod step;

pub use real::RealDisk;

use std::fmt::Debug;
use std::io::{self, Cursor, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

/// A file that is being appended to.
#[async_trait]
pub trait DiskFile: Send + Sync + Debug {
    /// Appends at the end. After an error, any prefix of `bytes` may have been written.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file to this many bytes.
    fn truncate(&mut self, len: u64) -> io::Result<()>;

    /// A handle that makes everything appended so far durable, while appending goes on.
    fn syncer(&self) -> Box<dyn Syncer>;
}

/// A file that is being read, at any place.
pub trait ReadSeek: Read + Seek + Send {}

impl<R: Read + Seek + Send> ReadSeek for R {}

/// Makes what was appended before it was taken durable.
#[async_trait]
pub trait Syncer: Send {
    /// Returns when it is durable. After an error nothing is known of what was appended: stop.
    async fn sync(self: Box<Self>) -> io::Result<()>;
}

/// A lock that is held until it is dropped or its process dies.
pub trait DiskLock: Send + Sync + Debug {}

/// Durable storage: directories of files.
#[async_trait]
pub trait Disk: Send + Sync + Debug {
    /// Creates a directory and those above it.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// The names of the files in a directory (without the directory), sorted; empty where there is no such
    /// directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;

    /// The whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The whole file, to be read in parts: a large one need not lie in memory twice.
    fn reader(&self, path: &Path) -> io::Result<Box<dyn ReadSeek>> {
        Ok(Box::new(Cursor::new(self.read(path)?)))
    }

    /// Opens a file for appending and creates it where it is not there.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Moves a file over another one.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. It is no error where it is not there.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    async fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the lock of this name, or answers `None` where somebody holds it. While it is held, [`Disk::read`]
    /// of the name tells a person who that is.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>>;
}

/// A shared disk.
pub type SharedDisk = Arc<dyn Disk>;
