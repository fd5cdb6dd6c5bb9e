//! Joins with a table as of a time: each row of the left side, with the rows of the table that it meets.
//!
//! - [`TableJoinExec`]: a table that is read whole. Its rows are state, replaced when another version of it comes.
//! - [`LookupExec`]: a table that is asked by key. What it answers is recorded ([`Asked`]), and kept no longer than the
//!   batch.
//! - [`VersionJoinExec`]: the version of each key that was valid at the event time of the row.
//!
//! In all of them the answer is insert-only: a row is paired once, in log order, and nothing that the table becomes later
//! changes that. A NULL in a key matches nothing.

mod asked;
mod lookup;
mod table;
mod version;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::compute::take_arrays;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::{JoinType, Result as DfResult};
use datafusion::physical_expr::PhysicalExpr;

use super::accumulate::{evaluate_all, evaluate_filter};
use super::grouping::Grouping;

pub use self::asked::{Asked, May, TableVersion};
pub use self::lookup::{Lookup, LookupExec};
pub use self::table::TableJoinExec;
pub use self::version::{VersionJoinExec, Versions};

/// Rows of the left that are looked at together.
const CHUNK: usize = 1 << 13;

/// What is joined, and how.
#[derive(Clone, Debug)]
pub struct AsOfJoin {
    /// The keys that must be equal: an expression over each side.
    pub on: Vec<(Arc<dyn PhysicalExpr>, Arc<dyn PhysicalExpr>)>,
    /// What else must be true, over the columns of the left side and then those of the right.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Inner or left.
    pub kind: JoinType,
    /// The columns of a pair.
    pub pair: SchemaRef,
    /// The columns of the answer: those of a pair, and in a left join those of the right may be NULL.
    pub output: SchemaRef,
}

/// The distinct keys of some rows. Rows with a NULL in their key have none.
struct Keyed {
    keys: Vec<ArrayRef>,
    count: usize,
    /// The key of each row.
    of_rows: Vec<Option<u32>>,
}

impl AsOfJoin {
    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.on.iter().flat_map(|(l, r)| [l, r]).chain(&self.filter).collect()
    }

    fn detail(&self) -> String {
        let on: Vec<_> = self.on.iter().map(|(l, r)| format!("{l} = {r}")).collect();
        format!("{} on=[{}]", self.kind, on.join(", "))
    }

    /// The columns of a key, of the types that both sides have.
    fn key_schema(&self, left: &Schema) -> DfResult<SchemaRef> {
        let field = |(n, (l, _)): (usize, &(Arc<dyn PhysicalExpr>, _))| {
            Ok(Field::new(format!("k{n}"), l.data_type(left)?, true))
        };
        Ok(Arc::new(Schema::new(self.on.iter().enumerate().map(field).collect::<DfResult<Vec<_>>>()?)))
    }

    fn left_keys(&self, rows: &RecordBatch) -> DfResult<Vec<ArrayRef>> {
        evaluate_all(&self.on.iter().map(|(l, _)| Arc::clone(l)).collect::<Vec<_>>(), rows)
    }

    fn right_keys(&self, rows: &RecordBatch) -> DfResult<Vec<ArrayRef>> {
        evaluate_all(&self.on.iter().map(|(_, r)| Arc::clone(r)).collect::<Vec<_>>(), rows)
    }

    /// Pairs each left row with right rows: `rows` answers those that may go with a left row.
    fn pairs<'a>(
        &self,
        left: &RecordBatch,
        right: &[ArrayRef],
        rows: impl Fn(usize) -> &'a [u32],
    ) -> DfResult<Vec<RecordBatch>> {
        let mut output = vec![];
        let mut start = 0;
        while start < left.num_rows() {
            let end = (start + CHUNK).min(left.num_rows());
            let candidates = (start..end).flat_map(|row| rows(row).iter().map(move |r| (row as u32, *r)));
            let mut pairs: Vec<(u32, Option<u32>)> = self.passing(left, right, candidates.collect())?;
            if self.kind == JoinType::Left {
                pairs = padded(pairs, start as u32..end as u32);
            }
            if !pairs.is_empty() {
                output.push(self.answer(left, right, &pairs)?);
            }
            start = end;
        }
        Ok(output)
    }

    /// The pairs that the condition is true for.
    fn passing(
        &self,
        left: &RecordBatch,
        right: &[ArrayRef],
        candidates: Vec<(u32, u32)>,
    ) -> DfResult<Vec<(u32, Option<u32>)>> {
        let some = |(l, r): &(u32, u32)| (*l, Some(*r));
        let Some(filter) = &self.filter else { return Ok(candidates.iter().map(some).collect()) };
        let mut passing = Vec::with_capacity(candidates.len());
        for candidates in candidates.chunks(CHUNK) {
            let l = UInt32Array::from_iter_values(candidates.iter().map(|(l, _)| *l));
            let r = UInt32Array::from_iter_values(candidates.iter().map(|(_, r)| *r));
            let mut columns = take_arrays(left.columns(), &l, None)?;
            columns.extend(take_arrays(right, &r, None)?);
            let mask = evaluate_filter(filter, &batch(&self.pair, columns, candidates.len())?)?;
            passing.extend(mask.values().set_indices().filter_map(|at| candidates.get(at)).map(some));
        }
        Ok(passing)
    }

    fn answer(&self, left: &RecordBatch, right: &[ArrayRef], pairs: &[(u32, Option<u32>)]) -> DfResult<RecordBatch> {
        let l = UInt32Array::from_iter_values(pairs.iter().map(|(l, _)| *l));
        let r: UInt32Array = pairs.iter().map(|(_, r)| *r).collect();
        let mut columns = take_arrays(left.columns(), &l, None)?;
        match r.null_count() == r.len() {
            true => columns.extend(right.iter().map(|c| new_null_array(c.data_type(), r.len()))),
            false => columns.extend(take_arrays(right, &r, None)?),
        }
        batch(&self.output, columns, pairs.len())
    }
}

/// The same pairs, and those rows of the left that have none with nothing.
fn padded(pairs: Vec<(u32, Option<u32>)>, rows: std::ops::Range<u32>) -> Vec<(u32, Option<u32>)> {
    let mut all = Vec::with_capacity(pairs.len().max(rows.len()));
    let mut pairs = pairs.into_iter().peekable();
    for row in rows {
        let before = all.len();
        while let Some(pair) = pairs.next_if(|(l, _)| *l == row) {
            all.push(pair);
        }
        if all.len() == before {
            all.push((row, None));
        }
    }
    all
}

impl Keyed {
    /// The entry of a row's key, out of one for each key.
    fn entry<'a>(&self, row: usize, of_key: &'a [Vec<u32>]) -> &'a [u32] {
        let key = self.of_rows.get(row).copied().flatten();
        key.and_then(|key| of_key.get(key as usize)).map(Vec::as_slice).unwrap_or_default()
    }

    fn of(schema: &SchemaRef, keys: &[ArrayRef], rows: usize) -> DfResult<Self> {
        let nulls =
            keys.iter().fold(None, |nulls, key| NullBuffer::union(nulls.as_ref(), key.logical_nulls().as_ref()));
        let mut grouping = Grouping::try_new(schema)?;
        let groups = grouping.intern(keys, rows)?;
        let count = grouping.len();
        let valid = |row: usize| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row));
        let of_rows = groups.iter().enumerate().map(|(row, group)| valid(row).then_some(*group as u32)).collect();
        Ok(Self { keys: grouping.keys()?, count, of_rows })
    }
}

/// A batch of so many rows, also where there are no columns.
fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> DfResult<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}
