//! A join of windows: the rows of a window are kept until it closes, then joined once.
//!
//! Both sides carry the window that a row is in, and the join asks for the same one. So nothing that a window
//! holds can be joined before or after it, and its rows are dropped whole. The answer is insert-only for every
//! kind of join.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::take_arrays;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{Result as DfResult, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use millstream_core::{Error, Result};
use millstream_state::{Changes, KeyedTable, OperatorState, PanedTable, Restored, StateInfo, TableInfo};

use super::super::BatchContext;
use super::super::changes::state_error;
use super::super::memory::Memory;
use super::super::stateful::{Operator, StatefulExec};
use super::pairs::batch;
use super::state::{SIDES, Staged};
use super::{Expiry, Join, Plan};
use crate::changelog;

/// A join of two streams of windows.
#[derive(Debug)]
pub struct WindowJoinExec {
    plan: Plan,
    closes: [Expiry; 2],
}

impl WindowJoinExec {
    /// Joins two insert-only inputs. `closes` says of each side's rows when their window closes; rows that the
    /// join pairs agree in it. The rest is as for [`super::JoinExec`].
    ///
    /// # Errors
    /// Where the columns or keys don't fit each other, or an input is a changelog.
    pub fn try_new(
        name: impl Into<Arc<str>>,
        inputs: [Arc<dyn ExecutionPlan>; 2],
        join: Join,
        closes: [Expiry; 2],
        output: &Schema,
    ) -> DfResult<StatefulExec> {
        let schemas = inputs.each_ref().map(|input| input.schema());
        if schemas.iter().any(|s| changelog::is_weighted(s)) || join.null_aware {
            return internal_err!("a join of windows reads rows that are never taken back");
        }
        let plan = Plan::try_new(join, schemas, output, false, Memory::from(""))?;
        let state = WindowJoinState::try_new(&plan).map_err(state_error)?;
        Ok(StatefulExec::new(name, inputs, Self { plan, closes }, state))
    }
}

impl Operator<2> for WindowJoinExec {
    type State = WindowJoinState;

    const NAME: &'static str = "WindowJoinExec";

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.plan.output)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.plan.join.expressions()
    }

    fn detail(&self) -> String {
        self.plan.to_string()
    }

    fn due_us(&self, state: &WindowJoinState) -> Option<i64> {
        state.rows.iter().filter_map(|rows| rows.panes(..).next().map(|(closes, _)| closes)).min()
    }

    fn run(
        &self,
        state: &mut WindowJoinState,
        inputs: [Vec<RecordBatch>; 2],
        context: &TaskContext,
    ) -> DfResult<Vec<RecordBatch>> {
        let frontier = BatchContext::of(context)?.frontier;
        self.plan.close(state, self.closes, inputs, frontier)
    }
}

impl Plan {
    /// Stages the rows of windows that are open, and joins those of windows that close.
    fn close(
        &self,
        state: &mut WindowJoinState,
        closes: [Expiry; 2],
        inputs: [Vec<RecordBatch>; 2],
        frontier: Option<i64>,
    ) -> DfResult<Vec<RecordBatch>> {
        let mut closing: [Vec<RecordBatch>; 2] = Default::default();
        for (((rows, closing), side), closes) in inputs.iter().zip(&mut closing).zip([0, 1]).zip(closes) {
            if let Some(frontier) = frontier {
                *closing = state.closed(side, frontier, self)?;
            }
            for rows in rows.iter().filter(|b| b.num_rows() > 0) {
                let times = closes.times(rows.columns())?;
                let closed = |time: &i64| frontier.is_some_and(|frontier| *time <= frontier);
                let done: Vec<u32> = (0u32..).zip(&times).filter(|(_, t)| closed(t)).map(|(row, _)| row).collect();
                if !done.is_empty() {
                    closing.push(picked(rows, done)?);
                }
                state.keep(side, rows, &times, closed).map_err(state_error)?;
            }
        }
        if let Some(frontier) = frontier {
            state.rows.iter_mut().for_each(|r| r.drop_below(frontier.saturating_add(1)));
        }
        let mut output = vec![];
        if closing.iter().any(|rows| !rows.is_empty()) {
            let deltas = [self.delta(0, &closing[0])?, self.delta(1, &closing[1])?];
            self.step(None, deltas, &mut output)?;
        }
        Ok(output)
    }
}

fn picked(rows: &RecordBatch, picks: Vec<u32>) -> DfResult<RecordBatch> {
    let count = picks.len();
    batch(&rows.schema(), take_arrays(rows.columns(), &UInt32Array::from(picks), None)?, count)
}

/// The rows of open windows: by the time at which their window closes, and a number.
#[derive(Debug)]
pub(in super::super) struct WindowJoinState {
    rows: [PanedTable; 2],
    /// The number of the next row.
    next: Staged<u64>,
}

impl WindowJoinState {
    fn try_new(plan: &Plan) -> Result<Self> {
        let number = Arc::new(Schema::new(vec![Field::new("$row", DataType::UInt64, false)]));
        let [left, right] = plan.columns.each_ref().map(|c| PanedTable::new(Arc::clone(&number), Arc::clone(c)));
        Ok(Self { rows: [left?, right?], next: Staged::default() })
    }

    /// Stages the rows whose window is open.
    fn keep(&mut self, side: usize, rows: &RecordBatch, times: &[i64], closed: impl Fn(&i64) -> bool) -> Result<()> {
        let mut panes: std::collections::BTreeMap<i64, Vec<u32>> = Default::default();
        for (row, time) in (0u32..).zip(times).filter(|(_, time)| !closed(time)) {
            panes.entry(*time).or_default().push(row);
        }
        let Some(table) = self.rows.get_mut(side) else { return Err(Error::bug("a join has two sides")) };
        for (pane, picks) in panes {
            let count = picks.len();
            let first = self.next.staged;
            self.next.staged += count as u64;
            let numbers: ArrayRef = Arc::new(UInt64Array::from_iter_values(first..self.next.staged));
            let values = take_arrays(rows.columns(), &UInt32Array::from(picks), None)?;
            table.put(pane, &[numbers], &values, count)?;
        }
        Ok(())
    }

    /// The rows of windows that close at this frontier.
    fn closed(&self, side: usize, frontier: i64, plan: &Plan) -> DfResult<Vec<RecordBatch>> {
        let (Some(table), Some(schema)) = (self.rows.get(side), plan.inputs.get(side)) else { return Ok(vec![]) };
        let batches = table.panes(..=frontier).flat_map(|(_, pane)| KeyedTable::scan_staged(pane));
        let rows = batches.map(|rows| {
            let rows = rows.map_err(state_error)?;
            batch(schema, rows.columns().iter().skip(1).cloned().collect(), rows.num_rows())
        });
        rows.collect()
    }
}

impl OperatorState for WindowJoinState {
    fn install(&mut self) {
        self.next.installed = self.next.staged;
        self.rows.iter_mut().for_each(PanedTable::install);
    }

    fn discard(&mut self) {
        self.next.staged = self.next.installed;
        self.rows.iter_mut().for_each(PanedTable::discard);
    }

    fn changes(&mut self) -> Result<Changes> {
        let changes = Changes::new().note("next", self.next.installed.to_string());
        Ok(SIDES.iter().zip(&self.rows).fold(changes, |changes, (name, rows)| changes.paned(name, rows)))
    }

    fn restore(&mut self, mut saved: Restored) -> Result<()> {
        for (name, rows) in SIDES.iter().zip(&mut self.rows) {
            saved.paned(name, rows)?;
        }
        let next = saved.note("next").and_then(|next| next.parse().ok());
        let next = next.ok_or_else(|| Error::corrupt("a checkpoint does not count the rows of a join"))?;
        self.next = Staged { staged: next, installed: next };
        Ok(())
    }

    fn describe(&self) -> StateInfo {
        let tables = SIDES.iter().zip(&self.rows).map(|(name, rows)| TableInfo::paned(name, rows)).collect();
        StateInfo { kind: "window join".to_string(), tables }
    }

    /// The rows of the left side.
    fn table(&self) -> Result<Vec<RecordBatch>> {
        let [left, _] = &self.rows;
        left.scan().map(|batch| batch.map(|(_, rows)| rows)).collect()
    }
}
