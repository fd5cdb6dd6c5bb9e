//! The promises of [`millstream_core::source::Source`].

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt;
use millstream_core::Result;
use millstream_core::batch::{PartitionId, Positions, Range};
use millstream_core::source::{Boundedness, Chunk, Limit, Offer, Rejected, Source};

use super::promise;

/// What the source under test holds, where the caller knows it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// Rows that can be decoded.
    pub rows: Option<u64>,
    /// Rows that can't.
    pub rejected: Option<u64>,
}

/// The rows of a source by partition, one text a row, with their places.
type Rows = BTreeMap<PartitionId, Vec<String>>;

/// More batches than any test's data needs.
const BATCHES_MAX: usize = 100_000;

/// Checks a source. `fresh` makes it again over the same data, which doesn't change during the check.
///
/// Checked: offers respect the limit, are contiguous, not empty, and at most one a partition; a range opened again,
/// by the same source, by another one, or after a stream was dropped half-way, gives the same chunks; the rows don't
/// depend on how they were cut; places ascend; a bounded source names its partitions from the first offer, and all of
/// them finish; an offer that was not taken is made again.
///
/// # Errors
/// The first broken promise, or what the source itself answered.
pub async fn check<F>(fresh: F, expected: Expected) -> Result<()>
where
    F: Fn() -> Result<Arc<dyn Source>>,
{
    let all = walk(&fresh, Limit { rows: 1 << 40, bytes: 1 << 40 }).await?;
    for rows in [1, 2, 7, 100] {
        let cut = walk(&fresh, Limit { rows, bytes: 1 << 40 }).await?;
        promise(cut == all, "the rows don't depend on how they are cut", || {
            format!("with {rows} rows a batch: {}", difference(&cut, &all))
        })?;
    }
    for bytes in [1, 64, 4096] {
        let cut = walk(&fresh, Limit { rows: 1 << 40, bytes }).await?;
        promise(cut == all, "the rows don't depend on how they are cut", || {
            format!("with {bytes} bytes a batch: {}", difference(&cut, &all))
        })?;
    }
    let rejected = all.values().flatten().filter(|row| row.contains(" rejected ")).count() as u64;
    let rows = all.values().map(|rows| rows.len() as u64).sum::<u64>() - rejected;
    let wanted = (expected.rows.unwrap_or(rows), expected.rejected.unwrap_or(rejected));
    promise((rows, rejected) == wanted, "every row is read", || {
        format!("{rows} rows and {rejected} rejected ones, where {} and {} were expected", wanted.0, wanted.1)
    })
}

/// Reads everything in batches of this limit.
async fn walk<F>(fresh: &F, limit: Limit) -> Result<Rows>
where
    F: Fn() -> Result<Arc<dyn Source>>,
{
    let source = fresh()?;
    let mut positions = Positions::new();
    let mut rows = Rows::new();
    let mut first: Option<Vec<PartitionId>> = None;
    let mut finished = Vec::new();
    for _ in 0..BATCHES_MAX {
        let offer = source.offer(&positions, limit).await?;
        let again = source.offer(&positions, limit).await?;
        promise(
            offer.ranges.iter().all(|r| again.ranges.iter().any(|a| a.partition == r.partition && a.end >= r.end)),
            "what was offered and not taken is offered again",
            || format!("first {:?}, then {:?}", offer.ranges, again.ranges),
        )?;
        check_offer(&offer, &positions)?;
        let first = first.get_or_insert_with(|| offer.partitions.clone());
        if source.boundedness() == Boundedness::Bounded {
            let known = |id: &PartitionId| first.contains(id);
            promise(
                offer.partitions.iter().chain(offer.ranges.iter().map(|r| &r.partition)).all(known),
                "a bounded source names its partitions from the first offer",
                || format!("later: {:?}", offer.partitions),
            )?;
        }
        finished.extend(offer.finished.iter().cloned());
        if offer.ranges.is_empty() {
            let done = source.boundedness() == Boundedness::Followed
                || (offer.closed && first.iter().all(|id| finished.contains(id)));
            promise(done, "a bounded source with nothing left is closed, and its partitions are finished", || {
                format!("closed {}, finished {finished:?} of {first:?}", offer.closed)
            })?;
            return Ok(rows);
        }
        let mut records = 0;
        for range in &offer.ranges {
            promise(!finished_before(&finished, &offer, range), "a finished partition holds nothing more", || {
                format!("{range:?}")
            })?;
            records += read(&source, &fresh()?, range, &mut rows).await?;
            positions.insert(range.partition.clone(), range.end);
        }
        promise(records <= limit.rows.max(1), "an offer respects the limit", || {
            format!("{records} rows where {} were allowed", limit.rows)
        })?;
    }
    promise(false, "an offer makes progress", || format!("still not at the end after {BATCHES_MAX} offers"))?;
    Ok(rows)
}

fn finished_before(finished: &[PartitionId], offer: &Offer, range: &Range) -> bool {
    finished.contains(&range.partition) && !offer.finished.contains(&range.partition)
}

fn check_offer(offer: &Offer, positions: &Positions) -> Result<()> {
    for (i, range) in offer.ranges.iter().enumerate() {
        promise(range.start.offset < range.end.offset, "no offered range is empty", || format!("{range:?}"))?;
        if let Some(position) = positions.get(&range.partition) {
            promise(range.start == *position, "a range begins where the last one ended", || {
                format!("{range:?} after {position:?}")
            })?;
        }
        let twice = offer.ranges.iter().skip(i + 1).any(|other| other.partition == range.partition);
        promise(!twice, "an offer has at most one range a partition", || format!("{:?}", offer.ranges))?;
    }
    Ok(())
}

/// Reads a range three ways, keeps its rows, and answers how many records it held.
async fn read(source: &Arc<dyn Source>, other: &Arc<dyn Source>, range: &Range, rows: &mut Rows) -> Result<u64> {
    // A stream that is dropped half-way must leave no trace.
    drop(source.open(range).await?.try_next().await?);
    let chunks: Vec<Chunk> = source.open(range).await?.try_collect().await?;
    for (who, again) in [("the same source", source), ("another process", other)] {
        let again: Vec<Chunk> = again.open(range).await?.try_collect().await?;
        promise(same(&chunks, &again), "a range opened again gives the same chunks", || {
            format!("{who} gave {} chunks instead of {} for {range:?}", again.len(), chunks.len())
        })?;
    }
    let kept = rows.entry(range.partition.clone()).or_default();
    let mut records = 0;
    let mut last = None;
    for chunk in &chunks {
        check_chunk(source, range, chunk)?;
        let mut found: Vec<_> = chunk.places.iter().enumerate().map(|(i, place)| (*place, text(chunk, i))).collect();
        found.extend(chunk.rejected.iter().map(|r| (r.place, rejected_text(r))));
        found.sort_by_key(|(place, _)| *place);
        for (place, text) in found {
            promise(last <= Some(place), "the chunks of a range stand in the order of their places", || {
                format!("{place:?} after {last:?}")
            })?;
            // Several rows of one record share its place.
            records += u64::from(last != Some(place));
            last = Some(place);
            kept.push(format!("{}:{} {text}", place.offset, place.row));
        }
    }
    Ok(records)
}

fn check_chunk(source: &Arc<dyn Source>, range: &Range, chunk: &Chunk) -> Result<()> {
    let of_schema = chunk.rows.schema_ref().fields() == source.schema().fields();
    promise(of_schema, "rows have the source's schema", || format!("{:?}", chunk.rows.schema()))?;
    promise(chunk.places.len() == chunk.rows.num_rows(), "there are as many places as rows", || {
        format!("{} places, {} rows", chunk.places.len(), chunk.rows.num_rows())
    })?;
    promise(chunk.places.is_sorted(), "places ascend", || format!("{range:?}"))?;
    promise(chunk.rejected.is_sorted_by_key(|r| r.place), "rejected rows ascend", || format!("{range:?}"))?;
    let places = || chunk.places.iter().copied().chain(chunk.rejected.iter().map(|r| r.place));
    let inside = places().all(|p| (range.start.offset..range.end.offset).contains(&p.offset));
    promise(inside, "every place lies within its range", || format!("{range:?}: {:?}", places().collect::<Vec<_>>()))?;
    promise(chunk.rejected.iter().all(|r| r.raw.len() <= 64 << 10), "at most 64 KiB are kept of a row", String::new)
}

fn same(a: &[Chunk], b: &[Chunk]) -> bool {
    let same = |(a, b): (&Chunk, &Chunk)| a.rows == b.rows && a.places == b.places && a.rejected == b.rejected;
    a.len() == b.len() && a.iter().zip(b).all(same)
}

fn text(chunk: &Chunk, row: usize) -> String {
    let columns = chunk.rows.columns().iter();
    columns.map(|c| format!("{:?} ", c.slice(row, 1))).collect()
}

fn rejected_text(rejected: &Rejected) -> String {
    format!(" rejected {}: {}", rejected.reason, String::from_utf8_lossy(&rejected.raw))
}

fn difference(a: &Rows, b: &Rows) -> String {
    let count = |rows: &Rows| rows.values().map(Vec::len).sum::<usize>();
    let first = b.iter().find_map(|(id, rows)| {
        let mine = a.get(id).map(Vec::as_slice).unwrap_or_default();
        let at = rows.iter().zip(mine).position(|(x, y)| x != y)?;
        Some(format!("; partition {id}, row {at}: {} instead of {}", mine[at], rows[at]))
    });
    format!("{} rows instead of {}{}", count(a), count(b), first.unwrap_or_default())
}
