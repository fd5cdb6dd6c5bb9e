//! Constant rows (VALUES, a SELECT without FROM) in a stream: they come once, in the first batch.
//!
//! A plan is executed once a batch, and a constant answers each time. What is remembered is that it has.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::Result as DfResult;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use millstream_core::Result;
use millstream_state::{Changes, KeyedTable, OperatorState, Restored, StateInfo, TableInfo};

use super::changes::state_error;
use super::stateful::{Operator, StatefulExec};

/// The rows of its input in the first batch, and none after.
#[derive(Debug)]
pub struct OnceExec {
    output: SchemaRef,
}

impl OnceExec {
    /// `name` names the state within the query.
    ///
    /// # Errors
    /// Never.
    pub fn try_new(name: impl Into<Arc<str>>, input: Arc<dyn ExecutionPlan>) -> DfResult<StatefulExec> {
        let empty = || Arc::new(Schema::empty());
        let state = OnceState(KeyedTable::new(empty(), empty()).map_err(state_error)?);
        let operator = Self { output: input.schema() };
        Ok(StatefulExec::new(name, [input], operator, state))
    }
}

impl Operator<1> for OnceExec {
    type State = OnceState;

    const NAME: &'static str = "OnceExec";

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn run(&self, state: &mut OnceState, [rows]: [Vec<RecordBatch>; 1], _: &TaskContext) -> DfResult<Vec<RecordBatch>> {
        if !state.0.get(&[], 1).map_err(state_error)?.rows.is_empty() {
            return Ok(vec![]);
        }
        state.0.put(&[], &[], 1).map_err(state_error)?;
        Ok(rows)
    }
}

/// One row, once the rows have been given.
#[derive(Debug)]
pub(super) struct OnceState(KeyedTable);

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
