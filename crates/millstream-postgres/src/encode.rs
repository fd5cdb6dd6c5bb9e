//! Rows to PostgreSQL's binary form: each value with its length before it, NULL with -1. COPY and the elements of an
//! array parameter have the same form, so that one writer serves both.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Decimal256Type, DurationMicrosecondType, Field, Float32Type, Float64Type,
    Int16Type, Int32Type, Int64Type, IntervalMonthDayNanoType, IntervalUnit, Schema, Time64NanosecondType, TimeUnit,
    TimestampMicrosecondType, TimestampNanosecondType,
};
use millstream_core::format::Encoder;
use millstream_core::{Error, Result};
use millstream_io::Options;
use millstream_io::format::json::JsonEncoder;

use crate::numeric;
use crate::wire::Wire;

/// Appends the value of a row, with its length.
pub(crate) type Write<'a> = Box<dyn Fn(usize, &mut Vec<u8>) -> Result<()> + Send + Sync + 'a>;

/// Days and microseconds from 1970, where Arrow counts from, to 2000, where PostgreSQL does.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_US: i64 = 946_684_800_000_000;

/// The column in the one form that its writer reads.
///
/// # Errors
/// [`millstream_core::ErrorKind::Sink`] where a value has no place in it.
pub(crate) fn canonical(column: &ArrayRef, wire: &Wire) -> Result<ArrayRef> {
    let wanted = canonical_type(column.data_type(), wire);
    if *column.data_type() == wanted {
        return Ok(Arc::clone(column));
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(column, &wanted, &options).map_err(|e| Error::sink("a value can't be stored").caused_by(e))
}

fn canonical_type(data_type: &DataType, wire: &Wire) -> DataType {
    use DataType as D;
    match (wire, data_type) {
        (_, D::Dictionary(_, value)) => canonical_type(value, wire),
        (_, D::RunEndEncoded(_, value)) => canonical_type(value.data_type(), wire),
        (Wire::Bool, _) => D::Boolean,
        (Wire::Int2, _) => D::Int16,
        (Wire::Int4, _) => D::Int32,
        (Wire::Int8, _) => D::Int64,
        (Wire::Float4, _) => D::Float32,
        (Wire::Float8, _) => D::Float64,
        (Wire::Numeric, D::Decimal128(..) | D::Decimal256(..)) => data_type.clone(),
        (Wire::Numeric, D::Decimal32(_, scale) | D::Decimal64(_, scale)) => D::Decimal128(38, *scale),
        (Wire::Numeric, _) => D::Decimal128(38, 0),
        (Wire::Text | Wire::JsonbText, D::Null) => D::Utf8,
        (Wire::Bytea, D::FixedSizeBinary(_)) => D::Binary,
        (Wire::Date, _) => D::Date32,
        (Wire::Time, _) => D::Time64(TimeUnit::Nanosecond),
        (Wire::Timestamp, D::Timestamp(TimeUnit::Nanosecond, _)) => D::Timestamp(TimeUnit::Nanosecond, None),
        (Wire::Timestamp, _) => D::Timestamp(TimeUnit::Microsecond, None),
        (Wire::Interval, D::Duration(_)) => D::Duration(TimeUnit::Microsecond),
        (Wire::Interval, _) => D::Interval(IntervalUnit::MonthDayNano),
        (
            Wire::Array { element, .. },
            D::List(item) | D::LargeList(item) | D::ListView(item) | D::LargeListView(item) | D::FixedSizeList(item, _),
        ) => {
            let item_type = canonical_type(item.data_type(), element);
            D::List(Arc::new(Field::new(item.name(), item_type, item.is_nullable())))
        }
        _ => data_type.clone(),
    }
}

/// What writes the values of a column that is [`canonical`].
///
/// # Errors
/// [`millstream_core::ErrorKind::Bug`] where it is not.
pub(crate) fn writer<'a>(column: &'a ArrayRef, wire: &Wire) -> Result<Write<'a>> {
    let array: &'a dyn Array = column.as_ref();
    let other = || Error::bug(format!("a column of type {} came to a writer of {wire:?}", array.data_type()));
    macro_rules! fixed {
        ($type:ty, |$value:ident| $bytes:expr) => {{
            let values = array.as_primitive_opt::<$type>().ok_or_else(other)?;
            nullable(array, move |row, out| {
                let $value = values.value(row);
                sized(out, &$bytes);
                Ok(())
            })
        }};
    }
    Ok(match wire {
        Wire::Bool => {
            let values = array.as_boolean_opt().ok_or_else(other)?;
            nullable(array, move |row, out| {
                sized(out, &[u8::from(values.value(row))]);
                Ok(())
            })
        }
        Wire::Int2 => fixed!(Int16Type, |v| v.to_be_bytes()),
        Wire::Int4 => fixed!(Int32Type, |v| v.to_be_bytes()),
        Wire::Int8 => fixed!(Int64Type, |v| v.to_be_bytes()),
        Wire::Float4 => fixed!(Float32Type, |v| v.to_be_bytes()),
        Wire::Float8 => fixed!(Float64Type, |v| v.to_be_bytes()),
        Wire::Numeric => numeric_writer(array).ok_or_else(other)?,
        Wire::Text => bytes_writer(array, &[]).ok_or_else(other)?,
        Wire::Bytea => bytes_writer(array, &[]).ok_or_else(other)?,
        // The version of jsonb's binary form.
        Wire::JsonbText => bytes_writer(array, &[1]).ok_or_else(other)?,
        Wire::Uuid => uuid_writer(array).ok_or_else(other)?,
        Wire::Date => {
            let values = array.as_primitive_opt::<Date32Type>().ok_or_else(other)?;
            nullable(array, move |row, out| {
                // The largest and the smallest number mean infinity there.
                let days = values.value(row).checked_sub(EPOCH_DAYS).filter(|days| *days > i32::MIN);
                let days = days.ok_or_else(|| Error::sink("a DATE is out of PostgreSQL's range"))?;
                sized(out, &days.to_be_bytes());
                Ok(())
            })
        }
        Wire::Time => {
            let values = array.as_primitive_opt::<Time64NanosecondType>().ok_or_else(other)?;
            nullable(array, move |row, out| {
                sized(out, &microseconds(values.value(row))?.to_be_bytes());
                Ok(())
            })
        }
        Wire::Timestamp => timestamp_writer(array).ok_or_else(other)?,
        Wire::Interval => interval_writer(array).ok_or_else(other)?,
        Wire::Nested { jsonb } => nested_writer(column, *jsonb)?,
        Wire::Array { oid, element } => {
            let list = array.as_list_opt::<i32>().ok_or_else(other)?;
            let write = writer(list.values(), element)?;
            let oid = *oid;
            let offsets = list.value_offsets();
            let nulls = list.values().logical_nulls();
            nullable(array, move |row, out| {
                let bound = |n: usize| offsets.get(n).and_then(|at| usize::try_from(*at).ok()).unwrap_or(0);
                let rows = bound(row)..bound(row + 1);
                let has_nulls = nulls.as_ref().is_some_and(|nulls| rows.clone().any(|row| nulls.is_null(row)));
                measured(out, |out| {
                    array_of(oid, rows.len(), has_nulls, out, |out| rows.clone().try_for_each(|row| write(row, out)))
                })
            })
        }
    })
}

/// The binary form of an array of one dimension, without a length before it.
pub(crate) fn array_of(
    element: u32,
    len: usize,
    has_nulls: bool,
    out: &mut Vec<u8>,
    elements: impl FnOnce(&mut Vec<u8>) -> Result<()>,
) -> Result<()> {
    let count = i32::try_from(len).map_err(|_| Error::sink("an array has more than 2^31 elements"))?;
    out.extend_from_slice(&i32::from(count > 0).to_be_bytes());
    out.extend_from_slice(&i32::from(has_nulls).to_be_bytes());
    out.extend_from_slice(&element.to_be_bytes());
    if count > 0 {
        out.extend_from_slice(&count.to_be_bytes());
        out.extend_from_slice(&1i32.to_be_bytes());
        elements(out)?;
    }
    Ok(())
}

/// NULL, or what the writer writes.
fn nullable<'a>(
    array: &'a dyn Array,
    write: impl Fn(usize, &mut Vec<u8>) -> Result<()> + Send + Sync + 'a,
) -> Write<'a> {
    match array.nulls().filter(|nulls| nulls.null_count() > 0) {
        None => Box::new(write),
        Some(nulls) => Box::new(move |row, out| {
            if nulls.is_null(row) {
                out.extend_from_slice(&(-1i32).to_be_bytes());
                return Ok(());
            }
            write(row, out)
        }),
    }
}

/// A value of few bytes with its length.
fn sized(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// A value with its length, which is known when it is written.
fn measured(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out)?;
    let len = i32::try_from(out.len() - at - 4);
    let len = len.map_err(|_| Error::sink("a value is larger than PostgreSQL's 1 GB"))?;
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&len.to_be_bytes());
    }
    Ok(())
}

fn numeric_writer(array: &dyn Array) -> Option<Write<'_>> {
    if let Some(values) = array.as_primitive_opt::<Decimal128Type>() {
        let scale = u8::try_from(values.scale()).ok()?;
        return Some(nullable(array, move |row, out| {
            measured(out, |out| {
                numeric::write(values.value(row), scale, out);
                Ok(())
            })
        }));
    }
    let values = array.as_primitive_opt::<Decimal256Type>()?;
    let scale = u8::try_from(values.scale()).ok()?;
    Some(nullable(array, move |row, out| {
        let value = values.value(row);
        measured(out, |out| match value.to_i128() {
            Some(value) => {
                numeric::write(value, scale, out);
                Ok(())
            }
            None => numeric::write_digits(&value.to_string(), scale, out),
        })
    }))
}

/// Text and bytes, after these.
fn bytes_writer<'a>(array: &'a dyn Array, before: &'static [u8]) -> Option<Write<'a>> {
    let value = bytes_of(array)?;
    Some(nullable(array, move |row, out| {
        let bytes = value(row);
        let len = i32::try_from(bytes.len() + before.len());
        let len = len.map_err(|_| Error::sink("a value is larger than PostgreSQL's 1 GB"))?;
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(before);
        out.extend_from_slice(bytes);
        Ok(())
    }))
}

type Bytes<'a> = Box<dyn Fn(usize) -> &'a [u8] + Send + Sync + 'a>;

fn bytes_of(array: &dyn Array) -> Option<Bytes<'_>> {
    Some(match array.data_type() {
        DataType::Utf8 => {
            let values = array.as_string_opt::<i32>()?;
            Box::new(move |row| values.value(row).as_bytes())
        }
        DataType::LargeUtf8 => {
            let values = array.as_string_opt::<i64>()?;
            Box::new(move |row| values.value(row).as_bytes())
        }
        DataType::Utf8View => {
            let values = array.as_string_view_opt()?;
            Box::new(move |row| values.value(row).as_bytes())
        }
        DataType::Binary => {
            let values = array.as_binary_opt::<i32>()?;
            Box::new(move |row| values.value(row))
        }
        DataType::LargeBinary => {
            let values = array.as_binary_opt::<i64>()?;
            Box::new(move |row| values.value(row))
        }
        DataType::BinaryView => {
            let values = array.as_binary_view_opt()?;
            Box::new(move |row| values.value(row))
        }
        DataType::FixedSizeBinary(_) => {
            let values = array.as_fixed_size_binary_opt()?;
            Box::new(move |row| values.value(row))
        }
        _ => return None,
    })
}

fn uuid_writer(array: &dyn Array) -> Option<Write<'_>> {
    let value = bytes_of(array)?;
    let raw = matches!(array.data_type(), DataType::FixedSizeBinary(_));
    Some(nullable(array, move |row, out| {
        let bytes = value(row);
        if raw {
            sized(out, bytes);
            return Ok(());
        }
        let uuid = uuid::Uuid::try_parse_ascii(bytes).map_err(|e| {
            Error::sink(format!("the text '{}' is no UUID", String::from_utf8_lossy(bytes))).caused_by(e)
        })?;
        sized(out, uuid.as_bytes());
        Ok(())
    }))
}

/// Nanoseconds that are whole microseconds: PostgreSQL has no more digits, and rounding would be another value.
fn microseconds(nanoseconds: i64) -> Result<i64> {
    if nanoseconds % 1000 != 0 {
        return Err(Error::sink(
            "a time has nanoseconds, and PostgreSQL counts microseconds: CAST it to TIMESTAMP(6) in the query",
        ));
    }
    Ok(nanoseconds / 1000)
}

fn timestamp_writer(array: &dyn Array) -> Option<Write<'_>> {
    let write = |us: i64, out: &mut Vec<u8>| {
        // The largest and the smallest number mean infinity there.
        let us = us.checked_sub(EPOCH_US).filter(|us| *us > i64::MIN);
        let us = us.ok_or_else(|| Error::sink("a TIMESTAMP is out of PostgreSQL's range"))?;
        sized(out, &us.to_be_bytes());
        Ok(())
    };
    if let Some(values) = array.as_primitive_opt::<TimestampMicrosecondType>() {
        return Some(nullable(array, move |row, out| write(values.value(row), out)));
    }
    let values = array.as_primitive_opt::<TimestampNanosecondType>()?;
    Some(nullable(array, move |row, out| write(microseconds(values.value(row))?, out)))
}

fn interval_writer(array: &dyn Array) -> Option<Write<'_>> {
    fn write(us: i64, days: i32, months: i32, out: &mut Vec<u8>) {
        out.extend_from_slice(&16i32.to_be_bytes());
        out.extend_from_slice(&us.to_be_bytes());
        out.extend_from_slice(&days.to_be_bytes());
        out.extend_from_slice(&months.to_be_bytes());
    }
    if let Some(values) = array.as_primitive_opt::<DurationMicrosecondType>() {
        return Some(nullable(array, move |row, out| {
            write(values.value(row), 0, 0, out);
            Ok(())
        }));
    }
    let values = array.as_primitive_opt::<IntervalMonthDayNanoType>()?;
    Some(nullable(array, move |row, out| {
        let value = values.value(row);
        write(microseconds(value.nanoseconds)?, value.days, value.months, out);
        Ok(())
    }))
}

/// ROW, MAP and ARRAY as JSON, as the `json` format writes them.
fn nested_writer(column: &ArrayRef, jsonb: bool) -> Result<Write<'_>> {
    let schema = Arc::new(Schema::new(vec![Field::new("v", column.data_type().clone(), true)]));
    let batch = RecordBatch::try_new(schema.clone(), vec![Arc::clone(column)])?;
    let mut lines = Vec::new();
    JsonEncoder::new(&Options::default(), &schema)?.encode(&batch, &mut lines)?;
    // A line end within a text is escaped, so a line is a row.
    let ends: Vec<usize> = lines.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
    let (prefix, suffix) = (b"{\"v\":".len(), b"}".len());
    Ok(nullable(column.as_ref(), move |row, out| {
        let end = ends.get(row).copied().unwrap_or_default();
        let start = row.checked_sub(1).and_then(|row| ends.get(row)).map_or(0, |end| end + 1);
        let value = lines.get(start + prefix..end - suffix);
        let value = value.ok_or_else(|| Error::bug("the JSON encoder wrote something else than a row a line"))?;
        measured(out, |out| {
            if jsonb {
                out.push(1);
            }
            out.extend_from_slice(value);
            Ok(())
        })
    }))
}
