//! `ROW_NUMBER() OVER (PARTITION BY key ORDER BY p) = 1` with `p` a PROCTIME(): the first row of each key that came, or with
//! DESC the last.
//!
//! The order is that of the log: of the recorded batches, and within a batch the one in which its rows are read. So a batch
//! that is run again gives the same rows. The times themselves are not compared: all rows of a batch have one. In batch the
//! order is the one in which the table is read.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::{Sort, WindowFunction};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Projection, Window, lit};

use super::incremental::{ColumnFact, Edge, EmitMode, Rewrite, Rewritten, bare, source_column};
use super::lifetime::named;
use super::nodes::extension;
use super::over::{call, fingerprint, rank_kind};
use super::ranking::row_number;
use super::refuse::Refusal;
use super::upsert::StreamUpsert;
use crate::changelog::WEIGHT;
use crate::exec::{Head, RankKind};
use crate::window::is_processing_time;

/// The number of a row among all rows.
const ARRIVAL: &str = "$arrival";

/// The one thing that a window function is ordered by, where it is the time of the batch.
fn by_arrival<'a>(call: &'a WindowFunction, input: &LogicalPlan) -> Option<&'a Sort> {
    let [by] = call.params.order_by.as_slice() else { return None };
    let (_, field) = by.expr.to_field(input.schema()).ok()?;
    is_processing_time(&field).then_some(by)
}

/// The plan of a batch job, in which such a ROW_NUMBER numbers rows in the order in which they are read.
pub fn arrival_in_batch(plan: LogicalPlan) -> Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Window(window) if is_row_number_by_arrival(&window) => numbered(window).map(Transformed::yes),
        node => Ok(Transformed::no(node)),
    })?;
    Ok(done.data)
}

fn is_row_number_by_arrival(window: &Window) -> bool {
    let is = |expr: &Expr| {
        let by_clock = call(expr).is_some_and(|call| by_arrival(call, &window.input).is_some());
        by_clock && rank_kind(expr) == Some(RankKind::RowNumber)
    };
    window.window_expr.iter().all(is)
}

fn numbered(window: Window) -> Result<LogicalPlan> {
    let (input, fields) = (window.input, window.schema);
    let columns = input.schema().fields().len();
    let names = fields.iter().skip(columns).map(|(_, field)| field.name().clone());
    let arrival = Window::try_new(vec![row_number(vec![], vec![]).alias(ARRIVAL)], input)?;
    let numbers = window.window_expr.iter().zip(names).filter_map(|(expr, name)| {
        let of = &call(expr)?.params;
        let order = vec![Sort { expr: bare(ARRIVAL), ..of.order_by.first()?.clone() }];
        Some(row_number(of.partition_by.clone(), order).alias(name))
    });
    let numbered = Window::try_new(numbers.collect(), Arc::new(LogicalPlan::Window(arrival)))?;
    let select = fields.columns().into_iter().map(Expr::Column).collect();
    Ok(LogicalPlan::Projection(Projection::try_new(select, Arc::new(LogicalPlan::Window(numbered)))?))
}

impl Rewrite {
    /// The first or the last row of each key by arrival, where that is what a node asks for.
    pub(super) fn by_arrival(&self, node: &Window, head: Option<Head>, input: &Edge) -> Result<Option<Edge>, Refusal> {
        let first = Head { kind: RankKind::RowNumber, limit: 1 };
        let [function] = node.window_expr.as_slice() else { return Ok(None) };
        let Some(window) = call(function) else { return Ok(None) };
        let Some(by) = by_arrival(window, &node.input).filter(|_| head == Some(first) && !input.changelog) else {
            return Ok(None);
        };
        let partition = window.params.partition_by.clone();
        Refusal::check_clock(&partition, "in a ranking")?;
        let (_, rank) = node.schema.qualified_field(node.input.schema().fields().len());
        // It has no window that could close, which is said there.
        if by.asc || self.emit == EmitMode::OnWindowClose {
            let function = row_number(partition, vec![]).alias(rank.name());
            let ranked = self.ranking(vec![function], Some(first), input.clone())?;
            return only_come(ranked).map(Some);
        }
        self.last(partition, rank.name(), input.clone()).map(Some)
    }

    /// The last row of each key: as a table with that PRIMARY KEY has it.
    fn last(&self, partition: Vec<Expr>, rank: &str, input: Edge) -> Rewritten {
        let columns = input.plan.schema().columns();
        let rows = columns.len();
        let found = partition.iter().map(|key| source_column(key, input.plan.schema())).collect::<Option<Vec<_>>>();
        let (plan, keys, computed) = match found.filter(|keys| !keys.is_empty()) {
            Some(keys) => (input.plan, keys, false),
            None => {
                // Without PARTITION BY there is one key.
                let partition = if partition.is_empty() { vec![lit(true)] } else { partition };
                let keys = (rows..rows + partition.len()).collect::<Vec<_>>();
                let computed = partition.into_iter().enumerate().map(|(n, key)| key.alias(format!("$key{n}")));
                let select = columns.iter().cloned().map(Expr::Column).chain(computed).collect();
                (LogicalPlan::Projection(Projection::try_new(select, Arc::new(input.plan))?), keys, true)
            }
        };
        let weight = (None, Arc::new(Field::new(WEIGHT, DataType::Int64, false)));
        let fields = plan.schema().iter().map(|(q, f)| (q.cloned(), Arc::clone(f))).chain([weight]);
        let schema = DFSchema::new_with_metadata(fields.collect(), plan.schema().metadata().clone())?;
        let lifetime = self.lifetimes.of_any();
        let name = format!("last-{:016x}", fingerprint(&format!("{keys:?}|{}", plan.display_indent())));
        let (name, table) = (named(name, lifetime), "what came".to_string());
        let last = StreamUpsert { input: plan, table, keys: keys.clone(), schema: Arc::new(schema), lifetime, name };
        let one = lit(ScalarValue::UInt64(Some(1))).alias(rank);
        let select = columns.into_iter().map(Expr::Column).chain([one, Expr::Column(Column::new_unqualified(WEIGHT))]);
        let plan = LogicalPlan::Projection(Projection::try_new(select.collect(), Arc::new(extension(last)))?);
        let facts = vec![ColumnFact::Plain; rows + 2];
        let key = (!computed).then_some(keys);
        Ok(Edge { plan, changelog: true, key, facts, lag_us: None })
    }
}

/// The first rows as they came: no later one is before any of them, so that none goes again.
fn only_come(ranked: Edge) -> Result<Edge, Refusal> {
    let mut columns = ranked.plan.schema().columns();
    columns.pop();
    let facts = vec![ColumnFact::Plain; columns.len()];
    let select = columns.into_iter().map(Expr::Column).collect();
    let plan = LogicalPlan::Projection(Projection::try_new(select, Arc::new(ranked.plan))?);
    Ok(Edge { plan, changelog: false, facts, ..ranked })
}
