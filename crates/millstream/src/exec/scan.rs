//! The rows of a batch enter a plan here.
//!
//! A scan is a number, not a source: the runner reads the ranges, drops what is rejected or late, and hands
//! the rows over in the [`BatchContext`]. They come in log order, in one partition.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DfResult, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::memory::MemoryStream;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions};

use super::BatchContext;
use super::node::leaf_node;

/// Reads the rows of one scan from the batch.
#[derive(Debug)]
pub struct ScanExec {
    scan: usize,
    properties: Arc<PlanProperties>,
}

impl ScanExec {
    /// The rows at `scan` of [`BatchContext::inputs`], which have this schema.
    pub fn new(scan: usize, schema: SchemaRef) -> Self {
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Self { scan, properties }
    }

    /// The scan's number.
    pub fn scan(&self) -> usize {
        self.scan
    }
}

impl DisplayAs for ScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScanExec: scan={}", self.scan)
    }
}

impl ExecutionPlan for ScanExec {
    leaf_node!("ScanExec");

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("ScanExec has one partition, {partition} was asked for");
        }
        let batch = BatchContext::of(&context)?;
        let Some(rows) = batch.inputs.get(self.scan) else {
            return internal_err!("batch {} holds no rows for scan {}", batch.batch, self.scan);
        };
        Ok(Box::pin(MemoryStream::try_new(rows.clone(), self.schema(), None)?))
    }
}
