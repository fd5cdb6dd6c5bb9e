//! Guards of AND and OR that hold for each row.
//!
//! `v = 0 OR 10 / v > 2` is written by people who expect that nothing is divided by zero. DataFusion looks at the right
//! side of a whole batch unless the left side decides all of it, so that a row would fail or not by the rows beside
//! it: by the cut. Where the right side can fail it is computed only for the rows that the left side leaves open.

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, binary_expr, lit, not, when};

/// The same plan; what stands right of AND and OR in its filters and projections, and can fail, is guarded by what
/// stands left.
pub fn guard(plan: LogicalPlan) -> Result<LogicalPlan> {
    guard_in(plan, |node| matches!(node, LogicalPlan::Filter(_) | LogicalPlan::Projection(_)), can_fail)
}

/// The same in the arguments of aggregates and the conditions of joins, of what divides: as long as they are those that
/// SQL has, and their bounds in time can still be read.
pub fn guard_inputs(plan: LogicalPlan) -> Result<LogicalPlan> {
    let divides = |expr: &Expr, _: &DFSchema| expr.exists(|part| Ok(is_division(part)));
    guard_in(plan, |node| matches!(node, LogicalPlan::Aggregate(_) | LogicalPlan::Join(_)), divides)
}

fn guard_in(
    plan: LogicalPlan,
    concerns: impl Fn(&LogicalPlan) -> bool,
    can_fail: impl Fn(&Expr, &DFSchema) -> Result<bool>,
) -> Result<LogicalPlan> {
    let guarded = plan.transform_up(|node| {
        if !concerns(&node) {
            return Ok(Transformed::no(node));
        }
        let (names, schema) = (NamePreserver::new(&node), merge_schema(&node.inputs()));
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(guarded(expr, &|part| can_fail(part, &schema))?.update_data(|expr| name.restore(expr)))
        })
    });
    guarded.data()
}

/// A chain of ANDs or ORs becomes one CASE, so that it grows by its terms and not with each of them.
fn guarded(expr: Expr, can_fail: &dyn Fn(&Expr) -> Result<bool>) -> Result<Transformed<Expr>> {
    expr.transform_down(|part| {
        let Expr::BinaryExpr(BinaryExpr { op: op @ (Operator::And | Operator::Or), .. }) = part else {
            return Ok(Transformed::no(part));
        };
        let terms = terms(&part, op).into_iter().map(|term| guarded(term.clone(), can_fail));
        let terms = terms.collect::<Result<Vec<_>>>()?;
        let mut last = None;
        for (n, term) in terms.iter().enumerate().skip(1) {
            last = if can_fail(&term.data)? { Some(n) } else { last };
        }
        let changed = last.is_some() || terms.iter().any(|term| term.transformed);
        let terms: Vec<Expr> = terms.into_iter().map(|term| term.data).collect();
        let whole = terms.iter().cloned().reduce(|left, right| binary_expr(left, op, right)).unwrap_or(part);
        let mut before = terms.into_iter().take(last.unwrap_or(0));
        let decided = |term: Expr| if op == Operator::And { not(term) } else { term };
        let Some(first) = before.next() else { return Ok(Transformed::new(whole, changed, TreeNodeRecursion::Jump)) };
        let decides = || lit(op == Operator::Or);
        let mut case = when(decided(first), decides());
        before.for_each(|term| {
            case.when(decided(term), decides());
        });
        Ok(Transformed::new(case.otherwise(whole)?, true, TreeNodeRecursion::Jump))
    })
}

/// The terms of a chain, from the left.
fn terms(expr: &Expr, op: Operator) -> Vec<&Expr> {
    let (mut left, mut found) = (vec![expr], vec![]);
    while let Some(next) = left.pop() {
        match next {
            Expr::BinaryExpr(binary) if binary.op == op => left.extend([binary.right.as_ref(), binary.left.as_ref()]),
            other => found.push(other),
        }
    }
    found
}

/// Whether an expression may fail on some value.
fn can_fail(expr: &Expr, schema: &DFSchema) -> Result<bool> {
    /// Functions that people filter by, and that answer for every value.
    const TOTAL: [&str; 25] = [
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
        "round_down",
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
            // Numbers that are widened to be compared do not fail.
            Expr::Cast(cast) => !cast.expr.get_type(schema).is_ok_and(|from| from.is_numeric()),
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
