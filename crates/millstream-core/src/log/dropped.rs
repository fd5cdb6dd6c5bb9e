//! The rows that are not part of the answer, by batch, beside the log.
//!
//! ```text
//! 1 6c0d2f5a 197 {"batch":7,"part":0,"parts":1,"rows":[{"kind":"late","source":"tx","partition":"tx.ndjson",…}]}
//! ```
//! A batch is one record, or several parts of it. A batch that is run again writes its rows again: what was last written
//! whole for a batch is what counts. Of a batch that died in the midst of being written nothing is there.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::batch::{BatchId, Dropped};
use crate::disk::{Disk, DiskFile, SharedDisk};
use crate::error::Result;

use super::frame::{encode, scan};
use super::paths::Sequence;
use super::read::{corrupt, read_file, unreadable};
use super::write::failed;

/// A record has no more text than this, save where a single row has.
const PART_BYTES: usize = 1 << 20;

#[derive(Deserialize)]
struct Part {
    batch: BatchId,
    part: u64,
    /// How many parts the batch has; older logs don't say.
    #[serde(default)]
    parts: Option<u64>,
    rows: Vec<Dropped>,
}

#[derive(Serialize)]
struct PartRef<'a> {
    batch: BatchId,
    part: u64,
    parts: u64,
    rows: &'a [Dropped],
}

/// The dropped rows of the batches after this one that are kept (of all batches: after batch 0), by batch, in the order
/// in which they were met. Needs no lock; segments that hold only earlier batches are not read.
///
/// # Errors
/// [`crate::ErrorKind::Corrupt`] where a record can't be read and it is no torn tail.
pub fn read_dropped(disk: &dyn Disk, dir: &Path, after: BatchId) -> Result<Vec<(BatchId, Dropped)>> {
    let mut segments = Vec::new();
    for number in Sequence::Dropped.list(disk, dir)?.into_iter().rev() {
        let path = Sequence::Dropped.segment(dir, number);
        let Some(bytes) = read_file(disk, &path)? else { continue };
        let found = scan(&bytes);
        let first = found.frames.first().and_then(|frame| batch_of(frame.json(&bytes)));
        segments.push((path, bytes, found));
        // A batch is written whole into one segment: one that begins with an earlier batch ends the search.
        if first.is_some_and(|first| first <= after) {
            break;
        }
    }
    let mut batches: BTreeMap<BatchId, Vec<Dropped>> = BTreeMap::new();
    // The parts that follow each other so far, of a batch that is not whole.
    let mut begun: Vec<Dropped> = Vec::new();
    for (path, bytes, found) in segments.into_iter().rev() {
        if found.whole_after.is_some() {
            return Err(corrupt(&path, found.len, "a record of dropped rows can't be read"));
        }
        for frame in &found.frames {
            if batch_of(frame.json(&bytes)).is_some_and(|batch| batch <= after) {
                continue;
            }
            let part: Part = serde_json::from_slice(frame.json(&bytes)).map_err(|e| unreadable(&path, frame, e))?;
            if part.batch <= after {
                continue;
            }
            if part.part == 0 {
                begun.clear();
            }
            begun.extend(part.rows);
            match part.parts {
                Some(parts) if part.part + 1 < parts => {}
                Some(_) => drop(batches.insert(part.batch, std::mem::take(&mut begun))),
                None => drop(batches.insert(part.batch, begun.clone())),
            }
        }
    }
    Ok(batches.into_iter().flat_map(|(batch, rows)| rows.into_iter().map(move |row| (batch, row))).collect())
}

/// The batch of a record, by its first field alone: its rows are many. `None` where it is written otherwise.
fn batch_of(json: &[u8]) -> Option<BatchId> {
    let digits = json.strip_prefix(b"{\"batch\":")?.split(|byte| !byte.is_ascii_digit()).next()?;
    std::str::from_utf8(digits).ok()?.parse().ok().map(BatchId)
}

/// Who reads the dropped rows of a query while it runs.
pub trait DroppedReaders: Send + Sync + Debug {
    /// The last batch whose dropped rows all of them have read and will not read again. Nothing after it is removed, even
    /// where more is kept then than retention allows.
    fn passed(&self) -> BatchId;
}

/// Appends dropped rows, for the process that owns the log.
#[derive(Debug)]
pub(crate) struct DroppedLog {
    disk: SharedDisk,
    dir: PathBuf,
    segment_bytes: u64,
    segments_max: usize,
    readers: Option<Arc<dyn DroppedReaders>>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: Box<dyn DiskFile>,
    segment: u64,
    len: u64,
}

impl DroppedLog {
    /// Keeps about so many bytes, in segments of this size. Nothing is touched before a row is dropped.
    pub(crate) fn new(disk: SharedDisk, dir: PathBuf, segment_bytes: u64, kept_bytes: u64) -> Self {
        let segments_max = usize::try_from(kept_bytes / segment_bytes.max(1)).unwrap_or(usize::MAX).max(1);
        Self { disk, dir, segment_bytes, segments_max, readers: None, open: None }
    }

    /// Keeps what these have not read.
    pub(crate) fn read_by(mut self, readers: Option<Arc<dyn DroppedReaders>>) -> Self {
        self.readers = readers;
        self
    }

    /// Writes the rows of a batch. The future makes them durable: before it has returned, the batch must not be
    /// committed.
    pub(crate) async fn write(
        &mut self,
        batch: BatchId,
        rows: &[Dropped],
    ) -> Result<impl Future<Output = Result<()>> + Send + 'static + use<>> {
        let mut bytes = Vec::new();
        let parts = parts(rows);
        for (part, rows) in parts.iter().enumerate() {
            encode(&PartRef { batch, part: part as u64, parts: parts.len() as u64, rows }, &mut bytes)?;
        }
        let open = match self.open.take() {
            Some(open) if open.len < self.segment_bytes => open,
            Some(open) => self.begin(open.segment + 1).await?,
            None => self.resume().await?,
        };
        let open = self.open.insert(open);
        let path = Sequence::Dropped.segment(&self.dir, open.segment);
        open.file.append(&bytes).map_err(|e| failed("write", &path, e))?;
        open.len += bytes.len() as u64;
        let syncer = open.file.syncer();
        Ok(async move { syncer.sync().await.map_err(|e| failed("sync", &path, e)) })
    }

    /// Goes on in the newest segment, or begins one behind it where its end is torn.
    async fn resume(&mut self) -> Result<Open> {
        let Some(last) = Sequence::Dropped.list(&*self.disk, &self.dir)?.last().copied() else {
            return self.begin(1).await;
        };
        let path = Sequence::Dropped.segment(&self.dir, last);
        let bytes = read_file(&*self.disk, &path)?.unwrap_or_default();
        let len = bytes.len() as u64;
        if scan(&bytes).len < len || len >= self.segment_bytes {
            return self.begin(last + 1).await;
        }
        let file = self.disk.open(&path).map_err(|e| failed("open", &path, e))?;
        Ok(Open { file, segment: last, len })
    }

    /// Whether nobody reads the rows of this segment any more.
    fn was_read(&self, path: &Path) -> Result<bool> {
        let Some(readers) = &self.readers else { return Ok(true) };
        let Some(bytes) = read_file(&*self.disk, path)? else { return Ok(true) };
        let found = scan(&bytes);
        let Some(last) = found.frames.last() else { return Ok(true) };
        let part: Part = serde_json::from_slice(last.json(&bytes)).map_err(|e| unreadable(path, last, e))?;
        Ok(part.batch <= readers.passed())
    }

    async fn begin(&mut self, segment: u64) -> Result<Open> {
        let path = Sequence::Dropped.segment(&self.dir, segment);
        let file = self.disk.open(&path).map_err(|e| failed("open", &path, e))?;
        self.disk.sync_dir(&self.dir).await.map_err(|e| failed("sync", &self.dir, e))?;
        let numbers = Sequence::Dropped.list(&*self.disk, &self.dir)?;
        for old in numbers.iter().take(numbers.len().saturating_sub(self.segments_max)) {
            let path = Sequence::Dropped.segment(&self.dir, *old);
            if !self.was_read(&path)? {
                break;
            }
            self.disk.remove(&path).map_err(|e| failed("remove", &path, e))?;
        }
        Ok(Open { file, segment, len: 0 })
    }
}

/// Cuts the rows into parts of a bounded size; at least one.
fn parts(rows: &[Dropped]) -> Vec<&[Dropped]> {
    let mut parts = Vec::new();
    let (mut start, mut size) = (0, 0);
    for (i, row) in rows.iter().enumerate() {
        let bytes = row.raw.len() + row.reason.len();
        if i > start && size + bytes > PART_BYTES {
            parts.push(rows.get(start..i).unwrap_or_default());
            (start, size) = (i, 0);
        }
        size += bytes;
    }
    parts.push(rows.get(start..).unwrap_or_default());
    parts
}
