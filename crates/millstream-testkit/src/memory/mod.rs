//! A source, a runner and a sink in memory: small, exact about every promise, and open to a test.
//!
//! The rows are events `(ts, key, value)`. The runner counts them by key as they come, and sums their values by key in
//! tumbling windows that close with the frontier: so keyed state, late rows and the order of batches all show in the
//! answer.

mod runner;
mod sink;
mod source;

pub use runner::{ASKED, MemoryRunner, Outside, POISON, SPOILT, WINDOW_US, window_end};
pub use sink::{MemorySink, SinkFaults, SinkStore, StoredBatch, render};
pub use source::{Event, MemorySource, SourceFaults, SourceStore};
