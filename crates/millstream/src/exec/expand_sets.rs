//! GROUPING SETS, CUBE and ROLLUP: each row once for every set of keys.
//!
//! The input's columns are followed by the keys, of which those that a set leaves out are NULL, and by the set's
//! number, which tells a NULL of the data from one of the set. It keeps no state.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DfResult, ScalarValue, internal_datafusion_err, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::distribution_requirements::InputDistributionRequirements;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions};
use futures::stream::{self, StreamExt};

use super::accumulate::evaluate_all;
use super::node::{self, unary_node};

/// Repeats its input for each set of keys.
#[derive(Debug)]
pub struct GroupingSetsExec {
    input: Arc<dyn ExecutionPlan>,
    sets: Arc<Sets>,
    properties: Arc<PlanProperties>,
}

#[derive(Debug)]
struct Sets {
    keys: Vec<Arc<dyn PhysicalExpr>>,
    /// For each set: which keys it leaves out, and its number.
    sets: Vec<(Vec<bool>, ScalarValue)>,
    schema: SchemaRef,
}

impl GroupingSetsExec {
    /// Repeats `input` for each of `sets`: which of `keys` it leaves out, and its number. `schema` has the input's
    /// columns, the keys, and the number.
    ///
    /// # Errors
    /// Where the schema is not of this form.
    pub fn try_new(
        input: Arc<dyn ExecutionPlan>,
        keys: Vec<Arc<dyn PhysicalExpr>>,
        sets: Vec<(Vec<bool>, ScalarValue)>,
        schema: SchemaRef,
    ) -> DfResult<Self> {
        if schema.fields().len() != input.schema().fields().len() + keys.len() + 1 {
            return internal_err!("grouping sets add their keys and a number to their input, not {schema}");
        }
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Ok(Self { input, sets: Arc::new(Sets { keys, sets, schema }), properties })
    }

    fn with_input(&self, input: Arc<dyn ExecutionPlan>) -> Self {
        Self { input, sets: Arc::clone(&self.sets), properties: Arc::clone(&self.properties) }
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.sets.keys.iter().collect()
    }
}

impl DisplayAs for GroupingSetsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupingSetsExec: {} sets of {} keys", self.sets.sets.len(), self.sets.keys.len())
    }
}

impl ExecutionPlan for GroupingSetsExec {
    unary_node!("GroupingSetsExec");

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("GroupingSetsExec has one partition, {partition} was asked for");
        }
        let sets = Arc::clone(&self.sets);
        let rows = self.input.execute(0, context)?.flat_map(move |batch| {
            let repeated = batch.and_then(|batch| sets.repeat(&batch));
            stream::iter(match repeated {
                Ok(batches) => batches.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            })
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.sets.schema), rows)))
    }
}

impl Sets {
    fn repeat(&self, batch: &RecordBatch) -> DfResult<Vec<RecordBatch>> {
        let keys = evaluate_all(&self.keys, batch)?;
        let rows = batch.num_rows();
        let nulls: Vec<ArrayRef> = keys.iter().map(|key| new_null_array(key.data_type(), rows)).collect();
        let one = |(left_out, id): &(Vec<bool>, ScalarValue)| {
            let mut columns = batch.columns().to_vec();
            for (i, left_out) in left_out.iter().enumerate() {
                let from = if *left_out { &nulls } else { &keys };
                let key = from.get(i).ok_or_else(|| internal_datafusion_err!("a set has more keys than there are"))?;
                columns.push(Arc::clone(key));
            }
            columns.push(id.to_array_of_size(rows)?);
            Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
        };
        self.sets.iter().map(one).collect()
    }
}
