//! Schemas and rows by seed, for the tests of the formats.

use std::sync::Arc;

use arrow::array::types::{
    Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, ListArray, MapArray, PrimitiveArray, RecordBatch,
    StringArray, StringViewArray, StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, Schema, TimeUnit};

/// splitmix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators").
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    pub(crate) fn shuffle<T>(&mut self, all: &mut [T]) {
        for n in (1..all.len()).rev() {
            all.swap(n, self.below(n + 1));
        }
    }

    /// Mostly small, sometimes any.
    fn integer(&mut self) -> i64 {
        match self.below(4) {
            0 => self.next() as i64,
            1 => *self.pick(&[0, -1, i64::MAX, i64::MIN, 1 << 53]),
            _ => self.below(2000) as i64 - 1000,
        }
    }
}

/// What the rows are for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Scope {
    /// All that our formats write and read back.
    Ours,
    /// What arrow-json reads too, and the same way.
    ArrowJson,
}

pub(crate) fn schema(rng: &mut Rng, scope: Scope) -> Arc<Schema> {
    let fields: Fields = (0..1 + rng.below(7)).map(|n| field(rng, &format!("f{n}"), scope, 2)).collect();
    Arc::new(Schema::new(fields))
}

fn field(rng: &mut Rng, name: &str, scope: Scope, depth: usize) -> Field {
    // Arrow alone knows zones only as offsets.
    let zone =
        |rng: &mut Rng| rng.one_in(2).then(|| Arc::from(if scope == Scope::ArrowJson { "+00:00" } else { "UTC" }));
    let unit = |rng: &mut Rng| {
        *rng.pick(&[TimeUnit::Second, TimeUnit::Millisecond, TimeUnit::Microsecond, TimeUnit::Nanosecond])
    };
    let data_type = match rng.below(if depth > 0 { 23 } else { 20 }) {
        0 => DataType::Boolean,
        1 => DataType::Int8,
        2 => DataType::Int16,
        3 => DataType::Int32,
        4 | 5 => DataType::Int64,
        6 => rng.pick(&[DataType::UInt8, DataType::UInt16, DataType::UInt32]).clone(),
        7 => DataType::UInt64,
        8 => DataType::Float32,
        9 => DataType::Float64,
        10 => DataType::Decimal128(38, 10),
        11 => DataType::Decimal128(9, 2),
        12 | 13 => DataType::Utf8View,
        14 => DataType::Utf8,
        15 if scope == Scope::Ours => DataType::Binary,
        16 => DataType::Date32,
        17 => DataType::Time64(*rng.pick(&[TimeUnit::Microsecond, TimeUnit::Nanosecond])),
        18 => DataType::Time32(*rng.pick(&[TimeUnit::Second, TimeUnit::Millisecond])),
        15 | 19 => DataType::Timestamp(unit(rng), zone(rng)),
        20 => {
            let fields: Fields =
                (0..1 + rng.below(3)).map(|n| field(rng, &format!("s{n}"), scope, depth - 1)).collect();
            DataType::Struct(fields)
        }
        21 => DataType::List(Arc::new(field(rng, "item", scope, depth - 1))),
        _ => {
            let entries = Fields::from(vec![
                Field::new("key", DataType::Utf8, false),
                field(rng, "value", scope, depth - 1).with_nullable(true),
            ]);
            DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries), false)), false)
        }
    };
    Field::new(name, data_type, !rng.one_in(4))
}

pub(crate) fn rows(rng: &mut Rng, schema: &Arc<Schema>, rows: usize, scope: Scope) -> RecordBatch {
    let columns = schema.fields().iter().map(|field| array(rng, field, rows, scope)).collect();
    RecordBatch::try_new(schema.clone(), columns).unwrap()
}

fn array(rng: &mut Rng, field: &Field, rows: usize, scope: Scope) -> ArrayRef {
    let nulls = field.is_nullable().then(|| (0..rows).map(|_| !rng.one_in(4)).collect::<NullBuffer>());
    macro_rules! primitive {
        ($arrow:ty, $value:expr) => {
            primitive::<$arrow>(rows, nulls, || $value)
        };
    }
    match field.data_type() {
        DataType::Boolean => Arc::new(BooleanArray::new((0..rows).map(|_| rng.one_in(2)).collect(), nulls)),
        DataType::Int8 => primitive!(Int8Type, rng.integer() as i8),
        DataType::Int16 => primitive!(Int16Type, rng.integer() as i16),
        DataType::Int32 => primitive!(Int32Type, rng.integer() as i32),
        DataType::Int64 => primitive!(Int64Type, rng.integer()),
        DataType::UInt8 => primitive!(UInt8Type, rng.integer() as u8),
        DataType::UInt16 => primitive!(UInt16Type, rng.integer() as u16),
        DataType::UInt32 => primitive!(UInt32Type, rng.integer() as u32),
        DataType::UInt64 => primitive!(UInt64Type, rng.integer() as u64),
        DataType::Float32 => primitive!(Float32Type, float(rng, scope) as f32),
        DataType::Float64 => primitive!(Float64Type, float(rng, scope)),
        DataType::Decimal128(precision, scale) => {
            let limit = 10i128.pow(u32::from(*precision));
            let values = primitive::<Decimal128Type>(rows, nulls, || {
                let any = i128::from(rng.next() as i64) * i128::from(rng.next() >> 1);
                if rng.one_in(2) { any % limit } else { any % 1000 }
            });
            use arrow::array::AsArray;
            let values = values.as_primitive::<Decimal128Type>().clone();
            Arc::new(values.with_precision_and_scale(*precision, *scale).unwrap())
        }
        DataType::Utf8View => {
            let texts: StringViewArray = (0..rows).map(|_| Some(text(rng))).collect();
            Arc::new(StringViewArray::new(texts.views().clone(), texts.data_buffers().to_vec(), nulls))
        }
        DataType::Utf8 => {
            let texts: StringArray = (0..rows).map(|_| Some(text(rng))).collect();
            Arc::new(StringArray::new(texts.offsets().clone(), texts.values().clone(), nulls))
        }
        DataType::Binary => {
            let bytes: BinaryArray = (0..rows).map(|_| Some(text(rng).into_bytes())).collect();
            Arc::new(BinaryArray::new(bytes.offsets().clone(), bytes.values().clone(), nulls))
        }
        DataType::Date32 => primitive!(Date32Type, rng.below(100_000) as i32 - 30_000),
        DataType::Time32(TimeUnit::Second) => primitive!(Time32SecondType, rng.below(86_400) as i32),
        DataType::Time32(_) => primitive!(Time32MillisecondType, rng.below(86_400_000) as i32),
        DataType::Time64(TimeUnit::Microsecond) => primitive!(Time64MicrosecondType, rng.below(86_400_000_000) as i64),
        DataType::Time64(_) => primitive!(Time64NanosecondType, rng.below(86_400_000_000_000) as i64),
        DataType::Timestamp(unit, zone) => {
            use arrow::array::AsArray;
            // From 1938 to 2065.
            let seconds = rng.below(3_000_000_000) as i64 - 1_000_000_000;
            let mut next = |per_second: i64| {
                let whole = rng.one_in(3);
                let fraction = if whole { 0 } else { rng.below(per_second as usize) as i64 };
                (seconds + rng.below(1_000_000) as i64) * per_second + fraction
            };
            macro_rules! timestamp {
                ($arrow:ty, $per_second:expr) => {{
                    let values = primitive::<$arrow>(rows, nulls, || next($per_second));
                    Arc::new(values.as_primitive::<$arrow>().clone().with_timezone_opt(zone.clone()))
                }};
            }
            match unit {
                TimeUnit::Second => timestamp!(TimestampSecondType, 1),
                TimeUnit::Millisecond => timestamp!(TimestampMillisecondType, 1_000),
                TimeUnit::Microsecond => timestamp!(TimestampMicrosecondType, 1_000_000),
                TimeUnit::Nanosecond => timestamp!(TimestampNanosecondType, 1_000_000_000),
            }
        }
        DataType::Struct(fields) => {
            let columns = fields.iter().map(|field| array(rng, field, rows, scope)).collect();
            Arc::new(StructArray::new(fields.clone(), columns, nulls))
        }
        DataType::List(item) => {
            let lengths: Vec<usize> = (0..rows).map(|_| rng.below(4)).collect();
            let values = array(rng, item, lengths.iter().sum(), scope);
            Arc::new(ListArray::new(item.clone(), OffsetBuffer::from_lengths(lengths), values, nulls))
        }
        DataType::Map(entries, sorted) => {
            let DataType::Struct(fields) = entries.data_type() else { unreachable!() };
            let lengths: Vec<usize> = (0..rows).map(|_| rng.below(4)).collect();
            let keys: Vec<String> =
                lengths.iter().flat_map(|n| (0..*n).map(|k| format!("{k}{}", text(rng))).collect::<Vec<_>>()).collect();
            let keys: ArrayRef = Arc::new(StringArray::from(keys));
            let values = array(rng, &fields[1], keys.len(), scope);
            let entry_rows = StructArray::new(fields.clone(), vec![keys, values], None);
            let offsets = OffsetBuffer::from_lengths(lengths);
            Arc::new(MapArray::new(entries.clone(), offsets, entry_rows, nulls, *sorted))
        }
        other => unreachable!("{other}"),
    }
}

fn primitive<T: ArrowPrimitiveType>(
    rows: usize,
    nulls: Option<NullBuffer>,
    mut value: impl FnMut() -> T::Native,
) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new((0..rows).map(|_| value()).collect(), nulls))
}

fn float(rng: &mut Rng, scope: Scope) -> f64 {
    match rng.below(6) {
        0 if scope == Scope::Ours => *rng.pick(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY]),
        0 | 1 => *rng.pick(&[0.0, -0.0, 0.1, 1e-7, 123_456.789, 1e22]),
        2 => f64::from(f32::from_bits(rng.next() as u32 & 0x7f7f_ffff)),
        3 => rng.below(1_000_000) as f64 / 100.0,
        _ => (rng.next() as i64) as f64 / 1e9,
    }
}

pub(crate) fn text(rng: &mut Rng) -> String {
    const WORDS: [&str; 20] = [
        "",
        "a",
        "null",
        "NULL",
        "NaN",
        "\"",
        "\\",
        "ü",
        "日本",
        "😀",
        "\n",
        "\r",
        "\t",
        "\u{1}",
        "\0",
        ",",
        "#",
        "'",
        " ",
        "a longer piece of text",
    ];
    (0..rng.below(5)).map(|_| *rng.pick(&WORDS)).collect()
}
