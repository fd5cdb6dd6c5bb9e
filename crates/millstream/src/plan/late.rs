//! When a row is late: one bound for each source, compiled from the plan.
//!
//! The bound of a row is the earliest moment at which something that it belongs to is closed. Where several
//! operators read a source, the strictest of them decides, once, at the source's edge: no operator ever meets
//! a row of a window that it has closed.

use std::collections::BTreeMap;

use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::LogicalPlan;

use super::nodes::StreamAggregate;
use crate::window::{WindowSpec, WindowTable};

/// The bound of a source's rows. Without a window a row is never late.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LateBound {
    windows: Vec<WindowSpec>,
}

impl LateBound {
    /// Whether a row can be late at all.
    pub fn is_some(&self) -> bool {
        !self.windows.is_empty()
    }

    /// The event time in microseconds at which the first window of a row of this time is closed.
    pub fn of(&self, time_us: i64) -> i64 {
        self.windows.iter().map(|w| w.first_end(time_us)).min().unwrap_or(i64::MAX)
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
            add(&aggregate.input, own, &mut bounds)?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(bounds)
}

/// Adds a window to every table below, up to the aggregates that make new rows.
fn add(plan: &LogicalPlan, window: Option<WindowSpec>, bounds: &mut BTreeMap<String, LateBound>) -> Result<()> {
    plan.apply(|node| {
        if stream_aggregate(node).is_some() {
            return Ok(TreeNodeRecursion::Jump);
        }
        if let Some(table) = window_table(node) {
            // The aggregate groups by the columns that this table made: its windows are the aggregate's.
            add(&table.input, Some(table.spec), bounds)?;
            return Ok(TreeNodeRecursion::Jump);
        }
        if let (LogicalPlan::TableScan(scan), Some(window)) = (node, window) {
            let bound: &mut LateBound = bounds.entry(scan.table_name.table().to_string()).or_default();
            if !bound.windows.contains(&window) {
                bound.windows.push(window);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

fn stream_aggregate(plan: &LogicalPlan) -> Option<&StreamAggregate> {
    let LogicalPlan::Extension(node) = plan else { return None };
    node.node.as_any().downcast_ref()
}

fn window_table(plan: &LogicalPlan) -> Option<&WindowTable> {
    let LogicalPlan::Extension(node) = plan else { return None };
    node.node.as_any().downcast_ref()
}
