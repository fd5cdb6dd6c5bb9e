//! Which keys were not touched for long: what `state.ttl` forgets.
//!
//! Time is that of the batches, as their intents record it, so that a batch that is run again forgets the same. It is
//! cut into granules, a sixteenth of the time that a key is remembered:
//!
//! ```text
//! touched    granule -> the keys that a batch of that time touched
//! ```
//!
//! A key that is touched in several granules is in each of them, once. When a granule has become too old, its keys
//! that are in no later one are forgotten, and it is dropped whole. So a batch looks at the keys that it touches, and
//! once a granule at those that were touched in one; never at all of them. A key is remembered for at least the time
//! that was asked for, and for at most a sixteenth more, and is gone with the first batch after that.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat, take_arrays};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::Result as DfResult;
use millstream_state::{Changes, KeyedTable, PanedTable, Restored, TableInfo};

use super::changes::state_error;

/// The name of the table in a checkpoint, for an operator that has one.
pub const TOUCHED: &str = "touched";

/// Granules in the time that a key is remembered.
const GRANULES: i64 = 16;

/// When each key was touched.
#[derive(Debug)]
pub struct Idle {
    touched: PanedTable,
    idle_us: i64,
    granule_us: i64,
}

/// Keys that are forgotten.
#[derive(Debug)]
pub struct Forgotten {
    /// Their columns.
    pub keys: Vec<ArrayRef>,
    /// How many they are: at least one.
    pub count: usize,
}

impl Idle {
    /// For keys with these columns; `None` where they are remembered for ever, or where there is only one key.
    pub fn try_new(keys: &SchemaRef, idle_us: Option<i64>) -> DfResult<Option<Self>> {
        let Some(idle_us) = idle_us.filter(|_| !keys.fields().is_empty()) else { return Ok(None) };
        let touched = PanedTable::new(Arc::clone(keys), Arc::new(Schema::empty())).map_err(state_error)?;
        Ok(Some(Self { touched, idle_us, granule_us: (idle_us / GRANULES).max(1) }))
    }

    /// Stages that a batch of this time has touched distinct keys (`count` of them).
    pub fn touch(&mut self, time_us: i64, keys: &[ArrayRef], count: usize) -> DfResult<()> {
        if count == 0 {
            return Ok(());
        }
        // A clock that was put back does not make a key older than those that came before it.
        let newest = self.touched.panes(..).next_back().map_or(i64::MIN, |(granule, _)| granule);
        let granule = time_us.div_euclid(self.granule_us).max(newest);
        let there = self.touched.get(granule, keys, count).map_err(state_error)?.rows;
        let new = missing(&there, count);
        if new.is_empty() {
            return Ok(());
        }
        let keys = if new.len() == count { keys.to_vec() } else { take_arrays(keys, &new, None)? };
        self.touched.put(granule, &keys, &[], new.len()).map_err(state_error)
    }

    /// The keys that nothing has touched for long at this time; it is staged that they are not asked for again.
    pub fn due(&mut self, time_us: i64) -> DfResult<Option<Forgotten>> {
        let due = time_us.saturating_sub(self.idle_us).div_euclid(self.granule_us);
        let mut parts: Vec<Vec<ArrayRef>> = vec![];
        let mut count = 0;
        for (granule, pane) in self.touched.panes(..due) {
            for batch in pane.scan_staged() {
                let keys = self.not_since(granule, &batch.map_err(state_error)?)?;
                let rows = keys.first().map_or(0, |k| k.len());
                if rows > 0 {
                    count += rows;
                    parts.push(keys);
                }
            }
        }
        self.touched.drop_below(due);
        if count == 0 {
            return Ok(None);
        }
        let column = |c: usize| {
            let parts: Vec<&dyn Array> = parts.iter().filter_map(|p| p.get(c)).map(AsRef::as_ref).collect();
            Ok(concat(&parts)?)
        };
        let keys = (0..self.touched.keys().fields().len()).map(column).collect::<DfResult<Vec<_>>>()?;
        Ok(Some(Forgotten { keys, count }))
    }

    /// The keys that are in no later granule.
    fn not_since(&self, granule: i64, keys: &RecordBatch) -> DfResult<Vec<ArrayRef>> {
        let mut keys = keys.columns().to_vec();
        for (_, later) in self.touched.panes(granule.saturating_add(1)..) {
            let count = keys.first().map_or(0, |k| k.len());
            if count == 0 {
                break;
            }
            let there = later.get(&keys, count).map_err(state_error)?.rows;
            if !there.is_empty() {
                keys = take_arrays(&keys, &missing(&there, count), None)?;
            }
        }
        Ok(keys)
    }

    /// What was staged becomes the state.
    pub fn install(&mut self) {
        self.touched.install();
    }

    /// What was staged is forgotten.
    pub fn discard(&mut self) {
        self.touched.discard();
    }
}

impl Forgotten {
    /// The keys of a table's batches that begin with one of these, for each batch that has some.
    ///
    /// This looks at the whole table: it is for what a key keeps beside its row, once a granule.
    pub fn beginnings(
        &self,
        keys: &SchemaRef,
        columns: usize,
        batches: impl Iterator<Item = millstream_core::Result<RecordBatch>>,
    ) -> DfResult<Vec<(Vec<ArrayRef>, usize)>> {
        let mut table = KeyedTable::new(Arc::clone(keys), Arc::new(Schema::empty())).map_err(state_error)?;
        table.put(&self.keys, &[], self.count).map_err(state_error)?;
        let (prefix, mut found) = (self.keys.len(), vec![]);
        for batch in batches {
            let batch = batch.map_err(state_error)?;
            let begin = batch.columns().get(..prefix).unwrap_or_default();
            let rows = table.get(begin, batch.num_rows()).map_err(state_error)?.rows;
            if !rows.is_empty() {
                let rows = UInt32Array::from_iter_values(rows.into_iter().map(|row| row as u32));
                let whole = batch.columns().get(..columns).unwrap_or_default();
                found.push((take_arrays(whole, &rows, None)?, rows.len()));
            }
        }
        Ok(found)
    }
}

/// Those of `count` places that are not among some, which ascend.
fn missing(there: &[usize], count: usize) -> UInt32Array {
    let mut there = there.iter().copied().peekable();
    (0..count).filter(|place| there.next_if_eq(place).is_none()).map(|place| place as u32).collect()
}

/// What an operator's state does with the keys that it may forget; `name` is that of their table in a checkpoint.
pub fn changes(changes: Changes, name: &str, idle: Option<&Idle>) -> Changes {
    match idle {
        Some(idle) => changes.paned(name, &idle.touched),
        None => changes,
    }
}

/// As [`changes`], when a checkpoint is restored.
pub fn restore(saved: &mut Restored, name: &str, idle: Option<&mut Idle>) -> millstream_core::Result<()> {
    idle.map_or(Ok(()), |idle| saved.paned(name, &mut idle.touched))
}

/// As [`changes`], for a description.
pub fn describe(name: &str, idle: Option<&Idle>) -> Option<TableInfo> {
    idle.map(|idle| TableInfo::paned(name, &idle.touched))
}
