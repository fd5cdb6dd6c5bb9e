//! Arguments and answers, row by row.

use std::borrow::Cow;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanBuilder, Int64Builder, StringViewBuilder};
use datafusion::arrow::datatypes::{Date32Type, Int64Type};
use datafusion::common::Result;

/// The text of the n-th argument in a row.
pub fn text(args: &[ArrayRef], n: usize, row: usize) -> Option<&str> {
    let array = args.get(n)?.as_string_view_opt()?;
    array.is_valid(row).then(|| array.value(row))
}

/// The bytes of the n-th argument in a row.
pub fn bytes(args: &[ArrayRef], n: usize, row: usize) -> Option<&[u8]> {
    let array = args.get(n)?.as_binary_view_opt()?;
    array.is_valid(row).then(|| array.value(row))
}

/// The whole number of the n-th argument in a row.
pub fn integer(args: &[ArrayRef], n: usize, row: usize) -> Option<i64> {
    let array = args.get(n)?.as_primitive_opt::<Int64Type>()?;
    array.is_valid(row).then(|| array.value(row))
}

/// The days since 1970 of the n-th argument in a row.
pub fn day(args: &[ArrayRef], n: usize, row: usize) -> Option<i32> {
    let array = args.get(n)?.as_primitive_opt::<Date32Type>()?;
    array.is_valid(row).then(|| array.value(row))
}

/// How many rows there are.
pub fn count(args: &[ArrayRef]) -> usize {
    args.first().map_or(0, |a| a.len())
}

/// Answers each row with text.
pub fn texts<'a>(
    args: &'a [ArrayRef],
    mut answer: impl FnMut(usize) -> Result<Option<Cow<'a, str>>>,
) -> Result<ArrayRef> {
    let mut out = StringViewBuilder::with_capacity(count(args));
    for row in 0..count(args) {
        out.append_option(answer(row)?);
    }
    Ok(Arc::new(out.finish()))
}

/// Answers each row with a whole number.
pub fn integers(args: &[ArrayRef], mut answer: impl FnMut(usize) -> Result<Option<i64>>) -> Result<ArrayRef> {
    let mut out = Int64Builder::with_capacity(count(args));
    for row in 0..count(args) {
        out.append_option(answer(row)?);
    }
    Ok(Arc::new(out.finish()))
}

/// Answers each row with true or false.
pub fn conditions(args: &[ArrayRef], mut answer: impl FnMut(usize) -> Result<Option<bool>>) -> Result<ArrayRef> {
    let mut out = BooleanBuilder::with_capacity(count(args));
    for row in 0..count(args) {
        out.append_option(answer(row)?);
    }
    Ok(Arc::new(out.finish()))
}
