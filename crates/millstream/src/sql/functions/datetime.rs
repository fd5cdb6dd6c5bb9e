//! Functions of times.

use std::sync::Arc;

use chrono::DateTime;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringViewBuilder, TimestampMillisecondArray};
use datafusion::arrow::compute::{DatePart, cast, date_part};
use datafusion::arrow::datatypes::{DataType, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{Result, ScalarValue, exec_err, internal_err, plan_err};

use super::Argument::{Integer, Text, Time};
use super::Builtin;
use super::pattern::Pattern;

pub fn functions() -> Vec<Builtin> {
    let part = |name, call| Builtin::new(name, &[Time], DataType::Int64, call);
    vec![
        Builtin::new("date_format", &[Time, Text], DataType::Utf8View, date_format).checked(check_pattern),
        Builtin::new("to_timestamp_ltz", &[Integer, Integer], ltz(), to_timestamp_ltz)
            .optional(1)
            .checked(check_precision),
        Builtin::new("unix_timestamp", &[Time], DataType::Int64, unix_timestamp),
        part("year", |args| part_of(args, DatePart::Year, 0)),
        part("quarter", |args| part_of(args, DatePart::Quarter, 0)),
        part("month", |args| part_of(args, DatePart::Month, 0)),
        part("week", |args| part_of(args, DatePart::Week, 0)),
        part("dayofyear", |args| part_of(args, DatePart::DayOfYear, 0)),
        part("dayofmonth", |args| part_of(args, DatePart::Day, 0)),
        // Sunday is 1.
        part("dayofweek", |args| part_of(args, DatePart::DayOfWeekSunday0, 1)),
        part("hour", |args| part_of(args, DatePart::Hour, 0)),
        part("minute", |args| part_of(args, DatePart::Minute, 0)),
        part("second", |args| part_of(args, DatePart::Second, 0)),
    ]
}

fn ltz() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

fn part_of(args: &[ArrayRef], part: DatePart, plus: i64) -> Result<ArrayRef> {
    let [time] = args else { return internal_err!("a part of a time takes one argument") };
    let part = date_part(time, part)?;
    let part: Int64Array = part.as_primitive::<Int32Type>().unary(|n| i64::from(n) + plus);
    Ok(Arc::new(part))
}

/// A time as text, by a pattern of Java's.
fn date_format(args: &[ArrayRef]) -> Result<ArrayRef> {
    let [time, pattern] = args else { return internal_err!("DATE_FORMAT takes two arguments") };
    let micros = cast(time, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
    let micros = micros.as_primitive::<TimestampMicrosecondType>();
    let patterns = pattern.as_string_view();
    let mut out = StringViewBuilder::with_capacity(micros.len());
    let mut read: Option<(&str, Pattern)> = None;
    let mut text = String::new();
    for (micros, pattern) in micros.iter().zip(patterns) {
        let (Some(micros), Some(pattern)) = (micros, pattern) else {
            out.append_null();
            continue;
        };
        if read.as_ref().is_none_or(|(of, _)| *of != pattern) {
            let parsed = Pattern::read(pattern);
            read = Some((pattern, parsed.or_else(|reason| exec_err!("DATE_FORMAT: {reason}"))?));
        }
        match (DateTime::from_timestamp_micros(micros), &read) {
            (Some(time), Some((_, pattern))) => {
                text.clear();
                pattern.write(&time, &mut text);
                out.append_value(&text);
            }
            _ => return exec_err!("DATE_FORMAT: {micros} microseconds since 1970 is outside of the calendar"),
        }
    }
    Ok(Arc::new(out.finish()))
}

fn check_pattern(args: &[Option<&ScalarValue>]) -> Result<()> {
    let pattern = args.get(1).copied().flatten().and_then(|p| p.try_as_str()).flatten();
    match pattern.map(Pattern::read) {
        Some(Err(reason)) => plan_err!("DATE_FORMAT: {reason}"),
        _ => Ok(()),
    }
}

/// Seconds (precision 0) or milliseconds (precision 3) since 1970 as a time.
fn to_timestamp_ltz(args: &[ArrayRef]) -> Result<ArrayRef> {
    let (number, precision) = match args {
        [number] => (number.as_primitive::<Int64Type>(), None),
        [number, precision] => (number.as_primitive::<Int64Type>(), Some(precision.as_primitive::<Int64Type>())),
        _ => return internal_err!("TO_TIMESTAMP_LTZ takes one or two arguments"),
    };
    let mut out = TimestampMillisecondArray::builder(number.len()).with_data_type(ltz());
    for row in 0..number.len() {
        let precision = precision.map_or(Some(3), |p| p.is_valid(row).then(|| p.value(row)));
        let number = number.is_valid(row).then(|| number.value(row));
        out.append_option(match (number, precision) {
            (Some(n), Some(0)) => match n.checked_mul(1_000) {
                Some(ms) => Some(ms),
                None => return exec_err!("TO_TIMESTAMP_LTZ: {n} seconds since 1970 is out of range"),
            },
            (Some(n), Some(3)) => Some(n),
            (Some(_), Some(p)) => return exec_err!("TO_TIMESTAMP_LTZ: the precision {p} is neither 0 nor 3"),
            _ => None,
        });
    }
    Ok(Arc::new(out.finish()))
}

fn check_precision(args: &[Option<&ScalarValue>]) -> Result<()> {
    match args.get(1).copied().flatten().map(|p| p.cast_to(&DataType::Int64)).transpose()? {
        Some(ScalarValue::Int64(Some(p))) if p != 0 && p != 3 => {
            plan_err!("TO_TIMESTAMP_LTZ: the precision {p} is neither 0 (seconds) nor 3 (milliseconds)")
        }
        _ => Ok(()),
    }
}

/// Seconds since 1970 of a time.
fn unix_timestamp(args: &[ArrayRef]) -> Result<ArrayRef> {
    let [time] = args else { return internal_err!("UNIX_TIMESTAMP takes one argument") };
    let micros = cast(time, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
    let seconds: Int64Array = micros.as_primitive::<TimestampMicrosecondType>().unary(|us| us.div_euclid(1_000_000));
    Ok(Arc::new(seconds))
}
