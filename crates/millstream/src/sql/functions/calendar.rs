//! Arithmetic of the calendar: differences, sums, rounding and time zones.
//!
//! A timestamp keeps its unit and its zone. Months are of the calendar: the 31st and a month is the last day of
//! the next month. A time that leaves the calendar is an error of its row.

use std::sync::Arc;

use chrono::{
    DateTime, Datelike, Days, Duration, LocalResult, Months, NaiveDate, NaiveDateTime, Offset, TimeZone, Timelike, Utc,
};
use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, Date32Builder, TimestampNanosecondBuilder};
use datafusion::arrow::array::{TimestampMicrosecondBuilder, TimestampMillisecondBuilder, TimestampSecondBuilder};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, exec_err, plan_err};

use super::Argument::{Date, Integer, Text, Time, TimeOrDate};
use super::pattern::Pattern;
use super::rows::{count, day, integer, integers, text, texts};
use super::{Builtin, Returns};

/// A day in milliseconds.
pub const DAY_MS: i64 = 86_400_000;

pub fn functions() -> Vec<Builtin> {
    let of_last = || Returns::Of(|given| Ok(given.last().cloned().unwrap_or(DataType::Null)));
    let local = || Returns::Of(|given| Ok(given.first().map_or(DataType::Null, without_zone)));
    vec![
        Builtin::new("timestampadd", &[Text, Integer, Time], of_last(), timestampadd).checked(check_unit),
        Builtin::new("timestampdiff", &[Text, Time, Time], DataType::Int64, timestampdiff).checked(check_unit),
        Builtin::new("floor_time", &[Text, TimeOrDate], of_last(), |args| rounded(args, floor)).checked(check_unit),
        Builtin::new("ceil_time", &[Text, TimeOrDate], of_last(), |args| rounded(args, ceil)).checked(check_unit),
        Builtin::new("date_add", &[Date, Integer], DataType::Date32, |args| {
            dates(args, |date, days| add(date, Unit::Day, days))
        }),
        Builtin::new("date_sub", &[Date, Integer], DataType::Date32, |args| {
            dates(args, |date, days| add(date, Unit::Day, days.checked_neg()?))
        }),
        Builtin::new("add_months", &[Date, Integer], DataType::Date32, |args| {
            dates(args, |date, months| add(date, Unit::Month, months))
        }),
        Builtin::new("last_day", &[Date], DataType::Date32, last_day),
        Builtin::new("datediff", &[Date, Date], DataType::Int64, |args| {
            integers(args, |row| Ok(day(args, 0, row).zip(day(args, 1, row)).map(|(a, b)| i64::from(a) - i64::from(b))))
        }),
        Builtin::new("convert_tz", &[Text, Text, Text], DataType::Utf8View, convert_tz),
        Builtin::new("from_utc_timestamp", &[Time, Text], local(), |args| shifted(args, Shift::FromUtc)),
        Builtin::new("to_utc_timestamp", &[Time, Text], local(), |args| shifted(args, Shift::ToUtc)),
    ]
}

fn without_zone(given: &DataType) -> DataType {
    match given {
        DataType::Timestamp(unit, _) => DataType::Timestamp(*unit, None),
        other => other.clone(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Microsecond,
    Millisecond,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
}

impl Unit {
    fn read(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let name = name.strip_prefix("sql_tsi_").unwrap_or(&name);
        Some(match name.strip_suffix('s').unwrap_or(name) {
            "microsecond" => Self::Microsecond,
            "millisecond" => Self::Millisecond,
            "second" => Self::Second,
            "minute" => Self::Minute,
            "hour" => Self::Hour,
            "day" => Self::Day,
            "week" => Self::Week,
            "month" => Self::Month,
            "quarter" => Self::Quarter,
            "year" => Self::Year,
            _ => return None,
        })
    }

    /// How many months it is, where it is any.
    fn months(self) -> Option<i64> {
        match self {
            Self::Month => Some(1),
            Self::Quarter => Some(3),
            Self::Year => Some(12),
            _ => None,
        }
    }

    /// How long it is, where that does not depend on the calendar.
    fn length(self) -> Option<Duration> {
        match self {
            Self::Microsecond => Some(Duration::microseconds(1)),
            Self::Millisecond => Some(Duration::milliseconds(1)),
            Self::Second => Some(Duration::seconds(1)),
            Self::Minute => Some(Duration::minutes(1)),
            Self::Hour => Some(Duration::hours(1)),
            Self::Day => Some(Duration::days(1)),
            Self::Week => Some(Duration::weeks(1)),
            Self::Month | Self::Quarter | Self::Year => None,
        }
    }
}

const UNITS: &str = "they are SECOND, MINUTE, HOUR, DAY, WEEK, MONTH, QUARTER, YEAR, MILLISECOND and MICROSECOND";

fn check_unit(args: &[Option<&ScalarValue>]) -> Result<()> {
    match args.first().copied().flatten().and_then(|p| p.try_as_str()).flatten() {
        Some(unit) if Unit::read(unit).is_none() => plan_err!("'{unit}' is no unit of time: {UNITS}"),
        _ => Ok(()),
    }
}

fn unit(args: &[ArrayRef], row: usize) -> Result<Option<Unit>> {
    let Some(name) = text(args, 0, row) else { return Ok(None) };
    match Unit::read(name) {
        Some(unit) => Ok(Some(unit)),
        None => exec_err!("'{name}' is no unit of time: {UNITS}"),
    }
}

/// The n-th argument's time in a row.
fn time(args: &[ArrayRef], n: usize, row: usize) -> Result<Option<NaiveDateTime>> {
    let Some(array) = args.get(n).filter(|a| a.is_valid(row)) else { return Ok(None) };
    let DataType::Timestamp(unit, _) = array.data_type() else { return Ok(None) };
    let (number, time) = match unit {
        TimeUnit::Second => {
            let n = array.as_primitive::<TimestampSecondType>().value(row);
            (n, DateTime::from_timestamp(n, 0))
        }
        TimeUnit::Millisecond => {
            let n = array.as_primitive::<TimestampMillisecondType>().value(row);
            (n, DateTime::from_timestamp_millis(n))
        }
        TimeUnit::Microsecond => {
            let n = array.as_primitive::<TimestampMicrosecondType>().value(row);
            (n, DateTime::from_timestamp_micros(n))
        }
        TimeUnit::Nanosecond => {
            let n = array.as_primitive::<TimestampNanosecondType>().value(row);
            (n, Some(DateTime::from_timestamp_nanos(n)))
        }
    };
    match time {
        Some(time) => Ok(Some(time.naive_utc())),
        None => exec_err!("{number} {unit:?}s since 1970 are outside of the calendar"),
    }
}

/// Times, in an array of this type.
fn times(to: &DataType, times: impl Iterator<Item = Result<Option<NaiveDateTime>>>) -> Result<ArrayRef> {
    macro_rules! build {
        ($builder:ty, $number:expr) => {{
            let mut out = <$builder>::new().with_data_type(to.clone());
            for time in times {
                let number = |time: NaiveDateTime| {
                    $number(time.and_utc()).ok_or_else(|| exec_datafusion_err!("{time} is out of the range of {to}"))
                };
                out.append_option(time?.map(number).transpose()?);
            }
            Ok(Arc::new(out.finish()))
        }};
    }
    match to {
        DataType::Timestamp(TimeUnit::Second, _) => {
            build!(TimestampSecondBuilder, |t: DateTime<Utc>| Some(t.timestamp()))
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            build!(TimestampMillisecondBuilder, |t: DateTime<Utc>| Some(t.timestamp_millis()))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            build!(TimestampMicrosecondBuilder, |t: DateTime<Utc>| Some(t.timestamp_micros()))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            build!(TimestampNanosecondBuilder, |t: DateTime<Utc>| t.timestamp_nanos_opt())
        }
        other => exec_err!("{other} is no timestamp"),
    }
}

fn last_type(args: &[ArrayRef]) -> DataType {
    args.last().map_or(DataType::Null, |a| a.data_type().clone())
}

fn add(time: NaiveDateTime, unit: Unit, number: i64) -> Option<NaiveDateTime> {
    match (unit.months(), unit.length()) {
        (Some(months), _) => {
            let months = months.checked_mul(number)?;
            let length = Months::new(u32::try_from(months.unsigned_abs()).ok()?);
            if months < 0 { time.checked_sub_months(length) } else { time.checked_add_months(length) }
        }
        (None, Some(length)) => {
            let seconds = Duration::try_seconds(length.num_seconds().checked_mul(number)?)?;
            let fraction = i64::from(length.subsec_nanos()).checked_mul(number).map(Duration::nanoseconds)?;
            time.checked_add_signed(seconds)?.checked_add_signed(fraction)
        }
        (None, None) => None,
    }
}

fn timestampadd(args: &[ArrayRef]) -> Result<ArrayRef> {
    let sum = |row| {
        let (Some(unit), Some(number), Some(time)) = (unit(args, row)?, integer(args, 1, row), time(args, 2, row)?)
        else {
            return Ok(None);
        };
        match add(time, unit, number) {
            Some(sum) => Ok(Some(sum)),
            None => exec_err!("TIMESTAMPADD: {time} and {number} {unit:?}s are outside of the calendar"),
        }
    };
    times(&last_type(args), (0..count(args)).map(sum))
}

/// The whole units from the first time to the second, negative where the second is before it.
fn timestampdiff(args: &[ArrayRef]) -> Result<ArrayRef> {
    integers(args, |row| {
        let (Some(unit), Some(from), Some(to)) = (unit(args, row)?, time(args, 1, row)?, time(args, 2, row)?) else {
            return Ok(None);
        };
        match whole_units(unit, from, to) {
            Some(count) => Ok(Some(count)),
            None => exec_err!("TIMESTAMPDIFF: from {from} to {to} there are more {unit:?}s than can be counted"),
        }
    })
}

fn whole_units(unit: Unit, from: NaiveDateTime, to: NaiveDateTime) -> Option<i64> {
    if let Some(months) = unit.months() {
        if to < from {
            return whole_units(unit, to, from)?.checked_neg();
        }
        let years = i64::from(to.year()) - i64::from(from.year());
        let between = years * 12 + i64::from(to.month()) - i64::from(from.month());
        let whole = if add(from, Unit::Month, between)? > to { between - 1 } else { between };
        return Some(whole / months);
    }
    let length = unit.length()?;
    let between = to.signed_duration_since(from);
    if length >= Duration::seconds(1) {
        return between.num_seconds().checked_div(length.num_seconds());
    }
    Some(if unit == Unit::Microsecond { between.num_microseconds()? } else { between.num_milliseconds() })
}

fn rounded(args: &[ArrayRef], round: fn(NaiveDateTime, Unit) -> Option<NaiveDateTime>) -> Result<ArrayRef> {
    if let [unit, dates] = args
        && *dates.data_type() == DataType::Date32
    {
        // The unit of a date is a date.
        let times = cast(dates, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
        return Ok(cast(&rounded(&[Arc::clone(unit), times], round)?, &DataType::Date32)?);
    }
    let answer = |row| {
        let (Some(unit), Some(time)) = (unit(args, row)?, time(args, 1, row)?) else { return Ok(None) };
        match round(time, unit) {
            Some(rounded) => Ok(Some(rounded)),
            None => exec_err!("{time} can't be rounded to a {unit:?}: that is outside of the calendar"),
        }
    };
    times(&last_type(args), (0..count(args)).map(answer))
}

/// The beginning of the unit that the time is in. A week begins on Monday.
fn floor(time: NaiveDateTime, unit: Unit) -> Option<NaiveDateTime> {
    let date = time.date();
    let month = |month| NaiveDate::from_ymd_opt(date.year(), month, 1);
    let date = match unit {
        Unit::Year => month(1)?,
        Unit::Quarter => month(date.month0() / 3 * 3 + 1)?,
        Unit::Month => month(date.month())?,
        Unit::Week => date.checked_sub_days(Days::new(u64::from(date.weekday().num_days_from_monday())))?,
        Unit::Day => date,
        Unit::Hour => return time.with_minute(0)?.with_second(0)?.with_nanosecond(0),
        Unit::Minute => return time.with_second(0)?.with_nanosecond(0),
        Unit::Second => return time.with_nanosecond(0),
        Unit::Millisecond => return time.with_nanosecond(time.nanosecond() / 1_000_000 * 1_000_000),
        Unit::Microsecond => return time.with_nanosecond(time.nanosecond() / 1000 * 1000),
    };
    date.and_hms_opt(0, 0, 0)
}

fn ceil(time: NaiveDateTime, unit: Unit) -> Option<NaiveDateTime> {
    let floor = floor(time, unit)?;
    if floor == time { Some(time) } else { add(floor, unit, 1) }
}

fn date_of(day: i32) -> Option<NaiveDateTime> {
    Some(DateTime::from_timestamp(i64::from(day) * (DAY_MS / 1000), 0)?.naive_utc())
}

fn dates(args: &[ArrayRef], sum: fn(NaiveDateTime, i64) -> Option<NaiveDateTime>) -> Result<ArrayRef> {
    let mut out = Date32Builder::with_capacity(count(args));
    for row in 0..count(args) {
        let answer = match (day(args, 0, row), integer(args, 1, row)) {
            (Some(day), Some(number)) => match date_of(day).and_then(|date| sum(date, number)) {
                Some(time) => i32::try_from(time.and_utc().timestamp_millis().div_euclid(DAY_MS)).ok(),
                None => return exec_err!("a date and {number} more or less is outside of the calendar"),
            },
            _ => None,
        };
        out.append_option(answer);
    }
    Ok(Arc::new(out.finish()))
}

fn last_day(args: &[ArrayRef]) -> Result<ArrayRef> {
    let mut out = Date32Builder::with_capacity(count(args));
    for row in 0..count(args) {
        let last = |day: i32| {
            let date = date_of(day)?.date();
            i32::try_from(i64::from(day) + i64::from(date.num_days_in_month()) - i64::from(date.day())).ok()
        };
        out.append_option(day(args, 0, row).and_then(last));
    }
    Ok(Arc::new(out.finish()))
}

fn zone(name: &str) -> Result<Tz> {
    match name.parse::<Tz>() {
        Ok(zone) => Ok(zone),
        Err(_) => exec_err!("'{name}' is no time zone: they are like 'UTC', 'Europe/Berlin' and '+02:00'"),
    }
}

/// A local time of a zone in UTC. Where a clock was put back and the time came twice, it is the first of them; where
/// it was put forward and the time did not come, it is as long after the gap's begin.
fn to_utc(time: NaiveDateTime, zone: &Tz) -> Option<NaiveDateTime> {
    match zone.from_local_datetime(&time) {
        LocalResult::Single(time) | LocalResult::Ambiguous(time, _) => Some(time.naive_utc()),
        LocalResult::None => {
            let before = zone.from_local_datetime(&time.checked_sub_signed(Duration::hours(3))?).latest()?;
            time.checked_sub_signed(Duration::seconds(i64::from(before.offset().fix().local_minus_utc())))
        }
    }
}

fn from_utc(time: NaiveDateTime, zone: &Tz) -> NaiveDateTime {
    zone.from_utc_datetime(&time).naive_local()
}

/// The local time of one zone as that of another; NULL where the text is no time.
fn convert_tz(args: &[ArrayRef]) -> Result<ArrayRef> {
    let usual = Pattern::read("yyyy-MM-dd HH:mm:ss").or_else(|reason| exec_err!("{reason}"))?;
    texts(args, |row| {
        let (Some(time), Some(from), Some(to)) = (text(args, 0, row), text(args, 1, row), text(args, 2, row)) else {
            return Ok(None);
        };
        let (from, to) = (zone(from)?, zone(to)?);
        let converted = usual.parse(time).and_then(|time| to_utc(time, &from)).map(|time| from_utc(time, &to));
        Ok(converted.map(|time| {
            let mut out = String::new();
            usual.write(&time.and_utc(), &mut out);
            out.into()
        }))
    })
}

#[derive(Clone, Copy)]
enum Shift {
    FromUtc,
    ToUtc,
}

fn shifted(args: &[ArrayRef], shift: Shift) -> Result<ArrayRef> {
    let to = args.first().map_or(DataType::Null, |a| without_zone(a.data_type()));
    let answer = |row| {
        let (Some(time), Some(name)) = (time(args, 0, row)?, text(args, 1, row)) else { return Ok(None) };
        let zone = zone(name)?;
        Ok(match shift {
            Shift::FromUtc => Some(from_utc(time, &zone)),
            Shift::ToUtc => to_utc(time, &zone),
        })
    };
    times(&to, (0..count(args)).map(answer))
}
