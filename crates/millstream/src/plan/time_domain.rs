//! What moves a query's frontier: event times, or the clock where its windows are over PROCTIME().

use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;

use super::refuse::Refusal;
use crate::window::{SessionTable, WindowTable, is_processing_time};

/// What the frontier of a query counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeDomain {
    /// Event time: it follows the rows, and some of them can be late.
    #[default]
    Event,
    /// The times of the batches: every row is of the batch that reads it, and none is late.
    Processing,
}

impl TimeDomain {
    /// The domain of a plan as it was planned from SQL.
    ///
    /// # Errors
    /// Where some windows are over event time and others over the clock: there is one frontier.
    pub fn of(plan: &LogicalPlan) -> std::result::Result<Self, Refusal> {
        let mut found: Option<Self> = None;
        let mut mixed = false;
        plan.apply_with_subqueries(|node| {
            if let Some(domain) = of_window(node)? {
                mixed |= *found.get_or_insert(domain) != domain;
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        if mixed {
            return Err(Refusal::new(
                "DESCRIPTOR",
                "some windows of the query are over event time and others over PROCTIME(), and a query has one time by \
                 which its windows close",
                "write the one into a table or topic of its own, and read it from there",
            ));
        }
        Ok(found.unwrap_or_default())
    }
}

fn of_window(node: &LogicalPlan) -> Result<Option<TimeDomain>> {
    let LogicalPlan::Extension(node) = node else { return Ok(None) };
    let any = node.node.as_any();
    let (input, time) = if let Some(window) = any.downcast_ref::<WindowTable>() {
        (&window.input, window.time_index()?)
    } else if let Some(session) = any.downcast_ref::<SessionTable>() {
        (&session.input, session.time_index()?)
    } else {
        return Ok(None);
    };
    let processing = is_processing_time(input.schema().field(time));
    Ok(Some(if processing { TimeDomain::Processing } else { TimeDomain::Event }))
}
