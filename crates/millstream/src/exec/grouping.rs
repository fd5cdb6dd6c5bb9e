//! The groups of one batch: which of its rows have equal keys.
//!
//! Groups are numbered from 0 by DataFusion's own table, so that what is equal here (NULLs, NaN, `-0.0` and
//! `0.0`) is equal in a batch query. The numbers follow the order of first rows, save where hashes collide.

use arrow::array::{ArrayRef, new_empty_array};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use datafusion::common::Result as DfResult;
use datafusion::common::utils::normalize_float_zero;
use datafusion::logical_expr::EmitTo;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use std::sync::Arc;

/// The column with one zero, as `-0.0` and `0.0` are equal in a group; a NaN equals one of the same bits only. What is
/// answered from values that are kept like this (a minimum, `array_agg`) is `0.0` where a row had `-0.0`.
pub fn canonical(column: &ArrayRef) -> ArrayRef {
    normalize_float_zero(column)
}

/// Numbers the distinct keys of a batch.
pub struct Grouping {
    schema: SchemaRef,
    /// `None` without key columns: all rows are of one group.
    values: Option<Box<dyn GroupValues>>,
}

impl Grouping {
    /// No groups; the keys have these columns. Without columns there is one group, with or without rows.
    pub fn try_new(schema: &SchemaRef) -> DfResult<Self> {
        let values = (!schema.fields().is_empty())
            .then(|| new_group_values(Arc::clone(schema), &GroupOrdering::None))
            .transpose()?;
        Ok(Self { schema: Arc::clone(schema), values })
    }

    /// The groups of so many rows.
    pub fn intern(&mut self, keys: &[ArrayRef], rows: usize) -> DfResult<Vec<usize>> {
        let mut groups = Vec::with_capacity(rows);
        match &mut self.values {
            Some(values) => values.intern(keys, &mut groups)?,
            None => groups.resize(rows, 0),
        }
        Ok(groups)
    }

    /// How many groups there are.
    pub fn len(&self) -> usize {
        self.values.as_ref().map_or(1, |v| v.len())
    }

    /// The key of every group.
    pub fn keys(self) -> DfResult<Vec<ArrayRef>> {
        let fields = self.schema.fields();
        let Some(mut values) = self.values else { return Ok(vec![]) };
        if values.is_empty() {
            return Ok(fields.iter().map(|f| new_empty_array(f.data_type())).collect());
        }
        let keys = values.emit(EmitTo::All)?.into_iter().zip(fields);
        keys.map(|(key, field)| match key.data_type() == field.data_type() {
            true => Ok(key),
            false => Ok(cast(&key, field.data_type())?),
        })
        .collect()
    }
}
