//! Goes on where the log ends.
//!
//! The newest checkpoint that can be read is restored, and the recorded batches after it are run again: silently those
//! that the sink has, published those that it hasn't. At the end everything is as if the process had never died.

use std::time::Duration;

use crate::batch::{BatchId, Commit};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::log::{Checkpoint, Entry, History};
use crate::runner::Answers;
use crate::sink::{Guarantee, Marker};

use super::progress::Recovery;
use super::run::{Known, Marks, Ran, Replayed, Run};

impl Run {
    /// Makes the query what it was after the last batch of its log.
    pub(super) async fn recover(&mut self, history: Option<History>) -> Result<()> {
        let marker = self.open_sink().await?;
        let Some(history) = history else {
            return match &marker {
                None => Ok(()),
                Some(marker) => Err(ahead(marker, BatchId(0))),
            };
        };
        self.recover_from(&history, marker).await?;
        // IMPORTANT: at the end. What failed so far is still the other query's.
        self.log.adopt().await
    }

    async fn recover_from(&mut self, history: &History, marker: Option<Marker>) -> Result<()> {
        if let Some(marker) = marker.as_ref().filter(|marker| marker.batch > history.last_batch()) {
            return Err(ahead(marker, history.last_batch()));
        }
        let mut recovery = Recovery { last: history.last_batch(), ..Recovery::default() };
        let base = self.restore_newest(history, marker.as_ref(), &mut recovery).await?;
        self.board.recovery(recovery.clone());
        let Some(entries) = history.batches_after(base) else {
            return Err(Error::bug(format!("the batches after {base} were known, and are not any more")));
        };
        let answers = self.answers.recorded(base).await?;
        let mut entries = entries.peekable();
        while let Some(entry) = entries.next() {
            let publish = self.must_publish(entry, marker.as_ref());
            let answers = answers.of(&entry.intent)?;
            self.replay(entry, publish, marker.as_ref(), answers).await?;
            recovery.replayed += 1;
            recovery.published +=
                u64::from(publish == Publish::Yes && self.known.published == Some(entry.intent.batch));
            self.board.recovery(recovery.clone());
            self.checkpoints.next_segment = entries.peek().map(|next| next.segment);
            if !self.log.adopts() {
                self.checkpoint_if_due().await?;
                // What is run again for long is not begun anew by whoever dies in its midst, and the next checkpoint waits
                // for this one to be durable.
                if self.checkpoints.unretired {
                    self.log.sync()?.await?;
                    self.retire().await?;
                }
            }
        }
        Ok(())
    }

    /// Restores the newest checkpoint that can be read, from which on the sink can be served; else begins anew.
    async fn restore_newest(
        &mut self,
        history: &History,
        marker: Option<&Marker>,
        recovery: &mut Recovery,
    ) -> Result<BatchId> {
        let exactly = self.sink.guarantee() == Guarantee::ExactlyOnce || marker.is_some();
        let mut why = None;
        for (i, checkpoint) in history.checkpoints.iter().enumerate().rev() {
            if exactly && let Err(error) = serves(checkpoint, marker) {
                why = Some(error);
                continue;
            }
            if history.batches_after(checkpoint.batch).is_none() {
                why = Some(missing(history, checkpoint.batch));
                continue;
            }
            match self.restore(checkpoint).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    recovery.passed_over.get_or_insert_with(|| error.to_string());
                    why = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            }
            self.checkpoints.kept = history.checkpoints.iter().take(i + 1).cloned().collect();
            recovery.checkpoint = Some(checkpoint.batch);
            self.board.checkpoint(checkpoint.batch);
            return Ok(checkpoint.batch);
        }
        // A log of which nothing was removed can be run again from its first batch.
        let from_start = history.checkpoints.len() < crate::log::CHECKPOINTS_KEPT && history.hole.is_none();
        if from_start && history.batches_after(BatchId(0)).is_some() {
            return Ok(BatchId(0));
        }
        Err(why.unwrap_or_else(|| missing(history, BatchId(0))))
    }

    async fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let theirs = &checkpoint.timeline.sources;
        if theirs.len() != self.sources.len() || !self.sources.iter().all(|s| theirs.contains_key(&s.name)) {
            let theirs: Vec<_> = theirs.keys().map(|name| format!("\"{name}\"")).collect();
            return Err(Error::query(format!(
                "the checkpoint of batch {} is of a query that reads {}: start the query with the sources it had, or anew \
                 in another directory",
                checkpoint.batch,
                theirs.join(", "),
            )));
        }
        match (&checkpoint.manifest, self.runner.state()) {
            (Some(manifest), Some(state)) => {
                let place = format!("checkpoint of batch {}", checkpoint.batch);
                state.restore(manifest).await.map_err(|e| e.at(place))?;
            }
            (None, None) => {}
            (manifest, _) => {
                let (had, has) = if manifest.is_some() { ("some", "none") } else { ("none", "some") };
                return Err(Error::query(format!(
                    "the checkpoint of batch {} is of a query that keeps {had} state, and this one keeps {has}: start it \
                     anew in another directory",
                    checkpoint.batch,
                )));
            }
        }
        let Checkpoint { batch, time_us, timeline, positions, stamps, totals, rows_out, published, .. } =
            checkpoint.clone();
        self.known = Known { batch, time_us, timeline, positions, stamps, totals, rows_out, published };
        Ok(())
    }

    fn must_publish(&self, entry: &Entry, marker: Option<&Marker>) -> Publish {
        let there = match (marker, self.sink.guarantee()) {
            (Some(marker), _) => entry.intent.batch <= marker.batch,
            // Without a marker there is only our own word, and a batch without it is published again.
            (None, Guarantee::AtLeastOnce) => entry.commit.is_some(),
            (None, _) => false,
        };
        if there { Publish::No } else { Publish::Yes }
    }

    /// Runs a recorded batch again.
    async fn replay(
        &mut self,
        entry: &Entry,
        publish: Publish,
        marker: Option<&Marker>,
        answers: Option<&Answers>,
    ) -> Result<()> {
        let Entry { intent, left_out, commit, .. } = entry;
        let marker = marker.filter(|marker| marker.batch == intent.batch);
        let begun = self.clock.elapsed();
        // Without state, what is known of a batch and in the sink need not be run again.
        if let (Publish::No, Some(commit), true) = (publish, commit, self.runner.state().is_none()) {
            self.check_digest(intent.batch, commit.digest, marker.map(|m| m.digest))?;
            if commit.rows_out > 0 {
                self.known.published = Some(intent.batch);
            }
            self.take_in(intent, commit);
            return Ok(());
        }
        let ran = self.run_amended(intent, left_out.clone(), answers).await?;
        let ran_at = self.clock.elapsed();
        if let Some(commit) = commit {
            self.check_digest(intent.batch, ran.digest, Some(commit.digest))?;
            if commit.account != ran.outcome.account {
                let (new, old) = (&ran.outcome.account, &commit.account);
                self.diverged(intent.batch, &format!("another account ({new:?}, it was {old:?})"))?;
            }
        }
        self.check_digest(intent.batch, ran.digest, marker.map(|m| m.digest))?;
        match publish {
            Publish::Yes => self.publish(intent.batch, &ran).await?,
            Publish::No if marker.is_some() || ran.outcome.output.rows() > 0 => {
                self.known.published = Some(intent.batch);
            }
            Publish::No => {}
        }
        let Ran { outcome, digest, .. } = ran;
        let rows_out = outcome.output.rows();
        // What there was to read was known when it was first run.
        let lag = commit.as_ref().and_then(|commit| commit.lag);
        let (account, watermarks) = (outcome.account, outcome.watermarks);
        let replayed = Commit { batch: intent.batch, digest, rows_out, account, watermarks, lag };
        if commit.as_ref() != Some(&replayed) {
            // Even where nothing was dropped: an earlier attempt may have left rows that no longer hold.
            self.dropped.write(intent.batch, &outcome.dropped).await?.await?;
            self.log.commit(&replayed)?;
        }
        self.runner.install();
        self.take_in(intent, &replayed);
        self.checkpoints.work = self.checkpoints.work.saturating_add(ran_at.saturating_sub(begun));
        let marks = Marks { begun, intended: begun, ran: ran_at, published: self.clock.elapsed() };
        self.report(&replayed, marks, Replayed::Yes);
        Ok(())
    }

    /// A batch that is run again gives the rows that were published.
    fn check_digest(&mut self, batch: BatchId, digest: Digest, published: Option<Digest>) -> Result<()> {
        match published.filter(|published| *published != digest) {
            None => Ok(()),
            Some(published) => {
                self.diverged(batch, &format!("other rows (digest {digest}, published was {published})"))
            }
        }
    }

    /// A batch, run again, went another way than the log says.
    fn diverged(&mut self, batch: BatchId, what: &str) -> Result<()> {
        if self.config.accept_divergence {
            // What went another way must not be run again once more.
            self.checkpoints.work = Duration::MAX / 2;
            return Ok(());
        }
        Err(Error::diverged(format!(
            "batch {batch}, run again, gives {what}: the engine, a function or the input behaves differently now. Start \
             with what ran before; or go on from the new state with --accept-divergence: what was published stands",
        )))
    }
}

/// Whether a batch that is run again is given to the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Publish {
    Yes,
    No,
}

/// Whether everything that a sink with this marker is missing comes after the checkpoint.
fn serves(checkpoint: &Checkpoint, marker: Option<&Marker>) -> Result<()> {
    let has = marker.map(|marker| marker.batch);
    let text = |batch: Option<BatchId>| batch.map_or("nothing".to_string(), |batch| format!("batch {batch}"));
    if has < checkpoint.published {
        return Err(Error::corrupt(format!(
            "the sink has {}, but batch {} was published to it, and what lies between can't be run again: the log goes back \
             to batch {} only. Put the sink back to where it was, or start anew in another directory with an empty sink",
            text(has),
            checkpoint.published.unwrap_or_default(),
            checkpoint.batch,
        )));
    }
    if has > checkpoint.published && has <= Some(checkpoint.batch) {
        return Err(Error::corrupt(format!(
            "the sink has {}, but by the checkpoint of batch {} the last one published was {}: the sink or the log was \
             exchanged. Put them back as they were, or start anew in another directory with an empty sink",
            text(has),
            checkpoint.batch,
            text(checkpoint.published),
        )));
    }
    Ok(())
}

fn ahead(marker: &Marker, last: BatchId) -> Error {
    Error::corrupt(format!(
        "the sink has batch {}, but the log ends with batch {last}: records of the log are lost, or another \
         run, from a copy of this log, went on from here: then stop one of the two, and start with the log that goes \
         furthest. Else put its directory back from a copy, or start anew in another directory with an empty sink; what \
         the sink has stands",
        marker.batch,
    ))
}

fn missing(history: &History, after: BatchId) -> Error {
    let hole = history.hole.as_ref().map(|name| format!(" ({name} is missing)")).unwrap_or_default();
    Error::corrupt(format!(
        "the batches after {after} can't be run again, because the log doesn't reach back to them{hole}, and no newer \
         checkpoint can be restored. Put the directory back from a copy, or start anew in another directory with an empty \
         sink; what the sink has stands",
    ))
}
