//! A source and a sink as a program would bring its own, kept in memory so that they outlive a stream.

use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use futures::StreamExt;
use millstream::core::batch::{Place, Position, Positions, Range};
use millstream::core::sink::{Guarantee, Marker, Output, Owner, Permit, Sink};
use millstream::core::source::{Boundedness, Chunk, ChunkStream, Limit, Offer, Source, SourceTable};
use millstream::{Error, Result};

type Click = (i64, String, i64);

/// Rows (`at` in milliseconds, `user`, `n`) that a table reads.
#[derive(Clone, Debug, Default)]
pub struct Rows(Arc<Mutex<(Vec<Click>, bool)>>);

impl Rows {
    pub fn of(rows: Vec<Click>) -> Self {
        Self(Arc::new(Mutex::new((rows, false))))
    }

    pub fn append(&self, rows: Vec<Click>) {
        self.0.lock().unwrap().0.extend(rows);
    }

    /// Nothing is appended any more.
    pub fn finish(&self) {
        self.0.lock().unwrap().1 = true;
    }
}

/// A table over rows in memory.
#[derive(Clone, Debug)]
pub struct MemoryTable {
    rows: Rows,
    boundedness: Boundedness,
    projection: Vec<usize>,
}

impl MemoryTable {
    pub fn bounded(rows: &Rows) -> Self {
        Self { rows: rows.clone(), boundedness: Boundedness::Bounded, projection: vec![] }
    }

    pub fn followed(rows: &Rows) -> Self {
        Self { boundedness: Boundedness::Followed, ..Self::bounded(rows) }
    }
}

impl SourceTable for MemoryTable {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), true),
            Field::new("user", DataType::Utf8, true),
            Field::new("n", DataType::Int64, true),
        ]))
    }

    fn source(&self, projection: &[usize]) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(Self { projection: projection.to_vec(), ..self.clone() }))
    }
}

fn position(n: usize) -> Position {
    Position { offset: n as u64, row: n as u64 }
}

#[async_trait]
impl Source for MemoryTable {
    fn schema(&self) -> SchemaRef {
        Arc::new(SourceTable::schema(self).project(&self.projection).unwrap())
    }

    fn boundedness(&self) -> Boundedness {
        self.boundedness
    }

    async fn offer(&self, from: &Positions, limit: Limit) -> Result<Offer> {
        let (rows, finished) = &*self.rows.0.lock().unwrap();
        let closed = *finished || self.boundedness == Boundedness::Bounded;
        let start = from.get("memory").map_or(0, |p| p.offset as usize);
        let end = rows.len().min(start + limit.rows as usize);
        let range = Range {
            partition: "memory".into(),
            start: position(start),
            end: position(end),
            stamp: String::new(),
            lost: 0,
        };
        let at_end = closed && end == rows.len();
        Ok(Offer {
            ranges: if start < end { vec![range] } else { vec![] },
            partitions: vec!["memory".into()],
            finished: if at_end { vec!["memory".into()] } else { vec![] },
            closed,
            lag: Some((rows.len() - end) as u64),
        })
    }

    async fn open(&self, range: &Range) -> Result<ChunkStream> {
        let (start, end) = (range.start.offset as usize, range.end.offset as usize);
        let rows = self.rows.0.lock().unwrap().0[start..end].to_vec();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(TimestampMillisecondArray::from_iter_values(rows.iter().map(|r| r.0))),
            Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.1))),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.2))),
        ];
        let rows = RecordBatch::try_new(SourceTable::schema(self), columns)?.project(&self.projection)?;
        let places = (start..end).map(|n| Place { offset: n as u64, row: n as u64 }).collect();
        Ok(futures::stream::iter([Ok(Chunk { rows, places, rejected: vec![], raw: None })]).boxed())
    }
}

#[derive(Debug, Default)]
struct Published {
    marker: Option<Marker>,
    batches: Vec<RecordBatch>,
    published: usize,
}

/// What was published; it outlives the sinks that write to it.
#[derive(Clone, Debug, Default)]
pub struct Stored(Arc<Mutex<Published>>);

impl Stored {
    pub fn rows(&self) -> Vec<RecordBatch> {
        self.0.lock().unwrap().batches.clone()
    }

    /// How many batches were published.
    pub fn batches(&self) -> usize {
        self.0.lock().unwrap().published
    }
}

/// Publishes into a [`Stored`], rows and marker together.
#[derive(Debug)]
pub struct MemorySink {
    stored: Stored,
    fails_after: Option<usize>,
}

impl MemorySink {
    pub fn new(stored: &Stored) -> Self {
        Self { stored: stored.clone(), fails_after: None }
    }

    /// Answers an error once so many batches are stored, though the last of them is stored.
    pub fn failing_after(mut self, batches: usize) -> Self {
        self.fails_after = Some(batches);
        self
    }
}

#[async_trait]
impl Sink for MemorySink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    async fn open(&mut self, _owner: &Owner) -> Result<Option<Marker>> {
        Ok(self.stored.0.lock().unwrap().marker.clone())
    }

    async fn publish(&mut self, permit: &Permit, output: &Output) -> Result<()> {
        let mut stored = self.stored.0.lock().unwrap();
        assert_eq!(stored.marker.as_ref().map(|m| m.batch), permit.previous(), "a batch is missing, or comes twice");
        stored.marker = Some(permit.marker().clone());
        stored.batches.extend(output.batches.iter().cloned());
        stored.published += 1;
        match self.fails_after {
            Some(batches) if stored.published >= batches => Err(Error::sink("the disk of the test is full")),
            _ => Ok(()),
        }
    }
}
