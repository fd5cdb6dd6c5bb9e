//! The best rows of each key out of rows that only come: `ROW_NUMBER() OVER (PARTITION BY k ORDER BY ..) <= n`.
//!
//! Only the rows that are among the best are kept: a row that has fallen out can't come back, because nothing is
//! ever taken away. For the best row alone (keep-first, keep-last) a key's state is that row; for more it is the
//! list of them, best first. A key that no row has touched for its lifetime is forgotten ([`super::idle`]).
//!
//! Rows that tie for ROW_NUMBER stand in the order of the log. RANK and DENSE_RANK keep all rows that tie.
//!
//! The output is a changelog with the rank as its last column before the weight: a row whose rank changes goes
//! with the old one and comes with the new.

mod state;

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::{take_arrays, take_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{Result as DfResult, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;

use self::state::BestState;
use super::BatchContext;
use super::accumulate::evaluate_all;
use super::changes::weighted;
use super::grouping::Grouping;
use super::memory::Memory;
use super::over::sort_into;
use super::rank::{Counter, Order, OrderKeys, RankKind};
use super::stateful::{Operator, StatefulExec};
use super::waiting::concat;

/// Which rows are the best.
#[derive(Clone, Debug)]
pub struct TopN {
    /// The key.
    pub partition: Vec<Arc<dyn PhysicalExpr>>,
    /// From the best row on.
    pub order: Vec<PhysicalSortExpr>,
    /// How rows are counted.
    pub kind: RankKind,
    /// The last rank that counts.
    pub limit: u64,
}

/// The best rows of each key, as a changelog.
#[derive(Debug)]
pub struct TopNExec {
    top: TopN,
    order: Order,
    keys: SchemaRef,
    input: SchemaRef,
    /// With the rank and the weight.
    output: SchemaRef,
}

impl TopNExec {
    /// Keeps the best rows of an insert-only input; `output` is its columns, the rank and the weight.
    ///
    /// # Errors
    /// Where a type can't be grouped or ordered.
    pub fn try_new(
        memory: impl Into<Memory>,
        input: Arc<dyn ExecutionPlan>,
        top: TopN,
        output: SchemaRef,
    ) -> DfResult<StatefulExec> {
        let schema = input.schema();
        if output.fields().len() != schema.fields().len() + 2 {
            return internal_err!("a ranking adds the rank and the weight to its input, not {output}");
        }
        let names: Vec<String> = (0..top.partition.len()).map(|i| format!("$partition.{i}")).collect();
        let keys = super::aggregate::key_schema(&top.partition, &schema, names.iter().map(String::as_str))?;
        let order = Order::try_new(&top.order, &schema)?;
        let single = top.limit == 1 && top.kind == RankKind::RowNumber;
        let memory = memory.into();
        let state = BestState::try_new(&keys, &schema, single, memory.idle_us(0))?;
        let operator = Self { top, order, keys, input: schema, output };
        Ok(StatefulExec::new(memory.name, [input], operator, state))
    }
}

/// The keys that a batch brings rows for.
struct Groups {
    of_rows: Vec<usize>,
    keys: Vec<ArrayRef>,
    total: usize,
}

/// Rows that go and rows that come: indices into some rows, each with its rank.
#[derive(Default)]
struct Ranked {
    rows: Vec<u32>,
    ranks: Vec<u64>,
}

impl Ranked {
    fn push(&mut self, row: u32, rank: u64) {
        self.rows.push(row);
        self.ranks.push(rank);
    }
}

impl Operator<1> for TopNExec {
    type State = BestState;

    const NAME: &'static str = "TopNExec";

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.top.partition.iter().chain(self.order.expressions()).collect()
    }

    fn detail(&self) -> String {
        format!("{:?} <= {}", self.top.kind, self.top.limit)
    }

    fn run(
        &self,
        state: &mut BestState,
        [batches]: [Vec<RecordBatch>; 1],
        context: &TaskContext,
    ) -> DfResult<Vec<RecordBatch>> {
        let time_us = BatchContext::of(context)?.time_us;
        state.forget(time_us)?;
        let rows = concat(&self.input, &batches)?;
        if rows.num_rows() == 0 || self.top.limit == 0 {
            return Ok(vec![]);
        }
        let mut grouping = Grouping::try_new(&self.keys)?;
        let of_rows = grouping.intern(&evaluate_all(&self.top.partition, &rows)?, rows.num_rows())?;
        let total = grouping.len();
        let groups = Groups { of_rows, keys: grouping.keys()?, total };
        state.touch(time_us, &groups.keys, total)?;
        if state.is_single() { self.best_one(state, &rows, groups) } else { self.best_few(state, &rows, groups) }
    }
}

impl TopNExec {
    /// One row a key: it is replaced where a better one comes.
    fn best_one(&self, state: &mut BestState, rows: &RecordBatch, groups: Groups) -> DfResult<Vec<RecordBatch>> {
        let order = self.order.keys(rows)?;
        const NONE: u32 = u32::MAX;
        let mut best = vec![NONE; groups.total];
        for (row, group) in (0u32..).zip(&groups.of_rows) {
            let Some(best) = best.get_mut(*group) else { continue };
            if *best == NONE || order.compare(row as usize, *best as usize) == Ordering::Less {
                *best = row;
            }
        }
        let (found, old) = state.rows(&groups.keys, groups.total)?;
        let old_order = self.order.keys(&old)?;
        let mut gone = Ranked::default();
        let mut comes = vec![true; groups.total];
        for (at, group) in (0u32..).zip(&found) {
            let row = best.get(*group).copied().unwrap_or_default();
            let better = order.compare_with(row as usize, &old_order, at as usize) == Ordering::Less;
            if better {
                gone.push(at, 1);
            } else if let Some(comes) = comes.get_mut(*group) {
                *comes = false;
            }
        }
        let changed: UInt32Array = (0u32..).zip(&comes).filter(|(_, c)| **c).map(|(group, _)| group).collect();
        if changed.is_empty() {
            return Ok(vec![]);
        }
        let row_of = |group: &u32| best.get(*group as usize).copied().unwrap_or_default();
        let come = Ranked { rows: changed.values().iter().map(row_of).collect(), ranks: vec![1; changed.len()] };
        let all = changed.len() == groups.total;
        let keys = if all { groups.keys } else { take_arrays(&groups.keys, &changed, None)? };
        let new = take_record_batch(rows, &UInt32Array::from(come.rows.clone()))?;
        state.put(&keys, new.columns(), changed.len())?;
        let mut output = vec![];
        if !gone.rows.is_empty() {
            output.push(self.changes(&old, gone, -1)?);
        }
        output.push(self.weighted(&new, come.ranks, 1)?);
        Ok(output)
    }

    /// A list of rows a key, best first.
    fn best_few(&self, state: &mut BestState, rows: &RecordBatch, groups: Groups) -> DfResult<Vec<RecordBatch>> {
        let (old_groups, old) = state.lists(&groups.keys, groups.total)?;
        let olds = old.num_rows();
        let all = concat(state.schema(), &[old, rows.clone().with_schema(Arc::clone(state.schema()))?])?;
        let of_rows: Vec<usize> = old_groups.into_iter().chain(groups.of_rows).collect();
        let order = self.order.keys(&all)?;
        // What is kept is in order, and came before what comes: rows that tie stay as they are.
        let (sorted, ranges) = sort_into(&of_rows, groups.total, |a, b| order.compare(a, b));
        let (mut gone, mut come) = (Ranked::default(), Ranked::default());
        let (mut changed, mut kept, mut lengths) = (vec![], vec![], vec![]);
        for (group, range) in (0u32..).zip(ranges) {
            let sorted = sorted.get(range).unwrap_or_default();
            let from = (gone.rows.len(), come.rows.len(), kept.len());
            self.rank(sorted, olds, &order, &mut gone, &mut come, &mut kept);
            if (gone.rows.len(), come.rows.len()) == (from.0, from.1) {
                kept.truncate(from.2);
            } else {
                changed.push(group);
                lengths.push(kept.len() - from.2);
            }
        }
        if changed.is_empty() {
            return Ok(vec![]);
        }
        let count = changed.len();
        let keys = take_arrays(&groups.keys, &UInt32Array::from(changed), None)?;
        state.put_lists(&keys, &take_record_batch(&all, &UInt32Array::from(kept))?, lengths, count)?;
        let mut output = vec![];
        for (ranked, weight) in [(gone, -1), (come, 1)] {
            if !ranked.rows.is_empty() {
                output.push(self.changes(&all, ranked, weight)?);
            }
        }
        Ok(output)
    }

    /// Ranks the rows of a key as they were, those below `olds`, and as they are.
    fn rank(
        &self,
        sorted: &[u32],
        olds: usize,
        order: &OrderKeys,
        gone: &mut Ranked,
        come: &mut Ranked,
        kept: &mut Vec<u32>,
    ) {
        let (mut before, mut after) = (Counter::default(), Counter::default());
        let mut last: [Option<u32>; 2] = [None, None];
        for row in sorted {
            let ties = |last: Option<u32>| {
                last.is_some_and(|last| order.compare(last as usize, *row as usize) == Ordering::Equal)
            };
            let old = ((*row as usize) < olds).then(|| {
                before.count(ties(last[0]));
                last[0] = Some(*row);
                before.rank(self.top.kind)
            });
            after.count(ties(last[1]));
            last[1] = Some(*row);
            let rank = after.rank(self.top.kind);
            let new = (rank <= self.top.limit).then_some(rank);
            kept.extend(new.map(|_| *row));
            if old != new {
                old.into_iter().for_each(|rank| gone.push(*row, rank));
                new.into_iter().for_each(|rank| come.push(*row, rank));
            }
        }
    }

    fn changes(&self, rows: &RecordBatch, ranked: Ranked, weight: i64) -> DfResult<RecordBatch> {
        let rows = take_record_batch(rows, &UInt32Array::from(ranked.rows))?;
        self.weighted(&rows, ranked.ranks, weight)
    }

    fn weighted(&self, rows: &RecordBatch, ranks: Vec<u64>, weight: i64) -> DfResult<RecordBatch> {
        let ranks: ArrayRef = Arc::new(UInt64Array::from(ranks));
        let columns = rows.columns().iter().cloned().chain([ranks]);
        weighted(&self.output, columns, rows.num_rows(), weight)
    }
}

/// The same columns, each of which may be null.
pub(super) fn nullable(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|f| Arc::new(f.as_ref().clone().with_nullable(true)));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
