//! The expressions of one query, without those of the queries within it.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, Query, SetExpr, TableFactor, VisitMut, VisitorMut};

use super::membership::ROWS;

/// Calls `change` with each expression of a query, parts before the whole. What the parser itself has put into a query
/// of its own (`a IN (SELECT ..)` as `EXISTS (SELECT 1 FROM (SELECT ..) AS "$in" WHERE .. = a)`) still is of the query that it
/// was written in.
pub fn change_outermost(node: &mut impl VisitMut, change: impl FnMut(&mut Expr)) {
    let _ = VisitMut::visit(node, &mut Outermost { within: vec![], change });
}

struct Outermost<F> {
    /// For each query and lambda around, whether its expressions are others.
    within: Vec<bool>,
    change: F,
}

impl<F: FnMut(&mut Expr)> VisitorMut for Outermost<F> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.within.push(!is_of_the_parser(query));
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.within.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if matches!(expr, Expr::Lambda(_)) {
            self.within.push(true);
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if matches!(expr, Expr::Lambda(_)) {
            self.within.pop();
        }
        if !self.within.contains(&true) {
            (self.change)(expr);
        }
        ControlFlow::Continue(())
    }
}

fn is_of_the_parser(query: &Query) -> bool {
    let SetExpr::Select(select) = query.body.as_ref() else { return false };
    let [from] = select.from.as_slice() else { return false };
    matches!(&from.relation, TableFactor::Derived { alias: Some(alias), .. } if alias.name.value == ROWS)
}
