//! TUMBLE, HOP, CUMULATE, SESSION and DEDUP in FROM.
//!
//! Flink's form `TABLE(TUMBLE(TABLE t, DESCRIPTOR(c), INTERVAL '10' SECOND))`, with arguments by position or by
//! name, and the short form `TUMBLE(t, c, INTERVAL '10' SECOND)`. The first argument is a table, a view, a name
//! from WITH, or a query in parentheses. The time column must be an event time.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::{Column, DFSchema, ExprSchema, Result, ScalarValue};
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan};
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, ObjectNamePart, Spanned,
    TableAlias, TableFactor, Value,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use super::diagnostic::{SqlError, did_you_mean};
use crate::window::{
    Dedup, Length, SessionTable, WindowKind, WindowSpec, WindowTable, is_event_time, is_processing_time, micros_from,
    micros_to,
};

/// Plans window functions in FROM.
#[derive(Debug)]
pub struct WindowFunctions;

impl RelationPlanner for WindowFunctions {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let Some((name, args, alias)) = call(&relation) else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        if name.value.eq_ignore_ascii_case("session") {
            let plan = session(&name, args, context)?;
            return Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.cloned()))));
        }
        let Some(function) = WindowFunction::named(&name) else {
            if name.value.eq_ignore_ascii_case("dedup") {
                let (plan, alias) = (dedup(&name, args, context)?, alias.cloned());
                return Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))));
            }
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let args = Arguments::assign(function, &name, args)?;
        let alias = alias.cloned();
        let input = context.plan(table_factor(args.table)?)?;
        let plan = window_table(function, &args, input, context)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

type Call<'a> = (Ident, &'a [FunctionArg], Option<&'a TableAlias>);

/// The function that this FROM calls, in either form.
fn call(relation: &TableFactor) -> Option<Call<'_>> {
    let ident = |name: &ObjectName| match name.0.as_slice() {
        [part] => part.as_ident().cloned(),
        _ => None,
    };
    match relation {
        TableFactor::Table { name, args: Some(args), alias, .. } => Some((ident(name)?, &args.args, alias.as_ref())),
        TableFactor::TableFunction { expr: SqlExpr::Function(function), alias } => match &function.args {
            FunctionArguments::List(list) => Some((ident(&function.name)?, &list.args, alias.as_ref())),
            _ => None,
        },
        _ => None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WindowFunction {
    Tumble,
    Hop,
    Cumulate,
}

impl WindowFunction {
    fn named(name: &Ident) -> Option<Self> {
        let is = |n: &str| name.value.eq_ignore_ascii_case(n);
        match () {
            () if is("tumble") => Some(Self::Tumble),
            () if is("hop") => Some(Self::Hop),
            () if is("cumulate") => Some(Self::Cumulate),
            () => None,
        }
    }

    /// The names of the arguments, in their order; the last may be left out.
    fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Tumble => &["DATA", "TIMECOL", "SIZE", "OFFSET"],
            Self::Hop => &["DATA", "TIMECOL", "SLIDE", "SIZE", "OFFSET"],
            Self::Cumulate => &["DATA", "TIMECOL", "STEP", "SIZE", "OFFSET"],
        }
    }

    fn form(self) -> &'static str {
        match self {
            Self::Tumble => "TUMBLE(table, time, size [, offset])",
            Self::Hop => "HOP(table, time, slide, size [, offset])",
            Self::Cumulate => "CUMULATE(table, time, step, size [, offset])",
        }
    }
}

/// The arguments, each in its place.
struct Arguments<'a> {
    table: &'a SqlExpr,
    time: &'a SqlExpr,
    lengths: Vec<&'a SqlExpr>,
    offset: Option<&'a SqlExpr>,
}

impl<'a> Arguments<'a> {
    fn assign(function: WindowFunction, name: &Ident, args: &'a [FunctionArg]) -> Result<Self, SqlError> {
        let parameters = function.parameters();
        let mut slots: Vec<Option<&SqlExpr>> = vec![None; parameters.len()];
        for (n, arg) in args.iter().enumerate() {
            let (slot, expr, span) = match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => (Some(n), expr, expr.span()),
                FunctionArg::Named { name, arg: FunctionArgExpr::Expr(expr), .. } => {
                    (parameters.iter().position(|p| name.value.eq_ignore_ascii_case(p)), expr, name.span)
                }
                _ => return Err(SqlError::new(name.span, format!("the arguments are {}", function.form()))),
            };
            match slot.and_then(|slot| slots.get_mut(slot)) {
                Some(slot @ None) => *slot = Some(expr),
                _ => return Err(SqlError::new(span, format!("this is one argument too many: {}", function.form()))),
            }
        }
        let offset = slots.pop().flatten();
        let missing = slots.iter().position(Option::is_none).and_then(|n| parameters.get(n));
        if let Some(missing) = missing {
            return Err(SqlError::new(name.span, format!("the argument {missing} is missing: {}", function.form())));
        }
        match slots.iter().copied().flatten().collect::<Vec<_>>().split_first_chunk::<2>() {
            Some(([table, time], lengths)) => Ok(Self { table, time, lengths: lengths.to_vec(), offset }),
            None => Err(SqlError::new(name.span, format!("the arguments are {}", function.form()))),
        }
    }
}

/// `DEDUP(table, DESCRIPTOR(key, ..), DESCRIPTOR(time), INTERVAL ..)`: see [`Dedup`].
fn dedup(name: &Ident, args: &[FunctionArg], context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
    const FORM: &str = "the arguments are DEDUP(table, DESCRIPTOR(key, ..), DESCRIPTOR(time), horizon)";
    let expr = |arg: &FunctionArg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    };
    let args: Vec<SqlExpr> = args.iter().filter_map(expr).collect();
    let [table, keys, time, horizon] = args.as_slice() else { return Err(SqlError::new(name.span, FORM).into()) };
    let input = context.plan(table_factor(table)?)?;
    let (time, span) = time_column(time, input.schema())?;
    check_event_time(input.schema().field_from_column(&time)?.as_ref(), span)?;
    let mut columns = vec![];
    for key in descriptor(keys) {
        columns.push(time_column(&key, input.schema())?.0);
    }
    let horizon_us = interval(horizon, TimeUnit::Microsecond, context)?;
    let node = Dedup::try_new(input, columns, time, horizon_us);
    let node = node.map_err(|e| SqlError::from_datafusion(&e, &[]).or_at(horizon.span()))?;
    Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
}

/// The columns of `DESCRIPTOR(a, b)`, or the one column that stands for itself.
fn descriptor(expr: &SqlExpr) -> Vec<SqlExpr> {
    if let SqlExpr::Function(function) = expr
        && function.name.to_string().eq_ignore_ascii_case("descriptor")
        && let FunctionArguments::List(list) = &function.args
    {
        let named = list.args.iter().filter_map(|arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
            _ => None,
        });
        return named.collect();
    }
    vec![expr.clone()]
}

/// The first argument as something that FROM reads.
fn table_factor(expr: &SqlExpr) -> Result<TableFactor, SqlError> {
    let named = |parts: Vec<Ident>| TableFactor::Table {
        name: ObjectName(parts.into_iter().map(ObjectNamePart::Identifier).collect()),
        alias: None,
        args: None,
        with_hints: vec![],
        version: None,
        with_ordinality: false,
        partitions: vec![],
        json_path: None,
        sample: None,
        index_hints: vec![],
    };
    match expr {
        SqlExpr::Identifier(ident) => Ok(named(vec![ident.clone()])),
        SqlExpr::CompoundIdentifier(parts) => Ok(named(parts.clone())),
        SqlExpr::Subquery(query) => {
            Ok(TableFactor::Derived { lateral: false, subquery: query.clone(), alias: None, sample: None })
        }
        SqlExpr::Value(value) => match &value.value {
            Value::SingleQuotedString(path) => {
                Ok(named(vec![Ident { value: path.clone(), quote_style: Some('\''), span: value.span }]))
            }
            _ => Err(SqlError::new(value.span, "the first argument is a table, a view, or a query in parentheses")),
        },
        other => Err(SqlError::new(other.span(), "the first argument is a table, a view, or a query in parentheses")),
    }
}

fn window_table(
    function: WindowFunction,
    args: &Arguments<'_>,
    input: LogicalPlan,
    context: &mut dyn RelationPlannerContext,
) -> Result<LogicalPlan> {
    let (time, span) = time_column(args.time, input.schema())?;
    let field = input.schema().field_from_column(&time)?.as_ref();
    check_window_time(field, span)?;
    let unit = match field.data_type() {
        DataType::Timestamp(unit, _) => *unit,
        _ => TimeUnit::Microsecond,
    };
    let mut lengths = vec![];
    for expr in &args.lengths {
        lengths.push(interval(expr, unit, context)?);
    }
    let offset_us = args.offset.map_or(Ok(0), |expr| interval(expr, unit, context))?;
    let kind = match (function, lengths.as_slice()) {
        (WindowFunction::Tumble, [size_us]) => WindowKind::Tumble { size_us: *size_us },
        (WindowFunction::Hop, [slide_us, size_us]) => WindowKind::Hop { slide_us: *slide_us, size_us: *size_us },
        (WindowFunction::Cumulate, [step_us, size_us]) => WindowKind::Cumulate { step_us: *step_us, size_us: *size_us },
        _ => return Err(SqlError::somewhere(format!("the arguments are {}", function.form())).into()),
    };
    let at = args.lengths.first().map_or(Span::empty(), |e| e.span());
    let spec = WindowSpec { kind, offset_us }.checked().map_err(|e| SqlError::new(at, e.message()))?;
    let node = WindowTable::try_new(input, time, spec).map_err(|e| SqlError::from_datafusion(&e, &[]).or_at(span))?;
    Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
}

/// `SESSION(table [, key ..], time, gap)`: the parser has put a comma in the place of PARTITION BY.
fn session(name: &Ident, args: &[FunctionArg], context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
    let form = "SESSION(table [PARTITION BY key], time, gap)";
    let wrong = || SqlError::new(name.span, format!("the arguments are {form}"));
    let (mut named, mut plain): ([Option<&SqlExpr>; 3], Vec<&SqlExpr>) = ([None; 3], vec![]);
    for arg in args {
        match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => plain.push(expr),
            FunctionArg::Named { name, arg: FunctionArgExpr::Expr(expr), .. } => {
                let place = ["DATA", "TIMECOL", "GAP"].iter().position(|p| name.value.eq_ignore_ascii_case(p));
                match place.and_then(|place| named.get_mut(place)) {
                    Some(slot @ None) => *slot = Some(expr),
                    _ => return Err(SqlError::new(name.span, format!("the arguments are {form}")).into()),
                }
            }
            _ => return Err(wrong().into()),
        }
    }
    let (table, time, gap, keys) = match (named, plain.as_slice()) {
        ([None, None, None], [table, keys @ .., time, gap]) => (*table, *time, *gap, keys.to_vec()),
        ([Some(table), Some(time), Some(gap)], keys) => (table, time, gap, keys.to_vec()),
        _ => return Err(wrong().into()),
    };
    let input = context.plan(table_factor(table)?)?;
    let (time, span) = time_column(time, input.schema())?;
    let field = input.schema().field_from_column(&time)?.as_ref();
    check_window_time(field, span)?;
    let unit = match field.data_type() {
        DataType::Timestamp(unit, _) => *unit,
        _ => TimeUnit::Microsecond,
    };
    let gap_us = interval(gap, unit, context)?;
    let kind = WindowKind::Session { gap_us };
    WindowSpec { kind, offset_us: 0 }.checked().map_err(|e| SqlError::new(gap.span(), e.message()))?;
    let mut columns = vec![];
    for key in keys {
        let parts = match key {
            SqlExpr::Tuple(parts) => parts.iter().collect(),
            SqlExpr::Nested(inner) => vec![inner.as_ref()],
            other => vec![other],
        };
        for part in parts {
            columns.push(column(part, input.schema(), "sessions are partitioned by columns")?.0);
        }
    }
    let node = SessionTable::try_new(input, time, columns, gap_us);
    let node = node.map_err(|e| SqlError::from_datafusion(&e, &[]).or_at(span))?;
    Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
}

/// `DESCRIPTOR(column)` or `column`.
fn time_column(expr: &SqlExpr, schema: &DFSchema) -> Result<(Column, Span), SqlError> {
    let refused =
        |span| SqlError::new(span, "a column stands here: DESCRIPTOR(column) or column; windows take their event time");
    let named = match expr {
        SqlExpr::Function(function) if function.name.to_string().eq_ignore_ascii_case("descriptor") => {
            match &function.args {
                FunctionArguments::List(list) => match list.args.as_slice() {
                    [FunctionArg::Unnamed(FunctionArgExpr::Expr(named))] => named,
                    _ => return Err(refused(expr.span())),
                },
                _ => return Err(refused(expr.span())),
            }
        }
        other => other,
    };
    column(named, schema, "the second argument is the event-time column: DESCRIPTOR(column) or column")
}

/// A column by its name; `what` says what is expected where it is none.
fn column(expr: &SqlExpr, schema: &DFSchema, what: &str) -> Result<(Column, Span), SqlError> {
    let refused = |span| SqlError::new(span, what);
    let (relation, ident) = match expr {
        SqlExpr::Identifier(ident) => (None, ident),
        SqlExpr::CompoundIdentifier(parts) => match parts.as_slice() {
            [relation, ident] => (Some(relation.value.as_str()), ident),
            _ => return Err(refused(expr.span())),
        },
        _ => return Err(refused(expr.span())),
    };
    let mut matches = schema.iter().filter(|(qualifier, field)| {
        field.name() == &ident.value && relation.is_none_or(|r| qualifier.is_some_and(|q| q.table() == r))
    });
    match (matches.next(), matches.next()) {
        (Some((qualifier, _)), None) => Ok((Column::new(qualifier.cloned(), ident.value.clone()), ident.span)),
        (Some(_), Some(_)) => {
            Err(SqlError::new(ident.span, format!("there is more than one column '{}' in the table", ident.value)))
        }
        (None, _) => {
            let hint = did_you_mean(&ident.value, schema.fields().iter().map(|f| f.name().as_str()));
            Err(SqlError::new(ident.span, format!("there is no column '{}' in the table{hint}", ident.value)))
        }
    }
}

/// Windows are made over an event time or over PROCTIME().
fn check_window_time(field: &Field, span: Span) -> Result<(), SqlError> {
    if is_processing_time(field) { Ok(()) } else { check_event_time(field, span) }
}

fn check_event_time(field: &Field, span: Span) -> Result<(), SqlError> {
    if is_event_time(field) {
        return Ok(());
    }
    let name = field.name();
    if is_processing_time(field) {
        return Err(SqlError::new(
            span,
            format!(
                "'{name}' is the time at which rows are read, and DEDUP remembers for a horizon of event time: use an event \
                 time with a WATERMARK, or ROW_NUMBER() OVER (PARTITION BY .. ORDER BY {name}) = 1 with SET 'state.ttl'"
            ),
        ));
    }
    if !matches!(field.data_type(), DataType::Timestamp(..)) {
        return Err(SqlError::new(
            span,
            format!("'{name}' is {} and no timestamp: windows need a timestamp with a WATERMARK", field.data_type()),
        ));
    }
    Err(SqlError::new(
        span,
        format!(
            "'{name}' is no event time, so that no window over it would ever close: declare WATERMARK FOR {name} AS {name} - \
             INTERVAL '5' SECOND in CREATE TABLE, and select the column unchanged on the way"
        ),
    ))
}

/// The length of an INTERVAL literal in microseconds.
fn interval(expr: &SqlExpr, unit: TimeUnit, context: &mut dyn RelationPlannerContext) -> Result<i64> {
    let planned = context.sql_to_expr(expr.clone(), &DFSchema::empty())?;
    let us = interval_us(&planned).map_err(|e| e.or_at(expr.span()))?;
    if micros_from(micros_to(us, unit), unit) != us {
        let reason = format!(
            "{} is finer than the time column, which counts in {unit:?}s: the ends of windows could not be told in it; declare \
             the column as TIMESTAMP(3) or TIMESTAMP(6), or take a longer window",
            Length(us)
        );
        return Err(SqlError::new(expr.span(), reason).into());
    }
    Ok(us)
}

/// The length of an interval in microseconds, if it is a constant one.
pub fn interval_us(expr: &Expr) -> Result<i64, SqlError> {
    let value = match expr {
        Expr::Literal(value, _) => value.clone(),
        Expr::Negative(inner) => return interval_us(inner)?.checked_neg().ok_or_else(too_long),
        _ => return Err(SqlError::somewhere("this must be a constant length of time: INTERVAL '10' SECOND")),
    };
    let (months, days, nanos) = match value {
        ScalarValue::IntervalMonthDayNano(Some(i)) => (i.months, i.days, i.nanoseconds),
        ScalarValue::IntervalDayTime(Some(i)) => (0, i.days, i64::from(i.milliseconds) * 1_000_000),
        ScalarValue::IntervalYearMonth(Some(months)) => (months, 0, 0),
        _ => return Err(SqlError::somewhere("this must be a length of time: INTERVAL '10' SECOND")),
    };
    if months != 0 {
        return Err(SqlError::somewhere("months and years are not all of one length: write it in days"));
    }
    if nanos % 1_000 != 0 {
        return Err(SqlError::somewhere("lengths of time finer than a microsecond are not supported"));
    }
    let days_us = i64::from(days).checked_mul(86_400_000_000);
    days_us.and_then(|us| us.checked_add(nanos / 1_000)).ok_or_else(too_long)
}

fn too_long() -> SqlError {
    SqlError::somewhere("this length of time is longer than 292,000 years, more than a timestamp can hold")
}
