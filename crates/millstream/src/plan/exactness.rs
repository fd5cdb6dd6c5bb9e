//! How the streamed answer compares with the batch answer: what `check` says of a query.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, WindowFrameUnits, WindowFunctionDefinition,
};

use super::nodes::StreamAggregate;
use super::over::{self, StreamOver};
use super::ranking::{StreamLimit, StreamRanking};
use super::refuse::Refusal;
use crate::exec::RankKind;
use crate::temporal::{AsOf, TemporalJoin};

/// How the streamed answer compares with the batch answer over the same rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exactness {
    /// The same.
    Exact,
    /// The same but for the rounding of float sums, whose association follows the cut into batches.
    Rounding,
    /// One of several answers that are right: it follows the order in which rows came, where the query leaves the order
    /// open. Also sums of floats over frames that move, from which a NaN or a very large value may never leave in batch;
    /// and a division by what an aggregate holds between batches, which may be zero then.
    Order,
    /// An approximation in batch too.
    Approximate,
    /// It depends on the time of the batches.
    Clock,
}

impl std::fmt::Display for Exactness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Exact => "exact",
            Self::Rounding => "rounding",
            Self::Order => "order",
            Self::Approximate => "approximate",
            Self::Clock => "clock",
        })
    }
}

pub fn exactness(plan: &LogicalPlan, uses_clock: bool) -> Result<Exactness, Refusal> {
    let mut exactness = if uses_clock { Exactness::Clock } else { Exactness::Exact };
    plan.apply(|node| {
        let LogicalPlan::Extension(node) = node else {
            if may_fail_between(node)? {
                exactness = exactness.max(Exactness::Order);
            }
            return Ok(TreeNodeRecursion::Continue);
        };
        let node = node.node.as_any();
        if let Some(TemporalJoin { as_of: AsOf::Now { .. }, .. }) = node.downcast_ref() {
            exactness = Exactness::Clock;
        }
        if let Some(aggregate) = node.downcast_ref::<StreamAggregate>() {
            for expr in &aggregate.aggregates {
                exactness = exactness.max(of_aggregate(expr, aggregate.input.schema()));
            }
        } else if let Some(over) = node.downcast_ref::<StreamOver>() {
            for expr in &over.functions {
                exactness = exactness.max(of_window_function(expr, over.input.schema(), over.total));
                if over.keep.is_some() {
                    exactness = exactness.max(of_moving_frame(expr, over.input.schema()));
                }
            }
        } else if let Some(ranking) = node.downcast_ref::<StreamRanking>() {
            for expr in &ranking.functions {
                exactness = exactness.max(of_window_function(expr, ranking.input.schema(), ranking.total));
            }
        } else if node.is::<StreamLimit>() {
            exactness = exactness.max(Exactness::Order);
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(exactness)
}

/// Whether a row may be rejected for a result that batch never sees: a whole number is divided by what an aggregate holds
/// at the end of a batch.
fn may_fail_between(node: &LogicalPlan) -> datafusion::common::Result<bool> {
    if !matches!(node, LogicalPlan::Projection(_) | LogicalPlan::Filter(_)) {
        return Ok(false);
    }
    let aggregates =
        node.exists(|n| Ok(matches!(n, LogicalPlan::Extension(e) if e.node.as_any().is::<StreamAggregate>())))?;
    if !aggregates {
        return Ok(false);
    }
    let schema = merge_schema(&node.inputs());
    let divides = |expr: &Expr| match expr {
        Expr::BinaryExpr(BinaryExpr { op: Operator::Divide | Operator::Modulo, right, .. }) => {
            !matches!(right.as_ref(), Expr::Literal(..)) && !expr.get_type(&schema).is_ok_and(|t| t.is_floating())
        }
        _ => false,
    };
    node.expressions().iter().try_fold(false, |found, expr| Ok(found || expr.exists(|e| Ok(divides(e)))?))
}

/// A window function, over rows of which none tie or some may.
fn of_window_function(expr: &Expr, schema: &DFSchema, total: bool) -> Exactness {
    let Some(call) = over::call(expr) else { return Exactness::Exact };
    let of_order = if total { Exactness::Exact } else { Exactness::Order };
    let WindowFunctionDefinition::AggregateUDF(_) = &call.fun else {
        let shares = matches!(over::rank_kind(expr), Some(RankKind::Rank | RankKind::DenseRank));
        return if shares { Exactness::Exact } else { of_order };
    };
    // Rows that tie are in a frame of RANGE or GROUPS together.
    let of_order = if call.params.window_frame.units == WindowFrameUnits::Rows { of_order } else { Exactness::Exact };
    as_aggregate(expr).map_or(Exactness::Exact, |aggregate| of_aggregate(&aggregate, schema).max(of_order))
}

/// A window function over a frame that leaves rows behind: sums of floats are taken down by what leaves, which differs
/// from a sum of what is there by more than rounding where a value is NaN, infinite, or much larger than the others.
fn of_moving_frame(expr: &Expr, schema: &DFSchema) -> Exactness {
    let moves = over::call(expr).is_some_and(|call| !call.params.window_frame.start_bound.is_unbounded());
    match as_aggregate(expr).filter(|_| moves).map(|aggregate| of_aggregate(&aggregate, schema)) {
        Some(Exactness::Rounding) => Exactness::Order,
        _ => Exactness::Exact,
    }
}

/// An aggregate over a frame as one over rows.
fn as_aggregate(expr: &Expr) -> Option<Expr> {
    let call = over::call(expr)?;
    let WindowFunctionDefinition::AggregateUDF(function) = &call.fun else { return None };
    let (args, distinct) = (call.params.args.clone(), call.params.distinct);
    // Its rows are in the order of the window.
    let order = call.params.order_by.clone();
    Some(Expr::AggregateFunction(AggregateFunction::new_udf(Arc::clone(function), args, distinct, None, order, None)))
}

fn of_aggregate(expr: &Expr, schema: &DFSchema) -> Exactness {
    /// Functions that answer one of their inputs, or count them: no sum is built.
    const NO_SUM: [&str; 11] = [
        "count",
        "min",
        "max",
        "first_value",
        "last_value",
        "nth_value",
        "array_agg",
        "string_agg",
        "bool_and",
        "bool_or",
        "grouping",
    ];
    /// Functions whose answer follows the order of the rows.
    const BY_ORDER: [&str; 5] = ["first_value", "last_value", "nth_value", "array_agg", "string_agg"];
    let Expr::AggregateFunction(call) = expr.clone().unalias() else { return Exactness::Exact };
    if call.func.name().starts_with("approx_") {
        return Exactness::Approximate;
    }
    // Rows that tie in what the values are ordered by must have the same value.
    let ordered = call.params.args.first().is_some_and(|arg| call.params.order_by.iter().any(|by| by.expr == *arg));
    if BY_ORDER.contains(&call.func.name()) && !ordered {
        return Exactness::Order;
    }
    let float = |t: &DataType| t.is_floating();
    let args = call.params.args.iter().any(|a| a.get_type(schema).is_ok_and(|t| float(&t)));
    let sums = !NO_SUM.contains(&call.func.name());
    if sums && (args || expr.get_type(schema).is_ok_and(|t| float(&t))) {
        Exactness::Rounding
    } else {
        Exactness::Exact
    }
}
