//! PostgreSQL's binary form to columns. The server casts each value to the one type that is read here.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, BooleanBuilder, Decimal128Builder, PrimitiveBuilder, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
    Time64NanosecondType, TimeUnit, TimestampMicrosecondType,
};
use millstream_core::{Error, Result};

use crate::numeric;

const EPOCH_DAYS: i32 = 10_957;
const EPOCH_US: i64 = 946_684_800_000_000;

/// The type that the server is asked for, where a column of that type can be read as this one.
pub(super) fn asked(data_type: &DataType, pg: &str) -> Option<&'static str> {
    use DataType as D;
    Some(match (data_type, pg) {
        (D::Boolean, "bool") => "bool",
        (D::Int16, "int2") => "int2",
        (D::Int32, "int2" | "int4") => "int4",
        (D::Int64, "int2" | "int4" | "int8") => "int8",
        (D::Float32, "float4") => "float4",
        (D::Float64, "float4" | "float8") => "float8",
        (D::Decimal128(_, scale), "int2" | "int4" | "int8" | "numeric") if *scale >= 0 => "numeric",
        (D::Utf8 | D::LargeUtf8 | D::Utf8View, _) => "text",
        (D::Binary | D::LargeBinary | D::BinaryView, "bytea") => "bytea",
        (D::Date32, "date") => "date",
        (D::Time64(TimeUnit::Nanosecond), "time") => "time",
        (D::Timestamp(_, None), "timestamp") => "timestamp",
        (D::Timestamp(_, Some(_)), "timestamptz") => "timestamptz",
        _ => return None,
    })
}

/// A column of these values; `None` is NULL. Digits of a second that the type has no place for are cut off.
///
/// # Errors
/// [`millstream_core::ErrorKind::Input`] where the type has no place for a value.
pub(super) fn column<'a>(data_type: &DataType, values: impl Iterator<Item = Option<&'a [u8]>>) -> Result<ArrayRef> {
    use DataType as D;
    Ok(match data_type {
        D::Boolean => {
            let mut builder = BooleanBuilder::new();
            for value in values {
                builder.append_option(value.map(|bytes| fixed::<1>(bytes).map(|[byte]| byte != 0)).transpose()?);
            }
            Arc::new(builder.finish())
        }
        D::Int16 => primitive::<Int16Type, 2>(values, |b| Ok(i16::from_be_bytes(b)))?,
        D::Int32 => primitive::<Int32Type, 4>(values, |b| Ok(i32::from_be_bytes(b)))?,
        D::Int64 => primitive::<Int64Type, 8>(values, |b| Ok(i64::from_be_bytes(b)))?,
        D::Float32 => primitive::<Float32Type, 4>(values, |b| Ok(f32::from_be_bytes(b)))?,
        D::Float64 => primitive::<Float64Type, 8>(values, |b| Ok(f64::from_be_bytes(b)))?,
        D::Date32 => primitive::<Date32Type, 4>(values, |b| {
            i32::from_be_bytes(b).checked_add(EPOCH_DAYS).filter(|_| b != i32::MIN.to_be_bytes()).ok_or_else(infinite)
        })?,
        D::Time64(_) => primitive::<Time64NanosecondType, 8>(values, |b| Ok(i64::from_be_bytes(b) * 1000))?,
        D::Timestamp(..) => {
            let us = primitive::<TimestampMicrosecondType, 8>(values, |b| {
                i64::from_be_bytes(b).checked_add(EPOCH_US).filter(|_| b != i64::MIN.to_be_bytes()).ok_or_else(infinite)
            })?;
            // Cut towards the past, also before 1970.
            cut(&us, data_type)?
        }
        D::Decimal128(precision, scale) => {
            let mut builder = Decimal128Builder::new().with_precision_and_scale(*precision, *scale)?;
            let places = u8::try_from(*scale).unwrap_or_default();
            let most = 10i128.checked_pow(u32::from(*precision)).unwrap_or(i128::MAX);
            for value in values {
                let read =
                    |bytes| numeric::read(bytes, places).filter(|value| value.unsigned_abs() < most.unsigned_abs());
                let place = || Error::input(format!("a numeric has no place in DECIMAL({precision}, {scale})"));
                builder.append_option(value.map(|bytes| read(bytes).ok_or_else(place)).transpose()?);
            }
            Arc::new(builder.finish())
        }
        D::Utf8 | D::LargeUtf8 | D::Utf8View => {
            let mut builder = StringBuilder::new();
            for value in values {
                let text = value.map(std::str::from_utf8).transpose();
                builder.append_option(text.map_err(|e| Error::input("a text is no UTF-8").caused_by(e))?);
            }
            cast(&builder.finish(), data_type)?
        }
        _ => {
            let mut builder = BinaryBuilder::new();
            values.for_each(|value| builder.append_option(value));
            cast(&builder.finish(), data_type)?
        }
    })
}

fn cut(us: &ArrayRef, data_type: &DataType) -> Result<ArrayRef> {
    use arrow::array::AsArray;
    let unit = match data_type {
        DataType::Timestamp(TimeUnit::Second, _) => 1_000_000,
        DataType::Timestamp(TimeUnit::Millisecond, _) => 1000,
        _ => 1,
    };
    let floored = us
        .as_primitive::<TimestampMicrosecondType>()
        .unary::<_, TimestampMicrosecondType>(|us| us - us.rem_euclid(unit));
    Ok(cast(&floored, data_type)?)
}

fn primitive<'a, T: ArrowPrimitiveType, const N: usize>(
    values: impl Iterator<Item = Option<&'a [u8]>>,
    read: impl Fn([u8; N]) -> Result<T::Native>,
) -> Result<ArrayRef> {
    let mut builder = PrimitiveBuilder::<T>::new();
    for value in values {
        builder.append_option(value.map(|bytes| read(fixed(bytes)?)).transpose()?);
    }
    Ok(Arc::new(builder.finish()))
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| Error::bug(format!("a value of {N} bytes came as {}", bytes.len())))
}

fn infinite() -> Error {
    Error::input("a date or timestamp is infinite: there is no such value here")
}
