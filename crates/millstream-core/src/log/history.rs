//! What a log says: a fold over its records.

use std::collections::VecDeque;

use crate::batch::{BatchId, Commit, Dropped, Intent};
use crate::error::{Error, Result};

use super::record::{Checkpoint, Header, Record, Stopped};

/// Checkpoints that are kept.
pub(crate) const CHECKPOINTS_KEPT: usize = 2;

/// A batch of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// What it is.
    pub intent: Intent,
    /// Rows left out of it.
    pub left_out: Vec<Dropped>,
    /// What came of it, where that is known.
    pub commit: Option<Commit>,
    /// The segment in which it was intended.
    pub segment: u64,
}

/// What a log says, as far as its kept checkpoints need it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The newest header.
    pub header: Header,
    /// The newest checkpoints, oldest first.
    pub checkpoints: VecDeque<Checkpoint>,
    /// The batches after the oldest kept checkpoint, without gaps; all of them where fewer are kept.
    pub batches: VecDeque<Entry>,
    /// The query stopped cleanly and was not started since.
    pub stopped: Option<Stopped>,
    /// The newest segment and how many bytes of it were read.
    pub end: (u64, u64),
    /// A missing segment: what came before it is not known.
    pub hole: Option<String>,
}

impl History {
    /// The newest batch that was intended; the zeroth where there is none.
    pub fn last_batch(&self) -> BatchId {
        let checkpointed = self.checkpoints.back().map(|c| c.batch).unwrap_or_default();
        self.batches.back().map_or(checkpointed, |entry| entry.intent.batch.max(checkpointed))
    }

    /// The batches after this one, if all of them are known.
    pub fn batches_after(&self, batch: BatchId) -> Option<impl Iterator<Item = &Entry>> {
        let first = self.batches.iter().map(|entry| entry.intent.batch).find(|b| *b > batch);
        let known = first.is_none_or(|first| first == batch.next());
        known.then(|| self.batches.iter().filter(move |entry| entry.intent.batch > batch))
    }

    pub(super) fn apply(&mut self, record: Record) -> Result<()> {
        self.stopped = None;
        match record {
            Record::Header(header) => self.header = header,
            Record::Intent(intent) => {
                let last = self.batches.back().map(|entry| entry.intent.batch);
                if let Some(last) = last.filter(|last| last.next() != intent.batch) {
                    return Err(Error::corrupt(format!("batch {} follows batch {last}", intent.batch)));
                }
                let segment = self.header.segment;
                self.batches.push_back(Entry { intent, left_out: Vec::new(), commit: None, segment });
            }
            // What belongs to a batch whose intent lay in a removed segment is of no use any more.
            Record::Amend(amend) => {
                if let Some(entry) = self.entry(amend.batch) {
                    entry.left_out = amend.left_out;
                }
            }
            Record::Commit(commit) => {
                if let Some(entry) = self.entry(commit.batch) {
                    entry.commit = Some(commit);
                }
            }
            Record::Checkpoint(checkpoint) => self.keep(checkpoint),
            Record::Stopped(stopped) => self.stopped = Some(stopped),
        }
        Ok(())
    }

    fn entry(&mut self, batch: BatchId) -> Option<&mut Entry> {
        self.batches.iter_mut().rev().find(|entry| entry.intent.batch == batch)
    }

    fn keep(&mut self, checkpoint: Checkpoint) {
        self.checkpoints.retain(|old| old.batch != checkpoint.batch && checkpoint.kept.contains(&old.batch));
        self.checkpoints.push_back(checkpoint);
        if self.checkpoints.len() >= CHECKPOINTS_KEPT
            && let Some(oldest) = self.checkpoints.front()
        {
            // The newest entry stays, so that the next intent can be told to be the next one.
            while self.batches.len() > 1 && self.batches.front().is_some_and(|e| e.intent.batch <= oldest.batch) {
                self.batches.pop_front();
            }
        }
    }
}
