//! From a planned query to one that runs: analyze, optimize, make incremental, prune, compile.
//!
//! What has no incremental meaning is refused here, before anything is read.

mod aggregate;
mod arrival;
mod clock;
mod compile;
mod describe;
mod exactness;
mod final_answer;
mod grouping_sets;
mod guard;
mod incremental;
mod join;
mod late;
mod lifetime;
mod nodes;
mod once;
mod over;
mod physical;
mod ranking;
mod refuse;
mod rules;
mod session;
mod set_op;
mod temporal;
mod time_domain;
mod upsert;
mod versions;
mod window_group;

pub use arrival::arrival_in_batch;
pub use clock::BatchTime;
pub(crate) use clock::bind as bind_clock;
pub use compile::{Asked, Compiled, compile};
pub use describe::{describe_nodes, describe_state};
pub use exactness::Exactness;
pub use guard::{guard, guard_inputs};
pub use incremental::EmitMode;
pub use join::{JoinTime, StreamJoin};
pub use late::LateBound;
pub use lifetime::Lifetimes;
pub use nodes::{StreamAggregate, StreamScan, WindowGroup};
pub use over::StreamOver;
pub use physical::StreamPlanner;
pub use ranking::{StreamLimit, StreamRanking, distinct_on_as_rank};
pub use refuse::Refusal;
pub use rules::analyze;
pub use temporal::in_batch as temporal_in_batch;
pub use time_domain::TimeDomain;
pub use upsert::StreamUpsert;
