//! Pairs of rows: gathered in chunks, tested by the residual condition, and put out.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array,
};
use arrow::compute::{filter, filter_record_batch, take_arrays};
use arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::common::Result as DfResult;

use super::super::accumulate::evaluate_filter;
use super::{Plan, Preserve};

/// Pairs that are looked at together.
const CHUNK: usize = 1 << 14;

/// A row of the left, a row of the right, and how often the pair comes.
pub type Pair = (u32, u32, i64);

/// A row of one side, how often it comes, and whether it has a partner.
#[derive(Clone, Copy, Debug)]
pub struct Single {
    pub row: u32,
    pub weight: i64,
    pub matched: bool,
}

#[derive(Default)]
struct Chunk {
    left: Vec<u32>,
    right: Vec<u32>,
    weights: Vec<i64>,
}

impl Plan {
    /// Puts out the pairs that pass the condition; `met` hears of each.
    pub(super) fn product(
        &self,
        left: &[ArrayRef],
        right: &[ArrayRef],
        pairs: impl Iterator<Item = Pair>,
        output: &mut Vec<RecordBatch>,
        mut met: impl FnMut(Pair),
    ) -> DfResult<()> {
        let mut chunk = Chunk::default();
        for (l, r, weight) in pairs {
            chunk.left.push(l);
            chunk.right.push(r);
            chunk.weights.push(weight);
            if chunk.left.len() == CHUNK {
                self.flush(left, right, std::mem::take(&mut chunk), output, &mut met)?;
            }
        }
        self.flush(left, right, chunk, output, &mut met)
    }

    fn flush(
        &self,
        left: &[ArrayRef],
        right: &[ArrayRef],
        chunk: Chunk,
        output: &mut Vec<RecordBatch>,
        met: &mut impl FnMut(Pair),
    ) -> DfResult<()> {
        let rows = chunk.left.len();
        if rows == 0 {
            return Ok(());
        }
        let (l, r) = (UInt32Array::from(chunk.left), UInt32Array::from(chunk.right));
        let mut columns = take_arrays(left, &l, None)?;
        columns.extend(take_arrays(right, &r, None)?);
        let mut pairs = batch(&self.pair, columns, rows)?;
        let mut weights = Int64Array::from(chunk.weights);
        match &self.join.filter {
            None => {}
            Some(condition) => {
                let mask = evaluate_filter(condition, &pairs)?;
                mask.values().set_indices().for_each(|at| met((l.value(at), r.value(at), weights.value(at))));
                if self.pairs && mask.true_count() < rows {
                    (pairs, weights) = filtered(&pairs, &weights, &mask)?;
                }
            }
        }
        if self.pairs && pairs.num_rows() > 0 {
            output.push(self.weighted(pairs.columns().to_vec(), weights)?);
        }
        Ok(())
    }

    /// Puts out rows of one side as the join shows them.
    pub(super) fn singles(
        &self,
        side: usize,
        columns: &[ArrayRef],
        rows: &[Single],
        output: &mut Vec<RecordBatch>,
    ) -> DfResult<()> {
        for rows in rows.chunks(CHUNK) {
            let count = rows.len();
            let picks = UInt32Array::from_iter_values(rows.iter().map(|r| r.row));
            let mut own = take_arrays(columns, &picks, None)?;
            match self.preserves(side) {
                Some(Preserve::Padded) => {
                    let other = self.columns.get(1 - side).into_iter().flat_map(|c| c.fields().iter());
                    let nulls: Vec<ArrayRef> = other.map(|f| new_null_array(f.data_type(), count)).collect();
                    own = if side == 0 {
                        own.into_iter().chain(nulls).collect()
                    } else {
                        nulls.into_iter().chain(own).collect()
                    };
                }
                Some(Preserve::Marked) => {
                    own.push(Arc::new(BooleanArray::from_iter(rows.iter().map(|r| Some(r.matched)))));
                }
                _ => {}
            }
            let weights = Int64Array::from_iter_values(rows.iter().map(|r| r.weight));
            output.push(self.weighted(own, weights)?);
        }
        Ok(())
    }

    fn weighted(&self, mut columns: Vec<ArrayRef>, weights: Int64Array) -> DfResult<RecordBatch> {
        let rows = weights.len();
        if self.is_changelog() {
            columns.push(Arc::new(weights));
        }
        batch(&self.output, columns, rows)
    }
}

fn filtered(pairs: &RecordBatch, weights: &Int64Array, mask: &BooleanArray) -> DfResult<(RecordBatch, Int64Array)> {
    let weights = filter(weights, mask)?;
    Ok((filter_record_batch(pairs, mask)?, weights.as_primitive::<Int64Type>().clone()))
}

/// A batch of so many rows, also where there are no columns.
pub fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> DfResult<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}
