//! GROUP BY without a window: every batch answers how its rows changed the groups.
//!
//! For each group that the batch touches: the state so far is looked up, the batch's rows are added to it in
//! their order, and the new state is staged. The old answer goes with weight -1, the new one comes with +1; a
//! group whose answer stays the same says nothing. Added up, the changes are the answer over all rows so far.
//!
//! Without GROUP BY columns there is one group, which has an answer before the first row, as in SQL.
//!
//! The input is insert-only. Nothing is ever forgotten here: a key stays as long as the query.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::take_arrays;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DfResult, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, PhysicalExpr};
use datafusion::physical_plan::distribution_requirements::InputDistributionRequirements;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions};
use futures::TryStreamExt;
use millstream_state::{Changes, KeyedTable, OperatorState, Restored, StateInfo, TableInfo};

use super::accumulate::{Aggregate, Aggregates, Portion, evaluate_all};
use super::changes::{Changed, state_error, weighted};
use super::distinct::{keep_first, seen_keys};
use super::grouping::Grouping;
use super::node::{self, unary_node};
use crate::changelog;

/// `SELECT k, sum(x) .. GROUP BY k` over an insert-only input, as a changelog.
#[derive(Debug)]
pub struct KeyedAggregateExec {
    name: Arc<str>,
    input: Arc<dyn ExecutionPlan>,
    plan: Arc<Plan>,
    state: Arc<Mutex<KeyedState>>,
    properties: Arc<PlanProperties>,
}

/// What does not change between batches.
#[derive(Debug)]
struct Plan {
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
    /// `name` names the state within the query. `output` is the schema of the answer: a column for each group
    /// expression, then one for each aggregate. The node's own schema adds [`changelog::WEIGHT`].
    ///
    /// # Errors
    /// Where DataFusion can't build an accumulator, or the types don't fit the output.
    pub fn try_new(
        name: impl Into<Arc<str>>,
        input: Arc<dyn ExecutionPlan>,
        groups: Vec<Arc<dyn PhysicalExpr>>,
        aggregates: &[Aggregate],
        output: &Schema,
    ) -> DfResult<Self> {
        let schema = input.schema();
        let aggregates = Arc::new(Aggregates::try_new(aggregates, &schema)?);
        let keys = key_schema(&groups, &schema, output.fields().iter().map(|f| f.name().as_str()))?;
        let state = Arc::new(Mutex::new(KeyedState::try_new(&keys, &aggregates, &schema)?));
        let output = changelog::with_weight(output);
        let results = keys.fields().iter().chain(aggregates.result_fields()).map(|f| f.data_type());
        if !results.eq(output.fields().iter().map(|f| f.data_type()).take(output.fields().len() - 1)) {
            return internal_err!("the answer of an aggregate does not have the types of {output}");
        }
        let properties = node::final_properties(Arc::clone(&output));
        let plan = Arc::new(Plan { groups, keys, standing: vec![], aggregates, output });
        Ok(Self { name: name.into(), input, plan, state, properties })
    }

    /// With groups that are there without a row, as those of an empty grouping set: a column for each group
    /// expression.
    pub fn with_standing(mut self, standing: Vec<ArrayRef>) -> Self {
        let plan = &self.plan;
        let (groups, keys, aggregates) = (plan.groups.clone(), Arc::clone(&plan.keys), Arc::clone(&plan.aggregates));
        self.plan = Arc::new(Plan { groups, keys, standing, aggregates, output: Arc::clone(&plan.output) });
        self
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
        Self {
            name: Arc::clone(&self.name),
            input,
            plan: Arc::clone(&self.plan),
            state: Arc::clone(&self.state),
            properties: Arc::clone(&self.properties),
        }
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.plan.groups.iter().chain(self.plan.aggregates.expressions()).collect()
    }
}

impl DisplayAs for KeyedAggregateExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |from: usize, to: usize| -> Vec<&str> {
            self.plan.output.fields().iter().skip(from).take(to - from).map(|f| f.name().as_str()).collect()
        };
        let groups = self.plan.groups.len();
        let aggregates = names(groups, self.plan.output.fields().len() - 1);
        write!(f, "KeyedAggregateExec: by=[{}], aggregates=[{}]", names(0, groups).join(", "), aggregates.join(", "))
    }
}

impl ExecutionPlan for KeyedAggregateExec {
    unary_node!("KeyedAggregateExec");

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("KeyedAggregateExec has one partition, {partition} was asked for");
        }
        let input = self.input.execute(0, context)?;
        let (plan, state) = (Arc::clone(&self.plan), Arc::clone(&self.state));
        Ok(node::answer(Arc::clone(&self.plan.output), async move {
            let batches: Vec<RecordBatch> = input.try_collect().await?;
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            plan.run(&mut state, &batches)
        }))
    }
}

impl Plan {
    fn run(&self, state: &mut KeyedState, batches: &[RecordBatch]) -> DfResult<Vec<RecordBatch>> {
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
        let found = state.groups.get(&keys, total).map_err(state_error)?;
        if portions.is_empty() && !found.rows.is_empty() {
            return Ok(vec![]);
        }
        keep_first(&self.aggregates, &mut portions, |set, groups, values| state.unseen(set, &keys, groups, values))?;

        let after = self.aggregates.accumulate(&found, portions, total)?;
        state.groups.put(&keys, &after, total).map_err(state_error)?;

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
struct KeyedState {
    groups: KeyedTable,
    seen: Vec<KeyedTable>,
}

impl KeyedState {
    fn try_new(keys: &SchemaRef, aggregates: &Aggregates, input: &Schema) -> DfResult<Self> {
        let values = Arc::new(Schema::new(aggregates.state_fields().cloned().collect::<Vec<_>>()));
        let groups = KeyedTable::new(Arc::clone(keys), values).map_err(state_error)?;
        let seen = (0..aggregates.distinct().len())
            .map(|set| {
                let keys = seen_keys(keys, aggregates, set, input)?;
                KeyedTable::new(keys, Arc::new(Schema::empty())).map_err(state_error)
            })
            .collect::<DfResult<_>>()?;
        Ok(Self { groups, seen })
    }

    /// Which pairs of group and value no earlier batch has seen; they are remembered.
    fn unseen(&mut self, set: usize, keys: &[ArrayRef], groups: &[usize], values: &[ArrayRef]) -> DfResult<Vec<bool>> {
        let Some(table) = self.seen.get_mut(set) else { return internal_err!("a DISTINCT has no table") };
        let mut pairs = take_arrays(keys, &UInt64Array::from_iter_values(groups.iter().map(|g| *g as u64)), None)?;
        pairs.extend(values.iter().cloned());
        unseen(&pairs, groups.len(), |pairs, n| table.get(pairs, n).map(|f| f.rows)).and_then(|(new, fresh, n)| {
            if n > 0 {
                table.put(&fresh, &[], n).map_err(state_error)?;
            }
            Ok(new)
        })
    }

    fn tables(&mut self) -> impl Iterator<Item = &mut KeyedTable> {
        std::iter::once(&mut self.groups).chain(&mut self.seen)
    }
}

/// Out of distinct keys: which of them are not found, those keys themselves, and how many they are.
pub(super) fn unseen(
    keys: &[ArrayRef],
    rows: usize,
    find: impl FnOnce(&[ArrayRef], usize) -> millstream_core::Result<Vec<usize>>,
) -> DfResult<(Vec<bool>, Vec<ArrayRef>, usize)> {
    let mut new = vec![true; rows];
    for row in find(keys, rows).map_err(state_error)? {
        if let Some(new) = new.get_mut(row) {
            *new = false;
        }
    }
    let fresh: UInt32Array = (0u32..).zip(&new).filter_map(|(row, new)| new.then_some(row)).collect();
    let keys = if fresh.len() == rows { keys.to_vec() } else { take_arrays(keys, &fresh, None)? };
    Ok((new, keys, fresh.len()))
}

impl OperatorState for KeyedState {
    fn install(&mut self) {
        self.tables().for_each(KeyedTable::install);
    }

    fn discard(&mut self) {
        self.tables().for_each(KeyedTable::discard);
    }

    fn changes(&mut self) -> millstream_core::Result<Changes> {
        let mut changes = Changes::new().keyed("groups", &self.groups);
        for (set, table) in self.seen.iter().enumerate() {
            changes = changes.keyed(&format!("distinct.{set}"), table);
        }
        Ok(changes)
    }

    fn restore(&mut self, mut saved: Restored) -> millstream_core::Result<()> {
        saved.keyed("groups", &mut self.groups)?;
        for (set, table) in self.seen.iter_mut().enumerate() {
            saved.keyed(&format!("distinct.{set}"), table)?;
        }
        Ok(())
    }

    fn describe(&self) -> StateInfo {
        let mut tables = vec![TableInfo::keyed("groups", &self.groups)];
        let distinct = |(set, table)| TableInfo::keyed(&format!("distinct.{set}"), table);
        tables.extend(self.seen.iter().enumerate().map(distinct));
        StateInfo { kind: "aggregate".to_string(), tables }
    }

    fn table(&self) -> millstream_core::Result<Vec<RecordBatch>> {
        self.groups.scan().collect()
    }
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
