//! The rules that a streaming plan is optimized with.
//!
//! It is a list of our own. What is not in it would change the meaning of a stream: `PushDownLimit` puts a
//! `fetch` on the scan (so many rows a batch), `SingleDistinctToGroupBy` splits an aggregate into one over a
//! changelog, `ScalarSubqueryToJoin` and the join rules belong to plans that are refused.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::common_subexpr_eliminate::CommonSubexprEliminate;
use datafusion::optimizer::eliminate_duplicated_expr::EliminateDuplicatedExpr;
use datafusion::optimizer::eliminate_filter::EliminateFilter;
use datafusion::optimizer::eliminate_group_by_constant::EliminateGroupByConstant;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::optimize_unions::OptimizeUnions;
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::replace_distinct_aggregate::ReplaceDistinctWithAggregate;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{Optimizer, OptimizerContext, OptimizerRule};

type Rule = Arc<dyn OptimizerRule + Send + Sync>;

/// Types are coerced and checked; nothing else changes.
pub fn analyze(plan: LogicalPlan, state: &SessionState) -> Result<LogicalPlan> {
    state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})
}

/// The plan with the same answer that does less, before it becomes incremental.
pub fn optimize(plan: LogicalPlan, state: &SessionState) -> Result<LogicalPlan> {
    let rules: Vec<Rule> = vec![
        Arc::new(OptimizeUnions::new()),
        Arc::new(SimplifyExpressions::new()),
        Arc::new(ReplaceDistinctWithAggregate::new()),
        Arc::new(EliminateDuplicatedExpr::new()),
        Arc::new(EliminateFilter::new()),
        Arc::new(PushDownFilter::new()),
        Arc::new(EliminateGroupByConstant::new()),
        Arc::new(CommonSubexprEliminate::new()),
        Arc::new(OptimizeProjections::new()),
    ];
    run(rules, plan, state)
}

/// Only what is used is read: once more, after the plan became incremental.
pub fn prune(plan: LogicalPlan, state: &SessionState) -> Result<LogicalPlan> {
    run(vec![Arc::new(OptimizeProjections::new())], plan, state)
}

fn run(rules: Vec<Rule>, plan: LogicalPlan, state: &SessionState) -> Result<LogicalPlan> {
    // The wall clock never reaches an expression: without a start time `now()` is not folded.
    let context = OptimizerContext::new_with_config_options(Arc::clone(state.config_options()))
        .without_query_execution_start_time();
    Optimizer::with_rules(rules).optimize(plan, &context, |_, _| {})
}
