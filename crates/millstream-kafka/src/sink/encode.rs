//! The key or the value of many rows to bytes, one record a row.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_core::format::Encoder;
use millstream_core::{Error, Result};

use crate::avro::AvroEncoder;
use crate::table::PartFormat;

/// Bytes of many records, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    bytes: Vec<u8>,
    /// Where each one lies; `None` where there is none.
    spans: Vec<Option<(usize, usize)>>,
}

impl Encoded {
    /// The bytes of a row; `None` where the record has none.
    pub(super) fn get(&self, row: usize) -> Option<&[u8]> {
        let (start, end) = (*self.spans.get(row)?)?;
        self.bytes.get(start..end)
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
    }

    fn push(&mut self, value: Option<&[u8]>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.spans.push(value.map(|_| (start, self.bytes.len())));
    }
}

/// Bytes of records at the most whose memory is kept for the next batch.
const SPARE_BYTES_MAX: usize = 16 << 20;

/// Encodes some columns of rows.
pub(super) struct PartEncoder {
    columns: Vec<usize>,
    /// The columns by the names that they have in the record.
    schema: SchemaRef,
    how: How,
    /// The memory of an earlier batch.
    spare: Encoded,
}

enum How {
    /// One line a row, and no line end within a row.
    Lines(Box<dyn Encoder>),
    /// One row at a time, since a row may hold line ends.
    Rows(Box<dyn Encoder>),
    /// The column's bytes as they are; NULL is no record.
    Raw,
    Avro(Box<AvroEncoder>),
}

impl PartEncoder {
    /// Tries the schema with no rows.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] or [`millstream_core::ErrorKind::Query`] where the format is not known or
    /// has no place for a type.
    pub(super) fn new(format: &PartFormat, schema: &SchemaRef, columns: Vec<usize>) -> Result<Self> {
        let projected = schema.project(&columns)?;
        let rename = |field: &Arc<Field>| match field.name().strip_prefix(format.prefix()) {
            Some(name) if !name.is_empty() => Arc::new(field.as_ref().clone().with_name(name)),
            _ => field.clone(),
        };
        let schema: SchemaRef = Arc::new(Schema::new(projected.fields().iter().map(rename).collect::<Vec<_>>()));
        let how = match format.format() {
            "raw" => How::Raw,
            "avro-confluent" => {
                let (registry, subject) = format.registry()?;
                How::Avro(Box::new(AvroEncoder::new(registry, subject, schema.clone())?))
            }
            "csv" => How::Rows(millstream_io::format::encoder(format.options(), &schema)?),
            "json" | "ndjson" | "debezium-json" => {
                How::Lines(millstream_io::format::encoder(&format.row_options(), &schema)?)
            }
            other => {
                return Err(Error::config(format!("the format '{other}' can't be written to Kafka: choose {WRITTEN}")));
            }
        };
        let mut made = Self { columns, schema, how, spare: Encoded::default() };
        if matches!(made.how, How::Raw) {
            made.check_raw()?;
        }
        // Avro has tried itself, and would ask the registry.
        if !matches!(made.how, How::Avro(_)) {
            made.encode_columns(&RecordBatch::new_empty(made.schema.clone()))?;
        }
        Ok(made)
    }

    fn check_raw(&self) -> Result<()> {
        let text = |t: &DataType| {
            use DataType as T;
            matches!(t, T::Utf8 | T::LargeUtf8 | T::Utf8View | T::Binary | T::LargeBinary | T::BinaryView)
        };
        match self.schema.fields().as_ref() {
            [field] if text(field.data_type()) => Ok(()),
            fields => {
                let names: Vec<_> = fields.iter().map(|f| f.name().as_str()).collect();
                Err(Error::config(format!(
                    "the format 'raw' writes one column of type STRING or BYTES, and these are ({}): write one, or choose \
                     another format",
                    names.join(", ")
                )))
            }
        }
    }

    /// Takes the memory back for the next batch, where it is not too much to keep.
    pub(super) fn reuse(&mut self, encoded: Encoded) {
        if encoded.bytes.capacity() <= SPARE_BYTES_MAX {
            self.spare = encoded;
        }
    }

    /// The records of these rows.
    pub(super) fn encode(&mut self, rows: &RecordBatch) -> Result<Encoded> {
        let rows = rows.project(&self.columns)?.with_schema(self.schema.clone())?;
        self.encode_columns(&rows)
    }

    fn encode_columns(&mut self, rows: &RecordBatch) -> Result<Encoded> {
        let mut encoded = std::mem::take(&mut self.spare);
        encoded.clear();
        match &mut self.how {
            How::Lines(encoder) => {
                encoder.encode(rows, &mut encoded.bytes)?;
                let mut start = 0;
                for at in memchr::memchr_iter(b'\n', &encoded.bytes) {
                    encoded.spans.push(Some((start, at)));
                    start = at + 1;
                }
            }
            How::Rows(encoder) => {
                for row in 0..rows.num_rows() {
                    let start = encoded.bytes.len();
                    encoder.encode(&rows.slice(row, 1), &mut encoded.bytes)?;
                    encoded.spans.push(Some((start, encoded.bytes.len() - 1)));
                }
            }
            How::Avro(encoder) => encoder.encode(rows, |record| encoded.push(Some(record)))?,
            How::Raw => raw(rows.columns().first(), &mut encoded)?,
        }
        match encoded.spans.len() == rows.num_rows() {
            true => Ok(encoded),
            false => Err(Error::bug(format!("{} rows became {} records", rows.num_rows(), encoded.spans.len()))),
        }
    }
}

/// What can be written, for messages.
const WRITTEN: &str = "'json', 'csv', 'raw', 'debezium-json' or 'avro-confluent'";

fn raw(column: Option<&ArrayRef>, encoded: &mut Encoded) -> Result<()> {
    let Some(column) = column else { return Ok(()) };
    let text = matches!(column.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let column = cast(column, if text { &DataType::LargeUtf8 } else { &DataType::LargeBinary })?;
    for row in 0..column.len() {
        let value = match (column.is_null(row), text) {
            (true, _) => None,
            (false, true) => Some(column.as_string::<i64>().value(row).as_bytes()),
            (false, false) => Some(column.as_binary::<i64>().value(row)),
        };
        encoded.push(value);
    }
    Ok(())
}
