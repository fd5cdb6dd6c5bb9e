//! `(a, b) IN (SELECT ..)`, and IN and EXISTS in the SELECT list, as what DataFusion plans.
//!
//! ```sql
//! WHERE (a, b) IN (SELECT x, y FROM s)       -- EXISTS (SELECT 1 FROM (..) WHERE x = a AND y = b)
//! WHERE (a, b) NOT IN (SELECT x, y FROM s)   -- NOT EXISTS (SELECT 1 FROM (..) WHERE (x = a AND y = b) IS NOT FALSE)
//! WHERE c OR a NOT IN (SELECT x FROM s)      -- the same, of one column
//! SELECT a IN (SELECT x FROM s)              -- CASE over counts: of the rows that are equal, of those that may be
//! SELECT EXISTS (SELECT 1 FROM s WHERE ..)   -- (SELECT count(*) FROM s WHERE ..) > 0
//! ```
//!
//! What is unknown is not true. A list of columns is therefore only rewritten where nothing but TRUE counts: in WHERE and
//! HAVING, below AND and OR. Elsewhere it is left for DataFusion to refuse.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, GroupByExpr, Ident, Query, Select, SelectItem, SetExpr, Statement, TableAliasColumnDef,
    TableFactor, UnaryOperator, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::outermost::change_outermost;

/// The rows of the subquery.
pub const ROWS: &str = "$in";

/// Rewrites the conditions and the SELECT list of one query, not of those within it.
pub fn select(select: &mut Select) {
    for condition in select.selection.iter_mut().chain(&mut select.having) {
        conditions(condition, true);
    }
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
            values(expr);
        }
    }
}

/// Conditions of which only TRUE counts. One that stands alone, or below AND, is a join to DataFusion; one below OR is a
/// column of it that knows of no NULL, which only NOT IN has to.
fn conditions(expr: &mut Expr, alone: bool) {
    let rewritten = |rows: &Expr, subquery: &Query, negated: bool| match rows {
        Expr::Tuple(values) => of_rows(values, subquery, negated),
        value if negated && !alone => of_rows(std::slice::from_ref(value), subquery, negated),
        _ => None,
    };
    match expr {
        Expr::BinaryOp { left, op: op @ (BinaryOperator::And | BinaryOperator::Or), right } => {
            let alone = alone && *op == BinaryOperator::And;
            conditions(left, alone);
            conditions(right, alone);
        }
        Expr::Nested(inner) => conditions(inner, alone),
        Expr::Exists { .. } => {}
        Expr::InSubquery { expr: rows, subquery, negated } => {
            if let Some(exists) = rewritten(rows, subquery, *negated) {
                *expr = exists;
            }
        }
        Expr::UnaryOp { op: UnaryOperator::Not, expr: inner } => match without_parentheses(inner) {
            Expr::Exists { .. } => {}
            Expr::InSubquery { expr: rows, subquery, negated } => {
                if let Some(exists) = rewritten(rows, subquery, !negated) {
                    *expr = exists;
                }
            }
            _ => values(expr),
        },
        _ => values(expr),
    }
}

/// Rewrites IN and EXISTS within an expression that wants their values.
fn values(expr: &mut Expr) {
    change_outermost(expr, |expr| {
        let value = match expr {
            Expr::InSubquery { expr: value, subquery, negated } if !matches!(**value, Expr::Tuple(_)) => {
                is_in(value, subquery).map(|is| (is, *negated))
            }
            Expr::Exists { subquery, negated } => exists(subquery).map(|is| (is, *negated)),
            _ => None,
        };
        if let Some((is, negated)) = value {
            *expr = match negated {
                true => Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(nested(is)) },
                false => nested(is),
            };
        }
    });
}

fn without_parentheses(mut expr: &Expr) -> &Expr {
    while let Expr::Nested(inner) = expr {
        expr = inner;
    }
    expr
}

/// Whether a row of values is, or is surely not, among the rows of a query.
fn of_rows(values: &[Expr], subquery: &Query, negated: bool) -> Option<Expr> {
    let equal = values.iter().enumerate().map(|(n, value)| {
        let (left, right) = (Box::new(column(n)), Box::new(nested(value.clone())));
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right }
    });
    let both = |left, right| Expr::BinaryOp { left: Box::new(left), op: BinaryOperator::And, right: Box::new(right) };
    let equal = equal.reduce(both)?;
    let mut query = parsed(&format!("SELECT 1 FROM (SELECT 1) AS \"{ROWS}\" WHERE TRUE"))?;
    let select = as_select(&mut query)?;
    let TableFactor::Derived { subquery: rows, alias, .. } = &mut select.from.first_mut()?.relation else {
        return None;
    };
    **rows = subquery.clone();
    let named = |n| TableAliasColumnDef { name: name(n), data_type: None };
    alias.as_mut()?.columns = (0..values.len()).map(named).collect();
    let may_be = || Expr::IsNotFalse(Box::new(nested(equal.clone())));
    select.selection = Some(if negated { may_be() } else { equal.clone() });
    Some(Expr::Exists { subquery: Box::new(query), negated })
}

/// Whether a value is among those of a query, or may be, where NULLs are.
fn is_in(value: &Expr, subquery: &Query) -> Option<Expr> {
    let rows = format!("(SELECT 1) AS \"{ROWS}\"(\"$0\")");
    let count = |condition: &str| format!("(SELECT count(*) FROM {rows} WHERE {condition})");
    let text = format!(
        "CASE WHEN {equal} > 0 THEN TRUE WHEN \"$value\" IS NULL AND {any} > 0 THEN NULL WHEN {null} > 0 THEN NULL ELSE FALSE END",
        equal = count(&format!("\"{ROWS}\".\"$0\" = \"$value\"")),
        any = format_args!("(SELECT count(*) FROM {rows})"),
        null = count(&format!("\"{ROWS}\".\"$0\" IS NULL")),
    );
    let mut case = expression(&text)?;
    let _ = VisitMut::visit(&mut case, &mut Fill { value, subquery });
    Some(case)
}

/// Puts a value and a query into the places that were left for them.
struct Fill<'a> {
    value: &'a Expr,
    subquery: &'a Query,
}

impl VisitorMut for Fill<'_> {
    type Break = ();

    fn post_visit_table_factor(&mut self, table: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::Derived { subquery, .. } = table {
            **subquery = self.subquery.clone();
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if matches!(expr, Expr::Identifier(name) if name.value == "$value") {
            *expr = nested(self.value.clone());
        }
        ControlFlow::Continue(())
    }
}

/// Whether a query has a row: how many it has, where what it selects can be left out.
fn exists(subquery: &Query) -> Option<Expr> {
    let mut counted = subquery.clone();
    if counted.limit_clause.is_some() || counted.fetch.is_some() {
        return None;
    }
    counted.order_by = None;
    let select = as_select(&mut counted)?;
    let groups = !matches!(&select.group_by, GroupByExpr::Expressions(by, with) if by.is_empty() && with.is_empty());
    let calls = select.projection.iter().any(|item| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => !is_plain(expr),
        _ => false,
    });
    if groups || calls || select.distinct.is_some() || select.having.is_some() || select.qualify.is_some() {
        return None;
    }
    let mut with_count = parsed("SELECT count(*)")?;
    select.projection = std::mem::take(&mut as_select(&mut with_count)?.projection);
    let mut more = expression("(SELECT 1) > 0")?;
    let Expr::BinaryOp { left, .. } = &mut more else { return None };
    let Expr::Subquery(query) = left.as_mut() else { return None };
    **query = counted;
    Some(more)
}

/// A column or a constant: no aggregate, which would make one row of none.
fn is_plain(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(_) | Expr::Identifier(_) | Expr::CompoundIdentifier(_))
}

fn name(n: usize) -> Ident {
    Ident::with_quote('"', format!("${n}"))
}

fn column(n: usize) -> Expr {
    Expr::CompoundIdentifier(vec![Ident::with_quote('"', ROWS), name(n)])
}

fn nested(expr: Expr) -> Expr {
    Expr::Nested(Box::new(expr))
}

fn as_select(query: &mut Query) -> Option<&mut Select> {
    match query.body.as_mut() {
        SetExpr::Select(select) => Some(select),
        _ => None,
    }
}

/// What is written down and parsed is what the parser makes of such a text.
fn parsed(text: &str) -> Option<Query> {
    match Parser::parse_sql(&GenericDialect {}, text).ok()?.pop()? {
        Statement::Query(query) => Some(*query),
        _ => None,
    }
}

fn expression(text: &str) -> Option<Expr> {
    Parser::new(&GenericDialect {}).try_with_sql(text).ok()?.parse_expr().ok()
}
