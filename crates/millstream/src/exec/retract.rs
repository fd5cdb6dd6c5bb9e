//! GROUP BY over a changelog: rows come and go, and every answer follows.
//!
//! A batch touches the groups of its rows and nothing else. Counts, and sums and averages of exact types, are
//! kept as sums of weights ([`measure`]); minima and maxima are read off the group's values in their order, and
//! every other function is computed anew from them ([`bag`]). No accumulator of DataFusion ever takes a row back.
//!
//! A group whose rows are all gone is gone. Without GROUP BY columns, and for an empty grouping set, there is a
//! group from the start and it stays, as in SQL.
//!
//! Where the groups are those of a window, the input is the changelog of windows that are not yet closed: state is
//! kept by the window's last instant and dropped, without a word, once the frontier has passed it. Other groups can have
//! a lifetime ([`super::idle`]).

mod bag;
mod deltas;
mod measure;
mod page;
mod slots;
mod state;
mod tree;
mod weighted;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter, take_arrays};
use arrow::datatypes::{Int64Type, Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result as DfResult, internal_datafusion_err, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;

use self::measure::{Measure, Measures};
use self::slots::{Slots, SlottedKeys};
use self::state::RetractState;
use self::tree::Roots;
use self::weighted::Before;
use super::BatchContext;
use super::accumulate::{Aggregate, evaluate_all};
use super::aggregate::named_groups;
use super::changes::{Changed, state_error, weighted};
use super::event_time::micros;
use super::grouping::{Grouping, canonical};
use super::idle::Idle;
use super::memory::Memory;
use super::stateful::{Operator, StatefulExec};
use super::window::behind;
use crate::changelog;

/// What an aggregate over a changelog computes.
#[derive(Clone, Debug)]
pub struct RetractAggregate {
    /// The group expressions, over the input.
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The column of the input that holds the weights.
    pub weight: usize,
    /// The column of the input that holds the last instant of a row's window, where the groups have one.
    pub last: Option<usize>,
    /// How far rows can be behind the frontier when they come, in microseconds.
    pub lag_us: i64,
    /// Keys of groups that are there without a row: empty, or a column for each of `keys`.
    pub standing: Vec<ArrayRef>,
    /// The aggregates, over the input.
    pub aggregates: Vec<Aggregate>,
}

/// `SELECT k, sum(x) .. GROUP BY k` over a changelog, as a changelog.
#[derive(Debug)]
pub struct RetractAggregateExec {
    groups: Vec<Arc<dyn PhysicalExpr>>,
    weight: usize,
    last: Option<usize>,
    lag_us: i64,
    memory: Memory,
    standing: Vec<ArrayRef>,
    keys: SchemaRef,
    measures: Measures,
    input: SchemaRef,
    /// With the weight.
    output: SchemaRef,
}

impl RetractAggregateExec {
    /// Groups a changelog by expressions and aggregates it.
    ///
    /// `memory` names the state within the query. `output` is the schema of the answer: a column for each group
    /// expression, then one for each aggregate. The node's own schema adds [`changelog::WEIGHT`].
    ///
    /// # Errors
    /// Where DataFusion can't build an accumulator, or the types don't fit the output.
    pub fn try_new(
        memory: impl Into<Memory>,
        input: Arc<dyn ExecutionPlan>,
        query: RetractAggregate,
        output: &Schema,
    ) -> DfResult<StatefulExec> {
        let RetractAggregate { keys: groups, weight, last, lag_us, standing, aggregates } = query;
        let schema = input.schema();
        if schema.fields().get(weight).is_none_or(|f| f.name() != changelog::WEIGHT) {
            return internal_err!("column {weight} of a changelog is its weight, not that of {schema}");
        }
        let keys = super::aggregate::key_schema(&groups, &schema, output.fields().iter().map(|f| f.name().as_str()))?;
        let measures = Measures::try_new(&aggregates, &schema)?;
        let results = keys.fields().iter().map(|f| f.data_type()).chain(measures.result_types());
        if !results.eq(output.fields().iter().map(|f| f.data_type())) {
            return internal_err!("the answer of an aggregate does not have the types of {output}");
        }
        let memory = memory.into();
        let idle = Idle::try_new(&keys, memory.idle_us(0).filter(|_| last.is_none()))?;
        let state = RetractState::try_new(&keys, &measures, &schema, idle)?;
        let name = Arc::clone(&memory.name);
        let output = changelog::with_weight(output);
        let operator = Self { groups, weight, last, lag_us, memory, standing, keys, measures, input: schema, output };
        Ok(StatefulExec::new(name, [input], operator, state))
    }
}

/// The groups that a batch touches.
struct Touched {
    total: usize,
    keys: Vec<ArrayRef>,
    slots: Slots,
    /// The group of each row.
    of_row: Vec<usize>,
}

impl Operator<1> for RetractAggregateExec {
    type State = RetractState;

    const NAME: &'static str = "RetractAggregateExec";

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.groups.iter().chain(self.measures.expressions()).collect()
    }

    fn detail(&self) -> String {
        named_groups(&self.output, self.groups.len())
    }

    fn run(
        &self,
        state: &mut RetractState,
        [batches]: [Vec<RecordBatch>; 1],
        context: &TaskContext,
    ) -> DfResult<Vec<RecordBatch>> {
        let context = BatchContext::of(context)?;
        state.forget(context.time_us, &self.standing)?;
        let rows = match self.memory.lifetime.forgetful {
            true => self.consolidated(&batches)?,
            false => batches,
        };
        let rows = concat_batches(&self.input, &rows)?;
        let changes =
            self.changes(state, context.time_us, &rows).map_err(|error| self.of_rows(&rows).unwrap_or(error))?;
        let frontier = context.frontier.map(|f| behind(f, self.lag_us));
        if let (Some(_), Some(frontier)) = (self.last, frontier) {
            state.drop_below(frontier.saturating_add(1));
        }
        Ok(changes)
    }
}

impl RetractAggregateExec {
    /// Each row once, wherever the weight stands: what comes and goes within a batch was never there.
    fn consolidated(&self, batches: &[RecordBatch]) -> DfResult<Vec<RecordBatch>> {
        let columns = self.input.fields().len();
        let order: Vec<usize> = (0..columns).filter(|c| *c != self.weight).chain([self.weight]).collect();
        let back: Vec<usize> = (0..columns).filter_map(|c| order.iter().position(|o| *o == c)).collect();
        let schema = Arc::new(self.input.project(&order)?);
        let rows = batches.iter().map(|b| Ok(b.project(&order)?)).collect::<DfResult<Vec<_>>>()?;
        let rows = changelog::consolidate(&rows, &schema).map_err(state_error)?;
        rows.iter().map(|b| Ok(b.project(&back)?)).collect()
    }

    fn changes(&self, state: &mut RetractState, time_us: i64, rows: &RecordBatch) -> DfResult<Vec<RecordBatch>> {
        let weights = rows.columns().get(self.weight).and_then(|c| c.as_primitive_opt::<Int64Type>());
        let weights = weights.ok_or_else(|| internal_datafusion_err!("a changelog has weights"))?;
        let mut weights: Vec<i64> = weights.values().to_vec();
        let touched = self.touched(rows)?;
        let total = touched.total;
        if total == 0 {
            return Ok(vec![]);
        }
        if let Some(idle) = &mut state.idle {
            idle.touch(time_us, &touched.keys, total)?;
        }
        let mut at = state.groups.find(&touched.slots, &touched.keys, total)?;
        let found = state.groups.read(&at)?;
        if rows.num_rows() == 0 && found.rows.len() == total {
            return Ok(vec![]);
        }
        if self.memory.lifetime.forgetful {
            ignore_unknown(&mut weights, &touched, &found);
        }
        let mut changes = vec![];
        for (place, spec) in self.measures.bags().iter().enumerate() {
            let roots = state.roots(place, &found, total, &touched.slots);
            let Some(bag) = state.bags.get_mut(place) else { return internal_err!("an aggregate has no values") };
            changes.push(bag.update(spec, &touched, (rows, &weights), &roots, &self.memory)?);
        }
        let change = Change { touched: &touched, rows, weights: &weights, bags: &changes, memory: &self.memory };
        let (counts, after) = self.measures.after(state, &found, &change)?;
        let answers = |columns: &[ArrayRef], rows: usize| self.measures.answers(columns, rows);
        let old = answers(found.values.get(1..).unwrap_or_default(), found.rows.len())?;
        let new = answers(&after, total)?;

        let standing = self.standing_groups();
        let there: BooleanArray =
            counts.values().iter().enumerate().map(|(group, n)| Some(*n > 0 || group < standing)).collect();
        let roots = changes.iter().map(|c| Arc::new(c.roots.clone()) as ArrayRef);
        store(state, &mut at, &there, std::iter::once(Arc::new(counts) as ArrayRef).chain(after).chain(roots))?;
        for (bag, changes) in state.bags.iter_mut().zip(&changes) {
            // A group can be gone by its count and have values left, where rows that never came were ignored.
            bag.tree.remove(&Roots::all(&changes.roots, &touched.slots).filtered(|group| !there.value(group)))?;
        }
        let changed = Changed::between(&old, &new, &found.rows, total)?.without(&there);
        let old_keys = take_arrays(&touched.keys, &changed.places, None)?;
        let gone = weighted(&self.output, old_keys.into_iter().chain(old), found.rows.len(), -1)?;
        let come = weighted(&self.output, touched.keys.iter().cloned().chain(new), total, 1)?;
        changed.rows(&gone, &come)
    }

    /// The error of an expression that fails on a row: what a row that goes and fails was rejected for when it came, so that
    /// it is unknown, is told first.
    fn of_rows(&self, rows: &RecordBatch) -> Option<DataFusionError> {
        self.measures.expressions().find_map(|expr| expr.evaluate(rows).err())
    }

    /// How many groups are there without a row: they are the first ones.
    fn standing_groups(&self) -> usize {
        if self.groups.is_empty() { 1 } else { self.standing.first().map_or(0, |keys| keys.len()) }
    }

    fn touched(&self, rows: &RecordBatch) -> DfResult<Touched> {
        let mut grouping = Grouping::try_new(&self.keys)?;
        let standing = self.standing.first().map_or(0, |keys| keys.len());
        if standing > 0 {
            grouping.intern(&self.standing, standing)?;
        }
        let keys = evaluate_all(&self.groups, rows)?.iter().map(canonical).collect::<Vec<_>>();
        let of_row = if rows.num_rows() == 0 { vec![] } else { grouping.intern(&keys, rows.num_rows())? };
        let total = grouping.len();
        let slots = match self.last {
            None => Slots::One,
            Some(last) => {
                let column = rows.columns().get(last);
                let last = micros(column.ok_or_else(|| internal_datafusion_err!("a window has a last instant"))?)?;
                let mut slots = vec![i64::MAX; total];
                for (group, last) in of_row.iter().zip(last.values()) {
                    if let Some(slot) = slots.get_mut(*group) {
                        *slot = last.saturating_add(1);
                    }
                }
                Slots::Each(slots)
            }
        };
        Ok(Touched { total, keys: grouping.keys()?, slots, of_row })
    }
}

/// Stages the groups that are there, and the removal of those that are not.
fn store(
    state: &mut RetractState,
    keys: &mut SlottedKeys,
    there: &BooleanArray,
    values: impl Iterator<Item = ArrayRef>,
) -> DfResult<()> {
    let (kept, gone): (Vec<u32>, Vec<u32>) = (0..there.len() as u32).partition(|group| there.value(*group as usize));
    if !kept.is_empty() {
        let values = values.map(|v| if gone.is_empty() { Ok(v) } else { Ok(filter(&v, there)?) });
        state.groups.put_at(keys, &kept, &values.collect::<DfResult<Vec<_>>>()?)?;
    }
    if gone.is_empty() { Ok(()) } else { state.groups.remove_at(keys, &gone) }
}

/// What a batch changes.
struct Change<'a> {
    touched: &'a Touched,
    rows: &'a RecordBatch,
    weights: &'a [i64],
    bags: &'a [bag::Changes],
    memory: &'a Memory,
}

/// Where a query forgets, a row is ignored that is taken back from a group of which nothing is known.
fn ignore_unknown(weights: &mut [i64], touched: &Touched, found: &millstream_state::Found) {
    let mut known = vec![false; touched.total];
    for group in &found.rows {
        if let Some(known) = known.get_mut(*group) {
            *known = true;
        }
    }
    for (weight, group) in weights.iter_mut().zip(&touched.of_row) {
        if *weight < 0 && known.get(*group) == Some(&false) {
            *weight = 0;
        }
    }
}

impl Measures {
    /// The number of rows and the state of every touched group, after a batch.
    fn after(
        &self,
        state: &RetractState,
        found: &millstream_state::Found,
        change: &Change<'_>,
    ) -> DfResult<(arrow::array::Int64Array, Vec<ArrayRef>)> {
        let Change { touched, rows, weights, memory, .. } = change;
        let mut counts = vec![0i64; touched.total];
        if let Some(before) = found.values.first().and_then(|c| c.as_primitive_opt::<Int64Type>()) {
            for (group, before) in found.rows.iter().zip(before.values()) {
                if let Some(count) = counts.get_mut(*group) {
                    *count = *before;
                }
            }
        }
        for (group, weight) in touched.of_row.iter().zip(*weights) {
            if let Some(count) = counts.get_mut(*group) {
                *count += weight;
            }
        }
        for count in counts.iter_mut().filter(|n| **n < 0) {
            memory.unknown_row("an aggregate")?;
            *count = 0;
        }
        let mut after = vec![];
        let mut from = 1;
        for measure in self.all() {
            let to = from + measure.columns().len();
            let before = found.values.get(from..to).unwrap_or_default();
            let before = Before { groups: &found.rows, columns: before };
            after.extend(match measure.bag() {
                None => measure.add(before, &measure.rows(rows, weights, &touched.of_row)?, touched.total, memory)?,
                Some(bag) => self.after_bag(measure, bag, state, before, change)?,
            });
            from = to;
        }
        Ok((arrow::array::Int64Array::from(counts), after))
    }

    fn after_bag(
        &self,
        measure: &Measure,
        bag: usize,
        state: &RetractState,
        before: Before<'_>,
        change: &Change<'_>,
    ) -> DfResult<Vec<ArrayRef>> {
        let (Some(bag), Some(changes)) = (state.bags.get(bag), change.bags.get(bag)) else {
            return internal_err!("an aggregate has no values");
        };
        if measure.is_linear() {
            return measure.add(before, &measure.distinct_rows(changes.moved()?), change.touched.total, change.memory);
        }
        measure.read(bag, &Roots::all(&changes.roots, &change.touched.slots), change.touched.total)
    }
}
