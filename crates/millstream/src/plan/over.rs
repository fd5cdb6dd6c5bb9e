//! Window functions (OVER): which of them are answered in event time, and which are maintained as a changelog.
//!
//! In event time a row is answered once, when the watermark has passed it: for that the rows must only come,
//! the ORDER BY must begin with their event time, and no frame may look forward. Where a partition has the end
//! of a window in its key, it is over when the window closes, and any function can be answered then.
//! Everything else is in [`super::ranking`].

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::{DFSchemaRef, Result, ScalarValue, internal_err};
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction};
use datafusion::logical_expr::{
    Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore, Window, WindowFrame, WindowFrameBound, WindowFrameUnits,
    WindowFunctionDefinition,
};

use super::incremental::{ColumnFact, Edge, Rewrite, Rewritten, source_column};
use super::lifetime::Lifetimes;
use super::nodes::{StreamAggregate, extension};
use super::refuse::Refusal;
use crate::exec::{Keep, RankKind};
use crate::window::{Dedup, WindowKind, WindowPart, WindowTable};

/// How a window function is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Hash)]
pub enum Answer {
    /// By DataFusion, over the rows that are kept and those that are due.
    Framed,
    /// By counting.
    Rank(RankKind),
    /// By an accumulator from the first row of the partition on; rows that tie are added together, or not.
    Running {
        /// Together.
        peers: bool,
    },
}

/// Window functions in event time. The output is the input's columns and one for each function.
#[derive(Clone, Debug)]
pub struct StreamOver {
    /// The rows, insert-only.
    pub input: LogicalPlan,
    /// The functions, all with one PARTITION BY and one ORDER BY.
    pub functions: Vec<Expr>,
    /// How each is answered.
    pub answers: Vec<Answer>,
    /// The column of the time that a row waits for.
    pub time: Expr,
    /// How long after that time it is due, in microseconds.
    pub after_us: i64,
    /// What is kept of a partition; `None` where it is over with its rows.
    pub keep: Option<Keep>,
    /// Whether rows are late by their own time, not by their windows'.
    pub row_time: bool,
    /// Whether no two rows of a partition tie.
    pub total: bool,
    /// The columns of the output.
    pub schema: DFSchemaRef,
    /// What the state is called.
    pub name: String,
}

/// The call in a window expression.
pub fn call(expr: &Expr) -> Option<&WindowFunction> {
    match expr {
        Expr::WindowFunction(call) => Some(call),
        Expr::Alias(alias) => call(&alias.expr),
        _ => None,
    }
}

/// Which ranking function a window expression calls.
pub fn rank_kind(expr: &Expr) -> Option<RankKind> {
    let WindowFunctionDefinition::WindowUDF(function) = &call(expr)?.fun else { return None };
    match function.name() {
        "row_number" => Some(RankKind::RowNumber),
        "rank" => Some(RankKind::Rank),
        "dense_rank" => Some(RankKind::DenseRank),
        _ => None,
    }
}

/// Refuses functions of one node that do not agree on their partitions and their order.
pub fn check_one_window(functions: &[Expr]) -> Result<&WindowFunction, Refusal> {
    let mut calls = functions.iter().filter_map(call);
    let Some(first) = calls.next() else { return Err(Refusal::bug("a Window node without a window function")) };
    let same = |c: &WindowFunction| {
        c.params.partition_by == first.params.partition_by && c.params.order_by == first.params.order_by
    };
    if calls.all(same) {
        return Ok(first);
    }
    Err(Refusal::new(
        "OVER",
        "these window functions sort alike but have another PARTITION BY or ORDER BY each",
        "compute one of them in a subquery in FROM",
    ))
}

/// The window functions over partitions that are over when a window closes, if these are such.
pub fn in_windows(node: &Window, input: &Edge, first: &WindowFunction) -> Result<Option<Edge>, Refusal> {
    if input.changelog || input.lag_us != Some(0) || !keeps_time(&input.plan) {
        return Ok(None);
    }
    let due = first.params.partition_by.iter().find_map(|key| {
        let column = source_column(key, input.plan.schema())?;
        let Some(ColumnFact::Window { part, spec, .. }) = input.facts.get(column) else { return None };
        match part {
            WindowPart::End => Some((column, 0)),
            WindowPart::Time => {
                let shown = input.plan.schema().field(column).data_type();
                spec.after_time_us(shown).map(|after_us| (column, after_us))
            }
            WindowPart::Start if !matches!(spec.kind, WindowKind::Cumulate { .. }) => Some((column, spec.size_us())),
            WindowPart::Start => None,
        }
    });
    let Some((time, after_us)) = due else { return Ok(None) };
    let answers = node.window_expr.iter().map(|f| rank_kind(f).map_or(Answer::Framed, Answer::Rank)).collect();
    edge(node, input, Parts { answers, time, after_us, keep: None, row_time: false }).map(Some)
}

/// The window functions in event time, if they can be answered so.
pub fn in_event_time(
    node: &Window,
    input: &Edge,
    first: &WindowFunction,
    lifetimes: &Lifetimes,
) -> Result<Option<Edge>, Refusal> {
    let schema = input.plan.schema();
    let Some(by) = first.params.order_by.first().filter(|by| by.asc) else { return Ok(None) };
    // A column that was computed from the event time, by a cast say, is another one.
    let is_time = |c: &usize| {
        matches!(input.facts.get(*c), Some(ColumnFact::EventTime | ColumnFact::Window { part: WindowPart::Time, .. }))
    };
    let Some(time) = source_column(&by.expr, schema).filter(is_time) else {
        return Ok(None);
    };
    if input.changelog || input.lag_us != Some(0) || !keeps_time(&input.plan) {
        return Ok(None);
    }
    let mut keep = Keep::default();
    let mut answers = vec![];
    for function in &node.window_expr {
        let Some((answer, needed)) = call(function).and_then(|c| needed(c, rank_kind(function))) else {
            return Ok(None);
        };
        keep.head = keep.head.max(needed.head);
        keep.tail = keep.tail.max(needed.tail);
        keep.tail_us = keep.tail_us.max(needed.tail_us);
        answers.push(answer);
    }
    let by_time = keep.head == 0 && keep.tail == 0 && answers.iter().all(|a| matches!(a, Answer::Framed));
    if !by_time && !first.params.partition_by.is_empty() {
        lifetimes.refuse(
            "OVER",
            "a partition of these window functions goes on from its first row for ever",
            "give them a frame in time (RANGE BETWEEN INTERVAL .. PRECEDING AND CURRENT ROW), or leave 'state.ttl' out for \
             this query",
        )?;
    }
    // Without a frame in time no row is kept for its time.
    keep.tail_us = keep.tail_us.or(Some(0));
    // `window_time` is a little before the window closes and its rows come.
    let (after_us, row_time) = match input.facts.get(time) {
        Some(ColumnFact::Window { spec, .. }) => (spec.after_time_us(schema.field(time).data_type()), false),
        _ => (Some(0), true),
    };
    let Some(after_us) = after_us else { return Ok(None) };
    let parts = Parts { answers, time, after_us, keep: Some(keep), row_time };
    edge(node, input, parts).map(Some)
}

struct Parts {
    answers: Vec<Answer>,
    time: usize,
    after_us: i64,
    keep: Option<Keep>,
    row_time: bool,
}

fn edge(node: &Window, input: &Edge, parts: Parts) -> Result<Edge, Refusal> {
    let Parts { answers, time, after_us, keep, row_time } = parts;
    let functions = node.window_expr.clone();
    let window = Window::try_new(functions.clone(), Arc::new(input.plan.clone()))?;
    let time = Expr::Column(input.plan.schema().qualified_field(time).into());
    let text = functions.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let name = format!("over-{:016x}", fingerprint(&format!("{text}|{time}|{}", input.plan.display_indent())));
    let mut facts = input.facts.clone();
    facts.resize(window.schema.fields().len(), ColumnFact::Plain);
    let total = is_total(&functions, input);
    let (input, schema) = (input.plan.clone(), window.schema);
    let plan = extension(StreamOver { input, functions, answers, time, after_us, keep, row_time, total, schema, name });
    Ok(Edge { plan, changelog: false, key: None, facts, lag_us: Some(0) })
}

/// Whether PARTITION BY and ORDER BY hold a key of the rows: then no two of a partition tie.
pub fn is_total(functions: &[Expr], input: &Edge) -> bool {
    let Some((key, call)) = input.key.as_ref().zip(functions.first().and_then(call)) else { return false };
    let ordered = call.params.order_by.iter().map(|by| &by.expr);
    let by = ordered.chain(&call.params.partition_by).filter_map(|e| source_column(e, input.plan.schema()));
    let by: Vec<usize> = by.collect();
    key.iter().all(|k| by.contains(k))
}

/// A number for what an operator keeps.
pub fn fingerprint(text: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(text.as_bytes())
}

impl Rewrite {
    /// DEDUP: each row once its time has passed, in the order of time.
    pub(super) fn dedup(&self, node: &Extension) -> Rewritten {
        let Some(dedup) = node.node.as_any().downcast_ref::<Dedup>() else {
            return Err(Refusal::bug("another node than DEDUP"));
        };
        let input = self.node(&dedup.input)?;
        if input.changelog || input.lag_us != Some(0) || !keeps_time(&input.plan) {
            return Err(Refusal::new(
                "DEDUP",
                "DEDUP takes rows in the order of their event time, which a result that changes, or a join, has not",
                "put DEDUP on the table itself, or keep one row a key with ROW_NUMBER() OVER (PARTITION BY ..) = 1",
            ));
        }
        let text = format!("{:?}|{}|{}|{}", dedup.keys, dedup.time, dedup.horizon_us, input.plan.display_indent());
        let state = format!("dedup-{:016x}", fingerprint(&text));
        let Edge { plan, facts, .. } = input;
        let dedup = Dedup { state, ..Dedup::try_new(plan, dedup.keys.clone(), dedup.time.clone(), dedup.horizon_us)? };
        Ok(Edge { plan: extension(dedup), changelog: false, key: None, facts, lag_us: Some(0) })
    }
}

/// Whether a plan's rows come with their event time ahead of the frontier, or as the frontier passes it.
fn keeps_time(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::TableScan(_) => true,
        LogicalPlan::Projection(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::Unnest(_) => plan.inputs().into_iter().all(keeps_time),
        LogicalPlan::Extension(node) => {
            let node = node.node.as_any();
            node.is::<WindowTable>() && plan.inputs().into_iter().all(keeps_time)
                || node.is::<StreamOver>()
                || node.is::<Dedup>()
                || node.downcast_ref::<StreamAggregate>().is_some_and(|a| !a.is_changelog())
        }
        _ => false,
    }
}

/// How a function is answered in event time and what is kept for it; `None` where it has to look forward, or back
/// without end.
fn needed(call: &WindowFunction, rank: Option<RankKind>) -> Option<(Answer, Keep)> {
    let params = &call.params;
    let none = Keep::default();
    if let Some(kind) = rank {
        return Some((Answer::Rank(kind), none));
    }
    let frame = &params.window_frame;
    match &call.fun {
        WindowFunctionDefinition::AggregateUDF(_) => {
            if frame.start_bound.is_unbounded() {
                let running = Answer::Running { peers: frame.units != WindowFrameUnits::Rows };
                return (frame.end_bound == WindowFrameBound::CurrentRow).then_some((running, none));
            }
            Some((Answer::Framed, looks_back(frame)?))
        }
        WindowFunctionDefinition::WindowUDF(function) => {
            if params.null_treatment == Some(NullTreatment::IgnoreNulls) {
                return None;
            }
            let keep = match function.name() {
                "lag" => Keep { tail: offset(params.args.get(1))?, ..none },
                "first_value" => first_rows(frame, 1)?,
                "nth_value" => first_rows(frame, offset(params.args.get(1)).filter(|n| *n > 0)?)?,
                "last_value" => first_rows(frame, 0)?,
                _ => return None,
            };
            Some((Answer::Framed, keep))
        }
    }
}

/// A number of rows that is written as a literal; 1 where nothing is written.
fn offset(argument: Option<&Expr>) -> Option<usize> {
    match argument {
        None => Some(1),
        Some(Expr::Literal(value, _)) => match value {
            ScalarValue::Int64(Some(n)) => usize::try_from(*n).ok(),
            ScalarValue::UInt64(Some(n)) => usize::try_from(*n).ok(),
            ScalarValue::Int32(Some(n)) => usize::try_from(*n).ok(),
            _ => None,
        },
        Some(_) => None,
    }
}

/// What is kept for a function that asks for so many of the first rows of its frame.
fn first_rows(frame: &WindowFrame, rows: usize) -> Option<Keep> {
    match frame.start_bound.is_unbounded() {
        true => (frame.end_bound == WindowFrameBound::CurrentRow).then_some(Keep { head: rows, ..Keep::default() }),
        false => looks_back(frame),
    }
}

/// What is kept for a frame that has a first row and ends with the current one, or before it.
fn looks_back(frame: &WindowFrame) -> Option<Keep> {
    let none = Keep::default();
    if !matches!(frame.end_bound, WindowFrameBound::CurrentRow | WindowFrameBound::Preceding(_)) {
        return None;
    }
    match (&frame.units, &frame.start_bound) {
        (WindowFrameUnits::Rows | WindowFrameUnits::Range, WindowFrameBound::CurrentRow) => Some(none),
        (WindowFrameUnits::Rows, WindowFrameBound::Preceding(ScalarValue::UInt64(Some(rows)))) => {
            Some(Keep { tail: usize::try_from(*rows).ok()?, ..none })
        }
        (WindowFrameUnits::Range, WindowFrameBound::Preceding(length)) => {
            Some(Keep { tail_us: Some(micros(length)?), ..none })
        }
        _ => None,
    }
}

/// The microseconds of an interval, rounded up: a month has 31 days, and a day an hour more where clocks change.
fn micros(length: &ScalarValue) -> Option<i64> {
    const HOUR: i64 = 3_600_000_000;
    let days = |months: i32, days: i32| {
        let days = i64::from(months).checked_mul(31)?.checked_add(i64::from(days))?;
        days.checked_mul(24 * HOUR)?.checked_add(if days == 0 { 0 } else { HOUR })
    };
    let us = match length {
        ScalarValue::IntervalMonthDayNano(Some(i)) => days(i.months, i.days)?.checked_add(i.nanoseconds / 1000 + 1)?,
        ScalarValue::IntervalDayTime(Some(i)) => days(0, i.days)?.checked_add(i64::from(i.milliseconds) * 1000)?,
        ScalarValue::IntervalYearMonth(Some(months)) => days(*months, 0)?,
        ScalarValue::DurationSecond(Some(d)) => d.checked_mul(1_000_000)?,
        ScalarValue::DurationMillisecond(Some(d)) => d.checked_mul(1000)?,
        ScalarValue::DurationMicrosecond(Some(d)) => *d,
        ScalarValue::DurationNanosecond(Some(d)) => d / 1000 + 1,
        _ => return None,
    };
    (us >= 0).then_some(us)
}

impl StreamOver {
    fn identity(&self) -> (&LogicalPlan, &[Expr], &Expr, &String) {
        (&self.input, &self.functions, &self.time, &self.name)
    }
}

impl PartialEq for StreamOver {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for StreamOver {}

impl PartialOrd for StreamOver {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.name.partial_cmp(&other.name)
    }
}

impl Hash for StreamOver {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl UserDefinedLogicalNodeCore for StreamOver {
    fn name(&self) -> &str {
        "StreamOver"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.functions.iter().cloned().chain([self.time.clone()]).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let list = self.functions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "StreamOver: {list}, time={}, state={}", self.time, self.name)
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let (Some(input), Some(time)) = (inputs.pop(), exprs.pop()) else {
            return internal_err!("window functions have one input and a time");
        };
        let schema = Window::try_new(exprs.clone(), Arc::new(input.clone()))?.schema;
        Ok(Self { input, functions: exprs, time, schema, ..self.clone() })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        necessary(&self.input, &self.expressions(), output_columns)
    }
}

/// The columns of the input that are passed on, and those that expressions read.
pub fn necessary(input: &LogicalPlan, exprs: &[Expr], output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
    let schema = input.schema();
    let mut needed: Vec<usize> = output_columns.iter().copied().filter(|c| *c < schema.fields().len()).collect();
    for expr in exprs {
        for column in expr.column_refs() {
            needed.push(schema.index_of_column(column).ok()?);
        }
    }
    needed.sort_unstable();
    needed.dedup();
    Some(vec![needed])
}
