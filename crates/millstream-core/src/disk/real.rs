//! The machine's own file system.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::step::{counted, step};
use super::{Disk, DiskFile, DiskLock, ReadSeek, Syncer};

/// The machine's own file system. Syncing needs a tokio runtime: it runs on its blocking threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

#[derive(Debug)]
struct RealFile(Arc<File>);

#[async_trait]
impl DiskFile for RealFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        step()?;
        let mut file = &*self.0;
        if !counted() {
            return file.write_all(bytes);
        }
        // A test that kills at steps also kills in the middle of a write.
        let (half, rest) = bytes.split_at(bytes.len() / 2);
        file.write_all(half)?;
        step()?;
        file.write_all(rest)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        // A full disk lets a file be cut.
        let _ = step();
        self.0.set_len(len)
    }

    fn syncer(&self) -> Box<dyn Syncer> {
        Box::new(RealSyncer(self.0.clone()))
    }
}

struct RealSyncer(Arc<File>);

#[async_trait]
impl Syncer for RealSyncer {
    async fn sync(self: Box<Self>) -> io::Result<()> {
        step()?;
        blocking(move || self.0.sync_data()).await
    }
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[derive(Debug)]
struct RealLock(#[expect(dead_code, reason = "the lock is held as long as the file is open")] File);

impl DiskLock for RealLock {}

impl RealDisk {
    /// Whether somebody holds the lock of this name. Nothing is written.
    pub fn is_locked(path: &Path) -> bool {
        let held = |file: File| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
        File::open(path).is_ok_and(held)
    }
}

#[async_trait]
impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        step()?;
        std::fs::create_dir_all(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let entries = match std::fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                names.push(PathBuf::from(entry.file_name()));
            }
        }
        names.sort();
        Ok(names)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn reader(&self, path: &Path) -> io::Result<Box<dyn ReadSeek>> {
        Ok(Box::new(std::fs::File::open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        step()?;
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Box::new(RealFile(Arc::new(file))))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        step()?;
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        // A full disk lets a file be removed.
        let _ = step();
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        step()?;
        let dir = if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir.to_path_buf() };
        blocking(move || File::open(dir)?.sync_all()).await
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
            Ok(()) => {}
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        file.set_len(0)?;
        writeln!(file, "process {} on {}", std::process::id(), host.trim())?;
        Ok(Some(Box::new(RealLock(file))))
    }
}
