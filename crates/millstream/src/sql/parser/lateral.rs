//! `LATERAL (SELECT unnest(tags) ..)`: the elements become a table of the subquery, where they can be told from the row.
//!
//! `LATERAL (SELECT upper(unnest(tags)) AS t)` becomes `LATERAL (SELECT upper("$element") AS t FROM UNNEST(tags) AS
//! "$unnest"("$element"))`, which `sql/unnest.rs` plans.

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, Select, SetExpr, Statement, TableFactor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::outermost::change_outermost;

/// Rewrites the LATERAL subqueries in FROM of one query.
pub fn unnests(select: &mut Select) {
    for from in &mut select.from {
        let joined = from.joins.iter_mut().map(|join| &mut join.relation);
        for relation in std::iter::once(&mut from.relation).chain(joined) {
            if let TableFactor::Derived { lateral: true, subquery, .. } = relation
                && let SetExpr::Select(select) = subquery.body.as_mut()
                && select.from.is_empty()
            {
                let _ = elements(select);
            }
        }
    }
}

/// Puts what a SELECT without FROM unnests into its FROM, where it is one array.
fn elements(select: &mut Select) -> Option<()> {
    let mut arrays = vec![];
    let mut projection = select.projection.clone();
    change_outermost(&mut projection, |expr| {
        if let Some(array) = unnested(expr) {
            arrays.push(array);
            *expr = Expr::Identifier(Ident::with_quote('"', "$element"));
        }
    });
    let [array] = arrays.as_slice() else { return None };
    let text = "SELECT 1 FROM UNNEST(1) AS \"$unnest\"(\"$element\")";
    let Statement::Query(mut query) = Parser::parse_sql(&GenericDialect {}, text).ok()?.pop()? else { return None };
    let SetExpr::Select(template) = query.body.as_mut() else { return None };
    let TableFactor::UNNEST { array_exprs, .. } = &mut template.from.first_mut()?.relation else { return None };
    *array_exprs = vec![array.clone()];
    select.from = std::mem::take(&mut template.from);
    select.projection = projection;
    Some(())
}

/// The array of `unnest(array)`.
fn unnested(expr: &Expr) -> Option<Expr> {
    if let Expr::Function(function) = expr
        && function.name.to_string().eq_ignore_ascii_case("unnest")
        && let FunctionArguments::List(list) = &function.args
        && let [FunctionArg::Unnamed(FunctionArgExpr::Expr(array))] = list.args.as_slice()
    {
        return Some(array.clone());
    }
    None
}
