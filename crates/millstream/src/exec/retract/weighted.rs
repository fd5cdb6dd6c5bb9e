//! Counts and sums of rows that have weights.
//!
//! Sums wrap as DataFusion's do, and wrapping arithmetic can be taken back exactly.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, Int64Array, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    ArrowNativeTypeOp, DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, Int64Type, UInt64Type,
    i256,
};
use datafusion::common::{Result as DfResult, internal_datafusion_err, internal_err};

use super::super::memory::Memory;

/// The rows that one aggregate takes in: with their weights, and the values of its arguments.
pub struct Rows {
    /// The group of each.
    pub groups: Vec<usize>,
    /// How often each comes, or goes.
    pub weights: Vec<i64>,
    /// The arguments.
    pub values: Vec<ArrayRef>,
}

/// What was kept of the groups that have been there.
#[derive(Clone, Copy)]
pub struct Before<'a> {
    /// The groups.
    pub groups: &'a [usize],
    /// The columns, a row for each of them.
    pub columns: &'a [ArrayRef],
}

/// How many rows of each of `total` groups have arguments that are not NULL.
///
/// # Errors
/// Where a row goes that never came, unless the query forgets.
pub fn counts(before: Before<'_>, rows: &Rows, total: usize, memory: &Memory) -> DfResult<Int64Array> {
    let nulls = rows
        .values
        .iter()
        .fold(None, |nulls: Option<NullBuffer>, v| NullBuffer::union(nulls.as_ref(), v.logical_nulls().as_ref()));
    let mut counts = start::<Int64Type>(before, 0, total)?;
    for (row, (group, weight)) in rows.groups.iter().zip(&rows.weights).enumerate() {
        if nulls.as_ref().is_none_or(|n| n.is_valid(row))
            && let Some(count) = counts.get_mut(*group)
        {
            *count += weight;
        }
    }
    for count in counts.iter_mut().filter(|n| **n < 0) {
        memory.unknown_row("an aggregate")?;
        *count = 0;
    }
    Ok(Int64Array::from(counts))
}

/// The sums of each of `total` groups, of a type that wraps: as they were, and with `values` as often as the rows come.
pub fn sums(kept: &DataType, before: Before<'_>, rows: &Rows, values: &ArrayRef, total: usize) -> DfResult<ArrayRef> {
    match kept {
        DataType::Int64 => sums_of::<Int64Type>(before, rows, values, total, |w| w),
        DataType::UInt64 => sums_of::<UInt64Type>(before, rows, values, total, |w| w as u64),
        DataType::Decimal32(..) => sums_of::<Decimal32Type>(before, rows, values, total, |w| w as i32),
        DataType::Decimal64(..) => sums_of::<Decimal64Type>(before, rows, values, total, |w| w),
        DataType::Decimal128(..) => sums_of::<Decimal128Type>(before, rows, values, total, i128::from),
        DataType::Decimal256(..) => {
            sums_of::<Decimal256Type>(before, rows, values, total, |w| i256::from_i128(i128::from(w)))
        }
        other => internal_err!("a sum of {other} does not wrap"),
    }
}

fn sums_of<T: ArrowPrimitiveType>(
    before: Before<'_>,
    rows: &Rows,
    values: &ArrayRef,
    total: usize,
    native: impl Fn(i64) -> T::Native,
) -> DfResult<ArrayRef> {
    let mut sums = start::<T>(before, 1, total)?;
    let data_type = values.data_type().clone();
    let Some(values) = values.as_primitive_opt::<T>() else {
        return internal_err!("what is summed is of type {data_type}");
    };
    for (row, (group, weight)) in rows.groups.iter().zip(&rows.weights).enumerate() {
        if values.is_valid(row)
            && let Some(sum) = sums.get_mut(*group)
        {
            *sum = sum.add_wrapping(values.value(row).mul_wrapping(native(*weight)));
        }
    }
    Ok(Arc::new(PrimitiveArray::<T>::from_iter_values(sums).with_data_type(data_type)))
}

/// What was kept in a column, for all groups: 0 where there was nothing.
fn start<T: ArrowPrimitiveType>(before: Before<'_>, column: usize, total: usize) -> DfResult<Vec<T::Native>> {
    let mut sums = vec![T::Native::default(); total];
    if before.groups.is_empty() {
        return Ok(sums);
    }
    let kept = before.columns.get(column).and_then(|c| c.as_primitive_opt::<T>());
    let kept = kept.ok_or_else(|| internal_datafusion_err!("what was kept of a group is of another type"))?;
    for (group, value) in before.groups.iter().zip(kept.values()) {
        if let Some(sum) = sums.get_mut(*group) {
            *sum = *value;
        }
    }
    Ok(sums)
}
