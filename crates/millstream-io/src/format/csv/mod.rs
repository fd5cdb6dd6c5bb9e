//! CSV (RFC 4180): one line a record, its fields in the order of the declared columns.
//!
//! Options, with Flink's names: `csv.field-delimiter` (`,`; `\t` is a tab), `csv.quote-character` (`"`),
//! `csv.disable-quote-character`, `csv.escape-character` (none), `csv.null-literal` (none),
//! `csv.allow-comments` (lines that begin with `#` are no records), and `csv.header` (`false`).
//!
//! - **NULL** is a field that is the null literal and stands without quotes; where no literal is declared,
//!   an empty field without quotes. `""` is the empty string. So what is written reads back.
//! - **The header** is the first line of a file where `csv.header` is true: no row, whatever it says. It moves
//!   nothing, because a range that begins later in the file never sees it; one whose names are not the
//!   declared ones, in the declared order, is rejected with the reason, and the rows are read as declared.
//!   Where comments are allowed, they may stand above it: then every line that holds just the declared names is one.
//! - A record is a line: a quote that is not closed in it is rejected. Numbers and times may have spaces
//!   around them; texts keep theirs. ROW, ARRAY and MAP are JSON within the field.
//! - An empty line is no record, save where one column is declared: there it is a NULL.

mod encode;
mod split;

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Field, SchemaRef};
use millstream_core::batch::Place;
use millstream_core::format::{Decoder, Format};
use millstream_core::source::{Chunk, Rejected};
use millstream_core::{Error, Result};

pub use encode::CsvEncoder;
pub(crate) use split::Splitter;

use super::json::cursor::{Cursor, Fail};
use super::json::value::Column;
use super::leaf::{Kind, sql_name};
use super::scalar::{self, Misfit};
use super::{rejected, strip_mark};
use crate::Options;

/// How a CSV file is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dialect {
    pub(crate) delimiter: u8,
    pub(crate) quote: Option<u8>,
    pub(crate) escape: Option<u8>,
    pub(crate) null: Option<String>,
    pub(crate) comments: bool,
    pub(crate) header: bool,
}

impl Dialect {
    pub(crate) fn new(options: &Options) -> Result<Self> {
        let quote = byte(options, "csv.quote-character")?.unwrap_or(b'"');
        let quoted = !options.parsed("csv.disable-quote-character")?.unwrap_or(false);
        let dialect = Self {
            delimiter: byte(options, "csv.field-delimiter")?.unwrap_or(b','),
            quote: quoted.then_some(quote),
            escape: byte(options, "csv.escape-character")?,
            null: options.get("csv.null-literal").map(String::from),
            comments: options.parsed("csv.allow-comments")?.unwrap_or(false),
            header: options.parsed("csv.header")?.unwrap_or(false),
        };
        let roles = [Some(dialect.delimiter), dialect.quote, dialect.escape];
        let mut used: Vec<u8> = roles.into_iter().flatten().collect();
        used.sort_unstable();
        if used.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err(Error::config(
                "the CSV delimiter, quote and escape character must differ from one another: change one of \
                 'csv.field-delimiter', 'csv.quote-character', 'csv.escape-character'",
            ));
        }
        Ok(dialect)
    }

    fn is_comment(&self, record: &[u8]) -> bool {
        self.comments && record.first() == Some(&b'#')
    }
}

/// One ASCII character other than a line end; `\t` is a tab.
fn byte(options: &Options, name: &str) -> Result<Option<u8>> {
    let Some(text) = options.get(name) else { return Ok(None) };
    let byte = match text {
        "\\t" => b'\t',
        "\\\\" => b'\\',
        _ => match text.as_bytes() {
            [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => *byte,
            _ => {
                return Err(Error::config(format!(
                    "the option '{name}' = '{text}': it is one ASCII character, or '\\t' for a tab"
                )));
            }
        },
    };
    Ok(Some(byte))
}

/// The CSV format.
#[derive(Debug)]
pub struct CsvFormat {
    dialect: Dialect,
    declared: SchemaRef,
}

impl CsvFormat {
    /// Takes the format's options and all the declared columns: they say where in a record a column stands.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where an option is not understood or a type has no CSV form.
    pub fn new(options: &Options, schema: &SchemaRef) -> Result<Self> {
        super::refuse_silence(options, "csv.ignore-parse-errors")?;
        for field in schema.fields() {
            Column::new(field)?;
        }
        Ok(Self { dialect: Dialect::new(options)?, declared: Arc::clone(schema) })
    }
}

impl Format for CsvFormat {
    fn decoder(&self, schema: SchemaRef) -> Result<Box<dyn Decoder>> {
        let mut columns = Vec::with_capacity(schema.fields().len());
        for field in schema.fields() {
            let place = self
                .declared
                .index_of(field.name())
                .map_err(|_| Error::bug(format!("the column '{}' is asked for, but not declared", field.name())))?;
            columns.push(CsvColumn { place, field: Arc::clone(field), column: Column::new(field)? });
        }
        Ok(Box::new(CsvDecoder {
            splitter: Splitter::new(&self.dialect),
            dialect: self.dialect.clone(),
            names: self.declared.fields().iter().map(|field| field.name().clone()).collect(),
            schema,
            columns,
            places: vec![],
            rejected: vec![],
            scratch: String::new(),
        }))
    }
}

struct CsvColumn {
    /// Its number in the record.
    place: usize,
    field: Arc<Field>,
    column: Column,
}

struct CsvDecoder {
    dialect: Dialect,
    splitter: Splitter,
    /// Of all declared columns.
    names: Vec<String>,
    schema: SchemaRef,
    columns: Vec<CsvColumn>,
    places: Vec<Place>,
    rejected: Vec<Rejected>,
    scratch: String,
}

/// What a record was.
enum Outcome {
    Row,
    Nothing,
}

impl CsvDecoder {
    fn read(&mut self, record: &[u8], place: Place) -> Result<Outcome, String> {
        let blank = record.is_empty() && self.names.len() != 1;
        if blank || self.dialect.is_comment(record) {
            return Ok(Outcome::Nothing);
        }
        let text = std::str::from_utf8(record)
            .map_err(|error| format!("invalid UTF-8 at byte {}", error.valid_up_to() + 1))?;
        self.splitter.split(text)?;
        if self.dialect.header && place.row == 0 {
            return self.check_header(text).map(|()| Outcome::Nothing);
        }
        // Below comments the header may stand anywhere, and a range that begins there does not know what is above it.
        if self.dialect.header && self.dialect.comments && self.check_header(text).is_ok() {
            return Ok(Outcome::Nothing);
        }
        if self.splitter.len() != self.names.len() {
            return Err(format!(
                "wrong number of fields: {} are declared, found {}",
                self.names.len(),
                self.splitter.len()
            ));
        }
        for CsvColumn { place, field, column } in &mut self.columns {
            let cell = self.splitter.cell(text, *place, &mut self.scratch);
            read_cell(column, field, cell.text, cell.quoted, self.dialect.null.as_deref())
                .map_err(|what| format!("field '{}': {what}", field.name()))?;
        }
        Ok(Outcome::Row)
    }

    fn check_header(&mut self, text: &str) -> Result<(), String> {
        let mut found = Vec::with_capacity(self.splitter.len());
        for place in 0..self.splitter.len() {
            found.push(self.splitter.cell(text, place, &mut self.scratch).text.trim().to_string());
        }
        let same = found.len() == self.names.len()
            && found.iter().zip(&self.names).all(|(found, name)| found.eq_ignore_ascii_case(name));
        if same {
            return Ok(());
        }
        Err(format!(
            "the header names other columns than the table: ({}) are declared, found ({}); the rows are read in the \
             declared order, so declare the columns as the header has them",
            self.names.join(", "),
            found.join(", ")
        ))
    }
}

impl Decoder for CsvDecoder {
    fn push(&mut self, record: &[u8], place: Place) {
        let rows = self.places.len();
        let body = strip_mark(record, place);
        let body = body.strip_suffix(b"\r").unwrap_or(body);
        match self.read(body, place) {
            Ok(Outcome::Row) => self.places.push(place),
            Ok(Outcome::Nothing) => {}
            Err(reason) => {
                for column in &mut self.columns {
                    column.column.truncate(rows);
                }
                self.rejected.push(rejected(record, place, reason));
            }
        }
    }

    fn len(&self) -> usize {
        self.places.len()
    }

    fn finish(&mut self) -> Result<Chunk> {
        let places = std::mem::take(&mut self.places);
        let options = RecordBatchOptions::new().with_row_count(Some(places.len()));
        let columns = self.columns.iter_mut().map(|column| column.column.finish()).collect::<Result<_>>()?;
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        Ok(Chunk { rows, places, rejected: std::mem::take(&mut self.rejected), raw: None })
    }
}

/// Reads a field to one row more of its column, or says why it is none.
fn read_cell(column: &mut Column, field: &Field, text: &str, quoted: bool, null: Option<&str>) -> Result<(), String> {
    let is_text = matches!(column, Column::Leaf(leaf) if matches!(leaf.kind, Kind::Text { .. }));
    let is_null = !quoted
        && match null {
            Some(null) => text == null || (!is_text && text.is_empty()),
            None => text.is_empty(),
        };
    if is_null {
        if !field.is_nullable() {
            return Err("is NULL, but declared NOT NULL".into());
        }
        column.push_null();
        return Ok(());
    }
    let Column::Leaf(leaf) = column else { return read_json(column, field, text) };
    let result = push_text(&mut leaf.kind, text);
    if result.is_ok() {
        leaf.nulls.append_non_null();
    }
    result.map_err(|misfit| {
        const SHOWN_CHARS_MAX: usize = 40;
        let name = sql_name(&leaf.data_type);
        let shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
        match misfit {
            Misfit::Malformed => format!("wrong type: {name} is declared, found '{shown}'"),
            Misfit::OutOfRange => format!("number out of range: {shown} does not fit {name} exactly"),
        }
    })
}

/// Reads a value with parts.
fn read_json(column: &mut Column, field: &Field, text: &str) -> Result<(), String> {
    let mut cursor = Cursor::new(text, String::new());
    let result = column.read(&mut cursor, field.is_nullable()).and_then(|()| {
        cursor.space();
        if cursor.at == text.len() { Ok(()) } else { cursor.fail("something follows the value") }
    });
    result.map_err(|fail| match fail {
        Fail::Syntax { at, what } => format!("not JSON at byte {}: {what}", at + 1),
        Fail::Value(mismatch) if mismatch.path.is_empty() => mismatch.what,
        Fail::Value(mismatch) => format!("{}: {}", mismatch.path, mismatch.what),
    })
}

/// Appends what the text stands for. Appends no validity.
fn push_text(kind: &mut Kind, text: &str) -> Result<(), Misfit> {
    if let Kind::Text { values, .. } = kind {
        values.push(text.as_bytes());
        return Ok(());
    }
    let text = text.trim();
    match kind {
        Kind::Text { .. } => {}
        Kind::Boolean(values) if text.eq_ignore_ascii_case("true") => values.push(true),
        Kind::Boolean(values) if text.eq_ignore_ascii_case("false") => values.push(false),
        Kind::Boolean(_) => return Err(Misfit::Malformed),
        Kind::Int { values, min, max } => values.push(scalar::integer(text, *min, *max)?),
        Kind::UInt64(values) => values.push(scalar::unsigned(text)?),
        Kind::Float64(values) => values.push(match scalar::not_a_number(text) {
            Some(value) => value,
            None => scalar::float64(text)?,
        }),
        Kind::Float32(values) => values.push(match scalar::not_a_number(text) {
            Some(value) => value as f32,
            None => scalar::float32(text)?,
        }),
        Kind::Decimal { values, precision, scale } => values.push(scalar::decimal(text, *precision, *scale)?),
        Kind::Binary(values) => {
            let mut bytes = Vec::new();
            scalar::base64_decode(text.as_bytes(), &mut bytes).ok_or(Misfit::Malformed)?;
            values.push(&bytes);
        }
        Kind::Date(values) => values.push(scalar::date(text.as_bytes()).ok_or(Misfit::Malformed)?),
        Kind::Time { values, unit } => {
            values.push(scalar::time(text.as_bytes(), *unit).ok_or(Misfit::Malformed)?);
        }
        Kind::Timestamp { values, unit, epoch } => values.push(match epoch {
            Some(epoch) => scalar::epoch(text, *epoch, *unit)
                .or_else(|misfit| scalar::timestamp(text.as_bytes(), *unit).map_err(|_| misfit))?,
            None => scalar::timestamp(text.as_bytes(), *unit)?,
        }),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
