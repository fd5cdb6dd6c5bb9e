//! A join with the version of each key that was valid at the event time of the row.
//!
//! Rows of both sides wait until the frontier has passed their times: then all that is before them is there. They are
//! taken in the order of their times, rows of the right before those of the left at one time, and rows of the right of one
//! time in log order: the last one counts. Beside those that wait only the last row of each key is kept. A row of the
//! right is valid from its time on, until the next one of its key; one that is taken away ends its key there.
//!
//! In batch the same node reads both inputs whole and keeps nothing afterwards.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{concat, filter_record_batch, is_not_null, take_arrays};
use arrow::datatypes::{Field, Int64Type, Schema, SchemaRef};
use datafusion::common::{Result as DfResult, internal_datafusion_err, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use millstream_core::watermark::END_OF_TIME;
use millstream_state::{Changes, KeyedTable, Keys, OperatorState, Restored, StateInfo, TableInfo};

use super::super::changes::state_error;
use super::super::context::BatchContext;
use super::super::stateful::{Operator, StatefulExec};
use super::super::waiting::{Waiting, concat as whole, due, instants};
use super::{AsOfJoin, Keyed};

const LEFT: &str = "left";
const RIGHT: &str = "right";
const NEWEST: &str = "newest";
const CLOSED: &str = "closed";

/// Which rows are valid when.
#[derive(Clone, Copy, Debug)]
pub struct Versions {
    /// The columns of the event times, of the left side and of the right.
    pub times: [usize; 2],
    /// Whether the last column of the right is a weight: a row that is taken away ends its key.
    pub weighted: bool,
    /// How far rows can be behind the frontier when they come, in microseconds.
    pub lag_us: i64,
}

/// Joins with the version that was valid at the time of the row.
#[derive(Debug)]
pub struct VersionJoinExec {
    join: AsOfJoin,
    versions: Versions,
    key: SchemaRef,
    columns: [SchemaRef; 2],
}

impl VersionJoinExec {
    /// Joins the rows of the first input with those of the second that were valid at their times.
    ///
    /// # Errors
    /// Where a column can't be a key.
    pub fn try_new(
        name: impl Into<Arc<str>>,
        inputs: [Arc<dyn ExecutionPlan>; 2],
        join: AsOfJoin,
        versions: Versions,
    ) -> DfResult<StatefulExec> {
        let columns = [inputs[0].schema(), inputs[1].schema()];
        let operator = Self { key: join.key_schema(&columns[0])?, join, versions, columns };
        let state = VersionState::try_new(&operator)?;
        Ok(StatefulExec::new(name, inputs, operator, state))
    }
}

/// Rows that are due, with their times.
struct Due {
    rows: RecordBatch,
    at: Int64Array,
}

impl Operator<2> for VersionJoinExec {
    type State = VersionState;

    const NAME: &'static str = "VersionJoinExec";

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.join.output)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.join.expressions()
    }

    fn detail(&self) -> String {
        self.join.detail()
    }

    fn run(
        &self,
        state: &mut VersionState,
        [left, right]: [Vec<RecordBatch>; 2],
        context: &TaskContext,
    ) -> DfResult<Vec<RecordBatch>> {
        let left = whole(&self.columns[0], &left)?;
        let right = whole(&self.columns[1], &right)?;
        match context.session_config().get_extension::<BatchContext>() {
            Some(batch) => self.due(state, left, right, batch.frontier),
            // Outside of a stream there is no batch: all rows are there, and nothing is remembered. What has no time is
            // no row of the stream.
            None => {
                let [left, right] = [timed(left, self.versions.times[0])?, timed(right, self.versions.times[1])?];
                self.due(&mut VersionState::try_new(self)?, left, right, Some(END_OF_TIME))
            }
        }
    }
}

fn timed(rows: RecordBatch, time: usize) -> DfResult<RecordBatch> {
    let times = rows.columns().get(time).ok_or_else(|| internal_datafusion_err!("the time column is not there"))?;
    Ok(filter_record_batch(&rows, &is_not_null(times)?)?)
}

impl VersionJoinExec {
    fn due(
        &self,
        state: &mut VersionState,
        left: RecordBatch,
        right: RecordBatch,
        frontier: Option<i64>,
    ) -> DfResult<Vec<RecordBatch>> {
        let mut sides = vec![];
        let waiting = [&mut state.left, &mut state.right];
        for ((rows, waiting), time) in [left, right].into_iter().zip(waiting).zip(self.versions.times) {
            let at = instants(&rows, time, self.versions.lag_us)?;
            if let (Some(first), Some(closed)) = (arrow::compute::min(&at), state.closed[1])
                && first <= closed
            {
                return internal_err!(
                    "a row came after its version was decided: {first} us, the frontier was {closed} us"
                );
            }
            let none = || (RecordBatch::new_empty(rows.schema()), Int64Array::from(Vec::<i64>::new()));
            let empty = none();
            let (rows, at) = due(waiting, rows, &at, frontier)?.unwrap_or(empty);
            sides.push(Due { rows, at });
        }
        state.closed[1] = state.closed[1].max(frontier);
        match <[Due; 2]>::try_from(sides) {
            Ok([left, right]) if left.at.len() + right.at.len() > 0 => self.answer(state, &left, &right),
            _ => Ok(vec![]),
        }
    }

    /// Joins the rows that are due, and remembers the last row of each key.
    fn answer(&self, state: &mut VersionState, left: &Due, right: &Due) -> DfResult<Vec<RecordBatch>> {
        let (lefts, rights) = (left.at.len(), right.at.len());
        let keys = self.join.right_keys(&right.rows)?.into_iter().zip(self.join.left_keys(&left.rows)?);
        let keys: Vec<ArrayRef> = keys.map(|(r, l)| Ok(concat(&[r.as_ref(), l.as_ref()])?)).collect::<DfResult<_>>()?;
        let keyed = Keyed::of(&self.key, &keys, rights + lefts)?;
        let mut at = state.newest.find(&keyed.keys, keyed.count).map_err(state_error)?;
        let newest = state.newest.read(&at).map_err(state_error)?;
        // What a key was before these rows: behind them, in the order in which it was found.
        let mut before: Vec<Option<u32>> = vec![None; keyed.count];
        for (place, key) in (rights as u32..).zip(&newest.rows) {
            if let Some(before) = before.get_mut(*key) {
                *before = Some(place);
            }
        }
        let mut versions: Vec<Vec<u32>> = vec![vec![]; keyed.count];
        for (row, key) in (0u32..).zip(keyed.of_rows.iter().take(rights)) {
            let of_key = key.and_then(|key| versions.get_mut(key as usize));
            of_key.into_iter().for_each(|of_key| of_key.push(row));
        }
        let gone = self.gone(&right.rows)?;
        let valid = |key: u32, at: i64| {
            let of_key = versions.get(key as usize)?;
            let since = of_key.partition_point(|row| right.at.value(*row as usize) <= at);
            match since.checked_sub(1).and_then(|last| of_key.get(last)) {
                None => before.get(key as usize).copied().flatten(),
                Some(row) => (!gone.value(*row as usize)).then_some(*row),
            }
        };
        let chosen: Vec<Option<u32>> = (keyed.of_rows.iter().skip(rights).zip(left.at.values()))
            .map(|(key, at)| key.and_then(|key| valid(key, *at)))
            .collect();
        let columns: Vec<ArrayRef> = right
            .rows
            .columns()
            .iter()
            .zip(&newest.values)
            .map(|(now, before)| Ok(concat(&[now.as_ref(), before.as_ref()])?))
            .collect::<DfResult<_>>()?;
        let answer =
            self.join.pairs(&left.rows, &columns, |row| chosen.get(row).map(Option::as_slice).unwrap_or_default())?;
        self.remember(state, &mut at, &versions, &gone, right)?;
        Ok(answer)
    }

    /// The last row of each key stays; a key whose last row goes is forgotten.
    fn remember(
        &self,
        state: &mut VersionState,
        keys: &mut Keys,
        versions: &[Vec<u32>],
        gone: &BooleanArray,
        right: &Due,
    ) -> DfResult<()> {
        let last = (0u32..).zip(versions).filter_map(|(key, rows)| Some((key, *rows.last()?)));
        let (goes, stays): (Vec<_>, Vec<_>) = last.partition(|(_, row)| gone.value(*row as usize));
        let keys_of = |of: &[(u32, u32)]| of.iter().map(|(key, _)| *key).collect::<Vec<_>>();
        if !goes.is_empty() {
            state.newest.remove_at(keys, Some(&keys_of(&goes))).map_err(state_error)?;
        }
        if !stays.is_empty() {
            let rows = UInt32Array::from_iter_values(stays.iter().map(|(_, row)| *row));
            let columns = right.rows.columns().iter().take(self.kept()).cloned().collect::<Vec<_>>();
            let columns = take_arrays(&columns, &rows, None)?;
            state.newest.put_at(keys, Some(&keys_of(&stays)), &columns).map_err(state_error)?;
        }
        Ok(())
    }

    /// The columns of the right without the weight.
    fn kept(&self) -> usize {
        self.columns[1].fields().len() - usize::from(self.versions.weighted)
    }

    fn gone(&self, rows: &RecordBatch) -> DfResult<BooleanArray> {
        match self.versions.weighted {
            true => Ok(weights(rows)?.values().iter().map(|weight| Some(*weight < 0)).collect()),
            false => Ok(BooleanArray::from(vec![false; rows.num_rows()])),
        }
    }
}

fn weights(rows: &RecordBatch) -> DfResult<&Int64Array> {
    let last = rows.columns().last().and_then(|c| c.as_primitive_opt::<Int64Type>());
    last.ok_or_else(|| internal_datafusion_err!("the last column of a changelog is its weight"))
}

/// The rows that wait, and the last row of each key.
#[derive(Debug)]
pub struct VersionState {
    left: Waiting,
    right: Waiting,
    newest: KeyedTable,
    /// The frontier: installed and staged.
    closed: [Option<i64>; 2],
}

impl VersionState {
    fn try_new(operator: &VersionJoinExec) -> DfResult<Self> {
        let fields = operator.columns[1].fields().iter().take(operator.kept());
        let nullable = fields.map(|f| Field::new(f.name(), f.data_type().clone(), true));
        let values = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
        Ok(Self {
            left: Waiting::try_new(&operator.columns[0])?.called(LEFT),
            right: Waiting::try_new(&operator.columns[1])?.called(RIGHT),
            newest: KeyedTable::new(Arc::clone(&operator.key), values).map_err(state_error)?,
            closed: [None, None],
        })
    }
}

impl OperatorState for VersionState {
    fn install(&mut self) {
        self.left.install();
        self.right.install();
        self.newest.install();
        self.closed[0] = self.closed[1];
    }

    fn discard(&mut self) {
        self.left.discard();
        self.right.discard();
        self.newest.discard();
        self.closed[1] = self.closed[0];
    }

    fn changes(&mut self) -> millstream_core::Result<Changes> {
        let closed = self.closed[0].map(|closed| closed.to_string()).unwrap_or_default();
        let changes = self.right.capture(self.left.capture(Changes::new()));
        Ok(changes.keyed(NEWEST, &self.newest).note(CLOSED, closed))
    }

    fn restore(&mut self, mut saved: Restored) -> millstream_core::Result<()> {
        self.left.restore(&mut saved)?;
        self.right.restore(&mut saved)?;
        saved.keyed(NEWEST, &mut self.newest)?;
        self.closed = [saved.note(CLOSED).and_then(|closed| closed.parse().ok()); 2];
        Ok(())
    }

    fn describe(&self) -> StateInfo {
        let tables = vec![self.left.info(), self.right.info(), TableInfo::keyed(NEWEST, &self.newest)];
        StateInfo { kind: "versions".to_string(), tables }
    }

    fn table(&self) -> millstream_core::Result<Vec<RecordBatch>> {
        self.newest.scan().collect()
    }
}
