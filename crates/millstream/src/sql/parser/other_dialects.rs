//! Words of other dialects that sqlparser reads: put into the words that are spoken here, or refused with them.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, Join, JoinConstraint, JoinOperator, LimitClause, Query, Select, SelectItem, Spanned, TableFactor,
    visit_expressions,
};

use super::complete::Places;
use super::outermost::change_outermost;
use crate::sql::diagnostic::SqlError;

/// Puts the joins of a SELECT into words that are planned, and refuses what has another word here.
///
/// # Errors
/// With the word, and the one to write.
pub fn select(select: &mut Select, places: Places<'_>) -> Result<(), SqlError> {
    for join in select.from.iter_mut().flat_map(|from| &mut from.joins) {
        joined(join)?;
    }
    let near = select.select_token.0.span;
    let clauses: [(bool, &[&str], &str); 4] = [
        (select.top.is_some(), &["TOP"], "write ORDER BY .. LIMIT n"),
        (!select.lateral_views.is_empty(), &["LATERAL", "VIEW"], "write CROSS JOIN UNNEST(array) AS t(element)"),
        (!select.sort_by.is_empty(), &["SORT", "BY"], "write ORDER BY .. LIMIT n, or sort what was written"),
        (!select.cluster_by.is_empty(), &["CLUSTER", "BY"], "the engine spreads the rows itself; remove it"),
    ];
    if let Some((_, words, instead)) = clauses.into_iter().find(|(there, ..)| *there) {
        return Err(places.refuse(words, near, instead));
    }
    for (condition, word) in
        select.selection.iter().map(|c| (c, "WHERE")).chain(select.having.iter().map(|c| (c, "HAVING")))
    {
        if let Some(call) = first_call(condition, |call| call.over.is_some()) {
            let reason =
                format!("{word} is asked before window functions are answered: write QUALIFY {condition} instead");
            return Err(SqlError::new(call.span(), reason));
        }
    }
    let items = select.projection.iter().filter_map(|item| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
        _ => None,
    });
    for expr in items.chain(&select.having).chain(&select.qualify) {
        if let Some(call) = first_call(expr, |call| call.filter.as_ref().is_some_and(|filter| asks_a_query(filter))) {
            let reason = "a subquery in FILTER is not supported: select it as a column of a query in FROM, SELECT count(*) \
                          FILTER (WHERE c) FROM (SELECT .., x IN (SELECT ..) AS c FROM t)";
            return Err(SqlError::new(call.span(), reason));
        }
    }
    Ok(())
}

/// Refuses what other dialects have around a SELECT.
///
/// # Errors
/// With what to write.
pub fn query(query: &Query) -> Result<(), SqlError> {
    match &query.limit_clause {
        Some(LimitClause::LimitOffset { limit_by, .. }) if let Some(by) = limit_by.first() => Err(SqlError::new(
            by.span(),
            "LIMIT n BY is not supported: QUALIFY ROW_NUMBER() OVER (PARTITION BY key ORDER BY ..) <= n takes n rows of \
             each key",
        )),
        _ => Ok(()),
    }
}

fn joined(join: &mut Join) -> Result<(), SqlError> {
    let none = || JoinOperator::CrossJoin(JoinConstraint::None);
    let place = join.relation.span();
    let refused =
        |what: &str, instead: &str| Err(SqlError::new(place, format!("{what} is not supported: write {instead}")));
    join.join_operator = match std::mem::replace(&mut join.join_operator, none()) {
        JoinOperator::Semi(on) => JoinOperator::LeftSemi(on),
        JoinOperator::Anti(on) => JoinOperator::LeftAnti(on),
        JoinOperator::StraightJoin(on) => JoinOperator::Inner(on),
        JoinOperator::CrossApply => return refused("CROSS APPLY", "CROSS JOIN LATERAL (..)"),
        JoinOperator::OuterApply => return refused("OUTER APPLY", "LEFT JOIN LATERAL (..) ON TRUE"),
        JoinOperator::AsOf { .. } => {
            let instead = "JOIN t FOR SYSTEM_TIME AS OF a.ts, where t has a PRIMARY KEY and a WATERMARK";
            return refused("ASOF JOIN", instead);
        }
        JoinOperator::ArrayJoin | JoinOperator::LeftArrayJoin | JoinOperator::InnerArrayJoin => {
            return refused("ARRAY JOIN", "CROSS JOIN UNNEST(array) AS t(element)");
        }
        other => other,
    };
    Ok(())
}

/// Refuses what other dialects have in FROM.
///
/// # Errors
/// With the word, and what to write.
pub fn table(table: &TableFactor, places: Places<'_>) -> Result<(), SqlError> {
    let (word, instead) = match table {
        TableFactor::Pivot { .. } => {
            ("PIVOT", "write an aggregate for each column: sum(v) FILTER (WHERE k = 'a') AS a, .. GROUP BY ..")
        }
        TableFactor::Unpivot { .. } => (
            "UNPIVOT",
            "write CROSS JOIN UNNEST(make_array(a, b)), or a query for each column with UNION ALL between them",
        ),
        TableFactor::JsonTable { .. } => (
            "JSON_TABLE",
            "take values out of JSON with JSON_VALUE, or declare the column as ARRAY<ROW<..>> and UNNEST it",
        ),
        TableFactor::OpenJsonTable { .. } => (
            "OPENJSON",
            "take values out of JSON with JSON_VALUE, or declare the column as ARRAY<ROW<..>> and UNNEST it",
        ),
        TableFactor::XmlTable { .. } => ("XMLTABLE", "there is nothing for XML: turn it into JSON before"),
        TableFactor::SemanticView { .. } => ("SEMANTIC_VIEW", "write the query of the view"),
        _ => return Ok(()),
    };
    Err(places.refuse(&[word], table.span(), instead))
}

/// The first call of its kind among the expressions of a query.
fn first_call(expr: &Expr, is: impl Fn(&Function) -> bool) -> Option<Function> {
    let mut found = None;
    change_outermost(&mut expr.clone(), |part| match part {
        Expr::Function(call) if found.is_none() && is(call) => found = Some(call.clone()),
        _ => {}
    });
    found
}

fn asks_a_query(expr: &Expr) -> bool {
    let found = visit_expressions(expr, |part| match part {
        Expr::Subquery(_) | Expr::InSubquery { .. } | Expr::Exists { .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}
