//! The contract of a format: bytes of one record to a row, so that a source only has to bring bytes.

use std::fmt::Debug;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::batch::Place;
use crate::error::Result;
use crate::source::Chunk;

/// Makes decoders for one table. Shared by all partitions.
pub trait Format: Send + Sync + Debug {
    /// A decoder whose rows have this schema.
    fn decoder(&self, schema: SchemaRef) -> Result<Box<dyn Decoder>>;
}

/// Collects records into a chunk.
///
/// A record that is no row of the schema becomes a [`crate::source::Rejected`] of the chunk; it is never an
/// error. One record may be several rows (an envelope): they share its place.
pub trait Decoder: Send {
    /// Takes the bytes of one record, without its line end.
    fn push(&mut self, record: &[u8], place: Place);

    /// Rows collected so far.
    fn len(&self) -> usize;

    /// Whether no row was collected.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything collected since the last call.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Bug`] where Arrow refuses the columns.
    fn finish(&mut self) -> Result<Chunk>;
}

/// Appends rows to bytes.
pub trait Encoder: Send {
    /// What a file begins with (the header of a CSV file); empty for most.
    fn header(&self) -> Result<Vec<u8>>;

    /// Appends the rows, each with its end.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Query`] where a type has no place in the format.
    fn encode(&mut self, rows: &RecordBatch, out: &mut Vec<u8>) -> Result<()>;
}
