//! `f(..) OVER (PARTITION BY .. ORDER BY ts ..)` in event time: each row once, when its answer is final.
//!
//! A row waits until the frontier has passed its time. From then on no row of that time or an earlier one can
//! come, so that what the row's frame looks back at is complete. The rows that are due are put behind what is
//! kept of their partition ([`pages`]), and DataFusion's own functions answer for them ([`sliding`]): the frames of the
//! rows before them are not built again. They leave in the order of their times, and of the log where those are equal.
//!
//! Where the partition itself ends with the time (it holds the end of a window), its rows are due together,
//! any frame can be answered, and nothing is kept.
//!
//! The input is insert-only, and so is the output.

mod framed;
mod pages;
mod running;
mod sliding;
mod state;

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use datafusion::common::{Result as DfResult, internal_datafusion_err, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;

use self::framed::Framed;
use self::running::Running;
use self::state::{Before, OverState};
use super::accumulate::evaluate_all;
use super::context::BatchContext;
use super::grouping::Grouping;
use super::rank::{Counter, Order, OrderKeys, RankKind};
use super::stateful::{Operator, StatefulExec};
use super::top_n::nullable;
use super::waiting::{concat, due, instants};

/// How one window function is answered.
#[derive(Clone, Debug)]
pub enum OverFunction {
    /// By DataFusion, over the rows that are kept and those that are due.
    Framed(Arc<dyn WindowExpr>),
    /// The same, for an aggregate over a frame that moves: DataFusion does not show its FILTER clause.
    Sliding {
        /// The function.
        function: Arc<dyn WindowExpr>,
        /// The FILTER clause.
        filter: Option<Arc<dyn PhysicalExpr>>,
    },
    /// By counting.
    Rank(RankKind),
    /// By an accumulator that lives as long as its partition: from its first row to the current one.
    Running {
        /// The aggregate.
        function: Arc<AggregateFunctionExpr>,
        /// The FILTER clause.
        filter: Option<Arc<dyn PhysicalExpr>>,
        /// Whether rows that tie are added together (RANGE), not one by one (ROWS).
        peers: bool,
    },
}

/// Which rows of a partition are kept for the frames of later ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Hash)]
pub struct Keep {
    /// So many of the first rows.
    pub head: usize,
    /// So many of the last rows.
    pub tail: usize,
    /// The rows of this long before the frontier, in microseconds.
    pub tail_us: Option<i64>,
}

/// A set of window functions with one PARTITION BY and one ORDER BY.
#[derive(Clone, Debug)]
pub struct Over {
    /// PARTITION BY.
    pub partition: Vec<Arc<dyn PhysicalExpr>>,
    /// ORDER BY.
    pub order: Vec<PhysicalSortExpr>,
    /// The functions.
    pub functions: Vec<OverFunction>,
    /// The column of the time that a row waits for.
    pub time: usize,
    /// How long after that time a row is due, in microseconds: the column can be the start of a window.
    pub after_us: i64,
    /// What is kept; `None` where a partition is over when its rows are due.
    pub keep: Option<Keep>,
}

/// Window functions over rows in event time.
#[derive(Debug)]
pub struct OverExec {
    over: Over,
    keys: SchemaRef,
    order: Order,
    framed: Framed,
    running: Vec<Running>,
    input: SchemaRef,
    output: SchemaRef,
}

impl OverExec {
    /// Answers window functions; `output` is the input's columns and one for each function.
    ///
    /// # Errors
    /// Where a type can't be grouped or ordered, or DataFusion can't build an accumulator.
    pub fn try_new(
        name: impl Into<Arc<str>>,
        input: Arc<dyn ExecutionPlan>,
        over: Over,
        output: SchemaRef,
    ) -> DfResult<StatefulExec> {
        let schema = input.schema();
        if output.fields().len() != schema.fields().len() + over.functions.len() {
            return internal_err!("window functions add a column each to those of their input, not {output}");
        }
        let names: Vec<String> = (0..over.partition.len()).map(|i| format!("$partition.{i}")).collect();
        let keys = super::aggregate::key_schema(&over.partition, &schema, names.iter().map(String::as_str))?;
        let order = Order::try_new(&over.order, &schema)?;
        let framed = Framed::new(&over, &schema);
        let running = running::of(&over.functions)?;
        let state = OverState::try_new(&schema, &keys, &over, &framed, &running)?;
        let operator = Self { over, keys, order, framed, running, input: schema, output };
        Ok(StatefulExec::new(name, [input], operator, state))
    }
}

/// Rows that are due, in the order of their times, and sorted into partitions.
pub(super) struct Due {
    rows: RecordBatch,
    instants: Int64Array,
    /// The key of each partition.
    keys: Vec<ArrayRef>,
    partitions: usize,
    order: OrderKeys,
    /// The rows by partition, then as ORDER BY says: indices into `rows`.
    sorted: Vec<u32>,
    /// The stretch of `sorted` that a partition has.
    ranges: Vec<Range<usize>>,
}

impl Due {
    /// Whether a row of `sorted` ties with the one before it in its partition.
    fn ties(&self, range: &Range<usize>, at: usize) -> bool {
        let row = |at: usize| self.sorted.get(at).map_or(0, |row| *row as usize);
        at > range.start && self.order.compare(row(at - 1), row(at)) == Ordering::Equal
    }

    fn sorted_indices(&self) -> UInt32Array {
        UInt32Array::from(self.sorted.clone())
    }
}

impl Operator<1> for OverExec {
    type State = OverState;

    const NAME: &'static str = "OverExec";

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.over.partition.iter().chain(self.order.expressions()).collect()
    }

    fn detail(&self) -> String {
        let columns = self.output.fields().iter().skip(self.input.fields().len());
        let columns: Vec<_> = columns.map(|c| c.name().as_str()).collect();
        format!("functions=[{}]", columns.join(", "))
    }

    fn due_us(&self, state: &OverState) -> Option<i64> {
        state.waiting.first()
    }

    fn run(
        &self,
        state: &mut OverState,
        [batches]: [Vec<RecordBatch>; 1],
        context: &TaskContext,
    ) -> DfResult<Vec<RecordBatch>> {
        let frontier = BatchContext::of(context)?.frontier;
        let rows = concat(&self.input, &batches)?;
        let at = instants(&rows, self.over.time, self.over.after_us)?;
        state.check_not_late(arrow::compute::min(&at))?;
        let due = due(&mut state.waiting, rows, &at, frontier)?;
        let output = match due {
            Some((rows, instants)) => vec![self.answer(state, rows, instants, frontier)?],
            None => vec![],
        };
        state.close(frontier)?;
        Ok(output)
    }
}

impl OverExec {
    fn answer(
        &self,
        state: &mut OverState,
        rows: RecordBatch,
        instants: Int64Array,
        frontier: Option<i64>,
    ) -> DfResult<RecordBatch> {
        let due = self.partition(rows, instants)?;
        let before = state.before(&due.keys, due.partitions)?;
        let counters = counters(&due, &before);
        let (framed, moved) = self.framed.answer(&due, &before, state.pages.as_mut(), frontier)?;
        let (ran, states) = running::answer(&self.running, &due, &before)?;
        state.remember(&due, &before, moved, states)?;

        // What was answered in the order of the partitions leaves in that of the times.
        let mut places = vec![0_u32; due.sorted.len()];
        for (place, row) in (0u32..).zip(&due.sorted) {
            if let Some(to) = places.get_mut(*row as usize) {
                *to = place;
            }
        }
        let places = UInt32Array::from(places);
        let (mut framed, mut ran) = (framed.into_iter(), ran.into_iter());
        let mut columns = due.rows.columns().to_vec();
        for function in &self.over.functions {
            let sorted = match function {
                OverFunction::Framed(_) | OverFunction::Sliding { .. } => framed.next(),
                OverFunction::Running { .. } => ran.next(),
                OverFunction::Rank(kind) => {
                    let ranks = counters.iter().map(|c| c.rank(*kind));
                    Some(Arc::new(UInt64Array::from_iter_values(ranks)) as ArrayRef)
                }
            };
            let sorted = sorted.ok_or_else(|| internal_datafusion_err!("a window function was not answered"))?;
            columns.push(take(&sorted, &places, None)?);
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.output), columns)?)
    }

    fn partition(&self, rows: RecordBatch, instants: Int64Array) -> DfResult<Due> {
        let mut grouping = Grouping::try_new(&self.keys)?;
        let groups = grouping.intern(&evaluate_all(&self.over.partition, &rows)?, rows.num_rows())?;
        let partitions = grouping.len();
        let keys = grouping.keys()?;
        let order = self.order.keys(&rows)?;
        let (sorted, ranges) = sort_into(&groups, partitions, |a, b| order.compare(a, b));
        Ok(Due { rows, instants, keys, partitions, order, sorted, ranges })
    }
}

/// Rows by group, then by an order, then as they came; and the stretch of each group.
pub(super) fn sort_into(
    groups: &[usize],
    total: usize,
    compare: impl Fn(usize, usize) -> Ordering,
) -> (Vec<u32>, Vec<Range<usize>>) {
    // A counting sort brings the groups together and leaves the rows of each as they came.
    let mut ends = vec![0_usize; total];
    for group in groups {
        if let Some(end) = ends.get_mut(*group) {
            *end += 1;
        }
    }
    let mut ranges = Vec::with_capacity(total);
    let mut from = 0;
    for end in &mut ends {
        ranges.push(from..from + *end);
        let next = from + *end;
        *end = from;
        from = next;
    }
    let mut sorted = vec![0_u32; groups.len()];
    for (row, group) in (0u32..).zip(groups) {
        let Some(end) = ends.get_mut(*group) else { continue };
        if let Some(place) = sorted.get_mut(*end) {
            *place = row;
        }
        *end += 1;
    }
    for range in ranges.iter().filter(|r| r.len() > 1) {
        if let Some(rows) = sorted.get_mut(range.clone()) {
            rows.sort_by(|a, b| compare(*a as usize, *b as usize));
        }
    }
    (sorted, ranges)
}

/// The counts up to each row, in the order of the partitions.
fn counters(due: &Due, before: &Before) -> Vec<Counter> {
    let mut counters = Vec::with_capacity(due.sorted.len());
    for (partition, range) in due.ranges.iter().enumerate() {
        let (rows, peers) = before.counts(partition);
        let mut counter = Counter::after(rows, peers);
        for at in range.clone() {
            counter.count(due.ties(range, at));
            counters.push(counter);
        }
    }
    counters
}
