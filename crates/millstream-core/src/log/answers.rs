//! What batches were answered by tables that are read as they are, beside the log.
//!
//! ```text
//! 1 6c0d2f5a 18734 {"batch":7,"intent":2863311530}
//! <the answers, in the runner's own form>
//! ```
//! A batch is one record: it is there whole, or it is not there, and then nothing of the batch was published. The record
//! names its intent by a checksum: where a process was taken over while it decided batch 7, the batch 7 of its successor
//! is another one. A batch may be recorded again; what was written last counts.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::batch::{BatchId, Intent};
use crate::disk::{DiskFile, SharedDisk};
use crate::error::Result;
use crate::runner::Answers;

use super::frame::{frame, json, scan};
use super::paths::Sequence;
use super::read::{corrupt, read_file, unreadable};
use super::write::failed;

/// What stands before the answers in a record.
#[derive(Debug, Deserialize, Serialize)]
struct Head {
    batch: BatchId,
    /// CRC-32 of the intent's JSON.
    intent: u32,
}

impl Head {
    fn of(intent: &Intent) -> Result<Self> {
        Ok(Self { batch: intent.batch, intent: crc32fast::hash(&json(intent)?) })
    }
}

/// The answers of the batches that may be run again.
#[derive(Debug, Default)]
pub(crate) struct Recorded(BTreeMap<BatchId, (u32, Answers)>);

impl Recorded {
    /// What this batch was answered, where it was recorded.
    pub(crate) fn of(&self, intent: &Intent) -> Result<Option<&Answers>> {
        let Some((checksum, answers)) = self.0.get(&intent.batch) else { return Ok(None) };
        Ok((Head::of(intent)?.intent == *checksum).then_some(answers))
    }
}

/// Appends the answers of batches, for the process that owns the log.
#[derive(Debug)]
pub(crate) struct AnswerLog {
    disk: SharedDisk,
    dir: PathBuf,
    segment_bytes: u64,
    /// The segments there are, with the last batch that is in each.
    segments: Vec<(u64, BatchId)>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: Box<dyn DiskFile>,
    segment: u64,
    len: u64,
}

impl AnswerLog {
    /// Segments of about this size. Nothing is touched before a batch is answered something.
    pub(crate) fn new(disk: SharedDisk, dir: PathBuf, segment_bytes: u64) -> Self {
        Self { disk, dir, segment_bytes, segments: Vec::new(), open: None }
    }

    /// What was recorded of the batches after this one. To be asked before anything is written.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] where a record can't be read and it is no torn tail.
    pub(crate) async fn recorded(&mut self, after: BatchId) -> Result<Recorded> {
        let mut recorded = Recorded::default();
        for number in Sequence::Answers.list(&*self.disk, &self.dir)? {
            let path = Sequence::Answers.segment(&self.dir, number);
            let Some(bytes) = read_file(&*self.disk, &path)? else { continue };
            let found = scan(&bytes);
            if found.whole_after.is_some() {
                return Err(corrupt(&path, found.len, "a record of answers can't be read"));
            }
            let (mut last, mut needed) = (BatchId(0), false);
            for frame in &found.frames {
                let record = frame.json(&bytes);
                let line = record.iter().position(|byte| *byte == b'\n').unwrap_or(record.len());
                let (head, answers) = record.split_at(line);
                let head: Head = serde_json::from_slice(head).map_err(|e| unreadable(&path, frame, e))?;
                last = last.max(head.batch);
                if head.batch > after {
                    needed = true;
                    let answers = Answers(answers.get(1..).unwrap_or_default().into());
                    recorded.0.insert(head.batch, (head.intent, answers));
                }
            }
            self.segments.push((number, last));
            if needed {
                // The process before may have died without a sync: what is used again must not be lost any more.
                let file = self.disk.open(&path).map_err(|e| failed("open", &path, e))?;
                file.syncer().sync().await.map_err(|e| failed("sync", &path, e))?;
            }
        }
        Ok(recorded)
    }

    /// Writes what a batch was answered. The future makes it durable: before it has returned, nothing of the batch may be
    /// published.
    pub(crate) async fn write(
        &mut self,
        intent: &Intent,
        answers: &Answers,
    ) -> Result<impl Future<Output = Result<()>> + Send + 'static + use<>> {
        let mut record = json(&Head::of(intent)?)?;
        record.push(b'\n');
        record.extend_from_slice(&answers.0);
        let mut bytes = Vec::with_capacity(record.len() + 64);
        frame(&record, &mut bytes);
        let open = match self.open.take() {
            Some(open) if open.len < self.segment_bytes => open,
            _ => self.begin().await?,
        };
        let open = self.open.insert(open);
        let path = Sequence::Answers.segment(&self.dir, open.segment);
        open.file.append(&bytes).map_err(|e| failed("write", &path, e))?;
        open.len += bytes.len() as u64;
        if let Some((_, last)) = self.segments.last_mut() {
            *last = intent.batch;
        }
        let syncer = open.file.syncer();
        Ok(async move { syncer.sync().await.map_err(|e| failed("sync", &path, e)) })
    }

    /// Removes the segments that hold none after this batch. The one that is written to stays.
    pub(crate) fn remove_upto(&mut self, batch: BatchId) -> Result<()> {
        let writing = self.open.as_ref().map(|open| open.segment);
        while let Some((segment, last)) = self.segments.first().copied()
            && last <= batch
            && Some(segment) != writing
        {
            let path = Sequence::Answers.segment(&self.dir, segment);
            self.disk.remove(&path).map_err(|e| failed("remove", &path, e))?;
            self.segments.remove(0);
        }
        Ok(())
    }

    /// A segment behind all there are: what an older owner still writes comes before it.
    async fn begin(&mut self) -> Result<Open> {
        let there = Sequence::Answers.list(&*self.disk, &self.dir)?.last().copied().unwrap_or(0);
        let segment = there.max(self.segments.last().map_or(0, |(segment, _)| *segment)) + 1;
        let path = Sequence::Answers.segment(&self.dir, segment);
        let file = self.disk.open(&path).map_err(|e| failed("open", &path, e))?;
        self.disk.sync_dir(&self.dir).await.map_err(|e| failed("sync", &self.dir, e))?;
        self.segments.push((segment, BatchId(0)));
        Ok(Open { file, segment, len: 0 })
    }
}
