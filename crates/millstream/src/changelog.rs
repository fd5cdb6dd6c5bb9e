//! A changelog: rows that come and go.
//!
//! Between operators it is a Z-set: rows with a last column [`WEIGHT`], an `Int64` that is never null, where
//! `-1` takes a row away and `+1` adds one. An insert-only stream has no such column. For a sink, and for a
//! person, it is shown by operations, in a first column [`OP`]:
//!
//! ```text
//! op | word  | n
//! +I | stone | 1      the row is new
//! -U | stone | 1      the old row of a key, followed by
//! +U | stone | 2      its new one
//! -D | stone | 2      the row is gone
//! ```
//!
//! The sum of all changes is the answer; the order of the changes within a batch is not part of it, but a row
//! is always taken away before its successor is added.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{cast, concat_batches, take_arrays, take_record_batch};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use datafusion::arrow::row::{RowConverter, Rows, SortField};
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use millstream_core::{Error, Result};

/// The name of the last column of a changelog between operators.
pub const WEIGHT: &str = millstream_io::format::WEIGHT;

/// The name of the first column of a changelog that is shown.
pub const OP: &str = "op";

/// The schema with a weight column added at its end.
pub fn with_weight(schema: &Schema) -> SchemaRef {
    let mut fields = schema.fields().to_vec();
    fields.push(Arc::new(Field::new(WEIGHT, DataType::Int64, false)));
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// The schema without the weight column at its end, where it has one.
pub fn without_weight(schema: &SchemaRef) -> SchemaRef {
    if !is_weighted(schema) {
        return Arc::clone(schema);
    }
    let fields: Vec<_> = schema.fields().iter().take(schema.fields().len() - 1).cloned().collect();
    Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// Whether rows of this schema are a changelog between operators.
pub fn is_weighted(schema: &Schema) -> bool {
    schema.fields().last().is_some_and(|f| f.name() == WEIGHT)
}

/// The last row of each key, in the order of the rows: what a table of upserts holds after these. A row whose weight,
/// where there is one at the end, is negative takes the row of its key away.
///
/// # Errors
/// A fault of the caller, where the key is none of the columns.
pub fn last_of_keys(rows: &RecordBatch, key: &[usize]) -> Result<RecordBatch> {
    let weights = is_weighted(rows.schema_ref()).then(|| split(rows)).transpose()?;
    let keys = rows.project(key)?;
    // Zero is one key, however it is signed.
    let one_zero = |column: &ArrayRef| -> Result<ArrayRef> {
        if !column.data_type().is_floating() {
            return Ok(Arc::clone(column));
        }
        let wide = cast(column, &DataType::Float64)?;
        Ok(Arc::new(wide.as_primitive::<Float64Type>().unary::<_, Float64Type>(|value| value + 0.0)))
    };
    let keys = encode(&keys.columns().iter().map(one_zero).collect::<Result<Vec<_>>>()?)?;
    let mut last: HashMap<&[u8], usize> = HashMap::with_capacity(rows.num_rows());
    for row in 0..rows.num_rows() {
        last.insert(keys.as_ref().map_or(&[][..], |keys| keys.row(row).data()), row);
    }
    let comes = |row: &usize| weights.as_ref().is_none_or(|(_, weights)| weights.value(*row) > 0);
    let mut last: Vec<u32> = last.into_values().filter(comes).map(row_number).collect::<Result<_>>()?;
    last.sort_unstable();
    Ok(take_record_batch(rows, &UInt32Array::from(last))?)
}

/// The rows of a changelog that are there in the end, each as often as it is.
///
/// # Errors
/// [`millstream_core::ErrorKind::Input`] where a row was taken away more often than it came.
pub fn net_rows(batches: &[RecordBatch], schema: &SchemaRef) -> Result<RecordBatch> {
    let changes = concat_batches(schema, &consolidate(batches, schema)?)?;
    let (values, weights) = split(&changes)?;
    let mut taken = vec![];
    for (row, weight) in weights.values().iter().enumerate() {
        let Ok(times) = usize::try_from(*weight) else {
            let shown = values
                .columns()
                .iter()
                .map(|c| array_value_to_string(c, row))
                .collect::<std::result::Result<Vec<_>, _>>()?;
            return Err(Error::input(format!(
                "the row ({}) was taken away {} more often than it came: the changelog is not whole, or the old rows in it \
                 are not; begin it with a snapshot, or declare the table's PRIMARY KEY",
                shown.join(", "),
                match weight.unsigned_abs() {
                    1 => "once".to_string(),
                    times => format!("{times} times"),
                }
            )));
        };
        taken.extend(std::iter::repeat_n(row_number(row)?, times));
    }
    Ok(take_record_batch(&changes, &UInt32Array::from(taken))?)
}

/// One row for each row that is left when all weights of equal rows are added; none where they cancel out.
///
/// Rows that go come before rows that come, and else in the order of their first appearance.
///
/// # Errors
/// A fault of the caller, where the last column is no weight.
pub fn consolidate(batches: &[RecordBatch], schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let all = concat_batches(schema, batches)?;
    let (values, weights) = split(&all)?;
    if all.num_rows() < 2 && weights.values().iter().all(|w| *w != 0) {
        return Ok(if all.num_rows() == 0 { vec![] } else { vec![all] });
    }
    let rows = encode(values.columns())?;
    let mut sums: Vec<(u32, i64)> = Vec::new();
    let mut places: HashMap<&[u8], usize> = HashMap::with_capacity(all.num_rows());
    for (row, weight) in weights.values().iter().enumerate() {
        let key = rows.as_ref().map_or(&[][..], |rows| rows.row(row).data());
        match places.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(sums.len());
                sums.push((row_number(row)?, *weight));
            }
            Entry::Occupied(entry) => {
                if let Some((_, sum)) = sums.get_mut(*entry.get()) {
                    *sum += weight;
                }
            }
        }
    }
    sums.retain(|(_, weight)| *weight != 0);
    sums.sort_by_key(|(_, weight)| *weight > 0);
    if sums.is_empty() {
        return Ok(vec![]);
    }
    let rows = UInt32Array::from_iter_values(sums.iter().map(|(row, _)| *row));
    let weights = Int64Array::from_iter_values(sums.iter().map(|(_, weight)| *weight));
    let mut columns = take_arrays(values.columns(), &rows, None)?;
    columns.push(Arc::new(weights));
    Ok(vec![RecordBatch::try_new(Arc::clone(schema), columns)?])
}

/// The schema of [`to_ops`], out of the schema of a changelog between operators.
pub fn ops_schema(weighted: &Schema) -> SchemaRef {
    let mut fields = vec![Arc::new(Field::new(OP, DataType::Utf8, false))];
    fields.extend(weighted.fields().iter().filter(|f| f.name() != WEIGHT).cloned());
    Arc::new(Schema::new_with_metadata(fields, weighted.metadata().clone()))
}

/// The changes of a batch by operations: one row for each time that a row comes or goes.
///
/// With the columns of a key, a row that goes and one that comes under the same key are an update, `-U` and
/// `+U` next to each other; without one they are `-D` and `+I`. All changes of a batch must be given at once.
///
/// # Errors
/// A fault of the caller, where the last column is no weight or the key is none of the columns.
pub fn to_ops(batch: &RecordBatch, key: Option<&[usize]>) -> Result<RecordBatch> {
    let (values, weights) = split(batch)?;
    let mut changes: Vec<(&str, u32)> = Vec::with_capacity(batch.num_rows());
    match key {
        None => {
            for (row, weight) in weights.values().iter().enumerate() {
                let op = if *weight < 0 { "-D" } else { "+I" };
                let row = row_number(row)?;
                changes.extend((0..weight.unsigned_abs()).map(|_| (op, row)));
            }
        }
        Some(key) => {
            for (gone, come) in by_key(&values, weights, key)? {
                let pairs = gone.len().min(come.len());
                for (old, new) in gone.iter().zip(&come) {
                    changes.extend([("-U", *old), ("+U", *new)]);
                }
                changes.extend(gone.iter().skip(pairs).map(|row| ("-D", *row)));
                changes.extend(come.iter().skip(pairs).map(|row| ("+I", *row)));
            }
        }
    }
    let taken = take_record_batch(&values, &UInt32Array::from_iter_values(changes.iter().map(|(_, row)| *row)))?;
    let ops = StringArray::from_iter_values(changes.iter().map(|(op, _)| *op));
    let mut columns: Vec<ArrayRef> = vec![Arc::new(ops)];
    columns.extend(taken.columns().iter().cloned());
    Ok(RecordBatch::try_new(ops_schema(&batch.schema()), columns)?)
}

/// The inverse of [`to_ops`]: the rows with their weights, one by one.
///
/// # Errors
/// A fault of the caller, where the first column holds no operations.
pub fn from_ops(batch: &RecordBatch) -> Result<RecordBatch> {
    let ops = batch.columns().first().and_then(|c| c.as_string_opt::<i32>());
    let ops = ops.ok_or_else(|| Error::bug("a changelog that is shown begins with its operations"))?;
    let weights = ops.iter().map(|op| match op {
        Some("+I" | "+U") => Ok(1),
        Some("-D" | "-U") => Ok(-1),
        other => Err(Error::bug(format!("{other:?} is no operation of a changelog: +I, -U, +U or -D"))),
    });
    let weights = weights.collect::<Result<Vec<i64>>>()?;
    let fields: Vec<_> = batch.schema().fields().iter().skip(1).cloned().collect();
    let schema = with_weight(&Schema::new_with_metadata(fields, batch.schema().metadata().clone()));
    let mut columns: Vec<ArrayRef> = batch.columns().iter().skip(1).cloned().collect();
    columns.push(Arc::new(Int64Array::from(weights)));
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// The columns of a changelog without their weight, and the weight.
fn split(batch: &RecordBatch) -> Result<(RecordBatch, &Int64Array)> {
    let weights = batch.columns().last().and_then(|c| c.as_primitive_opt::<Int64Type>());
    let weights = weights.filter(|w| w.null_count() == 0 && is_weighted(batch.schema_ref()));
    let weights = weights.ok_or_else(|| Error::bug(format!("a changelog ends with the column {WEIGHT}")))?;
    let rest: Vec<usize> = (0..batch.num_columns().saturating_sub(1)).collect();
    Ok((batch.project(&rest)?, weights))
}

/// The rows that go and come, by key, in the order in which the keys first appear.
fn by_key(values: &RecordBatch, weights: &Int64Array, key: &[usize]) -> Result<Vec<(Vec<u32>, Vec<u32>)>> {
    let rows = encode(values.project(key)?.columns())?;
    let mut places: HashMap<&[u8], usize> = HashMap::with_capacity(values.num_rows());
    let mut changes: Vec<(Vec<u32>, Vec<u32>)> = Vec::new();
    for (row, weight) in weights.values().iter().enumerate() {
        let key = rows.as_ref().map_or(&[][..], |rows| rows.row(row).data());
        let place = *places.entry(key).or_insert(changes.len());
        if place == changes.len() {
            changes.push(Default::default());
        }
        let row = row_number(row)?;
        if let Some((gone, come)) = changes.get_mut(place) {
            let side = if *weight < 0 { gone } else { come };
            side.extend((0..weight.unsigned_abs()).map(|_| row));
        }
    }
    Ok(changes)
}

/// Rows as bytes that are equal where the rows are; `None` where there are no columns.
fn encode(columns: &[ArrayRef]) -> Result<Option<Rows>> {
    if columns.is_empty() {
        return Ok(None);
    }
    let fields = columns.iter().map(|c| SortField::new(c.data_type().clone())).collect();
    Ok(Some(RowConverter::new(fields)?.convert_columns(columns)?))
}

fn row_number(row: usize) -> Result<u32> {
    u32::try_from(row).map_err(|_| Error::bug("a batch has more than 4 billion changes"))
}

#[cfg(test)]
mod tests;
