//! A disk in memory: what outlives the processes of a test, without the price of an fsync.
//!
//! Everything that is written stays: a process that dies loses nothing here. What a disk may lose is simulated by the
//! tests of the protocol.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use millstream::core::disk::{Disk, DiskFile, DiskLock, Syncer};

type Bytes = Arc<Mutex<Vec<u8>>>;

/// Files in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<Files>>);

#[derive(Debug, Default)]
struct Files {
    names: BTreeMap<PathBuf, Bytes>,
    locks: BTreeSet<PathBuf>,
}

impl MemoryDisk {
    fn files(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap()
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotFound.into()
}

#[async_trait]
impl Disk for MemoryDisk {
    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let files = self.files();
        let names = files.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.filter_map(|path| path.file_name()).map(PathBuf::from).collect())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.files().names.get(path).cloned().ok_or_else(gone)?;
        let bytes = file.lock().unwrap().clone();
        Ok(bytes)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File(Arc::clone(self.files().names.entry(path.to_path_buf()).or_default()))))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.files();
        let file = files.names.remove(from).ok_or_else(gone)?;
        files.names.insert(to.to_path_buf(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.files().names.remove(path);
        Ok(())
    }

    async fn sync_dir(&self, _: &Path) -> io::Result<()> {
        at_once().await
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        let is_new = self.files().locks.insert(path.to_path_buf());
        Ok(is_new.then(|| Box::new(Lock(self.clone(), path.to_path_buf())) as Box<dyn DiskLock>))
    }
}

/// A place where a process can die on either side.
async fn at_once() -> io::Result<()> {
    tokio::task::yield_now().await;
    Ok(())
}

#[derive(Debug)]
struct File(Bytes);

#[async_trait]
impl DiskFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().truncate(len as usize);
        Ok(())
    }

    fn syncer(&self) -> Box<dyn Syncer> {
        Box::new(Synced)
    }
}

struct Synced;

#[async_trait]
impl Syncer for Synced {
    async fn sync(self: Box<Self>) -> io::Result<()> {
        at_once().await
    }
}

#[derive(Debug)]
struct Lock(MemoryDisk, PathBuf);

impl DiskLock for Lock {}

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.files().locks.remove(&self.1);
    }
}
