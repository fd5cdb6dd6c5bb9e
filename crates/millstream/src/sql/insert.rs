//! INSERT: a query's columns, matched to the table's by position or by the list of columns, and cast.

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{Cast, Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast::{Ident, SelectItem, SetExpr, Spanned};
use datafusion::sql::sqlparser::tokenizer::Span;
use millstream_io::{TableSpec, VIRTUAL_KEY};

use super::diagnostic::{SqlError, did_you_mean};
use super::parser::{Insert, StreamQuery};

/// The plan whose columns are the table's.
///
/// # Errors
/// Where the number of columns differs, or a type can't become the other without losing its meaning.
pub fn into_table(plan: LogicalPlan, insert: &Insert, table: &TableSpec) -> Result<LogicalPlan, SqlError> {
    let targets = targets(&insert.columns, table)?;
    let given = plan.schema().columns();
    if given.len() != targets.len() {
        return Err(SqlError::new(
            insert.query.span,
            format!(
                "the query has {} columns, but {} {} written to in '{}': {}",
                given.len(),
                targets.len(),
                if targets.len() == 1 { "is" } else { "are" },
                table.name,
                targets.iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ")
            ),
        ));
    }
    let mut exprs = vec![];
    for field in table.schema.fields().iter().filter(|field| !is_virtual(field)) {
        let expr = match targets.iter().position(|t| t.name() == field.name()) {
            Some(n) => {
                let source = plan.schema().field(n);
                if !assignable(source.data_type(), field.data_type()) {
                    return Err(mismatch(&insert.query, n, source, field));
                }
                match given.get(n) {
                    Some(column) => assigned(column, source, field),
                    None => continue,
                }
            }
            None => Expr::Literal(null_of(field, table, &insert.table)?, None),
        };
        exprs.push(expr.alias(field.name()));
    }
    let plan = LogicalPlanBuilder::from(plan).project(exprs).and_then(LogicalPlanBuilder::build);
    plan.map_err(|e| SqlError::from_datafusion(&e, &[]).or_at(insert.query.span))
}

/// The query with a name of its own for each expression of its SELECTs that has none; `None` where all have one.
pub fn with_names(query: &StreamQuery) -> Option<StreamQuery> {
    let mut query = query.clone();
    name_columns(&mut query.query.body).then_some(query)
}

fn name_columns(body: &mut SetExpr) -> bool {
    match body {
        SetExpr::Select(select) => {
            let mut named = false;
            for (n, item) in select.projection.iter_mut().enumerate() {
                if let SelectItem::UnnamedExpr(expr) = item {
                    let (expr, alias) = (expr.clone(), Ident::new(format!("${}", n + 1)));
                    *item = SelectItem::ExprWithAlias { expr, alias };
                    named = true;
                }
            }
            named
        }
        SetExpr::Query(query) => name_columns(&mut query.body),
        SetExpr::SetOperation { left, right, .. } => {
            let left = name_columns(left);
            name_columns(right) || left
        }
        _ => false,
    }
}

fn targets<'a>(columns: &[Ident], table: &'a TableSpec) -> Result<Vec<&'a Field>, SqlError> {
    let all: Vec<&Field> = table.schema.fields().iter().map(AsRef::as_ref).filter(|field| !is_virtual(field)).collect();
    if columns.is_empty() {
        return Ok(all);
    }
    let mut targets: Vec<&Field> = vec![];
    for ident in columns {
        let Some(field) = all.iter().find(|f| *f.name() == ident.value) else {
            let hint = did_you_mean(&ident.value, all.iter().map(|f| f.name().as_str()));
            return Err(SqlError::new(
                ident.span,
                format!("there is no column '{}' in '{}'{hint}", ident.value, table.name),
            ));
        };
        if targets.iter().any(|t| t.name() == field.name()) {
            return Err(SqlError::new(ident.span, format!("the column '{}' is written twice", ident.value)));
        }
        targets.push(field);
    }
    Ok(targets)
}

/// Whether the column is only read: an INSERT knows nothing of it.
fn is_virtual(field: &Field) -> bool {
    field.metadata().contains_key(VIRTUAL_KEY)
}

fn assigned(column: &Column, from: &Field, to: &Field) -> Expr {
    let expr = Expr::Column(column.clone());
    match from.data_type().equals_datatype(to.data_type()) {
        true => expr,
        false => Expr::Cast(Cast::new(Box::new(expr), to.data_type().clone())),
    }
}

fn null_of(field: &Field, table: &TableSpec, at: &Ident) -> Result<ScalarValue, SqlError> {
    if !field.is_nullable() {
        let reason = format!("the column '{}' of '{}' is NOT NULL and must be written", field.name(), table.name);
        return Err(SqlError::new(at.span, reason));
    }
    ScalarValue::try_from(field.data_type()).map_err(|e| SqlError::from_datafusion(&e, &[]))
}

/// Whether a value can be stored as the other type and mean the same: any number as any other, text and
/// whole numbers as text, times as times. All else needs a CAST that says so.
fn assignable(from: &DataType, to: &DataType) -> bool {
    use DataType::{
        Binary, BinaryView, Date32, Dictionary, LargeBinary, LargeUtf8, List, Map, Null, Struct, Time64, Timestamp,
        Utf8, Utf8View,
    };
    if from.equals_datatype(to) {
        return true;
    }
    match (from, to) {
        (Null, _) => true,
        (Dictionary(_, value), _) => assignable(value, to),
        (Utf8 | LargeUtf8 | Utf8View, Utf8 | LargeUtf8 | Utf8View) => true,
        // There is one way to write a whole number.
        (number, Utf8 | LargeUtf8 | Utf8View) if number.is_integer() => true,
        (Binary | LargeBinary | BinaryView, Binary | LargeBinary | BinaryView) => true,
        (Timestamp(..) | Date32, Timestamp(..)) => true,
        (Time64(_) | DataType::Time32(_), Time64(_) | DataType::Time32(_)) => true,
        (List(a) | DataType::LargeList(a) | DataType::FixedSizeList(a, _), List(b)) => {
            assignable(a.data_type(), b.data_type())
        }
        (Struct(a), Struct(b)) => {
            a.len() == b.len()
                && a.iter().zip(b).all(|(a, b)| a.name() == b.name() && assignable(a.data_type(), b.data_type()))
        }
        (Map(a, _), Map(b, _)) => match (a.data_type(), b.data_type()) {
            (Struct(a), Struct(b)) => a.iter().zip(b).all(|(a, b)| assignable(a.data_type(), b.data_type())),
            _ => false,
        },
        _ => from.is_numeric() && to.is_numeric(),
    }
}

fn mismatch(query: &StreamQuery, n: usize, from: &Field, to: &Field) -> SqlError {
    SqlError::new(
        place_of_column(query, n).unwrap_or(query.span),
        format!(
            "column {} is {}, but '{}' is {}: write CAST(.. AS ..)",
            n + 1,
            from.data_type(),
            to.name(),
            to.data_type()
        ),
    )
}

/// Where a query's n-th column stands, if every column before it is written out.
fn place_of_column(query: &StreamQuery, n: usize) -> Option<Span> {
    let SetExpr::Select(select) = query.query.body.as_ref() else { return None };
    let written = |item: &SelectItem| matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. });
    let before = select.projection.get(..=n)?;
    if !before.iter().all(written) {
        return None;
    }
    before.last().map(Spanned::span).filter(|span| *span != Span::empty())
}
