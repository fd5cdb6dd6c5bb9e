//! Keyed rows within slots of time: a slot for each window, or one where there is no window.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, UInt32Array, UInt64Array};
use arrow::compute::{concat, take_arrays};
use datafusion::common::Result as DfResult;
use millstream_state::{Found, Keys, PanedTable};

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

/// Keys that were looked up, each in its slot.
#[derive(Debug)]
pub struct SlottedKeys {
    parts: Vec<Part>,
    /// The part of each key and its number there; nothing where there is one part.
    places: Vec<(u32, u32)>,
}

#[derive(Debug)]
struct Part {
    slot: i64,
    keys: Keys,
    /// The numbers of its keys among all; nothing where there is one part.
    taken: UInt64Array,
}

impl SlottedTable {
    /// As [`PanedTable::find`], for keys of any slots.
    pub fn find(&self, slots: &Slots, keys: &[ArrayRef], rows: usize) -> DfResult<SlottedKeys> {
        let split = match slots.split() {
            Err(slot) => {
                let keys = self.table.find(slot, keys, rows).map_err(state_error)?;
                let part = Part { slot, keys, taken: UInt64Array::from(Vec::<u64>::new()) };
                return Ok(SlottedKeys { parts: vec![part], places: vec![] });
            }
            Ok(split) => split,
        };
        let (mut parts, mut places) = (vec![], vec![(0, 0); rows]);
        for (number, (slot, taken)) in (0u32..).zip(split) {
            for (local, key) in (0u32..).zip(&taken) {
                if let Some(place) = places.get_mut(*key as usize) {
                    *place = (number, local);
                }
            }
            let taken = UInt64Array::from(taken);
            let keys = take_arrays(keys, &taken, None)?;
            let keys = self.table.find(slot, &keys, taken.len()).map_err(state_error)?;
            parts.push(Part { slot, keys, taken });
        }
        Ok(SlottedKeys { parts, places })
    }

    /// As [`PanedTable::read`].
    pub fn read(&self, keys: &SlottedKeys) -> DfResult<Found> {
        if let [Part { slot, keys, .. }] = keys.parts.as_slice() {
            return self.table.read(*slot, keys).map_err(state_error);
        }
        let mut found: Vec<usize> = vec![];
        let mut parts: Vec<Vec<ArrayRef>> = vec![];
        for Part { slot, keys, taken } in &keys.parts {
            let part = self.table.read(*slot, keys).map_err(state_error)?;
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

    /// As [`PanedTable::put_at`].
    pub fn put_at(&mut self, keys: &mut SlottedKeys, picks: &[u32], values: &[ArrayRef]) -> DfResult<()> {
        if let [Part { slot, keys, .. }] = keys.parts.as_mut_slice() {
            return self.table.put_at(*slot, keys, Some(picks), values).map_err(state_error);
        }
        for (number, (picks, rows)) in keys.by_part(picks) {
            if let Some(Part { slot, keys, .. }) = keys.parts.get_mut(number as usize) {
                let values = take_arrays(values, &UInt32Array::from(rows), None)?;
                self.table.put_at(*slot, keys, Some(&picks), &values).map_err(state_error)?;
            }
        }
        Ok(())
    }

    /// As [`PanedTable::remove_at`].
    pub fn remove_at(&mut self, keys: &SlottedKeys, picks: &[u32]) -> DfResult<()> {
        if let [Part { slot, keys, .. }] = keys.parts.as_slice() {
            return self.table.remove_at(*slot, keys, Some(picks)).map_err(state_error);
        }
        for (number, (picks, _)) in keys.by_part(picks) {
            if let Some(Part { slot, keys, .. }) = keys.parts.get(number as usize) {
                self.table.remove_at(*slot, keys, Some(&picks)).map_err(state_error)?;
            }
        }
        Ok(())
    }
}

impl SlottedKeys {
    /// For each part, which of its keys are picked, and the numbers of these picks.
    fn by_part(&self, picks: &[u32]) -> BTreeMap<u32, (Vec<u32>, Vec<u32>)> {
        let mut parts: BTreeMap<u32, (Vec<u32>, Vec<u32>)> = BTreeMap::new();
        for (row, pick) in (0u32..).zip(picks) {
            if let Some((part, local)) = self.places.get(*pick as usize) {
                let (locals, rows) = parts.entry(*part).or_default();
                locals.push(*local);
                rows.push(row);
            }
        }
        parts
    }
}
