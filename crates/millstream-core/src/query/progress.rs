//! What a query says of itself while it runs: plain values.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use crate::batch::{Account, BatchId};
use crate::sink::Owner;

/// Progress messages that a slow listener may be behind before it misses some.
const BEHIND_MAX: usize = 1024;

/// Where the time of a batch went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Asking the sources, and deciding.
    pub intend: Duration,
    /// Running, and the fsync of the intent beside it.
    pub run: Duration,
    /// The sink, and the dropped rows beside it.
    pub publish: Duration,
    /// Committing, and what was done for checkpoints.
    pub commit: Duration,
}

/// What came of one batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// The batch.
    pub batch: BatchId,
    /// When it was committed: microseconds since 1970-01-01 UTC.
    pub time_us: i64,
    /// Rows read.
    pub rows_in: u64,
    /// Rows published.
    pub rows_out: u64,
    /// The account of the batch, per source.
    pub account: Vec<Account>,
    /// The account since the first batch, per source.
    pub totals: Vec<Account>,
    /// Rows published since the first batch.
    pub total_rows_out: u64,
    /// From the first question to the commit.
    pub duration: Duration,
    /// Where it went.
    pub phases: Phases,
    /// The frontier after the batch: event time in microseconds.
    pub frontier: Option<i64>,
    /// How much more there was to read, in the sources' own measure, where they know it.
    pub lag: Option<u64>,
    /// It was run again after a crash.
    pub replayed: bool,
}

impl Progress {
    /// Rows read in a second.
    pub fn rows_per_second(&self) -> f64 {
        self.rows_in as f64 / self.duration.as_secs_f64().max(1e-6)
    }
}

/// What a query does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum QueryState {
    /// It restores its state and runs again what came since.
    #[default]
    Recovering,
    /// It runs batches.
    Running,
    /// There is nothing to read.
    Resting,
    /// A source or a sink is away.
    Retrying {
        /// What is tried.
        what: String,
        /// Why it failed the last time.
        error: String,
    },
    /// It has stopped cleanly; it can be started again.
    Stopped,
    /// Every source has ended.
    Ended,
    /// It has stopped with an error.
    Failed {
        /// The error.
        error: String,
    },
}

/// How a query went on after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The batch of the checkpoint that was restored; `None` where it began from nothing.
    pub checkpoint: Option<BatchId>,
    /// Batches that were run again.
    pub replayed: u64,
    /// How many of these were published, because the sink didn't have them.
    pub published: u64,
    /// The last batch of the log.
    pub last: BatchId,
    /// Why a newer checkpoint was passed over.
    pub passed_over: Option<String>,
}

/// A query at this moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryStatus {
    /// Its name.
    pub name: String,
    /// Its incarnation.
    pub incarnation: String,
    /// Greater with every process that has run it.
    pub epoch: u64,
    /// What it does.
    pub state: QueryState,
    /// The last batch.
    pub progress: Option<Arc<Progress>>,
    /// The batch of the newest durable checkpoint.
    pub checkpoint: Option<BatchId>,
    /// How it went on, where it did not begin here.
    pub recovery: Option<Recovery>,
}

/// Where the loop puts what it has to say.
#[derive(Clone, Debug)]
pub(super) struct Board {
    pub(super) status: Arc<watch::Sender<QueryStatus>>,
    pub(super) progress: broadcast::Sender<Arc<Progress>>,
}

impl Board {
    pub(super) fn new(owner: &Owner) -> Self {
        let Owner { query, incarnation, epoch } = owner.clone();
        let status = QueryStatus { name: query, incarnation, epoch, ..QueryStatus::default() };
        Self { status: Arc::new(watch::Sender::new(status)), progress: broadcast::Sender::new(BEHIND_MAX) }
    }

    pub(super) fn state(&self, state: QueryState) {
        self.status.send_if_modified(|status| {
            let changed = status.state != state;
            status.state = state;
            changed
        });
    }

    pub(super) fn recovery(&self, recovery: Recovery) {
        self.status.send_modify(|status| status.recovery = Some(recovery));
    }

    pub(super) fn checkpoint(&self, batch: BatchId) {
        self.status.send_modify(|status| status.checkpoint = Some(batch));
    }

    pub(super) fn batch(&self, progress: Progress) {
        let progress = Arc::new(progress);
        let state = if progress.replayed { QueryState::Recovering } else { QueryState::Running };
        self.status.send_modify(|status| {
            status.state = state;
            status.progress = Some(progress.clone());
        });
        // Nobody listening is no error.
        let _ = self.progress.send(progress);
    }
}
