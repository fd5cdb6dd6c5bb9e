//! A join with a table that is asked by key.
//!
//! The distinct keys of a batch are asked for, a bounded number at a time, and those that the batch has asked for before
//! are not asked again. What is answered goes into the batch's [`Asked`]; a batch that is run again is answered from there.
//! The rows that come back are what the table's scan holds, for the projections over it, and are joined by the condition
//! of the query: what the table takes for equal (other letters, trailing blanks) does not count.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::kernels::cmp::eq;
use arrow::compute::{and, cast, concat_batches, filter_record_batch, prep_null_mask_filter, take_arrays};
use arrow::datatypes::{Field, Schema, SchemaRef, UInt32Type};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DfResult, internal_datafusion_err, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, PhysicalExpr};
use datafusion::physical_plan::distribution_requirements::InputDistributionRequirements;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions, collect,
};
use futures::{StreamExt, TryStreamExt, stream};
use millstream_core::Error;
use millstream_core::lookup::LookupTable;

use super::super::accumulate::evaluate_all;
use super::super::changes::state_error;
use super::super::context::BatchContext;
use super::super::node::{self, unary_node};
use super::{AsOfJoin, Asked, Keyed, May, batch};

/// Keys that are asked for at once.
const KEYS_MAX: usize = 4096;

/// Questions that are open at once.
const OPEN_MAX: usize = 4;

/// A table that is asked by key.
#[derive(Clone)]
pub struct Lookup {
    /// The table's name.
    pub table: String,
    /// What is asked.
    pub by: Arc<dyn LookupTable>,
    /// What it is asked by, over the columns of the left side: of the types of its key.
    pub key: Vec<Arc<dyn PhysicalExpr>>,
    /// What is made of the rows: a plan over the scan 0 of the columns that are answered.
    pub rows: Arc<dyn ExecutionPlan>,
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lookup").field("table", &self.table).field("key", &self.key).finish_non_exhaustive()
    }
}

/// Joins with a table that is asked by key.
#[derive(Debug)]
pub struct LookupExec {
    name: Arc<str>,
    input: Arc<dyn ExecutionPlan>,
    parts: Arc<Parts>,
    properties: Arc<PlanProperties>,
}

#[derive(Debug)]
struct Parts {
    lookup: Lookup,
    join: AsOfJoin,
    left: SchemaRef,
    /// The columns of what is asked by, and of the keys of the join.
    asks: SchemaRef,
    key: SchemaRef,
}

impl LookupExec {
    /// Joins the rows of `input` with those that they are answered. `name` names the lookup within the query.
    ///
    /// # Errors
    /// Where a key has no type.
    pub fn try_new(
        name: impl Into<Arc<str>>,
        input: Arc<dyn ExecutionPlan>,
        lookup: Lookup,
        join: AsOfJoin,
    ) -> DfResult<Self> {
        let left = input.schema();
        let table = lookup.by.schema();
        let field = |k: &usize| table.fields().get(*k).map(|f| Field::new(f.name(), f.data_type().clone(), true));
        let asks = Arc::new(Schema::new(lookup.by.key().iter().filter_map(field).collect::<Vec<_>>()));
        let key = join.key_schema(&left)?;
        let properties = node::final_properties(Arc::clone(&join.output));
        Ok(Self { name: name.into(), input, parts: Arc::new(Parts { lookup, join, left, asks, key }), properties })
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.parts.join.expressions().into_iter().chain(&self.parts.lookup.key).collect()
    }

    fn with_input(&self, input: Arc<dyn ExecutionPlan>) -> Self {
        let (name, parts) = (Arc::clone(&self.name), Arc::clone(&self.parts));
        Self { name, input, parts, properties: Arc::clone(&self.properties) }
    }
}

impl DisplayAs for LookupExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LookupExec: {} {}", self.parts.lookup.table, self.parts.join.detail())
    }
}

impl ExecutionPlan for LookupExec {
    unary_node!("LookupExec");

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("LookupExec has one partition, {partition} was asked for");
        }
        let input = self.input.execute(0, Arc::clone(&context))?;
        let (name, parts) = (Arc::clone(&self.name), Arc::clone(&self.parts));
        Ok(node::answer(self.schema(), async move {
            let rows: Vec<RecordBatch> = input.try_collect().await?;
            parts.run(&name, rows, &context).await
        }))
    }
}

impl Parts {
    async fn run(&self, name: &str, rows: Vec<RecordBatch>, context: &TaskContext) -> DfResult<Vec<RecordBatch>> {
        let left = concat_batches(&self.left, &rows)?;
        if left.num_rows() == 0 {
            return Ok(vec![]);
        }
        // Outside of a stream there is no batch, and nothing is recorded.
        let within = context.session_config().get_extension::<BatchContext>();
        let asked = within.as_ref().map_or_else(Arc::default, |batch| Arc::clone(&batch.asked));
        self.ask(name, &left, &asked).await?;
        let right = self.rows(asked.answers(name), within, context).await?;
        let keyed = Keyed::of(&self.key, &self.join.left_keys(&left)?, left.num_rows())?;
        let of_right = self.join.right_keys(&right)?;
        let mut all: Vec<ArrayRef> = vec![];
        for (l, r) in keyed.keys.iter().zip(&of_right) {
            all.push(arrow::compute::concat(&[l.as_ref(), r.as_ref()])?);
        }
        // The keys of both sides are numbered together; those of the left come first.
        let both = Keyed::of(&self.key, &all, keyed.count + right.num_rows())?;
        let mut of_key: Vec<Vec<u32>> = vec![vec![]; keyed.count];
        let number: std::collections::HashMap<u32, usize> =
            both.of_rows.iter().take(keyed.count).enumerate().filter_map(|(n, key)| Some(((*key)?, n))).collect();
        for (row, key) in (0u32..).zip(both.of_rows.iter().skip(keyed.count)) {
            let rows = key.and_then(|key| number.get(&key)).and_then(|n| of_key.get_mut(*n));
            rows.into_iter().for_each(|rows| rows.push(row));
        }
        self.join.pairs(&left, right.columns(), |row| keyed.entry(row, &of_key))
    }

    /// Asks for the keys that were not asked for in this batch.
    async fn ask(&self, name: &str, left: &RecordBatch, asked: &Asked) -> DfResult<()> {
        let keys = evaluate_all(&self.lookup.key, left)?;
        let distinct = Keyed::of(&self.asks, &keys, left.num_rows())?;
        // Those without a NULL.
        let mut whole: Vec<u32> = distinct.of_rows.iter().flatten().copied().collect();
        whole.sort_unstable();
        whole.dedup();
        let keys = take_arrays(&distinct.keys, &UInt32Array::from(whole), None)?;
        let unknown = asked.unknown(name, &keys).map_err(state_error)?;
        if unknown.is_empty() {
            return Ok(());
        }
        if asked.may() == May::Never {
            return Err(state_error(Error::diverged(format!(
                "the batch, run again, looks up keys in '{}' that it did not look up before: the engine, a function or the \
                 input behaves differently now. Start with what ran before",
                self.lookup.table
            ))));
        }
        let questions: Vec<RecordBatch> = unknown
            .chunks(KEYS_MAX)
            .map(|rows| batch(&self.asks, take_arrays(&keys, &UInt32Array::from(rows.to_vec()), None)?, rows.len()))
            .collect::<DfResult<_>>()?;
        let answers = questions.into_iter().map(|keys| {
            let by = Arc::clone(&self.lookup.by);
            async move { by.get(&keys).await.map(|answer| (keys, answer)) }
        });
        let mut answers = stream::iter(answers).buffered(OPEN_MAX);
        while let Some(answer) = answers.next().await {
            let at = |e: Error| e.at(format!("looking up '{}'", self.lookup.table));
            let (keys, answer) = answer.map_err(|e| state_error(at(e)))?;
            asked.put_answer(name, keys, answer).map_err(state_error)?;
        }
        Ok(())
    }

    /// The rows that were answered, as the query sees them.
    async fn rows(
        &self,
        answers: Vec<(RecordBatch, RecordBatch)>,
        within: Option<Arc<BatchContext>>,
        context: &TaskContext,
    ) -> DfResult<RecordBatch> {
        let mut rows = vec![];
        for (keys, answer) in answers {
            rows.push(self.exactly(&keys, answer)?);
        }
        let inner = BatchContext { inputs: vec![rows], ..within.map(|b| b.as_ref().clone()).unwrap_or_default() };
        let plan = reset_plan_states(Arc::clone(&self.lookup.rows))?;
        let schema = plan.schema();
        let rows = collect(plan, inner.task_context(context)).await?;
        Ok(concat_batches(&schema, &rows)?)
    }

    /// The rows whose key is the very one that was asked for, without its number.
    fn exactly(&self, keys: &RecordBatch, answer: RecordBatch) -> DfResult<RecordBatch> {
        let numbers = answer.columns().first().and_then(|c| c.as_primitive_opt::<UInt32Type>());
        let numbers = numbers.ok_or_else(|| internal_datafusion_err!("an answer says which key it belongs to"))?;
        let asked = take_arrays(keys.columns(), numbers, None)?;
        let mut same = BooleanArray::new(BooleanBuffer::new_set(answer.num_rows()), None);
        for (asked, key) in asked.iter().zip(self.lookup.by.key()) {
            let Some(found) = answer.columns().get(key + 1) else { return internal_err!("a key is answered") };
            same = and(&same, &eq(asked, &cast(found, asked.data_type())?)?)?;
        }
        let same = if same.null_count() > 0 { prep_null_mask_filter(&same) } else { same };
        let answer = filter_record_batch(&answer, &same)?;
        let schema = self.lookup.by.schema();
        let options = RecordBatchOptions::new().with_row_count(Some(answer.num_rows()));
        let columns = answer.columns().iter().skip(1).cloned().collect();
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }
}
