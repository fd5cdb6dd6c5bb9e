//! The rows of a changelog as versions of keys: what a row was before a change is left out.
//!
//! A change is told as two rows of one record, the one that it was and the one that it is. For a join as of a time the
//! first says nothing: the version before it ends where the new one begins. A row that goes without another of its
//! record ends its key.

use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, SchemaRef};
use async_trait::async_trait;
use futures::StreamExt;
use millstream_core::Result;
use millstream_core::batch::{Positions, Range, Stamps};
use millstream_core::source::{Boundedness, Chunk, ChunkStream, Limit, Offer, Source, SourceTable};

/// A changelog whose last column is its weight, without old images.
#[derive(Debug)]
pub(super) struct VersionsTable(pub(super) Arc<dyn SourceTable>);

impl SourceTable for VersionsTable {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn source(&self, projection: &[usize]) -> Result<Arc<dyn Source>> {
        Ok(self.versions(self.0.source(projection)?, projection))
    }

    fn source_at_once(&self, projection: &[usize]) -> Result<Arc<dyn Source>> {
        Ok(self.versions(self.0.source_at_once(projection)?, projection))
    }
}

impl VersionsTable {
    fn versions(&self, source: Arc<dyn Source>, projection: &[usize]) -> Arc<dyn Source> {
        let last = self.0.schema().fields().len().saturating_sub(1);
        let weight = projection.iter().position(|column| *column == last);
        Arc::new(VersionsSource { source, weight })
    }
}

#[derive(Debug)]
struct VersionsSource {
    source: Arc<dyn Source>,
    /// The weight among the columns that are read.
    weight: Option<usize>,
}

#[async_trait]
impl Source for VersionsSource {
    fn schema(&self) -> SchemaRef {
        self.source.schema()
    }

    fn boundedness(&self) -> Boundedness {
        self.source.boundedness()
    }

    async fn offer(&self, from: &Positions, limit: Limit) -> Result<Offer> {
        self.source.offer(from, limit).await
    }

    async fn open(&self, range: &Range) -> Result<ChunkStream> {
        let weight = self.weight;
        let chunks = self.source.open(range).await?;
        Ok(chunks.map(move |chunk| without_old_images(chunk?, weight)).boxed())
    }

    fn resume(&self, at: &Positions, stamps: &Stamps) {
        self.source.resume(at, stamps);
    }

    async fn ready(&self) {
        self.source.ready().await;
    }

    async fn release(&self, below: &Positions) -> Result<()> {
        self.source.release(below).await
    }
}

fn without_old_images(chunk: Chunk, weight: Option<usize>) -> Result<Chunk> {
    let weights = weight.and_then(|c| chunk.rows.columns().get(c)?.as_primitive_opt::<Int64Type>());
    let Some(weights) = weights else { return Ok(chunk) };
    let next = weights.values().iter().zip(&chunk.places).skip(1).map(Some).chain([None]);
    let of_rows = weights.values().iter().zip(&chunk.places).zip(next);
    let is_old = |((weight, place), next): ((&i64, &_), Option<(&i64, &_)>)| {
        *weight < 0 && next.is_some_and(|(next, of_next)| *next > 0 && of_next == place)
    };
    let keep: Vec<bool> = of_rows.map(|row| !is_old(row)).collect();
    let places = chunk.places.iter().zip(&keep).filter(|(_, keep)| **keep).map(|(place, _)| *place).collect();
    let rows = filter_record_batch(&chunk.rows, &BooleanArray::from(keep))?;
    Ok(Chunk { rows, places, rejected: chunk.rejected, raw: chunk.raw })
}
