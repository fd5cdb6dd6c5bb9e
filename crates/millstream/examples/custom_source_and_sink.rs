//! A source and a sink of a program's own: primes are found in numbers that a source counts up, and a sink shows them.
//!
//! `cargo run -p millstream --example custom_source_and_sink`

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use futures::StreamExt;
use millstream::core::batch::{Place, Position, Positions, Range};
use millstream::core::sink::{Guarantee, Marker, Output, Owner, Permit, Sink};
use millstream::core::source::{Boundedness, Chunk, ChunkStream, Limit, Offer, Source, SourceTable};
use millstream::prelude::*;

/// The numbers from 1 to `count`: one partition, whose positions are the numbers before them.
#[derive(Clone, Debug)]
struct Numbers {
    count: u64,
    /// Whether the column is read at all.
    columns: Vec<usize>,
}

impl SourceTable for Numbers {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
    }

    fn source(&self, projection: &[usize]) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(Self { columns: projection.to_vec(), ..self.clone() }))
    }
}

#[async_trait]
impl Source for Numbers {
    fn schema(&self) -> SchemaRef {
        let columns = self.columns.iter().map(|_| Field::new("n", DataType::Int64, false));
        Arc::new(Schema::new(columns.collect::<Vec<_>>()))
    }

    fn boundedness(&self) -> Boundedness {
        Boundedness::Bounded
    }

    async fn offer(&self, from: &Positions, limit: Limit) -> Result<Offer> {
        let start = from.get("numbers").copied().unwrap_or_default();
        let end = self.count.min(start.offset + limit.rows);
        let (partition, end) = ("numbers".into(), Position { offset: end, row: end });
        let range = Range { partition, start, end, stamp: String::new(), lost: 0 };
        Ok(Offer {
            ranges: if start < end { vec![range] } else { vec![] },
            partitions: vec!["numbers".into()],
            finished: if end.offset == self.count { vec!["numbers".into()] } else { vec![] },
            closed: true,
            lag: Some(self.count - end.offset),
        })
    }

    async fn open(&self, range: &Range) -> Result<ChunkStream> {
        let (start, end) = (range.start.offset, range.end.offset);
        let column: ArrayRef = Arc::new((start..end).map(|n| n as i64 + 1).collect::<Int64Array>());
        let columns = self.columns.iter().map(|_| Arc::clone(&column)).collect();
        // `SELECT count(*)` reads no column: the rows then have a count all the same.
        let count = RecordBatchOptions::new().with_row_count(Some(column.len()));
        let rows = RecordBatch::try_new_with_options(Source::schema(self), columns, &count)?;
        let places = (start..end).map(|n| Place { offset: n, row: n }).collect();
        Ok(futures::stream::iter([Ok(Chunk { rows, places, rejected: vec![], raw: None })]).boxed())
    }
}

/// Shows rows and keeps no marker: after a crash, a batch may be shown twice.
#[derive(Debug)]
struct Shown;

#[async_trait]
impl Sink for Shown {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    async fn open(&mut self, _owner: &Owner) -> Result<Option<Marker>> {
        Ok(None)
    }

    async fn publish(&mut self, permit: &Permit, output: &Output) -> Result<()> {
        let shown = arrow::util::pretty::pretty_format_batches(&output.batches)?;
        println!("batch {}\n{shown}", permit.marker().batch.0);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let session = Session::new()?;
    session.register_source("numbers", Arc::new(Numbers { count: 30, columns: vec![] }), None)?;
    let odd = session.sql("SELECT n FROM numbers WHERE n % 2 = 1 AND n > 1")?;
    let primes = odd.filter((col("n") % lit(3)).not_eq(lit(0)).or(col("n").eq(lit(3))))?;
    let primes = primes.filter((col("n") % lit(5)).not_eq(lit(0)).or(col("n").eq(lit(5))))?;
    let state = std::env::temp_dir().join(format!("millstream-primes-{}", std::process::id()));
    let writer = primes.write_stream().query_name("primes").sink(Box::new(Shown)).state_dir(&state).max_batch_rows(10);
    let status = writer.start().await?.wait().await?;
    println!("{:?} after {} rows", status.state, status.progress.map_or(0, |p| p.total_rows_out));
    // This example begins from nothing each time; a real program keeps its state.
    std::fs::remove_dir_all(&state).map_err(|e| Error::config("the state can't be removed").caused_by(e))
}
