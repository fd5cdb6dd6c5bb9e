//! The stable hash of a key, and the key group it belongs to.
//!
//! The hash decides which thread or machine owns a key, so it must be the same in every version: the tests
//! pin golden values. It does not depend on how a value is encoded: a string hashes alike as `Utf8`,
//! `LargeUtf8`, `Utf8View` and dictionary, an integer alike in every width, `-0.0` like `0.0`, and every NaN
//! like every other.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, IntervalUnit, UInt64Type};
use millstream_core::{Error, Result};
use xxhash_rust::xxh3::xxh3_64;

/// Key groups of a query, unless it says otherwise.
pub const DEFAULT_KEY_GROUPS: u16 = 128;

const NULL: u64 = 0x9AE1_6A3B_2F90_404F;
const SEED: u64 = 0xC3A5_C85C_97CB_3127;

/// Spreads every bit of a word over all of it: the finalizer of MurmurHash3.
#[inline]
pub(crate) fn mix(mut word: u64) -> u64 {
    word ^= word >> 33;
    word = word.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    word ^= word >> 33;
    word = word.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    word ^ (word >> 33)
}

#[inline]
fn fold(hash: u64, value: u64) -> u64 {
    mix(hash.rotate_left(23) ^ value).wrapping_add(hash)
}

/// The hash of each of `rows` keys.
///
/// # Errors
/// [`millstream_core::ErrorKind::Query`] for a column of a type that is no key.
pub fn hash_keys(columns: &[ArrayRef], rows: usize) -> Result<Vec<u64>> {
    let mut hashes = vec![SEED; rows];
    for column in columns {
        if column.len() != rows {
            return Err(Error::bug(format!("a key column has {} rows, not {rows}", column.len())));
        }
        for (hash, value) in hashes.iter_mut().zip(values(column)?) {
            *hash = fold(*hash, value);
        }
    }
    Ok(hashes)
}

/// The key group of a hash, of so many groups.
pub fn key_group(hash: u64, groups: u16) -> u16 {
    ((u128::from(hash) * u128::from(groups)) >> 64) as u16
}

/// One word for each value of a column.
fn values(column: &ArrayRef) -> Result<Vec<u64>> {
    use DataType::*;
    let mut words: Vec<u64> = match column.data_type() {
        Null => vec![NULL; column.len()],
        Boolean => column.as_boolean().values().iter().map(u64::from).collect(),
        Int64 => column.as_primitive::<Int64Type>().values().iter().map(|v| *v as u64).collect(),
        UInt64 => column.as_primitive::<UInt64Type>().values().to_vec(),
        Int8 | Int16 | Int32 | UInt8 | UInt16 | UInt32 => return values(&cast(column, &Int64)?),
        Date32 | Time32(_) | Interval(IntervalUnit::YearMonth) => {
            return values(&cast(&cast(column, &Int32)?, &Int64)?);
        }
        Date64 | Time64(_) | Timestamp(..) | Duration(_) => return values(&cast(column, &Int64)?),
        Float16 | Float32 => return values(&cast(column, &Float64)?),
        Float64 => column.as_primitive::<Float64Type>().values().iter().map(|v| float(*v)).collect(),
        Utf8 => column.as_string::<i32>().iter().map(|v| text(v.map(str::as_bytes))).collect(),
        LargeUtf8 => column.as_string::<i64>().iter().map(|v| text(v.map(str::as_bytes))).collect(),
        Utf8View => column.as_string_view().iter().map(|v| text(v.map(str::as_bytes))).collect(),
        Binary => column.as_binary::<i32>().iter().map(text).collect(),
        LargeBinary => column.as_binary::<i64>().iter().map(text).collect(),
        BinaryView => column.as_binary_view().iter().map(text).collect(),
        FixedSizeBinary(_) => column.as_fixed_size_binary().iter().map(text).collect(),
        Dictionary(_, value) => return values(&cast(column, value)?),
        RunEndEncoded(_, value) => return values(&cast(column, value.data_type())?),
        Struct(_) => hash_keys(column.as_struct().columns(), column.len())?,
        List(_) => lists(column.as_list::<i32>().iter())?,
        LargeList(_) => lists(column.as_list::<i64>().iter())?,
        FixedSizeList(..) => lists(column.as_fixed_size_list().iter())?,
        Map(..) => {
            let maps = column.as_map();
            lists((0..maps.len()).map(|i| maps.is_valid(i).then(|| std::sync::Arc::new(maps.value(i)) as ArrayRef)))?
        }
        wide if wide.primitive_width().is_some() => wide_values(column)?,
        other => return Err(no_key(other)),
    };
    if let Some(nulls) = column.logical_nulls() {
        for (word, valid) in words.iter_mut().zip(nulls.iter()) {
            if !valid {
                *word = NULL;
            }
        }
    }
    Ok(words)
}

fn float(value: f64) -> u64 {
    if value.is_nan() {
        f64::NAN.to_bits()
    } else if value == 0.0 {
        0
    } else {
        value.to_bits()
    }
}

fn text(value: Option<&[u8]>) -> u64 {
    value.map_or(NULL, xxh3_64)
}

/// Decimals and intervals: their little-endian bytes.
fn wide_values(column: &ArrayRef) -> Result<Vec<u64>> {
    let data = column.to_data();
    let width = column.data_type().primitive_width().unwrap_or(16);
    let bytes = data.buffers().first().and_then(|b| b.get(data.offset() * width..)).unwrap_or_default();
    Ok(bytes.chunks_exact(width).take(column.len()).map(xxh3_64).collect())
}

fn lists(items: impl Iterator<Item = Option<ArrayRef>>) -> Result<Vec<u64>> {
    items
        .map(|list| match list {
            Some(list) => Ok(values(&list)?.into_iter().fold(mix(list.len() as u64), fold)),
            None => Ok(NULL),
        })
        .collect()
}

fn no_key(data_type: &DataType) -> Error {
    Error::query(format!("a column of type {data_type} cannot be a key of state: cast it to another type"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::*;

    use super::*;

    fn hashes(column: impl Array + 'static) -> Vec<u64> {
        let column: ArrayRef = Arc::new(column);
        hash_keys(std::slice::from_ref(&column), column.len()).unwrap()
    }

    /// These values decide which key group owns a key. They never change.
    #[test]
    fn golden_values_are_what_they_always_were() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("null", new_null_array(&DataType::Int64, 1)),
            ("0", Arc::new(Int64Array::from(vec![0]))),
            ("-1", Arc::new(Int64Array::from(vec![-1]))),
            ("0.0", Arc::new(Float64Array::from(vec![0.0]))),
            ("1.5", Arc::new(Float64Array::from(vec![1.5]))),
            ("NaN", Arc::new(Float64Array::from(vec![f64::NAN]))),
            ("true", Arc::new(BooleanArray::from(vec![true]))),
            ("''", Arc::new(StringArray::from(vec![""]))),
            ("'millstream'", Arc::new(StringArray::from(vec!["millstream"]))),
            ("decimal 12.34", Arc::new(Decimal128Array::from(vec![1234]))),
            ("timestamp 1", Arc::new(TimestampMicrosecondArray::from(vec![1]))),
            ("[1, 2]", list(vec![Some(vec![Some(1), Some(2)])])),
        ];
        let mut found: Vec<String> = Vec::new();
        for (name, column) in &columns {
            found.push(format!("{name} {:016x}", hash_keys(std::slice::from_ref(column), 1).unwrap()[0]));
        }
        let pair = [Arc::clone(&columns[1].1), Arc::clone(&columns[8].1)];
        found.push(format!("0, 'millstream' {:016x}", hash_keys(&pair, 1).unwrap()[0]));
        found.push(format!("no columns {:016x}", hash_keys(&[], 1).unwrap()[0]));
        assert_eq!(found, GOLDEN);
    }

    const GOLDEN: &[&str] = &[
        "null ef18b3d816ba0849",
        "0 f62b870a20a17451",
        "-1 f6adc451dd46f143",
        "0.0 f62b870a20a17451",
        "1.5 72173f2edb95a237",
        "NaN 29cfc08966885e0d",
        "true f4a2bf3577ad4ff2",
        "'' 609de846eec549cd",
        "'millstream' ee861372bdcd5ff4",
        "decimal 12.34 aa135b0ea2ac5f2c",
        "timestamp 1 f4a2bf3577ad4ff2",
        "[1, 2] 06adcf7b07989c0c",
        "0, 'millstream' d35e866657f9d729",
        "no columns c3a5c85c97cb3127",
    ];

    fn list(rows: Vec<Option<Vec<Option<i32>>>>) -> ArrayRef {
        Arc::new(ListArray::from_iter_primitive::<arrow::datatypes::Int32Type, _, _>(rows))
    }

    #[test]
    fn equal_values_hash_alike_in_every_encoding() {
        let texts = vec![Some("a"), None, Some(""), Some("more than twelve bytes"), Some("a")];
        let plain = hashes(StringArray::from(texts.clone()));
        assert_eq!(plain[0], plain[4]);
        assert_eq!(plain, hashes(LargeStringArray::from(texts.clone())));
        assert_eq!(plain, hashes(StringViewArray::from(texts.clone())));
        assert_eq!(plain, hashes(texts.into_iter().collect::<DictionaryArray<arrow::datatypes::Int8Type>>()));
        assert_eq!(hashes(Float64Array::from(vec![0.0])), hashes(Float64Array::from(vec![-0.0])));
        assert_eq!(hashes(Float64Array::from(vec![f64::NAN])), hashes(Float64Array::from(vec![-f64::NAN])));
        assert_eq!(hashes(Int8Array::from(vec![-5])), hashes(Int64Array::from(vec![-5])));
        assert_eq!(hashes(new_null_array(&DataType::Utf8, 1)), hashes(Int64Array::from(vec![None])));
        let sliced = StringArray::from(vec!["x", "a"]).slice(1, 1);
        assert_eq!(hashes(sliced)[0], plain[0]);
    }

    #[test]
    fn consecutive_keys_spread_evenly_over_the_groups() {
        let mut counts = [0; DEFAULT_KEY_GROUPS as usize];
        for hash in hashes(Int64Array::from_iter_values(0..128_000)) {
            counts[usize::from(key_group(hash, DEFAULT_KEY_GROUPS))] += 1;
        }
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
    }
}
