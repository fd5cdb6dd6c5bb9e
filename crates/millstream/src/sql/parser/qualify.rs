//! A WHERE that names the alias of a window function of its own SELECT, which the standard does not know: it filters
//! what the SELECT gives, as QUALIFY does.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Query, Select, SelectItem, VisitMut, VisitorMut, visit_expressions,
};

/// The query with such conditions in QUALIFY; `None` where there are none. For a query that has no other meaning: a
/// column of the input goes before an alias.
pub fn by_alias(query: &Query) -> Option<Query> {
    let mut moved = query.clone();
    let mut conditions = Conditions(false);
    let _ = VisitMut::visit(&mut moved, &mut conditions);
    conditions.0.then_some(moved)
}

struct Conditions(bool);

impl VisitorMut for Conditions {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let aliases: Vec<String> = select.projection.iter().filter_map(alias_of_window_function).collect();
        let Some(condition) = select.selection.take() else { return ControlFlow::Continue(()) };
        let (of_alias, others): (Vec<_>, Vec<_>) =
            conjuncts(condition).into_iter().partition(|expr| names_one_of(expr, &aliases));
        self.0 |= !of_alias.is_empty();
        select.selection = others.into_iter().reduce(and);
        select.qualify = select.qualify.take().into_iter().chain(of_alias).reduce(and);
        ControlFlow::Continue(())
    }
}

fn alias_of_window_function(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::ExprWithAlias { expr: Expr::Function(call), alias } if call.over.is_some() => {
            Some(alias.value.clone())
        }
        _ => None,
    }
}

fn conjuncts(expr: Expr) -> Vec<Expr> {
    match expr {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            let mut all = conjuncts(*left);
            all.extend(conjuncts(*right));
            all
        }
        other => vec![other],
    }
}

fn and(left: Expr, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op: BinaryOperator::And, right: Box::new(right) }
}

fn names_one_of(expr: &Expr, aliases: &[String]) -> bool {
    let found = visit_expressions(expr, |e| match e {
        Expr::Identifier(name) if aliases.contains(&name.value) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}
