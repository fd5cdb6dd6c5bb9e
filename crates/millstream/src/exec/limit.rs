//! LIMIT without ORDER BY over rows that only come: the first of them, in the order of the log.
//!
//! One number is kept, how many rows came. Nothing is ever taken back. Which rows are the first depends, where
//! several partitions are read, on how they were cut into batches; a batch that is run again gives the same.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DfResult, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, PhysicalExpr};
use datafusion::physical_plan::distribution_requirements::InputDistributionRequirements;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions};
use futures::TryStreamExt;
use millstream_state::{Changes, KeyedTable, OperatorState, Restored, StateInfo, TableInfo};

use super::changes::state_error;
use super::node::{self, unary_node};

const COUNT: &str = "count";

/// The first rows of its input.
#[derive(Debug)]
pub struct LimitExec {
    name: Arc<str>,
    input: Arc<dyn ExecutionPlan>,
    skip: u64,
    fetch: u64,
    state: Arc<Mutex<CountState>>,
    properties: Arc<PlanProperties>,
}

impl LimitExec {
    /// Passes `fetch` rows on, after the first `skip`.
    ///
    /// # Errors
    /// Never for a sound build: where the state can't hold a number.
    pub fn try_new(name: impl Into<Arc<str>>, input: Arc<dyn ExecutionPlan>, skip: u64, fetch: u64) -> DfResult<Self> {
        let values = Arc::new(Schema::new(vec![Field::new(COUNT, DataType::Int64, false)]));
        let table = KeyedTable::new(Arc::new(Schema::empty()), values).map_err(state_error)?;
        let properties = node::final_properties(input.schema());
        let state = Arc::new(Mutex::new(CountState(table)));
        Ok(Self { name: name.into(), input, skip, fetch, state, properties })
    }

    /// The state's name within the query.
    pub fn state_name(&self) -> &str {
        &self.name
    }

    /// What is kept between batches.
    pub fn state(&self) -> Arc<Mutex<dyn OperatorState>> {
        Arc::clone(&self.state) as _
    }

    fn with_input(&self, input: Arc<dyn ExecutionPlan>) -> Self {
        Self {
            name: Arc::clone(&self.name),
            input,
            skip: self.skip,
            fetch: self.fetch,
            state: Arc::clone(&self.state),
            properties: Arc::clone(&self.properties),
        }
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![]
    }
}

impl DisplayAs for LimitExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LimitExec: skip={}, fetch={}", self.skip, self.fetch)
    }
}

impl ExecutionPlan for LimitExec {
    unary_node!("LimitExec");

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("LimitExec has one partition, {partition} was asked for");
        }
        let input = self.input.execute(0, context)?;
        let (skip, end) = (self.skip, self.skip.saturating_add(self.fetch));
        let state = Arc::clone(&self.state);
        Ok(node::answer(self.input.schema(), async move {
            let batches: Vec<RecordBatch> = input.try_collect().await?;
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
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
        }))
    }
}

/// How many rows came, up to the end of the limit.
#[derive(Debug)]
struct CountState(KeyedTable);

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
