//! Rows that make an expression fail: found without publishing, left out, recorded.
//!
//! A batch whose run fails with [`ErrorKind::Row`] is run over prefixes of its used rows until the shortest one that
//! fails is known; its last row is the one. The rows found are recorded durably (AMEND) before anything of the batch
//! is published, so that it is the same batch whenever it is run again.
//!
//! The prefixes are run without letting the event time move, so that no half-filled window closes and takes the blame.
//! Only where all rows pass like that, and it is what closes that fails, the event time is that after the batch, for
//! every prefix: were it the prefix's own, the row that moves it would be blamed for what others left in a window. What
//! fails then without a single row of the batch is a result of rows that were taken in before: no row is left out for
//! it, the query stops.
//!
//! What the batch was answered by tables that are read as they are is recorded before it is published, too.

use std::time::Duration;

use crate::batch::{Amend, Dropped, Intent};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::runner::{Answers, Outcome, Probe, ProbeTime, Task};

use super::config::OnError;
use super::retry::Pauses;
use super::run::{Ran, Run, check_outcome};

/// So many rows that are left out are recorded at once.
const RECORDED_TOGETHER: usize = 64;

/// How long the rows of a batch are looked for though the query is to stop: a search that is soon over is finished.
const SEARCH_WHILE_STOPPING: Duration = Duration::from_secs(5);

impl Run {
    /// Runs a batch without these rows, and without those that make an expression fail. Where it was run before, `answers`
    /// are what it was answered then.
    pub(super) async fn run_amended(
        &mut self,
        intent: &Intent,
        left_out: Vec<Dropped>,
        answers: Option<&Answers>,
    ) -> Result<Ran> {
        let mut recorded = left_out.len();
        let mut left_out = left_out;
        // So many used rows are known not to fail by themselves.
        let mut good = 0;
        let begun = self.clock.elapsed();
        let mut outcome = loop {
            match self.attempt(intent, &left_out, None, answers).await {
                Ok(outcome) => break outcome,
                Err(error) if error.kind() == ErrorKind::Row => {
                    let (row, reason) = self.find_poison(intent, &left_out, &mut good, answers, error).await?;
                    let row = Dropped { reason, ..row };
                    self.check_poison(intent, &left_out, &row)?;
                    left_out.push(row);
                    // What dies in the midst of a search that takes long does not begin it anew.
                    let over =
                        self.stop.requested() && self.clock.elapsed().saturating_sub(begun) >= SEARCH_WHILE_STOPPING;
                    if over || left_out.len() - recorded >= RECORDED_TOGETHER {
                        recorded = self.record(intent, &left_out).await?;
                    }
                    if over {
                        return Err(Error::retry(format!(
                            "batch {}: stopped while the rows were looked for on which an expression fails; {recorded} were \
                             found, and the next start goes on behind them",
                            intent.batch
                        )));
                    }
                }
                Err(error) => return Err(error.at(format_args!("batch {}", intent.batch))),
            }
        };
        check_outcome(intent, &mut outcome)?;
        if left_out.len() > recorded {
            self.record(intent, &left_out).await?;
        }
        if let Some(answers) = &outcome.answers {
            // IMPORTANT: nothing is shown of a batch whose answers could be lost.
            self.answers.write(intent, answers).await?.await?;
        }
        let digest = Digest::of(&outcome.output.batches).map_err(|e| e.at(format_args!("batch {}", intent.batch)))?;
        Ok(Ran { outcome, digest })
    }

    /// Stores durably which rows of a batch are left out; answers how many.
    async fn record(&mut self, intent: &Intent, left_out: &[Dropped]) -> Result<usize> {
        self.log.amend(&Amend { batch: intent.batch, left_out: left_out.to_vec() })?;
        self.log.sync()?.await?;
        Ok(left_out.len())
    }

    /// Runs a batch, or a part of it, as often as it takes. An error leaves nothing staged.
    async fn attempt(
        &mut self,
        intent: &Intent,
        left_out: &[Dropped],
        probe: Option<Probe>,
        answers: Option<&Answers>,
    ) -> Result<Outcome> {
        let mut pauses = Pauses::default();
        loop {
            let task = Task { intent, timeline: &self.known.timeline, left_out, probe, answers };
            let error = match self.runner.run(task).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            self.runner.discard();
            if error.kind() != ErrorKind::Retry {
                return Err(error);
            }
            self.pause(&mut pauses, "reading a batch", error).await?;
        }
    }

    /// The row to leave out, and why: of those that fail by themselves, or else of those whose results fail.
    async fn find_poison(
        &mut self,
        intent: &Intent,
        left_out: &[Dropped],
        good: &mut u64,
        answers: Option<&Answers>,
        whole: Error,
    ) -> Result<(Dropped, String)> {
        if let Some(failed) =
            self.fails(intent, left_out, Probe { rows: u64::MAX, time: ProbeTime::Before }, answers).await?
        {
            return self.shortest(intent, left_out, Search { good, time: ProbeTime::Before, failed, answers }).await;
        }
        if self.fails(intent, left_out, Probe { rows: 0, time: ProbeTime::After }, answers).await?.is_some() {
            return Err(Error::query(format!(
                "batch {}: an expression fails, but on no row of the batch: it fails on a result of rows that were taken \
                 in before. Guard it in the query (NULLIF, TRY_CAST, CASE)",
                intent.batch
            ))
            .caused_by(whole));
        }
        let search = Search { good: &mut 0, time: ProbeTime::After, failed: whole.to_string(), answers };
        self.shortest(intent, left_out, search).await
    }

    /// The last row of the shortest prefix that fails, and why it does.
    async fn shortest(
        &mut self,
        intent: &Intent,
        left_out: &[Dropped],
        search: Search<'_>,
    ) -> Result<(Dropped, String)> {
        let Search { good, time, failed: mut reason, answers } = search;
        let (mut bad, mut step) = (None, 1u64);
        loop {
            let rows = match bad {
                // Past the last row at the latest after 64 steps: all of them are known to fail.
                None => good.saturating_add(step),
                Some(bad) if bad - *good > 1 => *good + (bad - *good) / 2,
                Some(bad) => return Ok((self.used_row(intent, left_out, bad - 1).await?, reason)),
            };
            match self.fails(intent, left_out, Probe { rows, time }, answers).await? {
                Some(failed) => (bad, reason) = (Some(rows), failed),
                None if rows == u64::MAX => {
                    return Err(Error::bug(format!(
                        "batch {}: an expression fails ({reason}), and doesn't when the batch is run again",
                        intent.batch
                    )));
                }
                None => {
                    *good = rows;
                    step = step.saturating_mul(2);
                }
            }
        }
    }

    /// Why a part of a batch fails, if it does.
    async fn fails(
        &mut self,
        intent: &Intent,
        left_out: &[Dropped],
        probe: Probe,
        answers: Option<&Answers>,
    ) -> Result<Option<String>> {
        match self.attempt(intent, left_out, Some(probe), answers).await {
            Ok(_) => {
                self.runner.discard();
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::Row => Ok(Some(error.to_string())),
            Err(error) => Err(error),
        }
    }

    async fn used_row(&mut self, intent: &Intent, left_out: &[Dropped], n: u64) -> Result<Dropped> {
        let task = Task { intent, timeline: &self.known.timeline, left_out, probe: None, answers: None };
        let row = self.runner.used_row(task, n).await;
        self.runner.discard();
        let missing =
            || Error::bug(format!("batch {}: used row {n} makes an expression fail, but can't be found", intent.batch));
        Ok(row?.ok_or_else(missing)?.row)
    }

    fn check_poison(&self, intent: &Intent, left_out: &[Dropped], row: &Dropped) -> Result<()> {
        let Dropped { source, partition, place, reason, .. } = row;
        let place = format!("source \"{source}\", {partition}, row {}, offset {}", place.row, place.offset);
        if self.config.on_error == OnError::Stop {
            return Err(Error::row(format!(
                "{place}: {reason}. The query stops here because of 'on-error' = 'stop': mend the row, guard the \
                 expression, or start with 'on-error' = 'reject'"
            )));
        }
        if left_out.len() >= self.config.poison_rows_max {
            return Err(Error::row(format!(
                "batch {}: an expression fails on more than {} rows, lastly on {place}: {reason}. Guard it in the query \
                 (NULLIF, TRY_CAST, CASE)",
                intent.batch, self.config.poison_rows_max,
            )));
        }
        Ok(())
    }
}

/// What is known of a batch in which the shortest prefix that fails is looked for.
struct Search<'a> {
    /// So many rows are known not to fail.
    good: &'a mut u64,
    time: ProbeTime,
    /// Why all of them do.
    failed: String,
    answers: Option<&'a Answers>,
}
