//! Appends to the log, for the one process that owns it.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::{Path, PathBuf};

use crate::batch::{Amend, Commit, Intent};
use crate::disk::{DiskFile, DiskLock, SharedDisk};
use crate::error::{Error, Result};

use super::frame::encode;
use super::history::History;
use super::paths::{self, Sequence};
use super::read::read_history;
use super::record::{After, Checkpoint, Epoch, Header, Identity, Ownership, RecordRef, Stopped};

/// How a log is opened.
#[derive(Clone, Debug)]
pub(crate) struct LogConfig {
    pub dir: PathBuf,
    pub query: String,
    /// The incarnation of a log that begins here.
    pub incarnation: String,
    /// Who opens it, for a person.
    pub holder: String,
    pub now_us: i64,
    pub epoch: Epoch,
    /// Go on with a log of another name or plan.
    pub adopt: bool,
    pub segment_bytes: u64,
}

/// The log of a query, owned by this process.
///
/// Records are collected and reach the disk together, with [`BatchLog::sync`]. After an error of any call the log must
/// not be used any more: what is on disk is read again by the next owner.
#[derive(Debug)]
pub(crate) struct BatchLog {
    disk: SharedDisk,
    dir: PathBuf,
    header: Header,
    /// What the log is to be the log of, once the new owner has found that its state fits.
    adopts: Option<(String, Epoch)>,
    file: Box<dyn DiskFile>,
    /// Bytes of the segment, without those pending.
    len: u64,
    pending: Vec<u8>,
    /// The oldest segment that was not removed.
    oldest: u64,
    segment_bytes: u64,
    _lock: Box<dyn DiskLock>,
}

impl BatchLog {
    /// Takes the log over, and says what it holds.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Owned`] where another process has it; [`crate::ErrorKind::Query`] or
    /// [`crate::ErrorKind::Config`] where it is the log of another query; [`crate::ErrorKind::Corrupt`].
    pub(crate) async fn open(disk: SharedDisk, config: LogConfig) -> Result<(Self, Option<History>)> {
        let LogConfig { dir, segment_bytes, .. } = &config;
        disk.create_dir(dir).map_err(|e| failed("create", dir, e))?;
        if let Some(parent) = dir.parent() {
            disk.sync_dir(parent).await.map_err(|e| failed("sync", parent, e))?;
        }
        let lock = take_lock(&disk, dir)?;
        let history = read_history(&*disk, dir)?;
        let numbers = Sequence::Log.list(&*disk, dir)?;
        let header = header_of(&config, history.as_ref(), numbers.last().map_or(1, |last| last + 1))?;
        if let Some(after) = &header.after {
            // The process before may have died without a sync: what was read must not be lost any more before
            // something is done because of it.
            let path = Sequence::Log.segment(dir, after.segment);
            let file = disk.open(&path).map_err(|e| failed("open", &path, e))?;
            file.syncer().sync().await.map_err(|e| failed("sync", &path, e))?;
            disk.sync_dir(dir).await.map_err(|e| failed("sync", dir, e))?;
        }
        let oldest = numbers.first().copied().unwrap_or(header.segment);
        let (file, len) = begin_segment(&disk, dir, &header).await?;
        let segment_bytes = *segment_bytes;
        let dir = dir.clone();
        let wanted = (config.query.clone(), config.epoch.clone());
        let adopts = (header.identity.query != wanted.0 || header.epoch != wanted.1).then_some(wanted);
        let log =
            Self { disk, dir, header, adopts, file, len, pending: Vec::new(), oldest, segment_bytes, _lock: lock };
        Ok((log, history))
    }

    /// What the current segment begins with.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Whether something was collected that is not on disk.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(crate) fn intend(&mut self, intent: &Intent) -> Result<()> {
        encode(&RecordRef::Intent(intent), &mut self.pending)
    }

    pub(crate) fn amend(&mut self, amend: &Amend) -> Result<()> {
        encode(&RecordRef::Amend(amend), &mut self.pending)
    }

    pub(crate) fn commit(&mut self, commit: &Commit) -> Result<()> {
        encode(&RecordRef::Commit(commit), &mut self.pending)
    }

    pub(crate) fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        encode(&RecordRef::Checkpoint(checkpoint), &mut self.pending)
    }

    pub(crate) fn stopped(&mut self, stopped: &Stopped) -> Result<()> {
        encode(&RecordRef::Stopped(stopped), &mut self.pending)
    }

    /// Writes what was collected. The future makes it durable, while the caller goes on.
    pub(crate) fn sync(&mut self) -> Result<impl Future<Output = Result<()>> + Send + 'static + use<>> {
        let path = Sequence::Log.segment(&self.dir, self.header.segment);
        self.file.append(&self.pending).map_err(|e| failed("write", &path, e))?;
        self.len += self.pending.len() as u64;
        self.pending.clear();
        let syncer = self.file.syncer();
        Ok(async move { syncer.sync().await.map_err(|e| failed("sync", &path, e)) })
    }

    /// Whether the log is another query's until [`BatchLog::adopt`].
    pub(crate) fn adopts(&self) -> bool {
        self.adopts.is_some()
    }

    /// Makes it the log of the query that has opened it. It is durable afterwards.
    pub(crate) async fn adopt(&mut self) -> Result<()> {
        let Some((query, epoch)) = self.adopts.take() else { return Ok(()) };
        self.header.identity.query = query;
        self.header.epoch = epoch;
        self.roll().await
    }

    /// Begins a new segment where the current one is full. Everything before is durable afterwards.
    pub(crate) async fn roll_if_full(&mut self) -> Result<()> {
        if self.len < self.segment_bytes {
            return Ok(());
        }
        self.roll().await
    }

    async fn roll(&mut self) -> Result<()> {
        self.sync()?.await?;
        self.header.after = Some(After { segment: self.header.segment, len: self.len });
        self.header.segment += 1;
        if Sequence::Log.list(&*self.disk, &self.dir)?.contains(&self.header.segment) {
            return Err(Error::owned(format!(
                "{} was taken over by another process, though its lock is held here: locks don't work on its file system. \
                 Keep the log on a local disk",
                self.dir.display()
            )));
        }
        (self.file, self.len) = begin_segment(&self.disk, &self.dir, &self.header).await?;
        Ok(())
    }

    /// Removes the segments before this one.
    pub(crate) fn remove_before(&mut self, segment: u64) -> Result<()> {
        while self.oldest < segment.min(self.header.segment) {
            let path = Sequence::Log.segment(&self.dir, self.oldest);
            self.disk.remove(&path).map_err(|e| failed("remove", &path, e))?;
            self.oldest += 1;
        }
        Ok(())
    }
}

/// That the disk refused. Nothing is lost: what was promised is durable already.
pub(super) fn failed(verb: &str, path: &Path, error: std::io::Error) -> Error {
    Error::config(format!(
        "can't {verb} {}: make room or fix its permissions, then start again; nothing is lost",
        path.display()
    ))
    .caused_by(error)
}

fn take_lock(disk: &SharedDisk, dir: &Path) -> Result<Box<dyn DiskLock>> {
    let path = paths::lock(dir);
    if let Some(lock) = disk.lock(&path).map_err(|e| failed("lock", &path, e))? {
        return Ok(lock);
    }
    let holder = disk.read(&path).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_string());
    let holder = holder.ok().filter(|h| !h.is_empty()).unwrap_or_else(|| "another process".to_string());
    Err(Error::owned(format!(
        "{} is owned by {holder}: stop it first, or give this query a directory of its own",
        dir.display()
    )))
}

/// The header of the new owner's first segment.
fn header_of(config: &LogConfig, history: Option<&History>, segment: u64) -> Result<Header> {
    // Whatever became of the segments before: each owner has begun one, so its number is a new owner's alone.
    let owner = Ownership { epoch: segment, holder: config.holder.clone(), since_us: config.now_us };
    let epoch = config.epoch.clone();
    let Some(History { header, end: (before, len), .. }) = history else {
        let (query, incarnation) = (config.query.clone(), config.incarnation.clone());
        let identity = Identity { query, incarnation, created_us: config.now_us };
        return Ok(Header { segment, after: None, identity, owner, epoch });
    };
    // IMPORTANT: what is adopted stays the other query's until its state was found to fit. Else that query could not
    // be started any more either.
    let (identity, epoch) = match config.adopt {
        true => (header.identity.clone(), header.epoch.clone()),
        false => {
            check_identity(config, header)?;
            (Identity { query: config.query.clone(), ..header.identity.clone() }, epoch)
        }
    };
    Ok(Header { segment, after: Some(After { segment: *before, len: *len }), identity, owner, epoch })
}

fn check_identity(config: &LogConfig, header: &Header) -> Result<()> {
    let dir = config.dir.display();
    if header.identity.query != config.query {
        return Err(Error::config(format!(
            "{dir} holds the query \"{}\", not \"{}\": give this query a directory of its own, or go on from the other \
             one's state with --adopt",
            header.identity.query, config.query,
        )));
    }
    let (old, new) = (&header.epoch, &config.epoch);
    let changed = if old.plan != new.plan {
        format!("another plan (it was: {})", old.sql)
    } else if old.time_zone != new.time_zone {
        format!("the time zone {}, not {}", old.time_zone, new.time_zone)
    } else if old.partitions != new.partitions {
        format!("{} partitions, not {}", old.partitions, new.partitions)
    } else if let Some(changed) = changed_option(old, new) {
        changed
    } else {
        return Ok(());
    };
    Err(Error::query(format!(
        "{dir} holds the query \"{}\" with {changed}: restore what it was, start anew in another directory, or go on \
         from its state with --adopt where that fits",
        config.query,
    )))
}

/// The first option that is not what it was. Logs of before options were kept say nothing of them.
fn changed_option(old: &Epoch, new: &Epoch) -> Option<String> {
    if old.options.is_empty() {
        return None;
    }
    let names: BTreeSet<_> = old.options.keys().chain(new.options.keys()).collect();
    let name = names.into_iter().find(|name| old.options.get(*name) != new.options.get(*name))?;
    let said = |epoch: &Epoch| epoch.options.get(name).map_or("nothing".to_string(), |value| format!("'{value}'"));
    Some(format!("{name} = {}, not {}", said(old), said(new)))
}

async fn begin_segment(disk: &SharedDisk, dir: &Path, header: &Header) -> Result<(Box<dyn DiskFile>, u64)> {
    let path = Sequence::Log.segment(dir, header.segment);
    let mut bytes = Vec::new();
    encode(&RecordRef::Header(header), &mut bytes)?;
    let mut file = disk.open(&path).map_err(|e| failed("open", &path, e))?;
    file.append(&bytes).map_err(|e| failed("write", &path, e))?;
    file.syncer().sync().await.map_err(|e| failed("sync", &path, e))?;
    disk.sync_dir(dir).await.map_err(|e| failed("sync", dir, e))?;
    Ok((file, bytes.len() as u64))
}
