//! Subqueries that DataFusion 55 turns into joins which mean something else: refused where they stand.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, FetchType, LogicalPlan, Operator, SkipType, Subquery};
use datafusion::sql::sqlparser::tokenizer::{Span, TokenWithSpan};

use super::diagnostic::{SqlError, parser_span};
use super::parser::Places;

/// Refuses a planned query that would be answered as another one.
pub fn check(plan: &LogicalPlan, tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    check_comparisons(plan, tokens)?;
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

const COMPARISONS: [Operator; 8] = [
    Operator::Eq,
    Operator::NotEq,
    Operator::Lt,
    Operator::LtEq,
    Operator::Gt,
    Operator::GtEq,
    Operator::IsDistinctFrom,
    Operator::IsNotDistinctFrom,
];

/// Refuses the comparison of a column of text with a number: the text would be read as a number, and each row in which it
/// is none rejected.
fn check_comparisons(plan: &LogicalPlan, tokens: &[TokenWithSpan]) -> Result<(), SqlError> {
    let mut found = None;
    let walked = plan.apply_with_subqueries(|node| {
        let schema = merge_schema(&node.inputs());
        let of = |expr: &Expr| expr.get_type(&schema).ok();
        let text = |expr: &Expr| {
            let constant = matches!(expr, Expr::Literal(..));
            !constant && matches!(of(expr), Some(DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View))
        };
        let number = |expr: &Expr| of(expr).is_some_and(|t| t.is_numeric());
        let mixed = |l: &Expr, r: &Expr| (text(l) && number(r)) || (text(r) && number(l));
        let mut look = |l: &Expr, r: &Expr| {
            if found.is_none() && mixed(l, r) {
                found = Some(if text(l) { (l.clone(), r.clone()) } else { (r.clone(), l.clone()) });
            }
        };
        if let LogicalPlan::Join(join) = node {
            // Its keys are of both sides; what it compares is in the schema of both.
            join.on.iter().for_each(|(l, r)| look(l, r));
        }
        node.apply_expressions(|expr| {
            expr.apply(|part| {
                match part {
                    Expr::BinaryExpr(binary) if COMPARISONS.contains(&binary.op) => look(&binary.left, &binary.right),
                    Expr::InList(list) => list.list.iter().for_each(|item| look(&list.expr, item)),
                    _ => {}
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    walked.map_err(|e| SqlError::from_datafusion(&e, tokens))?;
    match found {
        None => Ok(()),
        Some((text, number)) => {
            let columns = [&text, &number].map(Expr::column_refs);
            let place = columns.iter().flatten().find_map(|column| column.spans.first()).map(parser_span);
            let reason = format!(
                "{} is text and {} is a number: compare text with text ('1'), or write TRY_CAST({} AS BIGINT), which is NULL \
                 where it is no number",
                plain(&text),
                plain(&number),
                plain(&text)
            );
            Err(SqlError { span: place, ..SqlError::somewhere(reason) })
        }
    }
}

/// An expression as it is written: a constant without its type.
fn plain(expr: &Expr) -> String {
    match expr {
        Expr::Literal(value, _) => value.to_string(),
        other => other.to_string(),
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
