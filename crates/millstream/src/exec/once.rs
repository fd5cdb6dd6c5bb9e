//! Constant rows (VALUES, a SELECT without FROM) in a stream: they come once, in the first batch.
//!
//! A plan is executed once a batch, and a constant answers each time. What is remembered is that it has.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DfResult, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, PhysicalExpr};
use datafusion::physical_plan::distribution_requirements::InputDistributionRequirements;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions};
use futures::TryStreamExt;
use millstream_core::Result;
use millstream_state::{Changes, KeyedTable, OperatorState, Restored, StateInfo, TableInfo};

use super::changes::state_error;
use super::node::{self, unary_node};

/// The rows of its input in the first batch, and none after.
#[derive(Debug)]
pub struct OnceExec {
    name: Arc<str>,
    input: Arc<dyn ExecutionPlan>,
    state: Arc<Mutex<OnceState>>,
    properties: Arc<PlanProperties>,
}

impl OnceExec {
    /// `name` names the state within the query.
    ///
    /// # Errors
    /// Never.
    pub fn try_new(name: impl Into<Arc<str>>, input: Arc<dyn ExecutionPlan>) -> DfResult<Self> {
        let empty = || Arc::new(Schema::empty());
        let state = OnceState(KeyedTable::new(empty(), empty()).map_err(state_error)?);
        let properties = node::final_properties(input.schema());
        Ok(Self { name: name.into(), input, state: Arc::new(Mutex::new(state)), properties })
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
        let (name, state) = (Arc::clone(&self.name), Arc::clone(&self.state));
        Self { name, input, state, properties: Arc::clone(&self.properties) }
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![]
    }
}

impl DisplayAs for OnceExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnceExec")
    }
}

impl ExecutionPlan for OnceExec {
    unary_node!("OnceExec");

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("OnceExec has one partition, {partition} was asked for");
        }
        let input = self.input.execute(0, context)?;
        let state = Arc::clone(&self.state);
        Ok(node::answer(self.input.schema(), async move {
            let rows: Vec<RecordBatch> = input.try_collect().await?;
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            if !state.0.get(&[], 1).map_err(state_error)?.rows.is_empty() {
                return Ok(vec![]);
            }
            state.0.put(&[], &[], 1).map_err(state_error)?;
            Ok(rows)
        }))
    }
}

/// One row, once the rows have been given.
#[derive(Debug)]
struct OnceState(KeyedTable);

impl OperatorState for OnceState {
    fn install(&mut self) {
        self.0.install();
    }

    fn discard(&mut self) {
        self.0.discard();
    }

    fn changes(&mut self) -> Result<Changes> {
        Ok(Changes::new().keyed("given", &self.0).note("given", self.0.len().to_string()))
    }

    fn restore(&mut self, mut saved: Restored) -> Result<()> {
        let given = saved.note("given").is_some_and(|given| given != "0");
        saved.keyed("given", &mut self.0)?;
        if given && self.0.is_empty() {
            self.0.put(&[], &[], 1)?;
            self.0.install();
        }
        Ok(())
    }

    fn describe(&self) -> StateInfo {
        StateInfo { kind: "constant".to_string(), tables: vec![TableInfo::keyed("given", &self.0)] }
    }

    fn table(&self) -> Result<Vec<RecordBatch>> {
        self.0.scan().collect()
    }
}
