//! Raw: the whole record is the one column's value, as text or as bytes.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use millstream_core::batch::Place;
use millstream_core::format::{Decoder, Format};
use millstream_core::source::{Chunk, Rejected};
use millstream_core::{Error, Result};

use super::leaf::{Kind, Leaf};
use super::{rejected, strip_mark};

/// The raw format.
#[derive(Debug)]
pub struct RawFormat;

impl RawFormat {
    /// Tries the schema.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where it is not one column of type STRING or BYTES.
    pub fn new(schema: &SchemaRef) -> Result<Self> {
        let refused = || {
            Error::config(
                "the format 'raw' gives one column of type STRING or BYTES: declare exactly that, or use another format",
            )
        };
        let [field] = schema.fields().as_ref() else { return Err(refused()) };
        let leaf = Leaf::new(field)?.ok_or_else(refused)?;
        if matches!(leaf.kind, Kind::Text { .. } | Kind::Binary(_)) { Ok(Self) } else { Err(refused()) }
    }
}

impl Format for RawFormat {
    fn decoder(&self, schema: SchemaRef) -> Result<Box<dyn Decoder>> {
        let column = match schema.fields().first() {
            Some(field) => Leaf::new(field)?,
            None => None,
        };
        Ok(Box::new(RawDecoder { schema, column, places: vec![], rejected: vec![] }))
    }
}

struct RawDecoder {
    schema: SchemaRef,
    /// Nothing where nobody asked for it.
    column: Option<Leaf>,
    places: Vec<Place>,
    rejected: Vec<Rejected>,
}

impl Decoder for RawDecoder {
    fn push(&mut self, record: &[u8], place: Place) {
        let bytes = strip_mark(record, place);
        if let Some(column) = &mut self.column {
            match &mut column.kind {
                Kind::Text { values, .. } => match std::str::from_utf8(bytes) {
                    Ok(_) => values.push(bytes),
                    Err(error) => {
                        let reason = format!("invalid UTF-8 at byte {}", error.valid_up_to() + 1);
                        self.rejected.push(rejected(record, place, reason));
                        return;
                    }
                },
                Kind::Binary(values) => values.push(record),
                _ => return,
            }
            column.nulls.append_non_null();
        }
        self.places.push(place);
    }

    fn len(&self) -> usize {
        self.places.len()
    }

    fn finish(&mut self) -> Result<Chunk> {
        let places = std::mem::take(&mut self.places);
        let options = RecordBatchOptions::new().with_row_count(Some(places.len()));
        let columns = self.column.iter_mut().map(Leaf::finish).collect::<Result<_>>()?;
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        Ok(Chunk { rows, places, rejected: std::mem::take(&mut self.rejected), raw: None })
    }
}
