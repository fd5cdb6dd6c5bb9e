//! A table of keyed rows.
//!
//! A key's slot (see [`crate::index`]) leads to its place: a row of a segment. A change writes new rows into
//! new segments and turns the places of their keys; the places that were turned are remembered until the
//! batch is installed or discarded. Nothing that was written is changed, which makes a checkpoint a list of
//! segments.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use millstream_core::Result;

use crate::chunked::Chunked;
use crate::index::{KeyIndex, NO_SLOT};
use crate::layout::Layout;
use crate::segment::{NOWHERE, SEGMENT_WEIGHT, Segment, SegmentLog, own, place};

/// Rows of a scanned batch, at most.
const SCAN_ROWS: usize = 8192;

/// The keys that were found, and their values.
#[derive(Clone, Debug)]
pub struct Found {
    /// Which of the keys asked for were found: indices into them, ascending.
    pub rows: Vec<usize>,
    /// The value columns of those keys, in that order.
    pub values: Vec<ArrayRef>,
}

/// Keyed rows: at most one row of values per key.
///
/// NULLs in keys are equal to each other, and so are `-0.0` and `0.0`, as in GROUP BY. Keys may come in
/// another encoding than declared (a dictionary, a string view); they answer in the declared one.
///
/// Changes are *staged*: the batch that makes them sees them at once ([`KeyedTable::get`] and
/// [`KeyedTable::scan_staged`] read its own writes), [`KeyedTable::install`] makes them state and
/// [`KeyedTable::discard`] forgets them as if they had never been.
///
/// A table holds at most 2^32 - 1 keys.
#[derive(Debug)]
pub struct KeyedTable {
    pub(crate) layout: Arc<Layout>,
    pub(crate) index: KeyIndex,
    /// Where each slot's row lies.
    pub(crate) places: Chunked<u64>,
    pub(crate) log: SegmentLog,
    /// Keys in the installed state.
    pub(crate) len: usize,
    staged: Staged,
}

/// What the batch has changed so far.
#[derive(Debug, Default)]
struct Staged {
    /// Slots whose place was turned, with the place before, in order.
    turned: Vec<(u32, u64)>,
    /// Slots of keys that had none.
    new: Vec<u32>,
    /// Slots of keys that were removed; some may have come back.
    removed: Vec<u32>,
    /// Segments, in order.
    segments: Vec<u32>,
    /// Keys that came, and keys that went.
    came: usize,
    went: usize,
}

impl KeyedTable {
    /// An empty table. `keys` may have no columns: the table then has at most one row.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] for key columns of a type that cannot be compared.
    pub fn new(keys: SchemaRef, values: SchemaRef) -> Result<Self> {
        Ok(Self::with_layout(Arc::new(Layout::new(keys, values)?)))
    }

    pub(crate) fn with_layout(layout: Arc<Layout>) -> Self {
        Self {
            index: KeyIndex::new(&layout.encoder),
            layout,
            places: Chunked::new(1, NOWHERE),
            log: SegmentLog::default(),
            len: 0,
            staged: Staged::default(),
        }
    }

    /// The columns of a key.
    pub fn keys(&self) -> &SchemaRef {
        &self.layout.keys
    }

    /// The columns of the values.
    pub fn values(&self) -> &SchemaRef {
        &self.layout.values
    }

    /// For distinct keys (`rows` of them): which are there, and their values. Sees what is staged.
    pub fn get(&self, keys: &[ArrayRef], rows: usize) -> Result<Found> {
        let keys = self.layout.store_keys(keys, rows)?;
        let keys = self.layout.encoder.encode(&keys, rows)?;
        let mut found = Vec::new();
        let mut places = Vec::new();
        for (row, slot) in self.index.find_all(&keys, rows)?.into_iter().enumerate() {
            let place = if slot == NO_SLOT { NOWHERE } else { self.places.get(slot as usize) };
            if place != NOWHERE {
                found.push(row);
                places.push(place);
            }
        }
        let columns = self.layout.key_count()..self.layout.stored.fields().len();
        let values = self.log.gather(&self.layout, columns, &places)?;
        Ok(Found { rows: found, values: self.layout.show_values(values)? })
    }

    /// Stages the new rows of distinct keys (`rows` of them).
    pub fn put(&mut self, keys: &[ArrayRef], values: &[ArrayRef], rows: usize) -> Result<()> {
        let mut columns = self.layout.store_keys(keys, rows)?;
        let encoded = self.layout.encoder.encode(&columns, rows)?;
        columns.extend(self.layout.store_values(values, rows)?);
        let slots = self.index.insert_all(&encoded, rows, &mut self.staged.new)?;
        for part in parts(columns, rows) {
            let from = part.from;
            let slots = slots.get(from..from + part.segment.rows).unwrap_or_default().to_vec();
            let number = self.log.hold(Arc::new(part.segment), slots)?;
            self.staged.segments.push(number);
            let Some(held) = self.log.get(number) else { continue };
            for (row, slot) in held.slots.iter().enumerate() {
                self.places.grow_to(*slot as usize);
                let before = self.places.get(*slot as usize);
                self.staged.came += usize::from(before == NOWHERE);
                self.staged.turned.push((*slot, before));
                self.places.set(*slot as usize, place(number, row));
            }
        }
        Ok(())
    }

    /// Stages the removal of distinct keys (`rows` of them). It is no error where a key is not there.
    pub fn remove(&mut self, keys: &[ArrayRef], rows: usize) -> Result<()> {
        let keys = self.layout.store_keys(keys, rows)?;
        let encoded = self.layout.encoder.encode(&keys, rows)?;
        let mut gone = Vec::new();
        for (row, slot) in self.index.find_all(&encoded, rows)?.into_iter().enumerate() {
            let before = if slot == NO_SLOT { NOWHERE } else { self.places.get(slot as usize) };
            if before != NOWHERE {
                gone.push(row as u32);
                self.places.set(slot as usize, NOWHERE);
                self.staged.turned.push((slot, before));
                self.staged.removed.push(slot);
                self.staged.went += 1;
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        let count = gone.len();
        let gone = UInt32Array::from(gone);
        let mut columns = keys.iter().map(|key| Ok(own(&take(key, &gone, None)?))).collect::<Result<Vec<_>>>()?;
        columns.extend(self.layout.no_values(count));
        let number = self.log.hold(Arc::new(Segment::new(columns, count, count)), vec![NO_SLOT; count])?;
        self.staged.segments.push(number);
        Ok(())
    }

    /// Keys in the installed state.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the installed state holds no key.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes held, with the index and what is staged.
    pub fn memory_bytes(&self) -> usize {
        let staged = &self.staged;
        let turned = staged.turned.capacity() * size_of::<(u32, u64)>();
        let numbers = staged.new.capacity() + staged.removed.capacity() + staged.segments.capacity();
        let staged = turned + numbers * size_of::<u32>();
        size_of::<Self>() + self.index.bytes() + self.places.bytes() + self.log.bytes() + staged
    }

    /// Every key and value of the installed state, in batches: key columns, then value columns. The order
    /// is a function of the calls that were made alone: the same in a replay and after a restore.
    pub fn scan(&self) -> impl Iterator<Item = Result<RecordBatch>> + '_ {
        // The place of a slot before the batch is the one that was turned first.
        let before: HashMap<u32, u64> = self.staged.turned.iter().rev().copied().collect();
        self.scan_segments(self.log.order.clone(), before)
    }

    /// Like [`KeyedTable::scan`], with what is staged.
    pub fn scan_staged(&self) -> impl Iterator<Item = Result<RecordBatch>> + '_ {
        let segments = self.log.order.iter().chain(&self.staged.segments).copied().collect();
        self.scan_segments(segments, HashMap::new())
    }

    fn scan_segments(
        &self,
        segments: Vec<u32>,
        before: HashMap<u32, u64>,
    ) -> impl Iterator<Item = Result<RecordBatch>> + '_ {
        let live = move |number: u32| -> Vec<u32> {
            let Some(held) = self.log.get(number) else { return Vec::new() };
            let here = |(row, slot): (usize, &u32)| {
                let now = before.get(slot).copied().unwrap_or_else(|| self.places.get(*slot as usize));
                (*slot != NO_SLOT && now == place(number, row)).then_some(row as u32)
            };
            held.slots.iter().enumerate().filter_map(here).collect()
        };
        segments.into_iter().flat_map(move |number| {
            let rows = live(number);
            let batches: Vec<UInt32Array> = rows.chunks(SCAN_ROWS).map(|r| UInt32Array::from(r.to_vec())).collect();
            batches.into_iter().map(move |rows| self.rows_of(number, &rows))
        })
    }

    fn rows_of(&self, number: u32, rows: &UInt32Array) -> Result<RecordBatch> {
        let columns = self.log.get(number).map(|h| h.segment.columns()).unwrap_or_default();
        let columns = columns.iter().map(|c| Ok(take(c, rows, None)?)).collect::<Result<Vec<_>>>()?;
        self.layout.show(columns, rows.len())
    }

    /// What was staged becomes the state.
    pub fn install(&mut self) {
        let mut staged = std::mem::take(&mut self.staged);
        let mut appended = 0;
        for number in &staged.segments {
            appended += self.log.get(*number).map_or(0, |h| h.segment.rows);
            self.log.order_at(usize::MAX, *number);
        }
        let mut dead = Vec::new();
        for (_, before) in &staged.turned {
            if *before != NOWHERE && self.log.bury(*before) {
                dead.push(crate::segment::segment_of(*before));
            }
        }
        self.log.release(&dead);
        staged.removed.sort_unstable();
        staged.removed.dedup();
        for slot in &staged.removed {
            if self.places.get(*slot as usize) == NOWHERE {
                self.index.remove(*slot);
            }
        }
        self.len = self.len + staged.came - staged.went;
        self.keep_buffers(staged);
        if appended > 0 {
            self.maintain(appended);
        }
    }

    /// What was staged is forgotten.
    pub fn discard(&mut self) {
        let staged = std::mem::take(&mut self.staged);
        for (slot, before) in staged.turned.iter().rev() {
            self.places.set(*slot as usize, *before);
        }
        for slot in &staged.new {
            self.index.remove(*slot);
        }
        self.log.release(&staged.segments);
        self.keep_buffers(staged);
    }

    /// Whether nothing is staged and no segment is left.
    pub(crate) fn is_bare(&self) -> bool {
        self.log.order.is_empty() && self.staged.segments.is_empty()
    }

    /// Small batches use the same memory again; that of a large one is given back.
    fn keep_buffers(&mut self, mut staged: Staged) {
        if staged.turned.capacity() <= SEGMENT_WEIGHT {
            staged.turned.clear();
            staged.new.clear();
            staged.removed.clear();
            staged.segments.clear();
            self.staged = Staged { came: 0, went: 0, ..staged };
        }
    }
}

/// A part of the rows of one `put`.
struct Part {
    segment: Segment,
    /// Its first row.
    from: usize,
}

/// Cuts rows into segments that can be moved in one step.
fn parts(columns: Vec<ArrayRef>, rows: usize) -> Vec<Part> {
    if rows == 0 {
        return Vec::new();
    }
    let whole = Segment::new(columns.iter().map(own).collect(), rows, 0);
    let weight = whole.weight();
    if weight < 2 * SEGMENT_WEIGHT || rows == 1 {
        return vec![Part { segment: whole, from: 0 }];
    }
    let step = (rows * SEGMENT_WEIGHT / weight).clamp(1, rows);
    let cut = |from: usize| {
        let rows = step.min(rows - from);
        let columns = whole.columns().iter().map(|c| own(&c.slice(from, rows))).collect();
        Part { segment: Segment::new(columns, rows, 0), from }
    };
    (0..rows).step_by(step).map(cut).collect()
}

#[cfg(test)]
mod tests;
