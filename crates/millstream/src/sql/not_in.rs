//! NOT IN over a subquery, as a join that says itself what a NULL means.

use datafusion::common::Result;
use datafusion::common::tree_node::Transformed;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{BinaryExpr, Expr, Join, JoinType, LogicalPlan, Operator};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// NOT IN over a subquery that looks at the row, or whose values are no columns: an anti join that says itself
/// what a NULL means. DataFusion's own form of it knows one pair of columns only, and loses NULLs when a
/// comparison with a constant is pushed below it.
#[derive(Debug)]
pub struct NotInWithConditions;

impl OptimizerRule for NotInWithConditions {
    fn name(&self) -> &str {
        "not_in_with_conditions"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Join(join) = plan else { return Ok(Transformed::no(plan)) };
        let Join { filter: Some(filter), join_type: JoinType::LeftAnti, null_aware: true, .. } = &join else {
            return Ok(Transformed::no(LogicalPlan::Join(join)));
        };
        let mut conditions = split_conjunction_owned(filter.clone()).into_iter();
        let membership = conditions.next();
        let others: Vec<Expr> = conditions.collect();
        // The comparison of the NOT IN itself comes first.
        if others.is_empty() && membership.as_ref().is_some_and(|m| compares_columns(m, &join)) {
            return Ok(Transformed::no(LogicalPlan::Join(join)));
        }
        let membership = membership.map(|m| Expr::IsNotFalse(Box::new(m)));
        let filter = conjunction(membership.into_iter().chain(others));
        Ok(Transformed::yes(LogicalPlan::Join(Join { filter, null_aware: false, ..join })))
    }
}

/// Whether it is an equality of an expression over the left side and one over the right.
fn compares_columns(expr: &Expr, join: &Join) -> bool {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = expr else { return false };
    let of = |e: &Expr, side: &LogicalPlan| {
        let columns = e.column_refs();
        !columns.is_empty() && columns.iter().all(|c| side.schema().has_column(c))
    };
    of(left, &join.left) && of(right, &join.right)
}
