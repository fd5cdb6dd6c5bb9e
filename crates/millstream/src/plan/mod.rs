//! From a planned query to one that runs: analyze, optimize, make incremental, prune, compile.
//!
//! What has no incremental meaning is refused here, before anything is read.

mod clock;
mod compile;
mod describe;
mod incremental;
mod late;
mod nodes;
mod physical;
mod refuse;
mod rules;
mod window_group;

pub use clock::BatchTime;
pub use compile::{Compiled, Exactness, compile};
pub use describe::describe_state;
pub use incremental::EmitMode;
pub use late::LateBound;
pub use nodes::{StreamAggregate, StreamScan, WindowGroup};
pub use physical::StreamPlanner;
pub use refuse::Refusal;
pub use rules::analyze;
