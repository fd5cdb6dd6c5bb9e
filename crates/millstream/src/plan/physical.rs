//! From the incremental logical plan to nodes that run, and the list of those that may.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{DFSchema, Result, internal_err};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNode};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};

use super::nodes::{StreamAggregate, StreamScan};
use crate::exec::{
    self, Aggregate, KeyedAggregateExec, ScanExec, WindowAggregate, WindowAggregateExec, WindowTableExec,
};
use crate::window::WindowTable;

/// The nodes that are right when a plan is run once a batch. Everything else is refused.
const ALLOWED: [&str; 10] = [
    "ScanExec",
    "SequentialExec",
    "WindowTableExec",
    "KeyedAggregateExec",
    "WindowAggregateExec",
    "FilterExec",
    "ProjectionExec",
    "UnionExec",
    "UnnestExec",
    "PlaceholderRowExec",
];

/// Makes the physical plan, with one partition.
pub async fn plan(logical: &LogicalPlan, state: &SessionState) -> Result<Arc<dyn ExecutionPlan>> {
    let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(StreamPlanner)]);
    // DataFusion's physical rules repartition, add cooperative yields, push limits: none is for a stream.
    let config = state.config().clone().with_target_partitions(1);
    let state = SessionStateBuilder::new_from_existing(state.clone()).with_config(config);
    let state = state.with_physical_optimizer_rules(vec![]).build();
    let plan = planner.create_physical_plan(logical, &state).await?;
    let plan = exec::sequential(plan)?;
    allowed(&plan)?;
    Ok(plan)
}

fn allowed(plan: &Arc<dyn ExecutionPlan>) -> Result<()> {
    // An empty or constant relation is DataFusion's own leaf.
    if !ALLOWED.contains(&plan.name()) && !["EmptyExec", "DataSourceExec"].contains(&plan.name()) {
        return internal_err!("the plan holds {}, which is not known to be right on a stream", plan.name());
    }
    plan.children().into_iter().try_for_each(allowed)
}

/// Plans the nodes that DataFusion has no word for, in streaming and in batch.
pub struct StreamPlanner;

#[async_trait]
impl ExtensionPlanner for StreamPlanner {
    async fn plan_extension(
        &self,
        planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        session: &dyn Session,
        context: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if let Some(scan) = node.as_any().downcast_ref::<StreamScan>() {
            let schema = Arc::clone(scan.schema.inner());
            return Ok(Some(Arc::new(ScanExec::new(scan.scan, schema))));
        }
        let (Some(input), Some(logical)) = (physical_inputs.first(), logical_inputs.first()) else {
            return Ok(None);
        };
        let exprs = Exprs { planner, session, context, schema: logical.schema() };
        if let Some(window) = node.as_any().downcast_ref::<WindowTable>() {
            let schema = Arc::clone(window.schema.inner());
            let exec = WindowTableExec::try_new(Arc::clone(input), window.time_index()?, window.spec, schema)?;
            return Ok(Some(Arc::new(exec)));
        }
        let Some(aggregate) = node.as_any().downcast_ref::<StreamAggregate>() else { return Ok(None) };
        exprs.aggregate(aggregate, Arc::clone(input)).map(Some)
    }
}

struct Exprs<'a> {
    planner: &'a dyn PhysicalPlanner,
    session: &'a dyn Session,
    context: &'a PhysicalPlanningContext,
    schema: &'a DFSchema,
}

impl Exprs<'_> {
    fn physical(&self, expr: &Expr) -> Result<Arc<dyn PhysicalExpr>> {
        self.planner.create_physical_expr(expr, self.schema, self.session, self.context)
    }

    fn aggregate(&self, node: &StreamAggregate, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
        let keys = node.keys.iter().map(|e| self.physical(&e.clone().unalias())).collect::<Result<Vec<_>>>()?;
        let input_schema = input.schema();
        let mut aggregates = vec![];
        for expr in &node.aggregates {
            let props = self.session.execution_props();
            let lowered =
                LoweredAggregateBuilder::new(expr, self.schema, &input_schema, props, self.context).build()?;
            aggregates.push(Aggregate { function: lowered.aggregate, filter: lowered.filter });
        }
        let answer = node.answer_schema();
        let name = node.name.as_str();
        let Some(window) = &node.window else {
            return Ok(Arc::new(KeyedAggregateExec::try_new(name, input, keys, &aggregates, &answer)?));
        };
        let Expr::Column(time) = &window.time else { return internal_err!("the time of a window is a column") };
        let time = self.schema.index_of_column(time)?;
        let (spec, columns, emit) = (window.spec, window.columns.clone(), window.emit);
        let spec = WindowAggregate { spec, time, keys, columns, aggregates, emit };
        Ok(Arc::new(WindowAggregateExec::try_new(name, input, spec, &answer)?))
    }
}
