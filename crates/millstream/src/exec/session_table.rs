//! SESSION in batch: all rows, sorted by key and time, cut where the gap is longer than allowed.
//!
//! It is the yardstick of [`super::SessionExec`], and shares nothing with it but the meaning of a session.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, UInt32Array, make_comparator};
use arrow::compute::{SortColumn, SortOptions, concat_batches, lexsort_to_indices, take_arrays};
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DfResult, internal_datafusion_err, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, PhysicalExpr};
use datafusion::physical_plan::distribution_requirements::InputDistributionRequirements;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions};
use futures::TryStreamExt;

use super::event_time::{micros, timestamps, window_time};
use super::grouping::canonical;
use super::node::{self, unary_node};
use crate::window::Length;

/// Adds its session to each row.
#[derive(Debug)]
pub struct SessionTableExec {
    input: Arc<dyn ExecutionPlan>,
    plan: Arc<Plan>,
    properties: Arc<PlanProperties>,
}

#[derive(Debug)]
struct Plan {
    time: usize,
    keys: Vec<usize>,
    gap_us: i64,
    input: SchemaRef,
    schema: SchemaRef,
}

impl SessionTableExec {
    /// Puts the rows of `input` into sessions by its column `time`, for each value of the columns `keys`. `schema` has
    /// the input's columns, then `window_start`, `window_end` and `window_time`.
    ///
    /// # Errors
    /// Where the schema is not of this form.
    pub fn try_new(
        input: Arc<dyn ExecutionPlan>,
        time: usize,
        keys: Vec<usize>,
        gap_us: i64,
        schema: SchemaRef,
    ) -> DfResult<Self> {
        let columns = input.schema();
        if schema.fields().len() != columns.fields().len() + 3 {
            return internal_err!("sessions have the columns of their input and three more, not {schema}");
        }
        let properties = node::final_properties(Arc::clone(&schema));
        Ok(Self { input, plan: Arc::new(Plan { time, keys, gap_us, input: columns, schema }), properties })
    }

    fn with_input(&self, input: Arc<dyn ExecutionPlan>) -> Self {
        Self { input, plan: Arc::clone(&self.plan), properties: Arc::clone(&self.properties) }
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![]
    }
}

impl DisplayAs for SessionTableExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionTableExec: gap {}", Length(self.plan.gap_us))
    }
}

impl ExecutionPlan for SessionTableExec {
    unary_node!("SessionTableExec");

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("SessionTableExec has one partition, {partition} was asked for");
        }
        let input = self.input.execute(0, context)?;
        let plan = Arc::clone(&self.plan);
        Ok(node::answer(Arc::clone(&self.plan.schema), async move {
            let batches: Vec<RecordBatch> = input.try_collect().await?;
            Ok(vec![plan.assign(&concat_batches(&plan.input, &batches)?)?])
        }))
    }
}

impl Plan {
    fn assign(&self, rows: &RecordBatch) -> DfResult<RecordBatch> {
        let column = |i: usize| {
            rows.columns().get(i).cloned().ok_or_else(|| internal_datafusion_err!("column {i} is not there"))
        };
        let times: ArrayRef = Arc::new(micros(&column(self.time)?)?);
        let mut by = self.keys.iter().map(|k| Ok(canonical(&column(*k)?))).collect::<DfResult<Vec<_>>>()?;
        by.push(Arc::clone(&times));
        let sort: Vec<SortColumn> = by.iter().map(|c| SortColumn { values: Arc::clone(c), options: None }).collect();
        let order = lexsort_to_indices(&sort, None)?;
        let sorted = take_arrays(&by, &order, None)?;
        let keys = sorted.split_last().map(|(_, keys)| keys).unwrap_or_default();
        let same =
            keys.iter().map(|k| Ok(make_comparator(k, k, SortOptions::default())?)).collect::<DfResult<Vec<_>>>()?;
        let times = micros_of(&sorted)?;
        // A row without a time is in no session: NULLs are apart from every time.
        let timed: Vec<usize> = (0..times.len()).filter(|i| times.is_valid(*i)).collect();
        let (mut places, mut starts, mut ends) = (vec![], vec![], vec![]);
        let joins = |a: usize, b: usize| {
            same.iter().all(|same| same(a, b).is_eq()) && times.value(b).saturating_sub(times.value(a)) <= self.gap_us
        };
        for session in timed.chunk_by(|a, b| joins(*a, *b)) {
            let (Some(first), Some(last)) = (session.first(), session.last()) else { continue };
            let (start, end) = (times.value(*first), times.value(*last).saturating_add(self.gap_us));
            for row in session {
                places.push(order.value(*row));
                starts.push(start);
                ends.push(end);
            }
        }
        let mut columns = take_arrays(rows.columns(), &UInt32Array::from(places), None)?;
        let (starts, ends) = (Int64Array::from(starts), Int64Array::from(ends));
        let last: Int64Array = ends.unary(window_time);
        let fields = self.schema.fields().iter().skip(columns.len());
        for (bound, field) in [starts, ends, last].iter().zip(fields) {
            columns.push(timestamps(bound, field.data_type())?);
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

fn micros_of(sorted: &[ArrayRef]) -> DfResult<Int64Array> {
    let times = sorted.last().and_then(|c| c.as_any().downcast_ref::<Int64Array>());
    times.cloned().ok_or_else(|| internal_datafusion_err!("the times are numbers"))
}
