//! The life of a query: decide a batch, run it, publish it, commit it; and after a crash, go on.
//!
//! [`Query::start`] takes the batch log over and spawns the loop. [`QueryHandle`] watches and stops it. The loop
//! itself is `run.rs`: what it does in which order is the promise of the whole system, so it is kept to one page; what
//! each step means when something fails lies in the modules beside it.

mod amend;
mod checkpoint;
mod config;
mod handle;
pub mod intend;
mod progress;
mod publish;
mod recover;
mod retry;
mod run;
mod trigger;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::disk::SharedDisk;
use crate::error::{Error, Result};
use crate::log::{AnswerLog, BatchLog, DroppedLog, LogConfig};
use crate::runner::Runner;
use crate::sink::{Owner, Sink};
use crate::source::Source;
use crate::watermark::Timeline;

pub use config::{OnError, QueryConfig, Retention, RetryPolicy};
pub use handle::{QueryHandle, Stopper};
pub use progress::{Phases, Progress, QueryState, QueryStatus, Recovery};
pub use trigger::Trigger;

/// A source as a query names it.
#[derive(Clone, Debug)]
pub struct QuerySource {
    /// Its name in the query.
    pub name: String,
    /// Where the rows come from.
    pub source: Arc<dyn Source>,
    /// Whether it declares a watermark, and so holds the frontier.
    pub event_time: bool,
}

/// Everything that a query is made of.
pub struct Query {
    /// How it runs.
    pub config: QueryConfig,
    /// What it reads; each name once.
    pub sources: Vec<QuerySource>,
    /// What it does with the rows.
    pub runner: Box<dyn Runner>,
    /// Where the answer goes.
    pub sink: Box<dyn Sink>,
    /// Where its log lies.
    pub disk: SharedDisk,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl Query {
    /// Takes the log over and starts the loop on the tokio runtime of the caller. It goes on where the log ends.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Owned`] where another process runs the query; [`crate::ErrorKind::Config`] or
    /// [`crate::ErrorKind::Query`] where the directory holds another query; [`crate::ErrorKind::Corrupt`] where the
    /// log can't be read. What happens later, [`QueryHandle::wait`] says.
    pub async fn start(self) -> Result<QueryHandle> {
        let Self { config, sources, runner, sink, disk, clock } = self;
        let names: BTreeSet<_> = sources.iter().map(|s| s.name.as_str()).collect();
        if names.len() != sources.len() || sources.is_empty() {
            return Err(Error::bug("a query has at least one source, and each of its sources a name of its own"));
        }
        let now_us = clock.now_us();
        let log = LogConfig {
            dir: config.dir.clone(),
            query: config.name.clone(),
            incarnation: config.incarnation.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
            holder: config.holder.clone().unwrap_or_else(|| format!("process {}", std::process::id())),
            now_us,
            epoch: config.epoch.clone(),
            adopt: config.adopt,
            segment_bytes: config.retention.log_segment_bytes,
        };
        let (log, history) = BatchLog::open(disk.clone(), log).await?;
        let header = log.header();
        let owner = Owner {
            query: config.name.clone(),
            incarnation: header.identity.incarnation.clone(),
            epoch: header.owner.epoch,
        };
        let (stop, stop_seen) = watch::channel(false);
        let board = progress::Board::new(&owner);
        let Retention { log_segment_bytes, dropped_bytes } = config.retention;
        let run = run::Run {
            known: run::Known { timeline: Timeline::new(timed(&sources)), ..run::Known::default() },
            dropped: DroppedLog::new(disk.clone(), config.dir.clone(), log_segment_bytes, dropped_bytes)
                .read_by(config.dropped_readers.clone()),
            answers: AnswerLog::new(disk, config.dir.clone(), log_segment_bytes),
            checkpoints: checkpoint::Checkpoints::default(),
            pace: trigger::Pace::new(clock.elapsed()),
            stop: retry::Stop(stop_seen),
            board: board.clone(),
            config,
            sources,
            runner,
            sink,
            clock,
            log,
            owner,
        };
        Ok(QueryHandle::spawn(run.run_to_end(history), stop, board))
    }
}

fn timed(sources: &[QuerySource]) -> impl Iterator<Item = (&str, bool)> {
    sources.iter().map(|s| (s.name.as_str(), s.event_time))
}
