//! Joins of a streaming plan: which of three forms a join takes, and what is known of its answer.
//!
//! - *Windows*: both sides carry windows of the same kind and their bounds must be equal. The join answers each
//!   window once, when it closes.
//! - *Interval*: each side's event time is bounded by columns of the other. Rows are forgotten as the watermark
//!   passes; the answer is insert-only.
//! - Otherwise every row is kept as long as it is not taken back, and the answer changes with it.

mod interval;
mod node;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::{DFSchema, DFSchemaRef, JoinType, NullEquality, Result};
use datafusion::logical_expr::builder::build_join_schema;
use datafusion::logical_expr::{Expr, Join, LogicalPlan};

use super::incremental::{ColumnFact, Edge, source_column};
use super::lifetime::{Lifetimes, named};
use super::nodes::extension;
use super::refuse::Refusal;
use crate::changelog::WEIGHT;
use crate::exec::{Expiry, Lifetime};
use crate::window::{WindowKind, WindowPart, WindowSpec};

pub use node::{JoinTime, StreamJoin, join_keys};

/// The incremental form of a join of two edges.
pub fn rewrite(node: &Join, left: Edge, right: Edge, lifetimes: &Lifetimes) -> Result<Edge, Refusal> {
    check_clock(node, &left, &right)?;
    let schemas = [answer_schema(&left)?, answer_schema(&right)?];
    let time = time_of(node, &left, &right);
    let insert_only = !left.changelog && !right.changelog;
    let settles = matches!(node.join_type, JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi);
    let changelog = !insert_only || (time == JoinTime::Unbounded && !settles);

    let joined = build_join_schema(&schemas[0], &schemas[1], &node.join_type)?;
    let mut fields: Vec<_> = joined.iter().map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
    if changelog {
        fields.push((None, Arc::new(Field::new(WEIGHT, DataType::Int64, false))));
    }
    let schema: DFSchemaRef = Arc::new(DFSchema::new_with_metadata(fields, joined.metadata().clone())?);

    let facts = facts(node.join_type, time, &left, &right, schema.fields().len());
    let key = key(node, &left, &right);
    let lag_us = match time {
        JoinTime::Unbounded => None,
        JoinTime::Windows { .. } => left.lag_us.max(right.lag_us),
        JoinTime::Interval { lag_us, .. } => lag_us,
    };
    let lifetime = match time {
        JoinTime::Unbounded => lifetimes.of_join(&left.plan, &right.plan),
        _ => Lifetime::default(),
    };
    if node.null_aware {
        lifetimes.refuse(
            "NOT",
            "whether anything is NOT IN a list depends on all of the list",
            "write NOT EXISTS (SELECT .. WHERE a = b), or leave 'state.ttl' out for this query",
        )?;
    }
    let mut join = StreamJoin {
        left: left.plan,
        right: right.plan,
        on: node.on.clone(),
        filter: node.filter.clone(),
        kind: node.join_type,
        null_equals_null: node.null_equality == NullEquality::NullEqualsNull,
        null_aware: node.null_aware,
        changelogs: [left.changelog, right.changelog],
        changelog,
        time,
        lifetime,
        schema,
        name: String::new(),
    };
    join.name = named(join.state_name(), lifetime);
    check_null_aware(&join)?;
    Ok(Edge { plan: extension(join), changelog, key, facts, lag_us })
}

/// The columns of an edge without the weight.
fn answer_schema(edge: &Edge) -> Result<DFSchema> {
    let schema = edge.plan.schema();
    if !edge.changelog {
        return Ok(schema.as_ref().clone());
    }
    let count = schema.fields().len().saturating_sub(1);
    let fields = schema.iter().take(count).map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
    DFSchema::new_with_metadata(fields, schema.metadata().clone())
}

fn check_null_aware(join: &StreamJoin) -> Result<(), Refusal> {
    if !join.null_aware || (join.on.len() == 1 && join.filter.is_none()) {
        return Ok(());
    }
    Err(Refusal::new(
        "NOT IN",
        "NOT IN is not supported here: with a NULL in the list it answers nothing, which depends on all of the list",
        "write NOT EXISTS (SELECT .. WHERE a = b), which says what a NULL means",
    ))
}

/// A pair of rows is compared once where both stay, and only their being a pair is answered.
fn check_clock(node: &Join, left: &Edge, right: &Edge) -> Result<(), Refusal> {
    if node.join_type == JoinType::Inner && !left.changelog && !right.changelog {
        return Ok(());
    }
    let keys = node.on.iter().flat_map(|(l, r)| [l, r]);
    Refusal::check_clock(keys.chain(&node.filter), "in the condition of a join")
}

fn time_of(node: &Join, left: &Edge, right: &Edge) -> JoinTime {
    if left.changelog || right.changelog || node.null_aware {
        return JoinTime::Unbounded;
    }
    let (Some(left_lag), Some(right_lag)) = (left.lag_us, right.lag_us) else { return JoinTime::Unbounded };
    if let Some((spec, closes)) = windows(node, left, right) {
        let lag = left_lag.max(right_lag);
        let closes = closes.map(|c| Expiry { offset_us: c.offset_us.saturating_add(lag), ..c });
        return JoinTime::Windows { spec, closes };
    }
    let marks = matches!(node.join_type, JoinType::LeftMark | JoinType::RightMark);
    if marks { JoinTime::Unbounded } else { interval::of(node, left, right) }
}

/// The windows that both sides are in, and when those of each side's rows close.
fn windows(node: &Join, left: &Edge, right: &Edge) -> Option<(WindowSpec, [Expiry; 2])> {
    node.on.iter().find_map(|(l, r)| {
        let (l, r) = (source_column(l, left.plan.schema())?, source_column(r, right.plan.schema())?);
        let window = |edge: &Edge, column: usize| match edge.facts.get(column) {
            Some(ColumnFact::Window { part, spec, .. }) => Some((*part, *spec)),
            _ => None,
        };
        let (part, spec) = window(left, l)?;
        if window(right, r)? != (part, spec) {
            return None;
        }
        let offset_us = match (part, spec.kind) {
            (WindowPart::End, _) => 0,
            (WindowPart::Start, WindowKind::Tumble { size_us } | WindowKind::Hop { size_us, .. }) => size_us,
            // The start of a window that grows does not say which one it is, and `window_time` has lost the rest.
            _ => return None,
        };
        Some((spec, [l, r].map(|column| Expiry { column, offset_us })))
    })
}

/// What is known of each column of the answer.
fn facts(kind: JoinType, time: JoinTime, left: &Edge, right: &Edge, columns: usize) -> Vec<ColumnFact> {
    let of = |edge: &Edge, padded: bool| -> Vec<ColumnFact> {
        let count = edge.plan.schema().fields().len() - usize::from(edge.changelog);
        let fact = |c: usize| match (edge.facts.get(c), time) {
            _ if padded => ColumnFact::Plain,
            // A row of another window may be paired late: its window has closed by then.
            (Some(ColumnFact::Window { part, spec, .. }), JoinTime::Windows { .. }) => {
                ColumnFact::Window { part: *part, spec: *spec, of_rows: false }
            }
            (Some(ColumnFact::EventTime), JoinTime::Interval { .. }) => ColumnFact::EventTime,
            _ => ColumnFact::Plain,
        };
        (0..count).map(fact).collect()
    };
    use JoinType::{Full, Inner, Left, LeftAnti, LeftMark, LeftSemi, Right, RightAnti, RightMark, RightSemi};
    let mut facts = match kind {
        Inner | Left | Right | Full => {
            let mut facts = of(left, matches!(kind, Right | Full));
            facts.extend(of(right, matches!(kind, Left | Full)));
            facts
        }
        LeftSemi | LeftAnti | LeftMark => of(left, false),
        RightSemi | RightAnti | RightMark => of(right, false),
    };
    facts.resize(columns, ColumnFact::Plain);
    facts
}

/// The columns that are unique among the rows of the answer.
fn key(node: &Join, left: &Edge, right: &Edge) -> Option<Vec<usize>> {
    let offset = left.plan.schema().fields().len() - usize::from(left.changelog);
    let covered = |edge: &Edge, exprs: Vec<&Expr>| {
        let columns: Vec<_> = exprs.into_iter().filter_map(|e| source_column(e, edge.plan.schema())).collect();
        edge.key.as_ref().is_some_and(|key| key.iter().all(|k| columns.contains(k)))
    };
    let right_key = || right.key.as_ref().map(|key| key.iter().map(|k| k + offset).collect::<Vec<_>>());
    let both = || {
        let mut key = left.key.clone()?;
        key.extend(right_key()?);
        Some(key)
    };
    let one_left = covered(left, node.on.iter().map(|(l, _)| l).collect());
    let one_right = covered(right, node.on.iter().map(|(_, r)| r).collect());
    match node.join_type {
        JoinType::Inner | JoinType::Left if one_right && left.key.is_some() => left.key.clone(),
        JoinType::Inner | JoinType::Right if one_left && right.key.is_some() => right_key(),
        JoinType::Inner | JoinType::Left | JoinType::Right => both(),
        // A row of NULLs from the left and one from the right could be equal in both keys.
        JoinType::Full => None,
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => left.key.clone(),
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => right.key.clone(),
    }
}

/// A join in a plan.
pub fn stream_join(plan: &LogicalPlan) -> Option<&StreamJoin> {
    let LogicalPlan::Extension(node) = plan else { return None };
    node.node.as_any().downcast_ref()
}
