//! Making a column the event time after the table was opened: the watermark is put on the table that is scanned,
//! because lateness is judged there and nowhere else.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Fields, Schema};
use datafusion::common::metadata::FieldMetadata;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result as PlanResult, plan_err};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableScan, Volatility};
use millstream_core::{Error, Result};

use super::{micros, of_datafusion};
use crate::sql::{StreamTable, Watermark};
use crate::window;

/// The table with one of its columns as the event time, whose watermark stays this far behind the latest.
///
/// # Errors
/// [`millstream_core::ErrorKind::Query`] where it is not there, or no timestamp.
pub fn with_event_time(table: StreamTable, column: &str, delay: Duration) -> Result<StreamTable> {
    let Ok(field) = table.spec.schema.field_with_name(column) else {
        return Err(Error::query(format!("the table '{}' has no column '{column}' to be its event time", table.name)));
    };
    check_timestamp(field)?;
    let expr = Expr::Column(Column::new_unqualified(column));
    Ok(attach_to(&table, &Watermark { column: column.to_string(), delay_us: micros(delay), expr }))
}

fn check_timestamp(field: &Field) -> Result<()> {
    match field.data_type() {
        DataType::Timestamp(..) => Ok(()),
        other => Err(Error::query(format!(
            "the event time '{}' is {other}: it must be a timestamp; compute one with with_column(.., to_timestamp_millis(..))",
            field.name()
        ))),
    }
}

/// The table with this watermark. Where the event time is a physical column, the schema says so.
fn attach_to(table: &StreamTable, watermark: &Watermark) -> StreamTable {
    let mut table = table.clone();
    if let Expr::Column(column) = &watermark.expr {
        let mark = |field: &Arc<Field>| match *field.name() == column.name {
            true => Arc::new(window::with_watermark(field, watermark.delay_us)),
            false => Arc::clone(field),
        };
        let fields: Fields = table.spec.schema.fields().iter().map(mark).collect();
        table.spec.schema = Arc::new(Schema::new_with_metadata(fields, table.spec.schema.metadata().clone()));
    }
    table.watermark = Some(watermark.clone());
    table
}

/// The plan with its column at `index` as the event time.
pub fn with_watermark(plan: LogicalPlan, index: usize, delay: Duration) -> Result<LogicalPlan> {
    let field = Arc::clone(plan.schema().field(index));
    check_timestamp(&field)?;
    let expr = over_table(&plan, index).map_err(of_datafusion)?;
    check_same_each_time(&expr, field.name())?;
    let physical = matches!(expr, Expr::Column(_));
    let column = match &expr {
        Expr::Column(column) => column.name.clone(),
        _ => field.name().clone(),
    };
    let watermark = Watermark { column, delay_us: micros(delay), expr };
    let plan = attach(plan, &watermark).map_err(of_datafusion)?;
    if physical { Ok(plan) } else { marked(plan, index, watermark.delay_us).map_err(of_datafusion) }
}

/// A column of the plan as an expression over the physical columns of the one table that it reads.
fn over_table(plan: &LogicalPlan, index: usize) -> PlanResult<Expr> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let index = scan.projection.as_ref().and_then(|p| p.get(index).copied()).unwrap_or(index);
            Ok(Expr::Column(Column::new_unqualified(scan.source.schema().field(index).name())))
        }
        LogicalPlan::Filter(node) => over_table(&node.input, index),
        LogicalPlan::SubqueryAlias(node) => over_table(&node.input, index),
        LogicalPlan::Projection(node) => {
            let Some(expr) = node.expr.get(index) else { return plan_err!("there is no column {index}") };
            let replaced = expr.clone().unalias_nested().data.transform_up(|e| match &e {
                Expr::Column(c) => {
                    over_table(&node.input, node.input.schema().index_of_column(c)?).map(Transformed::yes)
                }
                _ => Ok(Transformed::no(e)),
            });
            Ok(replaced?.data)
        }
        _ => plan_err!(
            "an event time is a column of one table, or computed from a row of it: call with_watermark on the table, \
             before it is united, put into windows or aggregated"
        ),
    }
}

/// The event time of a row is the same in every process that reads it.
fn check_same_each_time(expr: &Expr, name: &str) -> Result<()> {
    let changes = expr.exists(|e| match e {
        Expr::ScalarFunction(call) => Ok(call.func.signature().volatility != Volatility::Immutable),
        _ => Ok(false),
    });
    match changes.map_err(of_datafusion)? {
        false => Ok(()),
        true => Err(Error::query(format!(
            "the event time '{name}' depends on more than the row: a batch that is run again would judge it differently; \
             compute it from the row's own columns"
        ))),
    }
}

fn table_of(scan: &TableScan) -> Option<StreamTable> {
    let provider = source_as_provider(&scan.source).ok()?;
    (provider.as_ref() as &dyn Any).downcast_ref::<StreamTable>().cloned()
}

/// The plan over the table with this watermark.
fn attach(plan: LogicalPlan, watermark: &Watermark) -> PlanResult<LogicalPlan> {
    let attached = plan.transform_up(|node| match node {
        LogicalPlan::TableScan(scan) => {
            let Some(table) = table_of(&scan) else {
                return plan_err!("{} is a table that can't be streamed", scan.table_name);
            };
            if let Some(before) = &table.watermark {
                let (name, column) = (&table.name, &before.column);
                return plan_err!("the table '{name}' has a watermark already, for '{column}'");
            }
            let source = provider_as_source(Arc::new(attach_to(&table, watermark)));
            let scan = LogicalPlanBuilder::scan(scan.table_name, source, scan.projection)?.build()?;
            Ok(Transformed::yes(scan))
        }
        // What is passed on carries the mark with it.
        other => other.recompute_schema().map(Transformed::yes),
    });
    Ok(attached?.data)
}

/// The plan with a computed column marked as the event time.
fn marked(plan: LogicalPlan, index: usize, delay_us: i64) -> PlanResult<LogicalPlan> {
    let mark = FieldMetadata::from(&window::with_watermark(&Field::new("", DataType::Null, true), delay_us));
    let columns = plan.schema().iter().enumerate().map(|(n, (table, field))| {
        let column = Expr::Column(Column::from((table, field)));
        if n == index { column.alias_with_metadata(field.name(), Some(mark.clone())) } else { column }
    });
    let columns: Vec<Expr> = columns.collect();
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}

/// A query knows each of its tables by name: one name is one source with one watermark.
///
/// # Errors
/// [`millstream_core::ErrorKind::Query`] that names the table.
pub fn check_tables(plan: &LogicalPlan) -> Result<()> {
    let mut seen: BTreeMap<String, StreamTable> = BTreeMap::new();
    let mut twice = None;
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Some(table) = table_of(scan)
        {
            let same =
                |other: &StreamTable| Arc::ptr_eq(&other.source, &table.source) && time_of(other) == time_of(&table);
            match seen.get(&table.name) {
                Some(other) if !same(other) => twice = Some(table.name.clone()),
                _ => drop(seen.insert(table.name.clone(), table)),
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.map_err(of_datafusion)?;
    match (twice, seen.is_empty()) {
        (Some(name), _) => Err(Error::query(format!(
            "two tables of the query are called '{name}', or it is read with two watermarks: give each source a name of \
             its own, and call with_watermark once, before the frame is used twice"
        ))),
        // A text that only declares; constants are rows that come once.
        (None, true) if matches!(plan, LogicalPlan::EmptyRelation(_)) => {
            Err(Error::query("the query reads no table: there is nothing to stream, collect() answers it"))
        }
        (None, _) => Ok(()),
    }
}

fn time_of(table: &StreamTable) -> Option<(&str, i64, &Expr)> {
    table.watermark.as_ref().map(|w| (w.column.as_str(), w.delay_us, &w.expr))
}
