//! Comparisons of rows of values, `(a, b) < (x, y)` and `(a, b) IN ((1, 2), (3, 4))`, column by column.
//!
//! DataFusion compares them as structs, which are equal, or smaller, though a part of them is NULL. In SQL it is unknown
//! what a NULL compares to, unless the columns before it have decided.

use std::iter::zip;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, UnaryOperator};

use super::forms::syntax::plus;

/// The comparison of two rows of values, or of one with a list of others, where the expression is that.
pub fn compared(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::BinaryOp { left, op, right } => compare(parts(left)?, op, parts(right)?),
        Expr::InList { expr, list, negated } => {
            let row = parts(expr)?;
            let equal = list.iter().map(|other| compare(row, &BinaryOperator::Eq, parts(other)?));
            let equal = equal.collect::<Option<Vec<_>>>()?;
            let any = equal.into_iter().reduce(|left, right| plus(&left, BinaryOperator::Or, &right))?;
            Some(if *negated { not(any) } else { any })
        }
        _ => None,
    }
}

fn parts(expr: &Expr) -> Option<&[Expr]> {
    match expr {
        Expr::Tuple(parts) if !parts.is_empty() => Some(parts),
        _ => None,
    }
}

fn compare(left: &[Expr], op: &BinaryOperator, right: &[Expr]) -> Option<Expr> {
    use BinaryOperator::{And, Eq, Gt, GtEq, Lt, LtEq, NotEq, Or};
    if left.len() != right.len() {
        return None;
    }
    let equal = |(l, r): (&Expr, &Expr)| plus(l, Eq, r);
    match op {
        Eq => zip(left, right).map(equal).reduce(|left, right| plus(&left, And, &right)),
        NotEq => compare(left, &Eq, right).map(not),
        Lt | LtEq | Gt | GtEq => {
            let strictly = if matches!(op, Lt | LtEq) { Lt } else { Gt };
            let mut pairs = zip(left, right).rev();
            let (l, r) = pairs.next()?;
            // From the last column on: what stands before it decides, where it is not equal.
            let last = plus(l, op.clone(), r);
            Some(pairs.fold(last, |rest, (l, r)| {
                let tied = plus(&equal((l, r)), And, &rest);
                plus(&plus(l, strictly.clone(), r), Or, &tied)
            }))
        }
        _ => None,
    }
}

fn not(expr: Expr) -> Expr {
    Expr::Nested(Box::new(Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(expr) }))
}
