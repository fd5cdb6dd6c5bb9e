//! INTERSECT ALL and EXCEPT ALL, as a call in FROM: DataFusion would plan them as joins, which do not count.
//!
//! `a EXCEPT ALL b` becomes `SELECT * FROM "$except_all"((a), (b))`, whose tables are planned by `sql/set_functions.rs`.

use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, Query, SetExpr, SetOperator, SetQuantifier, Statement, TableFactor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

/// What the calls are named.
pub const INTERSECT_ALL: &str = "$intersect_all";
/// What the calls are named.
pub const EXCEPT_ALL: &str = "$except_all";

/// Puts the set operations of one query, not of those within it, into calls.
pub fn counted(query: &mut Query) {
    body(&mut query.body);
}

fn body(expr: &mut SetExpr) {
    let SetExpr::SetOperation { op, set_quantifier, left, right } = expr else { return };
    body(left);
    body(right);
    let name = match (op, set_quantifier) {
        (SetOperator::Intersect, SetQuantifier::All) => INTERSECT_ALL,
        (SetOperator::Except | SetOperator::Minus, SetQuantifier::All) => EXCEPT_ALL,
        _ => return,
    };
    if let Some(call) = call(name, left, right) {
        *expr = call;
    }
}

/// The call, written down and parsed, so that it is what the parser makes of such a text.
fn call(name: &str, left: &SetExpr, right: &SetExpr) -> Option<SetExpr> {
    let text = format!("SELECT * FROM \"{name}\"((SELECT 1), (SELECT 1))");
    let Some(Statement::Query(mut query)) = Parser::parse_sql(&GenericDialect {}, &text).ok()?.pop() else {
        return None;
    };
    let SetExpr::Select(select) = query.body.as_mut() else { return None };
    let TableFactor::Table { args: Some(args), .. } = &mut select.from.first_mut()?.relation else { return None };
    for (arg, side) in args.args.iter_mut().zip([left, right]) {
        let FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Subquery(query))) = arg else { return None };
        *query.body = side.clone();
    }
    Some(*query.body)
}
