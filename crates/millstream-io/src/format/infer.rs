//! What columns a file has, from a sample of its records: for `FROM 'logs/*.ndjson'`, where nothing is declared.
//!
//! Whole numbers are BIGINT (or DECIMAL(38, 0) past it), other numbers DOUBLE, timestamps with a time of day
//! TIMESTAMP(6), objects ROW, arrays ARRAY; what is sometimes one and sometimes another, or never anything
//! but null, is STRING that takes any value as its JSON text. A CSV number that begins with 0 is a text: an
//! account number or a postcode. Records that are none are passed over here; they are rejected when read.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};
use millstream_core::{Error, Result};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::csv::{Dialect, Splitter};
use super::leaf::JSON_KEY;
use super::scalar;
use crate::Options;

/// The columns of a sample of records; of CSV, the first is the header where `csv.header` is true.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where `format` has no columns to infer, and
/// [`millstream_core::ErrorKind::Input`] where no record of the sample is of the format.
pub fn infer<'a>(options: &Options, sample: impl IntoIterator<Item = &'a [u8]>) -> Result<Schema> {
    let sample = sample.into_iter().map(|record| record.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(record));
    match options.required("format")?.to_ascii_lowercase().as_str() {
        "json" | "ndjson" => json(sample),
        "csv" => csv(&Dialect::new(options)?, sample),
        "raw" => Ok(Schema::new(vec![Field::new("line", DataType::Utf8View, true)])),
        other => Err(super::unknown(other)),
    }
}

/// What the values of a column have in common.
#[derive(Clone, Debug, PartialEq)]
enum Shape {
    Null,
    Boolean,
    Int,
    BigInt,
    Float,
    Timestamp,
    Text,
    List(Box<Shape>),
    Object(Vec<(String, Shape)>),
    Any,
}

impl Shape {
    fn of_text(text: &str) -> Self {
        let is_time = text.len() >= 16 && scalar::timestamp(text.as_bytes(), TimeUnit::Microsecond).is_ok();
        if is_time { Self::Timestamp } else { Self::Text }
    }

    fn of_cell(text: &str) -> Self {
        let trimmed = text.trim();
        let digits = trimmed.strip_prefix('-').unwrap_or(trimmed);
        let is_code = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
        let begins_as_number = digits.starts_with(|first: char| first.is_ascii_digit() || first == '.');
        match trimmed {
            "" => Self::Text,
            _ if trimmed.eq_ignore_ascii_case("true") || trimmed.eq_ignore_ascii_case("false") => Self::Boolean,
            _ if begins_as_number && !is_code && trimmed.parse::<i64>().is_ok() => Self::Int,
            _ if begins_as_number && !is_code && digits.bytes().all(|byte| byte.is_ascii_digit()) => Self::BigInt,
            _ if begins_as_number && !is_code && scalar::float64(trimmed).is_ok() => Self::Float,
            _ => Self::of_text(trimmed),
        }
    }

    /// The shape that holds the values of both.
    fn and(self, other: Self) -> Self {
        use Shape::*;
        match (self, other) {
            (Null, shape) | (shape, Null) => shape,
            (Int | BigInt, BigInt) | (BigInt, Int) => BigInt,
            (Int | BigInt | Float, Float) | (Float, Int | BigInt) => Float,
            (Timestamp, Text) | (Text, Timestamp) => Text,
            (List(one), List(other)) => List(Box::new(one.and(*other))),
            (Object(fields), Object(others)) => Object(merge(fields, others)),
            (one, other) if one == other => one,
            _ => Any,
        }
    }

    fn field(&self, name: &str) -> Field {
        let any = || {
            let metadata = HashMap::from([(JSON_KEY.to_string(), "any".to_string())]);
            Field::new(name, DataType::Utf8View, true).with_metadata(metadata)
        };
        let data_type = match self {
            Self::Boolean => DataType::Boolean,
            Self::Int => DataType::Int64,
            Self::BigInt => DataType::Decimal128(38, 0),
            Self::Float => DataType::Float64,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Text => DataType::Utf8View,
            Self::List(item) => DataType::List(Arc::new(item.field("item"))),
            Self::Object(fields) if !fields.is_empty() => DataType::Struct(self::fields(fields)),
            Self::Null | Self::Any | Self::Object(_) => return any(),
        };
        Field::new(name, data_type, true)
    }
}

fn fields(shapes: &[(String, Shape)]) -> Fields {
    shapes.iter().map(|(name, shape)| shape.field(name)).collect()
}

/// Fields by name, in the order of their first appearance.
fn merge(mut fields: Vec<(String, Shape)>, others: Vec<(String, Shape)>) -> Vec<(String, Shape)> {
    let mut by_name: HashMap<String, usize> =
        fields.iter().enumerate().map(|(index, (name, _))| (name.clone(), index)).collect();
    for (name, shape) in others {
        match by_name.get(&name).and_then(|index| fields.get_mut(*index)) {
            Some((_, known)) => *known = std::mem::replace(known, Shape::Null).and(shape),
            None => {
                by_name.insert(name.clone(), fields.len());
                fields.push((name, shape));
            }
        }
    }
    fields
}

fn json<'a>(sample: impl Iterator<Item = &'a [u8]>) -> Result<Schema> {
    let (mut shape, mut first_error, mut records) = (Shape::Object(vec![]), None, 0u64);
    for record in sample.filter(|record| !record.trim_ascii().is_empty()) {
        records += 1;
        match serde_json::from_slice::<Shape>(record) {
            Ok(object @ Shape::Object(_)) => shape = shape.and(object),
            Ok(_) => first_error = first_error.or(Some("it is no object".to_string())),
            Err(error) => first_error = first_error.or(Some(error.to_string())),
        }
    }
    match shape {
        Shape::Object(shapes) if !shapes.is_empty() => Ok(Schema::new(fields(&shapes))),
        _ => {
            let reason = first_error.map(|error| format!(" (the first: {error})")).unwrap_or_default();
            Err(Error::input(format!(
                "no columns can be told from {records} records: none is a JSON object with fields{reason}; declare the \
                 table with CREATE TABLE, or name another format"
            )))
        }
    }
}

fn csv<'a>(dialect: &Dialect, sample: impl Iterator<Item = &'a [u8]>) -> Result<Schema> {
    let mut splitter = Splitter::new(dialect);
    let (mut names, mut shapes): (Vec<String>, Vec<Shape>) = (vec![], vec![]);
    let mut scratch = String::new();
    for record in sample {
        let record = record.strip_suffix(b"\r").unwrap_or(record);
        let comment = dialect.comments && record.first() == Some(&b'#');
        let Ok(text) = std::str::from_utf8(record) else { continue };
        if text.is_empty() || comment || splitter.split(text).is_err() {
            continue;
        }
        if names.is_empty() {
            for place in 0..splitter.len() {
                let name = if dialect.header {
                    splitter.cell(text, place, &mut scratch).text.trim().to_string()
                } else {
                    format!("column_{}", place + 1)
                };
                names.push(name);
                shapes.push(Shape::Null);
            }
            if dialect.header {
                continue;
            }
        }
        if splitter.len() != names.len() {
            continue;
        }
        for (place, shape) in shapes.iter_mut().enumerate() {
            let cell = splitter.cell(text, place, &mut scratch);
            let is_null = !cell.quoted && (cell.text.is_empty() || dialect.null.as_deref() == Some(cell.text));
            let found = if is_null { Shape::Null } else { Shape::of_cell(cell.text) };
            // In CSV everything has a text: what differs is one.
            *shape = match std::mem::replace(shape, Shape::Null).and(found) {
                Shape::Any => Shape::Text,
                shape => shape,
            };
        }
    }
    if names.is_empty() {
        return Err(Error::input(
            "no columns can be told from an empty CSV file: declare the table with CREATE TABLE, or add a header",
        ));
    }
    let mut seen = std::collections::HashSet::new();
    if let Some(twice) = names.iter().find(|name| !seen.insert(name.as_str())) {
        return Err(Error::input(format!(
            "the CSV header names '{twice}' twice: declare the columns with CREATE TABLE, in the order of the file"
        )));
    }
    let text_for_null = |shape: &Shape| if *shape == Shape::Null { Shape::Text } else { shape.clone() };
    let fields: Fields = names.iter().zip(&shapes).map(|(name, shape)| text_for_null(shape).field(name)).collect();
    Ok(Schema::new(fields))
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Shape, E> {
        Ok(Shape::Null)
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<Shape, E> {
        Ok(Shape::Boolean)
    }

    fn visit_i64<E>(self, _: i64) -> std::result::Result<Shape, E> {
        Ok(Shape::Int)
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Shape, E> {
        Ok(if i64::try_from(value).is_ok() { Shape::Int } else { Shape::BigInt })
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<Shape, E> {
        Ok(Shape::Float)
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Shape, E> {
        Ok(Shape::of_text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Shape, A::Error> {
        let mut shape = Shape::Null;
        while let Some(item) = items.next_element()? {
            shape = shape.and(item);
        }
        Ok(Shape::List(Box::new(shape)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Shape, A::Error> {
        let mut fields: Vec<(String, Shape)> = vec![];
        let mut first_of_name = std::collections::HashSet::new();
        while let Some(name) = entries.next_key::<String>()? {
            if first_of_name.insert(name.clone()) {
                fields.push((name, entries.next_value()?));
            } else {
                entries.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Shape::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inferred(options: &[(&str, &str)], sample: &str) -> String {
        let options: Options = options.iter().copied().collect();
        let schema = infer(&options, sample.lines().map(str::as_bytes)).unwrap();
        let fields: Vec<_> =
            schema.fields().iter().map(|field| format!("{} {}", field.name(), shown(field.data_type()))).collect();
        fields.join(", ")
    }

    fn shown(data_type: &DataType) -> String {
        match data_type {
            DataType::Struct(fields) => {
                let fields: Vec<_> = fields.iter().map(|f| format!("{} {}", f.name(), shown(f.data_type()))).collect();
                format!("ROW<{}>", fields.join(", "))
            }
            DataType::List(item) => format!("ARRAY<{}>", shown(item.data_type())),
            other => crate::format::leaf::sql_name(other),
        }
    }

    #[test]
    fn json_columns_come_in_the_order_of_their_first_appearance() {
        let sample = r#"{"z":1,"a":"x","t":"2026-01-02T03:04:05Z","n":null,"o":{"y":1,"b":[1]}}
            {"z":1.5,"m":true,"t":"2026-01-02 03:04:05.5","o":{"b":[2.5],"c":"q"},"e":[]}
            broken
            {"big":18446744073709551615,"mix":1}
            {"mix":"one","a":"2026-01-02T03:04:05Z"}"#;
        assert_eq!(
            inferred(&[("format", "json")], sample),
            "z DOUBLE, a STRING, t TIMESTAMP(6), n STRING, o ROW<y BIGINT, b ARRAY<DOUBLE>, c STRING>, m BOOLEAN, \
             e ARRAY<STRING>, big DECIMAL(38, 0), mix STRING"
        );
    }

    #[test]
    fn a_json_column_of_two_kinds_takes_every_value() {
        let options: Options = [("format", "json")].into_iter().collect();
        let sample = [br#"{"mix":1}"#.as_slice(), br#"{"mix":"one"}"#];
        let schema = Arc::new(infer(&options, sample).unwrap());
        let mut decoder = crate::format::format(&options, &schema).unwrap().decoder(schema).unwrap();
        for record in sample {
            decoder.push(record, Default::default());
        }
        assert_eq!(decoder.len(), 2);
    }

    #[test]
    fn csv_columns_are_named_by_the_header() {
        let sample = "id,name,plz,amount,at,ok,none\n1,x,01234,1.5,2026-01-02 03:04:05,true,\n2,\"\",99,2,,FALSE,\n";
        assert_eq!(
            inferred(&[("format", "csv"), ("csv.header", "true")], sample),
            "id BIGINT, name STRING, plz STRING, amount DOUBLE, at TIMESTAMP(6), ok BOOLEAN, none STRING"
        );
        assert_eq!(
            inferred(&[("format", "csv"), ("csv.field-delimiter", ";")], "1;a\n2;b"),
            "column_1 BIGINT, column_2 STRING"
        );
    }

    #[test]
    fn a_sample_without_columns_is_an_error_with_the_reason() {
        let options: Options = [("format", "json")].into_iter().collect();
        let error = infer(&options, [b"hello".as_slice()]).unwrap_err();
        assert_eq!(error.kind(), millstream_core::ErrorKind::Input);
        assert!(error.to_string().contains("CREATE TABLE"), "{error}");
    }
}
