//! `EMIT FINAL`: what the answer is when the input has ended, and nothing before.
//!
//! The rows of the answer so far are kept, with how often each is there. When the frontier is at the end of time they are
//! answered, each as often as that.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take_arrays;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::{Result as DfResult, internal_datafusion_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use millstream_core::watermark::END_OF_TIME;
use millstream_state::{Changes, KeyedTable, OperatorState, Restored, StateInfo, TableInfo};

use super::BatchContext;
use super::changes::state_error;
use super::memory::Memory;
use super::stateful::{Operator, StatefulExec};
use super::top_n::nullable;
use crate::changelog;

const ROWS: &str = "rows";

/// The rows of its input when that has ended.
#[derive(Debug)]
pub struct FinalExec {
    input: SchemaRef,
    output: SchemaRef,
    memory: Memory,
}

impl FinalExec {
    /// `memory` names the state within the query. The input can have a weight as its last column; the answer has none.
    ///
    /// # Errors
    /// Where rows of these columns can't be told apart.
    pub fn try_new(memory: impl Into<Memory>, input: Arc<dyn ExecutionPlan>) -> DfResult<StatefulExec> {
        let (memory, schema) = (memory.into(), input.schema());
        let weight = usize::from(changelog::is_weighted(&schema));
        let fields = schema.fields().iter().take(schema.fields().len() - weight).cloned().collect::<Vec<_>>();
        let output = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
        let counts = Arc::new(Schema::new(vec![Field::new("$count", DataType::Int64, false)]));
        let state = FinalState(KeyedTable::new(nullable(&output), counts).map_err(state_error)?);
        let name = Arc::clone(&memory.name);
        Ok(StatefulExec::new(name, [input], Self { input: schema, output, memory }, state))
    }
}

impl Operator<1> for FinalExec {
    type State = FinalState;

    const NAME: &'static str = "FinalExec";

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn run(
        &self,
        state: &mut FinalState,
        [batches]: [Vec<RecordBatch>; 1],
        context: &TaskContext,
    ) -> DfResult<Vec<RecordBatch>> {
        self.add(&mut state.0, &batches)?;
        match BatchContext::of(context)?.frontier {
            Some(END_OF_TIME) => self.answer(&state.0),
            _ => Ok(vec![]),
        }
    }
}

impl FinalExec {
    fn add(&self, state: &mut KeyedTable, batches: &[RecordBatch]) -> DfResult<()> {
        let weighted = match changelog::is_weighted(&self.input) {
            true => batches.to_vec(),
            false => batches.iter().map(|b| self.with_ones(b)).collect::<DfResult<Vec<_>>>()?,
        };
        // Each row once.
        let schema = changelog::with_weight(&self.output);
        for rows in changelog::consolidate(&weighted, &schema).map_err(state_error)? {
            let Some((weights, columns)) = rows.columns().split_last() else { continue };
            let count = rows.num_rows();
            let found = state.get(columns, count).map_err(state_error)?;
            let mut after = counts(weights)?.values().to_vec();
            if let Some(before) = found.values.first() {
                for (row, before) in found.rows.iter().zip(counts(before)?.values()) {
                    if let Some(after) = after.get_mut(*row) {
                        *after += before;
                    }
                }
            }
            for after in after.iter_mut().filter(|n| **n < 0) {
                self.memory.unknown_row("EMIT FINAL")?;
                *after = 0;
            }
            let pick = |there: bool| -> UInt32Array {
                (0u32..).zip(&after).filter(|(_, n)| (**n > 0) == there).map(|(row, _)| row).collect()
            };
            let (gone, kept) = (pick(false), pick(true));
            if !gone.is_empty() {
                state.remove(&take_arrays(columns, &gone, None)?, gone.len()).map_err(state_error)?;
            }
            if !kept.is_empty() {
                let values: ArrayRef = Arc::new(after.iter().copied().filter(|n| *n > 0).collect::<Int64Array>());
                state.put(&take_arrays(columns, &kept, None)?, &[values], kept.len()).map_err(state_error)?;
            }
        }
        Ok(())
    }

    fn with_ones(&self, rows: &RecordBatch) -> DfResult<RecordBatch> {
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(Int64Array::from_value(1, rows.num_rows())));
        Ok(RecordBatch::try_new(changelog::with_weight(&self.output), columns)?)
    }

    fn answer(&self, state: &KeyedTable) -> DfResult<Vec<RecordBatch>> {
        let mut answer = vec![];
        for rows in state.scan_staged() {
            let rows = rows.map_err(state_error)?;
            let Some((weights, columns)) = rows.columns().split_last() else { continue };
            let mut places = vec![];
            for (row, count) in (0u32..).zip(counts(weights)?.values()) {
                places.extend((0..*count).map(|_| row));
            }
            let options = RecordBatchOptions::new().with_row_count(Some(places.len()));
            let columns = take_arrays(columns, &UInt32Array::from(places), None)?;
            answer.push(RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options)?);
        }
        Ok(answer)
    }
}

fn counts(column: &ArrayRef) -> DfResult<&Int64Array> {
    column.as_primitive_opt::<Int64Type>().ok_or_else(|| internal_datafusion_err!("a row has a count"))
}

/// How often each row of the answer is there.
#[derive(Debug)]
pub(super) struct FinalState(KeyedTable);

impl OperatorState for FinalState {
    fn install(&mut self) {
        self.0.install();
    }

    fn discard(&mut self) {
        self.0.discard();
    }

    fn changes(&mut self) -> millstream_core::Result<Changes> {
        Ok(Changes::new().keyed(ROWS, &self.0))
    }

    fn restore(&mut self, mut saved: Restored) -> millstream_core::Result<()> {
        saved.keyed(ROWS, &mut self.0)
    }

    fn describe(&self) -> StateInfo {
        StateInfo { kind: "final answer".to_string(), tables: vec![TableInfo::keyed(ROWS, &self.0)] }
    }

    fn table(&self) -> millstream_core::Result<Vec<RecordBatch>> {
        self.0.scan().collect()
    }
}
