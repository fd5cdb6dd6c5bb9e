//! `a IS [NOT] DISTINCT FROM b AND c`: the parser takes `b AND c` for the right side, here it is `b`.
//!
//! What is not in parentheses is a sequence of operands and of AND, XOR and OR between them, however it was grouped;
//! it is grouped anew, AND first.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, UnaryOperator};

use super::json_operators::nothing;

/// The operators that bind more loosely than IS, the loosest first.
const LOOSER: [BinaryOperator; 3] = [BinaryOperator::Or, BinaryOperator::Xor, BinaryOperator::And];

/// The same conditions in their right groups, where the parser has taken too much.
pub fn regrouped(expr: &mut Expr) {
    if takes_too_much(expr) {
        let (mut operands, mut operators) = (vec![], vec![]);
        flatten(std::mem::replace(expr, nothing()), &mut operands, &mut operators);
        *expr = grouped(operands, &operators);
    }
}

fn takes_too_much(expr: &Expr) -> bool {
    match expr {
        Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right) => {
            matches!(right.as_ref(), Expr::BinaryOp { op, .. } if LOOSER.contains(op)) || takes_too_much(right)
        }
        Expr::BinaryOp { left, op, right } if LOOSER.contains(op) => takes_too_much(left) || takes_too_much(right),
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => takes_too_much(expr),
        _ => false,
    }
}

fn flatten(expr: Expr, operands: &mut Vec<Expr>, operators: &mut Vec<BinaryOperator>) {
    let first = operands.len();
    let mut wrap_first = |inner: Expr, wrap: &dyn Fn(Box<Expr>) -> Expr| {
        flatten(inner, operands, operators);
        if let Some(operand) = operands.get_mut(first) {
            let inner = Box::new(std::mem::replace(operand, nothing()));
            *operand = wrap(inner);
        }
    };
    match expr {
        Expr::BinaryOp { left, op, right } if LOOSER.contains(&op) => {
            flatten(*left, operands, operators);
            operators.push(op);
            flatten(*right, operands, operators);
        }
        Expr::IsDistinctFrom(left, right) => {
            wrap_first(*right, &|inner| Expr::IsDistinctFrom(left.clone(), inner));
        }
        Expr::IsNotDistinctFrom(left, right) => {
            wrap_first(*right, &|inner| Expr::IsNotDistinctFrom(left.clone(), inner));
        }
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => {
            wrap_first(*expr, &|expr| Expr::UnaryOp { op: UnaryOperator::Not, expr });
        }
        other => operands.push(other),
    }
}

/// The operands with the operators between them: there is one operator less.
fn grouped(mut operands: Vec<Expr>, operators: &[BinaryOperator]) -> Expr {
    for loosest in &LOOSER {
        if let Some(at) = operators.iter().rposition(|op| op == loosest) {
            let right = operands.split_off(at + 1);
            let (before, after) = operators.split_at(at);
            return Expr::BinaryOp {
                left: Box::new(grouped(operands, before)),
                op: loosest.clone(),
                right: Box::new(grouped(right, after.get(1..).unwrap_or_default())),
            };
        }
    }
    operands.pop().unwrap_or_else(nothing)
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    fn parsed(sql: &str) -> Expr {
        Parser::new(&GenericDialect {}).try_with_sql(sql).unwrap().parse_expr().unwrap()
    }

    /// Every operand in parentheses that the parser can't take for others.
    fn shown(expr: &Expr) -> String {
        match expr {
            Expr::BinaryOp { left, op, right } => format!("({} {op} {})", shown(left), shown(right)),
            Expr::IsDistinctFrom(left, right) => format!("[{} <> {}]", shown(left), shown(right)),
            Expr::IsNotDistinctFrom(left, right) => format!("[{} = {}]", shown(left), shown(right)),
            Expr::UnaryOp { op, expr } => format!("{op} {}", shown(expr)),
            other => other.to_string(),
        }
    }

    #[test]
    fn is_distinct_from_binds_tighter_than_and_and_or() {
        let cases = [
            ("a IS DISTINCT FROM b AND c", "([a <> b] AND c)"),
            ("a IS NOT DISTINCT FROM b OR c AND d", "([a = b] OR (c AND d))"),
            ("z AND a IS DISTINCT FROM b OR c", "((z AND [a <> b]) OR c)"),
            ("a IS DISTINCT FROM b AND c IS NOT DISTINCT FROM d OR e", "(([a <> b] AND [c = d]) OR e)"),
            ("NOT a IS DISTINCT FROM b AND c", "(NOT [a <> b] AND c)"),
            ("a IS DISTINCT FROM (b AND c)", "[a <> (b AND c)]"),
            ("a IS DISTINCT FROM b + 1 AND c", "([a <> (b + 1)] AND c)"),
        ];
        for (sql, expected) in cases {
            let mut expr = parsed(sql);
            regrouped(&mut expr);
            assert_eq!(shown(&expr), expected, "{sql}");
        }
    }
}
