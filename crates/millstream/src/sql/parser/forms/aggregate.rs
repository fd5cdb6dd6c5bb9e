//! The forms of aggregate functions: another name, an order of their rows, a FILTER.

use std::mem;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, DuplicateTreatment, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause,
    FunctionArgumentList, FunctionArguments, OrderByExpr, OrderByOptions,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use super::syntax::{list, rename, text};

/// Puts the call of an aggregate into DataFusion's form, in its place; whether it was one of these.
pub fn form(function: &mut Function, name: &str, span: Span, args: &[Expr]) -> bool {
    match (name, args) {
        ("listagg", [value, separator @ ..]) if separator.len() < 2 => {
            let separator = separator.first().cloned().unwrap_or_else(|| text(","));
            let order = mem::take(&mut function.within_group);
            set(function, "string_agg", span, vec![value.clone(), separator], order);
        }
        ("collect_list", [value]) => {
            set(function, "array_agg", span, args.to_vec(), vec![]);
            only_where(function, Expr::IsNotNull(Box::new(value.clone())));
        }
        ("collect_set", [value]) => {
            set(function, "array_agg", span, args.to_vec(), vec![order_by(value, true)]);
            only_where(function, Expr::IsNotNull(Box::new(value.clone())));
            if let FunctionArguments::List(list) = &mut function.args {
                list.duplicate_treatment = Some(DuplicateTreatment::Distinct);
            }
        }
        ("count_if" | "countif", [condition]) => {
            set(function, "count", span, vec![], vec![]);
            function.args = FunctionArguments::List(FunctionArgumentList {
                duplicate_treatment: None,
                args: vec![FunctionArg::Unnamed(FunctionArgExpr::Wildcard)],
                clauses: vec![],
            });
            only_where(function, condition.clone());
        }
        ("max_by" | "min_by", [value, by]) => {
            let order = vec![order_by(by, name == "min_by")];
            set(function, "first_value", span, vec![value.clone()], order);
            only_where(function, Expr::IsNotNull(Box::new(by.clone())));
        }
        ("percentile" | "percentile_approx" | "approx_percentile", [value, share]) => {
            let known = if name == "percentile" { "percentile_cont" } else { "approx_percentile_cont" };
            let order = order_by(value, true);
            set(function, known, span, vec![share.clone()], vec![]);
            function.within_group = vec![order];
        }
        _ => return false,
    }
    true
}

fn set(function: &mut Function, name: &str, span: Span, args: Vec<Expr>, order: Vec<OrderByExpr>) {
    rename(function, name, span);
    let clauses = match &mut function.args {
        FunctionArguments::List(list) => mem::take(&mut list.clauses),
        _ => vec![],
    };
    let treatment = match &function.args {
        FunctionArguments::List(list) => list.duplicate_treatment,
        _ => None,
    };
    function.args = list(args);
    if let FunctionArguments::List(list) = &mut function.args {
        list.duplicate_treatment = treatment;
        list.clauses = clauses;
        if !order.is_empty() {
            list.clauses.push(FunctionArgumentClause::OrderBy(order));
        }
    }
}

fn order_by(expr: &Expr, ascending: bool) -> OrderByExpr {
    let options = OrderByOptions { asc: Some(ascending), nulls_first: None };
    OrderByExpr { expr: expr.clone(), options, with_fill: None }
}

/// Adds a condition to a call's FILTER.
fn only_where(function: &mut Function, condition: Expr) {
    let nested = |expr| Box::new(Expr::Nested(Box::new(expr)));
    function.filter = Some(match function.filter.take() {
        Some(filter) => {
            let (left, right) = (nested(*filter), nested(condition));
            Box::new(Expr::BinaryOp { left, op: BinaryOperator::And, right })
        }
        None => Box::new(condition),
    });
}
