//! A disk that keeps no more than it promised.
//!
//! What was not synced may be lost when the power fails, each write by itself: an earlier one may be gone and a later
//! one there, with zeros between, and any of them may be torn. A name that was not made durable may be lost too. When
//! only the process dies, everything that it wrote stays.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use millstream_core::disk::{Disk, DiskFile, DiskLock, Syncer};

use super::world::{Fate, Process};

/// What outlives the processes that use a [`SimDisk`].
#[derive(Clone, Debug, Default)]
pub struct Platter(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    name_changes: Vec<(PathBuf, Option<usize>)>,
    /// Who holds a lock, by generation.
    locks: BTreeMap<PathBuf, u64>,
    locks_broken: bool,
}

#[derive(Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// Where the writes since the last sync begin and end.
    unsynced: Vec<(usize, usize)>,
}

impl Platter {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everybody gets every lock, as on a network file system that doesn't know them.
    pub fn break_locks(&self) {
        self.inner().locks_broken = true;
    }

    /// The power fails: what is not durable may be lost.
    pub fn lose_power(&self, process: &Process) {
        let inner = &mut *self.inner();
        let changes = std::mem::take(&mut inner.name_changes);
        for (path, inode) in changes.into_iter().filter(|_| process.chance(500)) {
            apply(&mut inner.durable_names, path, inode);
        }
        inner.names = inner.durable_names.clone();
        for inode in &mut inner.inodes {
            let mut survived = std::mem::take(&mut inode.durable);
            for (start, end) in std::mem::take(&mut inode.unsynced) {
                let kept = match process.below(3) {
                    0 => continue,
                    1 => end,
                    _ => start + process.below((end - start) as u64 + 1) as usize,
                };
                if survived.len() < start {
                    survived.resize(start, 0);
                }
                survived.truncate(start);
                survived.extend_from_slice(inode.bytes.get(start..kept).unwrap_or_default());
            }
            inode.durable = survived.clone();
            inode.bytes = survived;
        }
    }

    /// One bit of one file is not what was written. Answers which.
    pub fn flip_a_bit(&self, process: &Process) -> Option<(PathBuf, u64)> {
        let inner = &mut *self.inner();
        let files: Vec<_> = inner.names.iter().map(|(path, inode)| (path.clone(), *inode)).collect();
        let (path, inode) = files.get(process.below(files.len() as u64) as usize)?.clone();
        let inode = inner.inodes.get_mut(inode)?;
        let bit = process.below(inode.bytes.len() as u64 * 8);
        let at = (bit / 8) as usize;
        for bytes in [&mut inode.bytes, &mut inode.durable] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (bit % 8);
            }
        }
        Some((path, bit))
    }
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, path: PathBuf, inode: Option<usize>) {
    match inode {
        Some(inode) => drop(names.insert(path, inode)),
        None => drop(names.remove(&path)),
    }
}

impl Inner {
    fn rename(&mut self, path: &Path, inode: Option<usize>) {
        apply(&mut self.names, path.to_path_buf(), inode);
        self.name_changes.push((path.to_path_buf(), inode));
    }
}

/// A [`Platter`] as one process sees it.
#[derive(Clone, Debug)]
pub struct SimDisk {
    platter: Platter,
    process: Process,
}

impl SimDisk {
    /// The platter as this process sees it.
    pub fn new(platter: &Platter, process: &Process) -> Self {
        Self { platter: platter.clone(), process: process.clone() }
    }

    /// Does a step: `act`, unless the process dies before.
    fn durably<T>(&self, act: impl FnOnce(&mut Inner) -> io::Result<T>) -> io::Result<T> {
        let fate = self.process.step();
        if matches!(fate, Fate::Dead | Fate::DieBefore) {
            return Err(dead());
        }
        let done = act(&mut self.platter.inner())?;
        if fate == Fate::DieAfter { Err(dead()) } else { Ok(done) }
    }

    fn alive(&self) -> io::Result<()> {
        if self.process.is_alive() { Ok(()) } else { Err(dead()) }
    }
}

fn dead() -> io::Error {
    io::Error::other("the process is dead")
}

fn gone() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
}

#[async_trait]
impl DiskFile for SimFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let process = &self.disk.process;
        let fate = process.step();
        if fate == Fate::Dead {
            return Err(dead());
        }
        let failed = process.chance(process.disk_faults().write);
        // Dying or failing on the way, any part of it may have been written.
        let whole = fate == Fate::DieAfter || (fate == Fate::Done && !failed);
        let len = if whole { bytes.len() } else { process.below(bytes.len() as u64 + 1) as usize };
        let inner = &mut *self.disk.platter.inner();
        let inode = inner.inodes.get_mut(self.inode).ok_or_else(gone)?;
        let start = inode.bytes.len();
        inode.bytes.extend_from_slice(bytes.get(..len).unwrap_or_default());
        inode.unsynced.push((start, inode.bytes.len()));
        match (fate, failed) {
            (Fate::Done, false) => Ok(()),
            (Fate::Done, true) => Err(io::Error::other("no space left on the simulated disk")),
            _ => Err(dead()),
        }
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let index = self.inode;
        self.disk.durably(|inner| {
            let inode = inner.inodes.get_mut(index).ok_or_else(gone)?;
            inode.bytes.truncate(len as usize);
            inode.durable.truncate(len as usize);
            inode.unsynced.retain(|(start, _)| *start < len as usize);
            Ok(())
        })
    }

    fn syncer(&self) -> Box<dyn Syncer> {
        let writes = self.disk.platter.inner().inodes.get(self.inode).map_or(0, |inode| inode.bytes.len());
        Box::new(SimSyncer { disk: self.disk.clone(), inode: self.inode, len: writes })
    }
}

struct SimSyncer {
    disk: SimDisk,
    inode: usize,
    /// What was written when the syncer was taken.
    len: usize,
}

#[async_trait]
impl Syncer for SimSyncer {
    async fn sync(self: Box<Self>) -> io::Result<()> {
        let process = &self.disk.process;
        for _ in 0..process.below(3) {
            tokio::task::yield_now().await;
        }
        let failed = process.chance(process.disk_faults().sync);
        self.disk.durably(|inner| {
            let inode = inner.inodes.get_mut(self.inode).ok_or_else(gone)?;
            if failed && process.chance(500) {
                return Err(io::Error::other("the simulated disk failed to sync"));
            }
            let len = self.len.min(inode.bytes.len());
            if inode.durable.len() < len {
                inode.durable = inode.bytes.get(..len).unwrap_or_default().to_vec();
            }
            inode.unsynced.retain(|(_, end)| *end > len);
            if failed { Err(io::Error::other("the simulated disk failed to sync")) } else { Ok(()) }
        })
    }
}

#[derive(Debug)]
struct SimLock {
    platter: Platter,
    path: PathBuf,
    generation: u64,
}

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let inner = &mut *self.platter.inner();
        if inner.locks.get(&self.path) == Some(&self.generation) {
            inner.locks.remove(&self.path);
        }
    }
}

#[async_trait]
impl Disk for SimDisk {
    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        self.alive()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.alive()?;
        let inner = self.platter.inner();
        let names = inner.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.filter_map(|path| path.file_name()).map(PathBuf::from).collect())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.alive()?;
        let inner = self.platter.inner();
        if let Some(holder) = inner.locks.get(path) {
            return Ok(format!("simulated process {holder}").into_bytes());
        }
        let inode = inner.names.get(path).and_then(|inode| inner.inodes.get(*inode));
        inode.map(|inode| inode.bytes.clone()).ok_or_else(gone)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let inode = self.durably(|inner| {
            if let Some(inode) = inner.names.get(path) {
                return Ok(*inode);
            }
            inner.inodes.push(Inode::default());
            let inode = inner.inodes.len() - 1;
            inner.rename(path, Some(inode));
            Ok(inode)
        })?;
        Ok(Box::new(SimFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.durably(|inner| {
            let inode = inner.names.get(from).copied().ok_or_else(gone)?;
            inner.rename(to, Some(inode));
            inner.rename(from, None);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.durably(|inner| {
            if inner.names.contains_key(path) {
                inner.rename(path, None);
            }
            Ok(())
        })
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.durably(|inner| {
            let (now, later) = std::mem::take(&mut inner.name_changes)
                .into_iter()
                .partition::<Vec<_>, _>(|(path, _)| path.parent() == Some(dir));
            inner.name_changes = later;
            for (path, inode) in now {
                apply(&mut inner.durable_names, path, inode);
            }
            Ok(())
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn DiskLock>>> {
        self.alive()?;
        let inner = &mut *self.platter.inner();
        let generation = self.process.generation();
        // A lock dies with its process.
        if inner.locks.get(path) == Some(&generation) && !inner.locks_broken {
            return Ok(None);
        }
        inner.locks.insert(path.to_path_buf(), generation);
        Ok(Some(Box::new(SimLock { platter: self.platter.clone(), path: path.to_path_buf(), generation })))
    }
}
