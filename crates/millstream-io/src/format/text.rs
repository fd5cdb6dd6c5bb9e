//! Values to texts: what an array's values look like in JSON and CSV, before quotes and escapes.
//!
//! Exact for everything that has an exact text: integers, decimals, times; floats in the shortest form that
//! reads back as the same float. Reading such a text with the rules of this crate gives the value back.

use arrow::array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow::array::{Array, ArrowPrimitiveType, AsArray};
use arrow::datatypes::{DataType, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use millstream_core::Result;

use super::scalar::{base64_encode, civil, per_second};

/// Appends the value of a row.
pub(crate) type Write<'a> = Box<dyn Fn(usize, &mut Vec<u8>) + 'a>;

/// How the values of a scalar array are written.
pub(crate) enum Text<'a> {
    /// A number, `true`, `false`: needs no quotes anywhere.
    Bare(Write<'a>),
    /// A float: bare where it is a number, `NaN`, `Infinity`, `-Infinity` where it is none.
    Float(Write<'a>, Box<dyn Fn(usize) -> bool + 'a>),
    /// Letters that need no escapes.
    Plain(Write<'a>),
    /// Any letters.
    Free(Box<dyn Fn(usize) -> &'a str + 'a>),
    /// Any letters, by a writer.
    FreeWrite(Write<'a>),
}

/// How timestamps are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeStyle {
    /// `2026-01-02T03:04:05.123`
    Iso,
    /// `2026-01-02 03:04:05.123`
    Sql,
}

/// The writer of a scalar array, or nothing where its values have parts. The type must be no dictionary.
pub(crate) fn text<'a>(array: &'a dyn Array, style: TimeStyle) -> Result<Option<Text<'a>>> {
    use DataType as T;
    Ok(Some(match array.data_type() {
        T::Boolean => {
            let values = array.as_boolean().values();
            Text::Bare(Box::new(move |row, out| {
                out.extend_from_slice(if values.value(row) { b"true" } else { b"false" });
            }))
        }
        T::Int8 => integers::<Int8Type>(array),
        T::Int16 => integers::<Int16Type>(array),
        T::Int32 => integers::<Int32Type>(array),
        T::Int64 => integers::<Int64Type>(array),
        T::UInt8 => integers::<UInt8Type>(array),
        T::UInt16 => integers::<UInt16Type>(array),
        T::UInt32 => integers::<UInt32Type>(array),
        T::UInt64 => {
            let values = native::<UInt64Type>(array);
            Text::Bare(Box::new(move |row, out| number(at(values, row), out)))
        }
        T::Float32 => {
            let values = native::<Float32Type>(array);
            let write = move |row, out: &mut Vec<u8>| float(at(values, row), at(values, row).into(), out);
            Text::Float(Box::new(write), Box::new(move |row| at(values, row).is_finite()))
        }
        T::Float64 => {
            let values = native::<Float64Type>(array);
            let write = move |row, out: &mut Vec<u8>| float(at(values, row), at(values, row), out);
            Text::Float(Box::new(write), Box::new(move |row| at(values, row).is_finite()))
        }
        T::Decimal128(_, scale) => {
            let (values, scale) = (native::<Decimal128Type>(array), *scale);
            Text::Bare(Box::new(move |row, out| decimal(at(values, row), scale, out)))
        }
        T::Utf8 => {
            let values = array.as_string::<i32>();
            Text::Free(Box::new(move |row| values.value(row)))
        }
        T::LargeUtf8 => {
            let values = array.as_string::<i64>();
            Text::Free(Box::new(move |row| values.value(row)))
        }
        T::Utf8View => {
            let values = array.as_string_view();
            Text::Free(Box::new(move |row| values.value(row)))
        }
        T::Binary => {
            let values = array.as_binary::<i32>();
            Text::Plain(Box::new(move |row, out| base64_encode(values.value(row), out)))
        }
        T::LargeBinary => {
            let values = array.as_binary::<i64>();
            Text::Plain(Box::new(move |row, out| base64_encode(values.value(row), out)))
        }
        T::BinaryView => {
            let values = array.as_binary_view();
            Text::Plain(Box::new(move |row, out| base64_encode(values.value(row), out)))
        }
        T::FixedSizeBinary(_) => {
            let values = array.as_fixed_size_binary();
            Text::Plain(Box::new(move |row, out| base64_encode(values.value(row), out)))
        }
        T::Date32 | T::Time32(_) | T::Time64(_) | T::Timestamp(..) => temporal(array, style),
        T::Struct(_)
        | T::List(_)
        | T::LargeList(_)
        | T::FixedSizeList(..)
        | T::ListView(_)
        | T::LargeListView(_)
        | T::Map(..)
        | T::Dictionary(..)
        | T::RunEndEncoded(..)
        | T::Union(..)
        | T::Null => return Ok(None),
        _ => displayed(array)?,
    }))
}

fn temporal(array: &dyn Array, style: TimeStyle) -> Text<'_> {
    use DataType as T;
    match array.data_type() {
        T::Time32(TimeUnit::Second) => times::<Time32SecondType>(array, TimeUnit::Second),
        T::Time32(_) => times::<Time32MillisecondType>(array, TimeUnit::Millisecond),
        T::Time64(TimeUnit::Microsecond) => times::<Time64MicrosecondType>(array, TimeUnit::Microsecond),
        T::Time64(_) => times::<Time64NanosecondType>(array, TimeUnit::Nanosecond),
        T::Timestamp(unit, zone) => {
            let values = match unit {
                TimeUnit::Second => native::<TimestampSecondType>(array),
                TimeUnit::Millisecond => native::<TimestampMillisecondType>(array),
                TimeUnit::Microsecond => native::<TimestampMicrosecondType>(array),
                TimeUnit::Nanosecond => native::<TimestampNanosecondType>(array),
            };
            let (unit, zoned) = (*unit, zone.is_some());
            Text::Plain(Box::new(move |row, out| {
                timestamp(at(values, row), unit, style, out);
                if zoned {
                    out.push(b'Z');
                }
            }))
        }
        _ => {
            let values = native::<Date32Type>(array);
            Text::Plain(Box::new(move |row, out| date(at(values, row).into(), out)))
        }
    }
}

/// What is left (intervals, durations, wider decimals) is rare: as Arrow displays it.
fn displayed(array: &dyn Array) -> Result<Text<'_>> {
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(array, &options)?;
    let texts: Vec<String> =
        (0..array.len()).map(|row| formatter.value(row).try_to_string()).collect::<std::result::Result<_, _>>()?;
    let write: Write = Box::new(move |row, out| {
        out.extend_from_slice(texts.get(row).map(String::as_bytes).unwrap_or_default());
    });
    Ok(if array.data_type().is_numeric() { Text::Bare(write) } else { Text::FreeWrite(write) })
}

fn native<T: ArrowPrimitiveType>(array: &dyn Array) -> &[T::Native] {
    array.as_primitive::<T>().values()
}

#[inline]
fn at<T: Copy + Default>(values: &[T], row: usize) -> T {
    values.get(row).copied().unwrap_or_default()
}

fn integers<T: ArrowPrimitiveType<Native: Into<i64>>>(array: &dyn Array) -> Text<'_> {
    let values = native::<T>(array);
    Text::Bare(Box::new(move |row, out| {
        let value: i64 = at(values, row).into();
        if value < 0 {
            out.push(b'-');
        }
        number(value.unsigned_abs(), out);
    }))
}

fn times<T: ArrowPrimitiveType<Native: Into<i64>>>(array: &dyn Array, unit: TimeUnit) -> Text<'_> {
    let values = native::<T>(array);
    Text::Plain(Box::new(move |row, out| time(at(values, row).into(), unit, out)))
}

/// Appends a whole number.
#[inline]
pub(crate) fn number(value: u64, out: &mut Vec<u8>) {
    if value < 10 {
        out.push(b'0' + value as u8);
        return;
    }
    let (mut buffer, mut rest, mut unused) = ([0u8; 20], value, 20);
    for digit in buffer.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
        unused -= 1;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(buffer.get(unused..).unwrap_or_default());
}

fn float<T: lexical_core::ToLexical>(value: T, wide: f64, out: &mut Vec<u8>) {
    if wide.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if wide.is_infinite() {
        out.extend_from_slice(if wide > 0.0 { b"Infinity" } else { b"-Infinity" });
    } else {
        let mut buffer = [0u8; 128];
        out.extend_from_slice(lexical_core::write(value, &mut buffer));
    }
}

/// Appends a decimal with all the digits of its scale.
fn decimal(value: i128, scale: i8, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    let start = out.len();
    match u64::try_from(value.unsigned_abs()) {
        Ok(small) => number(small, out),
        Err(_) => out.extend_from_slice(value.unsigned_abs().to_string().as_bytes()),
    }
    let Ok(scale) = usize::try_from(scale) else {
        if value != 0 {
            out.extend(std::iter::repeat_n(b'0', usize::from(scale.unsigned_abs())));
        }
        return;
    };
    if scale == 0 {
        return;
    }
    let digits = out.len() - start;
    if digits <= scale {
        out.splice(start..start, std::iter::repeat_n(b'0', scale + 1 - digits));
    }
    out.insert(out.len() - scale, b'.');
}

/// The two digits of a number below 100.
#[inline]
fn pair(value: u32) -> [u8; 2] {
    [b'0' + (value / 10 % 10) as u8, b'0' + (value % 10) as u8]
}

/// Appends three digits.
#[inline]
fn three(value: u32, out: &mut Vec<u8>) {
    let [tens, ones] = pair(value % 100);
    out.extend_from_slice(&[b'0' + (value / 100 % 10) as u8, tens, ones]);
}

fn date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = civil(days);
    match u32::try_from(year) {
        Ok(year @ 0..=9999) => {
            let ([a, b], [c, d]) = (pair(year / 100), pair(year % 100));
            out.extend_from_slice(&[a, b, c, d]);
        }
        _ => {
            out.push(if year < 0 { b'-' } else { b'+' });
            let years = year.unsigned_abs();
            let missing = [1000, 100, 10].into_iter().filter(|unit| years < *unit).count();
            out.extend(std::iter::repeat_n(b'0', missing));
            number(years, out);
        }
    }
    let ([a, b], [c, d]) = (pair(month), pair(day));
    out.extend_from_slice(&[b'-', a, b, b'-', c, d]);
}

/// Appends a time of day; the fraction has none, three, six or nine digits, whatever it needs.
#[inline]
fn time(value: i64, unit: TimeUnit, out: &mut Vec<u8>) {
    let per_second = per_second(unit);
    let seconds = value.div_euclid(per_second) as u32;
    let ([a, b], [c, d], [e, f]) = (pair(seconds / 3600), pair(seconds / 60 % 60), pair(seconds % 60));
    out.extend_from_slice(&[a, b, b':', c, d, b':', e, f]);
    let nanos = (value.rem_euclid(per_second) * (1_000_000_000 / per_second)) as u32;
    if nanos == 0 {
        return;
    }
    out.push(b'.');
    three(nanos / 1_000_000, out);
    if !nanos.is_multiple_of(1_000_000) {
        three(nanos / 1_000 % 1_000, out);
        if !nanos.is_multiple_of(1_000) {
            three(nanos % 1_000, out);
        }
    }
}

#[inline]
fn timestamp(value: i64, unit: TimeUnit, style: TimeStyle, out: &mut Vec<u8>) {
    let per_day = per_second(unit) * 86_400;
    date(value.div_euclid(per_day), out);
    out.push(if style == TimeStyle::Iso { b'T' } else { b' ' });
    time(value.rem_euclid(per_day), unit, out);
}
