//! The decision what a batch is: a pure function of what is known and what the sources offer.

use std::collections::{BTreeMap, BTreeSet};

use crate::batch::{BatchId, Intent, PartitionId, Positions, SourceIntent, Stamps};
use crate::error::{Error, Result};
use crate::source::{Limit, Offer};
use crate::watermark::{PartitionStatus, Timeline};

/// How far each source was read, by its name in the query.
pub type SourcePositions = BTreeMap<String, Positions>;

/// What was recorded of the partitions of each source when they were last read, by its name in the query.
pub type SourceStamps = BTreeMap<String, Stamps>;

/// What one source has for the next batch.
#[derive(Clone, Debug, Default)]
pub struct Offered {
    /// The source's name in the query.
    pub source: String,
    /// What it offers.
    pub offer: Offer,
    /// Active partitions that have rested for longer than the idle time-out.
    pub idle: Vec<PartitionId>,
    /// Whether the source has had no partition for that long.
    pub resting: bool,
}

/// The share of a batch's limit for each of so many sources.
pub fn share(limit: Limit, sources: usize) -> Limit {
    let sources = (sources as u64).max(1);
    Limit { rows: (limit.rows / sources).max(1), bytes: (limit.bytes / sources).max(1) }
}

/// Decides the next batch: everything that is offered, and what that makes known of the partitions.
///
/// # Errors
/// [`crate::ErrorKind::Bug`] where an offer breaks the contract of [`crate::source::Source`].
pub fn intend(
    batch: BatchId,
    time_us: i64,
    timeline: &Timeline,
    positions: &SourcePositions,
    offered: Vec<Offered>,
) -> Result<Intent> {
    let mut sources = Vec::with_capacity(offered.len());
    for Offered { source, offer, mut idle, resting } in offered {
        check_offer(&source, positions.get(&source), &offer)?;
        let time = timeline.sources.get(&source);
        let known = |id: &PartitionId| time.is_some_and(|t| t.partitions.contains_key(id));
        let status = |id: &PartitionId| time.and_then(|t| t.partitions.get(id)).map(|p| p.status);
        let mut seen = BTreeSet::new();
        let named = offer.partitions.iter().chain(&offer.finished).chain(offer.ranges.iter().map(|r| &r.partition));
        let discovered: Vec<_> = named.filter(|id| !known(id) && seen.insert((*id).clone())).cloned().collect();
        let resting = resting && discovered.is_empty();
        let mut finished = offer.finished;
        finished.retain(|id| status(id) != Some(PartitionStatus::Finished));
        let read: BTreeSet<_> = offer.ranges.iter().map(|r| r.partition.clone()).collect();
        idle.retain(|id| !read.contains(id) && !finished.contains(id) && status(id) == Some(PartitionStatus::Active));
        let closed = offer.closed && !time.is_some_and(|t| t.closed);
        sources.push(SourceIntent { source, ranges: offer.ranges, discovered, idle, resting, finished, closed });
    }
    Ok(Intent { batch, time_us, frontier: timeline.frontier(), sources, pinned: BTreeMap::new() })
}

/// Whether the batch has rows, or changes what the runner knows of time.
pub fn worth_running(intent: &Intent, timeline: &Timeline) -> bool {
    let facts = |s: &SourceIntent| {
        s.closed || s.resting || !(s.discovered.is_empty() && s.idle.is_empty() && s.finished.is_empty())
    };
    if intent.sources.iter().any(|s| !s.ranges.is_empty()) {
        return true;
    }
    if !intent.sources.iter().any(facts) {
        return false;
    }
    let mut after = timeline.clone();
    after.advance(intent, &BTreeMap::new());
    after.frontier() != timeline.frontier() || after.ended() != timeline.ended()
}

/// Moves the positions behind the ranges of a batch.
pub fn advance(positions: &mut SourcePositions, intent: &Intent) {
    for part in &intent.sources {
        let positions = positions.entry(part.source.clone()).or_default();
        for range in &part.ranges {
            positions.insert(range.partition.clone(), range.end);
        }
    }
}

/// Takes in what was recorded of the partitions of a batch.
pub(super) fn remember(stamps: &mut SourceStamps, intent: &Intent) {
    for part in &intent.sources {
        for range in part.ranges.iter().filter(|range| !range.stamp.is_empty()) {
            let stamps = stamps.entry(part.source.clone()).or_default();
            stamps.insert(range.partition.clone(), range.stamp.clone());
        }
    }
}

fn check_offer(source: &str, from: Option<&Positions>, offer: &Offer) -> Result<()> {
    let mut seen = BTreeSet::new();
    for range in &offer.ranges {
        let from = from.and_then(|p| p.get(&range.partition)).copied().unwrap_or_default();
        let fault = if range.start.offset >= range.end.offset {
            "is empty"
        } else if range.start.offset < from.offset {
            "begins before what was already read"
        } else if !seen.insert(&range.partition) {
            "is the second one of its partition"
        } else {
            continue;
        };
        return Err(Error::bug(format!(
            "the source \"{source}\" offered a range of partition {} from {} to {} that {fault}: its connector breaks \
             the contract of Source::offer",
            range.partition, range.start.offset, range.end.offset,
        )));
    }
    Ok(())
}
