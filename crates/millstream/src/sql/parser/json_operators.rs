//! How tightly `->` and `->>` bind.
//!
//! sqlparser's generic dialect lets them bind more loosely than `=`; in PostgreSQL, and in what people write, they
//! bind more tightly than any comparison: `j ->> 'a' = 'b'` compares. The tree is turned until it says that.

use std::mem;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Value};

/// Whether this is an operator of JSON.
pub fn is_json_operator(op: &BinaryOperator) -> bool {
    matches!(op, BinaryOperator::Arrow | BinaryOperator::LongArrow)
}

/// `left op right`, where the operands hold what binds more loosely.
pub fn bind(mut left: Box<Expr>, op: BinaryOperator, mut right: Box<Expr>) -> Expr {
    if let Some(operand) = last_operand(&mut left) {
        let inner = mem::replace(operand, nothing());
        *operand = bind(Box::new(inner), op, right);
        return *left;
    }
    if let Some(operand) = first_operand(&mut right) {
        let inner = mem::replace(operand, nothing());
        *operand = bind(left, op, Box::new(inner));
        return *right;
    }
    Expr::BinaryOp { left, op, right }
}

/// A value that stands where an expression was taken out, until it is put back.
pub fn nothing() -> Expr {
    Expr::value(Value::Null)
}

fn is_looser(op: &BinaryOperator) -> bool {
    use BinaryOperator::{And, Eq, Gt, GtEq, Lt, LtEq, NotEq, Or, Spaceship, StringConcat, Xor};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | Spaceship | And | Or | Xor | StringConcat)
}

/// The operand at the end of an expression that binds more loosely.
fn last_operand(expr: &mut Expr) -> Option<&mut Expr> {
    match expr {
        Expr::BinaryOp { op, right, .. } if is_looser(op) => Some(right),
        Expr::Between { high, .. } => Some(high),
        Expr::Like { pattern, escape_char: None, .. } | Expr::ILike { pattern, escape_char: None, .. } => Some(pattern),
        Expr::RLike { pattern, .. } => Some(pattern),
        Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right) => Some(right),
        _ => None,
    }
}

/// The operand at the beginning of an expression that binds more loosely.
fn first_operand(expr: &mut Expr) -> Option<&mut Expr> {
    match expr {
        Expr::BinaryOp { op, left, .. } if is_looser(op) => Some(left),
        Expr::Between { expr, .. }
        | Expr::InList { expr, .. }
        | Expr::InSubquery { expr, .. }
        | Expr::Like { expr, .. }
        | Expr::ILike { expr, .. }
        | Expr::RLike { expr, .. } => Some(expr),
        Expr::IsNull(expr)
        | Expr::IsNotNull(expr)
        | Expr::IsTrue(expr)
        | Expr::IsNotTrue(expr)
        | Expr::IsFalse(expr)
        | Expr::IsNotFalse(expr) => Some(expr),
        Expr::IsDistinctFrom(left, _) | Expr::IsNotDistinctFrom(left, _) => Some(left),
        _ => None,
    }
}
