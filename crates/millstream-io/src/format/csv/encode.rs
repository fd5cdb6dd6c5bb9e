//! Rows to CSV (RFC 4180), lines ended by a line feed.
//!
//! NULL is the null literal, or nothing where none is declared; a text that would read as NULL is quoted.
//! Timestamps are written as in SQL (`2026-01-02 03:04:05.123`, with `Z` where the column has a zone), bytes
//! in base64, ROW, ARRAY and MAP as JSON within the field.

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use millstream_core::format::Encoder;
use millstream_core::{Error, Result};

use super::Dialect;
use crate::Options;
use crate::format::json::encode::{Cell, plain};
use crate::format::text::{Text, TimeStyle, Write, text};

/// Writes CSV.
#[derive(Debug)]
pub struct CsvEncoder {
    dialect: Dialect,
    quote: u8,
    /// Whether a text with this byte needs quotes.
    special: [bool; 256],
    names: Vec<String>,
}

impl CsvEncoder {
    /// Takes the format's options and the names of the columns.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where an option is not understood.
    pub fn new(options: &Options, schema: &SchemaRef) -> Result<Self> {
        let dialect = Dialect::new(options)?;
        let Some(quote) = dialect.quote else {
            return Err(Error::config(
                "CSV can't be written without a quote character, as texts may hold the delimiter: remove \
                 'csv.disable-quote-character'",
            ));
        };
        let names = schema.fields().iter().map(|field| field.name().clone()).collect();
        let special = std::array::from_fn(|byte| {
            let byte = u8::try_from(byte).ok();
            [Some(b'\n'), Some(b'\r'), Some(dialect.delimiter), Some(quote), dialect.escape].contains(&byte)
        });
        Ok(Self { dialect, quote, special, names })
    }

    /// Appends a text, in quotes where it would read as something else without.
    fn push(&self, text: &[u8], out: &mut Vec<u8>) {
        let escape = self.dialect.escape;
        let null = match &self.dialect.null {
            Some(null) => text == null.as_bytes(),
            None => false,
        };
        // A comment can only begin a line, but the first column is not known here.
        let comment = self.dialect.comments && text.first() == Some(&b'#');
        if !text.is_empty() && !null && !comment && !text.iter().any(|byte| self.special[usize::from(*byte)]) {
            out.extend_from_slice(text);
            return;
        }
        out.push(self.quote);
        for byte in text {
            if *byte == self.quote || Some(*byte) == escape {
                out.push(escape.unwrap_or(self.quote));
            }
            out.push(*byte);
        }
        out.push(self.quote);
    }

    fn push_null(&self, out: &mut Vec<u8>) {
        if let Some(null) = &self.dialect.null {
            out.extend_from_slice(null.as_bytes());
        }
    }
}

impl Encoder for CsvEncoder {
    fn header(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        if self.dialect.header {
            for (n, name) in self.names.iter().enumerate() {
                if n > 0 {
                    out.push(self.dialect.delimiter);
                }
                self.push(name.as_bytes(), &mut out);
            }
            out.push(b'\n');
        }
        Ok(out)
    }

    fn encode(&mut self, rows: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        if rows.num_columns() != self.names.len() {
            return Err(Error::bug(format!(
                "rows of {} columns came to an encoder of {}",
                rows.num_columns(),
                self.names.len()
            )));
        }
        let columns: Vec<ArrayRef> = rows.columns().iter().map(plain).collect::<Result<_>>()?;
        let cells = columns.iter().map(field).collect::<Result<Vec<_>>>()?;
        let mut scratch = Vec::new();
        for row in 0..rows.num_rows() {
            for (n, (column, cell)) in columns.iter().zip(&cells).enumerate() {
                if n > 0 {
                    out.push(self.dialect.delimiter);
                }
                if column.is_null(row) || column.data_type().is_null() {
                    self.push_null(out);
                    continue;
                }
                match cell {
                    Field::Text(value) => self.push(value(row).as_bytes(), out),
                    Field::Written(write) => {
                        scratch.clear();
                        write(row, &mut scratch);
                        self.push(&scratch, out);
                    }
                }
            }
            out.push(b'\n');
        }
        Ok(())
    }
}

/// How the values of a column are written, before quotes.
enum Field<'a> {
    Text(Box<dyn Fn(usize) -> &'a str + 'a>),
    Written(Write<'a>),
}

fn field(array: &ArrayRef) -> Result<Field<'_>> {
    Ok(match text(array.as_ref(), TimeStyle::Sql)? {
        Some(Text::Free(value)) => Field::Text(value),
        Some(Text::Bare(write) | Text::Float(write, _) | Text::Plain(write) | Text::FreeWrite(write)) => {
            Field::Written(write)
        }
        None => Field::Written(Cell::new(array, TimeStyle::Iso)?.write),
    })
}
