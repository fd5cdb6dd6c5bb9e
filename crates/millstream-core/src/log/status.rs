//! What a log says to a person: a pipeline's state, whether it runs or not.

use std::path::Path;

use crate::batch::{Account, BatchId, Commit, Intent};
use crate::disk::{Disk, RealDisk};
use crate::error::Result;
use crate::query::intend::{SourcePositions, advance};
use crate::watermark::Timeline;

use super::history::History;
use super::paths;
use super::read::read_history;
use super::record::{Epoch, Identity, Ownership, Stopped};

/// A pipeline's state as its log has it. A running one may be a batch further: commits ride with the next intent.
#[derive(Clone, Debug)]
pub struct LogStatus {
    /// Who the query is.
    pub identity: Identity,
    /// What it is made of.
    pub epoch: Epoch,
    /// The process that owns the log, or was the last to.
    pub owner: Ownership,
    /// It stopped cleanly. Else it runs, or died.
    pub stopped: Option<Stopped>,
    /// The newest batch that was decided.
    pub last_intent: Option<Intent>,
    /// What came of the newest batch of which that is known.
    pub last_commit: Option<Commit>,
    /// The newest batch that is committed.
    pub committed: BatchId,
    /// The account since the first batch, per source.
    pub totals: Vec<Account>,
    /// Rows published since the first batch.
    pub rows_out: u64,
    /// The watermarks and the frontier after the newest committed batch.
    pub timeline: Timeline,
    /// How far each source was read, by the newest committed batch.
    pub positions: SourcePositions,
    /// The batches of the kept checkpoints and when they were captured (microseconds), oldest first.
    pub checkpoints: Vec<(BatchId, i64)>,
}

/// Reads the state of a pipeline, running or stopped, without a lock; `None` where there is none.
///
/// # Errors
/// [`crate::ErrorKind::Corrupt`] where the log can't be read.
pub fn read_status(disk: &dyn Disk, dir: &Path) -> Result<Option<LogStatus>> {
    Ok(read_history(disk, dir)?.map(LogStatus::of))
}

/// Whether a process of this machine runs the query of this log.
pub fn is_running(dir: &Path) -> bool {
    RealDisk::is_locked(&paths::lock(dir))
}

impl LogStatus {
    fn of(history: History) -> Self {
        let base = history.checkpoints.back().cloned().unwrap_or_default();
        let mut status = Self {
            identity: history.header.identity.clone(),
            epoch: history.header.epoch.clone(),
            owner: history.header.owner.clone(),
            stopped: history.stopped,
            last_intent: history.batches.back().map(|entry| entry.intent.clone()),
            last_commit: history.batches.iter().rev().find_map(|entry| entry.commit.clone()),
            committed: base.batch,
            totals: base.totals,
            rows_out: base.rows_out,
            timeline: base.timeline,
            positions: base.positions,
            checkpoints: history.checkpoints.iter().map(|c| (c.batch, c.time_us)).collect(),
        };
        if history.checkpoints.is_empty() {
            status.timeline = timeline_before(&history);
        }
        for entry in history.batches.iter().filter(|entry| entry.intent.batch > base.batch) {
            let Some(commit) = &entry.commit else { continue };
            status.committed = commit.batch;
            status.rows_out += commit.rows_out;
            add(&mut status.totals, &commit.account);
            status.timeline.advance(&entry.intent, &commit.watermarks);
            advance(&mut status.positions, &entry.intent);
        }
        status
    }
}

/// Without a checkpoint nothing says which sources declare a watermark, save that their partitions have one.
fn timeline_before(history: &History) -> Timeline {
    let names = history.batches.iter().flat_map(|entry| entry.intent.sources.iter().map(|s| s.source.as_str()));
    let timed =
        |name: &str| history.batches.iter().filter_map(|e| e.commit.as_ref()).any(|c| c.watermarks.contains_key(name));
    Timeline::new(names.map(|name| (name, timed(name))))
}

/// Adds a batch's account to the totals.
pub(crate) fn add(totals: &mut Vec<Account>, accounts: &[Account]) {
    for account in accounts {
        match totals.iter_mut().find(|total| total.source == account.source) {
            Some(total) => total.add(account),
            None => totals.push(account.clone()),
        }
    }
}
