//! GROUP BY without a window: every batch answers how its rows changed the groups.
//!
//! For each group that the batch touches: the state so far is looked up, the batch's rows are added to it in
//! their order, and the new state is staged. The old answer goes with weight -1, the new one comes with +1; a
//! group whose answer stays the same says nothing. Added up, the changes are the answer over all rows so far.
//!
//! Without GROUP BY columns there is one group, which has an answer before the first row, as in SQL.
//!
//! The input is insert-only. A key stays as long as the query, unless it has a lifetime: one that no row has touched for
//! that long is forgotten, without a word, and begins anew ([`super::idle`]).

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::compute::take_arrays;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{Result as DfResult, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use millstream_state::{Changes, Found, KeyedTable, OperatorState, Restored, StateInfo, TableInfo};

use super::BatchContext;
use super::accumulate::{Aggregate, Aggregates, Portion, evaluate_all};
use super::changes::{Changed, state_error, weighted};
use super::distinct::{keep_first, seen_keys};
use super::grouping::Grouping;
use super::idle::{self, Idle, TOUCHED};
use super::memory::Memory;
use super::stateful::{Operator, StatefulExec};
use crate::changelog;

/// What an aggregate over an insert-only input computes.
#[derive(Clone, Debug)]
pub struct KeyedAggregate {
    /// The group expressions, over the input.
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// Keys of groups that are there without a row, as those of an empty grouping set: empty, or a column for each
    /// of `keys`.
    pub standing: Vec<ArrayRef>,
    /// The aggregates, over the input.
    pub aggregates: Vec<Aggregate>,
}

/// `SELECT k, sum(x) .. GROUP BY k` over an insert-only input, as a changelog.
#[derive(Debug)]
pub struct KeyedAggregateExec {
    groups: Vec<Arc<dyn PhysicalExpr>>,
    keys: SchemaRef,
    /// Keys of groups that are there without a row.
    standing: Vec<ArrayRef>,
    aggregates: Arc<Aggregates>,
    /// With the weight.
    output: SchemaRef,
}

impl KeyedAggregateExec {
    /// Groups the input by expressions and aggregates it.
    ///
    /// `memory` names the state within the query. `output` is the schema of the answer: a column for each group
    /// expression, then one for each aggregate. The node's own schema adds [`changelog::WEIGHT`].
    ///
    /// # Errors
    /// Where DataFusion can't build an accumulator, or the types don't fit the output.
    pub fn try_new(
        memory: impl Into<Memory>,
        input: Arc<dyn ExecutionPlan>,
        query: KeyedAggregate,
        output: &Schema,
    ) -> DfResult<StatefulExec> {
        let KeyedAggregate { keys: groups, standing, aggregates } = query;
        let schema = input.schema();
        let aggregates = Arc::new(Aggregates::try_new(&aggregates, &schema)?);
        let keys = key_schema(&groups, &schema, output.fields().iter().map(|f| f.name().as_str()))?;
        let memory = memory.into();
        let state = KeyedState::try_new(&keys, &aggregates, &schema, memory.idle_us(0))?;
        let output = changelog::with_weight(output);
        let results = keys.fields().iter().chain(aggregates.result_fields()).map(|f| f.data_type());
        if !results.eq(output.fields().iter().map(|f| f.data_type()).take(output.fields().len() - 1)) {
            return internal_err!("the answer of an aggregate does not have the types of {output}");
        }
        let operator = Self { groups, keys, standing, aggregates, output };
        Ok(StatefulExec::new(memory.name, [input], operator, state))
    }
}

impl Operator<1> for KeyedAggregateExec {
    type State = KeyedState;

    const NAME: &'static str = "KeyedAggregateExec";

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.output)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.groups.iter().chain(self.aggregates.expressions()).collect()
    }

    fn detail(&self) -> String {
        named_groups(&self.output, self.groups.len())
    }

    fn run(
        &self,
        state: &mut KeyedState,
        [batches]: [Vec<RecordBatch>; 1],
        context: &TaskContext,
    ) -> DfResult<Vec<RecordBatch>> {
        let time_us = BatchContext::of(context)?.time_us;
        state.forget(time_us, &self.standing)?;
        let mut grouping = Grouping::try_new(&self.keys)?;
        if let Some(keys) = self.standing.first() {
            grouping.intern(&self.standing, keys.len())?;
        }
        let mut portions = Vec::with_capacity(batches.len());
        for batch in batches.iter().filter(|b| b.num_rows() > 0) {
            let groups = grouping.intern(&evaluate_all(&self.groups, batch)?, batch.num_rows())?;
            portions.push(Portion { groups, arguments: self.aggregates.arguments(batch)? });
        }
        let total = grouping.len();
        if total == 0 {
            return Ok(vec![]);
        }
        let keys = grouping.keys()?;
        if let Some(idle) = &mut state.idle {
            idle.touch(time_us, &keys, total)?;
        }
        let mut at = state.groups.find(&keys, total).map_err(state_error)?;
        let found = state.groups.read(&at).map_err(state_error)?;
        if portions.is_empty() && !found.rows.is_empty() {
            return Ok(vec![]);
        }
        keep_first(&self.aggregates, &mut portions, |set, groups, values| state.unseen(set, &keys, groups, values))?;

        let after = self.aggregates.accumulate(&found, portions, total)?;
        match after.is_empty() {
            // Nothing is kept but the keys: those that are there stay as they are.
            true => state.groups.put_at(&mut at, Some(&unseen(total, &found).1), &[]).map_err(state_error)?,
            false => state.groups.put_at(&mut at, None, &after).map_err(state_error)?,
        }

        let old = self.aggregates.evaluate(&found.values, found.rows.len())?;
        let new = self.aggregates.evaluate(&after, total)?;
        let changed = Changed::between(&old, &new, &found.rows, total)?;
        let old_keys = take_arrays(&keys, &changed.places, None)?;
        let gone = weighted(&self.output, old_keys.into_iter().chain(old), found.rows.len(), -1)?;
        let come = weighted(&self.output, keys.into_iter().chain(new), total, 1)?;
        changed.rows(&gone, &come)
    }
}

/// What a GROUP BY keeps: the state of every group, and the values that its DISTINCT aggregates have seen.
#[derive(Debug)]
pub(super) struct KeyedState {
    groups: KeyedTable,
    seen: Vec<KeyedTable>,
    idle: Option<Idle>,
}

impl KeyedState {
    fn try_new(keys: &SchemaRef, aggregates: &Aggregates, input: &Schema, idle_us: Option<i64>) -> DfResult<Self> {
        let values = Arc::new(Schema::new(aggregates.state_fields().cloned().collect::<Vec<_>>()));
        let groups = KeyedTable::new(Arc::clone(keys), values).map_err(state_error)?;
        let seen = (0..aggregates.distinct().len())
            .map(|set| {
                let keys = seen_keys(keys, aggregates, set, input)?;
                KeyedTable::new(keys, Arc::new(Schema::empty())).map_err(state_error)
            })
            .collect::<DfResult<_>>()?;
        Ok(Self { groups, seen, idle: Idle::try_new(keys, idle_us)? })
    }

    /// Stages that groups are forgotten which no row has touched for long. Those that stand without a row stay.
    fn forget(&mut self, time_us: i64, standing: &[ArrayRef]) -> DfResult<()> {
        let Some(idle) = &mut self.idle else { return Ok(()) };
        idle.touch(time_us, standing, standing.first().map_or(0, |keys| keys.len()))?;
        let Some(gone) = idle.due(time_us)? else { return Ok(()) };
        self.groups.remove(&gone.keys, gone.count).map_err(state_error)?;
        for seen in &mut self.seen {
            let columns = seen.keys().fields().len();
            for (pairs, count) in gone.beginnings(self.groups.keys(), columns, seen.scan_staged())? {
                seen.remove(&pairs, count).map_err(state_error)?;
            }
        }
        Ok(())
    }

    /// Which pairs of group and value no earlier batch has seen; they are remembered.
    fn unseen(&mut self, set: usize, keys: &[ArrayRef], groups: &[usize], values: &[ArrayRef]) -> DfResult<Vec<bool>> {
        let Some(table) = self.seen.get_mut(set) else { return internal_err!("a DISTINCT has no table") };
        let mut pairs = take_arrays(keys, &UInt64Array::from_iter_values(groups.iter().map(|g| *g as u64)), None)?;
        pairs.extend(values.iter().cloned());
        let mut at = table.find(&pairs, groups.len()).map_err(state_error)?;
        let (new, fresh) = unseen(groups.len(), &table.read(&at).map_err(state_error)?);
        table.put_at(&mut at, Some(&fresh), &[]).map_err(state_error)?;
        Ok(new)
    }

    fn tables(&mut self) -> impl Iterator<Item = &mut KeyedTable> {
        std::iter::once(&mut self.groups).chain(&mut self.seen)
    }
}

/// Which of so many keys were not found: of each, and their numbers.
pub(super) fn unseen(keys: usize, found: &Found) -> (Vec<bool>, Vec<u32>) {
    let mut new = vec![true; keys];
    for row in &found.rows {
        if let Some(new) = new.get_mut(*row) {
            *new = false;
        }
    }
    let fresh = (0u32..).zip(&new).filter(|(_, new)| **new).map(|(row, _)| row).collect();
    (new, fresh)
}

impl OperatorState for KeyedState {
    fn install(&mut self) {
        self.tables().for_each(KeyedTable::install);
        self.idle.iter_mut().for_each(Idle::install);
    }

    fn discard(&mut self) {
        self.tables().for_each(KeyedTable::discard);
        self.idle.iter_mut().for_each(Idle::discard);
    }

    fn changes(&mut self) -> millstream_core::Result<Changes> {
        let mut changes = Changes::new().keyed("groups", &self.groups);
        for (set, table) in self.seen.iter().enumerate() {
            changes = changes.keyed(&format!("distinct.{set}"), table);
        }
        Ok(idle::changes(changes, TOUCHED, self.idle.as_ref()))
    }

    fn restore(&mut self, mut saved: Restored) -> millstream_core::Result<()> {
        saved.keyed("groups", &mut self.groups)?;
        for (set, table) in self.seen.iter_mut().enumerate() {
            saved.keyed(&format!("distinct.{set}"), table)?;
        }
        idle::restore(&mut saved, TOUCHED, self.idle.as_mut())
    }

    fn describe(&self) -> StateInfo {
        let mut tables = vec![TableInfo::keyed("groups", &self.groups)];
        let distinct = |(set, table)| TableInfo::keyed(&format!("distinct.{set}"), table);
        tables.extend(self.seen.iter().enumerate().map(distinct));
        tables.extend(idle::describe(TOUCHED, self.idle.as_ref()));
        StateInfo { kind: "aggregate".to_string(), tables }
    }

    fn table(&self) -> millstream_core::Result<Vec<RecordBatch>> {
        self.groups.scan().collect()
    }
}

/// The group columns and the aggregates of a changelog's answer, for EXPLAIN.
pub(super) fn named_groups(output: &Schema, groups: usize) -> String {
    let names: Vec<&str> = output.fields().iter().map(|f| f.name().as_str()).collect();
    let (by, aggregates) = names.split_at_checked(groups).unwrap_or((&names, &[]));
    let aggregates = aggregates.split_last().map_or(aggregates, |(_, aggregates)| aggregates);
    format!("by=[{}], aggregates=[{}]", by.join(", "), aggregates.join(", "))
}

/// The columns of a key: the group expressions, under the names that they have in the answer.
pub(super) fn key_schema<'a>(
    groups: &[Arc<dyn PhysicalExpr>],
    input: &Schema,
    names: impl Iterator<Item = &'a str>,
) -> DfResult<SchemaRef> {
    let fields = groups.iter().zip(names).map(|(group, name)| {
        let field = group.return_field(input)?;
        Ok(Arc::new(arrow::datatypes::Field::new(name, field.data_type().clone(), true)))
    });
    let fields = fields.collect::<DfResult<Vec<_>>>()?;
    if fields.len() != groups.len() {
        return internal_err!("the answer has {} columns, its groups are {}", fields.len(), groups.len());
    }
    Ok(Arc::new(Schema::new(fields)))
}
