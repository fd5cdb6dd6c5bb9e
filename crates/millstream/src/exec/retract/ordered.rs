//! The values of each group in their order, in memory: where minima and maxima are read, and what other functions
//! are computed from anew.
//!
//! Keys and values are held as bytes that compare as they do (Arrow's row format), the values of a group beside each
//! other ([`SortedGroups`]): its smallest and its largest value are the ends of what it holds. What is held here is
//! rebuilt from the table beside it; a batch that is discarded is undone change by change.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Field, Int64Type};
use datafusion::arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::utils::normalize_float_zero;
use datafusion::common::{Result as DfResult, internal_datafusion_err};

use super::super::sorted_groups::SortedGroups;

/// The values of groups, sorted, with how often each is there.
pub struct Ordered {
    /// How many of the columns are the groups' keys.
    key_columns: usize,
    keys: Option<RowConverter>,
    values: RowConverter,
    slots: BTreeMap<i64, SortedGroups<i64>>,
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
        let values = RowConverter::new(columns.iter().skip(keys).map(sort).collect())?;
        let key_columns = keys;
        let keys = match keys {
            0 => None,
            _ => Some(RowConverter::new(columns.iter().take(keys).map(sort).collect())?),
        };
        Ok(Self { key_columns, keys, values, slots: BTreeMap::new(), floor: None })
    }

    /// Sets how often rows are there: 0 takes one out. `slot` answers the slot of each.
    pub fn set(&mut self, columns: &[ArrayRef], counts: &[i64], slot: impl Fn(usize) -> i64) -> DfResult<()> {
        let mut counts = counts.iter();
        self.change(columns, slot, |_| Ok(counts.next().copied().unwrap_or(0)))
    }

    /// Changes how often rows are there, one after the other: `change` is told how often that was and answers how often
    /// it is, where 0 takes the row out. `slot` answers the slot of each.
    pub fn change(
        &mut self,
        columns: &[ArrayRef],
        slot: impl Fn(usize) -> i64,
        mut change: impl FnMut(i64) -> DfResult<i64>,
    ) -> DfResult<()> {
        let (keys, values) = columns.split_at_checked(self.key_columns).unwrap_or_default();
        let values = self.values.convert_columns(values)?;
        let keys = self.prefixes(keys)?;
        for (row, value) in values.iter().enumerate() {
            let groups = self.slots.entry(slot(row)).or_insert_with(SortedGroups::new);
            groups.change(prefix(&keys, row), value.data(), |before| {
                let after = change(before.unwrap_or(0))?;
                Ok((after > 0).then_some(after))
            })?;
        }
        Ok(())
    }

    /// Makes this what the table says: batches of key, value and count.
    pub fn restore<'a>(&mut self, batches: impl Iterator<Item = DfResult<(i64, RecordBatch)>> + 'a) -> DfResult<()> {
        (self.slots, self.floor) = (BTreeMap::new(), None);
        for batch in batches {
            let (slot, batch) = batch?;
            let Some((counts, columns)) = batch.columns().split_last() else { continue };
            let counts = counts.as_primitive_opt::<Int64Type>();
            let counts = counts.ok_or_else(|| internal_datafusion_err!("a value has a count"))?;
            self.set(columns, counts.values(), |_| slot)?;
            self.slots.entry(slot).or_insert_with(SortedGroups::new).install();
        }
        Ok(())
    }

    /// The smallest or largest value of each group, by the groups' keys: value columns, with the numbers of the
    /// groups that have one.
    pub fn ends(
        &self,
        keys: &[ArrayRef],
        groups: usize,
        slot: impl Fn(usize) -> i64,
        end: End,
    ) -> DfResult<(Vec<ArrayRef>, Vec<usize>)> {
        let keys = self.prefixes(keys)?;
        let (mut found, mut of) = (vec![], vec![]);
        for group in 0..groups {
            let Some(slot) = self.slots.get(&slot(group)) else { continue };
            let mut values = slot.entries(prefix(&keys, group));
            let value = if end == End::First { values.next() } else { values.last_entry() };
            if let Some((value, _)) = value {
                found.push(value);
                of.push(group);
            }
        }
        Ok((self.columns(&found)?, of))
    }

    /// All values of the groups in their order: value columns, the group of each, and how often it is there.
    pub fn all(
        &self,
        keys: &[ArrayRef],
        groups: usize,
        slot: impl Fn(usize) -> i64,
    ) -> DfResult<(Vec<ArrayRef>, Vec<usize>, Vec<i64>)> {
        let keys = self.prefixes(keys)?;
        let (mut found, mut of, mut counts) = (vec![], vec![], vec![]);
        for group in 0..groups {
            let Some(slot) = self.slots.get(&slot(group)) else { continue };
            for (value, count) in slot.entries(prefix(&keys, group)) {
                found.push(value);
                of.push(group);
                counts.push(count);
            }
        }
        Ok((self.columns(&found)?, of, counts))
    }

    fn prefixes(&self, keys: &[ArrayRef]) -> DfResult<Option<Rows>> {
        Ok(self.keys.as_ref().map(|converter| converter.convert_columns(keys)).transpose()?)
    }

    fn columns(&self, values: &[&[u8]]) -> DfResult<Vec<ArrayRef>> {
        let parser = self.values.parser();
        Ok(self.values.convert_rows(values.iter().map(|value| parser.parse(value)))?)
    }

    /// Stages the removal of slots.
    pub fn drop_below(&mut self, slot: i64) {
        self.floor = self.floor.max(Some(slot));
    }

    /// What was staged becomes the state.
    pub fn install(&mut self) {
        if let Some(floor) = self.floor.take() {
            self.slots = self.slots.split_off(&floor);
        }
        self.slots.values_mut().for_each(SortedGroups::install);
        self.slots.retain(|_, groups| !groups.is_empty());
    }

    /// What was staged is forgotten.
    pub fn discard(&mut self) {
        self.floor = None;
        self.slots.values_mut().for_each(SortedGroups::discard);
    }

    /// Bytes held.
    pub fn memory_bytes(&self) -> usize {
        self.slots.values().map(SortedGroups::memory_bytes).sum()
    }
}

/// The bytes of a group's key: none where there is one group.
fn prefix(keys: &Option<Rows>, row: usize) -> &[u8] {
    keys.as_ref().map_or(&[], |keys| keys.row(row).data())
}

impl std::fmt::Debug for Ordered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ordered").field("slots", &self.slots).finish()
    }
}

/// The column with one zero, as `-0.0` and `0.0` are equal in a group; a NaN equals one of the same bits only. What is
/// answered from values that are kept like this (a minimum, `array_agg`) is `0.0` where a row had `-0.0`.
pub fn canonical(column: &ArrayRef) -> ArrayRef {
    normalize_float_zero(column)
}
