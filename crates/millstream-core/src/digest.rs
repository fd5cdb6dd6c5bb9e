//! The digest of a batch: a multiset hash over its rows.
//!
//! It is the wrapping sum of one hash a row, so it doesn't depend on the order of rows; and a row's hash is
//! taken over values, so it doesn't depend on how they are encoded: `Utf8`, `LargeUtf8` and `Utf8View`, a
//! dictionary or plain values, `List` or `LargeList`, integers and floats of any width give the same. What
//! counts as the same value is fixed for good, because digests are stored and compared across releases:
//! every NaN is one value, `-0.0` is `0.0`, and NULL is a value of its own, other than zero or empty.

use std::fmt;

use arrow::array::types::ArrowPrimitiveType;
use arrow::array::{Array, ArrayRef, AsArray, OffsetSizeTrait, PrimitiveArray, RecordBatch};
use arrow::datatypes::{DataType, IntervalDayTime, IntervalMonthDayNano, i256};
use arrow::downcast_primitive_array;
use arrow::row::{RowConverter, SortField};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};

/// A sum of row hashes: it does not depend on the order of rows, nor on how strings are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(pub u64);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Digest {
    /// The digest of these rows. No rows give zero.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Query`] where a column's type has no digest (a union).
    pub fn of<'a>(batches: impl IntoIterator<Item = &'a RecordBatch>) -> Result<Self> {
        let mut sum = 0u64;
        let mut hashes = Vec::new();
        for batch in batches {
            hashes.clear();
            hashes.resize(batch.num_rows(), SEED);
            for (column, field) in batch.columns().iter().zip(batch.schema_ref().fields()) {
                mix_column(column, &mut hashes).map_err(|e| e.at(format_args!("column \"{}\"", field.name())))?;
            }
            sum = hashes.iter().fold(sum, |sum, hash| sum.wrapping_add(avalanche(*hash)));
        }
        Ok(Self(sum))
    }
}

// IMPORTANT: these numbers and the functions below are part of the stored format.
const SEED: u64 = 0x243f_6a88_85a3_08d3;
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
const FOLD: u64 = 0xd6e8_feb8_6659_fd93;
const NULL: u64 = 0x6e75_6c6c_a076_1d64;

/// Takes one more value into a row's hash. Not commutative: columns can't change places unseen.
#[inline]
fn mix(hash: u64, value: u64) -> u64 {
    let wide = u128::from(hash ^ value.wrapping_mul(SPREAD)) * u128::from(FOLD);
    // A product can be zero: what the row was so far must not be forgotten by it.
    (((wide >> 64) as u64) ^ (wide as u64)).wrapping_add(hash.rotate_left(29))
}

/// The finalizer of MurmurHash3: a sum of hashes needs every bit of each to depend on every bit of the row.
#[inline]
fn avalanche(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// A fixed-width value as 64 bits in which equal values are equal.
trait Canonical {
    fn canonical(self) -> u64;
}

macro_rules! canonical {
    ($($type:ty => |$value:ident| $bits:expr),* $(,)?) => {
        $( impl Canonical for $type {
            #[inline]
            fn canonical(self) -> u64 { let $value = self; $bits }
        } )*
    };
}
canonical! {
    i8 => |v| i64::from(v) as u64,
    i16 => |v| i64::from(v) as u64,
    i32 => |v| i64::from(v) as u64,
    i64 => |v| v as u64,
    u8 => |v| u64::from(v),
    u16 => |v| u64::from(v),
    u32 => |v| u64::from(v),
    u64 => |v| v,
    i128 => |v| match i64::try_from(v) { Ok(small) => small as u64, Err(_) => xxh3_64(&v.to_le_bytes()) },
    i256 => |v| match v.to_i128() { Some(small) => small.canonical(), None => xxh3_64(&v.to_le_bytes()) },
    f64 => |v| if v.is_nan() { f64::NAN.to_bits() } else { (v + 0.0).to_bits() },
    f32 => |v| f64::from(v).canonical(),
    half::f16 => |v| f64::from(v).canonical(),
    IntervalDayTime => |v| mix(i64::from(v.days) as u64, i64::from(v.milliseconds) as u64),
    IntervalMonthDayNano =>
        |v| mix(mix(i64::from(v.months) as u64, i64::from(v.days) as u64), v.nanoseconds as u64),
}

fn mix_column(column: &dyn Array, hashes: &mut [u64]) -> Result<()> {
    downcast_primitive_array! {
        column => mix_primitive(column, hashes),
        DataType::Null => hashes.iter_mut().for_each(|hash| *hash = mix(*hash, NULL)),
        DataType::Boolean => {
            let values = column.as_boolean();
            mix_each(values, hashes, |row| u64::from(values.value(row)));
        }
        DataType::Utf8 => mix_bytes(column.as_string::<i32>(), hashes, |a, row| a.value(row).as_bytes()),
        DataType::LargeUtf8 => mix_bytes(column.as_string::<i64>(), hashes, |a, row| a.value(row).as_bytes()),
        DataType::Utf8View => mix_bytes(column.as_string_view(), hashes, |a, row| a.value(row).as_bytes()),
        DataType::Binary => mix_bytes(column.as_binary::<i32>(), hashes, |a, row| a.value(row)),
        DataType::LargeBinary => mix_bytes(column.as_binary::<i64>(), hashes, |a, row| a.value(row)),
        DataType::BinaryView => mix_bytes(column.as_binary_view(), hashes, |a, row| a.value(row)),
        DataType::FixedSizeBinary(_) => mix_bytes(column.as_fixed_size_binary(), hashes, |a, row| a.value(row)),
        DataType::Dictionary(_, _) => mix_dictionary(column, hashes)?,
        DataType::Struct(_) => mix_struct(column, hashes)?,
        DataType::List(_) => mix_list::<i32>(column, hashes)?,
        DataType::LargeList(_) => mix_list::<i64>(column, hashes)?,
        DataType::FixedSizeList(_, size) => {
            let (size, list) = (usize::try_from(*size).unwrap_or(0), column.as_fixed_size_list());
            mix_items(column, list.values(), hashes, |row| row * size..(row + 1) * size)?;
        }
        DataType::Map(_, _) => {
            let map = column.as_map();
            let entries: ArrayRef = std::sync::Arc::new(map.entries().clone());
            let ends = map.value_offsets();
            mix_items(column, &entries, hashes, |row| ends[row] as usize..ends[row + 1] as usize)?;
        }
        _ => mix_rows(column, hashes)?,
    }
    Ok(())
}

#[inline]
fn mix_each(column: &dyn Array, hashes: &mut [u64], value: impl Fn(usize) -> u64) {
    match column.logical_nulls().filter(|nulls| nulls.null_count() > 0) {
        None => hashes.iter_mut().enumerate().for_each(|(row, hash)| *hash = mix(*hash, value(row))),
        Some(nulls) => hashes.iter_mut().enumerate().for_each(|(row, hash)| {
            *hash = mix(*hash, if nulls.is_null(row) { NULL } else { value(row) });
        }),
    }
}

fn mix_primitive<T: ArrowPrimitiveType<Native: Canonical>>(column: &PrimitiveArray<T>, hashes: &mut [u64]) {
    let values = column.values();
    mix_each(column, hashes, |row| values[row].canonical());
}

fn mix_bytes<A: Array>(column: &A, hashes: &mut [u64], bytes: impl Fn(&A, usize) -> &[u8]) {
    mix_each(column, hashes, |row| xxh3_64(bytes(column, row)));
}

/// The hash of each value by itself, before it meets its row.
fn value_hashes(values: &dyn Array) -> Result<Vec<u64>> {
    let mut hashes = vec![SEED; values.len()];
    mix_column(values, &mut hashes)?;
    Ok(hashes)
}

fn mix_dictionary(column: &dyn Array, hashes: &mut [u64]) -> Result<()> {
    // A row must hash as its plain value does, and takes its hash as it stands so far: so the values are laid
    // out row by row. Dictionaries are small and rare in an output.
    let dictionary = column.as_any_dictionary();
    let plain = arrow::compute::take(dictionary.values(), dictionary.keys(), None)?;
    mix_column(&plain, hashes)
}

fn mix_struct(column: &dyn Array, hashes: &mut [u64]) -> Result<()> {
    let mut inner = vec![SEED; column.len()];
    for child in column.as_struct().columns() {
        mix_column(child, &mut inner)?;
    }
    mix_each(column, hashes, |row| inner[row]);
    Ok(())
}

fn mix_list<O: OffsetSizeTrait>(column: &dyn Array, hashes: &mut [u64]) -> Result<()> {
    let list = column.as_list::<O>();
    let ends = list.value_offsets();
    mix_items(column, list.values(), hashes, |row| ends[row].as_usize()..ends[row + 1].as_usize())
}

fn mix_items(
    column: &dyn Array,
    items: &dyn Array,
    hashes: &mut [u64],
    of_row: impl Fn(usize) -> std::ops::Range<usize>,
) -> Result<()> {
    let items = value_hashes(items)?;
    mix_each(column, hashes, |row| {
        let items = items.get(of_row(row)).unwrap_or_default();
        items.iter().fold(mix(SEED, items.len() as u64), |hash, item| mix(hash, *item))
    });
    Ok(())
}

/// What is left (list views, run-end encoding) goes through Arrow's row format.
fn mix_rows(column: &dyn Array, hashes: &mut [u64]) -> Result<()> {
    let refused = |e| Error::query(format!("a value of type {} has no digest", column.data_type())).caused_by(e);
    let field = SortField::new(column.data_type().clone());
    let rows = RowConverter::new(vec![field])
        .and_then(|converter| converter.convert_columns(&[arrow::array::make_array(column.to_data())]))
        .map_err(refused)?;
    for (hash, row) in hashes.iter_mut().zip(rows.iter()) {
        *hash = mix(*hash, xxh3_64(row.data()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::*;
    use arrow::datatypes::{Field, Int32Type, Schema};

    use super::*;

    fn of(columns: Vec<ArrayRef>) -> Digest {
        let fields: Vec<_> =
            columns.iter().enumerate().map(|(i, c)| Field::new(format!("c{i}"), c.data_type().clone(), true)).collect();
        Digest::of([&RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()]).unwrap()
    }

    fn one(column: impl Array + 'static) -> Digest {
        of(vec![Arc::new(column)])
    }

    fn hex(digest: Digest) -> String {
        digest.to_string()
    }

    /// These are stored in logs: a change here makes every log of an earlier release diverge.
    #[test]
    fn the_digests_of_values_are_pinned_down() {
        assert_eq!(hex(Digest::of([]).unwrap()), "0000000000000000");
        let seen = [
            one(Int64Array::from(vec![0])),
            one(Int64Array::from(vec![-1])),
            one(Int64Array::from(vec![None::<i64>])),
            one(Float64Array::from(vec![f64::NAN])),
            one(Float64Array::from(vec![1.5])),
            one(StringArray::from(vec![""])),
            one(StringArray::from(vec!["millstream"])),
            one(BooleanArray::from(vec![true])),
            one(Decimal128Array::from(vec![i128::MAX])),
            one(ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1), None])])),
        ];
        assert_eq!(seen.map(hex), GOLDEN);
    }

    const GOLDEN: [&str; 10] = [
        "c1d80323c3b449cb",
        "6e1ce4bda167421b",
        "51fba4d3dd719479",
        "303fc8e43e68fd5f",
        "84c3e12c8edf04ec",
        "62b88504aedf80e4",
        "72f4b61d79457c2d",
        "b022c799e84eb436",
        "064c8555abed3e2f",
        "f093b21cc97c1fa6",
    ];

    #[test]
    fn every_nan_is_one_value_and_minus_zero_is_zero_but_null_is_neither() {
        let nan = one(Float64Array::from(vec![f64::NAN]));
        assert_eq!(nan, one(Float64Array::from(vec![-f64::NAN])));
        assert_eq!(nan, one(Float64Array::from(vec![f64::from_bits(0x7ff8_0000_0000_0001)])));
        assert_eq!(nan, one(Float32Array::from(vec![f32::NAN])));
        let zero = one(Float64Array::from(vec![0.0]));
        assert_eq!(zero, one(Float64Array::from(vec![-0.0])));
        let null = one(Float64Array::from(vec![None]));
        assert!(null != zero && null != nan);
        assert_ne!(one(StringArray::from(vec![Some("")])), one(StringArray::from(vec![None::<&str>])));
    }

    #[test]
    fn the_encoding_of_a_string_and_the_order_of_rows_say_nothing() {
        let texts = [Some("a"), None, Some("a string that is too long for a view to hold"), Some("")];
        let plain = one(StringArray::from(texts.to_vec()));
        assert_eq!(plain, one(LargeStringArray::from(texts.to_vec())));
        assert_eq!(plain, one(StringViewArray::from(texts.to_vec())));
        assert_eq!(plain, one(texts.into_iter().collect::<DictionaryArray<Int32Type>>()));
        assert_eq!(plain, one(texts.into_iter().rev().collect::<StringArray>()));
        let sliced = StringArray::from(vec![Some("x"), Some("a"), None, texts[2], Some(""), Some("y")]).slice(1, 4);
        assert_eq!(plain, one(sliced));
    }

    #[test]
    fn rows_cut_into_other_batches_give_the_same_and_a_row_twice_does_not() {
        let batch = |values: Vec<i64>| {
            RecordBatch::try_from_iter([("v", Arc::new(Int64Array::from(values)) as ArrayRef)]).unwrap()
        };
        let whole = Digest::of([&batch(vec![1, 2, 3])]).unwrap();
        assert_eq!(whole, Digest::of([&batch(vec![3]), &batch(vec![]), &batch(vec![2, 1])]).unwrap());
        assert_ne!(whole, Digest::of([&batch(vec![1, 2, 3, 3])]).unwrap());
    }

    #[test]
    fn columns_that_change_places_are_noticed() {
        let (a, b): (ArrayRef, ArrayRef) = (Arc::new(Int64Array::from(vec![1])), Arc::new(Int64Array::from(vec![2])));
        assert_ne!(of(vec![a.clone(), b.clone()]), of(vec![b.clone(), a.clone()]));
        let nested = |x: &ArrayRef, y: &ArrayRef| {
            let field = |name| Arc::new(Field::new(name, x.data_type().clone(), true));
            one(StructArray::from(vec![(field("x"), x.clone()), (field("y"), y.clone())]))
        };
        assert_ne!(nested(&a, &b), nested(&b, &a));
    }

    #[test]
    fn lists_differ_by_their_items_their_order_and_where_they_end() {
        let lists = |rows: Vec<Option<Vec<Option<i32>>>>| one(ListArray::from_iter_primitive::<Int32Type, _, _>(rows));
        let seen = [
            lists(vec![None]),
            lists(vec![Some(vec![])]),
            lists(vec![Some(vec![None])]),
            lists(vec![Some(vec![Some(1), Some(2)])]),
            lists(vec![Some(vec![Some(2), Some(1)])]),
            lists(vec![Some(vec![Some(1)]), Some(vec![Some(2)])]),
        ];
        for (i, a) in seen.iter().enumerate() {
            assert!(seen[i + 1..].iter().all(|b| a != b), "{i}: {seen:?}");
        }
        let large = LargeListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), Some(2)])]);
        assert_eq!(one(large), seen[3]);
    }
}
