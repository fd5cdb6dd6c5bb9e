//! Avro with a schema registry ('avro-confluent'): a zero byte, the schema's id in four bytes, and the value.
//!
//! A record is read by the schema that its writer registered; the table's columns take what they can of it, by name.
//! Fields that the table doesn't declare are stepped over, columns that the writer doesn't know are NULL, and a record
//! whose schema the table can't read is rejected with the reason: it is never a crash. A registry that is away is no
//! fault of the record: it is asked again.

mod registry;

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow_avro::schema::{AvroSchema, FingerprintStrategy};
use arrow_avro::writer::WriterBuilder;
use arrow_avro::writer::format::AvroSoeFormat;
use millstream_core::batch::Place;
use millstream_core::format::{Decoder, Format};
use millstream_core::source::Chunk;
use millstream_core::{Error, Result};
use millstream_io::format::avro::AvroRows;

pub(crate) use registry::Registry;

/// The format of records whose schemas are in a registry.
pub(crate) struct AvroFormat {
    registry: Arc<Registry>,
}

impl fmt::Debug for AvroFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AvroFormat").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl AvroFormat {
    /// Tries the columns; talks to nobody.
    pub(crate) fn new(registry: Registry, schema: &SchemaRef) -> Result<Self> {
        AvroRows::new(schema)?;
        Ok(Self { registry: Arc::new(registry) })
    }
}

impl Format for AvroFormat {
    fn decoder(&self, schema: SchemaRef) -> Result<Box<dyn Decoder>> {
        Ok(Box::new(AvroDecoder { registry: self.registry.clone(), rows: AvroRows::new(&schema)?, away: None }))
    }
}

struct AvroDecoder {
    registry: Arc<Registry>,
    rows: AvroRows,
    /// Why the registry did not answer.
    away: Option<Error>,
}

impl AvroDecoder {
    fn take(&mut self, record: &[u8], place: Place) -> Result<()> {
        let Some(([0, id @ ..], body)) = record.split_first_chunk::<5>() else {
            let reason = "it does not begin with a zero and the id of a schema, as 'avro-confluent' does";
            self.rows.reject(record, place, reason.into());
            return Ok(());
        };
        match self.registry.schema(u32::from_be_bytes(*id))? {
            Ok(writer) => self.rows.push(&writer, body, record, place),
            Err(reason) => self.rows.reject(record, place, reason),
        }
        Ok(())
    }
}

impl Decoder for AvroDecoder {
    fn push(&mut self, record: &[u8], place: Place) {
        if self.away.is_none() {
            self.away = self.take(record, place).err();
        }
    }

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn finish(&mut self) -> Result<Chunk> {
        let chunk = self.rows.finish()?;
        match self.away.take() {
            Some(error) => Err(error),
            None => Ok(chunk),
        }
    }
}

/// Writes rows with a schema that is registered when the first of them comes.
pub(crate) struct AvroEncoder {
    registry: Registry,
    subject: String,
    schema: SchemaRef,
    declared: AvroSchema,
    id: Option<u32>,
}

impl AvroEncoder {
    /// Tries the columns; talks to nobody.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where a type has no place in Avro.
    pub(crate) fn new(registry: Registry, subject: String, schema: SchemaRef) -> Result<Self> {
        let refused = |e| Error::query("the columns have no place in Avro: CAST them").caused_by(e);
        let declared = AvroSchema::try_from(schema.as_ref()).map_err(refused)?;
        let made = Self { registry, subject, schema, declared, id: None };
        made.writer(0)?;
        Ok(made)
    }

    fn writer(&self, id: u32) -> Result<arrow_avro::writer::Encoder> {
        let builder =
            WriterBuilder::new(self.schema.as_ref().clone()).with_fingerprint_strategy(FingerprintStrategy::Id(id));
        builder
            .build_encoder::<AvroSoeFormat>()
            .map_err(|e| Error::query("the columns have no place in Avro: CAST them").caused_by(e))
    }

    /// The record of each row.
    pub(crate) fn encode(&mut self, rows: &arrow::array::RecordBatch, mut each: impl FnMut(&[u8])) -> Result<()> {
        let id = match self.id {
            Some(id) => id,
            None => self.registry.register(&self.subject, &self.declared.json_string)?,
        };
        self.id = Some(id);
        let mut writer = self.writer(id)?;
        writer.encode(rows).map_err(|e| Error::query("rows have no place in Avro").caused_by(e))?;
        writer.flush().iter().for_each(|record| each(&record));
        Ok(())
    }
}

/// Appends bytes in base64.
fn base64(bytes: &[u8], out: &mut String) {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letter = |index: u32| LETTERS.get((index & 63) as usize).map_or('=', |letter| char::from(*letter));
    for chunk in bytes.chunks(3) {
        let at = |n: usize| u32::from(chunk.get(n).copied().unwrap_or_default());
        let group = at(0) << 16 | at(1) << 8 | at(2);
        out.push(letter(group >> 18));
        out.push(letter(group >> 12));
        out.push(if chunk.len() > 1 { letter(group >> 6) } else { '=' });
        out.push(if chunk.len() > 2 { letter(group) } else { '=' });
    }
}
