//! Checkpoints: made in the background, by work, kept in pairs.
//!
//! The order is the promise: the state is captured after a batch; when it is stored, the sink is flushed; then the
//! record is written; and only when that is durable, what older checkpoints needed is let go: their files, segments of
//! the log, and rows of the sources.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::task::{JoinError, JoinHandle};

use crate::batch::Positions;
use crate::error::{Error, ErrorKind, Result};
use crate::log::{CHECKPOINTS_KEPT, Checkpoint};

use super::run::Run;

/// The checkpoints of a query that runs.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    /// Those that can be restored, oldest first. The newest may not be durable yet.
    pub(super) kept: VecDeque<Checkpoint>,
    /// What re-running the batches since the newest would take.
    pub(super) work: Duration,
    /// While recorded batches are run again: the segment in which the next one was intended.
    pub(super) next_segment: Option<u64>,
    storing: Option<Storing>,
    /// The newest is written, but what older ones needed was not let go.
    pub(super) unretired: bool,
}

/// A captured state that is being stored.
#[derive(Debug)]
struct Storing {
    checkpoint: Checkpoint,
    task: JoinHandle<Result<String>>,
    /// What the task has answered, where it was asked.
    answer: Option<Result<Result<String>, JoinError>>,
}

impl Drop for Storing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Checkpoints {
    /// Resolves when a state that is being stored is stored; never where none is.
    pub(super) async fn stored(&mut self) {
        let Some(storing) = &mut self.storing else { return std::future::pending().await };
        if storing.answer.is_none() {
            storing.answer = Some((&mut storing.task).await);
        }
    }
}

impl Run {
    /// Takes up a checkpoint that was stored, and begins one where enough work lies behind the last.
    pub(super) async fn checkpoint_if_due(&mut self) -> Result<()> {
        if self.checkpoints.storing.as_ref().is_some_and(|storing| storing.task.is_finished()) {
            self.keep_stored().await?;
        }
        let due = self.checkpoints.work >= self.config.checkpoint_work;
        if due && self.checkpoints.storing.is_none() && !self.checkpoints.unretired {
            self.capture().await?;
        }
        Ok(())
    }

    /// A clean stop: the state after the last batch is stored, and the log is durable.
    pub(super) async fn checkpoint_at_end(&mut self) -> Result<()> {
        self.keep_stored().await?;
        self.log.sync()?.await?;
        self.retire().await?;
        if self.checkpoints.kept.back().map_or(0, |c| c.batch.0) < self.known.batch.0 {
            self.capture().await?;
            self.keep_stored().await?;
            self.log.sync()?.await?;
            self.retire().await?;
        }
        Ok(())
    }

    /// Captures the state as it is now.
    async fn capture(&mut self) -> Result<()> {
        self.log.roll_if_full().await?;
        self.checkpoints.work = Duration::ZERO;
        let known = &self.known;
        let checkpoint = Checkpoint {
            batch: known.batch,
            time_us: self.clock.now_us().max(known.time_us),
            manifest: None,
            positions: known.positions.clone(),
            stamps: known.stamps.clone(),
            timeline: known.timeline.clone(),
            totals: known.totals.clone(),
            rows_out: known.rows_out,
            published: known.published,
            segment: self.checkpoints.next_segment.unwrap_or(self.log.header().segment),
            kept: Vec::new(),
        };
        match self.runner.state() {
            None => self.keep(checkpoint).await,
            Some(state) => {
                let task = tokio::spawn(state.checkpoint(known.batch)?);
                self.checkpoints.storing = Some(Storing { checkpoint, task, answer: None });
                Ok(())
            }
        }
    }

    /// Waits for a state that is being stored, and keeps it.
    async fn keep_stored(&mut self) -> Result<()> {
        let Some(mut storing) = self.checkpoints.storing.take() else { return Ok(()) };
        let answer = match storing.answer.take() {
            Some(answer) => answer,
            None => (&mut storing.task).await,
        };
        let manifest = answer.map_err(|e| Error::bug("a checkpoint's task died").caused_by(e))?;
        let manifest = manifest.map_err(|e| e.at(format_args!("checkpoint of batch {}", storing.checkpoint.batch)))?;
        self.keep(Checkpoint { manifest: Some(manifest), ..storing.checkpoint.clone() }).await
    }

    async fn keep(&mut self, mut checkpoint: Checkpoint) -> Result<()> {
        // IMPORTANT: what the checkpoint stands for must be in the sink for good before anything relies on it.
        self.flush_sink().await?;
        let kept = &mut self.checkpoints.kept;
        checkpoint.kept = kept.iter().rev().take(CHECKPOINTS_KEPT - 1).map(|c| c.batch).collect();
        self.log.checkpoint(&checkpoint)?;
        kept.push_back(checkpoint);
        self.checkpoints.unretired = true;
        Ok(())
    }

    /// After the log was synced: lets go what only older checkpoints needed.
    pub(super) async fn retire(&mut self) -> Result<()> {
        if !self.checkpoints.unretired {
            return Ok(());
        }
        self.checkpoints.unretired = false;
        let kept = &mut self.checkpoints.kept;
        while kept.len() > CHECKPOINTS_KEPT {
            kept.pop_front();
        }
        let manifests: Vec<String> = kept.iter().filter_map(|c| c.manifest.clone()).collect();
        if let Some(newest) = kept.back() {
            self.board.checkpoint(newest.batch);
        }
        if let Some(state) = self.runner.state() {
            state.retain(&manifests)?;
        }
        let Some(oldest) = kept.front().filter(|_| kept.len() >= CHECKPOINTS_KEPT) else { return Ok(()) };
        self.log.remove_before(oldest.segment)?;
        self.answers.remove_upto(oldest.batch)?;
        for source in &self.sources {
            let below = oldest.positions.get(&source.name).cloned().unwrap_or_else(Positions::new);
            match source.source.release(&below).await {
                // The next checkpoint says it again.
                Err(error) if error.kind() == ErrorKind::Retry => {}
                done => done.map_err(|e| e.at(format_args!("source \"{}\"", source.name)))?,
            }
        }
        Ok(())
    }
}
