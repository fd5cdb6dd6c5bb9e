//! Rows that repeat an earlier one within a horizon are left out.
//!
//! What repeats what is defined by the times of the rows ([`crate::window::Dedup`]), so a row waits until the
//! frontier has passed its time. For each key the time of its last row is kept, in panes of the horizon's length,
//! which the frontier drops whole: what is kept is bounded by the keys of two horizons.
//!
//! In batch the same node reads its whole input and keeps nothing afterwards.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::{filter_record_batch, take_arrays};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::{Result as DfResult, internal_datafusion_err, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use millstream_core::watermark::END_OF_TIME;
use millstream_state::{Changes, OperatorState, PanedTable, Restored, StateInfo, TableInfo};

use super::changes::state_error;
use super::context::BatchContext;
use super::grouping::Grouping;
use super::over::sort_into;
use super::stateful::{Operator, StatefulExec};
use super::waiting::{Waiting, concat, due, instants};

const LAST: &str = "last";
const CLOSED: &str = "closed";

/// Leaves out rows that repeat an earlier one.
#[derive(Debug)]
pub struct DedupExec {
    keys: Vec<usize>,
    key_schema: SchemaRef,
    time: usize,
    horizon_us: i64,
    schema: SchemaRef,
}

impl DedupExec {
    /// Leaves out the rows whose columns `keys` repeat within the horizon, by the column `time`.
    ///
    /// # Errors
    /// Where a column is not there, or can't be a key.
    pub fn try_new(
        name: impl Into<Arc<str>>,
        input: Arc<dyn ExecutionPlan>,
        keys: Vec<usize>,
        time: usize,
        horizon_us: i64,
    ) -> DfResult<StatefulExec> {
        let schema = input.schema();
        let key_schema = Arc::new(schema.project(&keys)?);
        let operator = Self { keys, key_schema, time, horizon_us, schema };
        let state = DedupState::try_new(&operator)?;
        Ok(StatefulExec::new(name, [input], operator, state))
    }
}

/// Rows of equal keys, in the order of their times.
struct Groups {
    keys: Vec<ArrayRef>,
    sorted: Vec<u32>,
    ranges: Vec<Range<usize>>,
}

impl Operator<1> for DedupExec {
    type State = DedupState;

    const NAME: &'static str = "DedupExec";

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn detail(&self) -> String {
        let keys: Vec<_> = self.key_schema.fields().iter().map(|f| f.name().as_str()).collect();
        format!("keys=[{}], horizon={} us", keys.join(", "), self.horizon_us)
    }

    fn run(
        &self,
        state: &mut DedupState,
        [batches]: [Vec<RecordBatch>; 1],
        context: &TaskContext,
    ) -> DfResult<Vec<RecordBatch>> {
        let rows = concat(&self.schema, &batches)?;
        match context.session_config().get_extension::<BatchContext>() {
            Some(batch) => self.first(state, rows, batch.frontier),
            // Outside of a stream there is no batch: all rows are there, and nothing is remembered.
            None => self.first(&mut DedupState::try_new(self)?, self.with_time(&rows)?, Some(END_OF_TIME)),
        }
    }
}

impl DedupExec {
    /// The rows that are due and repeat none.
    fn first(&self, state: &mut DedupState, rows: RecordBatch, frontier: Option<i64>) -> DfResult<Vec<RecordBatch>> {
        let at = instants(&rows, self.time, 0)?;
        if let (Some(first), Some(closed)) = (arrow::compute::min(&at), state.closed[1])
            && first <= closed
        {
            return internal_err!(
                "a row reached DEDUP after its time had passed: {first} us, the frontier was {closed} us"
            );
        }
        state.closed[1] = state.closed[1].max(frontier);
        let due = due(&mut state.waiting, rows, &at, frontier)?;
        let Some(frontier) = frontier else { return Ok(vec![]) };
        let Some((rows, at)) = due else {
            state.last.drop_below(self.floor(frontier));
            return Ok(vec![]);
        };
        let groups = self.groups(&rows, &at)?;
        let mut last = self.last_of(state, &groups, &at)?;
        let mut first = vec![false; rows.num_rows()];
        for (range, last) in groups.ranges.iter().zip(&mut last) {
            for row in groups.sorted.get(range.clone()).unwrap_or_default() {
                let time = at.value(*row as usize);
                let repeats = last.is_some_and(|last| time.saturating_sub(last) <= self.horizon_us);
                if let Some(first) = first.get_mut(*row as usize) {
                    *first = !repeats;
                }
                *last = Some(time);
            }
        }
        self.remember(state, &groups.keys, &last, frontier)?;
        let rows = filter_record_batch(&rows, &first.into())?;
        Ok(if rows.num_rows() > 0 { vec![rows] } else { vec![] })
    }

    fn groups(&self, rows: &RecordBatch, at: &Int64Array) -> DfResult<Groups> {
        let keys: Vec<ArrayRef> = self.keys.iter().filter_map(|k| rows.columns().get(*k).cloned()).collect();
        let mut grouping = Grouping::try_new(&self.key_schema)?;
        let of_rows = grouping.intern(&keys, rows.num_rows())?;
        let total = grouping.len();
        let keys = grouping.keys()?;
        // Rows are in the order of their times; only where a key has two of one time do the columns decide.
        let (sorted, ranges) = sort_into(&of_rows, total, |_, _| Ordering::Equal);
        let mut groups = Groups { keys, sorted, ranges };
        let ties = |pair: &[u32]| match pair {
            [a, b] => at.value(*a as usize) == at.value(*b as usize),
            _ => false,
        };
        let tied = groups.ranges.iter().any(|r| groups.sorted.get(r.clone()).unwrap_or_default().windows(2).any(ties));
        if tied && let Some(columns) = by_columns(rows)? {
            let compare = |a: &u32, b: &u32| {
                let (a, b) = (*a as usize, *b as usize);
                at.value(a).cmp(&at.value(b)).then_with(|| columns.row(a).cmp(&columns.row(b)))
            };
            for range in &groups.ranges {
                if let Some(rows) = groups.sorted.get_mut(range.clone()) {
                    rows.sort_by(compare);
                }
            }
        }
        Ok(groups)
    }

    /// The time of the last row of each key before these, where it is remembered.
    fn last_of(&self, state: &DedupState, groups: &Groups, at: &Int64Array) -> DfResult<Vec<Option<i64>>> {
        let mut last: Vec<Option<i64>> = vec![None; groups.ranges.len()];
        let mut by_pane: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for (group, range) in (0u32..).zip(&groups.ranges) {
            let row = groups.sorted.get(range.start).copied().unwrap_or_default();
            let pane = self.pane(at.value(row as usize));
            // An older pane is looked at too: the newer one has the later time, and comes last.
            by_pane.entry(pane - 1).or_default().push(group);
            by_pane.entry(pane).or_default().push(group);
        }
        for (pane, of) in by_pane {
            if state.last.pane(pane).is_none() {
                continue;
            }
            let keys = take_arrays(&groups.keys, &UInt32Array::from(of.clone()), None)?;
            let found = state.last.get(pane, &keys, of.len()).map_err(state_error)?;
            let times = found.values.first().and_then(|c| c.as_primitive_opt::<Int64Type>());
            let times = times.ok_or_else(|| internal_datafusion_err!("what is kept of a key is its last time"))?;
            for (row, time) in found.rows.iter().zip(times.values()) {
                let group = of.get(*row).map_or(0, |group| *group as usize);
                if let Some(last) = last.get_mut(group) {
                    *last = (*last).max(Some(*time));
                }
            }
        }
        Ok(last)
    }

    /// Stages the last times that later rows can repeat; the others are dropped.
    fn remember(&self, state: &mut DedupState, keys: &[ArrayRef], last: &[Option<i64>], frontier: i64) -> DfResult<()> {
        let floor = self.floor(frontier);
        let mut by_pane: BTreeMap<i64, (Vec<u32>, Vec<i64>)> = BTreeMap::new();
        for (group, last) in (0u32..).zip(last) {
            if let Some(last) = last.filter(|last| self.pane(*last) >= floor && frontier < END_OF_TIME) {
                let (groups, times) = by_pane.entry(self.pane(last)).or_default();
                groups.push(group);
                times.push(last);
            }
        }
        for (pane, (groups, times)) in by_pane {
            let count = groups.len();
            let keys = take_arrays(keys, &UInt32Array::from(groups), None)?;
            let times: ArrayRef = Arc::new(Int64Array::from(times));
            state.last.put(pane, &keys, &[times], count).map_err(state_error)?;
        }
        state.last.drop_below(floor);
        Ok(())
    }

    /// The first pane that a row behind this frontier can find a repeated one in.
    fn floor(&self, frontier: i64) -> i64 {
        self.pane(frontier.saturating_sub(self.horizon_us))
    }

    fn pane(&self, time_us: i64) -> i64 {
        time_us.div_euclid(self.horizon_us.max(1))
    }

    /// The rows that have a time: a stream rejects the others.
    fn with_time(&self, rows: &RecordBatch) -> DfResult<RecordBatch> {
        let Some(time) = rows.columns().get(self.time).filter(|t| t.null_count() > 0) else { return Ok(rows.clone()) };
        Ok(filter_record_batch(rows, &arrow::compute::is_not_null(time)?)?)
    }
}

/// Rows that compare by all their columns; `None` where one has no order: then the order of the log decides.
fn by_columns(rows: &RecordBatch) -> DfResult<Option<Rows>> {
    let fields: Vec<_> = rows.columns().iter().map(|c| SortField::new(c.data_type().clone())).collect();
    if !RowConverter::supports_fields(&fields) {
        return Ok(None);
    }
    Ok(Some(RowConverter::new(fields)?.convert_columns(rows.columns())?))
}

/// The rows that wait, and the last time of each key.
#[derive(Debug)]
pub(super) struct DedupState {
    waiting: Waiting,
    last: PanedTable,
    /// The frontier up to which rows were due: installed and staged.
    closed: [Option<i64>; 2],
}

impl DedupState {
    fn try_new(plan: &DedupExec) -> DfResult<Self> {
        let values = Arc::new(Schema::new(vec![Field::new("$last", DataType::Int64, false)]));
        let last = PanedTable::new(Arc::clone(&plan.key_schema), values).map_err(state_error)?;
        Ok(Self { waiting: Waiting::try_new(&plan.schema)?, last, closed: [None, None] })
    }
}

impl OperatorState for DedupState {
    fn install(&mut self) {
        self.waiting.install();
        self.last.install();
        self.closed[0] = self.closed[1];
    }

    fn discard(&mut self) {
        self.waiting.discard();
        self.last.discard();
        self.closed[1] = self.closed[0];
    }

    fn changes(&mut self) -> millstream_core::Result<Changes> {
        let changes = self.waiting.capture(Changes::new()).paned(LAST, &self.last);
        Ok(match self.closed[0] {
            Some(closed) => changes.note(CLOSED, closed.to_string()),
            None => changes,
        })
    }

    fn restore(&mut self, mut saved: Restored) -> millstream_core::Result<()> {
        self.waiting.restore(&mut saved)?;
        saved.paned(LAST, &mut self.last)?;
        let closed = saved.note(CLOSED).map(str::parse::<i64>).transpose().map_err(|e| {
            millstream_core::Error::corrupt("the checkpoint says in no number up to where rows were passed on")
                .caused_by(e)
        })?;
        self.closed = [closed, closed];
        Ok(())
    }

    fn describe(&self) -> StateInfo {
        let tables = vec![self.waiting.info(), TableInfo::paned(LAST, &self.last)];
        StateInfo { kind: "dedup".to_string(), tables }
    }

    fn table(&self) -> millstream_core::Result<Vec<RecordBatch>> {
        self.last.scan().map(|batch| batch.map(|(_, rows)| rows)).collect()
    }
}
