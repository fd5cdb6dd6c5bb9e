//! JSON_OBJECT and JSON_ARRAY as calls of functions that take what the syntax says.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArgumentClause, FunctionArguments, JsonNullClause, Value,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use super::syntax::{call, text};
use crate::sql::diagnostic::SqlError;

/// Whether NULL values are left out.
fn absent_on_null(function: &Function, otherwise: bool) -> Expr {
    let FunctionArguments::List(list) = &function.args else { return text("null") };
    let clause = list.clauses.iter().find_map(|clause| match clause {
        FunctionArgumentClause::JsonNullClause(clause) => Some(*clause == JsonNullClause::AbsentOnNull),
        _ => None,
    });
    text(if clause.unwrap_or(otherwise) { "absent" } else { "null" })
}

/// Whether an expression is JSON, and not text that is to be quoted.
fn is_json(expr: &Expr) -> Expr {
    let made = |f: &Function| {
        ["json_object_of", "json_array_of", "json_query"].contains(&f.name.to_string().to_lowercase().as_str())
    };
    let arrow = |op: &BinaryOperator| *op == BinaryOperator::Arrow;
    let json = match expr {
        Expr::Function(function) => made(function),
        Expr::BinaryOp { op, .. } => arrow(op),
        Expr::Nested(inner) => matches!(inner.as_ref(), Expr::BinaryOp { op, .. } if arrow(op)),
        _ => false,
    };
    Expr::value(Value::Boolean(json))
}

pub fn object(function: &Function, span: Span, args: &[Expr]) -> Result<Expr, SqlError> {
    let mut out = vec![absent_on_null(function, false)];
    for pair in args.chunks(2) {
        let [key, value] = pair else {
            let reason = "JSON_OBJECT takes a value for each key: JSON_OBJECT('a' VALUE 1, 'b' VALUE 2)";
            return Err(SqlError::new(span, reason));
        };
        out.extend([key.clone(), is_json(value), value.clone()]);
    }
    Ok(call("json_object_of", span, out))
}

pub fn array(function: &Function, span: Span, args: &[Expr]) -> Expr {
    let mut out = vec![absent_on_null(function, true)];
    out.extend(args.iter().flat_map(|value| [is_json(value), value.clone()]));
    call("json_array_of", span, out)
}
