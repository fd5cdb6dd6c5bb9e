//! JSON made of values: JSON_OBJECT, JSON_ARRAY and JSON_STRING.
//!
//! A value of any type is written as the files of format json write it. A value that is JSON already is told by the
//! parser, which sees whether it is a call of these functions.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, StringViewBuilder};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::arrow::json::writer::{EncoderOptions, NullableEncoder, make_encoder};
use datafusion::common::{DataFusionError, Result, exec_err};

use crate::sql::functions::Argument::{Any, Boolean, Text};
use crate::sql::functions::Builtin;
use crate::sql::functions::rows::{count, text};

pub fn functions() -> Vec<Builtin> {
    vec![
        // What becomes of NULL values; then key, whether the value is JSON, value.
        Builtin::new("json_object_of", &[Text, Text, Boolean, Any], DataType::Utf8View, json_object)
            .optional(3)
            .repeated(3),
        // What becomes of NULL values; then whether the value is JSON, value.
        Builtin::new("json_array_of", &[Text, Boolean, Any], DataType::Utf8View, json_array).optional(2).repeated(2),
        Builtin::new("json_string", &[Any], DataType::Utf8View, json_string),
    ]
}

/// A text as a JSON string.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Writes the values of a column as JSON.
struct Values<'a> {
    encoder: NullableEncoder<'a>,
    /// Text that is JSON already, where it is.
    raw: Option<&'a ArrayRef>,
}

impl<'a> Values<'a> {
    fn new(column: &'a ArrayRef, field: &'a FieldRef, options: &'a EncoderOptions, is_json: bool) -> Result<Self> {
        let encoder = make_encoder(field, column.as_ref(), options).map_err(DataFusionError::from)?;
        Ok(Self { encoder, raw: is_json.then_some(column) })
    }

    fn is_null(&self, row: usize) -> bool {
        self.encoder.is_null(row)
    }

    fn write(&mut self, row: usize, out: &mut String) -> Result<()> {
        if let Some(raw) = self.raw {
            out.push_str(text(std::slice::from_ref(raw), 0, row).unwrap_or("null"));
            return Ok(());
        }
        let mut bytes = vec![];
        if self.is_null(row) {
            bytes.extend_from_slice(b"null")
        } else {
            self.encoder.encode(row, &mut bytes)
        }
        match std::str::from_utf8(&bytes) {
            Ok(json) => out.push_str(json),
            Err(e) => return exec_err!("a value can't be written as JSON: {e}"),
        }
        Ok(())
    }
}

/// The fields that values are written by.
fn fields(args: &[ArrayRef]) -> Vec<FieldRef> {
    args.iter().map(|a| Arc::new(Field::new("value", a.data_type().clone(), true))).collect()
}

fn is_json(args: &[ArrayRef], n: usize) -> bool {
    args.get(n).and_then(|a| a.as_boolean_opt()).is_some_and(|a| a.iter().next() == Some(Some(true)))
}

fn json_object(args: &[ArrayRef]) -> Result<ArrayRef> {
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let fields = fields(args);
    let mut columns = vec![];
    for n in (3..args.len()).step_by(3) {
        if let (Some(column), Some(field)) = (args.get(n), fields.get(n)) {
            columns.push((n - 2, Values::new(column, field, &options, is_json(args, n - 1))?));
        }
    }
    let mut out = StringViewBuilder::with_capacity(count(args));
    for row in 0..count(args) {
        let absent = text(args, 0, row) == Some("absent");
        let mut json = String::from("{");
        for (key, values) in &mut columns {
            if absent && values.is_null(row) {
                continue;
            }
            let Some(key) = text(args, *key, row) else {
                return exec_err!("JSON_OBJECT: a key is NULL: put COALESCE(key, ..) around it");
            };
            if json.len() > 1 {
                json.push(',');
            }
            json.push_str(&quoted(key));
            json.push(':');
            values.write(row, &mut json)?;
        }
        json.push('}');
        out.append_value(json);
    }
    Ok(Arc::new(out.finish()))
}

fn json_array(args: &[ArrayRef]) -> Result<ArrayRef> {
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let fields = fields(args);
    let mut columns = vec![];
    for n in (2..args.len()).step_by(2) {
        if let (Some(column), Some(field)) = (args.get(n), fields.get(n)) {
            columns.push(Values::new(column, field, &options, is_json(args, n - 1))?);
        }
    }
    let mut out = StringViewBuilder::with_capacity(count(args));
    for row in 0..count(args) {
        let absent = text(args, 0, row) == Some("absent");
        let mut json = String::from("[");
        for values in &mut columns {
            if absent && values.is_null(row) {
                continue;
            }
            if json.len() > 1 {
                json.push(',');
            }
            values.write(row, &mut json)?;
        }
        json.push(']');
        out.append_value(json);
    }
    Ok(Arc::new(out.finish()))
}

/// A value as JSON; NULL for NULL.
fn json_string(args: &[ArrayRef]) -> Result<ArrayRef> {
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let fields = fields(args);
    let mut out = StringViewBuilder::with_capacity(count(args));
    if let (Some(column), Some(field)) = (args.first(), fields.first()) {
        let mut values = Values::new(column, field, &options, false)?;
        for row in 0..column.len() {
            if values.is_null(row) {
                out.append_null();
                continue;
            }
            let mut json = String::new();
            values.write(row, &mut json)?;
            out.append_value(json);
        }
    }
    Ok(Arc::new(out.finish()))
}
