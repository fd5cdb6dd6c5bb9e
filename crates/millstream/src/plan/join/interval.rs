//! Joins that are bounded in event time: `b.ts BETWEEN a.ts AND a.ts + INTERVAL '10' SECOND`.
//!
//! A comparison says that the event time of a row of one side is at most some column of the other, moved by a
//! constant. Rows with an event time behind the frontier don't come any more. So once the frontier has passed
//! that column, no row that is still to come can be paired with the row: it is forgotten. A join has an interval
//! where both sides are bounded in this way.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Between, BinaryExpr, Cast, Expr, Join, Operator, TryCast};

use super::super::incremental::{ColumnFact, Edge};
use super::JoinTime;
use crate::exec::Expiry;

const DAY_US: i64 = 86_400_000_000;

/// An event time is exact to the microsecond, a column maybe to the nanosecond; and a row of the very time of the
/// frontier may still come.
const SLACK_US: i64 = 2;

/// How long rows lie at the least where the bounds are columns, and nothing says how long they are needed.
const GRANULE_US: i64 = 5_000_000;

/// A column of one side, moved by a constant.
#[derive(Clone, Copy, Debug)]
struct Moment {
    side: usize,
    column: usize,
    offset_us: i64,
}

/// `early <= late`, between the two sides.
#[derive(Clone, Copy, Debug)]
struct Bound {
    early: Moment,
    late: Moment,
}

/// The interval of a join of insert-only sides; unbounded where it has none.
pub fn of(node: &Join, left: &Edge, right: &Edge) -> JoinTime {
    let edges = [left, right];
    let conditions = node.filter.iter().flat_map(split_conjunction);
    let bounds: Vec<Bound> = conditions.flat_map(|c| bounds(c, edges)).collect();
    let (Some(of_left), Some(of_right)) = (bound(0, &bounds, edges), bound(1, &bounds, edges)) else {
        return JoinTime::Unbounded;
    };
    let lags = edges.map(|e| e.lag_us.unwrap_or(0));
    let [left_lag, right_lag] = lags;
    // A row waits for those of the other side, which may come so much later than the frontier.
    let expiry = |of: Bound, lag: i64| {
        let offset_us = of.late.offset_us.saturating_sub(of.early.offset_us).saturating_add(SLACK_US);
        Expiry { column: of.late.column, offset_us: offset_us.saturating_add(lag) }
    };
    let expiries = [expiry(of_left, right_lag), expiry(of_right, left_lag)];
    let timely = |of: Bound| is_event_time(of.late, edges);
    if !timely(of_left) || !timely(of_right) {
        return JoinTime::Interval { expiries, granule_us: GRANULE_US, lag_us: None };
    }
    let reach = |of: Bound| of.late.offset_us.saturating_sub(of.early.offset_us);
    let granule_us = (reach(of_left).saturating_add(reach(of_right)) / 16).clamp(1_000, 3_600_000_000);
    let reach = reach(of_left).max(reach(of_right)).max(0);
    let lag = [reach, left_lag.max(right_lag), granule_us, SLACK_US].into_iter().fold(0i64, i64::saturating_add);
    JoinTime::Interval { expiries, granule_us, lag_us: Some(lag) }
}

/// The bound by which rows of a side are forgotten: the other side's event time is at most one of its columns.
/// A bound by its own event time is better than one by another column.
fn bound(side: usize, bounds: &[Bound], edges: [&Edge; 2]) -> Option<Bound> {
    let fits = |b: &&Bound| b.late.side == side && b.early.side != side && is_event_time(b.early, edges);
    let mut fitting = bounds.iter().filter(fits);
    let timely = fitting.clone().find(|b| is_event_time(b.late, edges));
    timely.or_else(|| fitting.next()).copied()
}

fn is_event_time(moment: Moment, edges: [&Edge; 2]) -> bool {
    let edge = edges.get(moment.side);
    edge.is_some_and(|e| e.facts.get(moment.column) == Some(&ColumnFact::EventTime))
}

/// What a condition says about moments of the two sides.
fn bounds(condition: &Expr, edges: [&Edge; 2]) -> Vec<Bound> {
    let at_most = |early: &Expr, late: &Expr| -> Vec<Bound> {
        moment(early, edges).zip(moment(late, edges)).map(|(early, late)| Bound { early, late }).into_iter().collect()
    };
    match condition {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::Lt | Operator::LtEq => at_most(left, right),
            Operator::Gt | Operator::GtEq => at_most(right, left),
            _ => vec![],
        },
        Expr::Between(Between { expr, negated: false, low, high }) => {
            at_most(low, expr).into_iter().chain(at_most(expr, high)).collect()
        }
        _ => vec![],
    }
}

fn moment(expr: &Expr, edges: [&Edge; 2]) -> Option<Moment> {
    match expr {
        Expr::Column(column) => column_of(column, edges),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus, right }) => match (constant(left), constant(right)) {
            (None, Some(us)) => moved(moment(left, edges)?, us),
            (Some(us), None) => moved(moment(right, edges)?, us),
            _ => None,
        },
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Minus, right }) => {
            moved(moment(left, edges)?, constant(right)?.checked_neg()?)
        }
        // To a finer unit nothing is lost.
        Expr::Cast(Cast { expr, field }) | Expr::TryCast(TryCast { expr, field }) => {
            let inner = moment(expr, edges)?;
            let edge = edges.get(inner.side)?;
            let from = edge.plan.schema().fields().get(inner.column)?;
            (fineness(field.data_type())? >= fineness(from.data_type())?).then_some(inner)
        }
        _ => None,
    }
}

fn column_of(column: &Column, edges: [&Edge; 2]) -> Option<Moment> {
    edges.iter().enumerate().find_map(|(side, edge)| {
        let index = edge.plan.schema().index_of_column(column).ok()?;
        fineness(edge.plan.schema().field(index).data_type())?;
        Some(Moment { side, column: index, offset_us: 0 })
    })
}

fn moved(moment: Moment, us: i64) -> Option<Moment> {
    Some(Moment { offset_us: moment.offset_us.checked_add(us)?, ..moment })
}

/// How fine a timestamp is; `None` for other types.
fn fineness(data_type: &DataType) -> Option<u8> {
    match data_type {
        DataType::Timestamp(TimeUnit::Second, _) => Some(0),
        DataType::Timestamp(TimeUnit::Millisecond, _) => Some(1),
        DataType::Timestamp(TimeUnit::Microsecond, _) => Some(2),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => Some(3),
        _ => None,
    }
}

/// A constant length of time in microseconds, if it is a whole number of them. A month is none.
fn constant(expr: &Expr) -> Option<i64> {
    let Expr::Literal(value, _) = expr else { return None };
    let whole = |ns: i64| (ns % 1_000 == 0).then_some(ns / 1_000);
    match value {
        ScalarValue::IntervalDayTime(Some(v)) => {
            i64::from(v.days).checked_mul(DAY_US)?.checked_add(i64::from(v.milliseconds) * 1_000)
        }
        ScalarValue::IntervalMonthDayNano(Some(v)) if v.months == 0 => {
            i64::from(v.days).checked_mul(DAY_US)?.checked_add(whole(v.nanoseconds)?)
        }
        ScalarValue::DurationSecond(Some(v)) => v.checked_mul(1_000_000),
        ScalarValue::DurationMillisecond(Some(v)) => v.checked_mul(1_000),
        ScalarValue::DurationMicrosecond(Some(v)) => Some(*v),
        ScalarValue::DurationNanosecond(Some(v)) => whole(*v),
        _ => None,
    }
}
