//! How a GROUP BY over windows is run: from panes where the rows can reach the operator without their window
//! columns, else by the window columns themselves.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Aggregate, Expr, Filter, LogicalPlan, Projection, SubqueryAlias, cast, lit};

use super::incremental::{ColumnFact, Edge, bare, source_column};
use super::nodes::WindowGroup;
use super::refuse::Refusal;
use crate::exec::{EmitMode as WindowEmit, GroupColumn};
use crate::window::{WINDOW_KEY, WindowKind, WindowPart, WindowSpec, WindowTable};

/// The event-time column on its way from the window's table to the aggregate.
pub const TIME: &str = "$time";

/// What a group expression is, by position: a window column or something else.
pub type Windows = Vec<Option<(WindowPart, WindowSpec, bool)>>;

type Parts = (LogicalPlan, WindowGroup, Vec<Expr>);

/// Tells the window columns of a GROUP BY from its other keys.
pub fn split(group: &[Expr], input: &Edge) -> (Windows, Vec<Expr>) {
    let windows: Windows = group
        .iter()
        .map(|e| match source_column(e, input.plan.schema()).and_then(|c| input.facts.get(c)) {
            Some(ColumnFact::Window { part, spec, of_rows }) => Some((*part, *spec, *of_rows)),
            _ => None,
        })
        .collect();
    let keys = group.iter().zip(&windows).filter(|(_, w)| w.is_none()).map(|(e, _)| e.clone()).collect();
    (windows, keys)
}

/// Whether the window columns among the keys say which window it is.
pub fn determines_window(windows: &Windows) -> bool {
    let specs: Vec<_> = windows.iter().flatten().map(|(_, spec, of_rows)| (spec, of_rows)).collect();
    let same = specs.windows(2).all(|pair| pair[0] == pair[1]);
    let determined =
        windows.iter().flatten().any(|(part, spec, _)| *part != WindowPart::Start || start_determines(spec));
    same && determined
}

/// Whether a window's start says where it ends.
fn start_determines(spec: &WindowSpec) -> bool {
    !matches!(spec.kind, WindowKind::Cumulate { .. } | WindowKind::Session { .. })
}

/// What the output's group column is.
pub fn fact_of(column: GroupColumn, windows: &Windows) -> ColumnFact {
    let part = match column {
        GroupColumn::Start => WindowPart::Start,
        GroupColumn::End => WindowPart::End,
        GroupColumn::Time => WindowPart::Time,
        GroupColumn::Key(_) => return ColumnFact::Plain,
    };
    // A window column of a result is the time of that result, no longer that of a row.
    match windows.iter().flatten().next() {
        Some((_, spec, _)) => ColumnFact::Window { part, spec: *spec, of_rows: false },
        None => ColumnFact::Plain,
    }
}

/// What the output's group columns are where they are plain keys to the operator.
pub fn facts_of_keys(windows: &Windows) -> Vec<ColumnFact> {
    let fact = |w: &Option<(WindowPart, WindowSpec, bool)>| match w {
        Some((part, spec, _)) => ColumnFact::Window { part: *part, spec: *spec, of_rows: false },
        None => ColumnFact::Plain,
    };
    windows.iter().map(fact).collect()
}

/// The aggregate over panes: the window table between the rows and the aggregate is taken out.
///
/// `None` where an expression on the way uses a window column for something else than to group by it.
pub fn fuse(
    windows: &Windows,
    keys: &[Expr],
    node: &Aggregate,
    input: &Edge,
    emit: WindowEmit,
) -> Result<Option<Parts>, Refusal> {
    let Some((plan, spec, of_rows)) = without_window(&input.plan)? else { return Ok(None) };
    let schema = plan.schema();
    let resolves = |e: &Expr| e.column_refs().iter().all(|c| schema.has_column(c));
    if !keys.iter().chain(&node.aggr_expr).all(resolves) {
        return Ok(None);
    }
    let Some(time) = schema.columns().into_iter().find(|c| c.name == TIME) else { return Ok(None) };
    let mut next = 0;
    let columns = windows.iter().map(|w| match w {
        Some((WindowPart::Start, ..)) => GroupColumn::Start,
        Some((WindowPart::End, ..)) => GroupColumn::End,
        Some((WindowPart::Time, ..)) => GroupColumn::Time,
        None => {
            next += 1;
            GroupColumn::Key(next - 1)
        }
    });
    let group = WindowGroup { spec, columns: columns.collect(), time: Expr::Column(time), emit, of_rows, lag_us: 0 };
    Ok(Some((plan, group, keys.to_vec())))
}

/// The plan without its nearest window table, its event time passed on as [`TIME`].
fn without_window(plan: &LogicalPlan) -> Result<Option<(LogicalPlan, WindowSpec, bool)>, Refusal> {
    match plan {
        LogicalPlan::Extension(node) => {
            let Some(window) = node.node.as_any().downcast_ref::<WindowTable>() else { return Ok(None) };
            let schema = window.input.schema();
            let mut exprs: Vec<Expr> = schema.columns().into_iter().map(Expr::Column).collect();
            let Some(time) = exprs.get(window.time_index()?).cloned() else { return Ok(None) };
            exprs.push(time.alias(TIME));
            let of_rows = !is_window_result(&window.input, window.time_index()?);
            let rows = Projection::try_new(exprs, Arc::new(window.input.clone()))?;
            Ok(Some((LogicalPlan::Projection(rows), window.spec, of_rows)))
        }
        LogicalPlan::Projection(node) => {
            let Some((input, spec, of_rows)) = without_window(&node.input)? else { return Ok(None) };
            let schema = input.schema();
            let mut exprs = vec![];
            for expr in &node.expr {
                if expr.column_refs().iter().all(|c| schema.has_column(c)) {
                    exprs.push(expr.clone());
                } else if source_column(expr, node.input.schema()).is_none() {
                    return Ok(None);
                }
            }
            exprs.extend(schema.columns().into_iter().find(|c| c.name == TIME).map(Expr::Column));
            Ok(Some((LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?), spec, of_rows)))
        }
        LogicalPlan::Filter(node) => {
            let Some((input, spec, of_rows)) = without_window(&node.input)? else { return Ok(None) };
            if !node.predicate.column_refs().iter().all(|c| input.schema().has_column(c)) {
                return Ok(None);
            }
            let filter = Filter::try_new(node.predicate.clone(), Arc::new(input))?;
            Ok(Some((LogicalPlan::Filter(filter), spec, of_rows)))
        }
        LogicalPlan::SubqueryAlias(node) => {
            let Some((input, spec, of_rows)) = without_window(&node.input)? else { return Ok(None) };
            let alias = SubqueryAlias::try_new(Arc::new(input), node.alias.clone())?;
            Ok(Some((LogicalPlan::SubqueryAlias(alias), spec, of_rows)))
        }
        _ => Ok(None),
    }
}

/// Whether a column is the window time of another window's result.
fn is_window_result(plan: &LogicalPlan, column: usize) -> bool {
    let schema = plan.schema();
    schema.fields().get(column).is_some_and(|f| f.metadata().contains_key(WINDOW_KEY))
}

/// The aggregate by the window columns that the rows carry: a window of its own for each `window_end`. `None` where
/// none of them says when the window ends.
pub fn by_columns(windows: &Windows, group: &[Expr], input: &Edge, emit: WindowEmit) -> Result<Option<Parts>, Refusal> {
    let schema = input.plan.schema();
    let until_end = |expr: &Expr, part: WindowPart, spec: WindowSpec| match part {
        WindowPart::End => Some(0),
        WindowPart::Start => start_determines(&spec).then(|| spec.size_us()),
        WindowPart::Time => source_column(expr, schema).and_then(|c| spec.after_time_us(schema.field(c).data_type())),
    };
    let chosen = group.iter().zip(windows).find_map(|(e, w)| {
        let (part, spec, _) = (*w)?;
        until_end(e, part, spec).map(|until_end| (e, until_end))
    });
    let Some((expr, until_end_us)) = chosen else { return Ok(None) };
    // The last microsecond of the window stands for it: a tumbling window of one microsecond ends with it.
    let last_us = until_end_us - 1;
    let mut exprs: Vec<Expr> = input.plan.schema().columns().into_iter().map(Expr::Column).collect();
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    let duration = ScalarValue::DurationMicrosecond(Some(last_us));
    exprs.push((cast(expr.clone().unalias(), micros) + lit(duration)).alias(TIME));
    let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input.plan.clone()))?);
    let columns = (0..group.len()).map(GroupColumn::Key).collect();
    let spec = WindowSpec { kind: WindowKind::Tumble { size_us: 1 }, offset_us: 0 };
    let window = WindowGroup { spec, time: bare(TIME), columns, emit, of_rows: false, lag_us: 0 };
    Ok(Some((plan, window, group.to_vec())))
}
