//! Subqueries that DataFusion 55 turns into joins which mean something else: refused where they stand.

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, FetchType, LogicalPlan, SkipType, Subquery};
use datafusion::sql::sqlparser::tokenizer::{Span, TokenWithSpan};

use super::diagnostic::SqlError;
use super::parser::Places;

/// Refuses a planned query that would be answered as another one.
pub fn check(plan: &LogicalPlan, tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    let mut found = None;
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                found = match part {
                    Expr::Exists(exists) => misread(&exists.subquery, "EXISTS"),
                    Expr::InSubquery(of) => misread(&of.subquery, "IN"),
                    _ => None,
                };
                Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
            })
        })
    });
    walked.map_err(|e| SqlError::from_datafusion(&e, tokens))?;
    match found {
        Some((word, instead)) => Err(Places(tokens).refuse(&[word], Span::empty(), instead)),
        None => Ok(()),
    }
}

/// The word at which a subquery is misread, and what is to be written instead.
fn misread(subquery: &Subquery, word: &'static str) -> Option<(&'static str, &'static str)> {
    let mut plan = subquery.subquery.as_ref();
    loop {
        match plan {
            LogicalPlan::Limit(limit) => {
                let skips = !matches!(limit.get_skip_type(), Ok(SkipType::Literal(0)));
                if word == "EXISTS" && skips {
                    return Some((
                        "OFFSET",
                        "within EXISTS: count the rows instead, WHERE (SELECT count(*) FROM ..) > 2",
                    ));
                }
                if word == "IN" && !subquery.outer_ref_columns.is_empty() && has_limit(limit) {
                    return Some(("IN", "over a LIMIT for each row: rank the rows with ROW_NUMBER() and join"));
                }
                plan = limit.input.as_ref();
            }
            // Without GROUP BY there is a row though nothing is counted.
            LogicalPlan::Aggregate(of) if of.group_expr.is_empty() && !subquery.outer_ref_columns.is_empty() => {
                let instead = match word {
                    "EXISTS" => {
                        "over an aggregate without GROUP BY is always true: compare the aggregate itself instead, WHERE (SELECT count(*) FROM ..) > 0"
                    }
                    _ => "over an aggregate for each row: compare instead, WHERE x = (SELECT count(*) FROM ..)",
                };
                return Some((word, instead));
            }
            LogicalPlan::Projection(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::SubqueryAlias(_)
            | LogicalPlan::Distinct(_) => plan = plan.inputs().first().copied()?,
            _ => return None,
        }
    }
}

fn has_limit(limit: &datafusion::logical_expr::Limit) -> bool {
    !matches!(limit.get_fetch_type(), Ok(FetchType::Literal(None)))
}
