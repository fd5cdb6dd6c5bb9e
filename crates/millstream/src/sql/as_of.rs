//! What `FOR SYSTEM_TIME AS OF` becomes: a [`TemporalJoin`], checked while the text is at hand.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, JoinType, Result, exec_err};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, Extension, Join, LogicalPlan, ScalarFunctionArgs, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::sql::sqlparser::tokenizer::Span;
use std::sync::Arc;

use super::diagnostic::{SqlError, parser_span};
use super::parser::AS_OF_TIME;
use super::tables::{AsOfTable, Reading};
use crate::temporal::{AsOf, TemporalJoin, equality};
use crate::window::{is_event_time, is_processing_time};

/// The function that stands for the time in a join's condition. It is never called.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct AsOfTime {
    signature: Signature,
}

impl Default for AsOfTime {
    fn default() -> Self {
        Self { signature: Signature::any(1, Volatility::Stable) }
    }
}

impl ScalarUDFImpl for AsOfTime {
    fn name(&self) -> &str {
        AS_OF_TIME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        exec_err!("FOR SYSTEM_TIME AS OF was not made a join")
    }
}

/// The plan with such joins as nodes of their own.
///
/// # Errors
/// Where a join can't be answered, with its place and what works.
pub fn joins(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(plan.transform_up_with_subqueries(join)?.data)
}

fn join(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let LogicalPlan::Join(Join { filter: Some(filter), .. }) = &plan else { return Ok(Transformed::no(plan)) };
    let mut conditions = split_conjunction_owned(filter.clone());
    let Some(at) = conditions.iter().position(|c| time_of(c).is_some()) else { return Ok(Transformed::no(plan)) };
    let Some(time) = time_of(&conditions.remove(at)) else { return Ok(Transformed::no(plan)) };
    let LogicalPlan::Join(join) = plan else { return Ok(Transformed::no(plan)) };
    let made = temporal(&join, time, conditions)?;
    Ok(Transformed::yes(LogicalPlan::Extension(Extension { node: Arc::new(made) })))
}

fn time_of(condition: &Expr) -> Option<Expr> {
    match condition {
        Expr::ScalarFunction(call) if call.func.name() == AS_OF_TIME => call.args.first().cloned(),
        _ => None,
    }
}

fn temporal(join: &Join, time: Expr, conditions: Vec<Expr>) -> Result<TemporalJoin> {
    let (left, right) = (join.left.as_ref().clone(), join.right.as_ref().clone());
    let place = place(&time).or_else(|| conditions.iter().find_map(place));
    let refused = |reason: String| Err(at(place, reason).into());
    let Some(table) = table_of(&right)? else {
        return refused(
            "FOR SYSTEM_TIME AS OF reads a table by its name: it can't be one that is made of others".into(),
        );
    };
    let name = table.spec.name.clone();
    if !matches!(join.join_type, JoinType::Inner | JoinType::Left) {
        return refused(format!("'{name}' is only read for the rows of the left side: write JOIN or LEFT JOIN"));
    }
    let (l, r) = (left.schema(), right.schema());
    let on: Vec<(Expr, Expr)> = conditions.iter().filter_map(|c| equality(c, l, r)).collect();
    if on.is_empty() {
        return refused(format!(
            "the join with '{name}' FOR SYSTEM_TIME AS OF has no equality between a column of it and the left side: add one to \
             ON, as in t.id = a.id"
        ));
    }
    if !time.column_refs().iter().all(|c| l.has_column(c)) {
        return refused(format!(
            "the time as of which '{name}' is read is that of the left row: name one of its columns, or PROCTIME()"
        ));
    }
    let now = is_processing_time(&time.to_field(l)?.1);
    let as_of = if now {
        AsOf::Now { by_key: None }
    } else {
        event_time(&time, &left, &right, &table, &on).map_err(|e| e.or_place(place))?
    };
    let Some(condition) = conjunction(conditions) else { return refused("the join has no condition".into()) };
    TemporalJoin::try_new(left, right, condition, join.join_type, as_of, String::new())
}

/// The event times of both sides, where the version of a key at the row's time can be told.
fn event_time(
    time: &Expr,
    left: &LogicalPlan,
    right: &LogicalPlan,
    table: &AsOfTable,
    on: &[(Expr, Expr)],
) -> std::result::Result<AsOf, SqlError> {
    let name = &table.spec.name;
    let refused = |reason: String| Err(SqlError::somewhere(reason));
    let column = match time {
        Expr::Column(column) => left.schema().qualified_field_from_column(column).ok().map(|(_, field)| field),
        _ => None,
    };
    if !column.is_some_and(|field| is_event_time(field)) {
        return refused(format!(
            "FOR SYSTEM_TIME AS OF {time} is no event time: name the column of the left side that its WATERMARK is declared \
             for, or a column that is PROCTIME()"
        ));
    }
    if matches!(table.reading, Reading::Keys(_)) {
        return refused(format!(
            "'{name}' is looked up as it is now, and does not know what it was at {time}: write FOR SYSTEM_TIME AS OF PROCTIME()"
        ));
    }
    let times = right.schema().iter().find(|(_, field)| is_event_time(field));
    let (Some((qualifier, field)), false) = (times, table.spec.primary_key.is_empty()) else {
        return refused(format!(
            "which version of a row of '{name}' was valid at {time} can't be told: declare its PRIMARY KEY (..) NOT ENFORCED and \
             WATERMARK FOR the column since when a row is valid, or join it FOR SYSTEM_TIME AS OF PROCTIME()"
        ));
    };
    let joined =
        |key: &&String| on.iter().any(|(_, right)| matches!(right, Expr::Column(column) if column.name == **key));
    if let Some(missing) = table.spec.primary_key.iter().find(|key| !joined(key)) {
        return refused(format!(
            "'{name}' keeps versions by its PRIMARY KEY ({}), and the join does not say what {missing} equals: add {missing} = .. \
             to ON",
            table.spec.primary_key.join(", ")
        ));
    }
    let right = Expr::Column(Column::new(qualifier.cloned(), field.name()));
    Ok(AsOf::EventTime { left: time.clone(), right, weighted: false, lag_us: 0 })
}

/// The table at the bottom of a plan, where it is read as of a time.
pub fn table_of(plan: &LogicalPlan) -> Result<Option<AsOfTable>> {
    let mut found = None;
    plan.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            let provider = source_as_provider(&scan.source)?;
            found = (provider.as_ref() as &dyn std::any::Any).downcast_ref::<AsOfTable>().cloned();
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

fn place(expr: &Expr) -> Option<Span> {
    expr.column_refs().into_iter().find_map(|c| c.spans().first()).map(parser_span)
}

fn at(place: Option<Span>, reason: String) -> SqlError {
    match place {
        Some(span) => SqlError::new(span, reason),
        None => SqlError::somewhere(reason),
    }
}

impl SqlError {
    fn or_place(self, place: Option<Span>) -> Self {
        match place {
            Some(span) => self.or_at(span),
            None => self,
        }
    }
}
