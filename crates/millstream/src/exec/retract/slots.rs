//! Keyed rows within slots of time: a slot for each window, or one where there is no window.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, UInt64Array};
use arrow::compute::{concat, take_arrays};
use datafusion::common::Result as DfResult;
use millstream_state::{Found, PanedTable};

use super::super::changes::state_error;

/// The slot of everything that has no window.
const ALWAYS: i64 = i64::MAX;

/// Which slot each key is in.
#[derive(Clone, Debug)]
pub enum Slots {
    /// All in one that never goes.
    One,
    /// The slot of each.
    Each(Vec<i64>),
}

impl Slots {
    /// The slots of some of the keys.
    pub fn take(&self, keys: &UInt64Array) -> Self {
        match self {
            Self::One => Self::One,
            Self::Each(slots) => {
                Self::Each(keys.values().iter().map(|k| slots.get(*k as usize).copied().unwrap_or(ALWAYS)).collect())
            }
        }
    }

    /// The slot of a key.
    pub fn of(&self, key: usize) -> i64 {
        match self {
            Self::One => ALWAYS,
            Self::Each(slots) => slots.get(key).copied().unwrap_or(ALWAYS),
        }
    }

    /// The keys of each slot; or the slot, where all are in one.
    fn split(&self) -> Result<BTreeMap<i64, Vec<u64>>, i64> {
        let Self::Each(slots) = self else { return Err(ALWAYS) };
        let mut split: BTreeMap<i64, Vec<u64>> = BTreeMap::new();
        for (key, slot) in (0u64..).zip(slots) {
            split.entry(*slot).or_default().push(key);
        }
        match split.len() {
            0 | 1 => Err(split.into_keys().next().unwrap_or(ALWAYS)),
            _ => Ok(split),
        }
    }
}

/// A table whose rows go with their slot.
#[derive(Debug)]
pub struct SlottedTable {
    /// The slots are its panes.
    pub table: PanedTable,
}

impl SlottedTable {
    /// As [`PanedTable::get`], for keys of any slots.
    pub fn get(&self, slots: &Slots, keys: &[ArrayRef], rows: usize) -> DfResult<Found> {
        let split = match slots.split() {
            Err(slot) => return self.table.get(slot, keys, rows).map_err(state_error),
            Ok(split) => split,
        };
        let mut found: Vec<usize> = vec![];
        let mut parts: Vec<Vec<ArrayRef>> = vec![];
        for (slot, taken) in split {
            let taken = UInt64Array::from(taken);
            let part = self.table.get(slot, &take_arrays(keys, &taken, None)?, taken.len()).map_err(state_error)?;
            found.extend(part.rows.iter().map(|row| taken.value(*row) as usize));
            parts.push(part.values);
        }
        let column = |column: usize| {
            let parts: Vec<&dyn Array> = parts.iter().filter_map(|p| p.get(column)).map(|c| c.as_ref()).collect();
            Ok(concat(&parts)?)
        };
        let values = (0..self.table.values().fields().len()).map(column).collect::<DfResult<Vec<_>>>()?;
        let mut order: Vec<u64> = (0..found.len() as u64).collect();
        order.sort_by_key(|place| found.get(*place as usize));
        let values = take_arrays(&values, &UInt64Array::from(order), None)?;
        found.sort_unstable();
        Ok(Found { rows: found, values })
    }

    /// As [`PanedTable::put`], for keys of any slots.
    pub fn put(&mut self, slots: &Slots, keys: &[ArrayRef], values: &[ArrayRef], rows: usize) -> DfResult<()> {
        match slots.split() {
            Err(slot) => self.table.put(slot, keys, values, rows).map_err(state_error),
            Ok(split) => split.into_iter().try_for_each(|(slot, taken)| {
                let taken = UInt64Array::from(taken);
                let (keys, values) = (take_arrays(keys, &taken, None)?, take_arrays(values, &taken, None)?);
                self.table.put(slot, &keys, &values, taken.len()).map_err(state_error)
            }),
        }
    }

    /// As [`PanedTable::remove`], for keys of any slots.
    pub fn remove(&mut self, slots: &Slots, keys: &[ArrayRef], rows: usize) -> DfResult<()> {
        match slots.split() {
            Err(slot) => self.table.remove(slot, keys, rows).map_err(state_error),
            Ok(split) => split.into_iter().try_for_each(|(slot, taken)| {
                let taken = UInt64Array::from(taken);
                let keys = take_arrays(keys, &taken, None)?;
                self.table.remove(slot, &keys, taken.len()).map_err(state_error)
            }),
        }
    }
}
