//! The last row of each key: a table with a PRIMARY KEY, read as upserts.
//!
//! A row takes the place of the one with its key; one whose weight is negative takes that away, whatever its other
//! columns say. What comes out is the difference: the row that was there goes and the new one comes, and nothing
//! where they are the same. So a change that is told twice is one change.
//!
//! A row is kept for each key, for ever or for its lifetime ([`super::idle`]). "Last" is by the order of the log, within the batch and before it.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter, take_arrays};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use datafusion::common::{Result as DfResult, internal_datafusion_err, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use millstream_state::{Changes, KeyedTable, OperatorState, Restored, StateInfo, TableInfo};

use super::BatchContext;
use super::changes::{Changed, state_error, weighted};
use super::grouping::Grouping;
use super::idle::{self, Idle, TOUCHED};
use super::memory::Memory;
use super::stateful::{Operator, StatefulExec};
use super::top_n::nullable;

const ROWS: &str = "rows";

/// Answers what changes in a table of the last row of each key.
#[derive(Debug)]
pub struct UpsertExec {
    /// The columns of the key.
    keys: Vec<usize>,
    key_schema: SchemaRef,
    /// The columns that are kept beside the key, in the order in which they are kept.
    kept: Vec<usize>,
    /// How many columns a row has, without its weight.
    columns: usize,
    input: SchemaRef,
    output: SchemaRef,
}

impl UpsertExec {
    /// The last rows by the columns `keys`; `output` is the rows and a weight. The input has a weight as its last
    /// column where it has as many columns as that.
    ///
    /// # Errors
    /// Where a column is not there, or can't be a key.
    pub fn try_new(
        memory: impl Into<Memory>,
        input: Arc<dyn ExecutionPlan>,
        keys: Vec<usize>,
        output: SchemaRef,
    ) -> DfResult<StatefulExec> {
        let schema = input.schema();
        let columns = output.fields().len().saturating_sub(1);
        if schema.fields().len() < columns || schema.fields().len() > columns + 1 {
            return internal_err!("upserts of {columns} columns are read from {}", schema.fields().len());
        }
        let key_schema = Arc::new(schema.project(&keys)?);
        // Floats that are one key may be written in two ways (0.0 and -0.0): the row is kept as it was.
        let plain = |t: &DataType| !t.is_floating() && !t.is_nested();
        let keys_tell = key_schema.fields().iter().all(|f| plain(f.data_type()));
        let kept: Vec<usize> = (0..columns).filter(|c| !keys_tell || !keys.contains(c)).collect();
        let values = nullable(&schema.project(&kept)?);
        let memory = memory.into();
        let rows = KeyedTable::new(Arc::clone(&key_schema), values).map_err(state_error)?;
        let state = UpsertState { rows, idle: Idle::try_new(&key_schema, memory.idle_us(0))? };
        let operator = Self { keys, key_schema, kept, columns, input: schema, output };
        Ok(StatefulExec::new(memory.name, [input], operator, state))
    }
}

/// Keys that a batch is about, each with its last row.
struct Last {
    keys: Vec<ArrayRef>,
    rows: UInt32Array,
}

impl Operator<1> for UpsertExec {
    type State = UpsertState;

    const NAME: &'static str = "UpsertExec";

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn detail(&self) -> String {
        let keys: Vec<_> = self.key_schema.fields().iter().map(|f| f.name().as_str()).collect();
        format!("keys=[{}]", keys.join(", "))
    }

    fn run(
        &self,
        state: &mut UpsertState,
        [batches]: [Vec<RecordBatch>; 1],
        context: &TaskContext,
    ) -> DfResult<Vec<RecordBatch>> {
        let UpsertState { rows: state, idle } = state;
        let time_us = BatchContext::of(context)?.time_us;
        if let Some(gone) = idle.as_mut().map(|idle| idle.due(time_us)).transpose()?.flatten() {
            state.remove(&gone.keys, gone.count).map_err(state_error)?;
        }
        let rows = &concat_batches(&self.input, &batches)?;
        if rows.num_rows() == 0 {
            return Ok(vec![]);
        }
        let [gone, come] = self.last(rows)?;
        if let Some(idle) = idle {
            idle.touch(time_us, &come.keys, come.rows.len())?;
        }
        let mut output = self.remove(state, &gone)?;
        output.extend(self.replace(state, rows, &come)?);
        Ok(output)
    }
}

impl UpsertExec {
    /// The last row of each key: of the keys that go, and of those that come.
    fn last(&self, rows: &RecordBatch) -> DfResult<[Last; 2]> {
        let keys: Vec<ArrayRef> = self.keys.iter().filter_map(|k| rows.columns().get(*k).cloned()).collect();
        let weights = match rows.columns().get(self.columns) {
            None => None,
            Some(weights) => Some(
                weights
                    .as_primitive_opt::<Int64Type>()
                    .ok_or_else(|| internal_datafusion_err!("the last column of a changelog is its weight"))?,
            ),
        };
        let mut grouping = Grouping::try_new(&self.key_schema)?;
        let of_rows = grouping.intern(&keys, rows.num_rows())?;
        let mut last = vec![0u32; grouping.len()];
        for (row, group) in (0u32..).zip(&of_rows) {
            if let Some(last) = last.get_mut(*group) {
                *last = row;
            }
        }
        let keys = grouping.keys()?;
        let goes = |row: u32| weights.is_some_and(|w| w.value(row as usize) < 0);
        let of = |going: bool| -> DfResult<Last> {
            let groups = (0u32..).zip(&last).filter(|(_, row)| goes(**row) == going);
            let (groups, rows): (Vec<u32>, Vec<u32>) = groups.unzip();
            let keys = if groups.len() == last.len() {
                keys.clone()
            } else {
                take_arrays(&keys, &UInt32Array::from(groups), None)?
            };
            Ok(Last { keys, rows: UInt32Array::from(rows) })
        };
        Ok([of(true)?, of(false)?])
    }

    fn remove(&self, state: &mut KeyedTable, gone: &Last) -> DfResult<Vec<RecordBatch>> {
        let count = gone.rows.len();
        if count == 0 {
            return Ok(vec![]);
        }
        let at = state.find(&gone.keys, count).map_err(state_error)?;
        let found = state.read(&at).map_err(state_error)?;
        let rows = found.rows.len();
        if rows == 0 {
            return Ok(vec![]);
        }
        state.remove_at(&at, None).map_err(state_error)?;
        let keys = take_arrays(&gone.keys, &indices(&found.rows), None)?;
        Ok(vec![weighted(&self.output, self.assemble(&keys, &found.values).into_iter(), rows, -1)?])
    }

    fn replace(&self, state: &mut KeyedTable, rows: &RecordBatch, come: &Last) -> DfResult<Vec<RecordBatch>> {
        let count = come.rows.len();
        if count == 0 {
            return Ok(vec![]);
        }
        let columns: Vec<ArrayRef> = rows.columns().iter().take(self.columns).cloned().collect();
        let columns = take_arrays(&columns, &come.rows, None)?;
        let values: Vec<ArrayRef> = self.kept.iter().filter_map(|c| columns.get(*c).cloned()).collect();
        let mut at = state.find(&come.keys, count).map_err(state_error)?;
        let found = state.read(&at).map_err(state_error)?;
        let changed = Changed::between(&found.values, &values, &found.rows, count)?;
        let old_keys = take_arrays(&come.keys, &indices(&found.rows), None)?;
        let old = self.assemble(&old_keys, &found.values);
        let old = weighted(&self.output, old.into_iter(), found.rows.len(), -1)?;
        let new = weighted(&self.output, columns.into_iter(), count, 1)?;
        let changes: Vec<u32> = changed.come().values().set_indices_u32().collect();
        if !changes.is_empty() {
            let values = values.iter().map(|c| Ok(filter(c, changed.come())?)).collect::<DfResult<Vec<_>>>()?;
            state.put_at(&mut at, Some(&changes), &values).map_err(state_error)?;
        }
        changed.rows(&old, &new)
    }

    /// Rows out of their keys and what is kept beside them.
    fn assemble(&self, keys: &[ArrayRef], values: &[ArrayRef]) -> Vec<ArrayRef> {
        let column = |c: usize| match self.kept.iter().position(|kept| *kept == c) {
            Some(at) => values.get(at).cloned(),
            None => self.keys.iter().position(|key| *key == c).and_then(|at| keys.get(at).cloned()),
        };
        (0..self.columns).filter_map(column).collect()
    }
}

fn indices(rows: &[usize]) -> UInt32Array {
    rows.iter().map(|row| u32::try_from(*row).unwrap_or(u32::MAX)).collect()
}

/// The last row of each key.
#[derive(Debug)]
pub(super) struct UpsertState {
    rows: KeyedTable,
    idle: Option<Idle>,
}

impl OperatorState for UpsertState {
    fn install(&mut self) {
        self.rows.install();
        self.idle.iter_mut().for_each(Idle::install);
    }

    fn discard(&mut self) {
        self.rows.discard();
        self.idle.iter_mut().for_each(Idle::discard);
    }

    fn changes(&mut self) -> millstream_core::Result<Changes> {
        Ok(idle::changes(Changes::new().keyed(ROWS, &self.rows), TOUCHED, self.idle.as_ref()))
    }

    fn restore(&mut self, mut saved: Restored) -> millstream_core::Result<()> {
        saved.keyed(ROWS, &mut self.rows)?;
        idle::restore(&mut saved, TOUCHED, self.idle.as_mut())
    }

    fn describe(&self) -> StateInfo {
        let tables = [TableInfo::keyed(ROWS, &self.rows)].into_iter();
        let tables = tables.chain(idle::describe(TOUCHED, self.idle.as_ref())).collect();
        StateInfo { kind: "upsert".to_string(), tables }
    }

    fn table(&self) -> millstream_core::Result<Vec<RecordBatch>> {
        self.rows.scan().collect()
    }
}
