//! The loop: intend, run, publish, commit.

use std::sync::Arc;
use std::time::Duration;

use crate::batch::{Account, BatchId, Commit, Dropped, Intent};
use crate::clock::Clock;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::log::{AnswerLog, BatchLog, DroppedLog, History, Stopped, add};
use crate::runner::{Outcome, Runner};
use crate::sink::{Owner, Sink};
use crate::watermark::Timeline;

use super::QuerySource;
use super::checkpoint::Checkpoints;
use super::config::QueryConfig;
use super::intend::{SourcePositions, SourceStamps, advance, remember};
use super::progress::{Board, Phases, Progress, QueryState};
use super::retry::Stop;
use super::trigger::Pace;

/// A query that runs.
pub(super) struct Run {
    pub(super) config: QueryConfig,
    pub(super) sources: Vec<QuerySource>,
    pub(super) runner: Box<dyn Runner>,
    pub(super) sink: Box<dyn Sink>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) log: BatchLog,
    pub(super) dropped: DroppedLog,
    pub(super) answers: AnswerLog,
    pub(super) owner: Owner,
    pub(super) known: Known,
    pub(super) checkpoints: Checkpoints,
    pub(super) pace: Pace,
    pub(super) board: Board,
    pub(super) stop: Stop,
}

/// Everything that is known after a batch.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// The batch.
    pub(super) batch: BatchId,
    /// Its time, in microseconds since 1970-01-01 UTC.
    pub(super) time_us: i64,
    pub(super) timeline: Timeline,
    pub(super) positions: SourcePositions,
    pub(super) stamps: SourceStamps,
    pub(super) totals: Vec<Account>,
    pub(super) rows_out: u64,
    /// The last batch that the sink was given.
    pub(super) published: Option<BatchId>,
}

/// A batch that was run.
pub(super) struct Ran {
    pub(super) outcome: Outcome,
    pub(super) digest: Digest,
}

/// The time that had passed at the end of each phase.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    pub(super) begun: Duration,
    pub(super) intended: Duration,
    pub(super) ran: Duration,
    pub(super) published: Duration,
}

impl Run {
    pub(super) async fn run_to_end(mut self, history: Option<History>) -> Result<()> {
        self.recover(history).await?;
        self.resume_sources();
        while let Some(intent) = self.next_intent().await? {
            let intended = self.clock.elapsed();

            // INTEND. The commit of the batch before rides in the same fsync, which overlaps the run.
            self.log.roll_if_full().await?;
            self.log.intend(&intent)?;
            let stored = self.log.sync()?;

            // RUN. Rows that make an expression fail are found, left out, and recorded; so is what tables that are read
            // as they are have answered.
            let (stored, ran) = futures::join!(stored, self.run_amended(&intent, Vec::new(), None));
            // IMPORTANT: nothing of a batch is shown before its intent is durable.
            stored?;
            let ran = ran?;
            self.retire().await?;
            let ran_at = self.clock.elapsed();

            // PUBLISH. The dropped rows become durable beside it.
            let dropped = self.store_dropped(&intent, &ran.outcome.dropped).await?;
            let (dropped, published) = futures::join!(dropped, self.publish(intent.batch, &ran));
            dropped?;
            published?;
            let published = self.clock.elapsed();

            // COMMIT. Staged state becomes state.
            let marks = Marks { begun: self.pace.begun, intended, ran: ran_at, published };
            self.commit(&intent, ran, marks)?;
            self.checkpoint_if_due().await?;
        }
        self.finish().await
    }

    /// Tells the sources where they go on, and what was read last.
    fn resume_sources(&self) {
        let (positions, stamps) = (&self.known.positions, &self.known.stamps);
        for source in &self.sources {
            if let (Some(at), Some(stamps)) = (positions.get(&source.name), stamps.get(&source.name)) {
                source.source.resume(at, stamps);
            }
        }
    }

    /// Installs what was staged, and takes the batch into what is known.
    fn commit(&mut self, intent: &Intent, ran: Ran, marks: Marks) -> Result<()> {
        let Ran { outcome, digest, .. } = ran;
        let rows_out = outcome.output.rows();
        let Outcome { account, watermarks, .. } = outcome;
        let lag = self.pace.lag;
        let commit = Commit { batch: intent.batch, digest, rows_out, account, watermarks, lag };
        self.log.commit(&commit)?;
        self.runner.install();
        self.take_in(intent, &commit);
        self.checkpoints.work = self.checkpoints.work.saturating_add(marks.ran.saturating_sub(marks.intended));
        self.report(&commit, marks, Replayed::No);
        Ok(())
    }

    /// What is known after this batch.
    pub(super) fn take_in(&mut self, intent: &Intent, commit: &Commit) {
        let known = &mut self.known;
        known.batch = intent.batch;
        known.time_us = intent.time_us;
        known.timeline.advance(intent, &commit.watermarks);
        advance(&mut known.positions, intent);
        remember(&mut known.stamps, intent);
        add(&mut known.totals, &commit.account);
        known.rows_out += commit.rows_out;
    }

    pub(super) fn report(&self, commit: &Commit, marks: Marks, replayed: Replayed) {
        let now = self.clock.elapsed();
        self.board.batch(Progress {
            batch: commit.batch,
            time_us: self.clock.now_us(),
            rows_in: commit.account.iter().map(|a| a.read).sum(),
            rows_out: commit.rows_out,
            account: commit.account.clone(),
            totals: self.known.totals.clone(),
            total_rows_out: self.known.rows_out,
            duration: now.saturating_sub(marks.begun),
            phases: Phases {
                intend: marks.intended.saturating_sub(marks.begun),
                run: marks.ran.saturating_sub(marks.intended),
                publish: marks.published.saturating_sub(marks.ran),
                commit: now.saturating_sub(marks.published),
            },
            frontier: self.known.timeline.frontier(),
            lag: self.pace.lag,
            replayed: replayed == Replayed::Yes,
        });
    }

    /// Writes the dropped rows of a batch, if there are any. The future makes them durable.
    async fn store_dropped(
        &mut self,
        intent: &Intent,
        rows: &[Dropped],
    ) -> Result<futures::future::BoxFuture<'static, Result<()>>> {
        if rows.is_empty() {
            return Ok(Box::pin(std::future::ready(Ok(()))));
        }
        Ok(Box::pin(self.dropped.write(intent.batch, rows).await?))
    }

    /// Stops cleanly: nothing is left to run again.
    async fn finish(&mut self) -> Result<()> {
        self.checkpoint_at_end().await?;
        self.sink.close().await.map_err(|e| e.at("the sink can't be closed"))?;
        let ended = self.known.timeline.ended();
        self.log.stopped(&Stopped { time_us: self.clock.now_us(), ended })?;
        self.log.sync()?.await?;
        self.board.state(if ended { QueryState::Ended } else { QueryState::Stopped });
        Ok(())
    }
}

/// Whether a batch was run before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replayed {
    Yes,
    No,
}

/// Checks what a runner answers: the account must add up, and name what was dropped.
pub(super) fn check_outcome(intent: &Intent, outcome: &mut Outcome) -> Result<()> {
    let fault = |what: String| {
        Err(Error::bug(format!("batch {}: {what}: the runner breaks its contract; please report it", intent.batch)))
    };
    if !outcome.account.iter().map(|a| &a.source).eq(intent.sources.iter().map(|s| &s.source)) {
        return fault("the account doesn't name the sources of the intent".into());
    }
    for (account, part) in outcome.account.iter_mut().zip(&intent.sources) {
        account.lost = part.ranges.iter().map(|range| range.lost).sum();
        let dropped = outcome.dropped.iter().filter(|d| d.source == account.source).count() as u64;
        if !account.balances() || dropped != account.rejected + account.late {
            return fault(format!("the account doesn't add up: {account:?}, and {dropped} dropped rows"));
        }
    }
    Ok(())
}
