//! A disk in memory that can fail at a step and lose what was not made durable.
// Not every test needs all of it.
#![allow(clippy::unwrap_used, dead_code)]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use millstream_core::disk::{Disk, DiskFile, DiskLock, Syncer};

#[derive(Clone, Debug, Default)]
struct File {
    bytes: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Debug, Default)]
struct Files {
    now: BTreeMap<PathBuf, Arc<Mutex<File>>>,
    durable: BTreeMap<PathBuf, Arc<Mutex<File>>>,
    /// Steps until every one fails.
    left: Option<usize>,
    steps: usize,
}

#[derive(Clone, Debug, Default)]
pub struct MemDisk(Arc<Mutex<Files>>);

impl MemDisk {
    fn step(&self) -> io::Result<()> {
        let mut files = self.0.lock().unwrap();
        files.steps += 1;
        match files.left.as_mut() {
            Some(0) => Err(io::Error::other("the disk fails here")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Fails every step after so many.
    pub fn fail_after(&self, steps: usize) {
        self.0.lock().unwrap().left = Some(steps);
    }

    /// Steps made so far.
    pub fn steps(&self) -> usize {
        self.0.lock().unwrap().steps
    }

    /// The machine loses power and comes back: what was not durable is gone.
    pub fn crash(&self) {
        let mut files = self.0.lock().unwrap();
        files.left = None;
        files.now = files.durable.clone();
        for file in files.now.values() {
            let mut file = file.lock().unwrap();
            file.bytes = file.durable.clone();
        }
    }

    pub fn names(&self) -> Vec<String> {
        let files = self.0.lock().unwrap();
        files.now.keys().map(|p| p.file_name().unwrap().to_str().unwrap().to_string()).collect()
    }

    /// Changes the bytes of a file; `None` removes it.
    pub fn damage(&self, name: &str, change: impl Fn(Vec<u8>) -> Option<Vec<u8>>) {
        let mut files = self.0.lock().unwrap();
        let path = files.now.keys().find(|p| p.ends_with(name)).unwrap().clone();
        let bytes = files.now[&path].lock().unwrap().bytes.clone();
        match change(bytes) {
            Some(bytes) => {
                let file = File { durable: bytes.clone(), bytes };
                files.now.insert(path, Arc::new(Mutex::new(file)));
            }
            None => {
                files.now.remove(&path);
            }
        }
    }

    pub fn bytes(&self) -> usize {
        self.0.lock().unwrap().now.values().map(|f| f.lock().unwrap().bytes.len()).sum()
    }
}

#[derive(Debug)]
struct MemFile(MemDisk, Arc<Mutex<File>>);

#[async_trait]
impl DiskFile for MemFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let whole = self.0.step();
        // A failed write may have written a part.
        let part = if whole.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        self.1.lock().unwrap().bytes.extend_from_slice(part);
        whole
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.0.step()?;
        self.1.lock().unwrap().bytes.truncate(len as usize);
        Ok(())
    }

    fn syncer(&self) -> Box<dyn Syncer> {
        Box::new(MemFile(self.0.clone(), Arc::clone(&self.1)))
    }
}

#[async_trait]
impl Syncer for MemFile {
    async fn sync(self: Box<Self>) -> io::Result<()> {
        self.0.step()?;
        let mut file = self.1.lock().unwrap();
        file.durable = file.bytes.clone();
        Ok(())
    }
}

#[async_trait]
impl Disk for MemDisk {
    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        self.step()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let files = self.0.lock().unwrap();
        Ok(files.now.keys().filter(|p| p.parent() == Some(dir)).map(|p| p.file_name().unwrap().into()).collect())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let files = self.0.lock().unwrap();
        let file = files.now.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(file.lock().unwrap().bytes.clone())
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.step()?;
        let file = Arc::clone(self.0.lock().unwrap().now.entry(path.into()).or_default());
        Ok(Box::new(MemFile(self.clone(), file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        let mut files = self.0.lock().unwrap();
        let file = files.now.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.now.insert(to.into(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        self.0.lock().unwrap().now.remove(path);
        Ok(())
    }

    async fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        self.step()?;
        let mut files = self.0.lock().unwrap();
        files.durable = files.now.clone();
        Ok(())
    }

    fn lock(&self, _path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        Ok(None)
    }
}
