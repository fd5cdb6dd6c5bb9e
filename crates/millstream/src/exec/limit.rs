//! LIMIT without ORDER BY over rows that only come: the first of them, in the order of the log.
//!
//! One number is kept, how many rows came. Nothing is ever taken back. Which rows are the first depends, where
//! several partitions are read, on how they were cut into batches; a batch that is run again gives the same.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::Result as DfResult;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use millstream_state::{Changes, KeyedTable, OperatorState, Restored, StateInfo, TableInfo};

use super::changes::state_error;
use super::stateful::{Operator, StatefulExec};

const COUNT: &str = "count";

/// The first rows of its input.
#[derive(Debug)]
pub struct LimitExec {
    skip: u64,
    fetch: u64,
    output: SchemaRef,
}

impl LimitExec {
    /// Passes `fetch` rows on, after the first `skip`.
    ///
    /// # Errors
    /// Never for a sound build: where the state can't hold a number.
    pub fn try_new(
        name: impl Into<Arc<str>>,
        input: Arc<dyn ExecutionPlan>,
        skip: u64,
        fetch: u64,
    ) -> DfResult<StatefulExec> {
        let values = Arc::new(Schema::new(vec![Field::new(COUNT, DataType::Int64, false)]));
        let table = KeyedTable::new(Arc::new(Schema::empty()), values).map_err(state_error)?;
        let operator = Self { skip, fetch, output: input.schema() };
        Ok(StatefulExec::new(name, [input], operator, CountState(table)))
    }
}

impl Operator<1> for LimitExec {
    type State = CountState;

    const NAME: &'static str = "LimitExec";

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn detail(&self) -> String {
        format!("skip={}, fetch={}", self.skip, self.fetch)
    }

    fn run(
        &self,
        state: &mut CountState,
        [batches]: [Vec<RecordBatch>; 1],
        _: &TaskContext,
    ) -> DfResult<Vec<RecordBatch>> {
        let (skip, end) = (self.skip, self.skip.saturating_add(self.fetch));
        let before = state.count()?;
        let (mut count, mut output) = (before, vec![]);
        for batch in batches {
            let rows = batch.num_rows() as u64;
            let from = skip.saturating_sub(count).min(rows);
            let to = end.saturating_sub(count).min(rows);
            if from < to {
                output.push(batch.slice(from as usize, (to - from) as usize));
            }
            count = (count + rows).min(end);
        }
        if count != before {
            state.put(count)?;
        }
        Ok(output)
    }
}

/// How many rows came, up to the end of the limit.
#[derive(Debug)]
pub(super) struct CountState(KeyedTable);

impl CountState {
    fn count(&self) -> DfResult<u64> {
        let found = self.0.get(&[], 1).map_err(state_error)?;
        let count = found.values.first().and_then(|c| c.as_primitive_opt::<Int64Type>());
        Ok(count.and_then(|c| c.values().first()).map_or(0, |n| n.unsigned_abs()))
    }

    fn put(&mut self, count: u64) -> DfResult<()> {
        let count: ArrayRef = Arc::new(Int64Array::from(vec![i64::try_from(count).unwrap_or(i64::MAX)]));
        self.0.put(&[], &[count], 1).map_err(state_error)
    }
}

impl OperatorState for CountState {
    fn install(&mut self) {
        self.0.install();
    }

    fn discard(&mut self) {
        self.0.discard();
    }

    fn changes(&mut self) -> millstream_core::Result<Changes> {
        Ok(Changes::new().keyed(COUNT, &self.0))
    }

    fn restore(&mut self, mut saved: Restored) -> millstream_core::Result<()> {
        saved.keyed(COUNT, &mut self.0)
    }

    fn describe(&self) -> StateInfo {
        StateInfo { kind: "limit".to_string(), tables: vec![TableInfo::keyed(COUNT, &self.0)] }
    }

    fn table(&self) -> millstream_core::Result<Vec<RecordBatch>> {
        self.0.scan().collect()
    }
}
