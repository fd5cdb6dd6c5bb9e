//! Rows to NDJSON: one object a line, its fields in the order of the columns.
//!
//! NULL is written as `null` (or left out with `json.encode.ignore-null-fields`), timestamps in ISO-8601
//! (`2026-01-02T03:04:05.123`, with `Z` where the column has a zone: the time is then UTC; a space for the `T`
//! with `json.timestamp-format.standard` = `SQL`), decimals as numbers with all their digits, bytes in base64, maps as objects. JSON has no NaN and no infinity: they are
//! written as the strings `"NaN"`, `"Infinity"`, `"-Infinity"`, which this crate (and Jackson) reads back.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use millstream_core::format::Encoder;
use millstream_core::{Error, Result};

use super::JsonOptions;
use super::cursor::string_end;
use crate::Options;
use crate::format::text::{Text, TimeStyle, Write, text};

/// Writes NDJSON.
#[derive(Debug)]
pub struct JsonEncoder {
    /// What stands before each value: `{"a":`, `,"b":`.
    prefixes: Vec<Vec<u8>>,
    options: JsonOptions,
}

impl JsonEncoder {
    /// Takes the format's options and the names of the columns.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where an option is not understood.
    pub fn new(options: &Options, schema: &SchemaRef) -> Result<Self> {
        let options = JsonOptions::new(options)?;
        Ok(Self { prefixes: prefixes(schema.fields().iter().map(|field| field.name())), options })
    }
}

impl Encoder for JsonEncoder {
    fn header(&self) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn encode(&mut self, rows: &RecordBatch, out: &mut Vec<u8>) -> Result<()> {
        if rows.num_columns() != self.prefixes.len() {
            return Err(Error::bug(format!(
                "rows of {} columns came to an encoder of {}",
                rows.num_columns(),
                self.prefixes.len()
            )));
        }
        let columns: Vec<ArrayRef> = rows.columns().iter().map(plain).collect::<Result<_>>()?;
        let cells = columns.iter().map(|column| Cell::new(column, self.options.style));
        let cells = cells.collect::<Result<Vec<_>>>()?;
        for row in 0..rows.num_rows() {
            object(&self.prefixes, &cells, self.options.skip_nulls, row, out);
            out.push(b'\n');
        }
        Ok(())
    }
}

/// `{"a":`, `,"b":` of names.
fn prefixes<'a>(names: impl Iterator<Item = &'a String>) -> Vec<Vec<u8>> {
    names
        .enumerate()
        .map(|(index, name)| {
            let mut prefix = vec![if index == 0 { b'{' } else { b',' }];
            string(name, &mut prefix);
            prefix.push(b':');
            prefix
        })
        .collect()
}

fn object(prefixes: &[Vec<u8>], cells: &[Cell], skip_nulls: bool, row: usize, out: &mut Vec<u8>) {
    let mut first = true;
    for (prefix, cell) in prefixes.iter().zip(cells) {
        let null = cell.is_null(row);
        if null && skip_nulls {
            continue;
        }
        // The first field that is written opens the object, whichever it is.
        out.push(if first { b'{' } else { b',' });
        out.extend_from_slice(prefix.get(1..).unwrap_or_default());
        first = false;
        if null {
            out.extend_from_slice(b"null");
        } else {
            (cell.write)(row, out);
        }
    }
    out.extend_from_slice(if first { b"{}" } else { b"}" });
}

/// The array with dictionaries and run lengths written out, so that every value is where its row is, and with
/// one form of the types that have several.
pub(crate) fn plain(array: &ArrayRef) -> Result<ArrayRef> {
    let data_type = plain_type(array.data_type());
    if array.data_type() == &data_type { Ok(Arc::clone(array)) } else { Ok(cast(array, &data_type)?) }
}

fn plain_type(data_type: &DataType) -> DataType {
    let field = |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(plain_type(field.data_type())));
    match data_type {
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::Float16 => DataType::Float32,
        DataType::RunEndEncoded(_, values) => plain_type(values.data_type()),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => DataType::List(field(item)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect()),
        DataType::Map(entries, sorted) => DataType::Map(field(entries), *sorted),
        other => other.clone(),
    }
}

/// How the values of a column are written.
pub(crate) struct Cell<'a> {
    nulls: Option<&'a NullBuffer>,
    always_null: bool,
    pub(crate) write: Write<'a>,
}

impl<'a> Cell<'a> {
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where the type has no place in JSON.
    pub(crate) fn new(array: &'a ArrayRef, style: TimeStyle) -> Result<Self> {
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        let always_null = array.data_type() == &DataType::Null;
        let write: Write = match text(array.as_ref(), style)? {
            Some(Text::Bare(write)) => write,
            Some(Text::Float(write, finite)) => Box::new(move |row, out| match finite(row) {
                true => write(row, out),
                false => quoted(&write, row, out),
            }),
            Some(Text::Plain(write)) => Box::new(move |row, out| quoted(&write, row, out)),
            Some(Text::Free(value)) => Box::new(move |row, out| string(value(row), out)),
            Some(Text::FreeWrite(write)) => Box::new(move |row, out| {
                let mut text = Vec::new();
                write(row, &mut text);
                string(&String::from_utf8_lossy(&text), out);
            }),
            None => nested(array, style)?,
        };
        Ok(Self { nulls, always_null, write })
    }

    #[inline]
    pub(crate) fn is_null(&self, row: usize) -> bool {
        self.always_null || self.nulls.is_some_and(|nulls| nulls.is_null(row))
    }

    fn write_or_null(&self, row: usize, out: &mut Vec<u8>) {
        if self.is_null(row) { out.extend_from_slice(b"null") } else { (self.write)(row, out) }
    }
}

fn quoted(write: &Write, row: usize, out: &mut Vec<u8>) {
    out.push(b'"');
    write(row, out);
    out.push(b'"');
}

fn nested(array: &ArrayRef, style: TimeStyle) -> Result<Write<'_>> {
    match array.data_type() {
        DataType::Null => Ok(Box::new(|_, out| out.extend_from_slice(b"null"))),
        DataType::Struct(fields) => {
            let prefixes = prefixes(fields.iter().map(|field| field.name()));
            let cells = array.as_struct().columns().iter().map(|column| Cell::new(column, style));
            let cells = cells.collect::<Result<Vec<_>>>()?;
            Ok(Box::new(move |row, out| object(&prefixes, &cells, false, row, out)))
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (cell, offsets) = (Cell::new(list.values(), style)?, list.value_offsets());
            Ok(Box::new(move |row, out| {
                out.push(b'[');
                for (n, element) in run(offsets, row).enumerate() {
                    if n > 0 {
                        out.push(b',');
                    }
                    cell.write_or_null(element, out);
                }
                out.push(b']');
            }))
        }
        DataType::Map(..) => {
            let map = array.as_map();
            let (keys, values, offsets) =
                (key(map.keys(), style)?, Cell::new(map.values(), style)?, map.value_offsets());
            Ok(Box::new(move |row, out| {
                out.push(b'{');
                for (n, entry) in run(offsets, row).enumerate() {
                    if n > 0 {
                        out.push(b',');
                    }
                    keys(entry, out);
                    out.push(b':');
                    values.write_or_null(entry, out);
                }
                out.push(b'}');
            }))
        }
        other => Err(Error::query(format!("the type {other} has no place in JSON: CAST the column to STRING"))),
    }
}

/// The key of a map's entry: always a string.
fn key(keys: &ArrayRef, style: TimeStyle) -> Result<Write<'_>> {
    Ok(match text(keys.as_ref(), style)? {
        Some(Text::Bare(write) | Text::Float(write, _) | Text::Plain(write)) => {
            Box::new(move |row, out| quoted(&write, row, out))
        }
        Some(Text::Free(value)) => Box::new(move |row, out| string(value(row), out)),
        _ => {
            let name = keys.data_type();
            return Err(Error::query(format!(
                "a map with keys of type {name} has no place in JSON: CAST it to STRING"
            )));
        }
    })
}

fn run(offsets: &[i32], row: usize) -> std::ops::Range<usize> {
    let end = |row: usize| offsets.get(row).copied().and_then(|end| usize::try_from(end).ok()).unwrap_or(0);
    end(row)..end(row + 1)
}

/// Appends a string with its quotes and escapes.
#[inline]
pub(crate) fn string(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some((clean, tail)) = rest.split_at_checked(string_end(rest, 0)) {
        out.extend_from_slice(clean);
        let Some((byte, tail)) = tail.split_first() else { break };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => out.extend_from_slice(format!("\\u{other:04x}").as_bytes()),
        }
        rest = tail;
    }
    out.push(b'"');
}
