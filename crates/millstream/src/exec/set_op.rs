//! INTERSECT and EXCEPT, with and without ALL: a row is in the answer as often as its counts on both sides say.
//!
//! For each distinct row, how often it is on the left and on the right is kept. A batch changes the counts of its
//! rows; where that changes how often a row is in the answer, the difference goes out as its weight. NULL equals
//! NULL. A row that is on neither side is forgotten, and one that nothing has touched for its lifetime ([`super::idle`]).

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{cast, take_arrays};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::{Result as DfResult, internal_datafusion_err, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use millstream_state::{Changes, KeyedTable, OperatorState, Restored, StateInfo, TableInfo};

use super::BatchContext;
use super::changes::state_error;
use super::grouping::{Grouping, canonical};
use super::idle::{self, Idle, TOUCHED};
use super::memory::Memory;
use super::stateful::{Operator, StatefulExec};
use crate::changelog;

/// How often a row is in the answer that is `l` times on the left and `r` times on the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SetOp {
    /// `l` times where it is on the right at all.
    Where,
    /// `l` times where it is not on the right.
    Except,
    /// The smaller number of times.
    IntersectAll,
    /// As often as it is more often on the left.
    ExceptAll,
}

impl SetOp {
    fn count(self, l: i64, r: i64) -> i64 {
        match self {
            Self::Where => l * i64::from(r > 0),
            Self::Except => l * i64::from(r == 0),
            Self::IntersectAll => l.min(r),
            Self::ExceptAll => (l - r).max(0),
        }
    }
}

/// A set operation over two inputs, as a changelog.
#[derive(Debug)]
pub struct SetOpExec {
    changelog: [bool; 2],
    op: SetOp,
    rows: SchemaRef,
    output: SchemaRef,
    memory: Memory,
}

impl SetOpExec {
    /// Compares whole rows of two inputs; `changelog` says which of them end with a weight. `rows` are the columns of
    /// the answer; the node's own schema adds [`changelog::WEIGHT`].
    ///
    /// # Errors
    /// Where the inputs do not have these columns, or rows of them can't be compared.
    pub fn try_new(
        memory: impl Into<Memory>,
        inputs: [Arc<dyn ExecutionPlan>; 2],
        changelog: [bool; 2],
        op: SetOp,
        rows: SchemaRef,
    ) -> DfResult<StatefulExec> {
        for (input, changelog) in inputs.iter().zip(changelog) {
            if input.schema().fields().len() != rows.fields().len() + usize::from(changelog) {
                return internal_err!("an input of a set operation has not the columns of {rows}");
            }
        }
        let nullable = |f: &Arc<Field>| f.as_ref().clone().with_nullable(true);
        let keys = Arc::new(Schema::new(rows.fields().iter().map(nullable).collect::<Vec<_>>()));
        let count = |name| Field::new(name, DataType::Int64, true);
        let counts = Arc::new(Schema::new(vec![count("$left"), count("$right")]));
        let memory = memory.into();
        let idle = Idle::try_new(&keys, memory.idle_us(0))?;
        let table = KeyedTable::new(keys, counts).map_err(state_error)?;
        let output = changelog::with_weight(&rows);
        let name = Arc::clone(&memory.name);
        let operator = Self { changelog, op, rows, output, memory };
        Ok(StatefulExec::new(name, inputs, operator, SetOpState { rows: table, idle }))
    }
}

impl Operator<2> for SetOpExec {
    type State = SetOpState;

    const NAME: &'static str = "SetOpExec";

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn detail(&self) -> String {
        format!("{:?}", self.op)
    }

    fn run(
        &self,
        state: &mut SetOpState,
        inputs: [Vec<RecordBatch>; 2],
        context: &TaskContext,
    ) -> DfResult<Vec<RecordBatch>> {
        let time_us = BatchContext::of(context)?.time_us;
        if let Some(gone) = state.idle.as_mut().map(|idle| idle.due(time_us)).transpose()?.flatten() {
            state.rows.remove(&gone.keys, gone.count).map_err(state_error)?;
        }
        let mut grouping = Grouping::try_new(state.rows.keys())?;
        let mut deltas: [Vec<i64>; 2] = Default::default();
        for ((batches, changelog), deltas) in inputs.iter().zip(self.changelog).zip(&mut deltas) {
            for batch in batches.iter().filter(|b| b.num_rows() > 0) {
                let weights = match changelog {
                    true => batch.columns().last().and_then(|c| c.as_primitive_opt::<Int64Type>()).cloned(),
                    false => Some(Int64Array::from_value(1, batch.num_rows())),
                };
                let weights = weights.ok_or_else(|| internal_datafusion_err!("a changelog ends with its weight"))?;
                let columns = batch.columns().iter().zip(self.rows.fields());
                let columns =
                    columns.map(|(c, f)| Ok(canonical(&cast(c, f.data_type())?))).collect::<DfResult<Vec<_>>>()?;
                let of_row = grouping.intern(&columns, batch.num_rows())?;
                for (row, weight) in of_row.iter().zip(weights.values()) {
                    if deltas.len() <= *row {
                        deltas.resize(*row + 1, 0);
                    }
                    if let Some(delta) = deltas.get_mut(*row) {
                        *delta += weight;
                    }
                }
            }
        }
        if deltas.iter().all(Vec::is_empty) {
            return Ok(vec![]);
        }
        let (total, keys) = (grouping.len(), grouping.keys()?);
        if let Some(idle) = &mut state.idle {
            idle.touch(time_us, &keys, total)?;
        }
        self.apply(state, &keys, &deltas, total)
    }
}

impl SetOpExec {
    fn apply(
        &self,
        state: &mut SetOpState,
        keys: &[ArrayRef],
        deltas: &[Vec<i64>; 2],
        total: usize,
    ) -> DfResult<Vec<RecordBatch>> {
        let mut at = state.rows.find(keys, total).map_err(state_error)?;
        let found = state.rows.read(&at).map_err(state_error)?;
        let mut before = [vec![0i64; total], vec![0i64; total]];
        for (side, counts) in before.iter_mut().zip(&found.values) {
            let counts = counts.as_primitive_opt::<Int64Type>();
            let counts = counts.ok_or_else(|| internal_datafusion_err!("a row has counts"))?;
            for (row, count) in found.rows.iter().zip(counts.values()) {
                if let Some(side) = side.get_mut(*row) {
                    *side = *count;
                }
            }
        }
        let [l_before, r_before] = &before;
        let [l_delta, r_delta] = deltas;
        let delta = |deltas: &[i64], row: usize| deltas.get(row).copied().unwrap_or(0);
        let (mut kept, mut gone, mut changed) = (vec![], vec![], vec![]);
        let (mut lefts, mut rights, mut weights) = (vec![], vec![], vec![]);
        for (row, (l, r)) in l_before.iter().zip(r_before).enumerate() {
            let (mut l_after, mut r_after) = (l + delta(l_delta, row), r + delta(r_delta, row));
            if l_after < 0 || r_after < 0 {
                self.memory.unknown_row("a set operation")?;
                (l_after, r_after) = (l_after.max(0), r_after.max(0));
            }
            let difference = self.op.count(l_after, r_after) - self.op.count(*l, *r);
            if difference != 0 {
                changed.push(row as u32);
                weights.push(difference);
            }
            if l_after == 0 && r_after == 0 {
                gone.push(row as u32);
            } else {
                kept.push(row as u32);
                lefts.push(l_after);
                rights.push(r_after);
            }
        }
        if !kept.is_empty() {
            let counts: [ArrayRef; 2] = [Arc::new(Int64Array::from(lefts)), Arc::new(Int64Array::from(rights))];
            state.rows.put_at(&mut at, Some(&kept), &counts).map_err(state_error)?;
        }
        if !gone.is_empty() {
            state.rows.remove_at(&at, Some(&gone)).map_err(state_error)?;
        }
        if changed.is_empty() {
            return Ok(vec![]);
        }
        let rows = changed.len();
        let mut columns = take_arrays(keys, &UInt32Array::from(changed), None)?;
        columns.push(Arc::new(Int64Array::from(weights)));
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(vec![RecordBatch::try_new_with_options(Arc::clone(&self.output), columns, &options)?])
    }
}

/// How often each row is on either side.
#[derive(Debug)]
pub(super) struct SetOpState {
    rows: KeyedTable,
    idle: Option<Idle>,
}

impl OperatorState for SetOpState {
    fn install(&mut self) {
        self.rows.install();
        self.idle.iter_mut().for_each(Idle::install);
    }

    fn discard(&mut self) {
        self.rows.discard();
        self.idle.iter_mut().for_each(Idle::discard);
    }

    fn changes(&mut self) -> millstream_core::Result<Changes> {
        Ok(idle::changes(Changes::new().keyed("rows", &self.rows), TOUCHED, self.idle.as_ref()))
    }

    fn restore(&mut self, mut saved: Restored) -> millstream_core::Result<()> {
        saved.keyed("rows", &mut self.rows)?;
        idle::restore(&mut saved, TOUCHED, self.idle.as_mut())
    }

    fn describe(&self) -> StateInfo {
        let tables = [TableInfo::keyed("rows", &self.rows)].into_iter();
        let tables = tables.chain(idle::describe(TOUCHED, self.idle.as_ref())).collect();
        StateInfo { kind: "set operation".to_string(), tables }
    }

    fn table(&self) -> millstream_core::Result<Vec<RecordBatch>> {
        self.rows.scan().collect()
    }
}
