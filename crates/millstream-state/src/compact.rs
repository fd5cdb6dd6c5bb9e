//! Keeping the log short: small segments are merged as they come, and the oldest are written anew when the
//! log holds too many dead rows. Each step moves a bounded number of rows, so that no batch waits for long.
//!
//! What is merged, and when, follows from the calls alone: the order of rows is the same in every replay.
//!
//! A removed key hides older rows of the same key. It can go only when there is no older segment.

use std::ops::Range;
use std::sync::Arc;

use millstream_core::Result;

use crate::index::NO_SLOT;
use crate::segment::{SEGMENT_WEIGHT, Segment, own, pick, place};
use crate::table::KeyedTable;

/// So many small segments of about the same size become one.
const FAN: usize = 16;
/// Sizes of segments that are merged: up to 15, 255, 4095 and 65535 rows. A larger one is left alone.
const SIZES: usize = 4;
/// The weight of dead rows that are not worth moving others for.
const SLACK: usize = 1 << 14;

impl KeyedTable {
    /// Merges what an install has made worth merging; `appended` rows were added by it.
    pub(crate) fn maintain(&mut self, appended: usize) {
        // An error leaves the log as it was before the step, correct but longer; the next install tries
        // again, and a get of the same rows reports it.
        let _ = self.merge_small().and_then(|()| self.shed_dead(appended));
    }

    fn merge_small(&mut self) -> Result<()> {
        self.drop_leading_removals();
        for size in 0..SIZES {
            while let Some(run) = self.small_run(size) {
                let at = run.start;
                self.rewrite(run, at)?;
                self.drop_leading_removals();
            }
        }
        Ok(())
    }

    /// The newest segments up to this size, where there are enough of them to be merged.
    fn small_run(&self, size: usize) -> Option<Range<usize>> {
        let start = self.tail(size);
        let order = self.log.order.get(start..)?;
        // Only those of this size count: smaller ones go along, but are no reason to move the larger.
        let full = order.iter().filter(|number| self.weight(**number) >= FAN.pow(size as u32)).count();
        let mut weight = 0;
        let mut end = start;
        for number in order {
            if weight >= SEGMENT_WEIGHT {
                break;
            }
            weight += self.weight(*number);
            end += 1;
        }
        let many = full >= FAN || (size + 1 == SIZES && weight >= SEGMENT_WEIGHT);
        (many && end - start >= 2).then_some(start..end)
    }

    /// Where the newest segments up to this size begin.
    fn tail(&self, size: usize) -> usize {
        let small = |number: &&u32| self.weight(**number) < FAN.pow(size as u32 + 1);
        self.log.order.len() - self.log.order.iter().rev().take_while(small).count()
    }

    fn weight(&self, number: u32) -> usize {
        self.log.get(number).map_or(0, |h| h.segment.weight())
    }

    fn shed_dead(&mut self, appended: usize) -> Result<()> {
        let budget = SEGMENT_WEIGHT.max(4 * appended);
        let mut moved = 0;
        while moved < budget && self.is_half_dead() {
            let mut end = 0;
            let mut live = 0;
            for number in &self.log.order {
                let more = self.live_weight(*number);
                if end > 0 && live + more > SEGMENT_WEIGHT {
                    break;
                }
                live += more;
                end += 1;
            }
            // Live rows at the start of the log have no other row of their key anywhere: they may move to
            // before the small segments, so that the next step finds other rows at the start.
            let to = self.tail(SIZES - 1).max(end);
            moved += live.max(1);
            self.rewrite(0..end, to)?;
            self.drop_leading_removals();
        }
        Ok(())
    }

    fn is_half_dead(&self) -> bool {
        let total: usize = self.log.order.iter().map(|n| self.weight(*n)).sum();
        let live: usize = self.log.order.iter().map(|n| self.live_weight(*n)).sum();
        total > 2 * live + SLACK
    }

    /// A segment's weight without its dead rows, as far as rows of a segment weigh the same.
    fn live_weight(&self, number: u32) -> usize {
        self.log.get(number).map_or(0, |h| h.segment.weight() * h.live / h.segment.rows.max(1))
    }

    /// Removed keys hide nothing at the start of the log.
    fn drop_leading_removals(&mut self) {
        while let Some(first) = self.log.order.first().copied() {
            if self.log.get(first).is_some_and(|h| h.live > 0) {
                break;
            }
            self.log.release(&[first]);
        }
    }

    /// Writes the live rows of a run of segments, and the removed keys that are still needed, into a new
    /// segment at position `to` (counted before the run is taken out; its start, or past its end).
    fn rewrite(&mut self, run: Range<usize>, to: usize) -> Result<()> {
        let numbers = self.log.order.get(run.clone()).unwrap_or_default().to_vec();
        let (mut picks, mut slots) = (Vec::new(), Vec::new());
        let parts: Vec<_> = numbers.iter().filter_map(|n| self.log.get(*n)).collect();
        if run.start > 0 {
            for (part, held) in parts.iter().enumerate() {
                picks.extend((0..held.segment.removed).map(|row| (part, row)));
            }
        }
        let removed = picks.len();
        slots.resize(removed, NO_SLOT);
        for (part, (held, number)) in parts.iter().zip(&numbers).enumerate() {
            for (row, slot) in held.slots.iter().enumerate().skip(held.segment.removed) {
                if self.places.get(*slot as usize) == place(*number, row) {
                    picks.push((part, row));
                    slots.push(*slot);
                }
            }
        }
        let position = if to > run.start { to.saturating_sub(numbers.len()) } else { to };
        if picks.is_empty() {
            self.log.release(&numbers);
            return Ok(());
        }
        let segments: Vec<&Segment> = parts.iter().map(|h| h.segment.as_ref()).collect();
        let columns = pick(&self.layout, 0..self.layout.stored.fields().len(), &segments, &picks)?;
        let columns = columns.iter().map(own).collect();
        let segment = Segment::new(columns, picks.len(), removed);
        let number = self.log.hold(Arc::new(segment), slots)?;
        if let Some(held) = self.log.get(number) {
            for (row, slot) in held.slots.iter().enumerate().skip(removed) {
                self.places.set(*slot as usize, place(number, row));
            }
        }
        self.log.release(&numbers);
        self.log.order_at(position, number);
        Ok(())
    }
}
