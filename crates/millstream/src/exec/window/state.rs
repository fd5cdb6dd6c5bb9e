//! What a window aggregate keeps: a table of groups per slot of time, and how far windows were closed.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, TimestampMicrosecondArray, UInt64Array, new_empty_array};
use arrow::compute::{concat, take_arrays};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::{Result as DfResult, internal_err};
use millstream_state::{Changes, Found, OperatorState, PanedTable, Restored, StateInfo, TableInfo};

use super::super::accumulate::Aggregates;
use super::super::aggregate::unseen;
use super::super::changes::state_error;
use super::super::distinct::seen_keys;
use super::cells::Cells;
use super::combine::Groups;

const CLOSED: &str = "closed";

/// The column of the state, as a person reads it, that names the slot.
const SLOT: &str = "$slot";

/// The state of a window aggregate.
#[derive(Debug)]
pub struct WindowState {
    /// The groups, by slot.
    pub groups: PanedTable,
    /// The values that DISTINCT aggregates have seen, by slot.
    pub seen: Vec<PanedTable>,
    /// The frontier up to which windows were closed, installed and staged.
    closed: [Option<i64>; 2],
    /// Merged panes, by start and level: a cache, which is not part of a checkpoint. What is staged comes
    /// from panes of a batch that may yet be discarded.
    pub(super) merged: BTreeMap<(i64, u32), Merged>,
}

/// A stretch of panes, merged.
#[derive(Debug)]
pub(super) struct Merged {
    pub groups: Arc<Groups>,
    pub staged: bool,
}

impl WindowState {
    /// No slots.
    pub fn try_new(keys: &SchemaRef, aggregates: &Aggregates, input: &Schema) -> DfResult<Self> {
        let values = Arc::new(Schema::new(aggregates.state_fields().cloned().collect::<Vec<_>>()));
        let groups = PanedTable::new(Arc::clone(keys), values).map_err(state_error)?;
        let seen = (0..aggregates.distinct().len())
            .map(|set| {
                let keys = seen_keys(keys, aggregates, set, input)?;
                PanedTable::new(keys, Arc::new(Schema::empty())).map_err(state_error)
            })
            .collect::<DfResult<_>>()?;
        Ok(Self { groups, seen, closed: [None, None], merged: BTreeMap::new() })
    }

    /// The frontier up to which windows are closed.
    pub fn closed(&self) -> Option<i64> {
        self.closed[1]
    }

    /// Stages how far windows are closed now.
    pub fn close(&mut self, frontier: Option<i64>) {
        self.closed[1] = self.closed[1].max(frontier);
    }

    /// Stages the removal of slots.
    pub fn drop_below(&mut self, slot: i64) {
        self.groups.drop_below(slot);
        self.seen.iter_mut().for_each(|t| t.drop_below(slot));
        self.merged.retain(|(start, _), _| *start >= slot);
    }

    /// The state so far of the cells that have one.
    pub fn found(&self, cells: &Cells) -> DfResult<Found> {
        let mut rows = Vec::new();
        let mut parts: Vec<Vec<ArrayRef>> = Vec::new();
        for (slot, range) in &cells.slots {
            if self.groups.pane(*slot).is_none() {
                continue;
            }
            let keys = slice(&cells.keys, range.start, range.len());
            let found = self.groups.get(*slot, &keys, range.len()).map_err(state_error)?;
            if !found.rows.is_empty() {
                rows.extend(found.rows.iter().map(|row| row + range.start));
                parts.push(found.values);
            }
        }
        let fields = self.groups.values().fields();
        if parts.len() == 1 {
            return Ok(Found { rows, values: parts.pop().unwrap_or_default() });
        }
        let values = (0..fields.len())
            .zip(fields)
            .map(|(column, field)| {
                let parts: Vec<_> = parts.iter().filter_map(|p| p.get(column)).map(|c| c.as_ref()).collect();
                if parts.is_empty() { Ok(new_empty_array(field.data_type())) } else { Ok(concat(&parts)?) }
            })
            .collect::<DfResult<_>>()?;
        Ok(Found { rows, values })
    }

    /// Which pairs of cell and value no earlier batch has seen; they are remembered.
    pub fn unseen(&mut self, set: usize, cells: &Cells, of: &[usize], values: &[ArrayRef]) -> DfResult<Vec<bool>> {
        let Some(table) = self.seen.get_mut(set) else { return internal_err!("a DISTINCT has no table") };
        let mut new = vec![true; of.len()];
        // The pairs of each slot: pairs are few where slots are many.
        let mut by_slot: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for (pair, cell) in (0u64..).zip(of) {
            let slot = cells.slots.partition_point(|(_, range)| range.end <= *cell);
            by_slot.entry(slot).or_default().push(pair);
        }
        for (slot, pairs) in by_slot {
            let Some((slot, _)) = cells.slots.get(slot) else { return internal_err!("a cell lies in no slot") };
            let cell_of = |pair: &u64| of.get(*pair as usize).map_or(0, |cell| *cell as u64);
            let taken = UInt64Array::from_iter_values(pairs.iter().map(cell_of));
            let mut keys = take_arrays(&cells.keys, &taken, None)?;
            keys.extend(take_arrays(values, &UInt64Array::from(pairs.clone()), None)?);
            let mut at = table.find(*slot, &keys, pairs.len()).map_err(state_error)?;
            let (is_new, fresh) = unseen(pairs.len(), &table.read(*slot, &at).map_err(state_error)?);
            if !fresh.is_empty() {
                table.put_at(*slot, &mut at, Some(&fresh), &[]).map_err(state_error)?;
            }
            for (pair, is_new) in pairs.iter().zip(is_new) {
                if let Some(new) = new.get_mut(*pair as usize) {
                    *new = is_new;
                }
            }
        }
        Ok(new)
    }

    fn tables(&mut self) -> impl Iterator<Item = &mut PanedTable> {
        std::iter::once(&mut self.groups).chain(&mut self.seen)
    }
}

impl OperatorState for WindowState {
    fn install(&mut self) {
        self.tables().for_each(PanedTable::install);
        self.closed[0] = self.closed[1];
        self.merged.values_mut().for_each(|m| m.staged = false);
    }

    fn discard(&mut self) {
        self.tables().for_each(PanedTable::discard);
        self.closed[1] = self.closed[0];
        self.merged.retain(|_, m| !m.staged);
    }

    fn changes(&mut self) -> millstream_core::Result<Changes> {
        let mut changes = Changes::new().paned("groups", &self.groups);
        for (set, table) in self.seen.iter().enumerate() {
            changes = changes.paned(&format!("distinct.{set}"), table);
        }
        if let Some(closed) = self.closed[0] {
            changes = changes.note(CLOSED, closed.to_string());
        }
        Ok(changes)
    }

    fn restore(&mut self, mut saved: Restored) -> millstream_core::Result<()> {
        saved.paned("groups", &mut self.groups)?;
        for (set, table) in self.seen.iter_mut().enumerate() {
            saved.paned(&format!("distinct.{set}"), table)?;
        }
        let closed = saved.note(CLOSED).map(str::parse::<i64>).transpose().map_err(|e| {
            millstream_core::Error::corrupt("the checkpoint says in no number up to where windows were closed")
                .caused_by(e)
        })?;
        self.closed = [closed, closed];
        self.merged.clear();
        Ok(())
    }

    fn describe(&self) -> StateInfo {
        let mut tables = vec![TableInfo::paned("groups", &self.groups)];
        let distinct = |(set, table)| TableInfo::paned(&format!("distinct.{set}"), table);
        tables.extend(self.seen.iter().enumerate().map(distinct));
        StateInfo { kind: "window aggregate".to_string(), tables }
    }

    fn table(&self) -> millstream_core::Result<Vec<RecordBatch>> {
        self.groups.scan().map(|batch| batch.and_then(|(slot, batch)| with_slot(slot, &batch))).collect()
    }
}

/// The rows of a slot with a first column that says which it is.
fn with_slot(slot: i64, batch: &RecordBatch) -> millstream_core::Result<RecordBatch> {
    let slots = TimestampMicrosecondArray::from_value(slot, batch.num_rows());
    let mut fields = vec![Arc::new(Field::new(SLOT, slots.data_type().clone(), false))];
    fields.extend(batch.schema().fields().iter().cloned());
    let mut columns: Vec<ArrayRef> = vec![Arc::new(slots)];
    columns.extend(batch.columns().iter().cloned());
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// A stretch of rows of some columns.
pub(super) fn slice(columns: &[ArrayRef], from: usize, rows: usize) -> Vec<ArrayRef> {
    columns.iter().map(|c| c.slice(from, rows)).collect()
}
