//! What every node of ours answers in the same way, so that each file shows what is its own.

use std::future::Future;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::{Result as DfResult, internal_err};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_expr::{EquivalenceProperties, Partitioning};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, PlanProperties};
use futures::stream::{self, StreamExt, TryStreamExt};

/// The properties of a node that answers once its input has ended: one partition, no order.
pub(super) fn final_properties(schema: SchemaRef) -> Arc<PlanProperties> {
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(schema),
        Partitioning::UnknownPartitioning(1),
        EmissionType::Final,
        Boundedness::Bounded,
    ))
}

/// The one child of a node, out of those it is given.
pub(super) fn only_child(node: &str, mut children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
    match (children.pop(), children.is_empty()) {
        (Some(child), true) => Ok(child),
        _ => internal_err!("{node} has exactly one child"),
    }
}

/// A stream of the batches that a computation answers.
pub(super) fn answer<F>(schema: SchemaRef, batches: F) -> SendableRecordBatchStream
where
    F: Future<Output = DfResult<Vec<RecordBatch>>> + Send + 'static,
{
    let answered = stream::once(batches).map_ok(|batches| stream::iter(batches).map(Ok)).try_flatten();
    Box::pin(RecordBatchStreamAdapter::new(schema, answered))
}

/// The parts of `ExecutionPlan` that do not differ between nodes without children and expressions.
macro_rules! leaf_node {
    ($name:literal) => {
        fn name(&self) -> &str {
            $name
        }

        fn properties(&self) -> &Arc<PlanProperties> {
            &self.properties
        }

        fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
            vec![]
        }

        fn apply_expressions(
            &self,
            _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
        ) -> DfResult<TreeNodeRecursion> {
            Ok(TreeNodeRecursion::Continue)
        }

        fn replace_children(
            self: Arc<Self>,
            _: Vec<Arc<dyn ExecutionPlan>>,
            _: ReplaceChildrenOptions,
        ) -> DfResult<Arc<dyn ExecutionPlan>> {
            Ok(self)
        }

        fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
            Ok(self)
        }
    };
}

/// The parts of `ExecutionPlan` that do not differ between nodes without state over one input: they have fields `input` and
/// `properties`, a method `with_input(&self, Arc<dyn ExecutionPlan>) -> Self`, and a method `expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>>`.
macro_rules! unary_node {
    ($name:literal) => {
        fn name(&self) -> &str {
            $name
        }

        fn properties(&self) -> &Arc<PlanProperties> {
            &self.properties
        }

        fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
            vec![&self.input]
        }

        // Rows meet state in log order, so a node of ours reads one partition that nothing has shuffled.
        fn input_distribution_requirements(&self) -> InputDistributionRequirements {
            InputDistributionRequirements::new(vec![Distribution::SinglePartition])
        }

        fn benefits_from_input_partitioning(&self) -> Vec<bool> {
            vec![false]
        }

        fn apply_expressions(
            &self,
            f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
        ) -> DfResult<TreeNodeRecursion> {
            for expression in self.expressions() {
                if f(expression)? == TreeNodeRecursion::Stop {
                    return Ok(TreeNodeRecursion::Stop);
                }
            }
            Ok(TreeNodeRecursion::Continue)
        }

        fn replace_children(
            self: Arc<Self>,
            children: Vec<Arc<dyn ExecutionPlan>>,
            _: ReplaceChildrenOptions,
        ) -> DfResult<Arc<dyn ExecutionPlan>> {
            Ok(Arc::new(self.with_input(node::only_child($name, children)?)))
        }

        fn with_new_children(
            self: Arc<Self>,
            children: Vec<Arc<dyn ExecutionPlan>>,
        ) -> DfResult<Arc<dyn ExecutionPlan>> {
            Ok(Arc::new(self.with_input(node::only_child($name, children)?)))
        }
    };
}

pub(super) use leaf_node;
pub(super) use unary_node;
