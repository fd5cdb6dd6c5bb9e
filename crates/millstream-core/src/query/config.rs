//! How a query runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::log::{DroppedReaders, Epoch};
use crate::source::Limit;

use super::trigger::Trigger;

/// What happens where a row makes an expression fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The row is left out and lands in `<source>$rejected`.
    #[default]
    Reject,
    /// The query stops and names the row.
    Stop,
}

/// How long what is passing is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The first pause; each one is twice the one before.
    pub first: Duration,
    /// The longest pause.
    pub max: Duration,
    /// An error that lasts longer than this stops the query.
    pub give_up_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { first: Duration::from_millis(50), max: Duration::from_secs(10), give_up_after: Duration::from_secs(300) }
    }
}

/// How much is kept on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// The size at which a segment of the log, or of the dropped rows, is followed by a new one.
    pub log_segment_bytes: u64,
    /// About how much is kept of dropped rows.
    pub dropped_bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { log_segment_bytes: 8 << 20, dropped_bytes: 1 << 30 }
    }
}

/// How a query runs.
#[derive(Clone, Debug)]
pub struct QueryConfig {
    /// The query's name.
    pub name: String,
    /// The directory of its log.
    pub dir: PathBuf,
    /// What it is made of; recorded, and compared with what the log says.
    pub epoch: Epoch,
    /// How much a batch may hold. Each source gets an equal share.
    pub limit: Limit,
    /// When a batch begins.
    pub trigger: Trigger,
    /// After how long a partition that was read to its end steps aside, by the source's name. Without one, and in
    /// bounded sources, it never does.
    pub idle_timeouts: BTreeMap<String, Duration>,
    /// A checkpoint is made when re-running what came since the last one would take about so long.
    pub checkpoint_work: Duration,
    /// How long a commit waits for company when the stream rests, before it is flushed by itself.
    pub commit_linger: Duration,
    /// What happens where a row makes an expression fail.
    pub on_error: OnError,
    /// More such rows in one batch stop the query: then it is the expression, not the rows.
    pub poison_rows_max: usize,
    /// Goes on where a batch, run again, gives other rows than were published; those stand.
    pub accept_divergence: bool,
    /// Goes on from the log of another name or plan.
    pub adopt: bool,
    /// How long a source or a sink that is away is waited for.
    pub retry: RetryPolicy,
    /// How much is kept on disk.
    pub retention: Retention,
    /// Who reads the dropped rows while the query runs: what they have not read is kept beside what retention keeps.
    pub dropped_readers: Option<Arc<dyn DroppedReaders>>,
    /// The incarnation of a query that begins here; a new UUID where it is not given.
    pub incarnation: Option<String>,
    /// Who runs the query, for a person; the process id where it is not given.
    pub holder: Option<String>,
}

impl QueryConfig {
    /// A query of this name with its log in this directory, and everything else as it usually is.
    pub fn new(name: impl Into<String>, dir: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            dir: dir.into(),
            epoch: Epoch::default(),
            limit: Limit { rows: 64 << 10, bytes: 64 << 20 },
            trigger: Trigger::Continuous,
            idle_timeouts: BTreeMap::new(),
            checkpoint_work: Duration::from_millis(1500),
            commit_linger: Duration::from_millis(20),
            on_error: OnError::Reject,
            poison_rows_max: 1000,
            accept_divergence: false,
            adopt: false,
            retry: RetryPolicy::default(),
            retention: Retention::default(),
            dropped_readers: None,
            incarnation: None,
            holder: None,
        }
    }
}
