//! The values of each group in their order, in memory: where minima and maxima are read, and what other functions
//! are computed from anew.
//!
//! Rows of key and value are held as bytes that compare as the values do (Arrow's row format), so that a group is
//! one stretch of a sorted map, and its smallest and its largest value are the ends of that stretch. What is held
//! here is rebuilt from the table beside it; a batch that is discarded is undone change by change.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Field, Int64Type};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::utils::normalize_float_zero;
use datafusion::common::{Result as DfResult, internal_datafusion_err};

type Entries = BTreeMap<Box<[u8]>, i64>;

/// A row of key and value, and how often it is there.
type Entry = (Box<[u8]>, i64);

/// Rows of key and value, sorted, with how often each is there.
pub struct Ordered {
    keys: Option<RowConverter>,
    whole: RowConverter,
    slots: BTreeMap<i64, Entries>,
    bytes: usize,
    /// What the batch has changed: the slot, the row, and how often it was there.
    undo: Vec<(i64, Box<[u8]>, Option<i64>)>,
    /// Slots below this one are dropped by the batch.
    floor: Option<i64>,
}

/// Which end of a group's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The smallest.
    First,
    /// The largest.
    Last,
}

impl Ordered {
    /// Nothing yet; rows are the first `keys` of the columns, then the values.
    pub fn try_new(keys: usize, columns: &[Arc<Field>]) -> DfResult<Self> {
        let sort = |f: &Arc<Field>| SortField::new(f.data_type().clone());
        let whole = RowConverter::new(columns.iter().map(sort).collect())?;
        let keys = match keys {
            0 => None,
            _ => Some(RowConverter::new(columns.iter().take(keys).map(sort).collect())?),
        };
        Ok(Self { keys, whole, slots: BTreeMap::new(), bytes: 0, undo: vec![], floor: None })
    }

    /// Sets how often rows are there: 0 takes one out. `slot` answers the slot of each.
    pub fn set(&mut self, columns: &[ArrayRef], counts: &[i64], slot: impl Fn(usize) -> i64) -> DfResult<()> {
        let rows = self.whole.convert_columns(columns)?;
        for (i, count) in counts.iter().enumerate() {
            let key: Box<[u8]> = rows.row(i).data().into();
            let before = self.change(slot(i), key.clone(), *count);
            self.undo.push((slot(i), key, before));
        }
        Ok(())
    }

    fn change(&mut self, slot: i64, key: Box<[u8]>, count: i64) -> Option<i64> {
        let size = key.len() + ENTRY_BYTES;
        let entries = self.slots.entry(slot).or_default();
        let before = if count > 0 { entries.insert(key, count) } else { entries.remove(&key) };
        match (before, count > 0) {
            (None, true) => self.bytes += size,
            (Some(_), false) => self.bytes = self.bytes.saturating_sub(size),
            _ => {}
        }
        before
    }

    /// Makes this what the table says: batches of key, value and count.
    pub fn restore<'a>(&mut self, batches: impl Iterator<Item = DfResult<(i64, RecordBatch)>> + 'a) -> DfResult<()> {
        (self.slots, self.bytes, self.undo, self.floor) = (BTreeMap::new(), 0, vec![], None);
        // A map of sorted entries is built at once, not entry by entry.
        let mut slots: BTreeMap<i64, Vec<Entry>> = BTreeMap::new();
        for batch in batches {
            let (slot, batch) = batch?;
            let Some((counts, columns)) = batch.columns().split_last() else { continue };
            let counts = counts.as_primitive_opt::<Int64Type>();
            let counts = counts.ok_or_else(|| internal_datafusion_err!("a value has a count"))?;
            let rows = self.whole.convert_columns(columns)?;
            let there = rows.iter().zip(counts.values()).filter(|(_, count)| **count > 0);
            slots.entry(slot).or_default().extend(there.map(|(row, count)| (row.data().into(), *count)));
        }
        for (slot, entries) in slots {
            let entries = entries.into_iter().collect::<Entries>();
            self.bytes += entries.keys().map(|key| key.len() + ENTRY_BYTES).sum::<usize>();
            self.slots.insert(slot, entries);
        }
        Ok(())
    }

    /// The smallest or largest row of each group, by the groups' keys: key and value columns, with the numbers
    /// of the groups that have one.
    pub fn ends(
        &self,
        keys: &[ArrayRef],
        groups: usize,
        slot: impl Fn(usize) -> i64,
        end: End,
    ) -> DfResult<(Vec<ArrayRef>, Vec<usize>)> {
        let prefixes = self.prefixes(keys, groups)?;
        let (mut found, mut of) = (vec![], vec![]);
        for (group, prefix) in prefixes.iter().enumerate() {
            let Some(entries) = self.slots.get(&slot(group)) else { continue };
            let mut range = stretch(entries, prefix);
            let row = if end == End::First { range.next() } else { range.next_back() };
            if let Some((row, _)) = row {
                found.push(row.as_ref());
                of.push(group);
            }
        }
        Ok((self.columns(&found)?, of))
    }

    /// All rows of the groups in their order: key and value columns, the group of each row, and how often it is
    /// there.
    pub fn all(
        &self,
        keys: &[ArrayRef],
        groups: usize,
        slot: impl Fn(usize) -> i64,
    ) -> DfResult<(Vec<ArrayRef>, Vec<usize>, Vec<i64>)> {
        let prefixes = self.prefixes(keys, groups)?;
        let (mut found, mut of, mut counts) = (vec![], vec![], vec![]);
        for (group, prefix) in prefixes.iter().enumerate() {
            let Some(entries) = self.slots.get(&slot(group)) else { continue };
            for (row, count) in stretch(entries, prefix) {
                found.push(row.as_ref());
                of.push(group);
                counts.push(*count);
            }
        }
        Ok((self.columns(&found)?, of, counts))
    }

    fn prefixes(&self, keys: &[ArrayRef], groups: usize) -> DfResult<Vec<Box<[u8]>>> {
        let Some(converter) = &self.keys else { return Ok(vec![Box::default(); groups]) };
        let rows = converter.convert_columns(keys)?;
        Ok(rows.iter().map(|row| row.data().into()).collect())
    }

    fn columns(&self, rows: &[&[u8]]) -> DfResult<Vec<ArrayRef>> {
        let parser = self.whole.parser();
        Ok(self.whole.convert_rows(rows.iter().map(|row| parser.parse(row)))?)
    }

    /// Stages the removal of slots.
    pub fn drop_below(&mut self, slot: i64) {
        self.floor = self.floor.max(Some(slot));
    }

    /// What was staged becomes the state.
    pub fn install(&mut self) {
        self.undo.clear();
        if let Some(floor) = self.floor.take() {
            let kept = self.slots.split_off(&floor);
            let gone = std::mem::replace(&mut self.slots, kept);
            let bytes: usize = gone.values().flat_map(|e| e.keys()).map(|k| k.len() + ENTRY_BYTES).sum();
            self.bytes = self.bytes.saturating_sub(bytes);
        }
        self.slots.retain(|_, entries| !entries.is_empty());
    }

    /// What was staged is forgotten.
    pub fn discard(&mut self) {
        self.floor = None;
        for (slot, key, before) in std::mem::take(&mut self.undo).into_iter().rev() {
            self.change(slot, key, before.unwrap_or(0));
        }
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.bytes
    }
}

/// What an entry of the map costs beside its bytes: the pointer, the count, and its share of a node.
const ENTRY_BYTES: usize = 48;

impl std::fmt::Debug for Ordered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ordered").field("slots", &self.slots.len()).field("bytes", &self.bytes).finish()
    }
}

/// The entries that begin with these bytes. No key is the beginning of another one: its encoding says where it ends.
fn stretch<'a>(entries: &'a Entries, prefix: &[u8]) -> impl DoubleEndedIterator<Item = (&'a Box<[u8]>, &'a i64)> {
    let mut after = prefix.to_vec();
    while after.last() == Some(&u8::MAX) {
        after.pop();
    }
    let upper: Bound<Box<[u8]>> = match after.last_mut() {
        Some(last) => {
            *last += 1;
            Bound::Excluded(after.into())
        }
        None => Bound::Unbounded,
    };
    entries.range((Bound::Included(prefix.into()), upper))
}

/// The column with one zero, as `-0.0` and `0.0` are equal in a group; a NaN equals one of the same bits only. What is
/// answered from values that are kept like this (a minimum, `array_agg`) is `0.0` where a row had `-0.0`.
pub fn canonical(column: &ArrayRef) -> ArrayRef {
    normalize_float_zero(column)
}
