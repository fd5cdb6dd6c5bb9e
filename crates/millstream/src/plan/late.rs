//! When a row is late: one bound for each source, compiled from the plan.
//!
//! The bound of a row is the earliest moment at which something that it belongs to is closed. Where several
//! operators read a source, the strictest of them decides, once, at the source's edge: no operator ever meets
//! a row of a window that it has closed.

use std::collections::BTreeMap;

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::LogicalPlan;

use super::join::{JoinTime, stream_join};
use super::nodes::StreamAggregate;
use super::over::StreamOver;
use super::session::StreamSession;
use crate::temporal::{AsOf, TemporalJoin};
use crate::window::{Dedup, WindowSpec, WindowTable};

/// The bound of a source's rows. Where nothing ever closes, a row is never late.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LateBound {
    windows: Vec<WindowSpec>,
    /// How long after its own time a row is closed, in microseconds, where that decides: 0 where the instant itself is
    /// answered when the watermark reaches it, 1 where it is when the watermark has passed it.
    after_us: Option<i64>,
}

impl LateBound {
    /// Whether a row can be late at all.
    pub fn is_some(&self) -> bool {
        self.after_us.is_some() || !self.windows.is_empty()
    }

    /// Whether a row is late by its own time: every window of it closes after that.
    pub fn is_row_time(&self) -> bool {
        self.after_us.is_some()
    }

    /// The event time in microseconds at which the first thing that a row of this time belongs to is closed: a window
    /// at its end, or the row's own instant.
    pub fn of(&self, time_us: i64) -> i64 {
        let own = self.after_us.map(|after_us| time_us.saturating_add(after_us));
        self.windows.iter().map(|w| w.first_end(time_us)).chain(own).min().unwrap_or(i64::MAX)
    }
}

/// The bounds by table name.
pub fn bounds(plan: &LogicalPlan) -> Result<BTreeMap<String, LateBound>> {
    let mut bounds = BTreeMap::new();
    plan.apply(|node| {
        if let Some(aggregate) = stream_aggregate(node)
            && let Some(window) = &aggregate.window
        {
            let own = window.of_rows.then_some(window.spec);
            add(&aggregate.input, Closes { window: own, after_us: None }, &mut bounds)?;
        }
        if let Some(over) = stream_over(node) {
            add(&over.input, Closes { window: None, after_us: over.row_time.then_some(0) }, &mut bounds)?;
        }
        if let Some(dedup) = dedup(node) {
            add(&dedup.input, Closes { window: None, after_us: Some(0) }, &mut bounds)?;
        }
        if let Some(session) = session(node) {
            add(&session.table.input, Closes { window: None, after_us: Some(0) }, &mut bounds)?;
        }
        if let Some(join) = temporal_join(node)
            && let AsOf::EventTime { .. } = join.as_of
        {
            // Behind the frontier the version of a row is decided, and those before it are forgotten.
            for side in [&join.left, &join.right] {
                add(side, Closes { window: None, after_us: Some(0) }, &mut bounds)?;
            }
        }
        if let Some(join) = stream_join(node) {
            for side in [&join.left, &join.right] {
                match join.time {
                    JoinTime::Unbounded => {}
                    JoinTime::Windows { .. } => add(side, Closes { window: None, after_us: None }, &mut bounds)?,
                    JoinTime::Interval { .. } => add(side, Closes { window: None, after_us: Some(1) }, &mut bounds)?,
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(bounds)
}

/// What closes over the rows of a table.
#[derive(Clone, Copy)]
struct Closes {
    window: Option<WindowSpec>,
    after_us: Option<i64>,
}

/// Adds what closes to every table below, up to the operators that make new rows.
fn add(plan: &LogicalPlan, closes: Closes, bounds: &mut BTreeMap<String, LateBound>) -> Result<()> {
    plan.apply(|node| {
        if stream_aggregate(node).is_some() || stream_join(node).is_some() || session(node).is_some() {
            return Ok(TreeNodeRecursion::Jump);
        }
        if let Some(join) = temporal_join(node) {
            // What is answered has the times of the left side.
            add(&join.left, closes, bounds)?;
            return Ok(TreeNodeRecursion::Jump);
        }
        if let Some(table) = window_table(node) {
            // The operator above uses the columns that this table made: its windows are the operator's.
            add(&table.input, Closes { window: Some(table.spec), ..closes }, bounds)?;
            return Ok(TreeNodeRecursion::Jump);
        }
        if let LogicalPlan::TableScan(scan) = node
            && (closes.after_us.is_some() || closes.window.is_some())
        {
            let bound: &mut LateBound = bounds.entry(scan.table_name.table().to_string()).or_default();
            bound.after_us = bound.after_us.into_iter().chain(closes.after_us).min();
            bound.windows.extend(closes.window.filter(|w| !bound.windows.contains(w)));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

fn dedup(plan: &LogicalPlan) -> Option<&Dedup> {
    let LogicalPlan::Extension(node) = plan else { return None };
    node.node.as_any().downcast_ref()
}

fn stream_over(plan: &LogicalPlan) -> Option<&StreamOver> {
    let LogicalPlan::Extension(node) = plan else { return None };
    node.node.as_any().downcast_ref()
}

fn stream_aggregate(plan: &LogicalPlan) -> Option<&StreamAggregate> {
    let LogicalPlan::Extension(node) = plan else { return None };
    node.node.as_any().downcast_ref()
}

fn session(plan: &LogicalPlan) -> Option<&StreamSession> {
    let LogicalPlan::Extension(node) = plan else { return None };
    node.node.as_any().downcast_ref()
}

fn temporal_join(plan: &LogicalPlan) -> Option<&TemporalJoin> {
    let LogicalPlan::Extension(node) = plan else { return None };
    node.node.as_any().downcast_ref()
}

fn window_table(plan: &LogicalPlan) -> Option<&WindowTable> {
    let LogicalPlan::Extension(node) = plan else { return None };
    node.node.as_any().downcast_ref()
}
