//! One column of made-up values.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int64Array, ListArray,
    StringArray, StructArray, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{CastOptions, cast, cast_with_options, nullif, take};
use arrow::datatypes::{DataType, Decimal128Type, Field, Int64Type, TimeUnit};
use millstream_core::{Error, Result};

use super::super::random::Random;
use crate::Options;

/// 2026-01-01 00:00:00 UTC, in microseconds.
const START_US: i64 = 1_767_225_600_000_000;

const TEXT_LENGTH: u64 = 100;
const LIST_LENGTH: u64 = 3;

/// What the columns of a table are made from.
pub(super) struct Context<'a> {
    pub options: &'a Options,
    pub seed: u64,
    /// How far a time advances in a row.
    pub step_us: f64,
    /// Columns so far: each draws its own random numbers.
    pub lanes: u64,
    /// The shortest sequence ends the source.
    pub rows_max: Option<u64>,
}

/// How the values of a column are made. It holds no type, whose text may differ between processes.
#[derive(Debug)]
pub(super) struct Column {
    lane: u64,
    null_rate: f64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Sequence { start: i64 },
    Integer { min: i128, max: i128 },
    Float { min: f64, max: f64 },
    Boolean,
    Text { length: u64 },
    Bytes { length: u64 },
    Past { start_us: i64, max_past_us: u64 },
    Time { start_us: i64, step_us: f64, jitter_us: u64 },
    Values(ArrayRef),
    Row(Vec<Column>),
    List { length: u64, element: Box<Column> },
}

#[derive(Clone, Copy, PartialEq)]
enum Wish {
    Random,
    Sequence,
    Time,
}

impl Column {
    /// The column of a field whose options begin with `prefix`.
    pub(super) fn new(field: &Field, prefix: &str, context: &mut Context<'_>) -> Result<Self> {
        let options = context.options;
        let lane = context.lanes;
        context.lanes += 1;
        let null_rate = options.parsed::<f64>(&format!("{prefix}.null-rate"))?.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&null_rate) || (null_rate > 0.0 && !field.is_nullable()) {
            return Err(Error::config(format!(
                "the option '{prefix}.null-rate' = '{null_rate}': it is a share from 0 to 1, and 0 for a NOT NULL column"
            )));
        }
        let words = [("random", Wish::Random), ("sequence", Wish::Sequence), ("time", Wish::Time)];
        let wish = options.one_of(&format!("{prefix}.kind"), &words)?;
        let kind = Kind::new(field, prefix, wish, context)?;
        Ok(Self { lane, null_rate, kind })
    }

    /// About how large a value is.
    pub(super) fn bytes(&self) -> u64 {
        match &self.kind {
            Kind::Text { length } | Kind::Bytes { length } => *length,
            Kind::Row(columns) => columns.iter().map(Column::bytes).sum(),
            Kind::List { length, element } => length * element.bytes(),
            _ => 8,
        }
    }

    /// The values of these rows.
    pub(super) fn array(&self, data_type: &DataType, seed: u64, rows: &[u64]) -> Result<ArrayRef> {
        let values = self.values(data_type, seed, rows)?;
        if self.null_rate == 0.0 {
            return Ok(values);
        }
        let lane = self.lane | (1 << 32);
        let nulls = rows.iter().map(|row| Some(Random::new(seed, *row, lane).chance(self.null_rate)));
        Ok(nullif(&values, &nulls.collect::<BooleanArray>())?)
    }

    fn values(&self, data_type: &DataType, seed: u64, rows: &[u64]) -> Result<ArrayRef> {
        let random = |row: &u64| Random::new(seed, *row, self.lane);
        let array: ArrayRef = match &self.kind {
            Kind::Sequence { start } => {
                let largest = range_of(data_type).map_or(i64::MAX.into(), |(_, largest)| largest);
                let value = |row: &u64| i128::from(*start) + i128::from(*row);
                if rows.iter().map(value).any(|value| value > largest) {
                    return Err(Error::config(format!(
                        "a sequence of the generator has come to {largest}, the largest number of its column: declare a \
                         larger type, or end it with the option 'end' of the sequence or with 'number-of-rows'"
                    )));
                }
                Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| start.saturating_add_unsigned(*row))))
            }
            Kind::Integer { min, max } => {
                let numbers = rows.iter().map(|row| random(row).between(*min, *max));
                if let DataType::Decimal128(precision, scale) = data_type {
                    let decimals = Decimal128Array::from_iter_values(numbers);
                    return Ok(Arc::new(decimals.with_precision_and_scale(*precision, *scale)?));
                }
                Arc::new(Int64Array::from_iter_values(numbers.map(|n| n as i64)))
            }
            Kind::Float { min, max } => {
                let numbers = rows.iter().map(|row| min + random(row).unit() * (max - min));
                Arc::new(Float64Array::from_iter_values(numbers))
            }
            Kind::Boolean => {
                Arc::new(rows.iter().map(|row| Some(random(row).next() & 1 == 1)).collect::<BooleanArray>())
            }
            Kind::Text { length } => {
                Arc::new(StringArray::from_iter_values(rows.iter().map(|row| text(random(row), *length))))
            }
            Kind::Bytes { length } => {
                let byte = |random: &mut Random| random.below(256) as u8;
                let bytes = |mut random: Random| (0..*length).map(|_| byte(&mut random)).collect::<Vec<_>>();
                Arc::new(BinaryArray::from_iter_values(rows.iter().map(|row| bytes(random(row)))))
            }
            Kind::Past { start_us, max_past_us } => {
                let time = |row| start_us.saturating_sub_unsigned(random(row).below(max_past_us.saturating_add(1)));
                timestamps(rows.iter().map(time))?
            }
            Kind::Time { start_us, step_us, jitter_us } => {
                let even = |row: &u64| start_us.saturating_add((*row as f64 * step_us) as i64);
                let behind = |row| random(row).below(jitter_us.saturating_add(1));
                timestamps(rows.iter().map(|row| even(row).saturating_sub_unsigned(behind(row))))?
            }
            Kind::Values(values) => {
                let chosen = rows.iter().map(|row| random(row).below(values.len() as u64));
                take(values, &UInt64Array::from_iter_values(chosen), None)?
            }
            Kind::Row(columns) => return row(columns, data_type, seed, rows),
            Kind::List { length, element } => return list(element, *length, data_type, seed, rows),
        };
        if array.data_type() == data_type { Ok(array) } else { converted(&array, data_type) }
    }
}

/// The values in another type. A time without a zone is one in UTC.
fn converted(array: &ArrayRef, data_type: &DataType) -> Result<ArrayRef> {
    let DataType::Timestamp(unit, Some(_)) = data_type else { return Ok(cast(array, data_type)?) };
    let utc = cast(array, &DataType::Timestamp(*unit, None))?;
    Ok(cast(&cast(&utc, &DataType::Int64)?, data_type)?)
}

fn timestamps(micros: impl Iterator<Item = i64>) -> Result<ArrayRef> {
    let array: ArrayRef = Arc::new(Int64Array::from_iter_values(micros));
    Ok(cast(&array, &DataType::Timestamp(TimeUnit::Microsecond, None))?)
}

fn row(columns: &[Column], data_type: &DataType, seed: u64, rows: &[u64]) -> Result<ArrayRef> {
    let DataType::Struct(fields) = data_type else { return Err(Error::bug("a ROW column has another type")) };
    let arrays: Result<Vec<_>> = columns.iter().zip(fields).map(|(c, f)| c.array(f.data_type(), seed, rows)).collect();
    Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), arrays?, None, rows.len())?))
}

fn list(element: &Column, length: u64, data_type: &DataType, seed: u64, rows: &[u64]) -> Result<ArrayRef> {
    let DataType::List(field) = data_type else { return Err(Error::bug("an ARRAY column has another type")) };
    let elements: Vec<_> =
        rows.iter().flat_map(|row| (0..length).map(move |i| row.wrapping_mul(length).wrapping_add(i))).collect();
    let values = element.array(field.data_type(), seed, &elements)?;
    let lengths = OffsetBuffer::from_lengths(rows.iter().map(|_| length as usize));
    Ok(Arc::new(ListArray::try_new(field.clone(), lengths, values, None)?))
}

fn text(mut random: Random, length: u64) -> String {
    let mut text = String::with_capacity(length as usize + 16);
    while (text.len() as u64) < length {
        // Writing to a string does not fail.
        let _ = write!(text, "{:016x}", random.next());
    }
    text.truncate(length as usize);
    text
}

impl Kind {
    fn new(field: &Field, prefix: &str, wish: Option<Wish>, context: &mut Context<'_>) -> Result<Self> {
        let options = context.options;
        let option = |name: &str| format!("{prefix}.{name}");
        let data_type = field.data_type();
        if let Some(list) = options.get(&option("values")) {
            let texts: StringArray = list.split(',').map(|text| Some(text.trim())).collect();
            return Ok(Self::Values(parse(&texts, data_type, &option("values"))?));
        }
        if wish == Some(Wish::Sequence) {
            return Self::sequence(data_type, prefix, context);
        }
        if let DataType::Timestamp(..) = data_type {
            return Self::time(prefix, wish.unwrap_or(Wish::Time), context);
        }
        if wish == Some(Wish::Time) {
            return Err(Error::config(format!("the option '{}' = 'time' is for timestamps", option("kind"))));
        }
        let length = |default: u64| Ok::<u64, Error>(options.parsed(&option("length"))?.unwrap_or(default));
        let bound = |name: &str, default: i128| integer(options, &option(name), data_type, default);
        let kind = match data_type {
            DataType::Boolean => Self::Boolean,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Self::Text { length: length(TEXT_LENGTH)? },
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
                Self::Bytes { length: length(TEXT_LENGTH)? }
            }
            DataType::Float16 | DataType::Float32 | DataType::Float64 => Self::Float {
                min: options.parsed(&option("min"))?.unwrap_or(0.0),
                max: options.parsed(&option("max"))?.unwrap_or(1.0),
            },
            DataType::Struct(fields) => {
                let columns = fields.iter().map(|f| Column::new(f, &option(f.name()), context));
                Self::Row(columns.collect::<Result<_>>()?)
            }
            DataType::List(element) => {
                let length = length(LIST_LENGTH)?;
                Self::List { length, element: Box::new(Column::new(element, &option("element"), context)?) }
            }
            _ => match range_of(data_type) {
                Some((min, max)) => Self::Integer { min: bound("min", min)?, max: bound("max", max)? },
                None => return Err(unsupported(field, data_type)),
            },
        };
        match &kind {
            Self::Integer { min, max } if min > max => Err(out_of_order(prefix)),
            Self::Float { min, max } if min.partial_cmp(max).is_none_or(|o| o.is_gt()) => Err(out_of_order(prefix)),
            _ => Ok(kind),
        }
    }

    fn sequence(data_type: &DataType, prefix: &str, context: &mut Context<'_>) -> Result<Self> {
        let countable = range_of(data_type).is_some() || data_type.is_floating() || data_type.is_string();
        if !countable {
            return Err(Error::config(format!("the option '{prefix}.kind' = 'sequence' is for numbers and texts")));
        }
        let start = context.options.parsed::<i64>(&format!("{prefix}.start"))?.unwrap_or(0);
        if let Some(end) = context.options.parsed::<i64>(&format!("{prefix}.end"))? {
            let rows = u64::try_from(i128::from(end) - i128::from(start) + 1).map_err(|_| {
                Error::config(format!("the option '{prefix}.end' = '{end}' lies before its start {start}"))
            })?;
            context.rows_max = context.rows_max.into_iter().chain([rows]).min();
        }
        Ok(Self::Sequence { start })
    }

    fn time(prefix: &str, wish: Wish, context: &Context<'_>) -> Result<Self> {
        let option = |name: &str| format!("{prefix}.{name}");
        let micros = |name: &str| {
            let length = context.options.duration(&option(name))?;
            Ok::<_, Error>(length.map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
        };
        let start_us = match context.options.get(&option("start")) {
            None => START_US,
            Some(text) => {
                let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
                let time = parse(&StringArray::from(vec![text]), &micros, &option("start"))?;
                cast(&time, &DataType::Int64)?.as_primitive::<Int64Type>().value(0)
            }
        };
        if wish == Wish::Random {
            return Ok(Self::Past { start_us, max_past_us: micros("max-past")?.unwrap_or(0) });
        }
        let step_us = micros("step")?.map_or(context.step_us, |step| step as f64);
        Ok(Self::Time { start_us, step_us, jitter_us: micros("jitter")?.unwrap_or(0) })
    }
}

/// The smallest and the largest value of a type that counts.
fn range_of(data_type: &DataType) -> Option<(i128, i128)> {
    Some(match data_type {
        DataType::Int8 => (i8::MIN.into(), i8::MAX.into()),
        DataType::Int16 => (i16::MIN.into(), i16::MAX.into()),
        DataType::Int32 => (i32::MIN.into(), i32::MAX.into()),
        DataType::Int64 => (i64::MIN.into(), i64::MAX.into()),
        DataType::UInt8 => (0, u8::MAX.into()),
        DataType::UInt16 => (0, u16::MAX.into()),
        DataType::UInt32 => (0, u32::MAX.into()),
        DataType::UInt64 => (0, i64::MAX.into()),
        DataType::Decimal128(precision, _) => (0, 10i128.pow(u32::from(*precision)) - 1),
        // 1970 to 2070.
        DataType::Date32 => (0, 36_524),
        DataType::Time32(TimeUnit::Second) => (0, 86_399),
        DataType::Time32(_) => (0, 86_399_999),
        DataType::Time64(TimeUnit::Nanosecond) => (0, 86_399_999_999_999),
        DataType::Time64(_) => (0, 86_399_999_999),
        _ => return None,
    })
}

/// A bound of a random number, as the type counts it: the units of a decimal's last digit, a date's days.
fn integer(options: &Options, name: &str, data_type: &DataType, default: i128) -> Result<i128> {
    let Some(text) = options.get(name) else { return Ok(default) };
    let value = parse(&StringArray::from(vec![text.trim()]), data_type, name)?;
    if let DataType::Decimal128(..) = data_type {
        return Ok(value.as_primitive::<Decimal128Type>().value(0));
    }
    let number = match data_type {
        DataType::Date32 | DataType::Time32(_) => cast(&cast(&value, &DataType::Int32)?, &DataType::Int64)?,
        _ => cast(&value, &DataType::Int64)?,
    };
    Ok(number.as_primitive::<Int64Type>().value(0).into())
}

/// The texts as values of a type.
fn parse(texts: &StringArray, data_type: &DataType, option: &str) -> Result<ArrayRef> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let parsed_type = match data_type {
        DataType::Timestamp(unit, Some(_)) => &DataType::Timestamp(*unit, None),
        other => other,
    };
    let parsed = cast_with_options(texts, parsed_type, &strict)
        .map_err(|e| Error::config(format!("the option '{option}': no value of type {data_type}")).caused_by(e))?;
    if parsed_type == data_type { Ok(parsed) } else { converted(&parsed, data_type) }
}

fn unsupported(field: &Field, data_type: &DataType) -> Error {
    Error::config(format!("the column '{}' of type {data_type} can't be generated: declare another type", field.name()))
}

fn out_of_order(prefix: &str) -> Error {
    Error::config(format!("the option '{prefix}.min' is larger than '{prefix}.max': swap them"))
}
