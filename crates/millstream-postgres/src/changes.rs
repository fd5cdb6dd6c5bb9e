//! What a batch means for a table with a key: the last word about each key is what counts.

use arrow::array::{Array, ArrayRef, AsArray, Float32Array, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use millstream_core::{Error, Result};

use crate::encode::writer;
use crate::table::Target;
use crate::wire::Wire;

/// The rows that are stored, and those whose keys are deleted. No key is in both, nor in one of them twice. Both are in
/// the order of their keys' bytes, which is mostly that of the table's index: neighbours are looked up one after the other,
/// in half the time that keys in any order take.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) puts: Vec<usize>,
    pub(crate) deletes: Vec<usize>,
}

/// The last word about each key of these rows; without `ops` each row is stored.
///
/// # Errors
/// [`millstream_core::ErrorKind::Sink`] where a key is NULL.
pub(crate) fn last_per_key(
    columns: &[ArrayRef],
    key: &[usize],
    targets: &[Target],
    ops: Option<&ArrayRef>,
    rows: usize,
) -> Result<Changes> {
    let ops = ops.map(|ops| cast(ops, &DataType::Utf8)).transpose()?;
    let ops = ops.as_ref().map(|ops| ops.as_string::<i32>());
    let (all, ends) = key_bytes(columns, key, targets, rows)?;
    let key_of = |row: usize| {
        let start = row.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or(0);
        ends.get(row).and_then(|end| all.get(start..*end)).unwrap_or_default()
    };
    let mut sorted: Vec<usize> = (0..rows).collect();
    // Stable: of the rows of one key the last one stays last.
    sorted.sort_by_key(|row| key_of(*row));
    let of_one_key = sorted.chunk_by(|a, b| key_of(*a) == key_of(*b));
    let winners: Vec<usize> = of_one_key.filter_map(|rows| rows.last().copied()).collect();
    let Some(ops) = ops else { return Ok(Changes { puts: winners, deletes: vec![] }) };
    let mut changes = Changes::default();
    for row in winners {
        match ops.value(row) {
            "+I" | "+U" => changes.puts.push(row),
            "-U" | "-D" => changes.deletes.push(row),
            other => return Err(Error::bug(format!("a changelog has a row of kind '{other}'"))),
        }
    }
    Ok(changes)
}

/// The key of each row in the server's own form, so that what is equal there is equal here; and where each ends.
fn key_bytes(columns: &[ArrayRef], key: &[usize], targets: &[Target], rows: usize) -> Result<(Vec<u8>, Vec<usize>)> {
    let mut parts = Vec::with_capacity(key.len());
    for index in key {
        let (Some(column), Some(target)) = (columns.get(*index), targets.get(*index)) else {
            return Err(Error::bug("a key column is not among the columns"));
        };
        if column.null_count() > 0 {
            return Err(Error::sink(format!(
                "the column '{}' of the PRIMARY KEY is NULL in a row: leave such rows out with WHERE {} IS NOT NULL",
                target.name, target.name
            )));
        }
        parts.push((equal_floats(column, &target.wire), &target.wire));
    }
    let writers = parts.iter().map(|(column, wire)| writer(column, wire)).collect::<Result<Vec<_>>>()?;
    let mut bytes = Vec::new();
    let mut ends = Vec::with_capacity(rows);
    for row in 0..rows {
        for write in &writers {
            write(row, &mut bytes)?;
        }
        ends.push(bytes.len());
    }
    Ok((bytes, ends))
}

/// The server holds -0.0 and 0.0 for equal, and every NaN.
fn equal_floats(column: &ArrayRef, wire: &Wire) -> ArrayRef {
    match wire {
        Wire::Float4 => match column.as_primitive_opt::<Float32Type>() {
            Some(values) => {
                let values: Float32Array = values.unary(|v| if v.is_nan() { f32::NAN } else { v + 0.0 });
                std::sync::Arc::new(values)
            }
            None => column.clone(),
        },
        Wire::Float8 => match column.as_primitive_opt::<Float64Type>() {
            Some(values) => {
                let values: Float64Array = values.unary(|v| if v.is_nan() { f64::NAN } else { v + 0.0 });
                std::sync::Arc::new(values)
            }
            None => column.clone(),
        },
        _ => column.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};
    use tokio_postgres::types::Type;

    use super::*;

    fn changes(key: ArrayRef, wire: Wire, ops: Option<Vec<&str>>) -> Changes {
        let target =
            Target { name: "k".into(), wire, one: Type::INT8, many: Type::INT8_ARRAY, oid: 20, not_null: true };
        let rows = key.len();
        let ops = ops.map(|ops| Arc::new(StringArray::from(ops)) as ArrayRef);
        last_per_key(&[key], &[0], &[target], ops.as_ref(), rows).unwrap()
    }

    #[test]
    fn the_last_word_about_a_key_counts() {
        let key = Arc::new(Int64Array::from(vec![1, 2, 1, 3, 2, 3]));
        let ops = vec!["+I", "+I", "-D", "-U", "-U", "+U"];
        assert_eq!(changes(key.clone(), Wire::Int8, Some(ops)), Changes { puts: vec![5], deletes: vec![2, 4] });
        assert_eq!(changes(key, Wire::Int8, None), Changes { puts: vec![2, 4, 5], deletes: vec![] });
    }

    #[test]
    fn rows_are_stored_in_the_order_of_their_keys() {
        let key = Arc::new(Int64Array::from(vec![7, 300, 2, 7, 5]));
        let ops = vec!["+I", "+I", "-D", "+U", "-D"];
        assert_eq!(changes(key, Wire::Int8, Some(ops)), Changes { puts: vec![3, 1], deletes: vec![2, 4] });
    }

    #[test]
    fn keys_that_the_server_holds_for_equal_are_one() {
        let floats = Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN]));
        assert_eq!(changes(floats, Wire::Float8, None).puts, [1, 3]);
        let uuids = StringArray::from(vec!["5B2C7A52-4F2D-4C0E-9D53-0C9F6A1F6B11", "5b2c7a524f2d4c0e9d530c9f6a1f6b11"]);
        assert_eq!(changes(Arc::new(uuids), Wire::Uuid, None).puts, [1]);
    }
}
