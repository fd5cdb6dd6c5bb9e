//! When a batch begins: at once, at an interval, or until nothing is left. Waiting happens here and nowhere else.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;

use crate::batch::{Intent, PartitionId};
use crate::error::{ErrorKind, Result};
use crate::source::{Boundedness, Offer};
use crate::watermark::PartitionStatus;

use super::intend::{Offered, intend, share, worth_running};
use super::progress::QueryState;
use super::retry::Pauses;
use super::run::Run;

/// When a batch begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trigger {
    /// One after the other until there is nothing left to read; then the query stops.
    AvailableNow,
    /// Not before so much time has passed since the last one began.
    Interval(Duration),
    /// As soon as there is something to read.
    #[default]
    Continuous,
}

/// How long a window over the clock is waited for without a look at the clock.
const CLOCK_LOOK: Duration = Duration::from_secs(1);

/// What the waiting remembers between batches: moments by [`crate::clock::Clock::elapsed`].
#[derive(Debug)]
pub(super) struct Pace {
    /// When the sources were asked for the current batch.
    pub(super) begun: Duration,
    /// How much there is left to read.
    pub(super) lag: Option<u64>,
    /// When this process began.
    started: Duration,
    /// When the last batch of this process began.
    last: Option<Duration>,
    /// When there was first nothing to do after the last batch.
    rested: Option<Duration>,
    /// When a partition was last seen to have rows; by source.
    last_rows: BTreeMap<String, BTreeMap<PartitionId, Duration>>,
}

impl Pace {
    pub(super) fn new(now: Duration) -> Self {
        Self { begun: now, lag: None, started: now, last: None, rested: None, last_rows: BTreeMap::new() }
    }
}

impl Run {
    /// The next batch, when it is time for it. `None` where every source has ended, or the query is to stop.
    pub(super) async fn next_intent(&mut self) -> Result<Option<Intent>> {
        loop {
            self.wait_for_interval().await?;
            if self.known.timeline.ended() || self.stop.requested() {
                return Ok(None);
            }
            self.pace.begun = self.clock.elapsed();
            let offered = self.offers().await?;
            self.pace.lag = offered.iter().map(|o| o.offer.lag).sum();
            let known = &self.known;
            // The time of batches never goes back, though the machine's clock may.
            let time_us = self.clock.now_us().max(known.time_us);
            let mut intent = intend(known.batch.next(), time_us, &known.timeline, &known.positions, offered)?;
            let due = self.runner.due_us().is_some_and(|due_us| due_us <= time_us);
            if due || worth_running(&intent, &known.timeline) {
                intent.pinned = self.pinned().await?;
                self.note_rows(&intent);
                self.pace.last = Some(self.pace.begun);
                self.pace.rested = None;
                return Ok(Some(intent));
            }
            if self.config.trigger == Trigger::AvailableNow {
                return Ok(None);
            }
            self.rest().await?;
        }
    }

    async fn wait_for_interval(&mut self) -> Result<()> {
        let Trigger::Interval(interval) = self.config.trigger else { return Ok(()) };
        let Some(last) = self.pace.last else { return Ok(()) };
        let left = interval.saturating_sub(self.clock.elapsed().saturating_sub(last));
        if left > self.config.commit_linger && self.log.has_pending() {
            self.log.sync()?.await?;
            self.retire().await?;
        }
        if !left.is_zero() {
            futures::select_biased! {
                () = self.stop.wait().fuse() => {}
                () = self.clock.sleep(left).fuse() => {}
            }
        }
        Ok(())
    }

    /// Asks every source what it has.
    async fn offers(&mut self) -> Result<Vec<Offered>> {
        let limit = share(self.config.limit, self.sources.len());
        let mut offered = Vec::with_capacity(self.sources.len());
        for i in 0..self.sources.len() {
            let Some(source) = self.sources.get(i).cloned() else { continue };
            // Lent for the question: there may be thousands of partitions, and this is asked for every batch.
            let from = std::mem::take(self.known.positions.entry(source.name.clone()).or_default());
            let mut pauses = Pauses::default();
            let offer = loop {
                let error = match source.source.offer(&from, limit).await {
                    Ok(offer) => break offer,
                    Err(error) => error.at(format_args!("source \"{}\"", source.name)),
                };
                if error.kind() != ErrorKind::Retry {
                    return Err(error);
                }
                self.pause(&mut pauses, "asking a source", error).await?;
            };
            self.known.positions.insert(source.name.clone(), from);
            let idle = self.idle(&source.name, source.source.boundedness(), &offer);
            let resting = self.first_deadline(&source.name).is_some_and(|at| at <= self.pace.begun);
            offered.push(Offered { source: source.name, offer, idle, resting });
        }
        Ok(offered)
    }

    /// The versions of the tables that are read as they are.
    async fn pinned(&mut self) -> Result<BTreeMap<String, String>> {
        let mut pauses = Pauses::default();
        loop {
            match self.runner.pin().await {
                Err(error) if error.kind() == ErrorKind::Retry => {
                    self.pause(&mut pauses, "looking at a table", error).await?;
                }
                pinned => return pinned,
            }
        }
    }

    /// The active partitions of a source that have rested for longer than its idle time-out.
    fn idle(&self, source: &str, boundedness: Boundedness, offer: &Offer) -> Vec<PartitionId> {
        // A partition without a range may only have been crowded out by others, save where nothing is left.
        let at_end = offer.ranges.is_empty() || offer.lag == Some(0);
        if boundedness == Boundedness::Bounded || !at_end {
            return Vec::new();
        }
        let now = self.pace.begun;
        self.deadlines(source).filter(|(_, at)| *at <= now).map(|(id, _)| id.clone()).collect()
    }

    /// When each active partition of a source will have rested for long enough.
    fn deadlines<'a>(&'a self, source: &str) -> impl Iterator<Item = (&'a PartitionId, Duration)> {
        let timeout = self.config.idle_timeouts.get(source).copied();
        let last_rows = self.pace.last_rows.get(source);
        let started = self.pace.started;
        let partitions = timeout.and(self.known.timeline.sources.get(source)).map(|time| &time.partitions);
        let active = partitions.into_iter().flatten().filter(|(_, time)| time.status == PartitionStatus::Active);
        active.filter_map(move |(id, _)| {
            let last = last_rows.and_then(|rows| rows.get(id)).copied().unwrap_or(started);
            Some((id, last.saturating_add(timeout?)))
        })
    }

    /// When a source will have had no partition for long enough, where it holds the frontier back until then.
    fn first_deadline(&self, source: &str) -> Option<Duration> {
        let timeout = self.config.idle_timeouts.get(source)?;
        let time = self.known.timeline.sources.get(source)?;
        let waited_for = time.event_time && time.partitions.is_empty() && !time.closed && !time.resting;
        waited_for.then(|| self.pace.started.saturating_add(*timeout))
    }

    fn note_rows(&mut self, intent: &Intent) {
        for part in intent.sources.iter().filter(|part| self.config.idle_timeouts.contains_key(&part.source)) {
            let last_rows = self.pace.last_rows.entry(part.source.clone()).or_default();
            for id in part.ranges.iter().map(|range| &range.partition).chain(&part.discovered) {
                last_rows.insert(id.clone(), self.pace.begun);
            }
        }
    }

    /// Waits until there may be something to do. A commit that nobody joins is flushed meanwhile.
    async fn rest(&mut self) -> Result<()> {
        self.board.state(QueryState::Resting);
        let now = self.clock.elapsed();
        // A source may wake us again and again for nothing: that must not keep a commit from the disk.
        let rested = now.saturating_sub(*self.pace.rested.get_or_insert(now));
        if rested >= self.config.commit_linger && self.log.has_pending() {
            self.log.sync()?.await?;
            self.retire().await?;
        }
        let followed = self.sources.iter().filter(|s| s.source.boundedness() == Boundedness::Followed);
        let deadlines = followed.flat_map(|s| {
            let of_partitions = self.deadlines(&s.name).map(|(_, at)| at);
            // One that has passed since the sources were asked is not waited for.
            of_partitions.chain(self.first_deadline(&s.name)).filter(|at| *at > self.pace.begun)
        });
        // The clock may be set meanwhile: it is looked at again.
        let due = self.runner.due_us().map(|due_us| due_us.saturating_sub(self.clock.now_us()));
        let due = due.map(|us| Duration::from_micros(u64::try_from(us).unwrap_or(0)).min(CLOCK_LOOK));
        let idle = deadlines.map(|at| at.saturating_sub(now)).chain(due).min();
        let linger = self.log.has_pending().then(|| self.config.commit_linger.saturating_sub(rested));
        let flush_first = linger.is_some_and(|linger| idle.is_none_or(|idle| linger <= idle));
        let pause = if flush_first { linger } else { idle };

        let sources: Vec<_> = self.sources.iter().map(|s| s.source.clone()).collect();
        let ready = futures::future::select_all(sources.iter().map(|source| source.ready()));
        let clock = self.clock.clone();
        let sleep = async {
            match pause {
                Some(pause) => clock.sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        futures::select_biased! {
            () = self.stop.wait().fuse() => {}
            _ = ready.fuse() => {}
            () = self.checkpoints.stored().fuse() => self.checkpoint_if_due().await?,
            () = sleep.fuse() => if flush_first {
                self.log.sync()?.await?;
                self.retire().await?;
            },
        }
        Ok(())
    }
}
