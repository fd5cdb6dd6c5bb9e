//! What a column may hold of a record beside its key and its value: where it lies, when it was written, its headers.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, Int32Array, Int64Array, MapBuilder, MapFieldNames, StringArray, StringBuilder,
    TimestampMillisecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use millstream_core::batch::Place;
use millstream_core::{Error, Result};
use millstream_io::options::nearest;

use super::buffer::Stored;

/// The metadata that a column may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metadata {
    Topic,
    Partition,
    Offset,
    Timestamp,
    Headers,
    Key,
}

const METADATA: [(&str, Metadata); 6] = [
    ("topic", Metadata::Topic),
    ("partition", Metadata::Partition),
    ("offset", Metadata::Offset),
    ("timestamp", Metadata::Timestamp),
    ("headers", Metadata::Headers),
    ("key", Metadata::Key),
];

/// The metadata of this name.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where a record has none.
pub(super) fn named(name: &str) -> Result<Metadata> {
    METADATA.iter().find(|(known, _)| *known == name).map(|(_, metadata)| *metadata).ok_or_else(|| {
        let names = METADATA.map(|(name, _)| name);
        let hint = nearest(name, names.into_iter()).map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
        Error::config(format!("a record has no metadata '{name}': it has {}{hint}", names.join(", ")))
    })
}

/// The column has a type that the metadata fits.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where it has not.
pub(super) fn check(field: &Field, name: &str) -> Result<()> {
    use DataType as T;
    let is_text = |t: &T| matches!(t, T::Utf8 | T::LargeUtf8 | T::Utf8View);
    let is_bytes = |t: &T| matches!(t, T::Binary | T::LargeBinary | T::BinaryView);
    let t = field.data_type();
    let (fits, wanted) = match named(name)? {
        Metadata::Topic => (is_text(t), "STRING"),
        Metadata::Partition => (matches!(t, T::Int32 | T::Int64), "INT or BIGINT"),
        Metadata::Offset => (matches!(t, T::Int64 | T::UInt64), "BIGINT"),
        Metadata::Timestamp => (matches!(t, T::Timestamp(..)), "TIMESTAMP(3) or TIMESTAMP_LTZ(3)"),
        Metadata::Key => (is_bytes(t) || is_text(t), "BYTES or STRING"),
        Metadata::Headers => {
            let entries = match t {
                T::Map(entries, _) => entries.data_type().clone(),
                _ => T::Null,
            };
            let fits = match &entries {
                T::Struct(fields) => {
                    matches!(fields.as_ref(), [k, v] if is_text(k.data_type()) && is_bytes(v.data_type()))
                }
                _ => false,
            };
            (fits, "MAP<STRING, BYTES>")
        }
    };
    if fits {
        return Ok(());
    }
    Err(Error::config(format!("the column '{}' holds the metadata '{name}': declare it as {wanted}", field.name())))
}

/// The metadata of the records at these places, all of one partition.
pub(super) fn array(
    metadata: Metadata,
    data_type: &DataType,
    (topic, partition): (&str, i32),
    records: &[Stored<'_>],
    places: &[Place],
) -> Result<ArrayRef> {
    let of_rows = places.iter().filter_map(|place| {
        records.binary_search_by_key(&place.offset, |record| record.offset).ok().and_then(|at| records.get(at))
    });
    let array: ArrayRef = match metadata {
        Metadata::Topic => Arc::new(StringArray::from_iter_values(of_rows.map(|_| topic))),
        Metadata::Partition => Arc::new(Int32Array::from_iter_values(of_rows.map(|_| partition))),
        Metadata::Offset => Arc::new(Int64Array::from_iter_values(of_rows.map(|r| r.offset.cast_signed()))),
        Metadata::Timestamp => Arc::new(TimestampMillisecondArray::from_iter(of_rows.map(|r| r.timestamp_ms))),
        Metadata::Key => {
            let text = matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
            match text {
                // Bytes that are no text are shown as such, and don't fail the row: the key is not its value.
                true => Arc::new(StringArray::from_iter(of_rows.map(|r| r.key.map(String::from_utf8_lossy)))),
                false => Arc::new(arrow::array::BinaryArray::from_iter(of_rows.map(|r| r.key))),
            }
        }
        Metadata::Headers => return headers(data_type, of_rows),
    };
    match array.data_type() == data_type {
        true => Ok(array),
        false => Ok(cast(&array, data_type)?),
    }
}

fn headers<'a>(data_type: &DataType, records: impl Iterator<Item = &'a Stored<'a>>) -> Result<ArrayRef> {
    let DataType::Map(entries, _) = data_type else { return Err(Error::bug("headers are a map")) };
    let DataType::Struct(fields) = entries.data_type() else { return Err(Error::bug("a map has entries")) };
    let name = |at: usize| fields.get(at).map(|field| field.name().clone()).unwrap_or_default();
    let names = MapFieldNames { entry: entries.name().clone(), key: name(0), value: name(1) };
    let mut map = MapBuilder::new(Some(names), StringBuilder::new(), BinaryBuilder::new());
    for record in records {
        // A map has a key once; of headers of the same name the last one counts, as for Flink.
        let last = |name: &str| record.headers.iter().rposition(|(other, _)| other == name);
        for (_, (name, value)) in record.headers.iter().enumerate().filter(|(at, (name, _))| last(name) == Some(*at)) {
            map.keys().append_value(name);
            map.values().append_option(value.as_deref());
        }
        map.append(true)?;
    }
    let map: ArrayRef = Arc::new(map.finish());
    match map.data_type() == data_type {
        true => Ok(map),
        false => Ok(cast(&map, data_type)?),
    }
}
