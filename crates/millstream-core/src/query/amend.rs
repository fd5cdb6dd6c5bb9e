//! Rows that make an expression fail: found without publishing, left out, recorded.
//!
//! A batch whose run fails with [`ErrorKind::Row`] is run over prefixes of its used rows until the shortest one that
//! fails is known; its last row is the one. The rows found are recorded durably (AMEND) before anything of the batch
//! is published, so that it is the same batch whenever it is run again.

use crate::batch::{Amend, Dropped, Intent};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::runner::{Outcome, Task};

use super::config::OnError;
use super::retry::Pauses;
use super::run::{Ran, Run, check_outcome};

impl Run {
    /// Runs a batch without these rows, and without those that make an expression fail.
    pub(super) async fn run_amended(&mut self, intent: &Intent, left_out: Vec<Dropped>) -> Result<Ran> {
        let known = left_out.len();
        let mut left_out = left_out;
        // So many used rows are known not to fail.
        let mut good = 0;
        let mut outcome = loop {
            match self.attempt(intent, &left_out, None).await {
                Ok(outcome) => break outcome,
                Err(error) if error.kind() == ErrorKind::Row => {
                    let (row, reason) = self.find_poison(intent, &left_out, &mut good, error).await?;
                    let row = Dropped { reason, ..row };
                    self.check_poison(intent, &left_out, &row)?;
                    left_out.push(row);
                }
                Err(error) => return Err(error.at(format_args!("batch {}", intent.batch))),
            }
        };
        check_outcome(intent, &mut outcome)?;
        if left_out.len() > known {
            self.log.amend(&Amend { batch: intent.batch, left_out })?;
            self.log.sync()?.await?;
        }
        let digest = Digest::of(&outcome.output.batches).map_err(|e| e.at(format_args!("batch {}", intent.batch)))?;
        Ok(Ran { outcome, digest })
    }

    /// Runs a batch, or the first so many of its used rows, as often as it takes. An error leaves nothing staged.
    async fn attempt(&mut self, intent: &Intent, left_out: &[Dropped], take: Option<u64>) -> Result<Outcome> {
        let mut pauses = Pauses::default();
        loop {
            let task = Task { intent, timeline: &self.known.timeline, left_out, take };
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

    /// The last row of the shortest prefix that fails, and why it does.
    async fn find_poison(
        &mut self,
        intent: &Intent,
        left_out: &[Dropped],
        good: &mut u64,
        whole: Error,
    ) -> Result<(Dropped, String)> {
        let (mut bad, mut step, mut reason) = (None, 1, whole.to_string());
        loop {
            let next = match bad {
                None => *good + step,
                Some(bad) if bad - *good > 1 => *good + (bad - *good) / 2,
                Some(bad) => return Ok((self.used_row(intent, left_out, bad - 1).await?, reason)),
            };
            match self.attempt(intent, left_out, Some(next)).await {
                Ok(outcome) => {
                    self.runner.discard();
                    if outcome.account.iter().map(|a| a.used).sum::<u64>() < next && bad.is_none() {
                        return Err(Error::query(format!(
                            "batch {}: an expression fails, but on no row of the input: it fails on a result. Guard it in \
                             the query (NULLIF, TRY_CAST, CASE)",
                            intent.batch
                        ))
                        .caused_by(whole));
                    }
                    *good = next;
                    step *= 2;
                }
                Err(error) if error.kind() == ErrorKind::Row => {
                    bad = Some(next);
                    reason = error.to_string();
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn used_row(&mut self, intent: &Intent, left_out: &[Dropped], n: u64) -> Result<Dropped> {
        let task = Task { intent, timeline: &self.known.timeline, left_out, take: None };
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
