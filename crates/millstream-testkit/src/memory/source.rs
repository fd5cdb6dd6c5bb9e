//! Events in memory, by partition.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use futures::StreamExt;
use millstream_core::batch::{PartitionId, Place, Position, Positions, Range};
use millstream_core::source::{Boundedness, Chunk, ChunkStream, Limit, Offer, Rejected, Source};
use millstream_core::{Error, Result};
use tokio::sync::watch;

use crate::sim::Process;

/// A row of a [`MemorySource`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A row that can be decoded.
    Row {
        /// Event time in microseconds.
        ts: i64,
        /// The key.
        key: String,
        /// The value.
        value: i64,
    },
    /// A row that can't.
    Malformed(String),
}

impl Event {
    /// A row that can be decoded.
    pub fn row(ts: i64, key: impl Into<String>, value: i64) -> Self {
        Self::Row { ts, key: key.into(), value }
    }
}

/// Rows to a chunk: small, so that ranges have several.
const CHUNK_ROWS: usize = 4;

/// What a source holds; it outlives the processes that read it.
#[derive(Clone, Debug)]
pub struct SourceStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    boundedness: Boundedness,
    inner: Mutex<Inner>,
    /// Counts the changes.
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    partitions: BTreeMap<PartitionId, Vec<Event>>,
    finished: bool,
    released: Positions,
}

impl SourceStore {
    /// A source that ends, with these partitions.
    pub fn bounded(partitions: impl IntoIterator<Item = (PartitionId, Vec<Event>)>) -> Self {
        let store = Self::new(Boundedness::Bounded);
        store.inner().partitions.extend(partitions);
        store.inner().finished = true;
        store
    }

    /// A source that is followed, without a partition.
    pub fn followed() -> Self {
        Self::new(Boundedness::Followed)
    }

    fn new(boundedness: Boundedness) -> Self {
        Self(Arc::new(Shared { boundedness, inner: Mutex::default(), changed: watch::Sender::new(0) }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends to a partition of a followed source, and makes it where it is not there.
    pub fn append(&self, partition: &str, events: impl IntoIterator<Item = Event>) {
        self.inner().partitions.entry(partition.into()).or_default().extend(events);
        self.0.changed.send_modify(|changes| *changes += 1);
    }

    /// Nothing is appended any more.
    pub fn finish(&self) {
        self.inner().finished = true;
        self.0.changed.send_modify(|changes| *changes += 1);
    }

    /// All rows by partition.
    pub fn partitions(&self) -> BTreeMap<PartitionId, Vec<Event>> {
        self.inner().partitions.clone()
    }

    /// Below these positions nothing can be read any more.
    pub fn released(&self) -> Positions {
        self.inner().released.clone()
    }
}

/// How often a source fails, in 1/1000.
#[derive(Clone, Copy, Debug, Default)]
pub struct SourceFaults {
    /// A call fails with an error that passes.
    pub away: u64,
}

/// Reads a [`SourceStore`].
#[derive(Clone, Debug)]
pub struct MemorySource {
    store: SourceStore,
    process: Process,
    faults: SourceFaults,
    /// The changes that the last offer has seen.
    seen: Arc<Mutex<watch::Receiver<u64>>>,
}

impl MemorySource {
    /// A source over this store.
    pub fn new(store: &SourceStore) -> Self {
        Self::of(store, &Process::immortal(), SourceFaults::default())
    }

    /// The same, for a process that may die.
    pub fn of(store: &SourceStore, process: &Process, faults: SourceFaults) -> Self {
        let seen = Arc::new(Mutex::new(store.0.changed.subscribe()));
        Self { store: store.clone(), process: process.clone(), faults, seen }
    }

    fn away(&self) -> Result<()> {
        match self.process.chance(self.faults.away) {
            true => Err(Error::retry("the memory source is away for a moment")),
            false => Ok(()),
        }
    }
}

fn position(n: usize) -> Position {
    Position { offset: n as u64, row: n as u64 }
}

#[async_trait]
impl Source for MemorySource {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("ts", DataType::Int64, false),
            Field::new("key", DataType::Utf8, false),
            Field::new("value", DataType::Int64, false),
        ]))
    }

    fn boundedness(&self) -> Boundedness {
        self.store.0.boundedness
    }

    async fn offer(&self, from: &Positions, limit: Limit) -> Result<Offer> {
        self.process.alive()?;
        self.away()?;
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).borrow_and_update();
        let inner = self.store.inner();
        // A row is said to have 16 bytes.
        let mut left = limit.rows.min((limit.bytes / 16).max(1)) as usize;
        let mut offer = Offer { closed: inner.finished, lag: Some(0), ..Offer::default() };
        for (id, rows) in &inner.partitions {
            let start = from.get(id).map_or(0, |p| p.offset as usize);
            let end = rows.len().min(start + left);
            if start < end {
                let (start, end) = (position(start), position(end));
                offer.ranges.push(Range { partition: id.clone(), start, end, stamp: String::new(), lost: 0 });
            }
            left -= end - start;
            if inner.finished && end == rows.len() {
                offer.finished.push(id.clone());
            }
            offer.lag = offer.lag.map(|lag| lag + (rows.len() - end) as u64);
            offer.partitions.push(id.clone());
        }
        Ok(offer)
    }

    async fn open(&self, range: &Range) -> Result<ChunkStream> {
        self.process.alive()?;
        self.away()?;
        let inner = self.store.inner();
        let released = inner.released.get(&range.partition).map_or(0, |p| p.offset);
        if range.start.offset < released {
            return Err(Error::input(format!(
                "partition {}: rows from {} were released up to {released}",
                range.partition, range.start.offset
            )));
        }
        let rows = inner.partitions.get(&range.partition).map(Vec::as_slice).unwrap_or_default();
        let (start, end) = (range.start.offset as usize, range.end.offset as usize);
        let Some(rows) = rows.get(start..end) else {
            return Err(Error::input(format!("partition {} has no rows {start} to {end}", range.partition)));
        };
        let schema = self.schema();
        let chunks: Vec<_> =
            rows.chunks(CHUNK_ROWS).enumerate().map(|(i, rows)| chunk(&schema, start + i * CHUNK_ROWS, rows)).collect();
        Ok(futures::stream::iter(chunks).boxed())
    }

    async fn ready(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // The store lives as long as this source.
        let _ = seen.changed().await;
    }

    async fn release(&self, below: &Positions) -> Result<()> {
        self.process.alive()?;
        let released = &mut self.store.inner().released;
        for (id, position) in below {
            let released = released.entry(id.clone()).or_default();
            *released = (*released).max(*position);
        }
        Ok(())
    }
}

fn chunk(schema: &SchemaRef, first: usize, events: &[Event]) -> Result<Chunk> {
    let (mut ts, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let (mut places, mut rejected) = (Vec::new(), Vec::new());
    for (i, event) in events.iter().enumerate() {
        let n = (first + i) as u64;
        let place = Place { offset: n, row: n };
        match event {
            Event::Row { ts: t, key, value } => {
                ts.push(*t);
                keys.push(key.as_str());
                values.push(*value);
                places.push(place);
            }
            Event::Malformed(text) => {
                rejected.push(Rejected { place, reason: "no event".into(), raw: text.clone().into_bytes() });
            }
        }
    }
    let columns: Vec<arrow::array::ArrayRef> =
        vec![Arc::new(Int64Array::from(ts)), Arc::new(StringArray::from(keys)), Arc::new(Int64Array::from(values))];
    Ok(Chunk { rows: RecordBatch::try_new(schema.clone(), columns)?, places, rejected, raw: None })
}
