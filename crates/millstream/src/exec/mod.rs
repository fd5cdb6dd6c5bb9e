//! The physical operators that keep state across batches, and those that hand them their rows.
//!
//! A compiled plan is executed once for each batch, with `reset_plan_states` between: the batch comes in the
//! task context ([`BatchContext`]), and what is remembered lies behind a handle that every copy of a node
//! shares ([`states`]). A node *stages* what it will remember; the runner installs it when the batch commits
//! and discards it when the batch fails. No node installs or discards anything itself.
//!
//! Rows are met in log order, so a node reads one partition. Its answer over the rows so far is what
//! DataFusion answers over them at once: with the same accumulators, the same equality of keys.

mod accumulate;
mod aggregate;
mod as_of;
mod changes;
mod context;
mod dedup;
mod distinct;
mod event_time;
mod expand;
mod expand_sets;
mod final_answer;
mod grouping;
mod idle;
mod join;
mod limit;
mod memory;
mod node;
mod once;
mod ordered;
mod over;
mod rank;
mod ranking;
mod retract;
mod scan;
mod sequential;
mod session;
mod session_table;
mod set_op;
mod sorted;
mod sorted_groups;
mod stateful;
mod top_n;
mod upsert;
mod waiting;
mod window;

use std::sync::{Arc, Mutex};

use datafusion::physical_plan::ExecutionPlan;
use millstream_state::OperatorState;

pub use accumulate::Aggregate;
pub use aggregate::{KeyedAggregate, KeyedAggregateExec};
pub use as_of::{AsOfJoin, Asked, Lookup, LookupExec, May, TableJoinExec, TableVersion, VersionJoinExec, Versions};
pub use context::BatchContext;
pub use dedup::DedupExec;
pub use expand::WindowTableExec;
pub use expand_sets::GroupingSetsExec;
pub use final_answer::FinalExec;
pub use join::{Expiry, Interval, Join, JoinExec, WindowJoinExec};
pub use limit::LimitExec;
pub use memory::{Lifetime, Memory};
pub use once::OnceExec;
pub use ordered::Head;
pub use over::{Keep, Over, OverExec, OverFunction};
pub use rank::RankKind;
pub use ranking::{Ranking, RankingExec};
pub use retract::{RetractAggregate, RetractAggregateExec};
pub use scan::ScanExec;
pub use sequential::{SequentialExec, sequential};
pub use session::{SessionExec, Sessions};
pub use session_table::SessionTableExec;
pub use set_op::{SetOp, SetOpExec};
pub use stateful::StatefulExec;
pub use top_n::{TopN, TopNExec};
pub use upsert::UpsertExec;
pub use window::{EmitMode, GroupColumn, WindowAggregate, WindowAggregateExec};

/// The states of all operators of a plan, with their names, from the inputs up.
pub fn states(plan: &Arc<dyn ExecutionPlan>) -> Vec<(String, Arc<Mutex<dyn OperatorState>>)> {
    let mut found: Vec<_> = plan.children().into_iter().flat_map(states).collect();
    if let Some(node) = plan.downcast_ref::<StatefulExec>() {
        found.push((node.state_name().to_string(), node.state()));
    }
    found
}

/// The frontier that one of the operators of a plan waits for, the earliest of them: it then has something to answer.
pub fn due_us(plan: &Arc<dyn ExecutionPlan>) -> Option<i64> {
    let own = plan.downcast_ref::<StatefulExec>().and_then(StatefulExec::due_us);
    plan.children().into_iter().filter_map(due_us).chain(own).min()
}

#[cfg(test)]
mod tests;
