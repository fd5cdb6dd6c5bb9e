//! Avro: records in its binary form to rows, and files of them ("object container files") as a source and as a sink.
//!
//! A record is read by the schema that its writer declared; the table's columns take what they can of it, by name. Fields
//! that the table doesn't declare are stepped over, columns that the writer doesn't know are NULL, and a record that is no
//! row of the table is rejected with the reason. So files and records of several versions of a schema are one table.

mod file;
mod schema;
mod transcode;

use std::fmt;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_avro::compression::CompressionCodec;
use arrow_avro::writer::format::AvroOcfFormat;
use arrow_avro::writer::{AvroWriter as OcfWriter, WriterBuilder};
use millstream_core::batch::Place;
use millstream_core::format::{Decoder, Format};
use millstream_core::source::{Chunk, Rejected};
use millstream_core::{Error, Result};

use super::json::JsonFormat;
use crate::Options;

pub use file::{AvroChunks, AvroFile};
pub use schema::Schema;

/// Records of Avro to rows, whoever wrote them.
pub struct AvroRows {
    schema: SchemaRef,
    rows: Box<dyn Decoder>,
    rejected: Vec<Rejected>,
    text: String,
}

impl fmt::Debug for AvroRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AvroRows").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl AvroRows {
    /// No rows yet, of these columns.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where a column has a type that no record can give.
    pub fn new(schema: &SchemaRef) -> Result<Self> {
        let rows = JsonFormat::new(&Options::default(), schema)?.decoder(schema.clone())?;
        Ok(Self { schema: schema.clone(), rows, rejected: vec![], text: String::new() })
    }

    /// Takes a record, which is `body` and nothing else. `raw` is what is kept of it where it is rejected.
    pub fn push(&mut self, writer: &Schema, body: &[u8], raw: &[u8], place: Place) {
        self.text.clear();
        match transcode::record(writer, body, self.schema.fields(), &mut self.text) {
            Ok([]) => self.take(raw, place),
            Ok(rest) => self.reject(raw, place, format!("{} bytes follow the record", rest.len())),
            Err(reason) => self.reject(raw, place, reason),
        }
    }

    /// Takes the record that the bytes begin with; answers what follows it.
    ///
    /// # Errors
    /// Why it is not known where the record ends.
    fn push_first<'a>(&mut self, writer: &Schema, bytes: &'a [u8], place: Place) -> Result<&'a [u8], String> {
        let until = |rest: &[u8]| bytes.get(..bytes.len() - rest.len()).unwrap_or_default();
        self.text.clear();
        match transcode::record(writer, bytes, self.schema.fields(), &mut self.text) {
            Ok(rest) => {
                self.take(until(rest), place);
                Ok(rest)
            }
            Err(reason) => {
                let rest = transcode::skip(writer, bytes)?;
                self.reject(until(rest), place, reason);
                Ok(rest)
            }
        }
    }

    /// Takes the record whose text is there.
    fn take(&mut self, raw: &[u8], place: Place) {
        let before = self.rows.len();
        self.rows.push(self.text.as_bytes(), place);
        if self.rows.len() == before {
            // The reason is known when the chunk is finished.
            self.reject(raw, place, String::new());
        }
    }

    /// A record that is none, and why.
    pub fn reject(&mut self, raw: &[u8], place: Place, reason: String) {
        self.rejected.push(super::rejected(raw, place, reason));
    }

    /// Rows that were taken since the last chunk.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows that were taken since the last chunk.
    ///
    /// # Errors
    /// As [`Decoder::finish`].
    pub fn finish(&mut self) -> Result<Chunk> {
        let mut chunk = self.rows.finish()?;
        let mut rejected = std::mem::take(&mut self.rejected);
        for found in chunk.rejected {
            let own = rejected.binary_search_by_key(&found.place, |own: &Rejected| own.place);
            if let Some(own) = own.ok().and_then(|at| rejected.get_mut(at)) {
                own.reason = found.reason;
            }
        }
        chunk.rejected = rejected;
        Ok(chunk)
    }
}

/// Collects rows into one file, compressed with deflate, which every reader knows.
pub(crate) struct AvroWriter {
    writer: OcfWriter<Vec<u8>>,
}

impl AvroWriter {
    /// An empty file with these columns.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where a type has no place in Avro.
    pub(crate) fn new(schema: &SchemaRef) -> Result<Self> {
        let builder = WriterBuilder::new(schema.as_ref().clone()).with_compression(Some(CompressionCodec::Deflate));
        let writer = builder.build::<_, AvroOcfFormat>(Vec::new()).map_err(no_place)?;
        Ok(Self { writer })
    }

    /// Appends rows.
    pub(crate) fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        (0..rows.num_rows()).step_by(BLOCK_ROWS).try_for_each(|start| {
            let block = rows.slice(start, BLOCK_ROWS.min(rows.num_rows() - start));
            self.writer.write(&block).map_err(no_place)
        })
    }

    /// The file's bytes.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>> {
        self.writer.finish().map_err(|e| Error::bug("the Avro file could not be ended").caused_by(e))?;
        Ok(self.writer.into_inner())
    }
}

/// Rows of one block: a reader holds one in memory, and a range within it reads it from its start.
const BLOCK_ROWS: usize = 4096;

fn no_place(error: arrow_avro::errors::AvroError) -> Error {
    Error::query("a column has a type with no place in Avro: CAST it to STRING").caused_by(error)
}

#[cfg(test)]
mod tests;
