//! What was published, in memory: strict about order, owners and markers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use millstream_core::batch::BatchId;
use millstream_core::sink::{Guarantee, Marker, Output, Owner, Permit, Sink};
use millstream_core::{Error, Result};

use crate::sim::{Fate, Process};

/// A batch as a sink has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBatch {
    /// Its marker.
    pub marker: Marker,
    /// Its rows as text.
    pub rows: Vec<String>,
}

/// What a sink holds; it outlives the processes that write to it.
#[derive(Clone, Debug)]
pub struct SinkStore {
    guarantee: Guarantee,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    batches: Vec<StoredBatch>,
    /// So many of them survive a loss of power.
    flushed: usize,
    owner: Option<Owner>,
}

impl SinkStore {
    /// An empty sink: one that keeps a marker and takes each batch once, or one that keeps none.
    pub fn new(guarantee: Guarantee) -> Self {
        Self { guarantee, inner: Arc::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that a reader sees, in the order in which it was published.
    pub fn batches(&self) -> Vec<StoredBatch> {
        self.inner().batches.clone()
    }

    /// The rows that a reader sees, sorted.
    pub fn rows(&self) -> Vec<String> {
        let mut rows: Vec<_> = self.inner().batches.iter().flat_map(|batch| batch.rows.clone()).collect();
        rows.sort();
        rows
    }

    /// Whether this is the last batch that a reader sees.
    pub fn has(&self, batch: BatchId) -> bool {
        self.inner().batches.last().is_some_and(|last| last.marker.batch == batch)
    }

    /// The power fails: what was not flushed may be lost, from some batch on.
    pub fn lose_power(&self, process: &Process) {
        let inner = &mut *self.inner();
        let unflushed = (inner.batches.len() - inner.flushed) as u64;
        let kept = inner.flushed + process.below(unflushed + 1) as usize;
        inner.batches.truncate(kept);
        inner.flushed = kept;
    }
}

/// How often a sink fails, in 1/1000.
#[derive(Clone, Copy, Debug, Default)]
pub struct SinkFaults {
    /// A call fails without having done anything.
    pub before: u64,
    /// A call fails though it has done everything.
    pub after: u64,
    /// A call takes its time.
    pub slow: u64,
}

/// Writes to a [`SinkStore`].
#[derive(Debug)]
pub struct MemorySink {
    store: SinkStore,
    process: Process,
    faults: SinkFaults,
    owner: Option<Owner>,
    usable: bool,
}

impl MemorySink {
    /// A sink over this store.
    pub fn new(store: &SinkStore) -> Self {
        Self::of(store, &Process::immortal(), SinkFaults::default())
    }

    /// The same, for a process that may die.
    pub fn of(store: &SinkStore, process: &Process, faults: SinkFaults) -> Self {
        Self { store: store.clone(), process: process.clone(), faults, owner: None, usable: false }
    }

    /// Does something durable that may fail on either side of being done.
    async fn durably(&mut self, act: impl FnOnce(&mut Inner) -> Result<()>) -> Result<()> {
        if self.process.chance(self.faults.slow) {
            tokio::time::sleep(Duration::from_millis(self.process.below(400))).await;
        }
        let fate = self.process.step();
        if matches!(fate, Fate::Dead | Fate::DieBefore) {
            return Err(Error::sink("the process is dead"));
        }
        if self.process.chance(self.faults.before) {
            self.usable = false;
            return Err(Error::retry("the memory sink timed out before it had stored anything"));
        }
        act(&mut self.store.inner())?;
        if fate == Fate::DieAfter {
            return Err(Error::sink("the process is dead"));
        }
        if self.process.chance(self.faults.after) {
            self.usable = false;
            return Err(Error::retry("the memory sink timed out after it had stored everything"));
        }
        Ok(())
    }
}

/// Each row as text.
pub fn render(batch: &RecordBatch) -> Vec<String> {
    let text = |column: usize, row: usize| {
        let column = batch.column(column);
        match column.as_primitive_opt::<Int64Type>() {
            Some(numbers) => numbers.value(row).to_string(),
            None => column.as_string_opt::<i32>().map_or_else(String::new, |texts| texts.value(row).to_string()),
        }
    };
    let row = |row| (0..batch.num_columns()).map(|column| text(column, row)).collect::<Vec<_>>().join(" ");
    (0..batch.num_rows()).map(row).collect()
}

#[async_trait]
impl Sink for MemorySink {
    fn guarantee(&self) -> Guarantee {
        self.store.guarantee
    }

    async fn open(&mut self, owner: &Owner) -> Result<Option<Marker>> {
        self.process.alive()?;
        let inner = &mut *self.store.inner();
        if let Some(other) = inner.owner.as_ref() {
            if other.incarnation != owner.incarnation {
                return Err(Error::owned(format!("the memory sink belongs to {other:?}: adopt it")));
            }
            if other.epoch > owner.epoch {
                return Err(Error::owned(format!("the memory sink was taken over by {other:?}")));
            }
        }
        inner.owner = Some(owner.clone());
        self.owner = Some(owner.clone());
        self.usable = true;
        let marker = inner.batches.last().map(|batch| batch.marker.clone());
        Ok(marker.filter(|_| self.store.guarantee == Guarantee::ExactlyOnce))
    }

    async fn publish(&mut self, permit: &Permit, output: &Output) -> Result<()> {
        let (owner, exactly) = (self.owner.clone(), self.store.guarantee == Guarantee::ExactlyOnce);
        if !self.usable {
            return Err(Error::bug("publish before open"));
        }
        let marker = permit.marker().clone();
        let previous = permit.previous();
        let rows: Vec<_> = output.batches.iter().flat_map(render).collect();
        self.durably(|inner| {
            if inner.owner != owner {
                return Err(Error::owned(format!("the memory sink was taken over by {:?}", inner.owner)));
            }
            let last = inner.batches.last().map(|batch| batch.marker.batch);
            if exactly && last != previous {
                return Err(Error::bug(format!("batch {} after {previous:?}, but {last:?} is there", marker.batch)));
            }
            if rows.is_empty() {
                return Err(Error::bug("a batch without rows was published"));
            }
            inner.batches.push(StoredBatch { marker, rows });
            Ok(())
        })
        .await
    }

    async fn flush(&mut self) -> Result<()> {
        self.durably(|inner| {
            inner.flushed = inner.batches.len();
            Ok(())
        })
        .await
    }
}
