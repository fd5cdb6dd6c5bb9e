//! What changed between two answers of the same groups.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt64Array, make_comparator,
};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{SortOptions, filter_record_batch, take};
use arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, Result as DfResult};

/// An error of the state, inside of a plan.
pub(super) fn state_error(error: millstream_core::Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// Where two answers of the same groups differ.
#[derive(Debug)]
pub(super) struct Changed {
    /// The group of each old row.
    pub places: UInt64Array,
    gone: BooleanArray,
    come: BooleanArray,
}

impl Changed {
    /// Compares the old answers of `places` with the new ones of all `total` groups. A group without an old
    /// row has changed. NULL equals NULL, and NaN itself.
    pub fn between(old: &[ArrayRef], new: &[ArrayRef], places: &[usize], total: usize) -> DfResult<Self> {
        let aligned = places.len() == total;
        let places = UInt64Array::from_iter_values(places.iter().map(|place| *place as u64));
        let mut gone = vec![false; places.len()];
        for (old, new) in old.iter().zip(new).filter(|_| !places.is_empty()) {
            // Places ascend: where every group has an old row, they are all groups in order.
            let new = if aligned { Arc::clone(new) } else { take(new, &places, None)? };
            if old.data_type().is_nested() {
                let compare = make_comparator(old, &new, SortOptions::default())?;
                gone.iter_mut().enumerate().for_each(|(i, gone)| *gone |= compare(i, i) != Ordering::Equal);
            } else {
                let column = distinct(old, &new)?;
                gone.iter_mut().zip(column.values()).for_each(|(gone, differs)| *gone |= differs);
            }
        }
        let mut come = vec![true; total];
        for (place, gone) in places.values().iter().zip(&gone) {
            if let Some(come) = come.get_mut(*place as usize) {
                *come = *gone;
            }
        }
        Ok(Self { places, gone: BooleanArray::from(gone), come: BooleanArray::from(come) })
    }

    /// The same, where only these groups are still there: the others have no new row, whatever is known of it.
    pub fn without(mut self, there: &BooleanArray) -> Self {
        let gone = self.gone.values().iter().zip(self.places.values());
        let gone = gone.map(|(gone, place)| gone || !there.value(*place as usize)).collect::<Vec<_>>();
        self.gone = BooleanArray::from(gone);
        let come = self.come.values().iter().zip(there.values()).map(|(come, there)| come && there);
        self.come = BooleanArray::from(come.collect::<Vec<_>>());
        self
    }

    /// Which of the new rows come.
    pub fn come(&self) -> &BooleanArray {
        &self.come
    }

    /// Out of the old rows and the new ones, those that go and come.
    pub fn rows(&self, old: &RecordBatch, new: &RecordBatch) -> DfResult<Vec<RecordBatch>> {
        let changes = [filter_record_batch(old, &self.gone)?, filter_record_batch(new, &self.come)?];
        Ok(changes.into_iter().filter(|b| b.num_rows() > 0).collect())
    }
}

/// Rows that all have the same weight.
pub(super) fn weighted(
    schema: &SchemaRef,
    columns: impl Iterator<Item = ArrayRef>,
    rows: usize,
    weight: i64,
) -> DfResult<RecordBatch> {
    let mut columns: Vec<ArrayRef> = columns.collect();
    columns.push(Arc::new(Int64Array::from_value(weight, rows)));
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}
