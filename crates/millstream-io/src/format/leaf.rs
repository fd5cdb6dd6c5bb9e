//! A column of scalars while it is filled: values can be taken back, which Arrow's builders can't do.
//!
//! A record that turns out bad in its last field must leave nothing in the columns of the fields before;
//! here that is a `truncate`. Shared by JSON and CSV.

use std::sync::Arc;

use arrow::array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BinaryViewArray, BooleanArray, NullBufferBuilder, PrimitiveArray, StringViewArray,
};
use arrow::buffer::{Buffer, NullBuffer, ScalarBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, TimeUnit};
use millstream_core::{Error, Result};

/// The key of a field's metadata that says what unit numbers of its timestamps count: `s`, `ms`, `us`, `ns`.
pub const EPOCH_KEY: &str = "millstream.epoch";

/// The key of a text field's metadata that, with the value `any`, makes JSON values of other types welcome:
/// they are kept as their JSON text.
pub const JSON_KEY: &str = "millstream.json";

/// Strings or bytes: Arrow's views (see the Arrow columnar format, "Variable-size Binary View Layout") over
/// blocks that are only appended to. Taking values back leaves their bytes in the block, unseen.
#[derive(Debug, Default)]
pub(crate) struct Views {
    views: Vec<u128>,
    block: Vec<u8>,
    full: Vec<Buffer>,
}

/// Offsets of a view are 32 bits; a block ends well before.
const BLOCK_BYTES_MAX: usize = 1 << 30;

impl Views {
    /// Appends a value.
    #[inline]
    pub(crate) fn push(&mut self, value: &[u8]) {
        if value.len() <= 12 {
            let mut view = [0u8; 16];
            let (length, inline) = view.split_at_mut(4);
            length.copy_from_slice(&(value.len() as u32).to_le_bytes());
            for (to, from) in inline.iter_mut().zip(value) {
                *to = *from;
            }
            self.views.push(u128::from_le_bytes(view));
            return;
        }
        if self.block.len() + value.len() > BLOCK_BYTES_MAX {
            self.full.push(Buffer::from_vec(std::mem::take(&mut self.block)));
        }
        let offset = self.block.len() as u32;
        self.block.extend_from_slice(value);
        let prefix = value.first_chunk::<4>().copied().unwrap_or_default();
        let view = u128::from(value.len() as u32)
            | u128::from(u32::from_le_bytes(prefix)) << 32
            | (self.full.len() as u128) << 64
            | u128::from(offset) << 96;
        self.views.push(view);
    }

    fn take(&mut self) -> (ScalarBuffer<u128>, Vec<Buffer>) {
        let (rows, bytes) = (self.views.len(), self.block.len());
        let mut buffers = std::mem::take(&mut self.full);
        if bytes > 0 {
            buffers.push(Buffer::from_vec(std::mem::replace(&mut self.block, Vec::with_capacity(bytes))));
        }
        (std::mem::replace(&mut self.views, Vec::with_capacity(rows)).into(), buffers)
    }
}

/// What a scalar column holds, and what a text must be to become a value of it.
#[derive(Debug)]
pub(crate) enum Kind {
    Boolean(Vec<bool>),
    /// Every integer that fits an `i64`.
    Int {
        values: Vec<i64>,
        min: i64,
        max: i64,
    },
    UInt64(Vec<u64>),
    Float64(Vec<f64>),
    Float32(Vec<f32>),
    Decimal {
        values: Vec<i128>,
        precision: u8,
        scale: i8,
    },
    Text {
        values: Views,
        any: bool,
    },
    Binary(Views),
    Date(Vec<i64>),
    Time {
        values: Vec<i64>,
        unit: TimeUnit,
    },
    Timestamp {
        values: Vec<i64>,
        unit: TimeUnit,
        epoch: Option<TimeUnit>,
    },
}

/// A scalar column while it is filled.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) data_type: DataType,
    pub(crate) kind: Kind,
    pub(crate) nulls: NullBufferBuilder,
}

impl Leaf {
    /// An empty column for the field, or nothing where its type is no scalar that a text can be read as.
    pub(crate) fn new(field: &Field) -> Result<Option<Self>> {
        use DataType as T;
        let int = |min: i64, max: i64| Kind::Int { values: Vec::new(), min, max };
        let kind = match field.data_type() {
            T::Boolean => Kind::Boolean(Vec::new()),
            T::Int8 => int(i8::MIN.into(), i8::MAX.into()),
            T::Int16 => int(i16::MIN.into(), i16::MAX.into()),
            T::Int32 => int(i32::MIN.into(), i32::MAX.into()),
            T::Int64 => int(i64::MIN, i64::MAX),
            T::UInt8 => int(0, u8::MAX.into()),
            T::UInt16 => int(0, u16::MAX.into()),
            T::UInt32 => int(0, u32::MAX.into()),
            T::UInt64 => Kind::UInt64(Vec::new()),
            T::Float64 => Kind::Float64(Vec::new()),
            T::Float32 => Kind::Float32(Vec::new()),
            T::Decimal128(precision, scale) => {
                Kind::Decimal { values: Vec::new(), precision: *precision, scale: *scale }
            }
            T::Utf8 | T::LargeUtf8 | T::Utf8View => {
                let any = field.metadata().get(JSON_KEY).is_some_and(|value| value == "any");
                Kind::Text { values: Views::default(), any }
            }
            T::Binary | T::LargeBinary | T::BinaryView => Kind::Binary(Views::default()),
            T::Date32 => Kind::Date(Vec::new()),
            T::Time32(unit) | T::Time64(unit) => Kind::Time { values: Vec::new(), unit: *unit },
            T::Timestamp(unit, _) => Kind::Timestamp { values: Vec::new(), unit: *unit, epoch: epoch(field)? },
            _ => return Ok(None),
        };
        Ok(Some(Self { data_type: field.data_type().clone(), kind, nulls: NullBufferBuilder::new(1024) }))
    }

    pub(crate) fn push_null(&mut self) {
        match &mut self.kind {
            Kind::Boolean(values) => values.push(false),
            Kind::Int { values, .. }
            | Kind::Date(values)
            | Kind::Time { values, .. }
            | Kind::Timestamp { values, .. } => values.push(0),
            Kind::UInt64(values) => values.push(0),
            Kind::Float64(values) => values.push(0.0),
            Kind::Float32(values) => values.push(0.0),
            Kind::Decimal { values, .. } => values.push(0),
            Kind::Text { values, .. } | Kind::Binary(values) => values.push(b""),
        }
        self.nulls.append_null();
    }

    /// Takes back every value past the first `len`.
    pub(crate) fn truncate(&mut self, len: usize) {
        match &mut self.kind {
            Kind::Boolean(values) => values.truncate(len),
            Kind::Int { values, .. }
            | Kind::Date(values)
            | Kind::Time { values, .. }
            | Kind::Timestamp { values, .. } => values.truncate(len),
            Kind::UInt64(values) => values.truncate(len),
            Kind::Float64(values) => values.truncate(len),
            Kind::Float32(values) => values.truncate(len),
            Kind::Decimal { values, .. } => values.truncate(len),
            Kind::Text { values, .. } | Kind::Binary(values) => values.views.truncate(len),
        }
        self.nulls.truncate(len);
    }

    /// The array of everything since the last call.
    pub(crate) fn finish(&mut self) -> Result<ArrayRef> {
        let nulls = self.nulls.finish().filter(|nulls| nulls.null_count() > 0);
        match &mut self.kind {
            Kind::Boolean(values) => {
                let array: ArrayRef = Arc::new(BooleanArray::new(values.as_slice().into(), nulls));
                values.clear();
                Ok(array)
            }
            Kind::Int { values, .. }
            | Kind::Date(values)
            | Kind::Time { values, .. }
            | Kind::Timestamp { values, .. } => integers(&self.data_type, take(values), nulls),
            Kind::UInt64(values) => Ok(primitive::<UInt64Type>(take(values), nulls)),
            Kind::Float64(values) => Ok(primitive::<Float64Type>(take(values), nulls)),
            Kind::Float32(values) => Ok(primitive::<Float32Type>(take(values), nulls)),
            Kind::Decimal { values, precision, scale } => {
                let array = PrimitiveArray::<Decimal128Type>::new(take(values).into(), nulls);
                Ok(Arc::new(array.with_precision_and_scale(*precision, *scale)?))
            }
            Kind::Text { values, .. } => {
                let (views, buffers) = values.take();
                as_type(Arc::new(StringViewArray::try_new(views, buffers, nulls)?), &self.data_type)
            }
            Kind::Binary(values) => {
                let (views, buffers) = values.take();
                as_type(Arc::new(BinaryViewArray::try_new(views, buffers, nulls)?), &self.data_type)
            }
        }
    }
}

/// The unit of a timestamp's numbers, where its field declares one.
fn epoch(field: &Field) -> Result<Option<TimeUnit>> {
    let Some(text) = field.metadata().get(EPOCH_KEY) else { return Ok(None) };
    match text.as_str() {
        "s" => Ok(Some(TimeUnit::Second)),
        "ms" => Ok(Some(TimeUnit::Millisecond)),
        "us" => Ok(Some(TimeUnit::Microsecond)),
        "ns" => Ok(Some(TimeUnit::Nanosecond)),
        _ => Err(Error::config(format!(
            "the field '{}' declares epoch numbers in '{text}': write one of 's', 'ms', 'us', 'ns'",
            field.name()
        ))),
    }
}

/// The values, leaving room for as many.
fn take<T>(values: &mut Vec<T>) -> Vec<T> {
    let len = values.len();
    std::mem::replace(values, Vec::with_capacity(len))
}

fn as_type(array: ArrayRef, data_type: &DataType) -> Result<ArrayRef> {
    if array.data_type() == data_type { Ok(array) } else { Ok(cast(&array, data_type)?) }
}

fn primitive<T: ArrowPrimitiveType>(values: Vec<T::Native>, nulls: Option<NullBuffer>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(values.into(), nulls))
}

/// The values were checked against the type's range when they were pushed.
macro_rules! narrow {
    ($arrow:ty, $native:ty, $values:expr, $nulls:expr) => {
        Ok(primitive::<$arrow>($values.into_iter().map(|value| value as $native).collect(), $nulls))
    };
}

fn integers(data_type: &DataType, values: Vec<i64>, nulls: Option<NullBuffer>) -> Result<ArrayRef> {
    use DataType as T;
    match data_type {
        T::Int8 => narrow!(Int8Type, i8, values, nulls),
        T::Int16 => narrow!(Int16Type, i16, values, nulls),
        T::Int32 => narrow!(Int32Type, i32, values, nulls),
        T::Int64 => Ok(primitive::<Int64Type>(values, nulls)),
        T::UInt8 => narrow!(UInt8Type, u8, values, nulls),
        T::UInt16 => narrow!(UInt16Type, u16, values, nulls),
        T::UInt32 => narrow!(UInt32Type, u32, values, nulls),
        T::Date32 => narrow!(Date32Type, i32, values, nulls),
        T::Time32(TimeUnit::Second) => narrow!(Time32SecondType, i32, values, nulls),
        T::Time32(TimeUnit::Millisecond) => narrow!(Time32MillisecondType, i32, values, nulls),
        T::Time64(TimeUnit::Microsecond) => Ok(primitive::<Time64MicrosecondType>(values, nulls)),
        T::Time64(TimeUnit::Nanosecond) => Ok(primitive::<Time64NanosecondType>(values, nulls)),
        T::Timestamp(unit, zone) => {
            let zone = zone.clone();
            let values = ScalarBuffer::from(values);
            Ok(match unit {
                TimeUnit::Second => {
                    Arc::new(PrimitiveArray::<TimestampSecondType>::new(values, nulls).with_timezone_opt(zone))
                }
                TimeUnit::Millisecond => {
                    Arc::new(PrimitiveArray::<TimestampMillisecondType>::new(values, nulls).with_timezone_opt(zone))
                }
                TimeUnit::Microsecond => {
                    Arc::new(PrimitiveArray::<TimestampMicrosecondType>::new(values, nulls).with_timezone_opt(zone))
                }
                TimeUnit::Nanosecond => {
                    Arc::new(PrimitiveArray::<TimestampNanosecondType>::new(values, nulls).with_timezone_opt(zone))
                }
            })
        }
        other => Err(Error::bug(format!("a column of integers was asked to become {other}"))),
    }
}

/// A type as SQL names it, for messages.
pub(crate) fn sql_name(data_type: &DataType) -> String {
    use DataType as T;
    match data_type {
        T::Boolean => "BOOLEAN".into(),
        T::Int8 => "TINYINT".into(),
        T::Int16 => "SMALLINT".into(),
        T::Int32 => "INT".into(),
        T::Int64 => "BIGINT".into(),
        T::UInt8 => "TINYINT UNSIGNED".into(),
        T::UInt16 => "SMALLINT UNSIGNED".into(),
        T::UInt32 => "INT UNSIGNED".into(),
        T::UInt64 => "BIGINT UNSIGNED".into(),
        T::Float32 => "FLOAT".into(),
        T::Float64 => "DOUBLE".into(),
        T::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        T::Utf8 | T::LargeUtf8 | T::Utf8View => "STRING".into(),
        T::Binary | T::LargeBinary | T::BinaryView => "BYTES".into(),
        T::Date32 => "DATE".into(),
        T::Time32(_) | T::Time64(_) => "TIME".into(),
        T::Timestamp(unit, zone) => {
            let digits = match unit {
                TimeUnit::Second => 0,
                TimeUnit::Millisecond => 3,
                TimeUnit::Microsecond => 6,
                TimeUnit::Nanosecond => 9,
            };
            format!("{}({digits})", if zone.is_some() { "TIMESTAMP_LTZ" } else { "TIMESTAMP" })
        }
        T::Struct(_) => "ROW".into(),
        T::List(_) | T::LargeList(_) => "ARRAY".into(),
        T::Map(..) => "MAP".into(),
        other => other.to_string(),
    }
}
