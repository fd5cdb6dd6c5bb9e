//! Times as text and numbers, text and numbers as times, and the parts of a time.

use std::sync::Arc;

use chrono::DateTime;
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Date32Builder, Int64Array, StringViewBuilder, TimestampMillisecondArray,
    TimestampMillisecondBuilder,
};
use datafusion::arrow::compute::{DatePart, cast, date_part};
use datafusion::arrow::datatypes::{DataType, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use datafusion::common::{Result, ScalarValue, exec_err, internal_err, plan_err};

use super::Argument::{Integer, Text, Time};
use super::pattern::Pattern;
use super::rows::{count, integer, integers, text};
use super::{Builtin, calendar};

/// How Flink and Spark write a time where no pattern is given.
const USUAL: &str = "yyyy-MM-dd HH:mm:ss";

pub fn functions() -> Vec<Builtin> {
    let part = |name, call| Builtin::new(name, &[Time], DataType::Int64, call);
    vec![
        Builtin::new("date_format", &[Time, Text], DataType::Utf8View, date_format).checked(check_pattern),
        Builtin::new("from_unixtime", &[Integer, Text], DataType::Utf8View, from_unixtime)
            .optional(1)
            .checked(check_pattern),
        Builtin::new("timestamp_of_pattern", &[Text, Text], milliseconds(), timestamp_of_pattern)
            .checked(check_pattern),
        Builtin::new("date_of_pattern", &[Text, Text], DataType::Date32, date_of_pattern).checked(check_pattern),
        Builtin::new("seconds_of_pattern", &[Text, Text], DataType::Int64, seconds_of_pattern).checked(check_pattern),
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
        part("day", |args| part_of(args, DatePart::Day, 0)),
        // Monday is 0.
        part("weekday", |args| part_of(args, DatePart::DayOfWeekMonday0, 0)),
        // Sunday is 1.
        part("dayofweek", |args| part_of(args, DatePart::DayOfWeekSunday0, 1)),
        part("hour", |args| part_of(args, DatePart::Hour, 0)),
        part("minute", |args| part_of(args, DatePart::Minute, 0)),
        part("second", |args| part_of(args, DatePart::Second, 0)),
    ]
}

fn milliseconds() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, None)
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
        Some(Err(reason)) => plan_err!("the pattern of a time: {reason}"),
        _ => Ok(()),
    }
}

/// Seconds since 1970 as text, in UTC.
fn from_unixtime(args: &[ArrayRef]) -> Result<ArrayRef> {
    let mut patterns = Patterns::default();
    let mut out = StringViewBuilder::with_capacity(count(args));
    let mut written = String::new();
    for row in 0..count(args) {
        let pattern = if args.len() > 1 { text(args, 1, row) } else { Some(USUAL) };
        let (Some(seconds), Some(pattern)) = (integer(args, 0, row), pattern) else {
            out.append_null();
            continue;
        };
        let Some(time) = DateTime::from_timestamp(seconds, 0) else {
            return exec_err!("FROM_UNIXTIME: {seconds} seconds since 1970 are outside of the calendar");
        };
        written.clear();
        patterns.get(pattern)?.write(&time, &mut written);
        out.append_value(&written);
    }
    Ok(Arc::new(out.finish()))
}

/// The pattern of the row before, because it is mostly that of the next.
#[derive(Default)]
struct Patterns<'a>(Option<(&'a str, Pattern)>);

impl<'a> Patterns<'a> {
    fn get(&mut self, text: &'a str) -> Result<&Pattern> {
        let read = match self.0.take() {
            Some((of, pattern)) if of == text => pattern,
            _ => Pattern::read(text).or_else(|reason| exec_err!("the pattern of a time: {reason}"))?,
        };
        Ok(&self.0.insert((text, read)).1)
    }
}

/// The time that a text says by a pattern, in milliseconds since 1970; NULL where it says none.
fn parsed<'a>(args: &'a [ArrayRef], row: usize, patterns: &mut Patterns<'a>) -> Result<Option<i64>> {
    let (Some(time), Some(pattern)) = (text(args, 0, row), text(args, 1, row)) else { return Ok(None) };
    Ok(patterns.get(pattern)?.parse(time).map(|t| t.and_utc().timestamp_millis()))
}

fn timestamp_of_pattern(args: &[ArrayRef]) -> Result<ArrayRef> {
    let mut patterns = Patterns::default();
    let mut out = TimestampMillisecondBuilder::with_capacity(count(args));
    for row in 0..count(args) {
        out.append_option(parsed(args, row, &mut patterns)?);
    }
    Ok(Arc::new(out.finish()))
}

fn date_of_pattern(args: &[ArrayRef]) -> Result<ArrayRef> {
    let mut patterns = Patterns::default();
    let mut out = Date32Builder::with_capacity(count(args));
    for row in 0..count(args) {
        let ms = parsed(args, row, &mut patterns)?;
        out.append_option(ms.and_then(|ms| i32::try_from(ms.div_euclid(calendar::DAY_MS)).ok()));
    }
    Ok(Arc::new(out.finish()))
}

fn seconds_of_pattern(args: &[ArrayRef]) -> Result<ArrayRef> {
    let mut patterns = Patterns::default();
    integers(args, |row| Ok(parsed(args, row, &mut patterns)?.map(|ms| ms.div_euclid(1000))))
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
