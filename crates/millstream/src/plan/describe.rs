//! What a plan keeps between batches, and for how long, in a line for each operator.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::LogicalPlan;

use super::nodes::StreamAggregate;
use crate::exec::EmitMode as WindowEmit;

/// A line for each operator that keeps state; one that says so where there is none.
pub fn describe_state(plan: &LogicalPlan) -> Vec<String> {
    let mut lines = vec![];
    let walked = plan.apply(|node| {
        if let LogicalPlan::Extension(node) = node
            && let Some(aggregate) = node.node.as_any().downcast_ref::<StreamAggregate>()
        {
            lines.push(of_aggregate(aggregate));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    if walked.is_err() || lines.is_empty() {
        lines.push("none".to_string());
    }
    lines
}

fn of_aggregate(node: &StreamAggregate) -> String {
    let keys: Vec<_> = node.keys.iter().map(ToString::to_string).collect();
    let keys = if keys.is_empty() { "one row".to_string() } else { format!("a row for each ({})", keys.join(", ")) };
    match &node.window {
        None if node.keys.is_empty() => format!("{}: one row, for ever", node.name),
        None => format!("{}: {keys}, for ever: it grows with the number of groups; a window would bound it", node.name),
        Some(window) => {
            let emit = match window.emit {
                WindowEmit::OnClose => "answered once, on close",
                WindowEmit::Changes => "answered as it changes",
            };
            format!(
                "{}: {keys} in each pane of {}, until the watermark passes its last window; {emit}",
                node.name, window.spec
            )
        }
    }
}
