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
use crate::keys::{Epoch, Keys};
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
/// Who reads keys and then writes them looks them up once: [`KeyedTable::find`], then [`KeyedTable::read`] and
/// [`KeyedTable::put_at`].
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
    epoch: Epoch,
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
            epoch: Epoch::default(),
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

    /// Looks distinct keys up (`rows` of them). Sees what is staged.
    pub fn find(&self, keys: &[ArrayRef], rows: usize) -> Result<Keys> {
        let mut keys = self.layout.keys_of(keys, rows, self.epoch)?;
        keys.slots = self.index.find_all(&keys.encoded, rows)?;
        Ok(keys)
    }

    /// Which of these keys are there, and their values. Sees what is staged.
    pub fn read(&self, keys: &Keys) -> Result<Found> {
        keys.check(self.epoch)?;
        let mut rows = Vec::new();
        let mut places = Vec::new();
        for (row, slot) in keys.slots.iter().enumerate() {
            let place = self.place_of(*slot);
            if place != NOWHERE {
                rows.push(row);
                places.push(place);
            }
        }
        let stored = self.log.gather(&self.layout, self.layout.value_columns(), &places)?;
        let values = stored.into_iter().enumerate().map(|(at, column)| self.layout.show_value(at, column));
        Ok(Found { rows, values: values.collect::<Result<_>>()? })
    }

    /// As [`KeyedTable::find`] and [`KeyedTable::read`].
    pub fn get(&self, keys: &[ArrayRef], rows: usize) -> Result<Found> {
        self.read(&self.find(keys, rows)?)
    }

    /// Stages the new rows of distinct keys (`rows` of them).
    pub fn put(&mut self, keys: &[ArrayRef], values: &[ArrayRef], rows: usize) -> Result<()> {
        let keys = self.layout.keys_of(keys, rows, self.epoch)?;
        let new = self.staged.new.len();
        let slots = self.index.insert_all(&keys.encoded, rows, &mut self.staged.new);
        if self.staged.new.len() > new {
            self.epoch.end();
        }
        self.write(slots?, keys.columns, values)
    }

    /// Stages the new rows of keys that were looked up: of those with these numbers, each once, or of all.
    pub fn put_at(&mut self, keys: &mut Keys, picks: Option<&[u32]>, values: &[ArrayRef]) -> Result<()> {
        self.insert_at(keys, picks)?;
        self.write(keys.slots_of(picks), keys.columns_of(picks)?, values)
    }

    /// Stages the removal of distinct keys (`rows` of them). It is no error where a key is not there.
    pub fn remove(&mut self, keys: &[ArrayRef], rows: usize) -> Result<()> {
        let keys = self.find(keys, rows)?;
        self.remove_at(&keys, None)
    }

    /// As [`KeyedTable::remove`], of keys that were looked up: those with these numbers, or all.
    pub fn remove_at(&mut self, keys: &Keys, picks: Option<&[u32]>) -> Result<()> {
        keys.check(self.epoch)?;
        let slots = keys.slots_of(picks);
        let there: Vec<u32> =
            (0u32..).zip(&slots).filter(|(_, slot)| self.place_of(**slot) != NOWHERE).map(|(row, _)| row).collect();
        if there.is_empty() {
            return Ok(());
        }
        let (slots, columns) = if there.len() == slots.len() {
            (slots, keys.columns_of(picks)?)
        } else {
            let of = |at: &u32| picks.map_or(Some(*at), |picks| picks.get(*at as usize).copied());
            let there: Vec<u32> = there.iter().filter_map(of).collect();
            (keys.slots_of(Some(&there)), keys.columns_of(Some(&there))?)
        };
        self.take_away(slots, columns)
    }

    /// Gives slots to keys that have none: those with these numbers, or all.
    pub(crate) fn insert_at(&mut self, keys: &mut Keys, picks: Option<&[u32]>) -> Result<()> {
        keys.check(self.epoch)?;
        let (new, count) = (self.staged.new.len(), keys.slots.len());
        let Keys { encoded, slots, .. } = keys;
        let inserted = match picks {
            Some(picks) => {
                let rows = picks.iter().map(|at| *at as usize);
                self.index.insert_missing(encoded, rows, slots, &mut self.staged.new)
            }
            None => self.index.insert_missing(encoded, 0..count, slots, &mut self.staged.new),
        };
        if self.staged.new.len() > new {
            self.epoch.end();
            keys.epoch = self.epoch;
        }
        inserted
    }

    /// The segments of the installed state, each with its rows that are there and their slots.
    pub(crate) fn live(&self) -> impl Iterator<Item = (&Segment, impl Iterator<Item = (usize, u32)>)> {
        self.log.order.iter().filter_map(|number| Some((*number, self.log.get(*number)?))).map(move |(number, held)| {
            let here = move |(row, slot): &(usize, u32)| self.place_of(*slot) == place(number, *row);
            (held.segment.as_ref(), held.slots.iter().copied().enumerate().filter(here))
        })
    }

    /// Slots for new rows, of a table that looks nothing up by key.
    pub(crate) fn new_slots(&mut self, rows: usize) -> Result<Vec<u32>> {
        let slots = self.index.new_slots(rows)?;
        self.staged.new.extend(&slots);
        Ok(slots)
    }

    /// Some of the columns, keys then values, at slots that have a row: as they are stored.
    pub(crate) fn stored_at(&self, columns: impl Iterator<Item = usize>, slots: &[u32]) -> Result<Vec<ArrayRef>> {
        let places: Vec<u64> = slots.iter().map(|slot| self.place_of(*slot)).collect();
        self.log.gather(&self.layout, columns, &places)
    }

    /// Stages the rows of these slots; `columns` are their keys, as they are stored.
    pub(crate) fn write(&mut self, slots: Vec<u32>, mut columns: Vec<ArrayRef>, values: &[ArrayRef]) -> Result<()> {
        let rows = slots.len();
        columns.extend(self.layout.store_values(values, rows)?);
        if let Some(last) = slots.iter().max() {
            self.places.grow_to(*last as usize);
        }
        for part in parts(columns, rows) {
            let from = part.from;
            let slots = slots.get(from..from + part.segment.rows).unwrap_or_default().to_vec();
            let number = self.log.hold(Arc::new(part.segment), slots)?;
            self.staged.segments.push(number);
            let Some(held) = self.log.get(number) else { continue };
            for (row, slot) in held.slots.iter().enumerate() {
                let before = self.places.get(*slot as usize);
                self.staged.came += usize::from(before == NOWHERE);
                self.staged.turned.push((*slot, before));
                self.places.set(*slot as usize, place(number, row));
            }
        }
        Ok(())
    }

    /// Stages the removal of the rows of these slots, each of which has one; `columns` are their keys, as they are
    /// stored.
    pub(crate) fn take_away(&mut self, slots: Vec<u32>, columns: Vec<ArrayRef>) -> Result<()> {
        let count = slots.len();
        let mut columns: Vec<ArrayRef> = columns.iter().map(own).collect();
        columns.extend(self.layout.no_values(count));
        let number = self.log.hold(Arc::new(Segment::new(columns, count, count)), vec![NO_SLOT; count])?;
        self.staged.segments.push(number);
        for slot in &slots {
            self.staged.turned.push((*slot, self.places.get(*slot as usize)));
            self.places.set(*slot as usize, NOWHERE);
        }
        self.staged.removed.extend(slots);
        self.staged.went += count;
        Ok(())
    }

    fn place_of(&self, slot: u32) -> u64 {
        if slot == NO_SLOT { NOWHERE } else { self.places.get(slot as usize) }
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
        if !staged.removed.is_empty() {
            self.epoch.end();
        }
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
        if !staged.new.is_empty() {
            self.epoch.end();
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
