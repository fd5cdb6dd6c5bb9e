//! TUMBLE, HOP and CUMULATE by their plain meaning: each row once for every window that holds it.
//!
//! `window_start`, `window_end` and `window_time` are added to the row. Aggregates over windows don't need
//! this ([`super::WindowAggregateExec`] never copies rows); it serves batch queries, and what uses the rows
//! of windows without aggregating them. It keeps no state. A row without a time is in no window.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take_arrays;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DfResult, internal_datafusion_err, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::distribution_requirements::InputDistributionRequirements;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions};
use futures::stream::{self, StreamExt};

use super::event_time::{micros, timestamps, window_time};
use super::node::{self, unary_node};
use crate::window::WindowSpec;

/// Rows of a batch that is put out, at most: a row in many windows is copied in portions.
const ROWS_MAX: usize = 8192;

/// Adds the windows of each row to it.
#[derive(Debug)]
pub struct WindowTableExec {
    input: Arc<dyn ExecutionPlan>,
    expansion: Arc<Expansion>,
    properties: Arc<PlanProperties>,
}

/// What does not change between batches.
#[derive(Debug)]
struct Expansion {
    time: usize,
    spec: WindowSpec,
    schema: SchemaRef,
}

impl WindowTableExec {
    /// Puts the rows of `input` into windows by its column `time`. `schema` has the input's columns, then
    /// `window_start`, `window_end` and `window_time`, timestamps of any unit.
    ///
    /// # Errors
    /// Where the schema is not of this form.
    pub fn try_new(input: Arc<dyn ExecutionPlan>, time: usize, spec: WindowSpec, schema: SchemaRef) -> DfResult<Self> {
        let columns = input.schema().fields().len();
        if schema.fields().len() != columns + 3 || time >= columns {
            return internal_err!("a window table has the columns of its input and three more, not {schema}");
        }
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Ok(Self { input, expansion: Arc::new(Expansion { time, spec, schema }), properties })
    }

    fn with_input(&self, input: Arc<dyn ExecutionPlan>) -> Self {
        Self { input, expansion: Arc::clone(&self.expansion), properties: Arc::clone(&self.properties) }
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![]
    }
}

impl DisplayAs for WindowTableExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WindowTableExec: {}", self.expansion.spec)
    }
}

impl ExecutionPlan for WindowTableExec {
    unary_node!("WindowTableExec");

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("WindowTableExec has one partition, {partition} was asked for");
        }
        let expansion = Arc::clone(&self.expansion);
        let rows = self.input.execute(0, context)?.flat_map(move |batch| {
            let portions = match batch {
                Ok(batch) => Portions { expansion: Arc::clone(&expansion), times: None, batch, row: 0, window: 0 },
                Err(error) => return stream::iter(vec![Err(error)]).boxed(),
            };
            stream::iter(portions).boxed()
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.expansion.schema), rows)))
    }
}

/// The expanded rows of one record batch, a portion at a time.
struct Portions {
    expansion: Arc<Expansion>,
    times: Option<Int64Array>,
    batch: RecordBatch,
    /// The row and the window of it that come next.
    row: usize,
    window: usize,
}

impl Portions {
    fn portion(&mut self) -> DfResult<Option<RecordBatch>> {
        let spec = self.expansion.spec;
        let times = match &self.times {
            Some(times) => times,
            None => {
                let column = self.batch.columns().get(self.expansion.time);
                let column = column.ok_or_else(|| internal_datafusion_err!("the time column is not there"))?;
                self.times.insert(micros(column)?)
            }
        };
        let (mut rows, mut starts, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        while self.row < times.len() && rows.len() < ROWS_MAX {
            let room = ROWS_MAX - rows.len();
            let mut taken = 0;
            if times.is_valid(self.row) {
                for (start, end) in spec.windows_of(times.value(self.row)).skip(self.window).take(room) {
                    rows.push(self.row as u32);
                    starts.push(start);
                    ends.push(end);
                    taken += 1;
                }
            }
            if taken == room {
                self.window += taken;
            } else {
                (self.row, self.window) = (self.row + 1, 0);
            }
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let all = rows.len() == self.batch.num_rows() && rows.iter().zip(0u32..).all(|(row, i)| *row == i);
        let mut columns: Vec<ArrayRef> = match all {
            true => self.batch.columns().to_vec(),
            false => take_arrays(self.batch.columns(), &UInt32Array::from(rows), None)?,
        };
        let times = Int64Array::from_iter_values(ends.iter().map(|end| window_time(*end)));
        let bounds = [Int64Array::from(starts), Int64Array::from(ends), times];
        let fields = self.expansion.schema.fields();
        let added = fields.iter().skip(self.batch.num_columns());
        for (bound, field) in bounds.iter().zip(added) {
            columns.push(timestamps(bound, field.data_type())?);
        }
        Ok(Some(RecordBatch::try_new(Arc::clone(&self.expansion.schema), columns)?))
    }
}

impl Iterator for Portions {
    type Item = DfResult<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.portion().transpose()
    }
}
