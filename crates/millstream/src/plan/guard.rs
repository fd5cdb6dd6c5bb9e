//! Guards of AND and OR that hold for each row.
//!
//! `v = 0 OR 10 / v > 2` is written by people who expect that nothing is divided by zero. DataFusion looks at the right
//! side of a whole batch unless the left side decides all of it, so that a row would fail or not by the rows beside
//! it: by the cut. Where the right side can fail it is computed only for the rows that the left side leaves open.

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator, lit, not, when};

/// The same plan; what stands right of AND and OR in its filters and projections, and can fail, is guarded by what
/// stands left.
pub fn guard(plan: LogicalPlan) -> Result<LogicalPlan> {
    guard_in(plan, |node| matches!(node, LogicalPlan::Filter(_) | LogicalPlan::Projection(_)), can_fail)
}

/// The same in the arguments of aggregates and the conditions of joins, of what divides: as long as they are those that
/// SQL has, and their bounds in time can still be read.
pub fn guard_inputs(plan: LogicalPlan) -> Result<LogicalPlan> {
    let divides = |expr: &Expr| expr.exists(|part| Ok(is_division(part)));
    guard_in(plan, |node| matches!(node, LogicalPlan::Aggregate(_) | LogicalPlan::Join(_)), divides)
}

fn guard_in(
    plan: LogicalPlan,
    concerns: impl Fn(&LogicalPlan) -> bool,
    can_fail: impl Fn(&Expr) -> Result<bool>,
) -> Result<LogicalPlan> {
    let guarded = plan.transform_up(|node| {
        if !concerns(&node) {
            return Ok(Transformed::no(node));
        }
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(expr.transform_up(|part| guarded(part, &can_fail))?.update_data(|expr| name.restore(expr)))
        })
    });
    guarded.data()
}

fn guarded(expr: Expr, can_fail: &impl Fn(&Expr) -> Result<bool>) -> Result<Transformed<Expr>> {
    let Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) = &expr else {
        return Ok(Transformed::no(expr));
    };
    if !can_fail(right)? {
        return Ok(Transformed::no(expr));
    }
    let left = left.as_ref().clone();
    let decided = if *op == Operator::And { not(left) } else { left };
    let decides = lit(*op == Operator::Or);
    Ok(Transformed::yes(when(decided, decides).otherwise(expr)?))
}

/// Whether an expression may fail on some value.
fn can_fail(expr: &Expr) -> Result<bool> {
    /// Functions that people filter by, and that answer for every value.
    const TOTAL: [&str; 24] = [
        "btrim",
        "char_length",
        "character_length",
        "coalesce",
        "concat",
        "concat_ws",
        "contains",
        "ends_with",
        "get_field",
        "left",
        "length",
        "lower",
        "ltrim",
        "now",
        "nullif",
        "nvl",
        "replace",
        "reverse",
        "right",
        "rtrim",
        "starts_with",
        "strpos",
        "substr",
        "upper",
    ];
    let mut found = false;
    expr.apply(|part| {
        found |= match part {
            part if is_division(part) => true,
            Expr::Cast(_) => true,
            Expr::ScalarFunction(call) => !TOTAL.contains(&call.func.name()),
            _ => false,
        };
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

fn is_division(expr: &Expr) -> bool {
    matches!(expr, Expr::BinaryExpr(binary) if matches!(binary.op, Operator::Divide | Operator::Modulo))
}
