//! The columns that USING and NATURAL merge: two columns, under one name.
//!
//! ```sql
//! SELECT k, x FROM a FULL JOIN b USING (k) WHERE k > 1
//! SELECT COALESCE(a.k, b.k) AS k, x FROM a FULL JOIN b ON a.k = b.k WHERE COALESCE(a.k, b.k) > 1
//! ```
//!
//! The second is what is planned for the first: DataFusion 55 takes the left column whatever the join, and finds the name
//! ambiguous where it is not in SELECT. A merged column is that of the side that always has a row, of FULL JOIN the first that
//! is not NULL. `SELECT *` has it once, in the place of the left one.

mod names;

use std::ops::ControlFlow;

use datafusion::common::TableReference;
use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Cte, Distinct, Expr, GroupByExpr, Ident, Join, JoinConstraint, JoinOperator, OrderByKind, Query,
    Select, SelectItem, SetExpr, Spanned, Statement, TableAlias, TableFactor, TableWithJoins, Value, VisitMut,
    VisitorMut, With,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::diagnostic::SqlError;
use super::names::Names;
use super::parser::change_outermost;
use names::{name_column, name_columns, named, output_name};

/// The same query, which names the columns that its joins merge.
///
/// # Errors
/// Where a column is on neither side, or the columns of a side can't be known and have to be.
pub fn columns(query: &Query, names: &Names<'_>) -> Result<Query, SqlError> {
    let mut query = query.clone();
    match VisitMut::visit(&mut query, &mut Merging { names, ctes: vec![] }) {
        ControlFlow::Continue(()) => Ok(query),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Merging<'a> {
    names: &'a Names<'a>,
    /// What WITH names, by the queries around.
    ctes: Vec<Vec<Cte>>,
}

impl VisitorMut for Merging<'_> {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        // Each is known to those after it, and its columns when they are.
        self.ctes.push(vec![]);
        for cte in query.with.iter_mut().flat_map(|with| &mut with.cte_tables) {
            let mut inner = Merging { names: self.names, ctes: self.ctes.clone() };
            VisitMut::visit(&mut cte.query, &mut inner)?;
            if let Some(known) = self.ctes.last_mut() {
                known.push(cte.clone());
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<SqlError> {
        let done = self.query(query);
        self.ctes.pop();
        done.map_or_else(ControlFlow::Break, ControlFlow::Continue)
    }
}

/// A column that a name without a table's before it can mean.
#[derive(Clone)]
struct Visible {
    name: String,
    value: Expr,
    merged: bool,
}

/// What stands in FROM.
#[derive(Default)]
struct Scope {
    columns: Vec<Visible>,
    /// There are columns beside these.
    open: bool,
}

impl Scope {
    fn and(mut self, other: Self) -> Self {
        self.columns.extend(other.columns);
        Self { columns: self.columns, open: self.open || other.open }
    }

    fn all(&self, name: &str) -> impl Iterator<Item = (usize, &Visible)> {
        self.columns.iter().enumerate().filter(move |(_, column)| column.name == name)
    }

    /// The one column of the name.
    fn only(&self, name: &Ident, side: &str) -> Result<usize, SqlError> {
        let mut found = self.all(&name.value).map(|(at, _)| at);
        let problem = match (found.next(), found.next()) {
            (Some(at), None) => return Ok(at),
            (Some(_), Some(_)) => "in more than one of the tables",
            _ => "in none of the tables",
        };
        let name_ = &name.value;
        Err(SqlError::new(
            name.span,
            format!("the column '{name_}' is {problem} on the {side} side of the join: write ON"),
        ))
    }

    fn merged(&self, name: &str) -> Option<&Expr> {
        let mut found = self.all(name);
        match (found.next(), found.next()) {
            (Some((_, column)), None) if column.merged => Some(&column.value),
            _ => None,
        }
    }
}

impl Merging<'_> {
    fn query(&self, query: &mut Query) -> Result<(), SqlError> {
        if let SetExpr::Select(select) = query.body.as_mut() {
            let outputs: Vec<String> = select.projection.iter().filter_map(output_name).collect();
            let Some(scope) = self.select(select)? else { return Ok(()) };
            if let Some(OrderByKind::Expressions(by)) = query.order_by.as_mut().map(|by| &mut by.kind) {
                // An alias goes before a column of the input.
                for by in
                    by.iter_mut().filter(|by| !matches!(&by.expr, Expr::Identifier(n) if outputs.contains(&n.value)))
                {
                    name_columns(&mut by.expr, &scope);
                }
            }
            return Ok(());
        }
        self.body(&mut query.body)
    }

    fn body(&self, body: &mut SetExpr) -> Result<(), SqlError> {
        match body {
            SetExpr::Select(select) => self.select(select).map(|_| ()),
            SetExpr::SetOperation { left, right, .. } => {
                self.body(left)?;
                self.body(right)
            }
            _ => Ok(()),
        }
    }

    /// What is in scope, where joins merge columns.
    fn select(&self, select: &mut Select) -> Result<Option<Scope>, SqlError> {
        if !select.from.iter().any(merges) {
            return Ok(None);
        }
        let mut from = select.from.clone();
        let mut scope = Scope::default();
        for table in &mut from {
            scope = scope.and(self.tables(table)?);
        }
        let stars = select.projection.iter().any(|item| matches!(item, SelectItem::Wildcard(_)));
        if scope.open && stars {
            let reason = "the columns of a table in FROM depend on the row beside it, so that what * stands for beside USING \
                          or NATURAL is not known: name the columns in SELECT";
            return Err(SqlError::new(select.select_token.0.span, reason));
        }
        select.from = from;
        let items = std::mem::take(&mut select.projection).into_iter();
        select.projection = items.map(|item| named(item, &scope)).collect::<Result<Vec<_>, _>>()?.concat();
        if let GroupByExpr::Expressions(by, _) = &mut select.group_by {
            by.iter_mut().for_each(|expr| name_columns(expr, &scope));
        }
        let conditions = select.selection.iter_mut().chain(&mut select.having).chain(&mut select.qualify);
        conditions.for_each(|expr| name_columns(expr, &scope));
        change_outermost(&mut select.named_window, |expr| name_column(expr, &scope));
        if let Some(Distinct::On(by)) = &mut select.distinct {
            by.iter_mut().for_each(|expr| name_columns(expr, &scope));
        }
        Ok(Some(scope))
    }

    /// The columns of tables that are joined, whose USING and NATURAL become ON.
    fn tables(&self, tables: &mut TableWithJoins) -> Result<Scope, SqlError> {
        let mut scope = self.factor(&mut tables.relation)?;
        for join in &mut tables.joins {
            let right = self.factor(&mut join.relation)?;
            scope = joined(scope, join, right)?;
        }
        Ok(scope)
    }

    fn factor(&self, factor: &mut TableFactor) -> Result<Scope, SqlError> {
        if let TableFactor::NestedJoin { table_with_joins, alias } = factor
            && merges(table_with_joins)
        {
            return match alias {
                None => self.tables(table_with_joins),
                Some(alias) => {
                    let reason = "a join in parentheses has no name of its own where it merges columns: write it as a query, \
                                  (SELECT * FROM a JOIN b USING (k)) AS j";
                    Err(SqlError::new(alias.name.span, reason))
                }
            };
        }
        if let Some((table, columns)) = named_columns(factor) {
            let table = TableReference::bare(table);
            let columns = columns.into_iter().map(|name| visible(Some(&table), &name)).collect();
            return Ok(Scope { columns, open: false });
        }
        let Some(query) = self.all_of(factor) else { return Ok(Scope { columns: vec![], open: true }) };
        // What fails here depends on the row beside it, or fails once more with its place where it is planned.
        let Ok(plan) = self.names.plan(query) else { return Ok(Scope { columns: vec![], open: true }) };
        let columns = plan.schema().iter().map(|(table, field)| visible(table, field.name())).collect();
        Ok(Scope { columns, open: false })
    }

    /// `SELECT * FROM factor`, with what WITH names around it.
    fn all_of(&self, factor: &TableFactor) -> Option<Query> {
        let Statement::Query(mut query) = Parser::parse_sql(&GenericDialect {}, "SELECT * FROM t").ok()?.pop()? else {
            return None;
        };
        let SetExpr::Select(select) = query.body.as_mut() else { return None };
        select.from.first_mut()?.relation = factor.clone();
        let mut cte_tables: Vec<Cte> = vec![];
        // The innermost of a name is meant.
        for level in self.ctes.iter().rev() {
            let hidden: Vec<_> = cte_tables.iter().map(|cte| cte.alias.name.value.clone()).collect();
            let seen = level.iter().filter(|cte| !hidden.contains(&cte.alias.name.value)).cloned();
            cte_tables = seen.chain(cte_tables).collect();
        }
        let with_token = AttachedToken::empty();
        query.with = (!cte_tables.is_empty()).then_some(With { with_token, recursive: false, cte_tables });
        Some(*query)
    }
}

fn merges(tables: &TableWithJoins) -> bool {
    let nested = |factor: &TableFactor| match factor {
        TableFactor::NestedJoin { table_with_joins, .. } => merges(table_with_joins),
        _ => false,
    };
    let constraint = |join: &Join| {
        constraint(&join.join_operator).is_some_and(|c| matches!(c, JoinConstraint::Using(_) | JoinConstraint::Natural))
    };
    nested(&tables.relation) || tables.joins.iter().any(|join| constraint(join) || nested(&join.relation))
}

/// Which side's rows are there whatever the other has.
enum Side {
    Left,
    Right,
    Neither,
}

fn constraint(operator: &JoinOperator) -> Option<&JoinConstraint> {
    use JoinOperator as Op;
    match operator {
        Op::Join(on) | Op::Inner(on) | Op::Left(on) | Op::LeftOuter(on) | Op::Right(on) | Op::RightOuter(on) => {
            Some(on)
        }
        Op::FullOuter(on) | Op::Semi(on) | Op::LeftSemi(on) | Op::RightSemi(on) => Some(on),
        Op::Anti(on) | Op::LeftAnti(on) | Op::RightAnti(on) => Some(on),
        _ => None,
    }
}

fn joined(left: Scope, join: &mut Join, right: Scope) -> Result<Scope, SqlError> {
    use JoinOperator as Op;
    let place = join.relation.span();
    let (on, side) = match &mut join.join_operator {
        Op::Join(on) | Op::Inner(on) | Op::Left(on) | Op::LeftOuter(on) => (on, Side::Left),
        Op::LeftSemi(on) | Op::LeftAnti(on) => (on, Side::Left),
        Op::Right(on) | Op::RightOuter(on) | Op::RightSemi(on) | Op::RightAnti(on) => (on, Side::Right),
        Op::FullOuter(on) => (on, Side::Neither),
        _ => return Ok(left.and(right)),
    };
    let names: Vec<Ident> = match on {
        JoinConstraint::Using(_) | JoinConstraint::Natural if left.open || right.open => {
            let reason =
                "the columns of a table that USING or NATURAL joins depend on the row beside it: write ON a.k = b.k";
            return Err(SqlError::new(place, reason));
        }
        JoinConstraint::Using(names) => names.iter().filter_map(|n| n.0.last()?.as_ident().cloned()).collect(),
        JoinConstraint::Natural => {
            let shared = left.columns.iter().filter(|column| right.all(&column.name).next().is_some());
            shared.map(|column| Ident::with_span(place, &column.name)).collect()
        }
        _ => vec![],
    };
    let natural = matches!(on, JoinConstraint::Natural);
    let (mut left, mut right) = (left, right);
    let mut equal = vec![];
    for name in &names {
        let (l, r) = (left.only(name, "left")?, right.only(name, "right")?);
        let r = right.columns.remove(r).value;
        let Some(column) = left.columns.get_mut(l) else { continue };
        let l = column.value.clone();
        column.value = match side {
            Side::Left => l.clone(),
            Side::Right => r.clone(),
            Side::Neither => coalesce(l.clone(), r.clone()),
        };
        column.merged = true;
        equal.push(Expr::BinaryOp { left: Box::new(l), op: BinaryOperator::Eq, right: Box::new(r) });
    }
    let both = |left, right| Expr::BinaryOp { left: Box::new(left), op: BinaryOperator::And, right: Box::new(right) };
    match equal.into_iter().reduce(both) {
        Some(equal) => *on = JoinConstraint::On(equal),
        None if natural => *on = JoinConstraint::On(Expr::value(Value::Boolean(true))),
        None => {}
    }
    let only = |columns: Vec<Visible>, open| Scope { columns, open };
    Ok(match &join.join_operator {
        Op::LeftSemi(_) | Op::LeftAnti(_) => left,
        Op::RightSemi(_) | Op::RightAnti(_) => {
            let merged = left.columns.into_iter().filter(|c| names.iter().any(|n| n.value == c.name));
            only(merged.chain(right.columns).collect(), right.open)
        }
        _ => left.and(right),
    })
}

/// The column of a table, or of none.
fn visible(table: Option<&TableReference>, name: &str) -> Visible {
    let column = Ident::with_quote('"', name);
    let parts: Vec<Ident> =
        table.map(TableReference::to_vec).unwrap_or_default().iter().map(|p| Ident::with_quote('"', p)).collect();
    let value = match parts.is_empty() {
        true => Expr::Identifier(column),
        false => Expr::CompoundIdentifier(parts.into_iter().chain([column]).collect()),
    };
    Visible { name: name.to_string(), value, merged: false }
}

/// The columns of `factor AS t(a, b)`.
fn named_columns(factor: &TableFactor) -> Option<(&str, Vec<String>)> {
    let (TableFactor::Table { alias, .. }
    | TableFactor::Derived { alias, .. }
    | TableFactor::Function { alias, .. }
    | TableFactor::UNNEST { alias, .. }) = factor
    else {
        return None;
    };
    let TableAlias { name, columns, .. } = alias.as_ref()?;
    let columns: Vec<_> = columns.iter().map(|column| column.name.value.clone()).collect();
    (!columns.is_empty()).then_some((name.value.as_str(), columns))
}

fn coalesce(left: Expr, right: Expr) -> Expr {
    let parsed = Parser::new(&GenericDialect {})
        .try_with_sql("COALESCE(\"$left\", \"$right\")")
        .and_then(|mut p| p.parse_expr());
    let Ok(mut call) = parsed else { return left };
    change_outermost(&mut call, |expr| match expr {
        Expr::Identifier(name) if name.value == "$left" => *expr = left.clone(),
        Expr::Identifier(name) if name.value == "$right" => *expr = right.clone(),
        _ => {}
    });
    call
}
