//! The contract of a source: partitions of ordered rows that can be read again.

use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use futures::Stream;

use crate::batch::{PartitionId, Place, Positions, Range, Stamps};
use crate::error::Result;

/// Whether a source ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundedness {
    /// Its partitions are all known from the first offer, and each of them ends.
    Bounded,
    /// It is followed for ever: partitions and rows are added while it is read.
    Followed,
}

/// How much a batch may hold. A source offers at least one row where there is one, however large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Rows at the most, over all partitions.
    pub rows: u64,
    /// Bytes at the most as they lie in the source, over all partitions.
    pub bytes: u64,
}

/// What a source has to read past some positions.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// At most one range a partition, none of them empty.
    pub ranges: Vec<Range>,
    /// Every partition there is, or those that were not among the positions: the caller takes the new ones. One that was
    /// named since the positions moved last is named again until they move.
    pub partitions: Vec<PartitionId>,
    /// Partitions that hold nothing past the offered ranges and never will; named again as long as `partitions` are.
    pub finished: Vec<PartitionId>,
    /// No partition can be added any more.
    pub closed: bool,
    /// How much more there is to read past the offered ranges, in rows or else in bytes, where it is known.
    pub lag: Option<u64>,
}

/// A row that could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Where it lies.
    pub place: Place,
    /// Why it was rejected, for a person.
    pub reason: String,
    /// Its bytes as they stood; at most the first 64 KiB.
    pub raw: Vec<u8>,
}

/// The records that rows were decoded from, as they stood: asked for the few rows that come to be dropped later.
pub trait RawRows: Send + Sync + Debug {
    /// The bytes of the row at this place; `None` where they are not known.
    fn raw(&self, place: Place) -> Option<Vec<u8>>;
}

/// Some rows of a range, in the order of their places.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The decoded rows, in the source's schema.
    pub rows: RecordBatch,
    /// The place of each row: as many as there are rows, ascending.
    pub places: Vec<Place>,
    /// The rows between them that could not be decoded, ascending.
    pub rejected: Vec<Rejected>,
    /// The records of the decoded rows. Without it a row that is dropped later is shown as JSON of all its columns.
    pub raw: Option<Arc<dyn RawRows>>,
}

/// The chunks of one range.
pub type ChunkStream = Pin<Box<dyn Stream<Item = Result<Chunk>> + Send>>;

/// A table that rows can be streamed from.
///
/// Implement this to add a connector; it is asked for a [`Source`] that reads the columns a query uses.
pub trait SourceTable: Send + Sync + Debug {
    /// All columns, as they were declared.
    fn schema(&self) -> SchemaRef;

    /// A source of the columns at these indices of [`SourceTable::schema`], in this order. It may be empty
    /// (`SELECT count(*)`): the rows then have no columns, but a count.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Config`] or [`crate::ErrorKind::Input`] where the source can't be read.
    fn source(&self, projection: &[usize]) -> Result<Arc<dyn Source>>;

    /// The same for a job that reads everything at once: a source that gives so many rows a second does not wait.
    ///
    /// # Errors
    /// As [`SourceTable::source`].
    fn source_at_once(&self, projection: &[usize]) -> Result<Arc<dyn Source>> {
        self.source(projection)
    }

    /// The power to tell one content of the table from another; `None` where it has one content only.
    fn versioned(&self) -> Option<&dyn Versioned> {
        None
    }
}

/// A table whose content may be another one later, and that can tell without reading it.
pub trait Versioned {
    /// What tells this content from any other. Cheap: it is asked for each batch.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Input`] where the table is not there, [`crate::ErrorKind::Retry`] where that may pass.
    fn version(&self) -> Result<String>;
}

/// Partitions of ordered rows that can be read again.
///
/// **Order and idempotence.** Within a partition rows have ascending places. A range that was once offered,
/// opened again, gives the same rows and the same rejected rows, in the same order, in the same chunks; in
/// another process too. Where that can't be kept (the file changed, the topic was truncated), `open` answers
/// [`crate::ErrorKind::Input`] and names what is gone.
///
/// **Cancellation.** Every future may be dropped at any await; nothing is lost by it.
///
/// **Bad rows** never fail a range: they come as [`Rejected`]. What can't be split into rows any more (a
/// truncated archive) is an [`crate::ErrorKind::Input`].
#[async_trait]
pub trait Source: Send + Sync + Debug {
    /// The columns that `open` gives.
    fn schema(&self) -> SchemaRef;

    /// Whether it ends.
    fn boundedness(&self) -> Boundedness;

    /// What there is past `from`, within the limit. It doesn't wait: where there is nothing, the offer is
    /// empty. What was offered and not taken is offered again.
    async fn offer(&self, from: &Positions, limit: Limit) -> Result<Offer>;

    /// The rows of a range.
    async fn open(&self, range: &Range) -> Result<ChunkStream>;

    /// A query goes on at these positions. Told once, before the first offer, with the stamp of the last range that was
    /// read of each partition and ends there: what an offer finds must be what that range was read from, or the offer
    /// answers [`crate::ErrorKind::Input`].
    fn resume(&self, at: &Positions, stamps: &Stamps) {
        let _ = (at, stamps);
    }

    /// Resolves when `offer` may have more than it had the last time. It may resolve for nothing.
    async fn ready(&self) {
        std::future::pending().await
    }

    /// Nothing below these positions will be asked for again.
    async fn release(&self, below: &Positions) -> Result<()> {
        let _ = below;
        Ok(())
    }
}
