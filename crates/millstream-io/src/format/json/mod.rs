//! JSON: one object a record.
//!
//! A column takes the field of its name (case counts). A field that is missing is NULL, one that no column
//! asks for is stepped over, of a field that is there twice the last one counts. What each type reads:
//!
//! | type | JSON |
//! |---|---|
//! | BOOLEAN | `true`, `false` |
//! | integers | numbers with a whole value in range: `12`, `1e3`, `2.0` |
//! | FLOAT, DOUBLE | numbers, rounded to the nearest; the strings `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | DECIMAL | numbers, and strings that hold one, exactly: a digit that doesn't fit is out of range |
//! | STRING | strings; with [`JSON_KEY`](super::JSON_KEY) = `any` every value, as its JSON text |
//! | BYTES | strings in base64 |
//! | DATE | `"2026-01-02"` |
//! | TIME | `"03:04:05.678"` |
//! | TIMESTAMP, TIMESTAMP_LTZ | `"2026-01-02 03:04:05.678"`, with `T` or a space, with `Z`, an offset or without (UTC); a column without a zone keeps the time in UTC; digits finer than the column are cut off; numbers where the field's [`EPOCH_KEY`](super::EPOCH_KEY) says what they count |
//! | ROW, ARRAY, MAP<STRING, ..> | objects, arrays, objects |
//!
//! Everything else is a rejected record with its reason, and so is a record that is not JSON in a part that
//! nobody asked for. A record of nothing but white space is no record. A byte order mark before the first
//! record is stepped over.

pub(crate) mod cursor;
pub(crate) mod encode;
mod object;
mod scalar;
mod skip;
pub(crate) mod value;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Fields, SchemaRef};
use millstream_core::Result;
use millstream_core::batch::Place;
use millstream_core::format::{Decoder, Format};
use millstream_core::source::{Chunk, Rejected};

pub use encode::JsonEncoder;

use cursor::{Cursor, Fail};
use object::Object;

use super::text::TimeStyle;
use super::{rejected, strip_mark};
use crate::Options;

/// The options of JSON: of a table that is read and of one that is written, as one declaration serves both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JsonOptions {
    /// How timestamps are written; read they are in both ways.
    pub(crate) style: TimeStyle,
    /// Fields that are NULL are left out.
    pub(crate) skip_nulls: bool,
}

impl JsonOptions {
    fn new(options: &Options) -> Result<Self> {
        super::refuse_silence(options, "json.ignore-parse-errors")?;
        // A missing field is NULL; where it must be there, the column is declared NOT NULL.
        options.one_of("json.fail-on-missing-field", &[("false", ())])?;
        // Decimals are always plain, which Flink leaves to choose.
        options.one_of("json.encode.decimal-as-plain-number", &[("true", ())])?;
        let styles = [("ISO-8601", TimeStyle::Iso), ("SQL", TimeStyle::Sql)];
        Ok(Self {
            style: options.one_of("json.timestamp-format.standard", &styles)?.unwrap_or(TimeStyle::Iso),
            skip_nulls: options.parsed("json.encode.ignore-null-fields")?.unwrap_or(false),
        })
    }
}

/// The JSON format.
#[derive(Debug)]
pub struct JsonFormat;

impl JsonFormat {
    /// Takes the format's options and tries the schema.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where an option is not understood or a type has no JSON form.
    pub fn new(options: &Options, schema: &SchemaRef) -> Result<Self> {
        JsonOptions::new(options)?;
        Object::new(schema.fields())?;
        Ok(Self)
    }
}

impl Format for JsonFormat {
    fn decoder(&self, schema: SchemaRef) -> Result<Box<dyn Decoder>> {
        let objects = Objects::new(schema.fields())?;
        Ok(Box::new(JsonDecoder { schema, objects, places: vec![], rejected: vec![] }))
    }
}

struct JsonDecoder {
    schema: SchemaRef,
    objects: Objects,
    places: Vec<Place>,
    rejected: Vec<Rejected>,
}

/// Texts of objects, read to rows.
pub(crate) struct Objects {
    object: Object,
    scratch: String,
}

impl Objects {
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where a type has no JSON form.
    pub(crate) fn new(fields: &Fields) -> Result<Self> {
        Ok(Self { object: Object::new(fields)?, scratch: String::new() })
    }

    /// Which columns must not be NULL in the objects from here on.
    pub(crate) fn demand(&mut self, needed: &[bool]) {
        self.object.demand(needed);
    }

    /// Reads the record to one row more, or says why it is none: then there are as many rows as before. Nothing for a
    /// blank one.
    pub(crate) fn read(&mut self, record: &[u8]) -> Result<Option<()>, String> {
        let rows = self.object.rows();
        let read = self.try_read(record);
        if !matches!(read, Ok(Some(()))) {
            self.object.truncate(rows);
        }
        read
    }

    fn try_read(&mut self, record: &[u8]) -> Result<Option<()>, String> {
        let text = std::str::from_utf8(record)
            .map_err(|error| format!("invalid UTF-8 at byte {}", error.valid_up_to() + 1))?;
        let mut cursor = Cursor::new(text, std::mem::take(&mut self.scratch));
        let result = self.object.read(&mut cursor).and_then(|()| {
            cursor.space();
            if cursor.at == text.len() { Ok(()) } else { cursor.fail("something follows the object") }
        });
        let first = text.trim_ascii_start().as_bytes().first().copied();
        self.scratch = cursor.scratch;
        match result {
            Ok(()) => Ok(Some(())),
            Err(Fail::Syntax { .. }) if first.is_none() => Ok(None),
            Err(Fail::Syntax { at, what }) => Err(format!("not JSON at column {}: {what}", column(text, at))),
            Err(Fail::Value(mismatch)) => Err(format!("field '{}': {}", mismatch.path, mismatch.what)),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.object.rows()
    }

    /// Takes back every row past the first `rows`.
    pub(crate) fn truncate(&mut self, rows: usize) {
        self.object.truncate(rows);
    }

    /// The columns of everything since the last call.
    pub(crate) fn finish(&mut self) -> Result<Vec<ArrayRef>> {
        self.object.finish()
    }
}

/// The number of the character at the byte, counted from 1.
fn column(text: &str, at: usize) -> usize {
    text.char_indices().take_while(|(byte, _)| *byte < at).count() + 1
}

impl Decoder for JsonDecoder {
    fn push(&mut self, record: &[u8], place: Place) {
        match self.objects.read(strip_mark(record, place)) {
            Ok(Some(())) => self.places.push(place),
            Ok(None) => {}
            Err(reason) => self.rejected.push(rejected(record, place, reason)),
        }
    }

    fn len(&self) -> usize {
        self.objects.rows()
    }

    fn finish(&mut self) -> Result<Chunk> {
        let options = RecordBatchOptions::new().with_row_count(Some(self.objects.rows()));
        let columns = self.objects.finish()?;
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        let places = std::mem::replace(&mut self.places, Vec::with_capacity(rows.num_rows()));
        Ok(Chunk { rows, places, rejected: std::mem::take(&mut self.rejected), raw: None })
    }
}

#[cfg(test)]
mod against;
#[cfg(test)]
mod tests;
