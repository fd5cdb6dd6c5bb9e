//! The column of a subquery that stands for a value gets a name of its own: `sum(v) / (SELECT sum(v) FROM t)` has two columns
//! of one name otherwise, once the subquery has become a join.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Ident, Select, SelectItem, SetExpr, VisitMut, VisitorMut};

/// The name; each subquery is a table of its own.
const VALUE: &str = "$value";

/// Names the columns of the subqueries in the conditions and the expressions of a query. One that is a column of the
/// query by itself keeps its name, which is that column's.
pub fn named(select: &mut Select) {
    let conditions = select.selection.iter_mut().chain(&mut select.having);
    let items = select.projection.iter_mut().filter_map(|item| match item {
        SelectItem::UnnamedExpr(Expr::Subquery(_)) => None,
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
        _ => None,
    });
    for expr in conditions.chain(items) {
        let _ = VisitMut::visit(expr, &mut Values);
    }
}

struct Values;

impl VisitorMut for Values {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Subquery(query) = expr
            && let SetExpr::Select(select) = query.body.as_mut()
            && query.order_by.is_none()
            && let [item @ SelectItem::UnnamedExpr(Expr::Function(_))] = select.projection.as_mut_slice()
            && let SelectItem::UnnamedExpr(value) = item
        {
            let expr = value.clone();
            *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', VALUE) };
        }
        ControlFlow::Continue(())
    }
}
