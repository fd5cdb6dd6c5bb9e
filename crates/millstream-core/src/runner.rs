//! The contract of a runner: it turns an intent into rows, and keeps the state between batches.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::batch::{Account, BatchId, Dropped, Intent, PartitionId};
use crate::error::Result;
use crate::sink::Output;
use crate::watermark::Timeline;

/// One batch to run.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// What is read.
    pub intent: &'a Intent,
    /// The event time before the batch. What it is afterwards follows from it by [`Timeline::advance`].
    pub timeline: &'a Timeline,
    /// Rows of the batch that are left out because an expression fails on them: they count as rejected.
    pub left_out: &'a [Dropped],
    /// Run only so much of it, for finding the row that makes an expression fail. The outcome is then never installed.
    pub probe: Option<Probe>,
    /// Where the batch was run before: what it was answered then. Nothing is asked again.
    pub answers: Option<&'a Answers>,
}

impl Task<'_> {
    /// How many of the rows that are used are run over.
    pub fn rows(&self) -> u64 {
        self.probe.map_or(u64::MAX, |probe| probe.rows)
    }

    /// Whether the event time is what it was before the batch.
    pub fn time_stands(&self) -> bool {
        self.probe.is_some_and(|probe| probe.time == ProbeTime::Before)
    }
}

/// A part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The first so many rows that are used, in log order.
    pub rows: u64,
    /// The event time that they meet.
    pub time: ProbeTime,
}

/// The event time of a [`Probe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeTime {
    /// That of the intent: no window closes, so that only the rows themselves can fail.
    Before,
    /// That after the whole batch, however few of its rows are run over: all that it closes closes.
    After,
}

/// What a batch was answered by tables that are read as they are: the rows of looked-up keys, the content of files. In
/// the runner's own form, which it can read again in another process.
///
/// They are no function of the intent. So they are stored before anything of the batch is published, and a batch that
/// is run again is answered by them.
#[derive(Clone, PartialEq, Eq)]
pub struct Answers(pub Arc<[u8]>);

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answers({} bytes)", self.0.len())
    }
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The rows to publish.
    pub output: Output,
    /// The account, per source, in the order of the intent.
    pub account: Vec<Account>,
    /// The watermarks of the partitions that were read, after the batch.
    pub watermarks: BTreeMap<String, BTreeMap<PartitionId, i64>>,
    /// The rows that were left out, with `left_out` of the task among them.
    pub dropped: Vec<Dropped>,
    /// What the batch was answered, where it asked anything and its task brought no answers along.
    pub answers: Option<Answers>,
}

/// A row of a task, counted over the rows that are used, in log order: source, partition, offset.
#[derive(Clone, Debug)]
pub struct UsedRow {
    /// What `$rejected` will hold of the row; the reason is filled in by the caller.
    pub row: Dropped,
}

/// Turns an intent into rows, and keeps the state between batches.
///
/// **Replay.** The same task from the same state gives the same rows, in this process or another. What is asked of
/// others is answered by the task's [`Answers`] where it brings some; where it brings none, all runs of a batch in this
/// process are answered the same.
///
/// **State.** `run` stages what it will remember; `install` makes it the state, `discard` forgets it. A run
/// that fails, or whose future is dropped, leaves the state as it was; `discard` is called before the next.
///
/// **Errors.** [`crate::ErrorKind::Row`] where an expression fails on a row: the loop then finds the row by
/// running prefixes of the batch ([`Task::probe`]) and asks for it with `used_row`.
#[async_trait]
pub trait Runner: Send {
    /// The versions of the tables that are read as they are, for the intent of the next batch: one that is run again
    /// knows by them whether it has to read a table anew.
    async fn pin(&mut self) -> Result<BTreeMap<String, String>> {
        Ok(BTreeMap::new())
    }

    /// The batch time, in microseconds since 1970-01-01 UTC, from which on a batch answers something even where there is
    /// nothing to read: a window over the clock ends then. `None` where nothing waits for the clock.
    fn due_us(&self) -> Option<i64> {
        None
    }

    /// Runs a batch.
    async fn run(&mut self, task: Task<'_>) -> Result<Outcome>;

    /// The n-th row that the task uses, counted from 0; `None` past the last.
    async fn used_row(&mut self, task: Task<'_>, n: u64) -> Result<Option<UsedRow>>;

    /// What was staged becomes the state.
    fn install(&mut self);

    /// What was staged is forgotten.
    fn discard(&mut self);

    /// The powers of a runner that keeps state; `None` where it keeps none.
    fn state(&mut self) -> Option<&mut dyn RunnerState> {
        None
    }
}

/// State that can be checkpointed. Incremental: a checkpoint stores what came since the one before.
#[async_trait]
pub trait RunnerState: Send {
    /// Captures the state as of the last installed batch, at once and cheaply; the future stores it and
    /// answers a manifest. The next batch may run meanwhile. One checkpoint at a time.
    fn checkpoint(&mut self, batch: BatchId) -> Result<BoxFuture<'static, Result<String>>>;

    /// Makes the state what it was when this manifest was made. Called before the first run; after an error, again
    /// with an older manifest, or not at all: the runner is then as it was made.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Corrupt`] where a file is missing or not what was written;
    /// [`crate::ErrorKind::Query`] where the state is of another query, named by operator.
    async fn restore(&mut self, manifest: &str) -> Result<()>;

    /// These manifests may be restored; what none of them needs can be removed. Never called while a checkpoint is
    /// being stored.
    fn retain(&mut self, manifests: &[String]) -> Result<()>;
}
